-- Which of these tasks have lost their entries, though nobody runs them: somebody else took those off the stream. Those
-- that a consumer of another make has ended get their end, as when they are asked for.
-- KEYS per task: record, result
-- ARGV 1 stream prefix  2 group prefix  3 prefix of tallies  4 ms within which a renewal counts  5 n, and n queues
--      then per task: its id
-- Reply: leases, by the position of the queue
local prefix, group_prefix, tallies, recent, n = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local queues, now, lost = {}, now_ms(), {}
for q = 1, n do queues[ARGV[5 + q]] = q end

local records, results = {}, {}
for i = 1, #KEYS / 2 do records[i], results[i] = KEYS[2 * i - 1], KEYS[2 * i] end
local packed, any_ended = redis.call('MGET', unpack(records)), redis.call('EXISTS', unpack(results)) > 0

-- The record; nil for what is none, which is nobody's task.
local function record_of(key, text)
  local record = text and unpacked(text)
  if record and record.queue then return record end
  return redis.call('TYPE', key).ok == 'hash' and read(key) or nil
end

local function look(key, result, id, record)
  local q, entry = queues[record.queue], record.entry
  if not q or record.state or not entry then return end
  local topic, agent = record.queue:match('^([^:]+):(.*)$')
  local stream, group = prefix .. topic, group_prefix .. record.queue
  local consumer = holder(stream, group, entry)
  if consumer and consumer ~= PARKED then return end
  if not consumer and any_ended and ended_by(agent, result) then return conclude(key, result, record, tallies) end
  if #redis.call('XRANGE', stream, entry, entry) > 0 then return end
  if record.renewed and now - record.renewed < recent then return end
  lost[#lost + 1] = lease_row(q, entry, false, id, record)
end

for i, key in ipairs(records) do
  local record = record_of(key, packed[i])
  if record then look(key, results[i], ARGV[5 + n + i], record) end
end
return lost
