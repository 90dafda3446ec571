-- Put before every script: what they share. A record (omni:task:<id>) says of a task what its entry does not, read with
-- `read`. Most tasks have no story: until there is one their record is a string, packed, so that the records of many
-- cost the server little more than that of one:
--     <topic>:<agent> <entry> <created> <retries> <notify>   and on lines of their own, or empty: owner, route, epoch, secret
-- With more to be said (`unfold`), and while it is not in its stream, it is a hash:
--   q        <topic>:<agent>, read as `queue`
--   h        what every task has, packed, and read by these names:
--              entry    the stream entry's id         created  ms
--              retries  attempts after the first that may fail, or nothing where a foreign publisher says none
--              notify   the enqueuing process, whose channel is told of the end, or nothing
--   owner, route, epoch (of the route's rollout, and where it is known a dot and the group of the client), secret
--   (credentials): where there are any
--   attempt  attempts begun                  turn     the lease, raised whenever it begins or ends
--   due      ms, while parked                failure  of the last attempt, while another is to come
--   state    completed, failed or cancelled; absent while unfinished       ended  ms
--   progress what the attempt with its turn said last                      history  the failed attempts, a line each
--   renewed  ms, of a running one whose entry somebody else took off the stream: nothing else can say that it runs
-- One with a state and no queue is a cancellation that came before its task. A task that completed or failed has no
-- record any more: its result (omni:result:<id>) says how it ended. Where other groups read the stream it has both,
-- since their agents write their results to the same key.
-- Without attempt and turn, as every packed one, a task is before or in its first lease, which is (1, 1): that lease
-- costs no write. (attempt, turn) is the fencing token; turn tells two leases of a released attempt apart.

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

-- What a call failed with, as text.
local function text_of(error)
  return type(error) == 'table' and error.err or tostring(error)
end

-- Whether that is of the server rather than of a key: it is no master, and another knows better.
local function is_elsewhere(text)
  return text:find('^READONLY')
end

-- Reads fields of any hash into a table by name.
local function fields(key, ...)
  local values, found = redis.call('HMGET', key, ...), {}
  for i, name in ipairs({ ... }) do found[name] = values[i] end
  return found
end

local ABSENT = { __index = function() return false end }

-- Packs a new record: `rest` is all that follows the entry.
local function pack(queue, entry, rest)
  return queue .. ' ' .. entry .. ' ' .. rest
end

-- Takes a packed record apart, into a table by name.
local function unpacked(text)
  local queue, entry, created, retries, notify, more = text:match('^(%S+) (%S+) (%d+) (%d*) (%S*)()')
  local record = setmetatable({ packed = text, queue = queue, entry = entry, created = created,
    retries = retries ~= '' and retries, notify = notify ~= '' and notify }, ABSENT)
  if queue and more <= #text then
    local owner, route, epoch, secret = text:match('^\n([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$', more)
    record.owner, record.route = owner ~= '' and owner, route ~= '' and route
    record.epoch, record.secret = epoch ~= '' and epoch, secret ~= '' and secret
  end
  return record
end

-- Reads a record into a table by name; what it does not have is false, which unlike nil does not end a reply. A task
-- that is not due yet has no entry. `text` is what MGET says of it, where that was asked: nothing of a hash.
local function read(key, text)
  text = text or redis.call('MGET', key)[1]
  local record = text and unpacked(text)
  if record and record.queue then return record end
  local flat = redis.call('HGETALL', key)
  record = setmetatable({}, ABSENT)
  for i = 1, #flat, 2 do record[flat[i]] = flat[i + 1] end
  if record.h then
    record.queue = record.q
    record.entry, record.created, record.retries, record.notify = record.h:match('^(%S+) (%d+) (%d*) (%S*)$')
    if record.entry == '-' then record.entry = false end
    if record.retries == '' then record.retries = false end
    if record.notify == '' then record.notify = false end
  end
  return record
end

-- Makes a record as a hash; more fields and values may follow.
local function make_record(key, queue, entry, created, retries, notify, ...)
  redis.call('HSET', key, 'q', queue, 'h', table.concat({ entry, created, retries, notify }, ' '), ...)
end

-- Makes a packed record a hash, before more is said in it.
local function unfold(key, record)
  if not record.packed then return end
  redis.call('DEL', key)
  make_record(key, record.queue, record.entry, record.created, record.retries or '', record.notify or '')
  for _, name in ipairs({ 'owner', 'route', 'epoch', 'secret' }) do
    if record[name] then redis.call('HSET', key, name, record[name]) end
  end
  record.packed = nil
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

-- What an XINFO says, by name.
local function fields_of(info)
  local fields = {}
  for i = 1, #info, 2 do fields[info[i]] = info[i + 1] end
  return fields
end

-- Counts what became of a canaried task, in the change that it counts. BOUNDS (ms) and KEPT (s) are put before this
-- file. Whatever is wrong with a tally, the task goes its way.
local function add_tally(tally, what, n)
  if redis.pcall('HINCRBY', tally, what, n) == n then redis.pcall('EXPIRE', tally, KEPT, 'NX') end
end

-- The tally that a task is counted in; nil for one that is not.
local function tally_key(tallies, record)
  return record.route and record.epoch and tallies .. record.route .. ':' .. record.epoch:match('^%d+') or nil
end

-- The same, for who did not declare it and is about to write: where a slot's migration has taken it, this ends the
-- script before anything is done.
local function reach_tally(tallies, record)
  local tally = tally_key(tallies, record)
  if tally then redis.call('EXISTS', tally) end
  return tally
end

-- What an end is counted as: by outcome and latency bucket, from when the task came onto its stream; with the group of
-- its client where it did not go well.
local function tally_name(outcome, record, entry, ended)
  local took, bucket = ended - ms_of(entry), 0
  for _, bound in ipairs(BOUNDS) do
    if bound < took then bucket = bucket + 1 end
  end
  return outcome .. '.' .. bucket .. (outcome ~= 'completed' and record.epoch:match('%.%d+') or '')
end

-- When a consumer of another make saved the result of an entry, ms: it says so at the end. One that says so from long
-- before the entry came has a clock that is off, and it is not known: then it is now.
local function saved_ms(result, entry)
  local tail, now, OFF = redis.call('GETRANGE', result, -64, -1), now_ms(), 2000
  local saved = tonumber(tail:match('"saved_at":%s*([%d.]+)%s*}%s*$') or now / 1000)
  saved = math.min(math.floor(saved * 1000), now)
  return saved < ms_of(entry) - OFF and now or saved
end

-- Gives a record the end that a consumer of another make wrote: it goes when its result does.
local function conclude(key, result, record, tallies)
  local tally = reach_tally(tallies, record)
  unfold(key, record)
  redis.call('HSET', key, 'state', 'completed')
  redis.call('HDEL', key, 'secret', 'due', 'failure', 'renewed')
  record.state, record.secret, record.due, record.failure, record.renewed = 'completed', nil, nil, nil, nil
  if tally then add_tally(tally, tally_name('completed', record, record.entry, saved_ms(result, record.entry)), 1) end
  local left = redis.call('PTTL', result)
  if left > 0 then redis.call('PEXPIRE', key, left) end
end

-- What a result of ours begins with: state, entry, attempt, turn.
local RESULT_HEAD =
  '^{"task_id":"[%w_-]+","state":"(%a+)","entry":"([%d-]+)","attempt":(%d+),"turn":(%d+)'

-- How a task ended, by the head of its result: ours begin with it, so that nothing need be decoded. Nil without a
-- result; one of another make says nothing.
local function read_end(result)
  local head = redis.call('GETRANGE', result, 0, 300)
  if head == '' then return nil end
  local state, entry, attempt, turn = head:match(RESULT_HEAD)
  return { state = state, entry = entry, attempt = attempt, turn = turn }
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
    local fields = fields_of(info)
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
  -- others leave what they acknowledged in the stream; the lag counts what was deleted unread, in some versions
  if groups == 1 then return math.min(length - info.pending, info.lag or length) end
  if info.lag then return math.min(info.lag, length) end
  -- nil after deletions in the middle: count
  local count, from, page = 0, info['last-delivered-id'], nil
  repeat
    page = redis.call('XRANGE', stream, '(' .. from, '+', 'COUNT', 500)
    count = count + #page
    if #page > 0 then from = page[#page][1] end
  until #page < 500
  return count
end

-- What an entry's data begins with that is ours: the id, so that it need not be decoded.
local OUR_HEAD = '^{"task_id":"([%w_-]+)"'

-- The task id of an entry's data, and when it was created; nil when it is no task. Foreign ones have their own where it
-- is well-formed and free.
local function identify(topic, entry, data)
  if not data then return nil end
  local id = data:match(OUR_HEAD)
  if id and #id <= 128 then return id, entry:match('^%d+') end
  local read_ok, message = pcall(cjson.decode, data)
  if not read_ok or type(message) ~= 'table' or message.content == nil then return nil end
  local created = (tonumber(message.created_at) or -1) * 1000
  created = string.format('%.0f', created >= 0 and created < 2 ^ 53 and math.floor(created) or ms_of(entry))
  id = message.task_id
  if type(id) == 'string' and #id <= 128 and id:match('^[%w_-]+$') then return id, created end
  return 'entry_' .. entry .. '_' .. redis.sha1hex(topic):sub(1, 8), created
end

-- The record of an entry's task, made where a foreign publisher left none. An ended one, which has a result and no
-- record, has a state and nothing else. To a second agent of ours on the topic the entry is a task of its own.
local function adopt(prefix, results, topic, agent, entry, data)
  local id, created = identify(topic, entry, data)
  if not id then return nil end
  local record, mine = read(prefix .. id), topic .. ':' .. agent
  if record.queue and (record.entry ~= entry or record.queue ~= mine) then
    -- another entry, or another agent, has the id: an ended entry gives it up, all else keeps it
    if record.state and record.entry ~= entry then
      redis.call('DEL', prefix .. id)
    else
      id = 'entry_' .. entry .. '_' .. redis.sha1hex(mine):sub(1, 8)
    end
    record = read(prefix .. id)
  end
  if not record.queue then
    local ended = read_end(results .. id)
    if ended and ended.entry == entry then return id, { state = ended.state } end
    redis.call('SET', prefix .. id, pack(mine, entry, created .. '  '))
    record = read(prefix .. id)
  end
  return id, record
end

-- Takes an entry of an ended task off the queue.
local function discard(stream, group, entry)
  redis.call('XACK', stream, group, entry)
  drop(stream, entry)
end

-- A lease as it is answered, the last its record, packed; without `data` false, and an empty id for one that is no task.
local function lease_row(queue, entry, data, id, record)
  if not id then return { queue, entry, data or false, '', 0, 0, '' } end
  local packed = record.packed
  if not packed then
    local head = table.concat({ record.queue, record.entry or '-', record.created, record.retries or '', '' }, ' ')
    packed = table.concat({ head, record.owner or '', record.route or '', record.epoch or '', record.secret or '' }, '\n')
  end
  return { queue, entry, data, id, tonumber(record.attempt or 1), tonumber(record.turn or 1), packed }
end

-- Makes a group at the beginning of its stream. With `mark`, where other groups have read the stream before, at what
-- was its end then: that is kept, so that a group made anew skips nothing that came since.
local function make_group(stream, group, mark)
  local from = '0'
  if mark then
    from = redis.call('GET', mark)
    if not from then
      local groups = redis.pcall('XINFO', 'GROUPS', stream)
      from = #groups > 0 and redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
      from = from and from[1] or '0'
      redis.call('SET', mark, from)
    end
  end
  redis.call('XGROUP', 'CREATE', stream, group, from, 'MKSTREAM')
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

