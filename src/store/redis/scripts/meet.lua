-- Says that a replica is there and what it counted, takes or renews the lead, and tells of the others and of rollouts.
-- KEYS 1 replica  2 index of replicas  3 lead  4 term  then per route: its rollout  then per epoch: what processes counted
-- ARGV 1 process  2 what it says  3 whether it would lead  4 ms that presence and lead last  5 s that counts are kept
--      6 replica prefix  7 number of routes  then per epoch: what it counted
-- Reply: {its term if it leads, who leads, {name, what it says} per replica, {version, state} per route, now in ms}
local process, lasts, routes, now = ARGV[1], ARGV[4], tonumber(ARGV[7]), now_ms()
redis.call('SET', KEYS[1], ARGV[2], 'PX', lasts)
redis.call('ZADD', KEYS[2], now, process)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - lasts)
for i = 5 + routes, #KEYS do
  redis.call('HSET', KEYS[i], process, ARGV[i - routes + 3])
  redis.call('EXPIRE', KEYS[i], ARGV[5])
end

-- A leader that would lead no more gives it up.
local leader, term = redis.call('GET', KEYS[3]), false
if ARGV[3] == '1' and not leader then
  leader = process
  redis.call('INCR', KEYS[4])
  redis.call('SET', KEYS[3], process, 'PX', lasts)
elseif leader == process and ARGV[3] == '1' then
  redis.call('PEXPIRE', KEYS[3], lasts)
elseif leader == process then
  leader = false
  redis.call('DEL', KEYS[3])
end
if leader == process then term = redis.call('GET', KEYS[4]) end

local replicas, records = {}, {}
for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local about = redis.call('GET', ARGV[6] .. name)
  if about then replicas[#replicas + 1] = { name, about } end
end
for i = 1, routes do records[i] = redis.call('HMGET', KEYS[4 + i], 'version', 'state') end
return { term, leader, replicas, records, now }
