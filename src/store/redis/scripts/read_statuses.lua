-- Reads the statuses of many tasks, without their payloads and results.
--@keys per task: record_key result_key
--@args stream_prefix group_prefix
-- Reply per task: {0} unknown; {1} ended; or {2, 1 if a consumer holds the entry, attempt, lease
-- number, progress}
local replies = {}
for i = 1, task_count do
  local record_key, result_key = task_keys(i)
  local record = read_record(record_key)
  if (record.queue and record.state) or redis.call('EXISTS', result_key) == 1 then
    replies[i] = { 1 }
  elseif not record.queue then
    replies[i] = { 0 }
  else
    local stream = stream_prefix .. record.queue:match('^[^:]+')
    local consumer = entry_holder(stream, group_prefix .. record.queue, record.entry)
    local is_held = record.renewed or (consumer and consumer ~= DELAYED_CONSUMER)
    replies[i] = { 2, is_held and 1 or 0, record.attempt, record.turn, record.progress }
  end
end
return replies
