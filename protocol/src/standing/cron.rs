//! The times of a cron expression in a time zone, above all where its clocks are changed.
//!
//! What is due at fixed times of a day runs at each of them once on every day that the expression names: where the clocks
//! skip the time, at the first moment behind the gap; where they show it twice, at the first of both. What is due
//! at intervals (there is a `*` or a `/` in the hours or minutes) runs whenever the clocks show a time that matches: each
//! real five minutes for `*/5 * * * *`. The library decides by the whole expression, for which `0 2,14 * * *` would be an
//! interval, and miss a run a year. So an expression that lists fixed times is taken apart into one for each.

use croner::{Cron as Pattern, CronDateTime, JobType, Weekday, parser::CronParser};
use jiff::{
    Timestamp, Zoned,
    civil::{DateTime, Time},
    tz::{AmbiguousOffset, TimeZone},
};

use crate::{
    limits,
    time::{Millis, show_duration},
};

/// Fixed times of a day that one expression may list. One that lists more counts as an interval.
const FIXED: usize = 24;

/// Why a schedule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The expression is none.
    #[error("'{0}' is no cron expression: {1}")]
    Expression(String, String),
    /// The expression is too long.
    #[error("the cron expression has more than {} bytes", limits::CRON_BYTES)]
    Long,
    /// The data of the time zone is none, or too large.
    // Why not, the library could say: in words that take more room than hosts have for them.
    #[error("the data of the time zone '{0}' cannot be used")]
    Zone(String),
    /// The span is too short or too long.
    #[error(
        "it must be at least {} and at most {} from one time to the next",
        show_duration(limits::PERIOD_MIN),
        show_duration(limits::STANDING_MAX)
    )]
    Period,
}

/// A cron expression in a time zone.
#[derive(Clone, Debug)]
pub(super) struct Cron {
    zone: TimeZone,
    parts: Vec<Part>,
}

/// An expression for one time of the day, or for an interval.
#[derive(Clone, Debug)]
struct Part {
    pattern: Pattern,
    /// The time of the day, where there is one.
    fixed: Option<Time>,
}

impl Cron {
    pub(super) fn new(expression: &str, zone: &str, tzif: &[u8]) -> Result<Self, ScheduleError> {
        if expression.len() > limits::CRON_BYTES {
            return Err(ScheduleError::Long);
        }
        let wrong = |reason: String| ScheduleError::Expression(expression.escape_debug().to_string(), reason);
        let parse = |text: &str| CronParser::new().parse(text).map_err(|error| wrong(error.to_string()));
        let text = spelled_out(expression);
        let parts = if let Some((times, days)) = times_of_day(text) {
            let part = |time: Time| {
                let text = format!("{} {} {} {days}", time.second(), time.minute(), time.hour());
                Ok(Part { pattern: parse(&text)?, fixed: Some(time) })
            };
            times.into_iter().map(part).collect::<Result<_, ScheduleError>>()?
        } else {
            let pattern = parse(text)?;
            // The library searches for a fixed time, which here would count as an interval: `30, 2 * * *`.
            if pattern.determine_job_type() == JobType::FixedTime {
                return Err(wrong("write each hour, minute and second as a number".to_owned()));
            }
            vec![Part { pattern, fixed: None }]
        };
        let read = match tzif {
            [] => Some(TimeZone::UTC),
            _ if tzif.len() > limits::ZONE_BYTES => None,
            _ => TimeZone::tzif(zone, tzif).ok(),
        };
        let zone = read.ok_or_else(|| ScheduleError::Zone(zone.escape_debug().to_string()))?;
        Ok(Self { zone, parts })
    }

    /// Hosts need no more than this: it is kept to what the clocks show, as a search takes more code than they have room for.
    pub(super) fn is_instant(&self, moment: Millis) -> bool {
        let second = i64::try_from(moment / 1000).ok().filter(|_| moment.is_multiple_of(1000));
        second.is_some_and(|second| self.parts.iter().any(|part| part.is_instant(&self.zone, second) == Some(true)))
    }

