-- Reads the callers of a deprecated route.
--@keys call_counts last_calls
--@args retention_ms
-- call_counts: a hash of calls by caller; last_calls: an index of callers by their last call
-- retention_ms: callers whose last call is older are left out
-- Reply: {callers and ms of their last calls, latest first; callers and their calls}
local since = now_ms() - retention_ms
local recent = redis.call('ZREVRANGEBYSCORE', last_calls, '+inf', '(' .. since, 'WITHSCORES')
return { recent, redis.call('HGETALL', call_counts) }
