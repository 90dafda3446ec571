-- Records how the request of a claim was served.
--@keys claim
--@args holder_id state task_id answer ttl_ms
-- task_id, answer: '' where there is none
-- Reply: 1 recorded; 0 the claim is of another holder
if redis.call('HGET', claim, 'holder') ~= holder_id then return 0 end
redis.call('HDEL', claim, 'holder', 'lease')
redis.call('HSET', claim, 'state', state)
if task_id ~= '' then redis.call('HSET', claim, 'task', task_id) end
if answer ~= '' then redis.call('HSET', claim, 'answer', answer) end
redis.call('PEXPIRE', claim, ttl_ms)
return 1
