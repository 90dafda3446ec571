-- Counts the tasks of queues.
--@keys per queue: stream delayed_index dead_letters scheduled_tasks
--@args per queue: group
-- Reply per queue: {unread (scheduled tasks included), delayed, leased, dead letters, age of the
-- oldest unread or delayed task in ms or -1}
local replies = {}
for q = 1, queue_count do
  local stream, delayed_index, dead_letters, scheduled_tasks = queue_keys(q)
  local group = queue_args(q)
  local info, unread = read_group_info(stream, group), count_unread(stream, group)
  local last, pending = info and info['last-delivered-id'] or '0-0', info and info.pending or 0
  local delayed, oldest_ms = 0, -1
  local summary = redis.pcall('XPENDING', stream, group)
  for _, consumer in ipairs(not summary.err and summary[4] or {}) do
    if consumer[1] == DELAYED_CONSUMER then delayed = tonumber(consumer[2]) end
  end
  local function include_age(entry)
    local age_ms = entry and math.max(0, now_ms() - entry_ms(entry[1]))
    if age_ms and age_ms > oldest_ms then oldest_ms = age_ms end
  end
  if unread > 0 then
    include_age(redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)[1])
  end
  if delayed > 0 then
    include_age(redis.call('XPENDING', stream, group, '-', '+', 1, DELAYED_CONSUMER)[1])
  end
  unread = unread + redis.call('HLEN', scheduled_tasks)
  local dead = redis.call('XLEN', dead_letters)
  replies[q] = { unread, delayed, pending - delayed, dead, oldest_ms }
end
return replies
