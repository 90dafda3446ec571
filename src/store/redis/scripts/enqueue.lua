-- Makes tasks durable. Each stands on its own: what is wrong with one is its own answer.
-- KEYS per queue: stream, delayed index, index of limits, delayed new tasks, where the group began
--      then per task: record, result  then the tallies that some are counted in
-- ARGV 1 number of queues  2 number of tasks  then per queue: group, max backlog, 1 if the group begins after what others have read
--      then per task: position of its queue, <topic>:<agent>, data, the rest of its record, ms within which others must
--      end it, or '', the tally that it is counted in, or ''
-- Reply per task: 1 there now, 0 was there already, -1 - n refused since n wait; what is wrong, as text
local queues, n = tonumber(ARGV[1]), tonumber(ARGV[2])
local opened, made, records, accepted, replies = {}, {}, {}, {}, {}
local first_key, first_arg, KEYS_EACH, ARGS_EACH = 1 + 5 * queues, 3 + 3 * queues, 2, 6

local function open(q)
  local stream, delayed, limits, scheduled, start = unpack(KEYS, 5 * q - 4, 5 * q)
  local group, max, late = unpack(ARGV, 3 * q, 3 * q + 2)
  local length, later = redis.call('XLEN', stream), redis.call('HLEN', scheduled)
  opened[q] = {
    stream = stream, delayed = delayed, limits = limits, group = group, max = tonumber(max), later = later,
    start = late == '1' and start,
    -- at most: what others have acknowledged stays in the stream
    waiting = length + later, counted = false, empty = length == 0, ready = false,
  }
  return opened[q]
end

-- Whether one more may wait. What the stream holds is counted only where that is too much.
local function has_room(queue)
  if queue.waiting >= queue.max and not queue.counted then
    queue.waiting = unread(queue.stream, queue.group) + redis.call('ZCARD', queue.delayed) + queue.later
    queue.counted = true
  end
  return queue.waiting < queue.max
end

-- Sees to it that the group is there, before a consumer makes it at `$` and skips what is here.
local function prepare(queue)
  local stream, group = queue.stream, queue.group
  if (queue.empty and redis.call('EXISTS', stream) == 0) or (queue.start and not group_info(stream, group)) then
    make_group(stream, group, queue.start)
  end
  queue.ready = true
end

local known = redis.call('EXISTS', unpack(KEYS, first_key, first_key + KEYS_EACH * n - 1)) > 0

local function enqueue(key, result, q, name, data, rest, limit, tally)
  if made[key] or (known and redis.call('EXISTS', key, result) > 0) then return 0 end
  local queue = opened[q] or open(q)
  if not has_room(queue) then return -1 - queue.waiting end
  if not queue.ready then prepare(queue) end
  local entry = redis.call('XADD', queue.stream, '*', 'data', data)
  made[key], queue.waiting = true, queue.waiting + 1
  records[#records + 1] = key
  records[#records + 1] = pack(name, entry, rest)
  if tally ~= '' then accepted[tally] = (accepted[tally] or 0) + 1 end
  if limit ~= '' then redis.call('ZADD', queue.limits, now_ms() + limit, data:match(OUR_HEAD)) end
  return 1
end

for i = 1, n do
  local key, at = first_key + KEYS_EACH * (i - 1), first_arg + ARGS_EACH * (i - 1)
  local q, name, data, rest, limit, tally = unpack(ARGV, at, at + ARGS_EACH - 1)
  local ok, answer = pcall(enqueue, KEYS[key], KEYS[key + 1], tonumber(q), name, data, rest, limit, tally)
  replies[i] = ok and answer or text_of(answer)
  if not ok and is_elsewhere(replies[i]) then return { err = replies[i] } end
end
if #records > 0 then redis.call('MSET', unpack(records)) end
for tally, count in pairs(accepted) do add_tally(tally, 'accepted', count) end
return replies
