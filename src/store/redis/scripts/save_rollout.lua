-- Saves a route's rollout state, and events with it, if nobody else saved it since it was read, and nobody else leads.
-- KEYS 1 rollout  2 its history  3 lead  4 term
-- ARGV 1 version to write  2 state  3 term in which it was decided, or ''  4 entries of the history that are kept
--      5… events
-- Reply: 1 saved, 0 another was first or leads
local stored = tonumber(redis.call('HGET', KEYS[1], 'version') or 0)
if stored ~= ARGV[1] - 1 then return 0 end
if ARGV[3] ~= '' and (redis.call('EXISTS', KEYS[3]) == 0 or redis.call('GET', KEYS[4]) ~= ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'state', ARGV[2])
for i = 5, #ARGV do redis.call('XADD', KEYS[2], 'MAXLEN', '=', ARGV[4], '*', 'event', ARGV[i]) end
return 1
