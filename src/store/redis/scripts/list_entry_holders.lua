-- Lists this program's consumers that hold entries.
--@keys per queue: stream
--@args consumer_mark
--@args per queue: group
-- consumer_mark: the part of the name by which a consumer is this program's
-- Reply per queue: the names of the consumers
local replies = {}
for q = 1, queue_count do
  local stream = queue_keys(q)
  local group = queue_args(q)
  replies[q] = {}
  for _, info in ipairs(redis.pcall('XINFO', 'CONSUMERS', stream, group)) do
    local consumer = pairs_to_table(info)
    if consumer.pending > 0 and consumer.name:find(consumer_mark, 1, true) then
      table.insert(replies[q], consumer.name)
    end
  end
end
return replies
