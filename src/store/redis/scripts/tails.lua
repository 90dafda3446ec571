-- The ends of many results: what is said of them in short is there.
-- KEYS the results
-- ARGV 1 bytes
-- Reply: per result its end, '' where there is none any more
local tails = {}
for i, key in ipairs(KEYS) do tails[i] = redis.call('GETRANGE', key, -tonumber(ARGV[1]), -1) end
return tails
