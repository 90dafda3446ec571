-- One page of the entries that nobody has touched for a lease, and the upkeep of the parked ones among them.
-- Those of one consumer are asked for when its process is gone, and need not have been idle for so long.
-- KEYS 1 stream  2 delayed index
-- ARGV 1 record prefix  2 result prefix  3 topic  4 agent  5 group  6 lease ms  7 the same for consumers of another make
--      8 prefix of tallies  9… a range as XPENDING takes it: start, end, count, and a consumer if only its
-- Reply: {where the next page starts or '', rows as of a lease with idle ms needed in front}
local stream, delayed = KEYS[1], KEYS[2]
local prefix, results, topic, agent, group = unpack(ARGV, 1, 5)
local lease, foreign = tonumber(ARGV[6]), tonumber(ARGV[7])
local idle = ARGV[12] and lease or math.min(lease, math.floor(foreign / 3))
local pending = redis.pcall('XPENDING', stream, group, 'IDLE', idle, unpack(ARGV, 9))
if pending.err then return { '', {} } end

-- a parked entry must not look abandoned to a consumer of another make; its index may have been lost
local function keep_parked(entry)
  if #redis.call('XCLAIM', stream, group, PARKED, 0, entry, 'JUSTID') == 0 then
    return redis.call('ZREM', delayed, entry)
  end
  if redis.call('ZSCORE', delayed, entry) then return end
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  local _, record = adopt(prefix, results, topic, agent, entry, data_of(found[2]))
  redis.call('ZADD', delayed, record and record.due or now_ms(), entry)
end

local rows = {}
local function examine(entry, consumer, idle)
  local ours = consumer:find(OURS, 1, true)
  if idle < (ours and lease or foreign) then return end
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  if not found then return redis.call('XACK', stream, group, entry) end
  local data = data_of(found[2])
  local id, record = adopt(prefix, results, topic, agent, entry, data)
  -- others save the result before they acknowledge
  local theirs = id and not record.state and not ours and ended_by(agent, results .. id)
  if theirs then conclude(prefix .. id, results .. id, record, ARGV[8]) end
  if id and (record.state or theirs) then return discard(stream, group, entry) end
  rows[#rows + 1] = { ours and lease or foreign, lease_row(1, entry, data, id, record) }
end

for _, row in ipairs(pending) do
  if row[2] == PARKED then keep_parked(row[1]) else examine(row[1], row[2], row[3]) end
end
local full = #pending == tonumber(ARGV[11])
return { full and '(' .. pending[#pending][1] or '', rows }
