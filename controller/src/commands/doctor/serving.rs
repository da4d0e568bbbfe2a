//! Checks of `ctl serve`: whether one lives, and what is due where none does.

use protocol::time::Millis;

use super::{Finding, Level};
use crate::{
    client::{Error, Fleet, next_times, serves, shorten},
    output::{moments, style},
};

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
}
