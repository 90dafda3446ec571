-- Makes a task durable that is not to run yet. Nobody sees it before it is due: it is in no stream.
-- KEYS 1 record  2 stream  3 delayed index  4 delayed new tasks  5 their index
-- ARGV 1 group  2 max backlog  3 data  4 task id  5 due ms  6 ms by which others must have ended it, or ''
--      7… record fields and values
-- Reply: {1} there now, {0} was there already, {-1, waiting} refused
if redis.call('EXISTS', KEYS[1]) == 1 then return { 0 } end
local max, scheduled = tonumber(ARGV[2]), redis.call('HLEN', KEYS[4])
if redis.call('XLEN', KEYS[2]) + scheduled >= max then
  local waiting = unread(KEYS[2], ARGV[1]) + redis.call('ZCARD', KEYS[3]) + scheduled
  if waiting >= max then return { -1, waiting } end
end
redis.call('HSET', KEYS[4], ARGV[4], ARGV[3])
redis.call('ZADD', KEYS[5], ARGV[5], ARGV[4])
redis.call('HSET', KEYS[1], 'due', ARGV[5], unpack(ARGV, 7))
if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'limit', ARGV[6]) end
return { 1 }
