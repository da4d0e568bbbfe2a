//! Durations as flags and settings give them, within their bounds.

use std::time::Duration;

use protocol::time::read_duration;

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
}
