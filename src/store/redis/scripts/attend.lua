-- What consumers of another make gave up, and what is past its limit: one look over all queues.
-- KEYS per queue: dead letters, index of limits
-- ARGV 1 dead letters at most, then per queue: the last dead letter that was seen
-- Reply per queue: {dead letters as {entry, data}, ids of tasks}
local reply = {}
for q = 1, #KEYS / 2 do
  local letters = redis.call('XRANGE', KEYS[2 * q - 1], '(' .. ARGV[q + 1], '+', 'COUNT', ARGV[1])
  for i, letter in ipairs(letters) do letters[i] = { letter[1], data_of(letter[2]) or '' } end
  reply[q] = { letters, redis.call('ZRANGEBYSCORE', KEYS[2 * q], '-inf', now_ms(), 'LIMIT', 0, 100) }
end
return reply
