-- Cancels a task. One that is not there is cancelled ahead, for a while: its enqueue may still be on its way, over a
-- connection that was given up.
-- KEYS 1 record  2 result  3 outbox
-- ARGV 1 ttl ms  2 task id  3 own channel, without its prefix  4 stream prefix  5 group prefix  6 delayed prefix
--      7 channel prefix  8 ms to cancel ahead for  9 prefix of delayed new tasks and 10 of their index
--      11 prefix of tallies
-- Reply: 'done', 'running', the state it has ended as, or nil when unknown
local key = KEYS[1]
local record = read(key)
if not record.queue then
  local ended = read_end(KEYS[2])
  if ended then return ended.state or 'completed' end
  redis.call('HSET', key, 'state', 'cancelled')
  redis.call('PEXPIRE', key, ARGV[8])
  return nil
end
if record.state then return record.state == 'cancelled' and 'done' or record.state end
if redis.call('EXISTS', KEYS[2]) == 1 then return 'completed' end
local tally = reach_tally(ARGV[11], record)
local group = ARGV[5] .. record.queue
local stream, entry = ARGV[4] .. record.queue:match('^[^:]+'), record.entry
local consumer, data, turn, now = entry and holder(stream, group, entry), nil, (record.turn or 1) + 2, now_ms()
if entry then
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  data = found and data_of(found[2])
  redis.call('XACK', stream, group, entry)
  drop(stream, entry)
  redis.call('ZREM', ARGV[6] .. group, entry)
else
  data = redis.call('HGET', ARGV[9] .. group, ARGV[2])
  redis.call('HDEL', ARGV[9] .. group, ARGV[2])
  redis.call('ZREM', ARGV[10] .. group, ARGV[2])
end
local running = consumer and consumer ~= PARKED
unfold(key, record)
redis.call('HSET', key, 'state', 'cancelled', 'ended', now, 'turn', turn)
if running then redis.call('HSETNX', key, 'attempt', 1) end
redis.call('HDEL', key, 'secret', 'due', 'failure')
redis.call('PEXPIRE', key, ARGV[1])
if tally then add_tally(tally, 'cancelled', 1) end
-- most tasks name nobody, and need not be decoded for it
local decoded, message = false, nil
if data and data:find('"webhook":%s*"') then decoded, message = pcall(cjson.decode, data) end
if decoded and type(message) == 'table' and type(message.webhook) == 'string' then
  local about = { target = message.webhook, owner = record.owner or nil }
  post(KEYS[3], ARGV[2], turn, 'cancelled', cjson.encode({ { 'webhook', cjson.encode(about) } }), data, now)
end
if record.notify and record.notify ~= ARGV[3] then redis.call('PUBLISH', ARGV[7] .. record.notify, ARGV[2]) end
return running and 'running' or 'done'
