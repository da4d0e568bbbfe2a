//! A schedule as Redis keeps it: the hash `schedule:{NAME}`, and what becomes of its instants.
//!
//! | field | content |
//! |---|---|
//! | `standing_order`, `signature` | the [`StandingOrder`] and its operator's signature |
//! | `added_at` | when it was added |
//! | `accounted_until` | `INSTANT ORDER`: all instants up to this one are accounted for, of the order with this salt |
//! | `failures` | failed runs in a row |
//! | `paused` | why it is paused, where it is |
//!
//! Several schedulers may work on it. Whoever moves `accounted_until` on ([`ACCOUNT`]) has accounted for the instants that it
//! passes, so each of them is accounted for once. A run that is begun is in the hash `:open` until its end is known, and then
//! in `:runs`, as is what did not run. A run that was claimed by a scheduler that died is sent by another one under the
//! same id.

use std::{collections::BTreeMap, fmt::Write};

use redis::Cmd;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    clock::millis,
    keys::Keys,
    limits,
    name::{JobId, ScheduleName},
    scripts::{ACCOUNT, END_RUN, PAUSE_SCHEDULE, PUT_SCHEDULE, RESUME_SCHEDULE, UPDATE_RUN},
    signed::{DocumentError, Fields, Signed},
    standing::{Standing, StandingOrder},
    time::{Millis, show_moment},
};

/// A schedule.
#[derive(Clone, Debug)]
pub struct Scheduled {
    /// Its order, as it was signed.
    pub standing: Standing,
    /// All instants up to this one are accounted for.
    pub accounted_ms: Millis,
    /// Failed runs in a row.
    pub failures: u32,
    /// Why it is paused, where it is.
    pub paused: Option<String>,
}

/// Why a schedule's hash cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScheduledError {
    /// The order is missing or malformed.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The order is that of another schedule.
    #[error("the order is that of another schedule")]
    Foreign,
    /// Something else is in its place.
    #[error("its key is no hash")]
    Kind,
    /// How far it is accounted for is missing, or about another order.
    #[error("the field 'accounted_until' is malformed")]
    Accounted,
}

/// Claimed runs by their instants: of each that was withdrawn what becomes of it, and why; of others nothing.
pub type Claims = BTreeMap<Millis, Option<(Fate, String)>>;

/// What becomes of an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// A scheduler has begun to send it.
    #[serde(rename = "claimed")]
    Claimed,
    /// It was sent in time.
    #[serde(rename = "ran")]
    Ran,
    /// It was sent later than it was due.
    #[serde(rename = "late")]
    Late,
    /// The prior run had not ended.
    #[serde(rename = "skipped: overlap")]
    Overlap,
    /// No scheduler was there while it might have started, or a later run stands for it.
    #[serde(rename = "missed: grace")]
    Missed,
    /// It could not be sent.
    #[serde(rename = "failed to dispatch")]
    NotSent,
}

/// How a run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// On all hosts.
    Succeeded,
    /// On some host it did not succeed.
    Failed,
    /// Redis has lost it.
    Unknown,
}

/// An instant and what became of it, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instant {
    /// What became of it.
    pub state: Fate,
    /// What it becomes once it is sent, where it is claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub becomes: Option<Fate>,
    /// The job of its run: of the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// The number of the retry.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: u32,
    /// The scheduler that claimed it, or decided about it.
    pub by: String,
    /// When it did, in milliseconds.
    pub at_ms: Millis,
    /// When it was seen that the run has failed, where it is to be tried again, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_ms: Option<Millis>,
    /// Whether it is tried no more: a retry could not be sent.
    #[serde(default, skip_serializing_if = "is_false")]
    pub given_up: bool,
    /// How the run has ended, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// Why it did not run, or was not sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How a run that has ended counts towards the failures in a row that pause its schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// One more.
    Failed,
    /// None in a row any more.
    Succeeded,
    /// As many as before.
    Nothing,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Fate {
    /// The word for people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Ran => "ran",
            Self::Late => "late",
            Self::Overlap => "skipped: overlap",
            Self::Missed => "missed: grace",
            Self::NotSent => "failed to dispatch",
        }
    }
}

impl Instant {
    /// A record of an instant about which the scheduler `by` decides at `at_ms`.
    pub const fn new(state: Fate, by: String, at_ms: Millis) -> Self {
        Self {
            state,
            becomes: None,
            job: None,
            attempt: 0,
            by,
            at_ms,
            failed_ms: None,
            given_up: false,
            end: None,
            reason: None,
        }
    }

