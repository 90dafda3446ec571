-- Writes a replica's report and counts, takes or renews the lead of the rollouts, and reads the
-- reports of all replicas and the rollouts.
--@keys replica replicas_index leader leader_term
--@keys per route: rollout
--@keys per epoch: replica_counts
--@args process report_json wants_lead ttl_ms counts_ttl_s replica_prefix route_count
--@args per epoch: counts_json
-- wants_lead: 1 where the replica would lead; a leader that does not want to lead gives up the lead
-- ttl_ms: how long the report and the lead last
-- Reply: {the term if this replica leads, the leader's name, {name, report} per replica, {version,
-- state} per route, the server's time in ms}
local now = now_ms()
redis.call('SET', replica, report_json, 'PX', ttl_ms)
redis.call('ZADD', replicas_index, now, process)
redis.call('ZREMRANGEBYSCORE', replicas_index, '-inf', now - ttl_ms)
for i = 1, epoch_count do
  local replica_counts = epoch_keys(i)
  local counts_json = epoch_args(i)
  redis.call('HSET', replica_counts, process, counts_json)
  redis.call('EXPIRE', replica_counts, counts_ttl_s)
end

local leader_name, term = redis.call('GET', leader), false
if wants_lead == '1' and not leader_name then
  leader_name = process
  redis.call('INCR', leader_term)
  redis.call('SET', leader, process, 'PX', ttl_ms)
elseif leader_name == process and wants_lead == '1' then
  redis.call('PEXPIRE', leader, ttl_ms)
elseif leader_name == process then
  leader_name = false
  redis.call('DEL', leader)
end
if leader_name == process then term = redis.call('GET', leader_term) end

local replicas, rollouts = {}, {}
for _, name in ipairs(redis.call('ZRANGE', replicas_index, 0, -1)) do
  local report = redis.call('GET', replica_prefix .. name)
  if report then replicas[#replicas + 1] = { name, report } end
end
for i = 1, route_count do
  local rollout = route_keys(i)
  rollouts[i] = redis.call('HMGET', rollout, 'version', 'state')
end
return { term, leader_name, replicas, rollouts, now }
