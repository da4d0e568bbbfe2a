//! The scripts that run inside Redis. Each touches the keys of one job, one host or one artifact only.

/// Adds a piece to a host's live output, and drops what is neither of its beginning nor among its newest. Without data
/// it only drops.
///
/// ```text
/// KEYS[1] → job:{ID}:output:HOST   KEYS[2] → job:{ID}
/// ARGV[1] → stream   ARGV[2] → offset   ARGV[3] → data
/// ARGV[4] → how many bytes of the beginning are kept   ARGV[5] → how many of the newest
/// ARGV[6] → seconds until the key expires, where the job itself is gone
/// ```
///
/// The id of an entry counts the bytes of all entries so far, each with 64 bytes for itself. So the ids
/// alone tell which entries to drop. A piece that comes twice stands there twice: its offset tells.
pub const APPEND_OUTPUT: &str = "\
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local place = last and tonumber(string.match(last[1], '^%d+')) or 0
local function id(place) return string.format('%.0f-0', place) end
if #ARGV[3] > 0 then
  place = place + #ARGV[3] + 64
  redis.call('XADD', KEYS[1], id(place), 'stream', ARGV[1], 'offset', ARGV[2], 'data', ARGV[3])
end
if place > ARGV[4] + ARGV[5] then
  local from, to = id(ARGV[4] + 1), id(place - ARGV[5])
  repeat
    local old = redis.call('XRANGE', KEYS[1], from, to, 'COUNT', 64)
    for at, entry in ipairs(old) do old[at] = entry[1] end
    if #old > 0 then redis.call('XDEL', KEYS[1], unpack(old)) end
  until #old < 64
end
local ends = redis.call('PEXPIRETIME', KEYS[2])
if ends > 0 then redis.call('PEXPIREAT', KEYS[1], ends) else redis.call('EXPIRE', KEYS[1], ARGV[6]) end
";

/// Deletes the entries of an inbox below the first pending one: all of them are handled. Entry by entry that takes
/// Redis ten times as long. Where nothing is pending, or the user may not do that, it does nothing.
///
/// ```text
/// KEYS[1] → server:{HOST}:commands
/// ARGV[1] → consumer group
/// ```
pub const TRIM_HANDLED: &str = "\
local first = redis.pcall('XPENDING', KEYS[1], ARGV[1])[2]
if first then redis.pcall('XTRIM', KEYS[1], 'MINID', first) end
";

/// Ends the need of one user of an artifact. The artifact is deleted with the last one.
///
/// ```text
/// KEYS[1] → artifact:{SHA256}:users   KEYS[2…] → its pieces
/// ARGV[1] → the user   ARGV[2] → the moment now, in milliseconds
/// Returns 1 if the artifact was deleted, else 0
/// ```
pub const RELEASE_ARTIFACT: &str = "\
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
if redis.call('ZCARD', KEYS[1]) > 0 then return 0 end
redis.call('DEL', unpack(KEYS))
return 1
";

/// Sets a field of a hash, unless the hash would have too many.
///
/// ```text
/// KEYS[1] → the hash
/// ARGV[1] → field   ARGV[2] → value   ARGV[3] → how many fields it may have
/// Returns 1, or 0 where nothing was written
/// ```
pub const SET_BOUNDED: &str = "\
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
";

/// Adds an entry to a history, unless there is one of this moment or a later one: whoever comes first wins, and nothing stands
/// there twice. Where a clock was ahead, nothing is added until that time has come, or the history expires.
///
/// ```text
/// KEYS[1] → server:{HOST}:history, or redis:history
/// ARGV[1] → the beginning of the step, in milliseconds   ARGV[2] → most entries   ARGV[3] → seconds until the key expires
/// ARGV[4…] → fields and values
/// Returns 1, or 0 where nothing was written
/// ```
pub const APPEND_HISTORY: &str = "\
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last and tonumber(string.match(last[1], '^%d+')) >= tonumber(ARGV[1]) then return 0 end
redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[2], ARGV[1] .. '-0', unpack(ARGV, 4))
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
";

