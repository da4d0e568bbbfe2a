//! Checks of the keys: each has a time to live or a cap, so that nothing grows or stays for ever.

use std::collections::BTreeMap;

use protocol::{
    clock::millis,
    keys::{Cap, Keys, Retention},
    time::Millis,
};
use redis::{Pipeline, RedisError, Value, from_redis_value};

use super::{Finding, some};
use crate::fleet::Fleet;

/// Keys asked about in one round trip.
const BATCH: usize = 1000;
/// Streams are trimmed by whole nodes (of 100 entries by default), so a little more than the cap may stay.
const NODE: usize = 200;
/// Beginnings of key names that are Redfleet's own.
const OURS: [&str; 2] = ["server:", "job:"];

/// What is wrong with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    NoTtl,
    LongTtl,
    OverCap,
    WrongType,
    Unknown,
}

impl Trouble {
    fn finding(self, keys: &[String]) -> Finding {
        let (count, keys) = (keys.len(), some(keys));
        match self {
            Self::NoTtl => Finding::problem("keys", format!("{count} without the TTL that it must have: {keys}")),
            Self::LongTtl => Finding::problem("keys", format!("{count} with a longer TTL than it may have: {keys}")),
            Self::OverCap => Finding::problem("keys", format!("{count} above its cap: {keys}")),
            Self::WrongType => Finding::problem("keys", format!("{count} of the wrong type: {keys}")),
            Self::Unknown => Finding::warning("keys", format!("{count} named like Redfleet's, but unknown: {keys}")),
        }
    }
}

/// What was found among all keys.
#[derive(Default)]
struct Survey {
    ours: usize,
    others: usize,
    troubles: BTreeMap<Trouble, Vec<String>>,
}

pub(super) async fn check(fleet: &mut Fleet) -> anyhow::Result<Vec<Finding>> {
    let mut survey = Survey::default();
    let mut cursor = 0_u64;
    loop {
        let mut pipeline = redis::pipe();
        pipeline.cmd("SCAN").arg(cursor).arg("MATCH").arg(fleet.keys.pattern()).arg("COUNT").arg(BATCH);
        let ((next, keys),): ((u64, Vec<Vec<u8>>),) = fleet.ask(&pipeline).await?;
        survey.add(fleet, keys).await?;
        if next == 0 {
            return Ok(survey.findings());
        }
        cursor = next;
    }
}

impl Survey {
    async fn add(&mut self, fleet: &mut Fleet, keys: Vec<Vec<u8>>) -> anyhow::Result<()> {
        let mut bounded = Vec::with_capacity(keys.len());
        for key in keys {
            // All of ours are text.
            let key = String::from_utf8(key).unwrap_or_default();
            match fleet.keys.retention(&key) {
                Some(retention) => bounded.push((key, retention)),
                None if is_named_like_ours(&fleet.keys, &key) => self.note(Trouble::Unknown, key),
                None => self.others += 1,
            }
        }
        if bounded.is_empty() {
            return Ok(());
        }
        self.ours += bounded.len();
        let mut pipeline = redis::pipe();
        // A key of the wrong type must not hide the others.
        pipeline.ignore_errors();
        for (key, retention) in &bounded {
            question(&mut pipeline, key, *retention);
        }
        let replies: Vec<Result<Value, RedisError>> = fleet.ask(&pipeline).await?;
        for ((key, retention), reply) in bounded.into_iter().zip(replies) {
            let trouble = match (retention, reply) {
                (_, Err(error)) => trouble_of(&error),
                (Retention::Capped(Cap::Age(age)), Ok(reply)) => overaged(fleet, &key, millis(age), reply).await?,
                (retention, Ok(reply)) => judge(retention, from_redis_value(reply)?),
            };
            if let Some(trouble) = trouble {
                self.note(trouble, key);
            }
        }
        Ok(())
    }

    fn note(&mut self, trouble: Trouble, key: String) {
        let keys = self.troubles.entry(trouble).or_default();
        // A scan may name a key twice.
        if !keys.contains(&key) {
            keys.push(key);
        }
    }

    fn findings(self) -> Vec<Finding> {
        let others = if self.others == 0 { String::new() } else { format!("; not Redfleet's: {}", self.others) };
        let bounded = self.troubles.keys().all(|trouble| *trouble == Trouble::Unknown);
        let sound =
            bounded.then(|| Finding::ok("keys", format!("no key without TTL or cap ({} keys{others})", self.ours)));
        self.troubles.iter().map(|(trouble, keys)| trouble.finding(keys)).chain(sound).collect()
    }
}

