//! Moments and durations as people read and write them.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo, Timestamp, fmt::friendly::SpanPrinter};

/// A moment in milliseconds since the Unix epoch, by the fleet's clock (see [`crate::clock`]).
pub type Millis = u64;

/// RFC 3339 in UTC with milliseconds: `2026-11-22T12:00:00.123Z`.
pub fn show_moment(moment: Millis) -> String {
    let timestamp = i64::try_from(moment).ok().and_then(|moment| Timestamp::from_millisecond(moment).ok());
    timestamp.map_or_else(|| moment.to_string(), |timestamp| format!("{timestamp:.3}"))
}

/// Reads what [`show_moment`] wrote.
pub fn read_moment(text: &str) -> Option<Millis> {
    text.parse::<Timestamp>().ok()?.as_millisecond().try_into().ok()
}

/// Compact units, the largest first: `1h 30m`, `250ms`.
pub fn show_duration(duration: Duration) -> String {
    SpanPrinter::new().unsigned_duration_to_string(&duration)
}

/// Reads `90s`, `1h 30m`, `250ms`, `7d`; a bare number is refused, because its unit would be a guess.
///
/// # Errors
/// The text is not a duration; the error states why and shows examples.
pub fn read_duration(text: &str) -> Result<Duration, String> {
    // A waiting time has no calendar, in which not every day has 24 hours.
    let relative = SpanRelativeTo::days_are_24_hours();
    let duration = text.trim().parse::<Span>().and_then(|span| span.to_duration(relative)?.try_into());
    duration.map_err(|_| format!("'{text}' is not a duration: write a number and a unit, such as 30s, 5m, 2h or 7d"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_written() {
        for (text, seconds) in [("90s", 90), ("1h 30m", 5400), ("7d", 604_800), ("1d 2h", 93_600), ("5m", 300)] {
            assert_eq!(read_duration(text).unwrap(), Duration::from_secs(seconds), "{text}");
        }
        assert_eq!(read_duration("250ms").unwrap(), Duration::from_millis(250));
        for bad in ["", "5", "-5s", "soon", "d", "99999999999999999999d", "1x"] {
            assert!(read_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(show_duration(Duration::from_secs(5400)), "1h 30m");
    }

    #[test]
    fn moments_round_trip() {
        let moment = 1_795_000_000_123;
        assert_eq!(read_moment(&show_moment(moment)), Some(moment));
        assert_eq!(show_moment(moment), "2026-11-18T11:06:40.123Z");
        assert_eq!(show_moment(u64::MAX), u64::MAX.to_string());
    }
}
