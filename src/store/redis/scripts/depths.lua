-- How queues stand.
-- KEYS per queue: stream, delayed index, dead letters, delayed new tasks
-- ARGV per queue: group
-- Reply per queue: {unread, parked, leased, dead, ms of the oldest waiting or -1}; a task that is not due yet is unread
local reply = {}
for q = 1, #KEYS / 4 do
  local stream, group = KEYS[4 * q - 3], ARGV[q]
  local info, waiting = group_info(stream, group), unread(stream, group)
  local last, pending = info and info['last-delivered-id'] or '0-0', info and info.pending or 0
  local parked, oldest = 0, -1
  local summary = redis.pcall('XPENDING', stream, group)
  for _, consumer in ipairs(not summary.err and summary[4] or {}) do
    if consumer[1] == PARKED then parked = tonumber(consumer[2]) end
  end
  local function consider(entry)
    local age = entry and math.max(0, now_ms() - ms_of(entry[1]))
    if age and age > oldest then oldest = age end
  end
  if waiting > 0 then consider(redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)[1]) end
  if parked > 0 then consider(redis.call('XPENDING', stream, group, '-', '+', 1, PARKED)[1]) end
  waiting = waiting + redis.call('HLEN', KEYS[4 * q])
  reply[q] = { waiting, parked, pending - parked, redis.call('XLEN', KEYS[4 * q - 1]), oldest }
end
return reply
