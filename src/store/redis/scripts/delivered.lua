-- Says how a taken delivery went. One that was taken again since, or that a later end replaced, is left alone.
-- KEYS 1 outbox  2 delivery
-- ARGV 1 name  2 turn  3 attempt  4 status: pending is tried again, in  5 ms  6 error, or ''  7 ms to keep it for when settled
-- Reply: 1 noted, 0 not
local found = fields(KEYS[2], 'turn', 'attempts')
if found.turn ~= ARGV[2] or found.attempts ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[2], 'status', ARGV[4])
if ARGV[6] ~= '' then redis.call('HSET', KEYS[2], 'error', ARGV[6]) end
if ARGV[4] == 'pending' then
  redis.call('ZADD', KEYS[1], now_ms() + ARGV[5], ARGV[1])
  if ARGV[6] == '' then redis.call('HINCRBY', KEYS[2], 'attempts', -1) end
else
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], 'body')
  redis.call('PEXPIRE', KEYS[2], ARGV[7])
end
return 1
