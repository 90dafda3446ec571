-- Leases again the entries that were delivered to a consumer in a reply that was lost. The attempt
-- stays the same, because nothing ran it. The lost reply may have been too long to arrive within
-- the timeout, so this one is kept short.
--@keys per queue: stream
--@args record_prefix result_prefix max
--@args per queue: topic agent group consumer held_count_of_queue
--@args per held: held_entry
-- held_entry: the entries that the process knows it holds, in the order of the queues
-- Reply: {leases, 1 if there are more}
local leases, bytes, MAX_BYTES, first_held = {}, 0, 4 * 1024 * 1024, 1
max = tonumber(max)
for q = 1, queue_count do
  local stream = queue_keys(q)
  local topic, agent, group, consumer, held_count_of_queue = queue_args(q)
  local held, next_held = {}, first_held + held_count_of_queue
  for i = first_held, next_held - 1 do
    local held_entry = held_args(i)
    held[held_entry] = true
  end
  first_held = next_held
  local pending, from = nil, '-'
  repeat
    pending = redis.pcall('XPENDING', stream, group, from, '+', 100, consumer)
    if pending.err then break end
    for _, row in ipairs(pending) do
      local entry = row[1]
      from = '(' .. entry
      if not held[entry] then
        if #leases >= max or bytes > MAX_BYTES then return { leases, 1 } end
        local claimed = redis.call('XCLAIM', stream, group, consumer, 0, entry)[1]
        if claimed then
          local data = entry_data(claimed[2])
          local id, record =
            find_or_create_record(record_prefix, result_prefix, topic, agent, entry, data)
          if id and record.state then
            ack_and_delete(stream, group, entry)
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
