-- A task as it stands. One that a consumer of another make has ended is found by its result, and its record then
-- goes when the result does: that make knows nothing of records.
-- KEYS 1 record  2 result
-- ARGV 1 stream prefix  2 group prefix
-- Reply: {record as fields and values, queue, entry and created among them, result, whether a consumer holds the entry}
local key = KEYS[1]
local record, result = read(key, 'queue', 'state', 'entry'), redis.call('GET', KEYS[2])
local held = 0
if record.queue and not record.state then
  local stream, group = ARGV[1] .. record.queue:match('^[^:]+'), ARGV[2] .. record.queue
  local consumer = record.entry and holder(stream, group, record.entry)
  if consumer then
    if consumer ~= PARKED then held = 1 end
  elseif result and record.entry and was_read(stream, group, record.entry) then
    redis.call('HSET', key, 'state', 'completed')
    redis.call('HDEL', key, 'secret', 'due', 'failure')
    local left = redis.call('PTTL', KEYS[2])
    if left > 0 then redis.call('PEXPIRE', key, left) end
  end
end
local fields = redis.call('HGETALL', key)
for _, name in ipairs({ 'queue', 'entry', 'created' }) do
  if record[name] then
    fields[#fields + 1] = name
    fields[#fields + 1] = record[name]
  end
end
return { fields, result, held }
