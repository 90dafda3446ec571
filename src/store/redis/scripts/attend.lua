-- What consumers of another make ended or gave up, and what is past its limit: one look over all queues. Dead letters may
-- be large: the look ends when it has read enough of them, and of a large one it answers an excerpt.
-- KEYS per queue: dead letters, index of limits
-- ARGV 1 dead letters of a queue at most  2 result prefix  3 tasks of a queue at most that are asked whether they ended
--      then per queue: the last dead letter that was seen, where that stretch of tasks begins
-- Reply: {1 if there may be more, per queue {the last dead letter that was seen now, data of those not ours,
--      ids of tasks past their limit, ids of tasks that have a result, where the next stretch begins}}
local max, results, stretch, bytes, more = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), 0, 0
local ENOUGH, LARGE, EDGE = 1024 * 1024, 64 * 1024, 8 * 1024

-- Ours are known by their end: nobody ended those but we.
local function is_ours(data)
  return data:sub(-EDGE):find('"failed_at":[%d.e+]+,"task_id":[^,]+,"kind":"[%a_]+"[^{}]*}$')
end

-- What counts of a letter, in its own form, without its payload: that is in the middle, or its names are escaped.
local function excerpt(data)
  local head, tail = data:sub(1, EDGE), data:sub(-EDGE)
  local function first(name) return '"' .. name .. '"%s*:%s*"(.-[^\\])"' end
  -- Anchored: without `^` a text that lacks the name is searched again from each of its characters.
  local function last(name) return '^.*' .. first(name) end
  local entry = head:match(first('original_id')) or tail:match(last('original_id'))
  local id = head:match('"failed_message"%s*:%s*{%s*' .. first('task_id')) or tail:match(last('task_id'))
  local why = tail:match(last('error')) or head:match(first('error'))
  local decoded, text = pcall(cjson.decode, '["' .. (why or '') .. '"]')
  why = why and decoded and text[1] or nil
  return cjson.encode({ original_id = entry, failed_message = { task_id = id }, error = why })
end

local function look(dead, last)
  local foreign = {}
  for _ = 1, max do
    if bytes > ENOUGH then break end
    local letter = redis.call('XRANGE', dead, '(' .. last, '+', 'COUNT', 1)[1]
    if not letter then return last, foreign end
    local data = data_of(letter[2]) or ''
    last, bytes = letter[1], bytes + #data
    if not is_ours(data) then foreign[#foreign + 1] = #data > LARGE and excerpt(data) or data end
  end
  more = 1
  return last, foreign
end

-- Those of a stretch of the index that have a result; in most looks none has.
local function ended(limits, from)
  local ids, keys, found = redis.call('ZRANGE', limits, from, from + stretch - 1), {}, {}
  for i, id in ipairs(ids) do keys[i] = results .. id end
  if #ids > 0 and redis.call('EXISTS', unpack(keys)) > 0 then
    for i, id in ipairs(ids) do
      if redis.call('EXISTS', keys[i]) == 1 then found[#found + 1] = id end
    end
  end
  -- those that have ended leave the index
  return found, #ids == stretch and from + stretch - #found or 0
end

local found = {}
for q = 1, #KEYS / 2 do
  local dead, limits = KEYS[2 * q - 1], KEYS[2 * q]
  local last, foreign = look(dead, ARGV[2 * q + 2])
  local with_result, next_from = ended(limits, tonumber(ARGV[2 * q + 3]))
  local late = redis.call('ZRANGEBYSCORE', limits, '-inf', now_ms(), 'LIMIT', 0, 100)
  found[q] = { last, foreign, late, with_result, next_from }
end
return { more, found }
