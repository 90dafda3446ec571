-- Trims the entries that all groups of a stream have finished. With this program's group alone
-- there are none, because its entries are deleted as their tasks end.
--@keys stream
--@args own_group
-- own_group: while it does not exist, as before its first read, nothing is trimmed
-- Reply: {number of entries removed, the group that alone keeps other entries or '', the first
-- entry that it keeps}

local function is_less(a, b)
  local a_ms, a_seq = a:match('^(%d+)-(%d+)$')
  local b_ms, b_seq = b:match('^(%d+)-(%d+)$')
  a_ms, a_seq, b_ms, b_seq = tonumber(a_ms), tonumber(a_seq), tonumber(b_ms), tonumber(b_seq)
  return a_ms < b_ms or (a_ms == b_ms and a_seq < b_seq)
end

-- The lowest entry id that a group may not have finished.
local function first_unfinished_entry(group)
  if group.pending > 0 then return redis.call('XPENDING', stream, group.name)[2] end
  local ms, seq = group['last-delivered-id']:match('^(%d+)-(%d+)$')
  return ms .. '-' .. string.format('%.0f', tonumber(seq) + 1)
end

local lowest, next_lowest, lowest_group, has_own_group = nil, nil, '', false
for _, info in ipairs(redis.pcall('XINFO', 'GROUPS', stream)) do
  local group = pairs_to_table(info)
  local first = first_unfinished_entry(group)
  has_own_group = has_own_group or group.name == own_group
  if not lowest or is_less(first, lowest) then
    lowest, next_lowest, lowest_group = first, lowest, group.name
  elseif not next_lowest or is_less(first, next_lowest) then
    next_lowest = first
  end
end
if not has_own_group then return { 0, '', '' } end
local removed = redis.call('XTRIM', stream, 'MINID', '=', lowest)
local is_blocked = next_lowest and is_less(lowest, next_lowest)
  and #redis.call('XRANGE', stream, lowest, '(' .. next_lowest, 'COUNT', 1) > 0
return { removed, is_blocked and lowest_group or '', lowest }
