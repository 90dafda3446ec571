-- Ends the tasks of a queue that an external consumer gave a result and acknowledged, and finds
-- those that are still unfinished although an external consumer gave them up or their deadline has
-- passed. Tasks that have ended leave the index of deadlines. Tasks that were enqueued with a
-- deadline leave it too where this program runs the queue's tasks now, which then have none.
--@keys stream deadline_index
--@args record_prefix result_prefix tally_prefix topic agent group has_deadlines
--@args with_result_count overdue_count
--@args per with_result: ended_task_id
--@args per overdue: overdue_task_id
--@args per dead_letter: dead_task_id dead_entry
-- has_deadlines: 0 where the queue is not run by external consumers any more
-- ended_task_id: tasks that have a result
-- dead_task_id, dead_entry: what external consumers' dead letters name
-- Reply: {overdue tasks, given up tasks}, both as lease rows without data

-- The record of an unfinished task of this queue, else nil.
local function read_unfinished(id)
  local record = read_record(record_prefix .. id)
  if record.queue == topic .. ':' .. agent and not record.state then return record end
end

-- Whether an external consumer holds the entry or has yet to read it.
local function is_open(record)
  return entry_holder(stream, group, record.entry)
    or not is_delivered_to_group(stream, group, record.entry)
end

-- Whether the task has a result, which then ends it. An entry that is still held counts only where
-- the result is of this agent, which may have died between saving it and acknowledging.
local function end_with_result(id, record)
  if redis.call('EXISTS', result_prefix .. id) == 0 then return false end
  if is_open(record) and not is_result_of_agent(agent, result_prefix .. id) then return false end
  complete_external(record_prefix .. id, result_prefix .. id, record, tally_prefix)
  ack_and_delete(stream, group, record.entry)
  return true
end

local overdue, given_up = {}, {}
for i = 1, with_result_count do
  local ended_task_id = with_result_args(i)
  local record = read_unfinished(ended_task_id)
  -- the holder is about to acknowledge, or it has died: then the deadline finds the task
  local is_open_task = record and is_open(record)
  if record and not is_open_task then
    complete_external(record_prefix .. ended_task_id, result_prefix .. ended_task_id, record,
      tally_prefix)
  end
  if not is_open_task then redis.call('ZREM', deadline_index, ended_task_id) end
end
for i = 1, overdue_count do
  local overdue_task_id = overdue_args(i)
  local record = read_unfinished(overdue_task_id)
  if not record or end_with_result(overdue_task_id, record) or has_deadlines == '0' then
    redis.call('ZREM', deadline_index, overdue_task_id)
  else
    overdue[#overdue + 1] = lease_row(1, record.entry, false, overdue_task_id, record)
  end
end
for i = 1, dead_letter_count do
  local dead_task_id, dead_entry = dead_letter_args(i)
  local record = read_unfinished(dead_task_id)
  if record and record.entry == dead_entry and not end_with_result(dead_task_id, record) then
    given_up[#given_up + 1] = lease_row(1, record.entry, false, dead_task_id, record)
  end
end
return { overdue, given_up }