/// Publishes a host's state, and with a terminal state its result. Where its result is published already, both stay,
/// whatever arrives late or twice. A terminal state without a result is not the host's own, and is replaced.
///
/// ```text
/// KEYS[1] → job:{ID}:hosts   KEYS[2] → job:{ID}:events   KEYS[3] → job:{ID}:result:HOST   KEYS[4] → job:{ID}
/// ARGV[1] → host   ARGV[2] → state   ARGV[3] → seconds until the keys expire, where the job itself is gone
/// ARGV[4] → most events   ARGV[5] → `known`: nothing is written where the job itself is gone; else `any`
/// ARGV[6] → what a delivered command waits for; empty: nothing is known
/// ARGV[7] → how many of the following belong to the event, as [`crate::event::Decision`] has them
/// ARGV[8…] → these fields and values, and then the result's
/// Returns 1, or 0 where nothing was written, or an error where something else stands in a key's place;
///         what can be written is written all the same
/// ```
///
/// What a command waits for stands beside its state, in the field `HOST:waits_for`, until its next state.
///
/// All keys of a job expire when the job's own key does, so that none of them outlives another.
///
/// The first write is one that Redis denies when its memory is full: once a script has written, Redis denies it no
/// other write. The event's fields are those of [`crate::event::Event`].
pub const PUBLISH_STATE: &str = "\
local ends = redis.call('PEXPIRETIME', KEYS[4])
if ends == -2 and ARGV[5] == 'known' then
  return 0
end
local function expire(key)
  if ends > 0 then redis.call('PEXPIREAT', key, ends) else redis.call('EXPIRE', key, ARGV[3]) end
end
local before = redis.pcall('HGET', KEYS[1], ARGV[1])
local foreign = type(before) == 'table'
if redis.pcall('HEXISTS', KEYS[3], 'statement') == 1 or (before == 'running' and ARGV[2] == 'delivered') then
  return 0
end
local own = 7 + ARGV[7]
if #ARGV > own then
  if redis.call('EXISTS', KEYS[3]) == 1 then redis.call('DEL', KEYS[3]) end
  redis.call('HSET', KEYS[3], unpack(ARGV, own + 1))
  expire(KEYS[3])
end
if not foreign then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  if ARGV[6] ~= '' then
    redis.call('HSET', KEYS[1], ARGV[1] .. ':waits_for', ARGV[6])
  elseif before then
    redis.call('HDEL', KEYS[1], ARGV[1] .. ':waits_for')
  end
  expire(KEYS[1])
end
local event = {'host', ARGV[1], 'state', ARGV[2]}
if ARGV[6] ~= '' then
  event[5], event[6] = 'waits_for', ARGV[6]
