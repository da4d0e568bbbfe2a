//! Notifications on their way to their receivers.
//!
//! One that an evaluation makes lies in the outbox until it is delivered. An instance takes one for [`LEASE`], and tells the
//! receiver. If it dies in between, another one tells the receiver again, with the same id.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use protocol::{
    clock::millis,
    limits, scripts,
    time::{Millis, read_moment, show_moment},
};
use serde::{Deserialize, Serialize};

use super::Notification;
use crate::client::{
    error::Error,
    fleet::{Fleet, RawHash, text, text_fields},
};

/// For how long a notification belongs to the instance that has taken it. No attempt may take longer.
pub const LEASE: Duration = Duration::from_secs(60);
/// Before the first further attempt. Then the waits double, up to the longest.
const AGAIN_MS: Millis = 5_000;
const AGAIN_MAX_MS: Millis = 10 * 60_000;

/// How far a delivery has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Who is told.
    pub receiver: String,
    /// What the alerts have in common. What is said about the same alerts comes in its order.
    pub group: BTreeMap<String, String>,
    /// When it was made.
    pub at_ms: Millis,
    /// Its place among all that were made. A clock can be set back; this cannot.
    #[serde(default)]
    number: u64,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next, or whose it is until then.
    pub next_ms: Millis,
    /// Who has taken it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why the last attempt has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A notification that an instance has taken.
#[derive(Debug)]
pub struct Taken {
    /// What is to be told.
    pub notification: Notification,
    delivery: Delivery,
    text: String,
}

/// How a notification has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its receiver was told.
    Delivered,
    /// It was not, for a day, or for a reason that does not pass.
    GivenUp,
}

/// What has come of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It was the last one.
    Ended(Fate),
    /// Another one follows.
    Again,
    /// Another instance has taken the notification since: it is that one's.
    Lost,
}

/// An entry of the log.
#[derive(Clone, Debug)]
pub struct Logged {
    /// The notification's id.
    pub id: String,
    /// When it ended.
    pub at_ms: Option<Millis>,
    /// Who was told.
    pub receiver: String,
    /// How it ended.
    pub fate: String,
    /// What it said, in short.
    pub text: String,
    /// Why it was given up.
    pub problem: Option<String>,
}

impl Fate {
    /// As it is written.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::GivenUp => "given up",
        }
    }
}

impl Delivery {
    /// One that was never tried.
    pub(super) fn new(notification: &Notification, number: u64) -> Self {
        let Notification { receiver, group, at_ms, .. } = notification.clone();
        Self { receiver, group, at_ms, number, attempts: 0, next_ms: at_ms, by: None, problem: None }
    }

    /// Whether it may be tried now.
    const fn is_due(&self, now: Millis) -> bool {
        // A clock that was set back must not hold it up.
        self.next_ms <= now || self.next_ms - now > 2 * AGAIN_MAX_MS
    }
}

/// What may be tried now: of each group the oldest, so that nobody is told of an end before the beginning.
fn due<'a>(all: &'a BTreeMap<String, (Delivery, String)>, receivers: &[String], now: Millis) -> Vec<&'a str> {
    let mut open: Vec<_> = all.iter().collect();
    open.sort_by_key(|(id, (delivery, _))| (delivery.number, delivery.at_ms, *id));
    let mut seen = BTreeSet::new();
    open.retain(|(_, (delivery, _))| seen.insert((&delivery.receiver, &delivery.group)));
    // What no instance could deliver for too long is given up by any.
    let may = |delivery: &Delivery| {
        delivery.is_due(now) && (receivers.contains(&delivery.receiver) || is_late(delivery, now))
    };
    open.into_iter().filter(|(_, (delivery, _))| may(delivery)).map(|(id, _)| id.as_str()).collect()
}

fn is_late(delivery: &Delivery, now: Millis) -> bool {
    now.saturating_sub(delivery.at_ms) > millis(limits::ALERT_DELIVERY_MAX)
}

impl Fleet {
    /// The notifications that wait for their receivers.
    pub async fn deliveries(&mut self) -> Result<BTreeMap<String, Delivery>, Error> {
        Ok(self.raw_deliveries().await?.into_iter().map(|(id, (delivery, _))| (id, delivery)).collect())
    }

