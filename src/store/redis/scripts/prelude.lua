-- Definitions that several scripts use. Each script is sent with those that it uses (compose.rs).
--
-- THE RECORD OF A TASK
-- The record (omni:task:<id>) holds what the task's stream entry lacks; read_record reads
-- it. It has one of two forms:
--
-- Packed: one string, so that the records of many new tasks cost the server little more than one.
-- Everything behind the entry is written by enqueue.rs:
--     <topic>:<agent> <entry> <created> <retries> <notify>
-- Lines may follow, each empty where there is no value: owner, route, epoch, secret.
--
-- Expanded: a hash, from the first field on that the packed form has no place for (expand_record),
-- and while the task is in no stream. Its fields:
--   q        <topic>:<agent>, in a read record `queue`
--   h        what every task has, separated by spaces, in a read record by these names:
--              entry    the id of the stream entry, or '-' without one
--              created  ms
--              retries  how many attempts after the first may fail; '' for a task of a foreign
--                       publisher, whose messages have no such number
--              notify   the process that enqueued the task and is notified of its end, or ''
--   owner, route, epoch, secret
--            where the task has them: epoch is the epoch of the route's rollout, followed by a dot
--            and the group of the client where that is known; secret is credentials
--   attempt  the number of attempts begun
--   turn     the number of the lease, raised whenever a lease begins or ends
--   due      ms, while the task is delayed or scheduled
--   limit    ms, while a scheduled task waits: the deadline for external consumers
--   failure  the failure of the last attempt, while another attempt is to come
--   history  the failed attempts, one per line
--   progress what the current attempt reported last, with its `turn`
--   state    completed, failed or cancelled; absent while the task is unfinished
--   ended    ms
--   renewed  ms, for a running task whose entry another program removed from the stream:
--            nothing else in Redis shows that it runs
--
-- A record with a state and no queue is a cancellation that arrived before its task.
-- A completed or failed task has no record: its result (omni:result:<id>) says how it ended. Where
-- other groups read the same stream it has both, because their agents write their results to the
-- same key.
-- A record without attempt and turn (as each packed one) is of a task before or in its first
-- lease, which is (1, 1): the first lease costs no write. (attempt, turn) is the fencing token: the
-- attempt alone is the same before and after a lease that was released.

-- The placeholder consumer that holds the pending entries of delayed tasks.
local DELAYED_CONSUMER = '~delayed'

-- A part of the names of this program's consumers and of no others (OUR_CONSUMER_MARK in keys.rs).
local OUR_CONSUMER_MARK = '-rs.'

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The time at which a stream entry was added, ms: the first half of its id.
local function entry_ms(entry)
  return tonumber(entry:match('^%d+'))
end

-- The text of an error that a protected call returned.
local function error_text(error)
  return type(error) == 'table' and error.err or tostring(error)
end

-- Whether an error is about the server rather than about a key: it is no master any more, and the
-- whole call is to be sent to the new one.
local function is_readonly_error(text)
  return text:find('^READONLY')
end

-- Reads the named fields of any hash into a table by name.
local function read_hash_fields(key, ...)
  local values, found = redis.call('HMGET', key, ...), {}
  for i, name in ipairs({ ... }) do found[name] = values[i] end
  return found
end

local FALSE_BY_DEFAULT = { __index = function() return false end }

-- A new record, packed. `rest` is everything behind the entry.
local function pack_record(queue, entry, rest)
  return queue .. ' ' .. entry .. ' ' .. rest
end

-- Reads a packed record into a table by name.
local function unpack_record(text)
  local queue, entry, created, retries, notify, more =
    text:match('^(%S+) (%S+) (%d+) (%d*) (%S*)()')
  local record = setmetatable({ packed = text, queue = queue, entry = entry, created = created,
    retries = retries ~= '' and retries, notify = notify ~= '' and notify }, FALSE_BY_DEFAULT)
  if queue and more <= #text then
    local owner, route, epoch, secret = text:match('^\n([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$', more)
    record.owner, record.route = owner ~= '' and owner, route ~= '' and route
    record.epoch, record.secret = epoch ~= '' and epoch, secret ~= '' and secret
  end
  return record
end

-- Reads a record into a table by name. Missing fields are false, not nil: a nil would end a reply.
-- A scheduled task has no entry. `text` is the MGET reply for this key, where the caller has it
-- already: it is false for a hash.
local function read_record(key, text)
  text = text or redis.call('MGET', key)[1]
  local record = text and unpack_record(text)
  if record and record.queue then return record end
  local flat = redis.call('HGETALL', key)
  record = setmetatable({}, FALSE_BY_DEFAULT)
  for i = 1, #flat, 2 do record[flat[i]] = flat[i + 1] end
  if record.h then
    record.queue = record.q
    record.entry, record.created, record.retries, record.notify =
      record.h:match('^(%S+) (%d+) (%d*) (%S*)$')
    if record.entry == '-' then record.entry = false end
    if record.retries == '' then record.retries = false end
    if record.notify == '' then record.notify = false end
  end
  return record
