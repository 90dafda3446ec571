-- Looks for the dead letter of a task, from the newest on; what it names may be something else's, so the caller looks.
-- KEYS 1 dead letters
-- ARGV 1 id  2 where to start, as XREVRANGE takes it
-- Reply: {entry, data}, or {'', where the next look starts or ''}
local id, from, quoted, bytes = ARGV[1], ARGV[2], '"' .. ARGV[1] .. '"', 0
local LOOKS, ENOUGH = 1000, 4 * 1024 * 1024
for _ = 1, LOOKS do
  local letter = redis.call('XREVRANGE', KEYS[1], from, '-', 'COUNT', 1)[1]
  if not letter then return { '', '' } end
  local data = data_of(letter[2])
  if data and (letter[1] == id or data:find(quoted, 1, true)) then return { letter[1], data } end
  from, bytes = '(' .. letter[1], bytes + #(data or '')
  if bytes > ENOUGH then break end
end
return { '', from }
