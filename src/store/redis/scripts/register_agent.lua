-- Registers a queue's agent in the keys where the Python program reads its agents. An agent that is
-- registered already is not changed: it may be a Python agent.
--@keys agent topic_agents agent_topics
--@args name topic description created_at_s
if redis.call('EXISTS', agent) == 0 then
  redis.call('HSET', agent, 'name', name, 'callback_name', 'omnidaemon', 'tools', '[]',
    'description', description, 'config', '{}', 'topic', topic, 'created_at', created_at_s)
end
redis.call('SADD', topic_agents, name)
redis.call('SADD', agent_topics, topic)
return 1