    /// The record as it is kept.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what [`Self::text`] wrote. `None` where somebody else has written it.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

impl Scheduled {
    /// The fields of the hash to ask for.
    pub const FIELDS: [&'static str; 5] = ["standing_order", "signature", "accounted_until", "failures", "paused"];

    /// A new one: nothing of it has run.
    pub fn new(standing: Standing) -> Self {
        Self { accounted_ms: standing.order().issued_at_ms, standing, failures: 0, paused: None }
    }

    /// Its order.
    pub const fn order(&self) -> &StandingOrder {
        self.standing.order()
    }

    /// Its name.
    pub const fn name(&self) -> &ScheduleName {
        &self.standing.order().name
    }

    /// Reads the hash of the schedule `name`.
    ///
    /// # Errors
    /// It is damaged, about another schedule, or was written by a newer release.
    pub fn from_fields(mut fields: Fields, name: &ScheduleName) -> Result<Self, ScheduledError> {
        let standing = Standing::open(Signed::take(&mut fields)?)?;
        if standing.order().name != *name {
            return Err(ScheduledError::Foreign);
        }
        let mut text = |name: &str| fields.remove(name).and_then(|value| String::from_utf8(value).ok());
        let accounted = text("accounted_until").ok_or(ScheduledError::Accounted)?;
        let accounted_ms = accounted.split_once(' ').filter(|(_, order)| *order == tag(&standing));
        let accounted_ms = accounted_ms.and_then(|(moment, _)| moment.parse().ok()).ok_or(ScheduledError::Accounted)?;
        let failures = text("failures").and_then(|number| number.parse().ok()).unwrap_or(0);
        Ok(Self { standing, accounted_ms, failures, paused: text("paused") })
    }

    /// Adds it. Replies 1; 0 where there is one of its name.
    pub fn add(&self, keys: &Keys, now: Millis) -> Cmd {
        self.put(keys, "new", &Claims::new(), now)
    }

    /// Adds it, or puts it in the place of the one of its name. Replies 1; 2 where a run is claimed that is not among `claims`.
    pub fn replace(&self, keys: &Keys, claims: &Claims, now: Millis) -> Cmd {
        self.put(keys, "any", claims, now)
    }

    fn put(&self, keys: &Keys, which: &str, claims: &Claims, now: Millis) -> Cmd {
        let mut eval = redis::cmd("EVAL");
        let name = self.name();
        eval.arg(PUT_SCHEDULE).arg(3);
        eval.arg(keys.schedule(name)).arg(keys.schedule_open(name)).arg(keys.schedule_runs(name));
        let known = |(instant, withdrawn): (&Millis, &Option<(Fate, String)>)| {
            let withdrawn = withdrawn.as_ref().map_or_else(|| json!([]), |withdrawn| json!(withdrawn));
            (instant.to_string(), withdrawn)
        };
        let claims: serde_json::Map<_, _> = claims.iter().map(known).collect();
        eval.arg(which).arg(self.expires_ms()).arg(serde_json::Value::from(claims).to_string());
        for (name, value) in self.standing.signed().fields() {
            eval.arg(name).arg(value);
        }
        eval.arg("added_at").arg(show_moment(now)).arg("accounted_until").arg(self.accounted(self.accounted_ms));
        eval
    }

    /// Accounts for instants up to `until_ms`: the run of the last one begins, or nothing does. Replies 1, or 0 where
    /// somebody else has done so.
    pub fn account(
        &self,
        keys: &Keys,
        until_ms: Millis,
        begins: Option<&Instant>,
        others: &[(Millis, Instant)],
    ) -> Cmd {
        let mut eval = redis::cmd("EVAL");
        let name = self.name();
        eval.arg(ACCOUNT).arg(3).arg(keys.schedule(name)).arg(keys.schedule_open(name)).arg(keys.schedule_runs(name));
        eval.arg(self.accounted(self.accounted_ms)).arg(self.accounted(until_ms));
        eval.arg(self.expires_ms()).arg(limits::KEPT_RUNS);
        match begins {
            Some(instant) => eval.arg(until_ms).arg(instant.text()),
            None => eval.arg("").arg(""),
        };
        for (instant_ms, instant) in others {
            eval.arg(instant_ms).arg(instant.text());
        }
        eval
    }

    /// Replaces the record of a run that has not ended. Replies 1, or 0 where somebody else has done so, or a run is claimed
    /// of a schedule that is paused.
    pub fn update(&self, keys: &Keys, instant_ms: Millis, before: &Instant, after: &Instant) -> Cmd {
        let mut eval = redis::cmd("EVAL");
        eval.arg(UPDATE_RUN).arg(2).arg(keys.schedule_open(self.name())).arg(keys.schedule(self.name()));
        eval.arg(instant_ms).arg(before.text()).arg(after.text());
        eval.arg(if after.state == Fate::Claimed { "claims" } else { "" });
        eval
    }

    /// Ends a run. Replies 1, 2 where that has paused the schedule, or 0 where somebody else has ended it.
    pub fn end(&self, keys: &Keys, instant_ms: Millis, before: &Instant, after: &Instant, tally: Tally) -> Cmd {
        let mut eval = redis::cmd("EVAL");
        let name = self.name();
        eval.arg(END_RUN).arg(3).arg(keys.schedule(name)).arg(keys.schedule_open(name)).arg(keys.schedule_runs(name));
        eval.arg(instant_ms).arg(before.text()).arg(after.text()).arg(self.expires_ms()).arg(limits::KEPT_RUNS);
        eval.arg(match tally {
            Tally::Failed => "failed",
            Tally::Succeeded => "succeeded",
            Tally::Nothing => "nothing",
        });
        let pauses = self.order().conduct.pause_after;
        eval.arg(pauses).arg(format!("after {pauses} failed runs in a row"));
        eval
    }

    /// Pauses a schedule. Replies 1; 0 where there is none.
    pub fn pause(keys: &Keys, name: &ScheduleName, why: &str) -> Cmd {
        let mut eval = redis::cmd("EVAL");
        eval.arg(PAUSE_SCHEDULE).arg(1).arg(keys.schedule(name)).arg(why);
        eval
    }

    /// Goes on with it at `now`. Replies 1; 0 where there is none, -1 where it is not paused.
    pub fn resume(&self, keys: &Keys, now: Millis) -> Cmd {
        let mut eval = redis::cmd("EVAL");
        eval.arg(RESUME_SCHEDULE).arg(1).arg(keys.schedule(self.name()));
        eval.arg(self.accounted(now.max(self.accounted_ms)));
        eval
    }

    /// How far it is accounted for, with what tells the order from others of that name.
    fn accounted(&self, moment: Millis) -> String {
        format!("{moment} {}", tag(&self.standing))
    }

    /// When its keys expire.
    fn expires_ms(&self) -> Millis {
        self.order().valid_until_ms.saturating_add(millis(limits::RETENTION_MAX))
    }
}

fn tag(standing: &Standing) -> String {
    standing.order().salt.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        action::Arguments,
        name::Salt,
        standing::{Conduct, Overlap, schedule, selector::Selector},
    };

