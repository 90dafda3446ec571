-- Reads the heartbeats of the processes that live.
--@keys workers_index
--@args heartbeat_prefix ttl_ms
-- Reply per process: {process, heartbeat, its age in ms}
local replies = {}
for _, process in ipairs(redis.call('ZRANGE', workers_index, 0, -1)) do
  local key = heartbeat_prefix .. process
  local heartbeat = redis.call('GET', key)
  if heartbeat then
    replies[#replies + 1] = { process, heartbeat, math.max(0, ttl_ms - redis.call('PTTL', key)) }
  end
end
return replies
