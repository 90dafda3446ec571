-- Lists a queue's agent where the Python program looks for agents. One that is listed stays as it is: it may be Python's.
-- KEYS 1 agent  2 agents of the topic  3 topics
-- ARGV 1 name  2 topic  3 description  4 now, seconds
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'name', ARGV[1], 'callback_name', 'omnidaemon', 'tools', '[]', 'description', ARGV[3],
    'config', '{}', 'topic', ARGV[2], 'created_at', ARGV[4])
end
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('SADD', KEYS[3], ARGV[2])
return 1
