-- Takes a replica off the list, and the lead from it.
-- KEYS 1 replica  2 index of replicas  3 lead
-- ARGV 1 process
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('GET', KEYS[3]) == ARGV[1] then redis.call('DEL', KEYS[3]) end
return 1
