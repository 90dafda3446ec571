-- Makes a dead letter a queued task again. What can fail comes first, and the letter goes last.
-- KEYS 1 record  2 result  3 results index  4 stream  5 dead letters  6 index of limits
-- ARGV 1 the letter's entry  2 group  3 queue  4 task id  5 data  6 created, ms  7 retries, or '' where nothing is known
--      8 ms within which others must end it, or ''  9… more fields and values of the record
-- Reply: 1 queued, 0 no such letter, -1 a task of that id is alive
local key, stream, dead = KEYS[1], KEYS[4], KEYS[5]
local record = read(key)
if record.queue and not record.state then return -1 end
if #redis.call('XRANGE', dead, ARGV[1], ARGV[1]) == 0 then return 0 end
if redis.call('EXISTS', stream) == 0 then
  redis.call('XGROUP', 'CREATE', stream, ARGV[2], '0', 'MKSTREAM')
end
local entry = redis.call('XADD', stream, '*', 'data', ARGV[5])
redis.call('DEL', key, KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[4])
-- a turn that no lease of its first life had: whoever still runs one of those is fenced
make_record(key, ARGV[3], entry, ARGV[6], ARGV[7], '', 'attempt', 0, 'turn', now_ms(), unpack(ARGV, 9))
if ARGV[8] ~= '' then redis.call('ZADD', KEYS[6], now_ms() + ARGV[8], ARGV[4]) end
redis.call('XDEL', dead, ARGV[1])
return 1