end

-- Writes a record as a hash. More fields and values may follow.
local function write_record_hash(key, queue, entry, created, retries, notify, ...)
  local head = table.concat({ entry, created, retries, notify }, ' ')
  redis.call('HSET', key, 'q', queue, 'h', head, ...)
end

-- Turns a packed record into a hash, before fields are set that the packed form has no place for.
local function expand_record(key, record)
  if not record.packed then return end
  redis.call('DEL', key)
  write_record_hash(key, record.queue, record.entry, record.created,
    record.retries or '', record.notify or '')
  for _, name in ipairs({ 'owner', 'route', 'epoch', 'secret' }) do
    if record[name] then redis.call('HSET', key, name, record[name]) end
  end
  record.packed = nil
end

-- Whether the lease (attempt, lease_number) is the current one of the record's unfinished task.
local function is_current_lease(record, attempt, lease_number)
  return record.queue and not record.state
    and (record.attempt or '1') == attempt and (record.turn or '1') == lease_number
end

-- The consumer that holds a pending entry, and for how long the entry has been idle, ms; nil for an
-- entry that is not pending.
local function entry_holder(stream, group, entry)
  local pending = redis.pcall('XPENDING', stream, group, entry, entry, 1)
  if pending.err or not pending[1] then return nil end
  return pending[1][2], pending[1][3]
end

-- Whether an external consumer (one of another program) holds a pending entry.
local function is_held_externally(stream, group, entry)
  local consumer = entry_holder(stream, group, entry)
  return consumer and consumer ~= DELAYED_CONSUMER and not consumer:find(OUR_CONSUMER_MARK, 1, true)
end

-- Whether a task's result is of `agent`: the external agents of all groups of a topic save their
-- results to the task's one key. One that cannot be read names no other agent.
local function is_result_of_agent(agent, result_key)
  local saved = redis.call('GET', result_key)
  if not saved then return false end
  local ok, result = pcall(cjson.decode, saved)
  if not ok or type(result) ~= 'table' or type(result.result) ~= 'table' then return true end
  return result.result.agent == agent
end

-- Removes an acknowledged entry from its stream, unless another group may still read it.
local function delete_if_single_group(stream, entry)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if #groups == 1 then redis.call('XDEL', stream, entry) end
end

-- The fields and values of an XINFO reply as a table by name.
local function pairs_to_table(info)
  local fields = {}
  for i = 1, #info, 2 do fields[info[i]] = info[i + 1] end
  return fields
end

-- Counts an event of a canaried task, in the same script that changes the task. runner.rs puts
-- DURATION_BOUNDS_MS and TALLY_TTL_S before this file. An error of the tally does not stop the
-- task.
local function increment_tally(tally, field, n)
  if redis.pcall('HINCRBY', tally, field, n) == n then
    redis.pcall('EXPIRE', tally, TALLY_TTL_S, 'NX')
  end
end

-- The key of the tally that counts a task; nil for a task that is not counted.
local function tally_key(tally_prefix, record)
  return record.route and record.epoch
    and tally_prefix .. record.route .. ':' .. record.epoch:match('^%d+') or nil
end

-- The same, for a call that did not declare the key and is about to write: where the slot of the
-- key has migrated to another server, EXISTS raises an error before the script has changed a key.
local function require_tally_key(tally_prefix, record)
  local tally = tally_key(tally_prefix, record)
  if tally then redis.call('EXISTS', tally) end
  return tally
end

-- The field that counts a task's end: the outcome, the bucket of the time since the task came onto
-- its stream, and, unless it completed, the group of its client.
local function tally_field(outcome, record, entry, ended_ms)
  local duration, bucket = ended_ms - entry_ms(entry), 0
  for _, bound in ipairs(DURATION_BOUNDS_MS) do
    if bound < duration then bucket = bucket + 1 end
  end
  return outcome .. '.' .. bucket .. (outcome ~= 'completed' and record.epoch:match('%.%d+') or '')
end

