-- Reads a page of dead letters, newest first; of large ones the edges, without the payload between
-- them. Redis reads an entry whole, so a call ends when it has read enough.
--@keys dead_letters
--@args range_end max_letters whole_bytes edge_bytes
-- range_end: where the page begins, as XREVRANGE takes it
-- whole_bytes: a larger dead letter is given by its first and last edge_bytes
-- Reply: {rows of {entry, size, all or the beginning, '' or the end}, where the next page begins or
-- '' at the end}
local rows, from, bytes = {}, range_end, 0
local MAX_BYTES = 4 * 1024 * 1024
for _ = 1, max_letters do
  local letter = redis.call('XREVRANGE', dead_letters, from, '-', 'COUNT', 1)[1]
  if not letter then return { rows, '' } end
  local data = entry_data(letter[2]) or ''
  if #data <= tonumber(whole_bytes) then
    rows[#rows + 1] = { letter[1], #data, data, '' }
  else
    rows[#rows + 1] = { letter[1], #data, data:sub(1, edge_bytes), data:sub(-edge_bytes) }
  end
  from, bytes = '(' .. letter[1], bytes + #data
  if bytes > MAX_BYTES then break end
end
return { rows, from }
