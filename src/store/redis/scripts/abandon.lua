-- Gives a claim up, if it is still its holder's: the next one may have it.
-- KEYS 1 claim
-- ARGV 1 holder
-- Reply: 1 given up, 0 not
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