end
for at = 8, own do event[#event + 1] = ARGV[at] end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', unpack(event))
expire(KEYS[2])
return foreign and before or 1
";

/// Writes a job's hash, unless there is one, or the job was withdrawn before there was one. Replies 0; 1 where there is one, 2
/// where the job was withdrawn.
///
/// ```text
/// KEYS[1] → job:{ID}
/// ARGV[1] → milliseconds until it expires   ARGV[2]… → fields and values
/// ```
pub const CREATE_JOB: &str = "\
if redis.call('HEXISTS', KEYS[1], 'withdrawn') == 1 then return 2 end
if redis.call('EXISTS', KEYS[1]) == 1 then return 1 end
-- A write that a full Redis permits: behind it, it permits the others. Who gives a job up must be able to.
if ARGV[2] == 'withdrawn' then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 0
";

/// Begins a rolling run, unless there is one of this id. Replies 1; 0 where there is.
///
/// ```text
/// KEYS[1] → job:{ID}:rollout
/// ARGV[1] → milliseconds until it expires   ARGV[2]… → fields and values
/// ```
pub const BEGIN_ROLLOUT: &str = "\
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
";

/// Sets fields of a rolling run, unless somebody has closed it. Replies 1, also where the first of them was set to this
/// before it was closed; 0 where it is closed; -1 where Redis has lost it; -2 where Redis has lost the end of it.
///
/// ```text
/// KEYS[1] → job:{ID}:rollout
/// ARGV[1] → milliseconds until it expires   ARGV[2] → the field that was set before these, or empty
/// ARGV[3]… → fields and values
/// ```
pub const SET_ROLLOUT: &str = "\
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
if redis.call('HEXISTS', KEYS[1], 'closed') == 1 then
    return redis.call('HGET', KEYS[1], ARGV[3]) == ARGV[4] and 1 or 0
end
if ARGV[2] ~= '' and redis.call('HEXISTS', KEYS[1], ARGV[2]) == 0 then return -2 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
";

/// Closes a rolling run: from now on [`SET_ROLLOUT`] changes nothing. Replies 1; -1 where Redis has lost it.
///
/// ```text
/// KEYS[1] → job:{ID}:rollout
/// ARGV[1] → who closes it
/// ```
pub const CLOSE_ROLLOUT: &str = "\
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
redis.call('HSET', KEYS[1], 'closed', ARGV[1])
return 1
";

/// Adds a schedule, or puts another order in its place. Replies 1; 0 where there is one, and it may not be replaced; 2 where it
/// would replace one of which a run is claimed that `ARGV[3]` does not name. How runs of the order before have ended is not found out any
/// more.
/// ```text
/// KEYS[1] → schedule:{NAME}   KEYS[2] → schedule:{NAME}:open   KEYS[3] → schedule:{NAME}:runs
/// ARGV[1] → `new`: only if there is none, else `any`   ARGV[2] → when it expires
/// ARGV[3] → JSON: the instants of claimed runs; of one that was withdrawn its state and why, of others nothing
/// ARGV[4]… → fields and values
/// ```
pub const PUT_SCHEDULE: &str = "\
if ARGV[1] == 'new' and redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local open, claims = redis.call('HGETALL', KEYS[2]), cjson.decode(ARGV[3])
local function is_claimed(run)
  -- A retry changes nothing about that it has run.
  return string.find(run, '{\"state\":\"claimed\"', 1, true) == 1, string.find(run, '\"attempt\":', 1, true)
end
for at = 1, #open, 2 do
  local claimed, has_run = is_claimed(open[at + 1])
  if ARGV[1] == 'any' and claimed and not has_run and not claims[open[at]] then return 2 end
end
for at = 1, #open, 2 do
  local run = open[at + 1]
  local added = '\"end\":\"unknown\"'
  local claimed, has_run = is_claimed(run)
  if claimed then
    local becomes = string.match(run, '\"becomes\":\"(%a+)\"') or 'ran'
    local claim = claims[open[at]] or {}
    local withdrawn = not has_run and claim[1]
    if withdrawn then
      becomes = withdrawn
      added = '\"reason\":' .. cjson.encode(claim[2])
      run = string.gsub(run, '\"job\":\"[^\"]*\",', '', 1)
    end
    run = string.gsub(run, '\"becomes\":\"%a+\",', '', 1)
    run = string.gsub(run, '\"claimed\"', '\"' .. becomes .. '\"', 1)
  end
  redis.call('HSET', KEYS[3], open[at], (string.gsub(run, '^{', function() return '{' .. added .. ',' end)))
  redis.call('PEXPIREAT', KEYS[3], ARGV[2])
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
redis.call('PEXPIREAT', KEYS[1], ARGV[2])
return 1
";

/// Accounts for instants, if nobody has done so since the schedule was read, and it is not paused. Replies 1, else 0.
/// ```text
/// KEYS[1] → schedule:{NAME}   KEYS[2] → schedule:{NAME}:open   KEYS[3] → schedule:{NAME}:runs
/// ARGV[1] → `accounted_until` as it was read, with the order's salt   ARGV[2] → what it becomes
/// ARGV[3] → when the keys expire   ARGV[4] → most runs that are kept
/// ARGV[5] → instant of the run that is begun, or empty   ARGV[6] → its record
/// ARGV[7]… → instants at which nothing runs, and their records
/// ```
pub const ACCOUNT: &str = "\
local now = redis.call('HGET', KEYS[1], 'accounted_until')
if not now or now ~= ARGV[1] or redis.call('HEXISTS', KEYS[1], 'paused') == 1 then return 0 end
redis.call('HSET', KEYS[1], 'accounted_until', ARGV[2])
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[2], ARGV[5], ARGV[6])
  redis.call('PEXPIREAT', KEYS[2], ARGV[3])
