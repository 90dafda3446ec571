-- Finds tasks that have lost their entries although no consumer runs them: another program trimmed
-- the stream. Tasks that an external consumer has ended are ended here.
--@keys per task: record_key result_key
--@args stream_prefix group_prefix tally_prefix renewal_ttl_ms queue_count
--@args per queue: queue_name
--@args per task: task_id
-- renewal_ttl_ms: for how long a renewal shows that a task without an entry runs
-- Reply: lease rows, with the positions of the queues among queue_name
local positions, now, lost = {}, now_ms(), {}
for q = 1, queue_count do
  local queue_name = queue_args(q)
  positions[queue_name] = q
end

local record_keys, result_keys = {}, {}
for i = 1, task_count do
  local record_key, result_key = task_keys(i)
  record_keys[i], result_keys[i] = record_key, result_key
end
local packed = redis.call('MGET', unpack(record_keys))
local any_has_result = redis.call('EXISTS', unpack(result_keys)) > 0

-- The record at a key, nil where the key holds something else.
local function read_if_record(key, text)
  local record = text and unpack_record(text)
  if record and record.queue then return record end
  return redis.call('TYPE', key).ok == 'hash' and read_record(key) or nil
end

local function check_record(record_key, result_key, task_id, record)
  local q, entry = positions[record.queue], record.entry
  if not q or record.state or not entry then return end
  local topic, agent = record.queue:match('^([^:]+):(.*)$')
  local stream, group = stream_prefix .. topic, group_prefix .. record.queue
  local consumer = entry_holder(stream, group, entry)
  if consumer and consumer ~= DELAYED_CONSUMER then return end
  if not consumer and any_has_result and is_result_of_agent(agent, result_key) then
    return complete_external(record_key, result_key, record, tally_prefix)
  end
  if #redis.call('XRANGE', stream, entry, entry) > 0 then return end
  if record.renewed and now - record.renewed < tonumber(renewal_ttl_ms) then return end
  lost[#lost + 1] = lease_row(q, entry, false, task_id, record)
end

for i, record_key in ipairs(record_keys) do
  local task_id = task_args(i)
  local record = read_if_record(record_key, packed[i])
  if record then check_record(record_key, result_keys[i], task_id, record) end
end
return lost
