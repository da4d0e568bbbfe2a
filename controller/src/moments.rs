//! Moments and durations as people say them.

use std::time::Duration;

use jiff::{Timestamp, Zoned, tz::TimeZone};
use protocol::time::Millis;

/// `41 ms`, `2.3 s`, `3 min`, `2 h`, `5 days`.
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// `now`, `12 s ago`, `3 min ago`.
pub fn ago(then: Millis, now: Millis) -> String {
    let past = Duration::from_secs(now.saturating_sub(then) / 1000);
    if past.is_zero() { "now".into() } else { format!("{} ago", span_whole(past)) }
}

/// Like [`span`], without fractions.
pub fn span_whole(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..10 => format!("{seconds} s"),
        _ => span(duration),
    }
}

/// The time on the operator's clock: `14:05`, with seconds where they matter, with the date on another day.
pub fn local(moment: Millis, now: Millis) -> String {
    let zone = TimeZone::system();
    local_in(&zone, moment, now).unwrap_or_else(|| protocol::time::show_moment(moment))
}

fn local_in(zone: &TimeZone, moment: Millis, now: Millis) -> Option<String> {
    let zoned = |moment: Millis| -> Option<Zoned> {
        Some(Timestamp::from_millisecond(moment.try_into().ok()?).ok()?.to_zoned(zone.clone()))
    };
    let near = moment.abs_diff(now) < 120_000;
    let (moment, now) = (zoned(moment)?, zoned(now)?);
    let format = match (moment.date() == now.date(), near) {
        (true, false) => "%H:%M",
        (true, true) => "%H:%M:%S",
        (false, _) if moment.year() == now.year() => "%a %-d %b %H:%M",
        (false, _) => "%-d %b %Y %H:%M",
    };
    Some(moment.strftime(format).to_string())
}

/// The exact moment on the operator's clock.
pub fn exact(moment: Millis) -> String {
    let timestamp = i64::try_from(moment).ok().and_then(|moment| Timestamp::from_millisecond(moment).ok());
    timestamp.map_or_else(
        || moment.to_string(),
        |timestamp| timestamp.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_naturally() {
        for (millis, text) in [
            (0, "0 ms"),
            (41, "41 ms"),
            (2345, "2.3 s"),
            (59_000, "59 s"),
            (119_000, "119 s"),
            (180_000, "3 min"),
            (7_200_000, "2 h"),
            (432_000_000, "5 days"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn the_past_is_told_from_now() {
        assert_eq!(ago(1000, 1999), "now");
        assert_eq!(ago(1000, 4500), "3 s ago");
        assert_eq!(ago(0, 185_000), "3 min ago");
        // A clock that ran backwards.
        assert_eq!(ago(5000, 1000), "now");
    }

    #[test]
    fn times_carry_a_date_only_on_another_day() {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        // 2026-11-22 12:00:00 UTC
        let now = 1_795_348_800_000;
        let at = |seconds: u64| local_in(&zone, now + seconds * 1000, now).unwrap();
        assert_eq!(at(300), "13:05");
        assert_eq!(at(65), "13:01:05");
        assert_eq!(at(86_400), "Mon 23 Nov 13:00");
        assert_eq!(at(86_400 * 60), "21 Jan 2027 13:00");
    }
}
