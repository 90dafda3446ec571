-- Ends leased tasks as completed or failed. Each task is handled alone: an error of one task is
-- the reply for that task. Commands that can serve many tasks at once are called once for all.
--@keys results_index outbox
--@keys per queue: stream dead_letters retry_counts
--@keys per task: record_key
--@keys per task: result_key
--@keys per tally: declared_tally
--@args channel_prefix own_instance_id tally_prefix queue_count task_count
--@args per queue: group
--@args per task: queue_position entry attempt lease_number state result ttl_ms task_id ended_ms
--@  tally_outcome extras
-- declared_tally: every tally that the script may write to, for the check of the keys' slots
-- retry_counts: the Python program's counts of reclaims by entry
-- ended_ms: by the clock of the caller, as in the result
-- extras: '', or JSON of what few tasks have: [ms for which the entry must have been idle, head and
--     tail of the dead letter or '', whether the entry's data is JSON, the deliveries of the end
--     for write_outbox_entries or '']
-- Reply per task: 1 applied, now or by an earlier call; 0 fenced; or the text of an error
local replies, first_positions, repeats = {}, {}, {}
-- the tasks that are to end: positions and entries by queue, records and deliveries by position
local ending, entries, records, deliveries = {}, {}, {}, {}

-- Usually no task of the call has ended yet, and one command for all tasks shows that.
local none_has_result = redis.call('EXISTS', all_keys(result_key)) == 0
local packed = redis.call('MGET', all_keys(record_key))

-- Whether the lease may end its task, which is then added to `ending`: nil, else the reply for it.
local function check_fence(i)
  local record_key, result_key = task_keys(i)
  local queue_position, entry, attempt, lease_number, state = task_args(i)
  if first_positions[record_key] then
    repeats[i] = first_positions[record_key]
    return 0
  end
  local q = tonumber(queue_position)
  local stream, dead_letters = queue_keys(q)
  local group = queue_args(q)
  local record = read_record(record_key, packed[i])
  if record.entry ~= entry or not is_current_lease(record, attempt, lease_number) then
    local ended = record.state and record or read_result_head(result_key)
    return ended and ended.state == state and ended.entry == entry and ended.attempt == attempt
      and ended.turn == lease_number and 1 or 0
  end
  local min_idle_ms, head, tail, is_data_json = 0, '', '', false
  local extras = task_args(i)
  if extras ~= '' then
    min_idle_ms, head, tail, is_data_json, deliveries[i] = unpack(cjson.decode(extras))
  end
  if min_idle_ms > 0 then
    local _, idle_ms = entry_holder(stream, group, entry)
    if not idle_ms or idle_ms < min_idle_ms then return 0 end
  end
  -- an entry that is not pending and has a result was taken over and ended by an external consumer
  if head ~= '' then
    if not none_has_result and not entry_holder(stream, group, entry)
      and redis.call('EXISTS', result_key) == 1 then
      return 0
    end
    -- before any other write, because it can fail: without its dead letter nothing is acknowledged
    append_dead_letter(dead_letters, stream, entry, head, tail, is_data_json)
  end
  if not none_has_result and redis.call('XACK', stream, group, entry) == 0 and head == ''
    and redis.call('EXISTS', result_key) == 1 then
    return 0
  end
  first_positions[record_key], records[i] = i, record
  if not ending[q] then ending[q], entries[q] = {}, {} end
  ending[q][#ending[q] + 1] = i
  entries[q][#entries[q] + 1] = entry
  return nil
end

local result_scores, record_keys_to_delete, ids_by_channel = {}, {}, {}
local counts_by_tally, now = {}, nil

-- Writes a task's end, once its entry is acknowledged.
local function finish(i, is_single_group)
  local record_key, result_key = task_keys(i)
  local entry, attempt, lease_number, state, result, ttl_ms, task_id, ended_ms = task_args(i)
  local record = records[i]
  if record.history then
    local _, head_end = result:find(OUR_RESULT_PATTERN)
    result = result:sub(1, head_end) .. ',"history":' .. cjson.encode(record.history)
      .. result:sub(head_end + 1)
  end
  redis.call('SET', result_key, result, 'PX', ttl_ms)
  if deliveries[i] and deliveries[i] ~= '' then
    write_outbox_entries(outbox, task_id, lease_number, state, deliveries[i], result, ended_ms)
  end
  if is_single_group then
    record_keys_to_delete[#record_keys_to_delete + 1] = record_key
  else
    -- the record stays: an agent of another group may overwrite this result by its own
    expand_record(record_key, record)
    redis.call('HSET', record_key, 'state', state, 'ended', ended_ms, 'attempt', attempt,
      'turn', lease_number)
    redis.call('HDEL', record_key, 'secret', 'due', 'failure')
    redis.call('PEXPIRE', record_key, ttl_ms)
  end
  local tally = tally_key(tally_prefix, record)
  if tally then
    local tally_outcome = task_args(i)
    now = now or now_ms()
    local field = tally_field(tally_outcome, record, entry, now)
    local counts = counts_by_tally[tally] or {}
    counts_by_tally[tally], counts[field] = counts, (counts[field] or 0) + 1
  end
  result_scores[#result_scores + 1] = ended_ms / 1000
  result_scores[#result_scores + 1] = task_id
  local notify = record.notify
  if notify and notify ~= own_instance_id then
    ids_by_channel[notify] = ids_by_channel[notify] and ids_by_channel[notify] .. ' ' .. task_id
      or task_id
  end
  return 1
end

for i = 1, task_count do
  local ok, reply = pcall(check_fence, i)
  replies[i] = ok and reply or not ok and error_text(reply)
  if not ok and is_readonly_error(replies[i]) then return { err = replies[i] } end
end
for q, positions in pairs(ending) do
  local stream, retry_counts = queue_keys(q)
  local group = queue_args(q)
  local acknowledged, groups = redis.pcall('XACK', stream, group, unpack(entries[q])), nil
  local ack_error = type(acknowledged) == 'table' and acknowledged.err
  if ack_error and is_readonly_error(ack_error) then return { err = ack_error } end
  if not ack_error then groups = #redis.pcall('XINFO', 'GROUPS', stream) end
  for _, i in ipairs(positions) do
    local ok, reply = not ack_error, ack_error
    if ok then ok, reply = pcall(finish, i, groups <= 1) end
    replies[i] = ok and reply or error_text(reply)
  end
  if not ack_error then
    redis.pcall('HDEL', retry_counts, unpack(entries[q]))
    if groups == 1 then redis.call('XDEL', stream, unpack(entries[q])) end
  end
end
for tally, counts in pairs(counts_by_tally) do
  for field, count in pairs(counts) do increment_tally(tally, field, count) end
end
if #record_keys_to_delete > 0 then redis.call('DEL', unpack(record_keys_to_delete)) end
if #result_scores > 0 then redis.pcall('ZADD', results_index, unpack(result_scores)) end
for channel, ids in pairs(ids_by_channel) do
  redis.call('PUBLISH', channel_prefix .. channel, ids)
end

-- What must be equal for two ends of a task to be the same call, sent twice.
local function end_of(i)
  local entry, attempt, lease_number, state = task_args(i)
  return table.concat({ entry, attempt, lease_number, state }, ' ')
end

-- A task that is in the call twice gets the reply that a repeated call would get.
for i, first in pairs(repeats) do
  replies[i] = replies[first]
  if replies[first] == 1 and end_of(i) ~= end_of(first) then replies[i] = 0 end
end
return replies
