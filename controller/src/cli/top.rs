//! The grammar of `ctl top`.

use std::time::Duration;

use clap::Args;

use super::{durations::up_to, targeting::Targeting};

/// Watch the fleet live: hosts by CPU, memory, disk and load, and the jobs that run
#[derive(Args, Debug)]
pub struct Top {
    #[command(flatten)]
    pub targeting: Targeting,
    /// How often the fleet is looked at, from 500ms to 1h
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = pause)]
    pub every: Duration,
    /// Print it once and exit; no terminal is needed, and -o json gives data
    #[arg(long, conflicts_with = "every")]
    pub once: bool,
}

/// A pause between two looks: Redis must not be asked without end.
fn pause(text: &str) -> Result<Duration, String> {
    let pause = up_to(Duration::from_secs(3600))(text)?;
    if pause < Duration::from_millis(500) { Err("at least 500ms".into()) } else { Ok(pause) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_is_not_asked_without_end() {
        assert_eq!(pause("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(pause("1h"), Ok(Duration::from_secs(3600)));
        assert!(pause("499ms").is_err() && pause("2h").is_err());
    }
}
