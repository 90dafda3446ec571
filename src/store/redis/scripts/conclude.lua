-- Says how a claimed request was served, if the claim is still its holder's.
-- KEYS 1 claim
-- ARGV 1 holder  2 state  3 task, or ''  4 answer, or ''  5 ttl ms
-- Reply: 1 noted, 0 not
local key = KEYS[1]
if redis.call('HGET', key, 'holder') ~= ARGV[1] then return 0 end
redis.call('HDEL', key, 'holder', 'lease')
redis.call('HSET', key, 'state', ARGV[2])
if ARGV[3] ~= '' then redis.call('HSET', key, 'task', ARGV[3]) end
if ARGV[4] ~= '' then redis.call('HSET', key, 'answer', ARGV[4]) end
redis.call('PEXPIRE', key, ARGV[5])
return 1
