//! Durations as flags and settings give them, within their bounds.

use std::time::Duration;

use protocol::{limits::HISTORY_SPAN, time::read_duration};

/// Reads a duration that may be as long as `longest`.
pub fn up_to(longest: Duration) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| {
        let duration = read_duration(text)?;
        if duration < Duration::from_millis(1) {
            return Err("it must be longer than nothing".into());
        }
        if duration > longest {
            return Err(format!("at most {} days", longest.as_secs() / (24 * 3600)));
        }
        Ok(duration)
    }
}

/// Reads how far a look at the history goes back: no less than a minute, and no more than is kept.
pub fn of_history(text: &str) -> Result<Duration, String> {
    let since = read_duration(text)?;
    let is_kept = (Duration::from_secs(60)..=HISTORY_SPAN).contains(&since);
    if is_kept { Ok(since) } else { Err("figures are kept for a day: write a time from 1m to 24h".into()) }
}

#[cfg(test)]
mod tests {
    use protocol::limits;

    use super::*;

    #[test]
    fn durations_have_bounds() {
        let start_by = up_to(limits::START_BY_MAX);
        assert!(start_by("7d").is_ok());
        assert!(start_by("8d").unwrap_err().contains("7 days"));
        assert!(start_by("0s").is_err());
    }

    #[test]
    fn a_look_back_has_bounds() {
        for text in ["1m", "6h", "1d"] {
            assert!(of_history(text).is_ok(), "{text}");
        }
        for text in ["59s", "25h", "0s", "6", ""] {
            assert!(of_history(text).is_err(), "{text}");
        }
    }
}
