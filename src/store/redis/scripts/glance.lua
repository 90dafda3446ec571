-- Many tasks as they stand, without what they were given and what they gave.
-- KEYS per task: record, result
-- ARGV 1 stream prefix  2 group prefix
-- Reply: per task {0} unknown, {1} ended, or {2, whether a consumer holds the entry, attempt, turn, progress}
local found = {}
for i = 1, #KEYS / 2 do
  local record = read(KEYS[2 * i - 1])
  if (record.queue and record.state) or redis.call('EXISTS', KEYS[2 * i]) == 1 then
    found[i] = { 1 }
  elseif not record.queue then
    found[i] = { 0 }
  else
    local stream, group = ARGV[1] .. record.queue:match('^[^:]+'), ARGV[2] .. record.queue
    local consumer = holder(stream, group, record.entry)
    local held = record.renewed or (consumer and consumer ~= PARKED)
    found[i] = { 2, held and 1 or 0, record.attempt, record.turn, record.progress }
  end
end
return found
