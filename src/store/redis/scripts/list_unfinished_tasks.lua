-- Lists a page of a topic's unfinished tasks, newest first.
--@keys stream
--@args record_prefix result_prefix topic group range_end max_tasks max_entries
-- range_end: the newest entry, '+' or '(entry', as XREVRANGE takes it
-- max_entries: how many entries are read at most; fewer where they are large, since Redis reads an
-- entry with its payload
-- Reply: {rows of {entry, task id, created, attempts, 1 if a consumer holds it}, the last entry
-- read or '' at the end of the stream}
local rows, from, entries_left, bytes = {}, range_end, tonumber(max_entries), 0
local MAX_BYTES, PAGE_BYTES = 8 * 1024 * 1024, 256 * 1024
local count = 1
max_tasks = tonumber(max_tasks)
while entries_left > 0 and #rows < max_tasks and bytes < MAX_BYTES do
  count = math.min(entries_left, count)
  local page = redis.call('XREVRANGE', stream, from, '-', 'COUNT', count)
  local page_bytes = 0
  for _, found in ipairs(page) do
    local entry = found[1]
    local data = entry_data(found[2])
    from, entries_left, page_bytes = '(' .. entry, entries_left - 1, page_bytes + #(data or '')
    local id, created = identify_task(topic, entry, data)
    if id then
      local record = read_record(record_prefix .. id)
      -- a second entry with the same id is another task: see find_or_create_record
      local is_own = not record.entry or record.entry == entry
      if is_own and not record.state and redis.call('EXISTS', result_prefix .. id) == 0 then
        local consumer = entry_holder(stream, group, entry)
        local is_held = consumer and consumer ~= DELAYED_CONSUMER
        rows[#rows + 1] =
          { entry, id, record.created or created, record.attempt, is_held and 1 or 0 }
        if #rows >= max_tasks then break end
      end
    end
  end
  if #page < count and #rows < max_tasks then return { rows, '' } end
  bytes = bytes + page_bytes
  count = page_bytes < PAGE_BYTES and math.min(count * 2, 100) or 1
end
return { rows, from:sub(2) }
