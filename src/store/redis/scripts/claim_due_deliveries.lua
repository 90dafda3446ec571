-- Claims deliveries that are due, as many as fit into a reply of a moderate size, and hides them
-- from other calls for a while.
--@keys outbox
--@args max_deliveries hide_for_ms
-- Reply per delivery: {name, target, lease number, state, body, ended, attempt}
local claimed, bytes, now, MAX_BYTES = {}, 0, now_ms(), 4 * 1024 * 1024
local due = redis.call('ZRANGEBYSCORE', outbox, '-inf', now, 'LIMIT', 0, max_deliveries)
for _, name in ipairs(due) do
  if bytes > MAX_BYTES then break end
  local delivery = outbox .. ':' .. name
  local found = read_hash_fields(delivery, 'about', 'turn', 'state', 'body', 'ended')
  if found.body then
    redis.call('ZADD', outbox, now + hide_for_ms, name)
    local attempt = redis.call('HINCRBY', delivery, 'attempts', 1)
    claimed[#claimed + 1] =
      { name, found.about, found.turn, found.state, found.body, found.ended, attempt }
    bytes = bytes + #found.body
  else
    redis.call('ZREM', outbox, name)
  end
end
return claimed