fn is_named_like_ours(keys: &Keys, key: &str) -> bool {
    let pattern = keys.pattern();
    let prefix = pattern.trim_end_matches('*');
    // A namespace is all ours.
    !prefix.is_empty() || OURS.iter().any(|ours| key.starts_with(ours))
}

/// Asks for the number that tells whether the key is bounded.
fn question(pipeline: &mut Pipeline, key: &str, retention: Retention) {
    match retention {
        Retention::Expires(_) => pipeline.cmd("PTTL").arg(key),
        Retention::Capped(Cap::Members(_)) => pipeline.cmd("ZCARD").arg(key),
        Retention::Capped(Cap::Entries(_)) => pipeline.cmd("XLEN").arg(key),
        Retention::Capped(Cap::Age(_)) => pipeline.cmd("XINFO").arg("STREAM").arg(key),
    };
}

fn judge(retention: Retention, number: i64) -> Option<Trouble> {
    match retention {
        // -2: it has just expired.
        Retention::Expires(_) if number == -2 => None,
        Retention::Expires(_) if number < 0 => Some(Trouble::NoTtl),
        Retention::Expires(longest) => (number.unsigned_abs() > millis(longest)).then_some(Trouble::LongTtl),
        Retention::Capped(Cap::Members(most)) => (number.unsigned_abs() > most as u64).then_some(Trouble::OverCap),
        Retention::Capped(Cap::Entries(most)) => {
            (number.unsigned_abs() > (most + NODE) as u64).then_some(Trouble::OverCap)
        }
        Retention::Capped(Cap::Age(_)) => None,
    }
}

fn trouble_of(error: &RedisError) -> Option<Trouble> {
    // XINFO says ERR of a key that has gone in the meantime.
    (error.code() == Some("WRONGTYPE")).then_some(Trouble::WrongType)
}

/// Whether a stream holds entries that its writers should have trimmed. They trim when they write, so
/// the last entry's age counts, not the present: an inbox to which nobody writes does not grow.
async fn overaged(fleet: &mut Fleet, key: &str, age: Millis, reply: Value) -> anyhow::Result<Option<Trouble>> {
    let Some(last) = last_generated(reply) else { return Ok(None) };
    let horizon = last.saturating_sub(age);
    let mut pipeline = redis::pipe();
    // Only entries that are too old are fetched, which are few.
    pipeline.cmd("XRANGE").arg(key).arg("-").arg(format!("({horizon}")).arg("COUNT").arg(NODE + 1);
    let (entries,): (Vec<Value>,) = fleet.ask(&pipeline).await?;
    Ok((entries.len() > NODE).then_some(Trouble::OverCap))
}

/// When the last entry was added, from the reply to `XINFO STREAM`.
fn last_generated(reply: Value) -> Option<Millis> {
    let fields = reply.into_map_iter().ok()?;
    let is_last = |name: &Value| matches!(name, Value::BulkString(name) if name == b"last-generated-id");
    let (_, id) = fields.into_iter().find(|(name, _)| is_last(name))?;
    let id: String = from_redis_value(id).ok()?;
    id.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_bound_is_judged() {
        let minute = Retention::Expires(Duration::from_secs(60));
        assert_eq!(judge(minute, -2), None);
        assert_eq!(judge(minute, -1), Some(Trouble::NoTtl));
        assert_eq!(judge(minute, 60_000), None);
        assert_eq!(judge(minute, 60_001), Some(Trouble::LongTtl));
        let members = Retention::Capped(Cap::Members(10));
        assert_eq!([judge(members, 10), judge(members, 11)], [None, Some(Trouble::OverCap)]);
        // Streams may exceed theirs by what trimming leaves.
        let entries = Retention::Capped(Cap::Entries(10));
        assert_eq!([judge(entries, 210), judge(entries, 211)], [None, Some(Trouble::OverCap)]);
    }

    #[test]
    fn a_namespace_is_all_ours_and_the_rest_is_not() {
        let bare = Keys::new(None);
        assert!(is_named_like_ours(&bare, "server:web1"));
        assert!(!is_named_like_ours(&bare, "cart:17"));
        assert!(is_named_like_ours(&Keys::new(Some(&"prod".parse().unwrap())), "prod:cart:17"));
    }

    #[test]
    fn soundness_is_said_in_so_many_words() {
        let sound = Survey { ours: 12, others: 3, troubles: BTreeMap::new() }.findings();
        assert_eq!(sound[0].message, "no key without TTL or cap (12 keys; not Redfleet's: 3)");
        let mut survey = Survey::default();
        survey.note(Trouble::NoTtl, "job:{1}".into());
        survey.note(Trouble::NoTtl, "job:{1}".into());
        let findings = survey.findings();
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].message, "1 without the TTL that it must have: job:{1}");
    }
}
