-- Searches the dead letters for one of a task, newest first. A letter that contains the id may be
-- of another task: the caller checks it.
--@keys dead_letters
--@args task_id range_end
-- task_id: or the id of the dead letter's own entry
-- range_end: where the search begins, as XREVRANGE takes it
-- Reply: {entry, data}, or {'', where the next search begins or ''}
local from, quoted_id, bytes = range_end, '"' .. task_id .. '"', 0
local MAX_LETTERS, MAX_BYTES = 1000, 4 * 1024 * 1024
for _ = 1, MAX_LETTERS do
  local letter = redis.call('XREVRANGE', dead_letters, from, '-', 'COUNT', 1)[1]
  if not letter then return { '', '' } end
  local data = entry_data(letter[2])
  if data and (letter[1] == task_id or data:find(quoted_id, 1, true)) then
    return { letter[1], data }
  end
  from, bytes = '(' .. letter[1], bytes + #(data or '')
  if bytes > MAX_BYTES then break end
end
return { '', from }
