-- Claims an idempotency key, or renews the claim.
-- KEYS 1 claim: a hash of request, holder, lease (ms until), task; once it was served also state and answer
-- ARGV 1 request  2 holder  3 task  4 lease ms  5 ttl ms  6 the task that this replaces, or ''
-- Reply: {mine, busy, other or the state, task, 1 if nobody can have begun with it, answer}
local key, now = KEYS[1], now_ms()
local found = fields(key, 'request', 'holder', 'lease', 'task', 'state', 'answer')
if found.request and found.request ~= ARGV[1] then return { 'other', false, 0, false } end
local replaced = found.task == ARGV[6] and (not found.state or found.state == 'task')
if found.state and not replaced then return { found.state, found.task, 0, found.answer } end
if found.holder and found.holder ~= ARGV[2] and tonumber(found.lease) > now then return { 'busy', false, 0, false } end
local fresh = replaced or not found.request
local task = fresh and ARGV[3] or found.task
redis.call('HDEL', key, 'state')
redis.call('HSET', key, 'request', ARGV[1], 'holder', ARGV[2], 'lease', now + ARGV[4], 'task', task)
redis.call('PEXPIRE', key, ARGV[5])
return { 'mine', task, fresh and 1 or 0, false }
