-- Adds calls of a deprecated route to its callers' counts, and forgets callers that have not called
-- for long.
--@keys call_counts last_calls
--@args retention_ms max_callers other_callers
--@args per caller: name calls last_call_ms
-- call_counts: a hash of calls by caller; last_calls: an index of callers by their last call
-- retention_ms: callers whose last call is older are forgotten
-- max_callers: how many callers are counted by name; the others are counted as other_callers
max_callers = tonumber(max_callers)
local forgotten = redis.call('ZRANGEBYSCORE', last_calls, '-inf', now_ms() - retention_ms)
for _, name in ipairs(forgotten) do
  redis.call('HDEL', call_counts, name)
  redis.call('ZREM', last_calls, name)
end
local named = redis.call('ZCARD', last_calls)
if redis.call('ZSCORE', last_calls, other_callers) then max_callers = max_callers + 1 end
for i = 1, caller_count do
  local name, calls, last_call_ms = caller_args(i)
  if not redis.call('ZSCORE', last_calls, name) then
    if named >= max_callers then
      name = other_callers
    else
      named = named + 1
    end
  end
  redis.call('HINCRBY', call_counts, name, calls)
  redis.call('ZADD', last_calls, 'GT', last_call_ms, name)
end
redis.call('PEXPIRE', call_counts, retention_ms)
redis.call('PEXPIRE', last_calls, retention_ms)
return 1
