-- Checks which of many tasks have ended. A result without the record of an ended task is of an
-- external consumer.
--@keys per task: record_key result_key
-- Reply per task: 0 unfinished, 1 ended, 2 unknown
local replies = {}
for i = 1, task_count do
  local record_key, result_key = task_keys(i)
  local record = read_record(record_key)
  if (record.queue and record.state) or redis.call('EXISTS', result_key) == 1 then
    replies[i] = 1
  else
    replies[i] = record.queue and 0 or 2
  end
end
return replies
