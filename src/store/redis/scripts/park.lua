-- Ends a lease with another to come: the entry stays pending, held by nobody, until it is due.
-- KEYS 1 record  2 stream  3 delayed index
-- ARGV 1 group  2 entry  3 attempt  4 turn  5 attempt and 6 turn afterwards
--      7 ms until it is due  8 failure, or ''  9 ms that the entry must have been idle
--      10 the failed attempt as a line of the history  11 bytes that the history may have
-- Reply: 1 applied, now or before; 0 fenced
local key, stream, group, entry = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local record = read(key)
if not record.state and record.attempt == ARGV[5] and record.turn == ARGV[6] then return 1 end
if not is_current(record, ARGV[3], ARGV[4]) then return 0 end
if ARGV[9] ~= '0' then
  local _, idle = holder(stream, group, entry)
  if not idle or idle < tonumber(ARGV[9]) then return 0 end
elseif is_taken(stream, group, entry) then
  return 0
end
local due = now_ms() + ARGV[7]
unfold(key, record)
redis.call('HSET', key, 'attempt', ARGV[5], 'turn', ARGV[6], 'due', due)
if ARGV[8] ~= '' then
  local history = record.history and record.history .. '\n' or ''
  if #history < tonumber(ARGV[11]) then history = history .. ARGV[10] else history = record.history end
  redis.call('HSET', key, 'failure', ARGV[8], 'history', history)
end
-- nothing to claim where the group was destroyed: it is made anew and reads the entry again
if #redis.call('XCLAIM', stream, group, PARKED, 0, entry, 'JUSTID') > 0 then
  redis.call('ZADD', KEYS[3], due, entry)
else
  redis.call('HDEL', key, 'renewed')
end
return 1
