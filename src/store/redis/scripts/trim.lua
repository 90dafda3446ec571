-- Takes off a stream what every group of it is done with: with one group of ours that happens as tasks end.
-- KEYS 1 stream
-- ARGV 1 our group: while it is not there, as before its first read, it wants everything
-- Reply: {entries taken off, the group that alone keeps others or '', the first entry that it keeps}
local stream = KEYS[1]

local function is_less(a, b)
  local a_ms, a_seq = a:match('^(%d+)-(%d+)$')
  local b_ms, b_seq = b:match('^(%d+)-(%d+)$')
  a_ms, a_seq, b_ms, b_seq = tonumber(a_ms), tonumber(a_seq), tonumber(b_ms), tonumber(b_seq)
  return a_ms < b_ms or (a_ms == b_ms and a_seq < b_seq)
end

-- The first entry that a group is not done with, at the earliest.
local function floor_of(group)
  if group.pending > 0 then return redis.call('XPENDING', stream, group.name)[2] end
  local ms, seq = group['last-delivered-id']:match('^(%d+)-(%d+)$')
  return ms .. '-' .. string.format('%.0f', tonumber(seq) + 1)
end

local lowest, next_lowest, name, complete = nil, nil, '', false
for _, info in ipairs(redis.pcall('XINFO', 'GROUPS', stream)) do
  local group = fields_of(info)
  local floor = floor_of(group)
  complete = complete or group.name == ARGV[1]
  if not lowest or is_less(floor, lowest) then
    lowest, next_lowest, name = floor, lowest, group.name
  elseif not next_lowest or is_less(floor, next_lowest) then
    next_lowest = floor
  end
end
if not complete then return { 0, '', '' } end
local taken = redis.call('XTRIM', stream, 'MINID', '=', lowest)
local kept = next_lowest and is_less(lowest, next_lowest)
  and #redis.call('XRANGE', stream, lowest, '(' .. next_lowest, 'COUNT', 1) > 0
return { taken, kept and name or '', lowest }
