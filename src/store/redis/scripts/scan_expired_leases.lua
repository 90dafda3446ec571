-- Finds expired leases: reads one page of the pending entries that have been idle for as long as a
-- lease, and maintains the delayed entries among them. With `consumer`, only its entries are
-- read: its process has ended, and they need not have been idle for that long.
--@keys stream delayed_index
--@args record_prefix result_prefix tally_prefix topic agent group
--@args our_min_idle_ms external_min_idle_ms range_start page_size consumer
-- our_min_idle_ms, external_min_idle_ms: after which idle time a lease of this program's consumers,
--     and one of external consumers, has expired
-- consumer: '' for the entries of all consumers
-- Reply: {where the next page starts or '', rows: {the idle time that was needed, ms; lease row}}
our_min_idle_ms, external_min_idle_ms = tonumber(our_min_idle_ms), tonumber(external_min_idle_ms)
page_size = tonumber(page_size)
local page_min_idle_ms, range = our_min_idle_ms, { range_start, '+', page_size }
if consumer == '' then
  -- delayed entries are refreshed well before an external consumer could claim them
  page_min_idle_ms = math.min(our_min_idle_ms, math.floor(external_min_idle_ms / 3))
else
  range[4] = consumer
end
local pending = redis.pcall('XPENDING', stream, group, 'IDLE', page_min_idle_ms, unpack(range))
if pending.err then return { '', {} } end

-- Resets the idle time of a delayed entry, so that no external consumer takes it for abandoned, and
-- restores its place in the index where that was lost.
local function refresh_delayed(entry)
  if #redis.call('XCLAIM', stream, group, DELAYED_CONSUMER, 0, entry, 'JUSTID') == 0 then
    return redis.call('ZREM', delayed_index, entry)
  end
  if redis.call('ZSCORE', delayed_index, entry) then return end
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  local _, record = find_or_create_record(record_prefix, result_prefix, topic, agent, entry,
    entry_data(found[2]))
  redis.call('ZADD', delayed_index, record and record.due or now_ms(), entry)
end

local rows = {}
local function check_expired(entry, holder, idle_ms)
  local is_ours = holder:find(OUR_CONSUMER_MARK, 1, true)
  local min_idle_ms = is_ours and our_min_idle_ms or external_min_idle_ms
  if idle_ms < min_idle_ms then return end
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  if not found then return redis.call('XACK', stream, group, entry) end
  local data = entry_data(found[2])
  local id, record = find_or_create_record(record_prefix, result_prefix, topic, agent, entry, data)
  -- external consumers save the result before they acknowledge the entry
  local ended_externally = id and not record.state and not is_ours
    and is_result_of_agent(agent, result_prefix .. id)
  if ended_externally then
    complete_external(record_prefix .. id, result_prefix .. id, record, tally_prefix)
  end
  if id and (record.state or ended_externally) then return ack_and_delete(stream, group, entry) end
  rows[#rows + 1] = { min_idle_ms, lease_row(1, entry, data, id, record) }
end

for _, row in ipairs(pending) do
  if row[2] == DELAYED_CONSUMER then
    refresh_delayed(row[1])
  else
    check_expired(row[1], row[2], row[3])
  end
end
return { #pending == page_size and '(' .. pending[#pending][1] or '', rows }
