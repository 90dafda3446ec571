-- Makes tasks durable. Each task is handled alone: an error of one task is the reply for that task.
--@keys per queue: stream delayed_index deadline_index scheduled_tasks group_start_key
--@keys per task: record_key result_key
--@keys per tally: declared_tally
--@args queue_count task_count
--@args per queue: group max_backlog starts_at_end
--@args per task: position queue_name data record_rest max_open external_timeout_ms tally
-- declared_tally: every tally that the script writes to, for the check of the keys' slots
-- starts_at_end: 1 where the group leaves out what other groups have read before it existed
-- record_rest: the packed record behind the entry
-- max_open: refused with so many tasks open (unread or held by a consumer), or -1
-- external_timeout_ms: the time external consumers have to end the task, or ''
-- tally: the key that counts the task, or ''
-- Reply per task: 1 added; 0 it was there before; -1 - n refused because n tasks wait; {n} refused
-- because n tasks are open; or the text of an error
local open_queues, added, records, accepted, replies = {}, {}, {}, {}, {}

local function open_queue(q)
  local stream, delayed_index, deadline_index, scheduled_tasks, group_start_key = queue_keys(q)
  local group, max_backlog, starts_at_end = queue_args(q)
  local length, scheduled = redis.call('XLEN', stream), redis.call('HLEN', scheduled_tasks)
  open_queues[q] = {
    stream = stream, delayed_index = delayed_index, deadline_index = deadline_index,
    group = group, max_backlog = tonumber(max_backlog), scheduled = scheduled,
    start_key = starts_at_end == '1' and group_start_key,
    -- an upper bound until it is counted: acknowledged entries of other groups stay in the stream
    waiting = length + scheduled, is_counted = false, is_empty = length == 0, is_ready = false,
    -- the same upper bound, without the scheduled tasks
    open = length, is_open_counted = false,
  }
  return open_queues[q]
end

-- Whether one more task may wait. The unread entries are counted only when the upper bound is
-- already too high.
local function has_room(queue)
  if queue.waiting >= queue.max_backlog and not queue.is_counted then
    queue.waiting = count_unread(queue.stream, queue.group)
      + redis.call('ZCARD', queue.delayed_index) + queue.scheduled
    queue.is_counted = true
  end
  return queue.waiting < queue.max_backlog
end

-- Whether fewer than `max_open` tasks are open, counted in the same way.
local function has_open_room(queue, max_open)
  if queue.open >= max_open and not queue.is_open_counted then
    queue.open = count_open(queue.stream, queue.group, queue.delayed_index)
    queue.is_open_counted = true
  end
  return queue.open < max_open
end

-- Creates the group where it does not exist, before an external consumer creates it at `$` and
-- skips the entries that are already there.
local function prepare_queue(queue)
  local stream, group = queue.stream, queue.group
  if (queue.is_empty and redis.call('EXISTS', stream) == 0)
    or (queue.start_key and not read_group_info(stream, group)) then
    create_group(stream, group, queue.start_key)
  end
  queue.is_ready = true
end

-- Usually no task of the call exists yet, and one command for all tasks shows that.
local any_exists = redis.call('EXISTS', all_keys(record_key, result_key)) > 0

local function enqueue(i)
  local record_key, result_key = task_keys(i)
  local position, queue_name, data, record_rest, max_open, external_timeout_ms, tally = task_args(i)
  if added[record_key] or (any_exists and redis.call('EXISTS', record_key, result_key) > 0) then
    return 0
  end
  local q = tonumber(position)
  local queue = open_queues[q] or open_queue(q)
  if not has_room(queue) then return -1 - queue.waiting end
  max_open = tonumber(max_open)
  if max_open >= 0 and not has_open_room(queue, max_open) then return { queue.open } end
  if not queue.is_ready then prepare_queue(queue) end
  local entry = redis.call('XADD', queue.stream, '*', 'data', data)
  added[record_key], queue.waiting, queue.open = true, queue.waiting + 1, queue.open + 1
  records[#records + 1] = record_key
  records[#records + 1] = pack_record(queue_name, entry, record_rest)
  if tally ~= '' then accepted[tally] = (accepted[tally] or 0) + 1 end
  if external_timeout_ms ~= '' then
    local deadline = now_ms() + external_timeout_ms
    redis.call('ZADD', queue.deadline_index, deadline, data:match(OUR_MESSAGE_PATTERN))
  end
  return 1
end

for i = 1, task_count do
  local ok, reply = pcall(enqueue, i)
  replies[i] = ok and reply or error_text(reply)
  if not ok and is_readonly_error(replies[i]) then return { err = replies[i] } end
end
if #records > 0 then redis.call('MSET', unpack(records)) end
for tally, count in pairs(accepted) do increment_tally(tally, 'accepted', count) end
return replies
