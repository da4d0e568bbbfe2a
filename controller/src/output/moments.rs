//! Moments and durations as people read them.

use std::time::Duration;

use jiff::{Timestamp, Zoned, tz::TimeZone};
use protocol::time::{Millis, show_moment};

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
    match now.saturating_sub(then) / 1000 {
        0 => "now".into(),
        seconds @ 1..10 => format!("{seconds} s ago"),
        seconds => format!("{} ago", span(Duration::from_secs(seconds))),
    }
}

/// How far a clock is ahead of Redis' clock: `3 ms ahead of Redis'`, `2 min behind Redis'`.
pub fn offset(ahead_ms: i64) -> String {
    let span = span(Duration::from_millis(ahead_ms.unsigned_abs()));
    format!("{span} {} Redis'", if ahead_ms < 0 { "behind" } else { "ahead of" })
}

/// The time on the operator's clock: `14:05`, with seconds where they matter, with the date on another day.
pub fn local(moment: Millis, now: Millis) -> String {
    local_in(&TimeZone::system(), moment, now).unwrap_or_else(|| show_moment(moment))
}

fn local_in(zone: &TimeZone, moment: Millis, now: Millis) -> Option<String> {
    let near = moment.abs_diff(now) < 120_000;
    let (moment, now) = (zoned(zone, moment)?, zoned(zone, now)?);
    let format = match (moment.date() == now.date(), near) {
        (true, false) => "%H:%M",
        (true, true) => "%H:%M:%S",
        (false, _) if moment.year() == now.year() => "%a %-d %b %H:%M",
        (false, _) => "%-d %b %Y %H:%M",
    };
    Some(moment.strftime(format).to_string())
}

/// The time on the operator's clock with seconds: `14:05:03`.
pub fn clock(moment: Millis) -> String {
    let zoned = zoned(&TimeZone::system(), moment);
    zoned.map_or_else(|| show_moment(moment), |zoned| zoned.strftime("%H:%M:%S").to_string())
}

/// The exact moment on the operator's clock.
pub fn exact(moment: Millis) -> String {
    let zoned = zoned(&TimeZone::system(), moment);
    zoned.map_or_else(|| show_moment(moment), |zoned| zoned.strftime("%Y-%m-%d %H:%M:%S %Z").to_string())
}

fn zoned(zone: &TimeZone, moment: Millis) -> Option<Zoned> {
    Some(Timestamp::from_millisecond(moment.try_into().ok()?).ok()?.to_zoned(zone.clone()))
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
    fn clocks_are_ahead_or_behind() {
        assert_eq!(offset(3), "3 ms ahead of Redis'");
        assert_eq!(offset(-180_000), "3 min behind Redis'");
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
