-- What is known of epochs: while somebody looks at it, it is kept.
-- KEYS per epoch: tally, what processes counted
-- ARGV 1 s that both are kept
-- Reply per epoch: {tally, counts}, each as fields and values
local known = {}
for i = 1, #KEYS, 2 do
  known[#known + 1] = { redis.call('HGETALL', KEYS[i]), redis.call('HGETALL', KEYS[i + 1]) }
  redis.call('EXPIRE', KEYS[i], ARGV[1])
  redis.call('EXPIRE', KEYS[i + 1], ARGV[1])
end
return known
