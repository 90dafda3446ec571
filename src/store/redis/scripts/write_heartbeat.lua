-- Records that a process lives: in a key that expires, and in the index of the processes.
--@keys heartbeat workers_index
--@args process heartbeat_json ttl_ms
redis.call('SET', heartbeat, heartbeat_json, 'PX', ttl_ms)
redis.call('ZADD', workers_index, now_ms(), process)
redis.call('ZREMRANGEBYSCORE', workers_index, '-inf', now_ms() - ttl_ms)
return 1
