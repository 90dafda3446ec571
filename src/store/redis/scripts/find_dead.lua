-- Looks for the dead letter of a task, from the newest on; what it names may be something else's, so the caller looks.
-- KEYS 1 dead letters
-- ARGV 1 id  2 where to start, as XREVRANGE takes it
-- Reply: {entry, data}, or {'', where the next look starts or ''}
local id, from, quoted, LOOKS = ARGV[1], ARGV[2], '"' .. ARGV[1] .. '"', 10
for _ = 1, LOOKS do
  local page = redis.call('XREVRANGE', KEYS[1], from, '-', 'COUNT', 100)
  for _, letter in ipairs(page) do
    local data = data_of(letter[2])
    if data and (letter[1] == id or data:find(quoted, 1, true)) then return { letter[1], data } end
  end
  if #page < 100 then return { '', '' } end
  from = '(' .. page[#page][1]
end
return { '', from }
