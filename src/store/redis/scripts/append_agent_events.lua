-- Appends events to the stream that the Python program's `metrics` command reads, where a Python
-- agent has created it.
--@keys agent_events
--@args per event: event
-- Reply: 1 if the stream exists, else 0
if redis.call('EXISTS', agent_events) == 0 then return 0 end
for i = 1, event_count do
  local event = event_args(i)
  redis.call('XADD', agent_events, 'NOMKSTREAM', 'MAXLEN', '~', 100000, '*', 'data', event)
end
return 1
