//! What Redis has of alerts. All of it has one owner: the fleet.

use std::collections::{BTreeMap, HashMap};

use protocol::{limits, name::RuleName, scripts, time::Millis};
use redis::Pipeline;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Course, Delivery, Key, Notification, Rule, Silence, Told, Written, groups};
use crate::client::{
    error::Error,
    fleet::{Fleet, RawHash, text, text_fields},
};

/// Where a rule comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// It comes with Redfleet.
    Shipped,
    /// A file of `ctl serve`.
    File,
    /// Somebody has added it.
    Added,
}

/// A rule as Redis has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRule {
    /// Where it comes from.
    pub origin: Origin,
    /// Who has added it, or the file.
    pub by: String,
    /// The rule.
    pub rule: Written,
}

/// Rules by their names, or what is wrong with one.
pub type StoredRules = BTreeMap<String, Result<(StoredRule, Rule), String>>;

/// Everything that is known of alerts.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Changes with each evaluation.
    pub(super) version: String,
    /// When the last evaluation was.
    pub at_ms: Option<Millis>,
    /// Who has done it.
    pub by: String,
    /// Who is told where a rule names nobody.
    pub receivers: Vec<String>,
    /// The rules, or what is wrong with one.
    pub rules: StoredRules,
    /// How each alert has come along.
    pub courses: BTreeMap<Key, Course>,
    /// What everybody was told.
    pub told: BTreeMap<String, Told>,
    /// The silences, also those that are over.
    pub silences: Vec<Silence>,
    /// How many notifications wait for their receivers.
    pub waiting: usize,
    /// How many notifications were made, ever.
    made: u64,
    /// Fields that cannot be read.
    damaged_courses: Vec<String>,
    damaged_told: Vec<String>,
}

/// What an evaluation writes.
pub(super) struct Commit<'a> {
    pub(super) before: &'a Snapshot,
    pub(super) by: &'a str,
    pub(super) receivers: &'a [String],
    pub(super) now: Millis,
    pub(super) courses: &'a BTreeMap<Key, Course>,
    pub(super) told: &'a BTreeMap<String, Told>,
    pub(super) notifications: &'a [Notification],
}

impl Snapshot {
    /// The rules that can be used.
    pub fn usable(&self) -> Vec<Rule> {
        self.rules.values().filter_map(|rule| Some(rule.as_ref().ok()?.1.clone())).collect()
    }

    /// The silences that are not over.
    pub fn silences_at(&self, now: Millis) -> Vec<Silence> {
        self.silences.iter().filter(|silence| silence.until_ms > now).cloned().collect()
    }
}

fn read_rule(name: &str, text: &str) -> Result<(StoredRule, Rule), String> {
    if text.len() > 2 * limits::ALERT_RULE_BYTES {
        return Err("it is too large".into());
    }
    let stored: StoredRule = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let rule = Rule::judge(stored.rule.clone()).map_err(|error| error.to_string())?;
    if rule.name().as_str() == name { Ok((stored, rule)) } else { Err("it stands in the place of another one".into()) }
}

/// The fields of a hash that can be read, and the names of the others.
fn read_all<T: DeserializeOwned>(hash: RawHash) -> (BTreeMap<String, T>, Vec<String>) {
    let (mut read, mut damaged) = (BTreeMap::new(), Vec::new());
    for (name, value) in hash {
        match serde_json::from_slice(&value) {
            Ok(value) => drop(read.insert(text(&name), value)),
            Err(_) => damaged.push(text(&name)),
        }
    }
    (read, damaged)
}

fn read_rules(rules: RawHash) -> StoredRules {
    let read = |(name, text): (String, String)| {
        let rule = read_rule(&name, &text);
        (name, rule)
    };
    text_fields(rules).into_iter().map(read).collect()
}

impl Fleet {
    /// The rules alone.
    ///
    /// # Errors
    /// Somebody has put more there than can be.
    pub async fn alert_rules(&mut self) -> Result<StoredRules, Error> {
        let key = self.keys().alert_rules();
        self.check_sizes([(key.clone(), limits::ALERT_RULES, "rules")]).await?;
        let (rules,): (RawHash,) = self.query(redis::pipe().hgetall(key)).await?;
        Ok(read_rules(rules))
    }

