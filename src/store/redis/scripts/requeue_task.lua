-- Ends a lease whose task is to be leased again: the entry stays pending, held by the placeholder
-- consumer until the task is due.
--@keys record_key stream delayed_index
--@args group entry attempt lease_number next_attempt next_lease_number
--@args delay_ms failure min_idle_ms failed_run max_history_bytes
-- next_attempt, next_lease_number: what the record has afterwards
-- failure: JSON, or ''
-- min_idle_ms: for how long the entry must have been idle, or 0
-- failed_run: the failed attempt as a line of the history
-- Reply: 1 applied, now or by an earlier call; 0 fenced
local record = read_record(record_key)
if not record.state and record.attempt == next_attempt and record.turn == next_lease_number then
  return 1
end
if not is_current_lease(record, attempt, lease_number) then return 0 end
if min_idle_ms ~= '0' then
  local _, idle_ms = entry_holder(stream, group, entry)
  if not idle_ms or idle_ms < tonumber(min_idle_ms) then return 0 end
elseif is_held_externally(stream, group, entry) then
  return 0
end
local due = now_ms() + delay_ms
expand_record(record_key, record)
redis.call('HSET', record_key, 'attempt', next_attempt, 'turn', next_lease_number, 'due', due)
if failure ~= '' then
  local history = record.history and record.history .. '\n' or ''
  if #history < tonumber(max_history_bytes) then
    history = history .. failed_run
  else
    history = record.history
  end
  redis.call('HSET', record_key, 'failure', failure, 'history', history)
end
-- there is nothing to claim where the group was destroyed: it is created again and then reads the
-- entry again
if #redis.call('XCLAIM', stream, group, DELAYED_CONSUMER, 0, entry, 'JUSTID') > 0 then
  redis.call('ZADD', delayed_index, due, entry)
else
  redis.call('HDEL', record_key, 'renewed')
end
return 1
