-- Leases tasks: first the delayed ones that are due, then unread entries, in the order of the
-- queues.
--@keys per queue: stream delayed_index group_start_key
--@args record_prefix result_prefix max
--@args per queue: topic agent group consumer max_of_queue starts_at_end
-- max, max_of_queue: the most leases of the call, and of the queue
-- starts_at_end: 1 where the group leaves out what other groups have read before it existed
-- Reply: {leases, ms until the next delayed task is due or -1, last id delivered per stream}; the
-- latter two only where no lease was found
local now, leases = now_ms(), {}
max = tonumber(max)

local function lease_entry(q, topic, agent, stream, group, entry, data)
  local id, record = find_or_create_record(record_prefix, result_prefix, topic, agent, entry, data)
  if id and record.state then return ack_and_delete(stream, group, entry) end
  if id and record.turn then
    record.attempt, record.turn = record.attempt + 1, record.turn + 1
    redis.call('HSET', record_prefix .. id, 'attempt', record.attempt, 'turn', record.turn)
  end
  leases[#leases + 1] = lease_row(q, entry, data, id, record)
end

-- Leases entries that were just read. Most of them are new tasks of this program: their records,
-- read by one command, are packed, and nothing has to be written.
local function lease_new_entries(q, topic, agent, stream, group, entries)
  local own_queue, data, ids, records, found = topic .. ':' .. agent, {}, {}, {}, #leases
  for i = 1, #entries do
    data[i] = entry_data(entries[i][2]) or ''
    ids[i] = data[i]:match(OUR_MESSAGE_PATTERN) or ''
    records[i] = record_prefix .. ids[i]
  end
  records = redis.call('MGET', unpack(records))
  for i = 1, #entries do
    local entry, packed = entries[i][1], records[i]
    if packed and packed:find(pack_record(own_queue, entry, ''), 1, true) == 1 then
      found = found + 1
      leases[found] = { q, entry, data[i], ids[i], 1, 1, packed }
    else
      lease_entry(q, topic, agent, stream, group, entry, entry_data(entries[i][2]))
      found = #leases
    end
  end
end

local function read_new(stream, group, consumer, count)
  return redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', stream, '>')
end

for q = 1, queue_count do
  local stream, delayed_index, group_start_key = queue_keys(q)
  local topic, agent, group, consumer, max_of_queue, starts_at_end = queue_args(q)
  if #leases >= max then break end
  local full = math.min(max, #leases + max_of_queue)
  local due = redis.call('ZRANGEBYSCORE', delayed_index, '-inf', now, 'LIMIT', 0, full - #leases)
  for _, entry in ipairs(due) do
    redis.call('ZREM', delayed_index, entry)
    if entry_holder(stream, group, entry) == DELAYED_CONSUMER then
      local claimed = redis.call('XCLAIM', stream, group, consumer, 0, entry)[1]
      if claimed then lease_entry(q, topic, agent, stream, group, entry, entry_data(claimed[2])) end
    end
  end
  if #leases < full then
    local read = read_new(stream, group, consumer, full - #leases)
    if read and read.err then
      if not read.err:find('^NOGROUP') then return read end
      create_group(stream, group, starts_at_end == '1' and group_start_key)
      read = read_new(stream, group, consumer, full - #leases)
      if read and read.err then return read end
    end
    if read then lease_new_entries(q, topic, agent, stream, group, read[1][2]) end
  end
end

if #leases > 0 then return { leases, -1, {} } end
local next_due_in, last_ids = -1, {}
for q = 1, queue_count do
  local stream, delayed_index = queue_keys(q)
  local group = queue_args(q)
  local first = redis.call('ZRANGE', delayed_index, 0, 0, 'WITHSCORES')
  if first[2] and (next_due_in < 0 or first[2] - now < next_due_in) then
    next_due_in = math.max(0, first[2] - now)
  end
  local info = read_group_info(stream, group)
  last_ids[q] = info and info['last-delivered-id'] or '0-0'
end
return { leases, next_due_in, last_ids }
