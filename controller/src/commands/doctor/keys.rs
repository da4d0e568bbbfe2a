//! Checks of the keys: each has a time to live or a cap, so that nothing grows or stays for ever.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use protocol::{
    clock::millis,
    keys::{Keys, Retention},
    time::Millis,
};
use redis::{Pipeline, RedisError, Value, from_redis_value};

use super::{Finding, Level, permitted};
use crate::client::{Error, Fleet, shorten};

/// Keys that are checked in one round trip.
const BATCH: usize = 1000;
/// Streams are trimmed by whole nodes (of 100 entries by default), so a little more than the cap may stay.
const NODE: usize = 200;
/// Beginnings of key names that are Redfleet's own.
const OURS: [&str; 2] = ["server:", "job:"];

/// A fault of keys: its level and its description.
type Trouble = (Level, &'static str);

const NO_TTL: Trouble = (Level::Problem, "without the TTL that it must have");
const LONG_TTL: Trouble = (Level::Problem, "with a longer TTL than it may have");
const OVER_CAP: Trouble = (Level::Problem, "above its cap");
const WRONG_TYPE: Trouble = (Level::Problem, "of the wrong type");
const UNKNOWN: Trouble = (Level::Warning, "named like Redfleet's, but unknown");
const HIDDEN: Trouble = (Level::Warning, "not checked, because this user may not examine them");

/// The findings among all keys.
#[derive(Default)]
struct Survey {
    ours: usize,
    others: usize,
    /// A scan may name a key twice.
    troubles: BTreeMap<Trouble, BTreeSet<String>>,
}

pub async fn check(fleet: &mut Fleet) -> anyhow::Result<Vec<Finding>> {
    let mut survey = Survey::default();
    let mut cursor = 0_u64;
    loop {
        let mut pipeline = redis::pipe();
        pipeline.cmd("SCAN").arg(cursor).arg("MATCH").arg(fleet.keys().pattern()).arg("COUNT").arg(BATCH);
        let ((next, keys),): ((u64, Vec<Vec<u8>>),) = match permitted("keys", fleet.query(&pipeline).await)? {
            Ok(reply) => reply,
            Err(finding) => return Ok(vec![finding]),
        };
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
        let mut pipeline = redis::pipe();
        // A key of the wrong type must not hide the others.
        pipeline.ignore_errors();
        for key in keys {
            // All of ours are text.
            let key = String::from_utf8(key).unwrap_or_default();
            match fleet.keys().retention(&key) {
                Some(retention) => {
                    question(&mut pipeline, &key, retention);
                    bounded.push((key, retention));
                }
                None if is_named_like_ours(fleet.keys(), &key) => self.note(UNKNOWN, key),
                None => self.others += 1,
            }
        }
        if bounded.is_empty() {
            return Ok(());
        }

        self.ours += bounded.len();
        let replies: Vec<Result<Value, RedisError>> = fleet.query(&pipeline).await?;
        for ((key, retention), reply) in bounded.into_iter().zip(replies) {
            let trouble = match (retention, reply) {
                (_, Err(error)) => match error.code() {
                    Some("WRONGTYPE") => Some(WRONG_TYPE),
                    Some("NOPERM") => Some(HIDDEN),
                    // XINFO replies ERR for a key that has gone in the meantime.
                    _ => None,
                },
                (Retention::Age(age), Ok(reply)) => {
                    let horizon = newest(reply)?.saturating_sub(millis(age));
                    match permitted("keys", older(fleet, &key, horizon).await)? {
                        Ok(count) => judge(retention, count),
                        Err(_) => Some(HIDDEN),
                    }
                }
                (retention, Ok(reply)) => judge(retention, from_redis_value(reply)?),
            };
            if let Some(trouble) = trouble {
                self.note(trouble, key);
            }
        }
        Ok(())
    }

    fn note(&mut self, trouble: Trouble, key: String) {
        self.troubles.entry(trouble).or_default().insert(key);
    }

    fn findings(self) -> Vec<Finding> {
        let finding = |(&(level, what), keys): (&Trouble, &BTreeSet<String>)| {
            let keys: Vec<_> = keys.iter().collect();
            Finding::new("keys", level, format!("{} {what}: {}", keys.len(), shorten(&keys)))
        };
        let mut findings: Vec<_> = self.troubles.iter().map(finding).collect();
        let is_whole = !self.troubles.contains_key(&HIDDEN);
        if is_whole && findings.iter().all(|finding| finding.level == Level::Warning) {
            let others = if self.others == 0 { String::new() } else { format!("; not Redfleet's: {}", self.others) };
            let message = format!("every key has a TTL or a cap ({} keys{others})", self.ours);
            findings.push(Finding::new("keys", Level::Ok, message));
        }
        findings
    }
}

fn is_named_like_ours(keys: &Keys, key: &str) -> bool {
    let pattern = keys.pattern();
    let prefix = pattern.trim_end_matches('*');
    // A namespace is all ours.
    !prefix.is_empty() || OURS.iter().any(|ours| key.starts_with(ours))
}

/// Adds the command whose reply shows whether the key is bounded.
fn question(pipeline: &mut Pipeline, key: &str, retention: Retention) {
    match retention {
        Retention::Expires(_) => pipeline.cmd("PTTL").arg(key),
        Retention::Members(_) => pipeline.cmd("ZCARD").arg(key),
        Retention::Fields(_) => pipeline.cmd("HLEN").arg(key),
        Retention::Entries(_) => pipeline.cmd("XLEN").arg(key),
        Retention::Age(_) => pipeline.cmd("XINFO").arg("STREAM").arg(key),
    };
}

/// `number`: the time to live in milliseconds, or how many members or entries there are; of a stream that is
/// capped by age, how many are too old.
fn judge(retention: Retention, number: i64) -> Option<Trouble> {
    let (most, trouble) = match retention {
        // It has just expired.
        Retention::Expires(_) if number == -2 => return None,
        Retention::Expires(_) if number < 0 => return Some(NO_TTL),
        Retention::Expires(longest) => (millis(longest), LONG_TTL),
        Retention::Members(most) | Retention::Fields(most) => (most as u64, OVER_CAP),
        Retention::Entries(most) => ((most + NODE) as u64, OVER_CAP),
        Retention::Age(_) => (NODE as u64, OVER_CAP),
    };
    (number.unsigned_abs() > most).then_some(trouble)
}

/// When the newest entry of a stream was added, from the reply to `XINFO STREAM`. Writers trim when they write, so the
/// age of entries is counted from there and not from the present: an inbox without writers does not grow.
fn newest(info: Value) -> anyhow::Result<Millis> {
    let mut info: HashMap<String, Value> = from_redis_value(info)?;
    let last: String = from_redis_value(info.remove("last-generated-id").unwrap_or(Value::Nil))?;
    Ok(last.split('-').next().unwrap_or_default().parse()?)
}

/// How many entries of a stream are older than `horizon`, as far as that matters: their writers should have trimmed
/// them, so there are few.
async fn older(fleet: &mut Fleet, key: &str, horizon: Millis) -> Result<i64, Error> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("XRANGE").arg(key).arg("-").arg(format!("({horizon}")).arg("COUNT").arg(NODE + 1);
    let (entries,): (Vec<Value>,) = fleet.query(&pipeline).await?;
    Ok(entries.len().try_into().unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_bound_is_judged() {
        let minute = Retention::Expires(Duration::from_secs(60));
        assert_eq!(judge(minute, -2), None);
        assert_eq!(judge(minute, -1), Some(NO_TTL));
        assert_eq!(judge(minute, 60_000), None);
        assert_eq!(judge(minute, 60_001), Some(LONG_TTL));
        let members = Retention::Members(10);
        assert_eq!([judge(members, 10), judge(members, 11)], [None, Some(OVER_CAP)]);
        // Streams may exceed their cap by the entries that trimming leaves.
        let entries = Retention::Entries(10);
        assert_eq!([judge(entries, 210), judge(entries, 211)], [None, Some(OVER_CAP)]);
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
        assert_eq!(sound[0].message, "every key has a TTL or a cap (12 keys; not Redfleet's: 3)");
        let mut survey = Survey::default();
        survey.note(NO_TTL, "job:{1}".into());
        survey.note(NO_TTL, "job:{1}".into());
        let findings = survey.findings();
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].message, "1 without the TTL that it must have: job:{1}");
    }
}
