-- Adds calls to those of their callers, and forgets who has not called for long.
-- KEYS 1 calls by caller  2 callers by their last call
-- ARGV 1 ms after which a caller is forgotten  2 names at most  3 name of the rest  then per caller: name, calls, ms
local calls, last, names = KEYS[1], KEYS[2], tonumber(ARGV[2])
for _, who in ipairs(redis.call('ZRANGEBYSCORE', last, '-inf', now_ms() - ARGV[1])) do
  redis.call('HDEL', calls, who)
  redis.call('ZREM', last, who)
end
local known = redis.call('ZCARD', last)
if redis.call('ZSCORE', last, ARGV[3]) then names = names + 1 end
for i = 4, #ARGV, 3 do
  local who, n, at = unpack(ARGV, i, i + 2)
  if not redis.call('ZSCORE', last, who) then
    if known >= names then
      who = ARGV[3]
    else
      known = known + 1
    end
  end
  redis.call('HINCRBY', calls, who, n)
  redis.call('ZADD', last, 'GT', at, who)
end
redis.call('PEXPIRE', calls, ARGV[1])
redis.call('PEXPIRE', last, ARGV[1])
return 1
