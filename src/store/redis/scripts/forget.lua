-- Takes consumers of ours off a group whose processes are long gone. Only with nothing pending: that would go too.
-- KEYS 1 stream
-- ARGV 1 group  2 the mark of our consumers  3 ms that they must have been idle
-- Reply: how many
local gone = 0
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
for _, info in ipairs(consumers) do
  local consumer = {}
  for i = 1, #info, 2 do consumer[info[i]] = info[i + 1] end
  if consumer.name:find(ARGV[2], 1, true) and consumer.pending == 0 and consumer.idle >= tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
    gone = gone + 1
  end
end
return gone
