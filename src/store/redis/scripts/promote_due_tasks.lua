-- Puts scheduled tasks that are due into their streams. The hash of their messages is
-- authoritative; the index is restored from the records where it is incomplete.
--@keys per queue: stream scheduled_tasks scheduled_index deadline_index
--@args record_prefix max_tasks
--@args per queue: group
-- Reply: {how many were promoted, the error of a queue or ''}
local now, promoted, queue_error = now_ms(), 0, ''

local function promote(stream, scheduled_tasks, scheduled_index, deadline_index, group)
  if redis.call('HLEN', scheduled_tasks) > redis.call('ZCARD', scheduled_index) then
    for _, id in ipairs(redis.call('HKEYS', scheduled_tasks)) do
      local due = redis.call('HGET', record_prefix .. id, 'due') or now
      redis.call('ZADD', scheduled_index, 'NX', due, id)
    end
  end
  local due_ids =
    redis.call('ZRANGEBYSCORE', scheduled_index, '-inf', now, 'LIMIT', 0, max_tasks - promoted)
  for _, id in ipairs(due_ids) do
    local data = redis.call('HGET', scheduled_tasks, id)
    if data then
      if redis.call('EXISTS', stream) == 0 then
        redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
      end
      local record_key = record_prefix .. id
      local record = read_record(record_key)
      local entry = redis.call('XADD', stream, '*', 'data', data)
      if record.queue then
        write_record_hash(record_key, record.queue, entry, record.created,
          record.retries or '', record.notify or '')
      end
      if record.limit then redis.call('ZADD', deadline_index, record.limit, id) end
      redis.call('HDEL', record_key, 'due', 'limit')
      redis.call('HDEL', scheduled_tasks, id)
      promoted = promoted + 1
    end
    redis.call('ZREM', scheduled_index, id)
  end
end

-- a queue whose keys are broken does not stop the others
for q = 1, queue_count do
  local stream, scheduled_tasks, scheduled_index, deadline_index = queue_keys(q)
  local group = queue_args(q)
  local ok, error =
    pcall(promote, stream, scheduled_tasks, scheduled_index, deadline_index, group)
  if not ok then queue_error = error_text(error) end
end
return { promoted, queue_error }
