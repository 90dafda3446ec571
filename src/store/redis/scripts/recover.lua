-- Leases again what was delivered to a consumer in a reply that never came: same attempt, since nobody ran it.
-- The reply may have been too long to come in time, so this one is kept short.
-- KEYS per queue: stream
-- ARGV 1 record prefix  2 result prefix  3 max  then per queue: topic, agent, group, consumer, n, and n entries that are not lost
-- Reply: {leases, 1 if there are more}
local prefix, results, max, at = ARGV[1], ARGV[2], tonumber(ARGV[3]), 4
local leases, bytes, ENOUGH = {}, 0, 4 * 1024 * 1024
for q = 1, #KEYS do
  local stream = KEYS[q]
  local topic, agent, group, consumer, known = unpack(ARGV, at, at + 4)
  local held = {}
  for i = at + 5, at + 4 + known do held[ARGV[i]] = true end
  at = at + 5 + known
  local pending, from = nil, '-'
  repeat
    pending = redis.pcall('XPENDING', stream, group, from, '+', 100, consumer)
    if pending.err then break end
    for _, row in ipairs(pending) do
      local entry = row[1]
      from = '(' .. entry
      if not held[entry] then
        if #leases >= max or bytes > ENOUGH then return { leases, 1 } end
        local claimed = redis.call('XCLAIM', stream, group, consumer, 0, entry)[1]
        if claimed then
          local data = data_of(claimed[2])
          local id, record = adopt(prefix, results, topic, agent, entry, data)
          if id and record.state then
            discard(stream, group, entry)
          else
            leases[#leases + 1] = lease_row(q, entry, data, id, record)
            bytes = bytes + #(data or '')
          end
        end
      end
    end
  until #pending < 100
end
return { leases, 0 }
