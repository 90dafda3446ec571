-- Cancels a task. A task that does not exist is cancelled in advance for a while: its enqueue may
-- still be under way on a connection that the caller gave up.
--@keys record_key result_key outbox
--@args ttl_ms cancel_ahead_ttl_ms task_id own_instance_id
--@args stream_prefix group_prefix delayed_index_prefix
--@args scheduled_tasks_prefix scheduled_index_prefix channel_prefix tally_prefix
-- Reply: 'done', 'running' (cancelled while a consumer held it), the state in which the task has
-- ended before, or nil where it does not exist
local record = read_record(record_key)
if not record.queue then
  local ended = read_result_head(result_key)
  if ended then return ended.state or 'completed' end
  redis.call('HSET', record_key, 'state', 'cancelled')
  redis.call('PEXPIRE', record_key, cancel_ahead_ttl_ms)
  return nil
end
if record.state then return record.state == 'cancelled' and 'done' or record.state end
if redis.call('EXISTS', result_key) == 1 then return 'completed' end
local tally = require_tally_key(tally_prefix, record)
local group = group_prefix .. record.queue
local stream, entry = stream_prefix .. record.queue:match('^[^:]+'), record.entry
local consumer = entry and entry_holder(stream, group, entry)
local data, lease_number, now = nil, (record.turn or 1) + 2, now_ms()
if entry then
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  data = found and entry_data(found[2])
  ack_and_delete(stream, group, entry)
  redis.call('ZREM', delayed_index_prefix .. group, entry)
else
  data = redis.call('HGET', scheduled_tasks_prefix .. group, task_id)
  redis.call('HDEL', scheduled_tasks_prefix .. group, task_id)
  redis.call('ZREM', scheduled_index_prefix .. group, task_id)
end
local is_running = consumer and consumer ~= DELAYED_CONSUMER
expand_record(record_key, record)
redis.call('HSET', record_key, 'state', 'cancelled', 'ended', now, 'turn', lease_number)
if is_running then redis.call('HSETNX', record_key, 'attempt', 1) end
redis.call('HDEL', record_key, 'secret', 'due', 'failure')
redis.call('PEXPIRE', record_key, ttl_ms)
if tally then increment_tally(tally, 'cancelled', 1) end
-- most tasks have no webhook, and their data is not decoded
local is_json, message = false, nil
if data and data:find('"webhook":%s*"') then is_json, message = pcall(cjson.decode, data) end
if is_json and type(message) == 'table' and type(message.webhook) == 'string' then
  local target = { target = message.webhook, owner = record.owner or nil }
  local deliveries = cjson.encode({ { 'webhook', cjson.encode(target) } })
  write_outbox_entries(outbox, task_id, lease_number, 'cancelled', deliveries, data, now)
end
if record.notify and record.notify ~= own_instance_id then
  redis.call('PUBLISH', channel_prefix .. record.notify, task_id)
end
return is_running and 'running' or 'done'
