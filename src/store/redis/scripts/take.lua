-- Takes deliveries that are due, as many as come over in time, and hides them for a while.
-- KEYS 1 outbox
-- ARGV 1 how many  2 ms to hide them for
-- Reply: {name, about, turn, state, body, ended, attempt} each
local taken, bytes, now, ENOUGH = {}, 0, now_ms(), 4 * 1024 * 1024
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])) do
  if bytes > ENOUGH then break end
  local key = KEYS[1] .. ':' .. name
  local found = fields(key, 'about', 'turn', 'state', 'body', 'ended')
  if found.body then
    redis.call('ZADD', KEYS[1], now + ARGV[2], name)
    local attempt = redis.call('HINCRBY', key, 'attempts', 1)
    taken[#taken + 1] = { name, found.about, found.turn, found.state, found.body, found.ended, attempt }
    bytes = bytes + #found.body
  else
    redis.call('ZREM', KEYS[1], name)
  end
end
return taken