end
if #ARGV > 6 then
  redis.call('HSET', KEYS[3], unpack(ARGV, 7))
  redis.call('PEXPIREAT', KEYS[3], ARGV[3])
  local most = tonumber(ARGV[4])
  if redis.call('HLEN', KEYS[3]) > most + 100 then
    local kept = redis.call('HKEYS', KEYS[3])
    table.sort(kept, function(a, b) return tonumber(a) < tonumber(b) end)
    for at = 1, #kept - most do redis.call('HDEL', KEYS[3], kept[at]) end
  end
end
return 1
";

/// Replaces the record of a run that has not ended, if it is still the one that was read. A paused schedule claims nothing.
/// Replies 1, else 0.
/// ```text
/// KEYS[1] → schedule:{NAME}:open   KEYS[2] → schedule:{NAME}
/// ARGV[1] → instant   ARGV[2] → the record as it was read   ARGV[3] → the new one   ARGV[4] → `claims`, or empty
/// ```
pub const UPDATE_RUN: &str = "\
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
if ARGV[4] == 'claims' and redis.call('HEXISTS', KEYS[2], 'paused') == 1 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
";

/// Ends a run, if its record is still the one that was read, and pauses the schedule after too many failures in a row.
/// Replies 1, 2 where it was paused, else 0.
/// ```text
/// KEYS[1] → schedule:{NAME}   KEYS[2] → schedule:{NAME}:open   KEYS[3] → schedule:{NAME}:runs
/// ARGV[1] → instant   ARGV[2] → the record as it was read   ARGV[3] → the last one   ARGV[4] → when the keys expire
/// ARGV[5] → most runs that are kept   ARGV[6] → `failed`, `succeeded`, or `nothing`
/// ARGV[7] → so many failures pause it, 0: none do   ARGV[8] → what a pause says
/// ```
pub const END_RUN: &str = "\
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
redis.call('PEXPIREAT', KEYS[3], ARGV[4])
local most = tonumber(ARGV[5])
if redis.call('HLEN', KEYS[3]) > most + 100 then
  local kept = redis.call('HKEYS', KEYS[3])
  table.sort(kept, function(a, b) return tonumber(a) < tonumber(b) end)
  for at = 1, #kept - most do redis.call('HDEL', KEYS[3], kept[at]) end
end
if redis.call('EXISTS', KEYS[1]) == 0 then return 1 end
if ARGV[6] == 'succeeded' then redis.call('HSET', KEYS[1], 'failures', 0) end
if ARGV[6] ~= 'failed' then return 1 end
local failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
local pauses = tonumber(ARGV[7])
if pauses > 0 and failures >= pauses and redis.call('HEXISTS', KEYS[1], 'paused') == 0 then
  redis.call('HSET', KEYS[1], 'paused', ARGV[8])
  return 2
end
return 1
";

/// Goes on with a schedule that was paused: nothing runs for the time of the pause. Replies 1; 0 where there is none, -1 where
/// it is not paused.
/// ```text
/// KEYS[1] → schedule:{NAME}
/// ARGV[1] → the new `accounted_until`
/// ```
pub const RESUME_SCHEDULE: &str = "\
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if redis.call('HDEL', KEYS[1], 'paused') == 0 then return -1 end
redis.call('HSET', KEYS[1], 'accounted_until', ARGV[1], 'failures', 0)
return 1
";