    fn scheduled(salt: u8) -> Scheduled {
        let order = StandingOrder {
            name: "tidy".parse().unwrap(),
            action: "ping".into(),
            arguments: Arguments::new(),
            operator: "ann".into(),
            salt: Salt::new([salt; 16]),
            issued_at_ms: 1_790_000_000_000,
            valid_until_ms: 1_790_000_060_000,
            start_within_ms: 1000,
            timeout_ms: 1000,
            retention_ms: 1000,
            keep_output: None,
            namespace: None,
            selector: Selector::default(),
            schedule: schedule::Schedule::At { instant_ms: 1_790_000_010_000 },
            conduct: Conduct { overlap: Overlap::Skip, late: true, jitter_ms: 0, pause_after: 0, retries: 0 },
        };
        Scheduled::new(Standing::open(Signed::unsigned(&order)).unwrap())
    }

    fn fields(scheduled: &Scheduled) -> Fields {
        let mut fields: Fields = Fields::new();
        for (name, value) in scheduled.standing.signed().fields() {
            fields.insert(name.to_owned(), value);
        }
        fields.insert("accounted_until".into(), scheduled.accounted(scheduled.accounted_ms).into_bytes());
        fields.insert("failures".into(), b"2".to_vec());
        fields
    }

    #[test]
    fn a_schedule_reads_back_from_its_hash() {
        let name = "tidy".parse().unwrap();
        let read = Scheduled::from_fields(fields(&scheduled(1)), &name).unwrap();
        assert_eq!((read.accounted_ms, read.failures, read.paused), (1_790_000_000_000, 2, None));
        let other = "other".parse().unwrap();
        assert!(matches!(Scheduled::from_fields(fields(&scheduled(1)), &other), Err(ScheduledError::Foreign)));
        assert!(matches!(Scheduled::from_fields(Fields::new(), &name), Err(ScheduledError::Document(_))));
    }

    /// Of two orders of one name, what was accounted for of one says nothing about the other.
    #[test]
    fn what_was_accounted_for_is_that_of_the_order() {
        let mut mixed = fields(&scheduled(1));
        mixed.insert("accounted_until".into(), fields(&scheduled(2))["accounted_until"].clone());
        let read = Scheduled::from_fields(mixed, &"tidy".parse().unwrap());
        assert!(matches!(read, Err(ScheduledError::Accounted)));
    }

    #[test]
    fn what_became_of_an_instant_reads_back_as_it_was_written() {
        let run = Instant {
            job: Some(JobId::new()),
            attempt: 2,
            failed_ms: Some(1_790_000_000_001),
            given_up: true,
            end: Some(End::Failed),
            reason: Some("a \"word\"".into()),
            ..Instant::new(Fate::Overlap, "one".into(), 1_790_000_000_000)
        };
        assert_eq!(Instant::read(&run.text()), Some(run.clone()));
        assert!(run.text().starts_with("{\"state\":\"skipped: overlap\""), "{}", run.text());
        assert_eq!(Instant::read("{}"), None);
    }
}
