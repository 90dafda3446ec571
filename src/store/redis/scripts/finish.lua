-- Ends leased tasks as completed or failed. Each stands on its own: what is wrong with one is its own answer.
-- KEYS 1 results index  then per queue: stream, dead letters, Python's retry counts  then per task: record, result
--      then the tallies of canaried tasks, last: outbox
-- ARGV 1 channel prefix  2 own channel, without it  3 number of queues  4 prefix of tallies  then per queue: group
--      then per task:
--      queue, entry, attempt, turn, state, result, ttl ms, task id, ms that the entry must have been idle,
--      head and tail of the dead letter, whether its data is JSON, now in ms: the caller's clock, as in the result,
--      whom its end is told to, for `post`, or '', what it is counted as
-- Reply per task: 1 applied, now or before; 0 fenced; what is wrong, as text
local queues, WIDTH = tonumber(ARGV[3]), 15
local groups, ends, told, indexed, tallied, replies, clock = {}, {}, {}, {}, {}, {}, nil

local function finish(at, key, result)
  local q, entry, attempt, turn, state, value, ttl, id, idle, head, tail, sound, now, letters, outcome =
    unpack(ARGV, at, at + WIDTH - 1)
  local stream, dead, group = KEYS[3 * q - 1], KEYS[3 * q], ARGV[4 + q]
  local record = read(key)
  if record.entry ~= entry or not is_current(record, attempt, turn) then
    local ended = record.state and record or read_end(result)
    return ended and ended.state == state and ended.entry == entry and ended.attempt == attempt and ended.turn == turn
      and 1 or 0
  end
  if idle ~= '0' then
    local _, since = holder(stream, group, entry)
    if not since or since < tonumber(idle) then return 0 end
  end
  -- not pending and a result: a consumer of another make took it over and ended it
  if head ~= '' then
    if not holder(stream, group, entry) and redis.call('EXISTS', result) == 1 then return 0 end
    -- before anything else, since it can fail: without its dead letter nothing is acknowledged
    add_dead_letter(dead, stream, entry, head, tail, sound == '1')
  end
  if redis.call('XACK', stream, group, entry) == 0 and head == '' and redis.call('EXISTS', result) == 1 then return 0 end

  if record.history then
    local _, cut = value:find(RESULT_HEAD)
    value = value:sub(1, cut) .. ',"history":' .. cjson.encode(record.history) .. value:sub(cut + 1)
  end
  redis.call('SET', result, value, 'PX', ttl)
  if letters ~= '' then post(KEYS[#KEYS], id, turn, state, letters, value, now) end
  groups[q] = groups[q] or #redis.pcall('XINFO', 'GROUPS', stream)
  if groups[q] > 1 then
    -- an agent of another group may write its own result over this one
    redis.call('HSET', key, 'state', state, 'ended', now, 'attempt', attempt, 'turn', turn)
    redis.call('HDEL', key, 'secret', 'due', 'failure')
    redis.call('PEXPIRE', key, ttl)
  else
    redis.call('DEL', key)
  end
  local tally = tally_key(ARGV[4], record)
  if tally then
    clock = clock or now_ms()
    local names, name = tallied[tally] or {}, tally_name(outcome, entry, clock)
    tallied[tally], names[name] = names, (names[name] or 0) + 1
  end
  ends[q] = ends[q] or {}
  table.insert(ends[q], entry)
  table.insert(indexed, now / 1000)
  table.insert(indexed, id)
  if record.notify and record.notify ~= ARGV[2] then
    told[record.notify] = told[record.notify] and told[record.notify] .. ' ' .. id or id
  end
  return 1
end

local first_key, first_arg = 2 + 3 * queues, 5 + queues
for i = 0, (#ARGV - first_arg + 1) / WIDTH - 1 do
  local key = first_key + 2 * i
  local ok, answer = pcall(finish, first_arg + WIDTH * i, KEYS[key], KEYS[key + 1])
  replies[i + 1] = ok and answer or (type(answer) == 'table' and answer.err or tostring(answer))
end

-- what all of them need is done once
for tally, names in pairs(tallied) do
  for name, n in pairs(names) do add_tally(tally, name, n) end
end
for q, entries in pairs(ends) do
  redis.pcall('HDEL', KEYS[3 * q + 1], unpack(entries))
  if groups[q] == 1 then redis.call('XDEL', KEYS[3 * q - 1], unpack(entries)) end
end
if #indexed > 0 then redis.pcall('ZADD', KEYS[1], unpack(indexed)) end
for channel, ids in pairs(told) do redis.call('PUBLISH', ARGV[1] .. channel, ids) end
return replies
