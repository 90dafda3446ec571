-- Puts delayed new tasks that are due into their streams. Their messages are the truth; the index is made anew
-- from the records where it is not whole.
-- KEYS per queue: stream, delayed new tasks, their index, index of limits
-- ARGV 1 record prefix  2 tasks to promote at most  then per queue: group
-- Reply: {how many were promoted, what is wrong with a queue or ''}
local prefix, max, now, promoted, wrong = ARGV[1], tonumber(ARGV[2]), now_ms(), 0, ''

local function promote(stream, scheduled, index, limits, group)
  if redis.call('HLEN', scheduled) > redis.call('ZCARD', index) then
    for _, id in ipairs(redis.call('HKEYS', scheduled)) do
      redis.call('ZADD', index, 'NX', redis.call('HGET', prefix .. id, 'due') or now, id)
    end
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', now, 'LIMIT', 0, max - promoted)) do
    local data = redis.call('HGET', scheduled, id)
    if data then
      if redis.call('EXISTS', stream) == 0 then redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM') end
      local record, entry = read(prefix .. id), nil
      entry = redis.call('XADD', stream, '*', 'data', data)
      if record.queue then
        make_record(prefix .. id, record.queue, entry, record.created, record.retries or '', record.notify or '')
      end
      if record.limit then redis.call('ZADD', limits, record.limit, id) end
      redis.call('HDEL', prefix .. id, 'due', 'limit')
      redis.call('HDEL', scheduled, id)
      promoted = promoted + 1
    end
    redis.call('ZREM', index, id)
  end
end

-- one queue's keys may be broken: the others go on
for q = 1, #KEYS / 4 do
  local stream, scheduled, index, limits = unpack(KEYS, 4 * q - 3, 4 * q)
  local ok, error = pcall(promote, stream, scheduled, index, limits, ARGV[q + 2])
  if not ok then wrong = type(error) == 'table' and error.err or tostring(error) end
end
return { promoted, wrong }
