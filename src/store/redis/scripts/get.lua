-- A task as it stands. One that a consumer of another make has ended is found by its result, and its record then
-- goes when the result does: that make knows nothing of records.
-- KEYS 1 record  2 result
-- ARGV 1 stream prefix  2 group prefix  3 prefix of tallies
-- Reply: {what `read` gives of the record, as names and values, result, whether a consumer holds the entry}
local key = KEYS[1]
local record, result = read(key), redis.call('GET', KEYS[2])
local held = 0
if record.queue and not record.state then
  local stream, group = ARGV[1] .. record.queue:match('^[^:]+'), ARGV[2] .. record.queue
  local consumer = record.entry and holder(stream, group, record.entry)
  if consumer then
    if consumer ~= PARKED then held = 1 end
  elseif result and record.entry and was_read(stream, group, record.entry) then
    conclude(key, KEYS[2], record, ARGV[3])
  elseif record.renewed then
    held = 1
  end
end
local fields = {}
for name, value in pairs(record) do
  if value and name ~= 'packed' then
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
end
return { fields, result, held }
