-- Records the outcome of a claimed delivery. A delivery that was claimed again since, or that a
-- later end of the task replaced, is left alone.
--@keys outbox delivery
--@args name lease_number attempt status retry_delay_ms error_message settled_ttl_ms
-- status: a pending delivery is tried again after retry_delay_ms
-- error_message: '' without an error
-- settled_ttl_ms: how long a settled delivery is kept
-- Reply: 1 recorded, 0 not
local found = read_hash_fields(delivery, 'turn', 'attempts')
if found.turn ~= lease_number or found.attempts ~= attempt then return 0 end
redis.call('HSET', delivery, 'status', status)
if error_message ~= '' then redis.call('HSET', delivery, 'error', error_message) end
if status == 'pending' then
  redis.call('ZADD', outbox, now_ms() + retry_delay_ms, name)
  -- without an error the attempt does not count
  if error_message == '' then redis.call('HINCRBY', delivery, 'attempts', -1) end
else
  redis.call('ZREM', outbox, name)
  redis.call('HDEL', delivery, 'body')
  redis.call('PEXPIRE', delivery, settled_ttl_ms)
end
return 1
