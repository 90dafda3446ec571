-- Makes a dead letter a queued task again. Commands that can fail come first, and the dead letter
-- is deleted last.
--@keys record_key result_key results_index stream dead_letters deadline_index
--@args letter_entry group queue_name task_id data created_ms retries external_timeout_ms
--@args per field: field_name field_value
-- retries: '' where the number of retries is not known
-- external_timeout_ms: the time external consumers have to end the task, or ''
-- field_name, field_value: more fields of the record
-- Reply: 1 queued; 0 no such dead letter; -1 a task of that id is unfinished
local record = read_record(record_key)
if record.queue and not record.state then return -1 end
if #redis.call('XRANGE', dead_letters, letter_entry, letter_entry) == 0 then return 0 end
if redis.call('EXISTS', stream) == 0 then
  redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
end
local entry = redis.call('XADD', stream, '*', 'data', data)
redis.call('DEL', record_key, result_key)
redis.call('ZREM', results_index, task_id)
-- a lease number that no lease had before the task failed: a worker that still runs one is fenced
local lease_number = now_ms()
write_record_hash(record_key, queue_name, entry, created_ms, retries, '',
  'attempt', 0, 'turn', lease_number, all_args(field_name, field_value))
if external_timeout_ms ~= '' then
  redis.call('ZADD', deadline_index, now_ms() + external_timeout_ms, task_id)
end
redis.call('XDEL', dead_letters, letter_entry)
return 1
