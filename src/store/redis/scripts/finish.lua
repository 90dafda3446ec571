-- Ends leased tasks as completed or failed. Each stands on its own: what is wrong with one is its own answer; what
-- costs the same for many is done once for all.
-- KEYS 1 results index  then per queue: stream, dead letters, Python's retry counts  then the records, then the results
--      then the tallies of canaried tasks, last: outbox
-- ARGV 1 channel prefix  2 own channel, without it  3 prefix of tallies  4 number of queues  5 number of tasks
--      then per queue: group
--      then per task: queue, entry, attempt, turn, state, result, ttl ms, task id, now in ms: the caller's clock, as in
--      the result, what it is counted as, and '' or as JSON what few have: [ms that the entry must have been idle, head and tail of the dead
--      letter or '', whether its data is JSON, whom its end is told to, for `post`, or '']
-- Reply per task: 1 applied, now or before; 0 fenced; what is wrong, as text
local queues, n, WIDTH = tonumber(ARGV[4]), tonumber(ARGV[5]), 11
local first_record, first_result, first_arg = 1 + 3 * queues, 1 + 3 * queues + n, 6 + queues
local replies, firsts, repeats = {}, {}, {}
-- of those that are to end: their positions and entries by queue, their records and whom they are told to by position
local ends, entries, records, letters = {}, {}, {}, {}

-- mostly, nobody else has ended any of them
local unended = redis.call('EXISTS', unpack(KEYS, first_result + 1, first_result + n)) == 0
local packed = redis.call('MGET', unpack(KEYS, first_record + 1, first_record + n))

local function stream_of(q)
  return KEYS[3 * q - 1], ARGV[5 + q]
end

-- Finds out whether a task is to end, and is then among the `ends` of its queue; else what is to be answered.
local function examine(i)
  local at, key, result = first_arg + WIDTH * (i - 1), KEYS[first_record + i], KEYS[first_result + i]
  local q, entry, attempt, turn, state = unpack(ARGV, at, at + 4)
  if firsts[key] then
    repeats[i] = firsts[key]
    return 0
  end
  local stream, group = stream_of(q)
  local record = read(key, packed[i])
  if record.entry ~= entry or not is_current(record, attempt, turn) then
    local ended = record.state and record or read_end(result)
    return ended and ended.state == state and ended.entry == entry and ended.attempt == attempt and ended.turn == turn
      and 1 or 0
  end
  local idle, head, tail, sound = 0, '', '', false
  if ARGV[at + 10] ~= '' then idle, head, tail, sound, letters[i] = unpack(cjson.decode(ARGV[at + 10])) end
  if idle > 0 then
    local _, since = holder(stream, group, entry)
    if not since or since < idle then return 0 end
  end
  -- not pending and a result: a consumer of another make took it over and ended it
  if head ~= '' then
    if not unended and not holder(stream, group, entry) and redis.call('EXISTS', result) == 1 then return 0 end
    -- before anything else, since it can fail: without its dead letter nothing is acknowledged
    add_dead_letter(KEYS[3 * q], stream, entry, head, tail, sound)
  end
  if not unended and redis.call('XACK', stream, group, entry) == 0 and head == ''
    and redis.call('EXISTS', result) == 1 then
    return 0
  end
  firsts[key], records[i] = i, record
  if not ends[q] then ends[q], entries[q] = {}, {} end
  ends[q][#ends[q] + 1] = i
  entries[q][#entries[q] + 1] = entry
  return nil
end

local indexed, gone, told, tallied, clock = {}, {}, {}, {}, nil

-- Gives a task its end, once its entry is acknowledged.
local function finish(i, alone)
  local at, record, key = first_arg + WIDTH * (i - 1), records[i], KEYS[first_record + i]
  local entry, attempt, turn, state, value, ttl, id, now, outcome = unpack(ARGV, at + 1, at + 9)
  if record.history then
    local _, cut = value:find(RESULT_HEAD)
    value = value:sub(1, cut) .. ',"history":' .. cjson.encode(record.history) .. value:sub(cut + 1)
  end
  redis.call('SET', KEYS[first_result + i], value, 'PX', ttl)
  if letters[i] and letters[i] ~= '' then post(KEYS[#KEYS], id, turn, state, letters[i], value, now) end
  if alone then
    gone[#gone + 1] = key
  else
    -- an agent of another group may write its own result over this one
    unfold(key, record)
    redis.call('HSET', key, 'state', state, 'ended', now, 'attempt', attempt, 'turn', turn)
    redis.call('HDEL', key, 'secret', 'due', 'failure')
    redis.call('PEXPIRE', key, ttl)
  end
  local tally = tally_key(ARGV[3], record)
  if tally then
    clock = clock or now_ms()
    local names, name = tallied[tally] or {}, tally_name(outcome, record, entry, clock)
    tallied[tally], names[name] = names, (names[name] or 0) + 1
  end
  indexed[#indexed + 1] = now / 1000
  indexed[#indexed + 1] = id
  if record.notify and record.notify ~= ARGV[2] then
    told[record.notify] = told[record.notify] and told[record.notify] .. ' ' .. id or id
  end
  return 1
end

for i = 1, n do
  local ok, answer = pcall(examine, i)
  replies[i] = ok and answer or not ok and text_of(answer)
  if not ok and is_elsewhere(replies[i]) then return { err = replies[i] } end
end
for q, positions in pairs(ends) do
  local stream, group = stream_of(q)
  local acknowledged, groups = redis.pcall('XACK', stream, group, unpack(entries[q])), nil
  local wrong = type(acknowledged) == 'table' and acknowledged.err
  if wrong and is_elsewhere(wrong) then return { err = wrong } end
  if not wrong then groups = #redis.pcall('XINFO', 'GROUPS', stream) end
  for _, i in ipairs(positions) do
    local ok, answer = not wrong, wrong
    if ok then ok, answer = pcall(finish, i, groups <= 1) end
    replies[i] = ok and answer or text_of(answer)
  end
  if not wrong then
    redis.pcall('HDEL', KEYS[3 * q + 1], unpack(entries[q]))
    if groups == 1 then redis.call('XDEL', stream, unpack(entries[q])) end
  end
end
for tally, names in pairs(tallied) do
  for name, count in pairs(names) do add_tally(tally, name, count) end
end
if #gone > 0 then redis.call('DEL', unpack(gone)) end
if #indexed > 0 then redis.pcall('ZADD', KEYS[1], unpack(indexed)) end
for channel, ids in pairs(told) do redis.call('PUBLISH', ARGV[1] .. channel, ids) end

-- one that came twice is answered as a repeated call is
local function is_same(i, first)
  for field = 1, 4 do
    if ARGV[first_arg + WIDTH * (i - 1) + field] ~= ARGV[first_arg + WIDTH * (first - 1) + field] then return false end
  end
  return true
end

for i, first in pairs(repeats) do
  replies[i] = replies[first]
  if replies[first] == 1 and not is_same(i, first) then replies[i] = 0 end
end
return replies
