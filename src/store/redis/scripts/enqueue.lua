-- Makes a task durable.
-- KEYS 1 record  2 stream  3 delayed index  4 result  5 index of limits  6 delayed new tasks
--      7 where the group began, if it begins after what others have read  last: the tally that it is counted in, if it is
-- ARGV 1 group  2 max backlog  3 data  4 ms by which others must have ended it, or ''  5 queue  6 created, ms  7 retries
--      8 own channel, without its prefix  9 that tally, or ''  10… more fields and values of the record
-- Reply: {1} there now, {0} was there already, {-1, waiting} refused
if redis.call('EXISTS', KEYS[1], KEYS[4]) > 0 then return { 0 } end
local stream, group = KEYS[2], ARGV[1]
local length, max = redis.call('XLEN', stream), tonumber(ARGV[2])
local scheduled = redis.call('HLEN', KEYS[6])
if length + scheduled >= max then
  local waiting = unread(stream, group) + redis.call('ZCARD', KEYS[3]) + scheduled
  if waiting >= max then return { -1, waiting } end
end
local mark = KEYS[7] ~= ARGV[9] and KEYS[7]
if (length == 0 and redis.call('EXISTS', stream) == 0) or (mark and not group_info(stream, group)) then
  -- before a consumer makes the group at `$` and skips what is here
  make_group(stream, group, mark)
end
local entry = redis.call('XADD', stream, '*', 'data', ARGV[3])
make_record(KEYS[1], ARGV[5], entry, ARGV[6], ARGV[7], ARGV[8], unpack(ARGV, 10))
if ARGV[9] ~= '' then add_tally(ARGV[9], 'accepted', 1) end
if ARGV[4] ~= '' then redis.call('ZADD', KEYS[5], ARGV[4], ARGV[3]:match('^{"task_id":"([%w_-]+)"')) end
return { 1 }
