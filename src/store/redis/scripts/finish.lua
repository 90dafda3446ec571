-- Ends a leased task as completed or failed.
-- KEYS 1 record  2 stream  3 result  4 results index  5 dead letters  6 Python's retry counts
--      7 outbox
-- ARGV 1 group  2 entry  3 attempt  4 turn  5 state  6 result  7 ttl ms  8 task id  9 own channel
--      10 ms that the entry must have been idle  11 head and 12 tail of the dead letter, 13 whether its data is JSON
--      14 now, ms: the caller's clock, as in the result  15 whom its end is told to, for `post`, or ''
-- Reply: 1 applied, now or before; 0 fenced
local key, stream, result = KEYS[1], KEYS[2], KEYS[3]
local group, entry, attempt, turn, state = unpack(ARGV, 1, 5)
local record = read(key, 'queue', 'state', 'attempt', 'turn', 'notify', 'secret', 'due')
if record.state == state and record.attempt == attempt and record.turn == turn then return 1 end
if not is_current(record, attempt, turn) then return 0 end
if ARGV[10] ~= '0' then
  local _, idle = holder(stream, group, entry)
  if not idle or idle < tonumber(ARGV[10]) then return 0 end
end
-- not pending and a result: a consumer of another make took it over and ended it
if redis.call('XACK', stream, group, entry) == 0 and redis.call('EXISTS', result) == 1 then return 0 end

local now = ARGV[14]
redis.call('SET', result, ARGV[6], 'PX', ARGV[7])
redis.call('ZADD', KEYS[4], now / 1000, ARGV[8])
redis.call('HSET', key, 'state', state, 'ended', now, 'attempt', attempt, 'turn', turn)
if record.secret or record.due then redis.call('HDEL', key, 'secret', 'due', 'failure') end
redis.call('PEXPIRE', key, ARGV[7])
redis.call('HDEL', KEYS[6], entry)
if ARGV[11] ~= '' then add_dead_letter(KEYS[5], stream, entry, ARGV[11], ARGV[12], ARGV[13] == '1') end
drop(stream, entry)
if ARGV[15] ~= '' then post(KEYS[7], ARGV[8], turn, state, ARGV[15], ARGV[6], now) end
if record.notify and record.notify ~= ARGV[9] then redis.call('PUBLISH', record.notify, ARGV[8]) end
return 1
