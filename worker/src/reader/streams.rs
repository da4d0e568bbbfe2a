//! The host's streams as Redis replies them.

use std::time::Duration;

use protocol::{clock::millis, connection::Connection, keys::CONSUMER_GROUP, limits, signed::Fields};
use redis::{RedisError, cmd};

/// The consumer's name: there is one per host, and it is stable, so that pending entries stay its own.
const CONSUMER: &str = "worker";

/// Ids of entries, with their fields.
pub(super) type Entries = Vec<(String, Fields)>;

/// The id of a stream's new entries.
pub(super) const NEW: &str = ">";

/// Reads from each of these streams up to `count` entries behind an id. With `block`, waits so long for a new entry.
/// Returns the entries of each stream in the order of the request.
pub(super) async fn read(
    redis: &mut Connection,
    streams: &[(&str, &str)],
    count: usize,
    block: Option<Duration>,
) -> Result<Vec<Entries>, RedisError> {
    let mut read = cmd("XREADGROUP");
    read.arg("GROUP").arg(CONSUMER_GROUP).arg(CONSUMER).arg("COUNT").arg(count);
    if let Some(block) = block {
        read.arg("BLOCK").arg(millis(block));
    }
    let (keys, ids): (Vec<_>, Vec<_>) = streams.iter().copied().unzip();
    let mut reply: Streams = read.arg("STREAMS").arg(&keys).arg(ids).query_async(redis).await?;
    Ok(keys.into_iter().map(|key| take_stream(&mut reply, key)).collect())
}

/// Makes the stream and its group; returns whether one of them was missing.
pub(super) async fn make(redis: &mut Connection, key: &str) -> Result<bool, RedisError> {
    // At 0, not at $: entries that were queued before the group existed must be read too.
    let mut create = cmd("XGROUP");
    create.arg("CREATE").arg(key).arg(CONSUMER_GROUP).arg(0).arg("MKSTREAM");
    match create.query_async(redis).await {
        Ok(()) => {
            // The facts renew that later.
            let mut expire = cmd("EXPIRE");
            expire.arg(key).arg(limits::HOST_RETENTION.as_secs()).query_async::<()>(redis).await?;
            Ok(true)
        }
        Err(error) if error.code() == Some("BUSYGROUP") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the stream or its group does not exist any more (the codes differ between Redis versions).
pub(super) fn is_gone(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOGROUP" | "UNBLOCKED"))
}

/// How many bytes the entries' fields have.
pub(super) fn size(entries: &Entries) -> usize {
    entries.iter().flat_map(|(_, fields)| fields).map(|(name, value)| name.len() + value.len()).sum()
}

/// The reply to `XREADGROUP`: streams with their entries. The body of an entry that was trimmed while it was
/// pending is null.
type Streams = Option<Vec<(String, Vec<(String, Option<Vec<(Vec<u8>, Vec<u8>)>>)>)>>;

/// Takes the entries of one stream out of a reply, without fields whose names are not text. An entry that was
/// trimmed has none: it is dropped as malformed, and so acknowledged.
fn take_stream(streams: &mut Streams, key: &str) -> Entries {
    let stream = streams.iter_mut().flatten().find(|(name, _)| name == key);
    let entries = stream.map(|(_, entries)| std::mem::take(entries)).unwrap_or_default();
    let named = |(name, value)| Some((String::from_utf8(name).ok()?, value));
    let fields = |body: Option<Vec<_>>| body.into_iter().flatten().filter_map(named).collect();
    entries.into_iter().map(|(id, body)| (id, fields(body))).collect()
}