    pub(super) fn next_after(&self, moment: Millis) -> Option<Millis> {
        let from = self.zoned(moment - moment % 1000)?;
        let next = |part: &Part| part.pattern.find_next_occurrence(&from, false).ok();
        let next = self.parts.iter().filter_map(next).map(|zoned| zoned.timestamp()).min()?;
        next.as_millisecond().try_into().ok()
    }

    fn zoned(&self, moment: Millis) -> Option<Zoned> {
        let timestamp = Timestamp::from_millisecond(i64::try_from(moment).ok()?).ok()?;
        Some(timestamp.to_zoned(self.zone.clone()))
    }
}

impl Part {
    /// Whether the library finds this second when it searches from the one before. `None` at the end of time.
    fn is_instant(&self, zone: &TimeZone, second: i64) -> Option<bool> {
        let shown = |second| {
            let timestamp = Timestamp::from_second(second).ok()?;
            let offset = zone.to_offset(timestamp);
            Some((offset.to_datetime(timestamp), offset))
        };
        let (at, offset) = shown(second)?;
        let is_shown = self.pattern.is_time_matching(&at).ok()?;
        let Some(time) = self.fixed else { return Some(is_shown) };
        if is_shown {
            // Of two seconds that show the same, the first counts.
            let AmbiguousOffset::Fold { before, .. } = zone.to_ambiguous_timestamp(at).offset() else {
                return Some(true);
            };
            return Some(offset == before);
        }
        // Is it the end of a gap, in which the time would have been?
        let (last, before) = shown(second - 1)?;
        if offset <= before || !self.is_day(at)? {
            return Some(false);
        }
        let skipped = [last.date(), at.date()].map(|date| date.to_datetime(time));
        let is_skipped = |skipped: &DateTime| last < *skipped && *skipped < at;
        Some(skipped.iter().any(|at| is_skipped(at) && self.pattern.is_time_matching(at).unwrap_or(false)))
    }

    fn is_day(&self, at: DateTime) -> Option<bool> {
        let civil = at.to_civil();
        let (year, month, day) = (civil.year(), civil.month(), civil.day());
        let weekday: Weekday = at.civil_weekday();
        let pattern = &self.pattern.pattern;
        let is_month = pattern.month_match(month).ok()? && pattern.year_match(year).ok()?;
        Some(is_month && pattern.day_match(year, month, day, weekday).ok()?)
    }
}

/// What a nickname stands for.
fn spelled_out(expression: &str) -> &str {
    match expression.trim().to_ascii_lowercase().as_str() {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => expression,
    }
}

/// The times of a day that an expression lists, where all its hours, minutes and seconds are numbers, lists or ranges; and
/// the rest of it.
fn times_of_day(expression: &str) -> Option<(Vec<Time>, String)> {
    let fields: Vec<&str> = expression.split_whitespace().collect();
    if !(5..=7).contains(&fields.len()) {
        return None;
    }
    let (seconds, rest) = match fields.split_first()? {
        (seconds, rest) if fields.len() > 5 => (numbers(seconds)?, rest),
        _ => (vec![0], &fields[..]),
    };
    let [minutes, hours, days @ ..] = rest else { return None };
    let (minutes, hours) = (numbers(minutes)?, numbers(hours)?);
    if seconds.len() * minutes.len() * hours.len() > FIXED {
        return None;
    }
    let mut times = Vec::new();
    for hour in hours {
        for minute in &minutes {
            for second in &seconds {
                times.push(Time::new(hour, *minute, *second, 0).ok()?);
            }
        }
    }
    Some((times, days.join(" ")))
}

/// The numbers of `1-3,7`. `None` where there is anything else; then the library says what is wrong, if anything is.
fn numbers(field: &str) -> Option<Vec<i8>> {
    let number =
        |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<i8>().ok()).flatten();
    let mut numbers = Vec::new();
    for part in field.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = number(first)?..=number(last)?;
        if range.is_empty() {
            return None;
        }
        numbers.extend(range);
    }
    numbers.sort_unstable();
    numbers.dedup();
    Some(numbers)
}

#[cfg(test)]
mod tests;
