//! Checks of `ctl serve`: whether one lives, and what is due where none does.

use std::collections::BTreeMap;

use protocol::time::Millis;

use super::{Finding, Level};
use crate::{
    client::{Error, Fleet, alerts::Delivery, next_times, serves, shorten},
    output::{moments, style},
};

/// A notification that is not delivered for so long is a problem: a receiver that is restarted is back by then.
const UNDELIVERED_MS: Millis = 5 * 60_000;

pub async fn check(fleet: &mut Fleet) -> Result<Vec<Finding>, Error> {
    let serving = fleet.serving().await?;
    let names = fleet.schedule_names().await?;
    let schedules = fleet.schedules(&names).await?;
    let now = fleet.now();
    let open = schedules.into_iter().filter_map(|(name, found)| Some((name, found.ok()?)));
    let wanted: Vec<_> = open.filter(|(_, scheduled)| scheduled.paused.is_none()).collect();
    let is_due = |first: &Millis| *first <= now;
    let due = wanted.iter().filter_map(|(name, scheduled)| {
        let first = next_times(scheduled.order(), scheduled.accounted_ms, 1).into_iter().find(is_due)?;
        Some(format!("{name} (since {})", moments::local(first, now)))
    });
    Ok(vec![judge(&serving, &due.collect::<Vec<_>>(), wanted.len(), now)])
}

/// Whether `ctl serve` still keeps how Redis is; nothing where none has done so for a day.
pub async fn redis_status(fleet: &mut Fleet) -> Result<Vec<Finding>, Error> {
    let status = fleet.redis_status().await?;
    let is_stale = status.as_ref().is_none_or(|status| status.is_stale(fleet.now()));
    let last = match status {
        Some(status) => Some(status.checked_ms),
        None => fleet.redis_last_kept().await?,
    };
    let Some(last) = last else { return Ok(Vec::new()) };
    let message = format!("a `ctl serve` has looked at Redis {}", moments::ago(last, fleet.now()));
    let (level, message) = if is_stale {
        (Level::Warning, format!("{message}, and none since: does one run, and may it? ctl acl print --controller"))
    } else {
        (Level::Ok, message)
    };
    Ok(vec![Finding::new("redis:status", level, message)])
}

/// Whether the rules of alerts can be used.
pub async fn rules(fleet: &mut Fleet) -> Result<Vec<Finding>, Error> {
    let unusable = |(name, rule): (String, Result<_, String>)| {
        let (name, problem) = (style::plain(&name), style::plain(&rule.err()?));
        Some(Finding::new("alerts", Level::Problem, format!("the rule {name} cannot be used: {problem}")))
    };
    Ok(fleet.alert_rules().await?.into_iter().filter_map(unusable).collect())
}

/// Whether notifications of alerts reach their receivers.
pub async fn deliveries(fleet: &mut Fleet) -> Result<Vec<Finding>, Error> {
    let deliveries = fleet.deliveries().await?;
    Ok(undelivered(deliveries.values(), fleet.now()))
}

/// Of each receiver that notifications have not reached for some time, how many notifications wait for it, and why.
fn undelivered<'a>(deliveries: impl Iterator<Item = &'a Delivery>, now: Millis) -> Vec<Finding> {
    let mut waiting: BTreeMap<&str, Vec<&Delivery>> = BTreeMap::new();
    for delivery in deliveries {
        waiting.entry(&delivery.receiver).or_default().push(delivery);
    }
    let finding = |(receiver, waiting): (&str, Vec<&Delivery>)| {
        let oldest = waiting.iter().min_by_key(|delivery| delivery.at_ms)?;
        if now.saturating_sub(oldest.at_ms) < UNDELIVERED_MS {
            return None;
        }
        let problem = waiting.iter().find_map(|delivery| delivery.problem.as_deref());
        let problem = problem.unwrap_or("no `ctl serve` with this receiver has tried");
        let count = waiting.len();
        let (receiver, ago) = (style::plain(receiver), moments::ago(oldest.at_ms, now));
        let wait = if count == 1 { "1 notification waits".into() } else { format!("{count} notifications wait") };
        let message = format!("{receiver}: {wait}, the oldest made {ago}: {}", style::plain(problem));
        Some(Finding::new("alerts", Level::Problem, message))
    };
    waiting.into_iter().filter_map(finding).collect()
}

/// `due`: what waits for a `ctl serve`, in words; `wanted`: how many schedules there are that are not paused.
fn judge(serving: &[(String, Millis)], due: &[String], wanted: usize, now: Millis) -> Finding {
    let finding = |level, message: String| Finding::new("ctl serve", level, message);
    let live: Vec<_> = serving.iter().filter(|(_, seen_ms)| serves(*seen_ms, now)).collect();
    if !live.is_empty() {
        let names: Vec<_> = live.iter().map(|(name, _)| style::plain(name)).collect();
        return finding(Level::Ok, format!("{} live: {}", live.len(), shorten(&names)));
    }
    let waits = if due.is_empty() { String::new() } else { format!("; due: {}", shorten(due)) };
    let advice = "start one: ctl serve";
    match serving.first() {
        Some((name, seen_ms)) => {
            let (name, ago) = (style::plain(name), moments::ago(*seen_ms, now));
            let level = if wanted > 0 { Level::Problem } else { Level::Warning };
            finding(level, format!("none lives: {name} was the last, heard of {ago}{waits}; {advice}"))
        }
        None if wanted > 0 => finding(Level::Problem, format!("none lives, and schedules need one{waits}; {advice}")),
        None => finding(Level::Ok, "none lives, and no schedule needs one".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_lives_is_enough_and_none_is_told() {
        let now = 1_790_000_000_000;
        let seen = |age: Millis| [("one".to_owned(), now - age), ("two".to_owned(), now - 200_000)];
        let fine = judge(&seen(119_000), &[], 3, now);
        assert_eq!((fine.level, fine.message.as_str()), (Level::Ok, "1 live: one"));
        let due = ["tidy (since 12:00)".to_owned()];
        let missing = judge(&seen(120_000), &due, 3, now);
        assert_eq!(missing.level, Level::Problem);
        assert!(missing.message.contains("one was the last") && missing.message.contains("due: tidy"), "{missing:?}");
        assert_eq!(judge(&seen(120_000), &[], 0, now).level, Level::Warning);
        assert_eq!(judge(&[], &[], 1, now).level, Level::Problem);
        assert_eq!(judge(&[], &[], 0, now).level, Level::Ok);
    }

    #[test]
    fn a_receiver_that_nothing_has_reached_for_some_time_is_named_with_the_reason() {
        let now = 1_790_000_000_000;
        let delivery = |receiver: &str, at_ms: Millis, problem: Option<&str>| -> Delivery {
            let written = serde_json::json!({
                "receiver": receiver, "group": {}, "at_ms": at_ms, "attempts": 1, "next_ms": now, "problem": problem,
            });
            serde_json::from_value(written).expect("a delivery")
        };
        let waiting = [
            delivery("ops", now - UNDELIVERED_MS, Some("503")),
            delivery("ops", now, None),
            delivery("chat", now - UNDELIVERED_MS + 1, Some("503")),
            delivery("gone", now - 2 * UNDELIVERED_MS, None),
        ];
        let found: Vec<_> = undelivered(waiting.iter(), now).into_iter().map(|finding| finding.message).collect();
        assert_eq!(
            found,
            [
                "gone: 1 notification waits, the oldest made 10 min ago: no `ctl serve` with this receiver has tried",
                "ops: 2 notifications wait, the oldest made 5 min ago: 503",
            ]
        );
    }
}