    /// Looks whether these hashes have no more fields than they can have, before they are read.
    async fn check_sizes<const N: usize>(&mut self, bounded: [(String, usize, &'static str); N]) -> Result<(), Error> {
        let mut ask = redis::pipe();
        for (key, ..) in &bounded {
            ask.hlen(key);
        }
        let sizes: Vec<usize> = self.query(&ask).await?;
        for (size, (key, most, what)) in sizes.into_iter().zip(bounded) {
            if size > most {
                return Err(Error::ManyAlerts { what, size, key });
            }
        }
        Ok(())
    }

    /// Everything that is known of alerts.
    ///
    /// # Errors
    /// Somebody has put more there than can be.
    pub async fn alerts(&mut self) -> Result<Snapshot, Error> {
        let keys = self.keys().clone();
        let bounded = [
            (keys.alert_rules(), limits::ALERT_RULES, "rules"),
            (keys.alert_states(), 2 * limits::ALERT_STATES, "states"),
            (keys.alert_groups(), 2 * limits::ALERT_STATES, "groups"),
            (keys.alert_silences(), limits::ALERT_SILENCES, "silences"),
        ];
        self.check_sizes(bounded).await?;
        let mut ask = redis::pipe();
        // The version first: whatever changes in between belongs to a later one, and is not overwritten.
        ask.hgetall(keys.alert_evaluation()).hgetall(keys.alert_rules()).hgetall(keys.alert_states());
        ask.hgetall(keys.alert_groups()).hgetall(keys.alert_silences()).hlen(keys.alert_outbox());
        let replies: (RawHash, RawHash, RawHash, RawHash, RawHash, usize) = self.query_with_time(&ask).await?;
        let (evaluation, rules, states, told, silences, waiting) = replies;
        let mut evaluation = text_fields(evaluation);
        let (read, mut damaged_courses) = read_all::<Course>(states);
        let mut courses = BTreeMap::new();
        for (field, course) in read {
            match field.parse() {
                Ok(key) => drop(courses.insert(key, course)),
                Err(()) => damaged_courses.push(field),
            }
        }
        let (mut told, mut damaged_told) = read_all::<Told>(told);
        told.retain(|field, told| {
            let is_own = groups::field(told) == *field;
            if !is_own {
                damaged_told.push(field.clone());
            }
            is_own
        });
        let mut silences: Vec<Silence> = read_all::<Silence>(silences).0.into_values().collect();
        silences.sort_by(|one, other| (one.begins_ms, &one.id).cmp(&(other.begins_ms, &other.id)));
        Ok(Snapshot {
            version: evaluation.remove("version").unwrap_or_default(),
            at_ms: evaluation.remove("at_ms").and_then(|at| at.parse().ok()),
            by: evaluation.remove("by").unwrap_or_default(),
            receivers: evaluation
                .remove("receivers")
                .and_then(|receivers| serde_json::from_str(&receivers).ok())
                .unwrap_or_default(),
            rules: read_rules(rules),
            courses,
            told,
            silences,
            waiting,
            made: evaluation.remove("made").and_then(|made| made.parse().ok()).unwrap_or_default(),
            damaged_courses,
            damaged_told,
        })
    }

    /// Who has evaluated the alerts last, and when.
    pub(super) async fn last_evaluation(&mut self) -> Result<(String, Option<Millis>), Error> {
        let mut ask = redis::pipe();
        ask.add_command(redis::Cmd::hmget(self.keys().alert_evaluation(), &["by", "at_ms"]));
        let ((by, at),): ((Option<String>, Option<String>),) = self.query_with_time(&ask).await?;
        Ok((by.unwrap_or_default(), at.and_then(|at| at.parse().ok())))
    }

    /// Writes what an evaluation has come to. `false`: another one was faster, and nothing was written.
    pub(super) async fn commit_alerts(&mut self, commit: &Commit<'_>) -> Result<bool, Error> {
        let keys = self.keys().clone();
        let Commit { before, now, .. } = commit;
        let mut write = redis::pipe();
        write.cmd("EVAL").arg(scripts::COMMIT_ALERTS).arg(5);
        write.arg(keys.alert_evaluation()).arg(keys.alert_states()).arg(keys.alert_groups());
        write.arg(keys.alert_outbox()).arg(keys.alert_deliveries()).arg(&before.version);
        // No two evaluations have the same, even where Redis has lost the newest.
        let version = format!("{now} {}", commit.by);
        let receivers = serde_json::to_string(commit.receivers).unwrap_or_default();
        write.arg(5).arg("version").arg(version).arg("at_ms").arg(now).arg("by").arg(commit.by);
        write.arg("receivers").arg(receivers);
        write.arg("made").arg(before.made.saturating_add(commit.notifications.len() as u64));
        let name = |key: &Key| key.to_string();
        changes(&mut write, &before.courses, commit.courses, name, &before.damaged_courses);
        changes(&mut write, &before.told, commit.told, Clone::clone, &before.damaged_told);
        let outbox: BTreeMap<_, _> = commit.notifications.iter().map(|one| (one.id.clone(), one)).collect();
        changes(&mut write, &BTreeMap::new(), &outbox, Clone::clone, &[]);
        let numbered = commit.notifications.iter().zip(before.made.saturating_add(1)..);
        let deliveries = numbered.map(|(one, number)| (one.id.clone(), Delivery::new(one, number)));
        changes(&mut write, &BTreeMap::new(), &deliveries.collect(), Clone::clone, &[]);
        let (is_written,): (bool,) = self.query(&write).await?;
        Ok(is_written)
    }

    /// Puts a rule in the place of the one of its name.
    ///
    /// # Errors
    /// There are too many.
    pub async fn put_rule(&mut self, rule: &StoredRule) -> Result<(), Error> {
        let mut put = redis::pipe();
        put.cmd("EVAL").arg(scripts::SET_BOUNDED).arg(1).arg(self.keys().alert_rules());
        put.arg(rule.rule.name.as_str()).arg(serde_json::to_string(rule).unwrap_or_default()).arg(limits::ALERT_RULES);
        let (is_put,): (bool,) = self.query(&put).await?;
        if is_put { Ok(()) } else { Err(self.many("rules", limits::ALERT_RULES)) }
    }

    /// Removes a rule. Its alerts end with the next evaluation.
    pub async fn remove_rule(&mut self, name: &RuleName) -> Result<bool, Error> {
        let (removed,): (bool,) = self.query(redis::pipe().hdel(self.keys().alert_rules(), name.as_str())).await?;
        Ok(removed)
    }

    /// Makes the rules that come with this program and its settings those that Redis has. What somebody has added under the
    /// same name counts in their place.
    pub async fn publish_rules(&mut self, own: &[StoredRule]) -> Result<(), Error> {
        let snapshot = self.alerts().await?;
        for (name, known) in &snapshot.rules {
            let is_old = known.as_ref().is_ok_and(|(known, _)| known.origin != Origin::Added);
            if is_old && !own.iter().any(|rule| rule.rule.name.as_str() == name) {
                self.query::<()>(redis::pipe().hdel(self.keys().alert_rules(), name).ignore()).await?;
            }
        }
        for rule in own {
            let known = snapshot.rules.get(rule.rule.name.as_str());
            let is_kept = known.is_some_and(|known| {
                known.as_ref().is_ok_and(|(known, _)| known == rule || known.origin == Origin::Added)
            });
            if !is_kept {
                self.put_rule(rule).await?;
            }
        }
        Ok(())
    }

    /// Adds a silence.
    ///
    /// # Errors
    /// There are too many.
    pub async fn put_silence(&mut self, silence: &Silence) -> Result<(), Error> {
        let snapshot = self.alerts().await?;
        let now = self.now();
        let over = snapshot.silences.iter().filter(|silence| silence.until_ms <= now);
        let over: Vec<_> = over.map(|silence| silence.id.clone()).collect();
        if !over.is_empty() {
            self.query::<()>(redis::pipe().hdel(self.keys().alert_silences(), over).ignore()).await?;
        }
        let mut put = redis::pipe();
        put.cmd("EVAL").arg(scripts::SET_BOUNDED).arg(1).arg(self.keys().alert_silences());
        put.arg(&silence.id).arg(serde_json::to_string(silence).unwrap_or_default()).arg(limits::ALERT_SILENCES);
        let (is_put,): (bool,) = self.query(&put).await?;
        if is_put { Ok(()) } else { Err(self.many("silences", limits::ALERT_SILENCES)) }
    }

    /// Removes a silence.
    pub async fn remove_silence(&mut self, id: &str) -> Result<bool, Error> {
        let (removed,): (bool,) = self.query(redis::pipe().hdel(self.keys().alert_silences(), id)).await?;
        Ok(removed)
    }

    /// What is known about the fleet's Redis itself.
    pub(super) async fn redis_figures(&mut self) -> Result<HashMap<String, String>, Error> {
        let (status,): (RawHash,) = self.query(redis::pipe().hgetall(self.keys().redis_status())).await?;
        Ok(text_fields(status))
    }

    fn many(&self, what: &'static str, size: usize) -> Error {
        Error::ManyAlerts { what, size, key: self.keys().alert_rules() }
    }
}

/// How many fields are set, they and their values; how many are deleted, they.
fn changes<K: Ord, V: Serialize + PartialEq>(
    write: &mut Pipeline,
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    name: impl Fn(&K) -> String,
    damaged: &[String],
) {
    let set: Vec<_> = after.iter().filter(|(key, value)| before.get(key) != Some(value)).collect();
    write.arg(set.len());
    for (key, value) in set {
        write.arg(name(key)).arg(serde_json::to_string(value).unwrap_or_default());
    }
    let gone: Vec<_> = before.keys().filter(|key| !after.contains_key(key)).map(&name).collect();
    write.arg(gone.len() + damaged.len()).arg(gone).arg(damaged);
}
