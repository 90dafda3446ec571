-- Notes how far a leased attempt has come.
-- KEYS 1 record
-- ARGV 1 attempt  2 turn  3 progress
-- Reply: 1 noted, 0 the lease is not the current one
local record = read(KEYS[1])
if not is_current(record, ARGV[1], ARGV[2]) then return 0 end
unfold(KEYS[1], record)
redis.call('HSET', KEYS[1], 'progress', ARGV[3])
return 1
