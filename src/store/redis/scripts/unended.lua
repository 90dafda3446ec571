-- Which of a queue's tasks have no end yet, though a consumer of another make gave them up or they are past their limit;
-- and the end of those that such a consumer gave a result and acknowledged.
-- What has ended leaves the index of limits, and its record goes with its result: that make knows nothing of records.
-- What was enqueued with a limit leaves it too, where we run the queue's tasks now: there is none any more.
-- KEYS 1 stream  2 index of limits
-- ARGV 1 record prefix  2 result prefix  3 prefix of tallies  4 topic  5 agent  6 group  7 whether the queue has a limit
--      8 n, and n ids that have a result  then n, and n ids past their limit
--      then per dead letter: task id, entry
-- Reply: {past their limit, given up}, both as leases without their data
local stream, limits = KEYS[1], KEYS[2]
local prefix, results, tallies, topic, agent, group, limited, ended = unpack(ARGV, 1, 8)

local function unended(id)
  local record = read(prefix .. id)
  if record.queue == topic .. ':' .. agent and not record.state then return record end
end

-- Whether there is a result: whoever saved it may have died before it acknowledged.
local function has_result(id, record)
  if redis.call('EXISTS', results .. id) == 0 then return false end
  local held = holder(stream, group, record.entry) or not was_read(stream, group, record.entry)
  if held and not ended_by(agent, results .. id) then return false end
  discard(stream, group, record.entry)
  conclude(prefix .. id, results .. id, record, tallies)
  return true
end

local late, given_up, at = {}, {}, 9 + ended
for i = 9, 8 + ended do
  local id, record = ARGV[i], unended(ARGV[i])
  -- whoever still holds it is about to acknowledge it, or has died: its limit tells
  local held = record and (holder(stream, group, record.entry) or not was_read(stream, group, record.entry))
  if record and not held then conclude(prefix .. id, results .. id, record, tallies) end
  if not held then redis.call('ZREM', limits, id) end
end
for i = at + 1, at + ARGV[at] do
  local id, record = ARGV[i], unended(ARGV[i])
  if not record or has_result(id, record) or limited == '0' then
    redis.call('ZREM', limits, id)
  else
    late[#late + 1] = lease_row(1, record.entry, false, id, record)
  end
end
for i = at + 1 + ARGV[at], #ARGV, 2 do
  local record = unended(ARGV[i])
  if record and record.entry == ARGV[i + 1] and not has_result(ARGV[i], record) then
    given_up[#given_up + 1] = lease_row(1, record.entry, false, ARGV[i], record)
  end
end
return { late, given_up }