-- When an external consumer saved the result of an entry, ms: the last field of the result. A time
-- long before the entry was added comes from a clock that is wrong: then the current time is used.
local function result_saved_ms(result_key, entry)
  local tail, now, MAX_SKEW_MS = redis.call('GETRANGE', result_key, -64, -1), now_ms(), 2000
  local saved = tonumber(tail:match('"saved_at":%s*([%d.]+)%s*}%s*$') or now / 1000)
  saved = math.min(math.floor(saved * 1000), now)
  return saved < entry_ms(entry) - MAX_SKEW_MS and now or saved
end

-- Ends a record whose task an external consumer has completed. The record then expires together
-- with the result.
local function complete_external(key, result_key, record, tally_prefix)
  local tally = require_tally_key(tally_prefix, record)
  expand_record(key, record)
  redis.call('HSET', key, 'state', 'completed')
  redis.call('HDEL', key, 'secret', 'due', 'failure', 'renewed')
  record.state, record.secret, record.due = 'completed', nil, nil
  record.failure, record.renewed = nil, nil
  if tally then
    local saved_ms = result_saved_ms(result_key, record.entry)
    increment_tally(tally, tally_field('completed', record, record.entry, saved_ms), 1)
  end
  local ttl_ms = redis.call('PTTL', result_key)
  if ttl_ms > 0 then redis.call('PEXPIRE', key, ttl_ms) end
end

-- The beginning of a result that this program wrote: state, entry, attempt and lease number.
local OUR_RESULT_PATTERN =
  '^{"task_id":"[%w_-]+","state":"(%a+)","entry":"([%d-]+)","attempt":(%d+),"turn":(%d+)'

-- How a task ended, from the beginning of its result, without decoding it, by the names that a
-- record has: nil without a result; a table without fields for the result of an external consumer.
local function read_result_head(result_key)
  local head = redis.call('GETRANGE', result_key, 0, 300)
  if head == '' then return nil end
  local state, entry, attempt, turn = head:match(OUR_RESULT_PATTERN)
  return { state = state, entry = entry, attempt = attempt, turn = turn }
end

