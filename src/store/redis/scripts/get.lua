-- A task as it stands.
-- KEYS 1 record  2 result
-- ARGV 1 stream prefix  2 group prefix
-- Reply: {record as fields and values, result, whether a consumer holds the entry}
local record = read(KEYS[1], 'queue', 'state', 'entry')
local held = 0
if record.queue and not record.state then
  local stream = ARGV[1] .. record.queue:match('^[^:]+')
  local consumer = holder(stream, ARGV[2] .. record.queue, record.entry)
  if consumer and consumer ~= PARKED then held = 1 end
end
return { redis.call('HGETALL', KEYS[1]), redis.call('GET', KEYS[2]), held }
