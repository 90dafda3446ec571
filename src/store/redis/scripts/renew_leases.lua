-- Resets the idle time of entries whose leases are current: a lease ends by its entry's idle time.
--@keys per lease: record_key stream
--@args per lease: group consumer entry attempt lease_number
-- Reply: the positions, from 1, of the leases that are lost
local lost = {}
for i = 1, lease_count do
  local record_key, stream = lease_keys(i)
  local group, consumer, entry, attempt, lease_number = lease_args(i)
  local record = read_record(record_key)
  -- an external consumer knows no lease numbers: an entry that it holds is its own
  if is_current_lease(record, attempt, lease_number)
    and not is_held_externally(stream, group, entry) then
    local claimed = redis.pcall('XCLAIM', stream, group, consumer, 0, entry, 'JUSTID')
    -- the entry was removed from the stream: only the record is left to show that the task runs
    if not claimed.err and #claimed == 0 then
      expand_record(record_key, record)
      redis.call('HSET', record_key, 'renewed', now_ms())
    end
  else
    lost[#lost + 1] = i
  end
end
return lost
