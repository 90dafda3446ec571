-- Adds events to the stream that the Python program's `metrics` reads, where a Python agent has begun one.
-- KEYS 1 stream
-- ARGV the events
-- Reply: whether there is such a stream
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for _, event in ipairs(ARGV) do
  redis.call('XADD', KEYS[1], 'NOMKSTREAM', 'MAXLEN', '~', 100000, '*', 'data', event)
end
return 1