    /// How many notifications wait for each receiver.
    pub(super) async fn waiting(&mut self) -> Result<BTreeMap<String, usize>, Error> {
        let mut waiting = BTreeMap::new();
        for delivery in self.deliveries().await?.into_values() {
            *waiting.entry(delivery.receiver).or_default() += 1;
        }
        Ok(waiting)
    }

    async fn raw_deliveries(&mut self) -> Result<BTreeMap<String, (Delivery, String)>, Error> {
        let (hash,): (RawHash,) = self.query_with_time(redis::pipe().hgetall(self.keys().alert_deliveries())).await?;
        let read = |(id, text): (String, String)| Some((id, (serde_json::from_str(&text).ok()?, text)));
        Ok(text_fields(hash).into_iter().filter_map(read).collect())
    }

    /// Takes notifications for these receivers, as many as `most`. Nobody else takes them for [`LEASE`].
    pub async fn take_notifications(
        &mut self,
        by: &str,
        receivers: &[String],
        most: usize,
    ) -> Result<Vec<Taken>, Error> {
        let all = self.raw_deliveries().await?;
        let (now, keys) = (self.now(), self.keys().clone());
        let mut taken = Vec::new();
        for id in due(&all, receivers, now).into_iter().take(most) {
            let (delivery, before) = &all[id];
            let next_ms = now.saturating_add(millis(LEASE));
            let delivery = Delivery {
                by: Some(by.to_owned()),
                attempts: delivery.attempts.saturating_add(1),
                next_ms,
                ..delivery.clone()
            };
            let text = serde_json::to_string(&delivery).unwrap_or_default();
            let mut take = redis::pipe();
            take.cmd("EVAL").arg(scripts::CLAIM_DELIVERY).arg(2).arg(keys.alert_outbox()).arg(keys.alert_deliveries());
            take.arg(id).arg(before).arg(&text);
            let (found,): (Option<Vec<u8>>,) = self.query(&take).await?;
            let Some(found) = found else { continue };
            if let Ok(notification) = serde_json::from_slice(&found) {
                taken.push(Taken { notification, delivery, text });
                continue;
            }
            // Nobody can deliver what cannot be read.
            let mut remove = redis::pipe();
            remove.hdel(keys.alert_outbox(), id).ignore().hdel(keys.alert_deliveries(), id).ignore();
            self.query::<()>(&remove).await?;
        }
        Ok(taken)
    }

    /// Records how an attempt has ended. `failed`: why the receiver has not got the notification, and whether that may pass.
    pub async fn end_attempt(&mut self, taken: Taken, failed: Option<(String, bool)>) -> Result<Attempt, Error> {
        let Taken { notification, delivery, text } = taken;
        let now = self.now();
        let is_late = is_late(&delivery, now);
        let (fate, problem) = match failed {
            None => (Fate::Delivered, None),
            Some((problem, again)) if !again || is_late => (Fate::GivenUp, Some(problem)),
            Some((problem, _)) => {
                let wait = AGAIN_MS.saturating_mul(1 << delivery.attempts.saturating_sub(1).min(10)).min(AGAIN_MAX_MS);
                let problem = Some(super::text::clean(&problem));
                let next = Delivery { by: None, next_ms: now.saturating_add(wait), problem, ..delivery };
                let keys = self.keys().clone();
                let mut put = redis::pipe();
                put.cmd("EVAL").arg(scripts::CLAIM_DELIVERY).arg(2);
                put.arg(keys.alert_outbox()).arg(keys.alert_deliveries()).arg(&notification.id).arg(&text);
                put.arg(serde_json::to_string(&next).unwrap_or_default());
                let (is_put,): (Option<Vec<u8>>,) = self.query(&put).await?;
                return Ok(is_put.map_or(Attempt::Lost, |_| Attempt::Again));
            }
        };
        let keys = self.keys().clone();
        let mut end = redis::pipe();
        end.cmd("EVAL").arg(scripts::END_DELIVERY).arg(3);
        end.arg(keys.alert_outbox()).arg(keys.alert_deliveries()).arg(keys.alert_log());
        // What the receiver has got is delivered, whoever has taken it since. What it has not got, another instance may
        // be delivering now.
        let taken = if fate == Fate::Delivered { "" } else { &text };
        end.arg(&notification.id).arg(limits::ALERT_LOG).arg(taken).arg("id").arg(&notification.id);
        end.arg("receiver").arg(&notification.receiver).arg("state").arg(fate.word());
        end.arg("at").arg(show_moment(now)).arg("text").arg(notification.in_short());
        if let Some(problem) = problem {
            end.arg("problem").arg(super::text::clean(&problem));
        }
        let (has_ended,): (bool,) = self.query(&end).await?;
        Ok(if has_ended { Attempt::Ended(fate) } else { Attempt::Lost })
    }

