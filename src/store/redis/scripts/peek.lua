-- Which of many tasks have ended; a result without a final record is of a consumer of another make.
-- KEYS per task: record, result
-- Reply: per task 0 unfinished, 1 ended, 2 unknown
local found = {}
for i = 1, #KEYS / 2 do
  local record = read(KEYS[2 * i - 1])
  if (record.queue and record.state) or redis.call('EXISTS', KEYS[2 * i]) == 1 then
    found[i] = 1
  else
    found[i] = record.queue and 0 or 2
  end
end
return found
