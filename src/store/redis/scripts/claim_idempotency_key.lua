-- Claims an idempotency key, or renews the claim. The claim is a hash of the request's digest
-- (request), the holder, the time until which it is held (lease, ms) and the task; after the
-- request was served also of the state and the answer.
--@keys claim
--@args request_digest holder_id task_id lease_ms ttl_ms replaced_task_id
-- replaced_task_id: the task that this claim replaces, or ''
-- Reply: {'mine', 'busy', 'other' (another request has the key) or the state; the task; 1 if no
-- earlier claim can have begun with it; the answer}
local now = now_ms()
local found = read_hash_fields(claim, 'request', 'holder', 'lease', 'task', 'state', 'answer')
if found.request and found.request ~= request_digest then return { 'other', false, 0, false } end
local is_replaced = found.task == replaced_task_id and (not found.state or found.state == 'task')
if found.state and not is_replaced then return { found.state, found.task, 0, found.answer } end
if found.holder and found.holder ~= holder_id and tonumber(found.lease) > now then
  return { 'busy', false, 0, false }
end
local is_new = is_replaced or not found.request
local task = is_new and task_id or found.task
redis.call('HDEL', claim, 'state')
redis.call('HSET', claim, 'request', request_digest, 'holder', holder_id, 'lease', now + lease_ms,
  'task', task)
redis.call('PEXPIRE', claim, ttl_ms)
return { 'mine', task, is_new and 1 or 0, false }
