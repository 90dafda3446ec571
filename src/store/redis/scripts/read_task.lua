-- Reads the current state of a task. A task that an external consumer has ended is recognised by
-- its result and ended here, so that its record expires with the result: external consumers know
-- nothing of records.
--@keys record_key result_key
--@args stream_prefix group_prefix tally_prefix
-- Reply: {the record as names and values, the result, 1 if a consumer holds the entry}
local record, result = read_record(record_key), redis.call('GET', result_key)
local is_held = 0
if record.queue and not record.state then
  local stream, group = stream_prefix .. record.queue:match('^[^:]+'), group_prefix .. record.queue
  local consumer = record.entry and entry_holder(stream, group, record.entry)
  if consumer then
    if consumer ~= DELAYED_CONSUMER then is_held = 1 end
  elseif result and record.entry and is_delivered_to_group(stream, group, record.entry) then
    complete_external(record_key, result_key, record, tally_prefix)
  elseif record.renewed then
    is_held = 1
  end
end
local fields = {}
for name, value in pairs(record) do
  if value and name ~= 'packed' then
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
end
return { fields, result, is_held }