/// Pauses a schedule. Replies 1; 0 where there is none.
/// ```text
/// KEYS[1] → schedule:{NAME}
/// ARGV[1] → what the pause says
/// ```
pub const PAUSE_SCHEDULE: &str = "\
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'paused', ARGV[1])
return 1
";

/// Takes or renews the right of one of several instances to do something. Where another has it, its claim is left, and that
/// this one waits is noted.
/// ```text
/// KEYS[1] → serve:{remote-write}
/// ARGV[1] → who takes it   ARGV[2] → milliseconds until it expires   ARGV[3] → the moment now, in milliseconds
/// Returns nothing where it is taken, else who has it
/// ```
pub const TAKE_LEASE: &str = "\
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner and owner ~= ARGV[1] then
  redis.call('HSET', KEYS[1], 'waits', ARGV[3])
  return owner
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return false
";

/// Gives back what [`TAKE_LEASE`] has taken.
/// ```text
/// KEYS[1] → serve:{remote-write}
/// ARGV[1] → who has taken it
/// Returns when another instance has waited for it last, in milliseconds; 'taken' where another has it; else nothing
/// ```
pub const LEAVE_LEASE: &str = "\
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner ~= ARGV[1] then return owner and 'taken' end
local waits = redis.call('HGET', KEYS[1], 'waits')
redis.call('DEL', KEYS[1])
return waits
";

/// Writes what an evaluation of the alerts has come to, all of it or nothing: an instance that was frozen does not overwrite
/// what another one has written since. Replies 1; 0 where another version is there.
/// ```text
/// KEYS[1] → alert:{fleet}:evaluation   KEYS[2] → alert:{fleet}:states    KEYS[3] → alert:{fleet}:groups
/// KEYS[4] → alert:{fleet}:outbox       KEYS[5] → alert:{fleet}:deliveries
/// ARGV[1] → the version that was read, empty where there was none
/// ARGV[2] → how many of the following belong to the evaluation
/// ARGV[3…] → these fields and values; then of each other key: how many fields are set, they and their values, how many are
///            deleted, they
/// ```
pub const COMMIT_ALERTS: &str = "\
if (redis.call('HGET', KEYS[1], 'version') or '') ~= ARGV[1] then return 0 end
local at = 2
local function take() at = at + 1 return ARGV[at] end
for _ = 1, tonumber(ARGV[2]) do redis.call('HSET', KEYS[1], take(), take()) end
for key = 2, #KEYS do
  for _ = 1, tonumber(take()) do redis.call('HSET', KEYS[key], take(), take()) end
  for _ = 1, tonumber(take()) do redis.call('HDEL', KEYS[key], take()) end
end
return 1
";

/// Replaces what is known of a delivery, if it is what was read. Replies with the notification; nil where it was not replaced.
/// One without its notification is removed: it would hold up those behind it.
/// ```text
/// KEYS[1] → alert:{fleet}:outbox   KEYS[2] → alert:{fleet}:deliveries
/// ARGV[1] → the notification's id   ARGV[2] → what was read   ARGV[3] → what it shall be
/// ```
pub const CLAIM_DELIVERY: &str = "\
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return false end
local told = redis.call('HGET', KEYS[1], ARGV[1])
if not told then
  redis.call('HDEL', KEYS[2], ARGV[1])
  return false
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
return told
";

/// Takes a notification that was delivered, or is given up, from the outbox to the log. Replies 1; 0 where it is not there, or
/// another one has taken its delivery.
/// ```text
/// KEYS[1] → alert:{fleet}:outbox   KEYS[2] → alert:{fleet}:deliveries   KEYS[3] → alert:{fleet}:log
/// ARGV[1] → the notification's id   ARGV[2] → most entries of the log
/// ARGV[3] → the delivery as it was taken; empty: whoever has taken it   ARGV[4…] → fields and values of the entry
/// ```
pub const END_DELIVERY: &str = "\
if ARGV[3] ~= '' and redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[3] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
if redis.call('HDEL', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('XADD', KEYS[3], 'MAXLEN', ARGV[2], '*', unpack(ARGV, 4))
return 1
";
