-- Resets the idle time of entries whose leases are current: it is the lease's clock.
-- KEYS per lease: record, stream
-- ARGV per lease: group, consumer, entry, attempt, turn
-- Reply: the positions, from 1, of the lost
local lost = {}
for i = 1, #KEYS / 2 do
  local group, consumer, entry, attempt, turn = unpack(ARGV, 5 * i - 4, 5 * i)
  local record = read(KEYS[2 * i - 1])
  -- a consumer of another make knows no turns: it has the task that it holds
  if is_current(record, attempt, turn) and not is_taken(KEYS[2 * i], group, entry) then
    local claimed = redis.pcall('XCLAIM', KEYS[2 * i], group, consumer, 0, entry, 'JUSTID')
    -- gone from the stream: the record is all that is left of the task
    if not claimed.err and #claimed == 0 then
      unfold(KEYS[2 * i - 1], record)
      redis.call('HSET', KEYS[2 * i - 1], 'renewed', now_ms())
    end
  else
    lost[#lost + 1] = i
  end
end
return lost
