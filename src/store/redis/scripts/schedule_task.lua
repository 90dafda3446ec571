-- Makes a task durable that is not due yet. It is in no stream, and nothing reads it, until
-- promote_due_tasks.lua puts it there.
--@keys record_key stream delayed_index result_key scheduled_tasks scheduled_index
--@keys per tally: declared_tally
--@args group max_backlog data external_timeout_ms queue_name created_ms retries own_instance_id
--@args tally delay_ms
--@args per field: field_name field_value
-- declared_tally: the tally of the task, if it has one, for the check of the keys' slots
-- external_timeout_ms: the time external consumers have to end the task once it is due, or ''
-- tally: the key that counts the task, or ''
-- field_name, field_value: more fields of the record
-- Reply: 1 added; 0 it was there before; -1 - n refused because n tasks wait
if redis.call('EXISTS', record_key, result_key) > 0 then return 0 end
local scheduled = redis.call('HLEN', scheduled_tasks)
max_backlog = tonumber(max_backlog)
if redis.call('XLEN', stream) + scheduled >= max_backlog then
  local waiting = count_unread(stream, group) + redis.call('ZCARD', delayed_index) + scheduled
  if waiting >= max_backlog then return -1 - waiting end
end
local due, id = now_ms() + delay_ms, data:match(OUR_MESSAGE_PATTERN)
redis.call('HSET', scheduled_tasks, id, data)
redis.call('ZADD', scheduled_index, due, id)
write_record_hash(record_key, queue_name, '-', created_ms, retries, own_instance_id,
  'due', due, all_args(field_name, field_value))
if tally ~= '' then increment_tally(tally, 'accepted', 1) end
if external_timeout_ms ~= '' then
  redis.call('HSET', record_key, 'limit', due + external_timeout_ms)
end
return 1
