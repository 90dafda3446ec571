-- Which consumers of ours hold entries.
-- KEYS per queue: stream
-- ARGV 1 the mark of our consumers  then per queue: group
-- Reply per queue: the consumers
local reply = {}
for q = 1, #KEYS do
  reply[q] = {}
  for _, info in ipairs(redis.pcall('XINFO', 'CONSUMERS', KEYS[q], ARGV[q + 1])) do
    local consumer = fields_of(info)
    if consumer.pending > 0 and consumer.name:find(ARGV[1], 1, true) then
      table.insert(reply[q], consumer.name)
    end
  end
end
return reply
