-- Reads which consumers of other programs read queues, and how many tasks of each are open.
--@keys per queue: stream delayed_index subscription
--@args per queue: group
-- subscription: 'true' while a Python agent is subscribed to the group, also after the agent died
-- Reply per queue: {open tasks, groups of the stream, consumers of other programs}; each consumer
-- is {name, ms since it last read or claimed, entries that it holds}

-- Before 7.2 the server neither lists a consumer before its first entry nor notes that it reads
-- in vain. There a subscribed agent counts as reading while no entry waits to be read, and as idle
-- since the oldest such entry came.
local NOTES_READS = redis.REDIS_VERSION_NUM and redis.REDIS_VERSION_NUM >= 0x00070200

local function oldest_unread_ms(stream, group)
  local info = read_group_info(stream, group)
  local last = info and info['last-delivered-id'] or '0-0'
  local entry = redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)[1]
  return entry and math.max(0, now_ms() - entry_ms(entry[1])) or 0
end

local replies = {}
for q = 1, queue_count do
  local stream, delayed_index, subscription = queue_keys(q)
  local group = queue_args(q)
  local groups, consumers = {}, {}
  for _, info in ipairs(redis.pcall('XINFO', 'GROUPS', stream)) do
    groups[#groups + 1] = pairs_to_table(info).name
  end
  local is_subscribed = not NOTES_READS and redis.call('GET', subscription) == 'true'
  local unread_ms = is_subscribed and oldest_unread_ms(stream, group)
  for _, info in ipairs(redis.pcall('XINFO', 'CONSUMERS', stream, group)) do
    local consumer = pairs_to_table(info)
    if consumer.name ~= DELAYED_CONSUMER and not consumer.name:find(OUR_CONSUMER_MARK, 1, true) then
      local idle_ms = unread_ms and math.min(unread_ms, consumer.idle) or consumer.idle
      consumers[#consumers + 1] = { consumer.name, idle_ms, consumer.pending }
    end
  end
  if is_subscribed and #consumers == 0 then
    consumers[1] = { 'a subscribed agent', unread_ms, 0 }
  end
  replies[q] = { count_open(stream, group, delayed_index), groups, consumers }
end
return replies
