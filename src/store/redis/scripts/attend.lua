-- What consumers of another make gave up, and what is past its limit: one look over all queues. Dead letters may be
-- large: the look ends when it has read enough of them, and of a large one it answers an excerpt.
-- KEYS per queue: dead letters, index of limits
-- ARGV 1 dead letters of a queue at most, then per queue: the last dead letter that was seen
-- Reply: {1 if there may be more, {the last dead letter that was seen now, data of those not ours, ids of tasks} per queue}
local max, bytes, more = tonumber(ARGV[1]), 0, 0
local ENOUGH, LARGE, EDGE = 1024 * 1024, 64 * 1024, 8 * 1024

-- Ours are known by their end: nobody ended those but we.
local function is_ours(data)
  return data:sub(-EDGE):find('"failed_at":[%d.e+]+,"task_id":[^,]+,"kind":"[%a_]+"[^{}]*}$')
end

-- What counts of a letter, in its own form, without its payload: that is in the middle, or its names are escaped.
local function excerpt(data)
  local head, tail = data:sub(1, EDGE), data:sub(-EDGE)
  local function first(name) return '"' .. name .. '"%s*:%s*"(.-[^\\])"' end
  local function last(name) return '.*' .. first(name) end
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

local found = {}
for q = 1, #KEYS / 2 do
  local last, foreign = look(KEYS[2 * q - 1], ARGV[q + 1])
  found[q] = { last, foreign, redis.call('ZRANGEBYSCORE', KEYS[2 * q], '-inf', now_ms(), 'LIMIT', 0, 100) }
end
return { more, found }
