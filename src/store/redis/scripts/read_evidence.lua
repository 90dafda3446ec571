-- Reads what is known of epochs of a rollout, and keeps it for another while.
--@keys per epoch: tally replica_counts
--@args retention_s
-- replica_counts: what each process has counted
-- Reply per epoch: {tally, counts of the processes}, each as fields and values
local replies = {}
for i = 1, epoch_count do
  local tally, replica_counts = epoch_keys(i)
  replies[i] = { redis.call('HGETALL', tally), redis.call('HGETALL', replica_counts) }
  redis.call('EXPIRE', tally, retention_s)
  redis.call('EXPIRE', replica_counts, retention_s)
end
return replies
