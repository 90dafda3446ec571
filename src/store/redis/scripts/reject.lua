-- Makes a dead letter of an entry that is no task; its neighbours stay as they are.
-- KEYS 1 stream  2 dead letters  3 Python's retry counts
-- ARGV 1 group  2 entry  3 head and 4 tail of the dead letter
-- Reply: 1 done, 0 somebody else did
local stream, entry = KEYS[1], ARGV[2]
if not holder(stream, ARGV[1], entry) then return 0 end
-- first, since it can fail: without its dead letter nothing is acknowledged
add_dead_letter(KEYS[2], stream, entry, ARGV[3], ARGV[4], false)
redis.call('XACK', stream, ARGV[1], entry)
redis.call('HDEL', KEYS[3], entry)
drop(stream, entry)
return 1
