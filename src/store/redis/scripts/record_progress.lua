-- Records the progress of a leased attempt.
--@keys record_key
--@args attempt lease_number progress
-- Reply: 1 recorded; 0 the lease is not the current one
local record = read_record(record_key)
if not is_current_lease(record, attempt, lease_number) then return 0 end
expand_record(record_key, record)
redis.call('HSET', record_key, 'progress', progress)
return 1
