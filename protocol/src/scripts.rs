//! The scripts that run inside Redis. Each touches the keys of one job only.

/// Publishes a host's state, and with a terminal one its result, unless a terminal state is there: that
/// never changes again, whatever arrives late or twice.
///
/// ```text
/// KEYS[1] → job:{ID}:hosts   KEYS[2] → job:{ID}:events   KEYS[3] → job:{ID}:result:HOST   KEYS[4] → job:{ID}
/// ARGV[1] → host   ARGV[2] → state   ARGV[3] → seconds until the keys expire, where the job itself is gone
/// ARGV[4] → most events   ARGV[5] → `known`: nothing is written where the job itself is gone; else `any`
/// ARGV[6…] → the result's fields and values
/// Returns 1, or 0 where nothing was written, or an error where something else stands in a key's place;
///         what can be written is written all the same
/// ```
///
/// All keys of a job expire when the job itself does, so that none speaks where another is silent.
///
/// The first write is one that Redis denies when it is full: it denies nothing to a script that has
/// written already. The event's fields are those of [`crate::event::Event`].
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
if before and not foreign and before ~= 'delivered' and (before ~= 'running' or ARGV[2] == 'delivered') then
  return 0
end
if #ARGV > 5 then
  if redis.call('EXISTS', KEYS[3]) == 1 then redis.call('DEL', KEYS[3]) end
  redis.call('HSET', KEYS[3], unpack(ARGV, 6))
  expire(KEYS[3])
end
if not foreign then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  expire(KEYS[1])
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'host', ARGV[1], 'state', ARGV[2])
expire(KEYS[2])
return foreign and before or 1
";
