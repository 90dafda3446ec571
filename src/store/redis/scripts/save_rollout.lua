-- Saves a route's rollout state together with its events, unless the state was saved by another
-- replica since it was read, or another replica leads.
--@keys rollout history leader leader_term
--@args version state required_term max_history_entries
--@args per event: event
-- version: the version to write, one above the version that was read
-- required_term: the term in which the change was decided, or '' for a change without the lead
-- Reply: 1 saved; 0 not
local stored_version = tonumber(redis.call('HGET', rollout, 'version') or 0)
if stored_version ~= version - 1 then return 0 end
if required_term ~= ''
  and (redis.call('EXISTS', leader) == 0 or redis.call('GET', leader_term) ~= required_term) then
  return 0
end
redis.call('HSET', rollout, 'version', version, 'state', state)
for i = 1, event_count do
  local event = event_args(i)
  redis.call('XADD', history, 'MAXLEN', '=', max_history_entries, '*', 'event', event)
end
return 1
