-- A stretch of a topic's unfinished tasks, newest first.
-- KEYS 1 stream
-- ARGV 1 record prefix  2 result prefix  3 topic  4 group  5 newest entry, '+' or '(entry'  6 how many tasks
--      7 how many entries to look at
-- Reply: {rows of {entry, task id, created, attempts, whether a consumer holds it}, the last entry looked at or ''}
local stream, rows, from, left = KEYS[1], {}, ARGV[5], tonumber(ARGV[7])
while left > 0 and #rows < tonumber(ARGV[6]) do
  local page = redis.call('XREVRANGE', stream, from, '-', 'COUNT', math.min(left, 100))
  for _, found in ipairs(page) do
    local entry = found[1]
    from, left = '(' .. entry, left - 1
    local id, created = identify(ARGV[3], entry, data_of(found[2]))
    if id then
      local record = read(ARGV[1] .. id)
      -- another entry of the same id has another name; see adopt
      local mine = not record.entry or record.entry == entry
      if mine and not record.state and redis.call('EXISTS', ARGV[2] .. id) == 0 then
        local consumer = holder(stream, ARGV[4], entry)
        local held = consumer and consumer ~= PARKED
        rows[#rows + 1] = { entry, id, record.created or created, record.attempt, held and 1 or 0 }
        if #rows >= tonumber(ARGV[6]) then break end
      end
    end
  end
  if #page < 100 and #rows < tonumber(ARGV[6]) then return { rows, '' } end
end
return { rows, from:sub(2) }
