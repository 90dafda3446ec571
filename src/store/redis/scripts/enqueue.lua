-- Makes a task durable.
-- KEYS 1 record  2 stream  3 delayed index  4 index of limits  5 delayed new tasks
-- ARGV 1 group  2 max backlog  3 data  4 ms by which others must have ended it, or ''  5… record fields and values
-- Reply: {1} there now, {0} was there already, {-1, waiting} refused
if redis.call('EXISTS', KEYS[1]) == 1 then return { 0 } end
local stream, group = KEYS[2], ARGV[1]
local length, max = redis.call('XLEN', stream), tonumber(ARGV[2])
local scheduled = redis.call('HLEN', KEYS[5])
if length + scheduled >= max then
  local waiting = unread(stream, group) + redis.call('ZCARD', KEYS[3]) + scheduled
  if waiting >= max then return { -1, waiting } end
end
if length == 0 and redis.call('EXISTS', stream) == 0 then
  -- before a consumer makes the group at `$` and skips what is here
  redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
end
local entry = redis.call('XADD', stream, '*', 'data', ARGV[3])
redis.call('HSET', KEYS[1], 'entry', entry, unpack(ARGV, 5))
if ARGV[4] ~= '' then redis.call('ZADD', KEYS[4], ARGV[4], (identify('', entry, ARGV[3]))) end
return { 1 }
