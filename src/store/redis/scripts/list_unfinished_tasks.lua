-- Lists a page of a topic's unfinished tasks, newest first.
--@keys stream
--@args record_prefix result_prefix topic group range_end max_tasks max_entries
-- range_end: the newest entry, '+' or '(entry', as XREVRANGE takes it
-- max_entries: how many entries are read at most
-- Reply: {rows of {entry, task id, created, attempts, 1 if a consumer holds it}, the last entry
-- read or '' at the end of the stream}
local rows, from, entries_left = {}, range_end, tonumber(max_entries)
max_tasks = tonumber(max_tasks)
while entries_left > 0 and #rows < max_tasks do
  local page = redis.call('XREVRANGE', stream, from, '-', 'COUNT', math.min(entries_left, 100))
  for _, found in ipairs(page) do
    local entry = found[1]
    from, entries_left = '(' .. entry, entries_left - 1
    local id, created = identify_task(topic, entry, entry_data(found[2]))
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
  if #page < 100 and #rows < max_tasks then return { rows, '' } end
end
return { rows, from:sub(2) }
