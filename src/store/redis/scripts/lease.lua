-- Leases due retries and unread entries, in the order of the queues.
-- KEYS per queue: stream, delayed index, where the group began
-- ARGV 1 record prefix  2 result prefix  3 max  then per queue: topic, agent, group, consumer,
--      1 if the group begins after what others have read
-- Reply: {leases, ms until the next retry is due or -1, last id read per stream}; the latter two only when no lease was found
local prefix, results, max, now = ARGV[1], ARGV[2], tonumber(ARGV[3]), now_ms()
local leases = {}

local function grant(q, topic, agent, stream, group, entry, data)
  local id, record = adopt(prefix, results, topic, agent, entry, data)
  if id and record.state then return discard(stream, group, entry) end
  if id and record.turn then
    record.attempt, record.turn = record.attempt + 1, record.turn + 1
    redis.call('HSET', prefix .. id, 'attempt', record.attempt, 'turn', record.turn)
  end
  leases[#leases + 1] = lease_row(q, entry, data, id, record)
end

-- Leases what was just read. Most of it is ours and new: then its records, looked at together, are packed, and there is
-- nothing to write.
local function grant_new(q, topic, agent, stream, group, entries)
  local mine, data, ids, records, found = topic .. ':' .. agent, {}, {}, {}, #leases
  for i = 1, #entries do
    data[i] = data_of(entries[i][2]) or ''
    ids[i] = data[i]:match(OUR_HEAD) or ''
    records[i] = prefix .. ids[i]
  end
  records = redis.call('MGET', unpack(records))
  for i = 1, #entries do
    local entry, packed = entries[i][1], records[i]
    if packed and packed:find(pack(mine, entry, ''), 1, true) == 1 then
      found = found + 1
      leases[found] = { q, entry, data[i], ids[i], 1, 1, packed }
    else
      grant(q, topic, agent, stream, group, entry, data_of(entries[i][2]))
      found = #leases
    end
  end
end

local function read_new(stream, group, consumer, count)
  return redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', stream, '>')
end

for q = 1, #KEYS / 3 do
  local stream, delayed = KEYS[3 * q - 2], KEYS[3 * q - 1]
  local topic, agent, group, consumer, late = unpack(ARGV, 5 * q - 1, 5 * q + 3)
  if #leases >= max then break end
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, max - #leases)) do
    redis.call('ZREM', delayed, entry)
    if holder(stream, group, entry) == PARKED then
      local claimed = redis.call('XCLAIM', stream, group, consumer, 0, entry)[1]
      if claimed then grant(q, topic, agent, stream, group, entry, data_of(claimed[2])) end
    end
  end
  if #leases < max then
    local got = read_new(stream, group, consumer, max - #leases)
    if got and got.err then
      if not got.err:find('^NOGROUP') then return got end
      make_group(stream, group, late == '1' and KEYS[3 * q])
      got = read_new(stream, group, consumer, max - #leases)
      if got and got.err then return got end
    end
    if got then grant_new(q, topic, agent, stream, group, got[1][2]) end
  end
end

if #leases > 0 then return { leases, -1, {} } end
local due, last = -1, {}
for q = 1, #KEYS / 3 do
  local first = redis.call('ZRANGE', KEYS[3 * q - 1], 0, 0, 'WITHSCORES')
  if first[2] and (due < 0 or first[2] - now < due) then due = math.max(0, first[2] - now) end
  local info = group_info(KEYS[3 * q - 2], ARGV[5 * q + 1])
  last[q] = info and info['last-delivered-id'] or '0-0'
end
return { leases, due, last }
