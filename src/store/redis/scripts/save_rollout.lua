-- Saves a route's rollout state if nobody else did since it was read.
-- KEYS 1 rollout
-- ARGV 1 version to write  2 state
-- Reply: 1 saved, 0 another writer was first
local stored = tonumber(redis.call('HGET', KEYS[1], 'version') or 0)
if stored ~= ARGV[1] - 1 then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'state', ARGV[2])
return 1
