-- Gives up the claim of an idempotency key, so that the next request with the key may have it.
--@keys claim
--@args holder_id
-- Reply: 1 given up; 0 the claim is of another holder
if redis.call('HGET', claim, 'holder') ~= holder_id then return 0 end
return redis.call('DEL', claim)
