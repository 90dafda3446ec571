-- Put before every script: what they share. A record (omni:task:<id>) is a hash; its fields are
--   queue    <topic>:<agent>                 entry    the stream entry's id
--   created  ms                              retries  attempts after the first that may fail
--   notify   the enqueuing process's channel owner, route, secret (credentials): where there are any
--   attempt  attempts begun                  turn     the lease, raised whenever it begins or ends
--   due      ms, while parked                failure  of the last attempt, while another is to come
--   state    completed, failed or cancelled; absent while unfinished       ended  ms
--   progress what the attempt with its turn said last
-- One with a state and no queue is a cancellation that came before its task.
-- Without attempt and turn a task is before or in its first lease, which is (1, 1): that lease costs no
-- write. (attempt, turn) is the fencing token; turn tells two leases of a released attempt apart.

local PARKED = '~delayed'
-- In the name of a consumer of ours, and of no other: as in keys.rs.
local OURS = '-rs.'

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function ms_of(entry)
  return tonumber(entry:match('^%d+'))
end

-- Reads `fields` of a hash into a table by name.
local function read(key, ...)
  local values, record = redis.call('HMGET', key, ...), {}
  for i, name in ipairs({ ... }) do record[name] = values[i] end
  return record
end

-- Whether the lease (attempt, turn) is the record's current one.
local function is_current(record, attempt, turn)
  return record.queue and not record.state
    and (record.attempt or '1') == attempt and (record.turn or '1') == turn
end

-- Who holds a pending entry and for how long it has been idle, ms; nil when it is not pending.
local function holder(stream, group, entry)
  local pending = redis.pcall('XPENDING', stream, group, entry, entry, 1)
  if pending.err or not pending[1] then return nil end
  return pending[1][2], pending[1][3]
end

-- Whether a consumer of another make holds a pending entry.
local function is_taken(stream, group, entry)
  local consumer = holder(stream, group, entry)
  return consumer and consumer ~= PARKED and not consumer:find(OURS, 1, true)
end

-- Whether a result is of this agent: each group of a topic saves its own, all under the task's one key.
local function ended_by(agent, result)
  local ok, read = pcall(cjson.decode, redis.call('GET', result) or '')
  return ok and type(read) == 'table' and type(read.result) == 'table' and read.result.agent == agent
end

-- Takes an acknowledged entry out of its stream, unless another group may still want it.
local function drop(stream, entry)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if #groups == 1 then redis.call('XDEL', stream, entry) end
end

local function data_of(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'data' then return fields[i + 1] end
  end
  return nil
end

-- Writes a dead letter between `head` and `tail`, the JSON around its failed_message: the entry's data,
-- as it is when `sound`, else quoted.
local function add_dead_letter(dead, stream, entry, head, tail, sound)
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  local fields = found and found[2] or {}
  local data = data_of(fields)
  local message = 'null'
  if data and sound then message = data
  elseif data then message = cjson.encode(data)
  elseif #fields > 0 then message = cjson.encode(fields) end
  redis.call('XADD', dead, '*', 'data', head .. message .. tail)
end

-- What XINFO says of a group, by name, and how many groups the stream has; nil where there is no such group.
local function group_info(stream, group)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, info in ipairs(groups) do
    local fields = {}
    for i = 1, #info, 2 do fields[info[i]] = info[i + 1] end
    if fields.name == group then return fields, #groups end
  end
  return nil, #groups
end

-- Whether the group has read as far as `entry`.
local function was_read(stream, group, entry)
  local info = group_info(stream, group)
  if not info then return false end
  local last_ms, last_seq = info['last-delivered-id']:match('^(%d+)-(%d+)$')
  local ms, seq = entry:match('^(%d+)-(%d+)$')
  last_ms, last_seq, ms, seq = tonumber(last_ms), tonumber(last_seq), tonumber(ms), tonumber(seq)
  return ms < last_ms or (ms == last_ms and seq <= last_seq)
end

-- Entries that no consumer of the group has read yet.
local function unread(stream, group)
  local length = redis.call('XLEN', stream)
  local info, groups = group_info(stream, group)
  if not info then return length end
  if groups == 1 then return length - info.pending end
  if info.lag then return info.lag end
  -- nil after deletions in the middle: count
  local count, from, page = 0, info['last-delivered-id'], nil
  repeat
    page = redis.call('XRANGE', stream, '(' .. from, '+', 'COUNT', 500)
    count = count + #page
    if #page > 0 then from = page[#page][1] end
  until #page < 500
  return count
end

-- The task id of an entry's data, and when it was created; nil when it is no task. Ours begin with their
-- id, so that they need not be decoded; foreign ones have their own where it is well-formed and free.
local function identify(topic, entry, data)
  if not data then return nil end
  local id = data:match('^{"task_id":"([%w_-]+)"')
  if id and #id <= 128 then return id, ms_of(entry) end
  local read_ok, message = pcall(cjson.decode, data)
  if not read_ok or type(message) ~= 'table' or message.content == nil then return nil end
  local created = tonumber(message.created_at)
  created = created and math.floor(created * 1000) or ms_of(entry)
  id = message.task_id
  if type(id) == 'string' and #id <= 128 and id:match('^[%w_-]+$') then return id, created end
  return 'entry_' .. entry .. '_' .. redis.sha1hex(topic):sub(1, 8), created
end

-- The record of an entry's task, made where a foreign publisher left none.
local function adopt(prefix, topic, agent, entry, data)
  local id, created = identify(topic, entry, data)
  if not id then return nil end
  local function record_of(name)
    return read(prefix .. name, 'queue', 'entry', 'state', 'attempt', 'turn', 'created', 'retries', 'owner', 'route',
      'secret', 'due')
  end
  local record = record_of(id)
  if record.queue and record.entry ~= entry then
    -- another entry has the id: an ended one gives it up, an unfinished one keeps it
    if record.state then
      redis.call('DEL', prefix .. id)
    else
      id = 'entry_' .. entry .. '_' .. redis.sha1hex(topic):sub(1, 8)
    end
    record = record_of(id)
  end
  if not record.queue then
    redis.call('HSET', prefix .. id, 'queue', topic .. ':' .. agent, 'entry', entry, 'created', created)
    record = record_of(id)
  end
  return id, record
end

-- Takes an entry of an ended task off the queue.
local function discard(stream, group, entry)
  redis.call('XACK', stream, group, entry)
  drop(stream, entry)
end

-- A lease as it is answered; false for an entry without `data`, and an empty id for one that is no task.
local function lease_row(queue, entry, data, id, record)
  if not id then return { queue, entry, data or false, '', 0, 0 } end
  return { queue, entry, data, id, tonumber(record.attempt or 1), tonumber(record.turn or 1),
    record.created, record.retries, record.owner, record.route, record.secret }
end

-- Puts a task's end into the outbox. `letters` is JSON, [[kind, about], …]; what is sent is made of `body`, which was
-- stored of the end, when it is delivered. A later end of the same task takes the place of an earlier one.
local function post(outbox, id, turn, state, letters, body, ended)
  for _, letter in ipairs(cjson.decode(letters)) do
    local name = id .. '/' .. letter[1]
    local key = outbox .. ':' .. name
    redis.call('DEL', key)
    redis.call('HSET', key, 'about', letter[2], 'turn', turn, 'state', state, 'body', body, 'ended', ended)
    redis.call('ZADD', outbox, now_ms(), name)
  end
end

