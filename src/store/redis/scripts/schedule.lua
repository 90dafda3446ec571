-- Makes a task durable that is not to run yet. Nobody sees it before it is due: it is in no stream.
-- KEYS 1 record  2 stream  3 delayed index  4 result  5 delayed new tasks  6 their index
--      7 the tally that it is counted in, if it is
-- ARGV 1 group  2 max backlog  3 data  4 ms within which others must end it once it is due, or ''  5 queue  6 created, ms  7 retries
--      8 own channel, without its prefix  9 that tally, or ''
--      10 ms until it is due  11… more fields and values of the record
-- Reply: 1 there now, 0 was there already, -1 - n refused since n wait
if redis.call('EXISTS', KEYS[1], KEYS[4]) > 0 then return 0 end
local max, scheduled = tonumber(ARGV[2]), redis.call('HLEN', KEYS[5])
if redis.call('XLEN', KEYS[2]) + scheduled >= max then
  local waiting = unread(KEYS[2], ARGV[1]) + redis.call('ZCARD', KEYS[3]) + scheduled
  if waiting >= max then return -1 - waiting end
end
local due, id = now_ms() + ARGV[10], ARGV[3]:match('^{"task_id":"([%w_-]+)"')
redis.call('HSET', KEYS[5], id, ARGV[3])
redis.call('ZADD', KEYS[6], due, id)
make_record(KEYS[1], ARGV[5], '-', ARGV[6], ARGV[7], ARGV[8], 'due', due, unpack(ARGV, 11))
if ARGV[9] ~= '' then add_tally(ARGV[9], 'accepted', 1) end
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'limit', due + ARGV[4]) end
return 1
