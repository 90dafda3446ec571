-- Removes this program's consumers from a group that have been idle for long: their processes have
-- ended. A consumer with pending entries stays, because they would be removed as well.
--@keys stream
--@args group consumer_mark min_idle_ms
-- consumer_mark: the part of the name by which a consumer is this program's
-- Reply: how many were removed
local removed = 0
local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, group)
for _, info in ipairs(consumers) do
  local consumer = pairs_to_table(info)
  if consumer.name:find(consumer_mark, 1, true) and consumer.pending == 0
    and consumer.idle >= tonumber(min_idle_ms) then
    redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer.name)
    removed = removed + 1
  end
end
return removed
