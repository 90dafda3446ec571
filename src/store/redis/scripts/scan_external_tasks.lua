-- Finds what external consumers ended or gave up and what is past its deadline, for all queues in
-- one call. Dead letters may be large: the scan ends when it has read enough of them, and a large
-- one is replied as an excerpt.
--@keys per queue: dead_letters deadline_index
--@args max_dead_letters result_prefix max_checked_tasks
--@args per queue: last_dead_letter first_checked
-- max_dead_letters, max_checked_tasks: per queue
-- last_dead_letter: the last one that was scanned before
-- first_checked: the position in the index of deadlines from which tasks are checked for a result
-- Reply: {1 if there may be more dead letters, per queue {the last dead letter scanned, data of the
-- external ones, ids of overdue tasks, ids of tasks that have a result, the next first_checked}}
local bytes, may_have_more = 0, 0
local MAX_BYTES, LARGE_BYTES, EDGE_BYTES = 1024 * 1024, 64 * 1024, 8 * 1024
max_checked_tasks = tonumber(max_checked_tasks)

-- Whether this program wrote a dead letter, by the order of its last fields. The tasks of such
-- dead letters have been ended by it as well.
local function is_ours(data)
  local OUR_TAIL = '"failed_at":[%d.e+]+,"task_id":[^,]+,"kind":"[%a_]+"[^{}]*}$'
  return data:sub(-EDGE_BYTES):find(OUR_TAIL)
end

-- The fields of a dead letter that are needed, as a dead letter without payload. The payload is in
-- the middle and only the edges are searched; names inside it are escaped, because it is a string.
local function build_excerpt(data)
  local head, tail = data:sub(1, EDGE_BYTES), data:sub(-EDGE_BYTES)
  local function first(name) return '"' .. name .. '"%s*:%s*"(.-[^\\])"' end
  -- anchored: else a text without the name is searched again from each of its characters
  local function last(name) return '^.*' .. first(name) end
  local entry = head:match(first('original_id')) or tail:match(last('original_id'))
  local id = head:match('"failed_message"%s*:%s*{%s*' .. first('task_id'))
    or tail:match(last('task_id'))
  local reason = tail:match(last('error')) or head:match(first('error'))
  local is_json, text = pcall(cjson.decode, '["' .. (reason or '') .. '"]')
  reason = reason and is_json and text[1] or nil
  return cjson.encode({ original_id = entry, failed_message = { task_id = id }, error = reason })
end

local function scan_dead_letters(dead_letters, last)
  local external = {}
  for _ = 1, max_dead_letters do
    if bytes > MAX_BYTES then break end
    local letter = redis.call('XRANGE', dead_letters, '(' .. last, '+', 'COUNT', 1)[1]
    if not letter then return last, external end
    local data = entry_data(letter[2]) or ''
    last, bytes = letter[1], bytes + #data
    if not is_ours(data) then
      external[#external + 1] = #data > LARGE_BYTES and build_excerpt(data) or data
    end
  end
  may_have_more = 1
  return last, external
end

-- The tasks with a result among the next ones of the index, and the position to go on at. In most
-- scans none has a result, and one command shows that.
local function find_with_result(deadline_index, first)
  local ids = redis.call('ZRANGE', deadline_index, first, first + max_checked_tasks - 1)
  local result_keys, found = {}, {}
  for i, id in ipairs(ids) do result_keys[i] = result_prefix .. id end
  if #ids > 0 and redis.call('EXISTS', unpack(result_keys)) > 0 then
    for i, id in ipairs(ids) do
      if redis.call('EXISTS', result_keys[i]) == 1 then found[#found + 1] = id end
    end
  end
  -- the tasks found are about to leave the index
  return found, #ids == max_checked_tasks and first + max_checked_tasks - #found or 0
end

local replies = {}
for q = 1, queue_count do
  local dead_letters, deadline_index = queue_keys(q)
  local last_dead_letter, first_checked = queue_args(q)
  local last, external = scan_dead_letters(dead_letters, last_dead_letter)
  local with_result, next_checked = find_with_result(deadline_index, tonumber(first_checked))
  local overdue =
    redis.call('ZRANGEBYSCORE', deadline_index, '-inf', now_ms(), 'LIMIT', 0, 100)
  replies[q] = { last, external, overdue, with_result, next_checked }
end
return { may_have_more, replies }