-- The value of `data` among the fields of a stream entry.
local function entry_data(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'data' then return fields[i + 1] end
  end
  return nil
end

-- Appends a dead letter. `head` and `tail` are the JSON around its failed_message, which is the
-- data of the entry: as it is where that is JSON, else as a JSON string.
local function append_dead_letter(dead_letters, stream, entry, head, tail, is_data_json)
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  local fields = found and found[2] or {}
  local data = entry_data(fields)
  local message = 'null'
  if data and is_data_json then message = data
  elseif data then message = cjson.encode(data)
  elseif #fields > 0 then message = cjson.encode(fields) end
  redis.call('XADD', dead_letters, '*', 'data', head .. message .. tail)
end

-- The XINFO fields of a group (nil where the group does not exist), and how many groups the stream
-- has.
local function read_group_info(stream, group)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, info in ipairs(groups) do
    local fields = pairs_to_table(info)
    if fields.name == group then return fields, #groups end
  end
  return nil, #groups
end

-- Whether the group has been delivered entries up to `entry` or beyond.
local function is_delivered_to_group(stream, group, entry)
  local info = read_group_info(stream, group)
  if not info then return false end
  local last_ms, last_seq = info['last-delivered-id']:match('^(%d+)-(%d+)$')
  local ms, seq = entry:match('^(%d+)-(%d+)$')
  last_ms, last_seq, ms, seq = tonumber(last_ms), tonumber(last_seq), tonumber(ms), tonumber(seq)
  return ms < last_ms or (ms == last_ms and seq <= last_seq)
end

-- The number of entries that no consumer of the group has read yet.
local function count_unread(stream, group)
  local length = redis.call('XLEN', stream)
  local info, groups = read_group_info(stream, group)
  if not info then return length end
  -- With one group, acknowledged entries are deleted, so that length and pending entries tell. With
  -- several they stay in the stream. Some versions of Redis count entries in the lag that were
  -- deleted unread.
  if groups == 1 then return math.min(length - info.pending, info.lag or length) end
  if info.lag then return math.min(info.lag, length) end
  -- Redis gives no lag after deletions in the middle of the stream: count the entries.
  local count, from, page = 0, info['last-delivered-id'], nil
  repeat
    page = redis.call('XRANGE', stream, '(' .. from, '+', 'COUNT', 500)
    count = count + #page
    if #page > 0 then from = page[#page][1] end
  until #page < 500
  return count
end

-- The number of tasks of the group that wait to be read or are held by a consumer. Those that wait
-- for a retry are left out.
local function count_open(stream, group, delayed_index)
  local info = read_group_info(stream, group)
  return count_unread(stream, group) + (info and info.pending or 0)
    - redis.call('ZCARD', delayed_index)
end

-- The beginning of a message that this program wrote: its task id, read without decoding.
local OUR_MESSAGE_PATTERN = '^{"task_id":"([%w_-]+)"'

-- The task id of an entry's data and the time of creation, ms; nil for data that is no task. A
-- foreign publisher's task has the id that it gives where that is well-formed, else one made of the
-- entry's id.
local function identify_task(topic, entry, data)
  if not data then return nil end
  local id = data:match(OUR_MESSAGE_PATTERN)
  if id and #id <= 128 then return id, entry:match('^%d+') end
  local is_json, message = pcall(cjson.decode, data)
  if not is_json or type(message) ~= 'table' or message.content == nil then return nil end
  local created = (tonumber(message.created_at) or -1) * 1000
  local is_plausible = created >= 0 and created < 2 ^ 53
  created = string.format('%.0f', is_plausible and math.floor(created) or entry_ms(entry))
  id = message.task_id
  if type(id) == 'string' and #id <= 128 and id:match('^[%w_-]+$') then return id, created end
  return 'entry_' .. entry .. '_' .. redis.sha1hex(topic):sub(1, 8), created
end

-- The id and the record of an entry's task. The record is created where a foreign publisher left
-- none. An ended task that has a result and no record is returned with its state and nothing else.
-- A second agent of this program on the topic gets a task of its own for the same entry.
local function find_or_create_record(record_prefix, result_prefix, topic, agent, entry, data)
  local id, created = identify_task(topic, entry, data)
  if not id then return nil end
  local record, own_queue = read_record(record_prefix .. id), topic .. ':' .. agent
  if record.queue and (record.entry ~= entry or record.queue ~= own_queue) then
    -- The id belongs to another entry or agent. A record that has ended gives the id up to another
    -- entry; in all other cases this entry's task gets an id of its own.
    if record.state and record.entry ~= entry then
      redis.call('DEL', record_prefix .. id)
    else
      id = 'entry_' .. entry .. '_' .. redis.sha1hex(own_queue):sub(1, 8)
    end
    record = read_record(record_prefix .. id)
  end
  if not record.queue then
    local ended = read_result_head(result_prefix .. id)
    if ended and ended.entry == entry then return id, { state = ended.state } end
    redis.call('SET', record_prefix .. id, pack_record(own_queue, entry, created .. '  '))
    record = read_record(record_prefix .. id)
  end
  return id, record
end

-- Takes the entry of an ended task off the queue.
local function ack_and_delete(stream, group, entry)
  redis.call('XACK', stream, group, entry)
  delete_if_single_group(stream, entry)
end

-- A lease in the replies of scripts (ScriptLeaseRow in lease_row.rs): queue position, entry, data or
-- false, task id or '' for an entry that is no task, attempt, lease number, packed record.
local function lease_row(queue_position, entry, data, id, record)
  if not id then return { queue_position, entry, data or false, '', 0, 0, '' } end
  local packed = record.packed
  if not packed then
    local head = table.concat(
      { record.queue, record.entry or '-', record.created, record.retries or '', '' }, ' ')
    packed = table.concat({ head, record.owner or '', record.route or '', record.epoch or '',
      record.secret or '' }, '\n')
  end
  local attempt, lease_number = tonumber(record.attempt or 1), tonumber(record.turn or 1)
  return { queue_position, entry, data, id, attempt, lease_number, packed }
end

-- Creates a group at the beginning of its stream. With `start_key`, and where other groups have
-- read the stream before, the group begins at the end that the stream had then: that position is
-- kept at start_key, so that a group that is created again skips nothing that was added since.
local function create_group(stream, group, start_key)
  local from = '0'
  if start_key then
    from = redis.call('GET', start_key)
    if not from then
      local groups = redis.pcall('XINFO', 'GROUPS', stream)
      from = #groups > 0 and redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
      from = from and from[1] or '0'
      redis.call('SET', start_key, from)
    end
  end
  redis.call('XGROUP', 'CREATE', stream, group, from, 'MKSTREAM')
end

-- Writes the deliveries of a task's end into the outbox. `deliveries` is JSON, [[kind, target], …].
-- What is sent is built from `body` (what was stored of the end) at the time of delivery. A later
-- end of the same task replaces an earlier one.
local function write_outbox_entries(outbox, id, lease_number, state, deliveries, body, ended_ms)
  for _, delivery in ipairs(cjson.decode(deliveries)) do
    local name = id .. '/' .. delivery[1]
    local key = outbox .. ':' .. name
    redis.call('DEL', key)
    redis.call('HSET', key, 'about', delivery[2], 'turn', lease_number, 'state', state,
      'body', body, 'ended', ended_ms)
    redis.call('ZADD', outbox, now_ms(), name)
  end
end
