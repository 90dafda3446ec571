-- Who called of late.
-- KEYS 1 calls by caller  2 callers by their last call
-- ARGV 1 ms after which a caller is forgotten
-- Reply: {callers and ms of their last call, the first that did last; callers and their calls}
local since = now_ms() - ARGV[1]
return { redis.call('ZREVRANGEBYSCORE', KEYS[2], '+inf', '(' .. since, 'WITHSCORES'), redis.call('HGETALL', KEYS[1]) }
