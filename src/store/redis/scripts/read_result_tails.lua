-- Reads the ends of many results: the summary of the task is there.
--@keys per result: result_key
--@args tail_bytes
-- Reply: per result its end, '' where it has expired
local tails, first = {}, -tonumber(tail_bytes)
for i = 1, result_count do
  local result_key = result_keys(i)
  tails[i] = redis.call('GETRANGE', result_key, first, -1)
end
return tails
