-- Says that a process lives, in a key that expires and in the index of such keys.
-- KEYS 1 heartbeat  2 index
-- ARGV 1 process  2 heartbeat JSON  3 ms it counts for
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[2], now_ms(), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now_ms() - ARGV[3])
return 1