    /// Puts a notification into the outbox that no rule has made.
    ///
    /// # Errors
    /// There are too many.
    pub async fn put_notification(&mut self, notification: &Notification) -> Result<(), Error> {
        let keys = self.keys().clone();
        // The outbox first: what is delivered must be there.
        let delivery = serde_json::to_string(&Delivery::new(notification, 0)).unwrap_or_default();
        let text = serde_json::to_string(notification).unwrap_or_default();
        for (key, text) in [(keys.alert_outbox(), text), (keys.alert_deliveries(), delivery)] {
            let mut put = redis::pipe();
            put.cmd("EVAL").arg(scripts::SET_BOUNDED).arg(1).arg(&key);
            put.arg(&notification.id).arg(text).arg(limits::ALERT_OUTBOX);
            let (is_put,): (bool,) = self.query(&put).await?;
            if !is_put {
                return Err(Error::ManyAlerts { what: "notifications", size: limits::ALERT_OUTBOX, key });
            }
        }
        Ok(())
    }

    /// What was delivered or given up, the newest first.
    pub async fn alert_log(&mut self, most: usize) -> Result<Vec<Logged>, Error> {
        type Entry = (Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>);
        let mut ask = redis::pipe();
        ask.cmd("XREVRANGE").arg(self.keys().alert_log()).arg("+").arg("-").arg("COUNT").arg(most);
        let (entries,): (Vec<Entry>,) = self.query_with_time(&ask).await?;
        let read = |(_, fields): Entry| {
            let fields: BTreeMap<_, _> = fields.into_iter().map(|(name, value)| (text(&name), text(&value))).collect();
            let of = |name: &str| fields.get(name).cloned();
            Logged {
                id: of("id").unwrap_or_default(),
                at_ms: of("at").and_then(|at| read_moment(&at)),
                receiver: of("receiver").unwrap_or_default(),
                fate: of("state").unwrap_or_default(),
                text: of("text").unwrap_or_default(),
                problem: of("problem"),
            }
        };
        Ok(entries.into_iter().map(read).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_group_the_oldest_comes_first_and_a_failure_of_one_holds_up_no_other() {
        let delivery = |receiver: &str, group: &str, number, next_ms| {
            let (receiver, group) = (receiver.to_owned(), BTreeMap::from([("rule".to_owned(), group.to_owned())]));
            // The clock was set back between the first one and the others.
            let at_ms = if number == 1 { 30 } else { 20 };
            let delivery = Delivery { receiver, group, at_ms, number, attempts: 0, next_ms, by: None, problem: None };
            (delivery, String::new())
        };
        let all = BTreeMap::from([
            ("begin".to_owned(), delivery("ops", "cpu", 1, 9_999)),
            ("end".to_owned(), delivery("ops", "cpu", 2, 20)),
            ("other".to_owned(), delivery("ops", "disk", 3, 20)),
            ("elsewhere".to_owned(), delivery("chat", "cpu", 4, 20)),
        ]);
        let both = ["ops".to_owned(), "chat".to_owned()];
        assert_eq!(due(&all, &both, 100), ["other", "elsewhere"]);
        assert_eq!(due(&all, &both, 10_000), ["begin", "other", "elsewhere"]);
        assert_eq!(due(&all, &both[..1], 100), ["other"]);
    }
}
