-- Removes a replica from the list of replicas, and gives up its lead.
--@keys replica replicas_index leader
--@args process
redis.call('DEL', replica)
redis.call('ZREM', replicas_index, process)
if redis.call('GET', leader) == process then redis.call('DEL', leader) end
return 1
