//! Times in the settings.

use std::time::Duration;

use anyhow::Context;
use protocol::time::read_duration;

/// A time that is set, within its bounds; `usual` where it is not.
///
/// # Errors
/// It is none, or beyond its bounds.
pub fn duration(
    name: &str,
    text: Option<&str>,
    usual: Duration,
    bounds: std::ops::RangeInclusive<Duration>,
) -> anyhow::Result<Duration> {
    let Some(text) = text else { return Ok(usual) };
    read_duration(text).ok().filter(|time| bounds.contains(time)).with_context(|| {
        let (from, to) = (bounds.start(), bounds.end());
        format!("{name} = '{text}': write a time from {from:?} to {to:?}")
    })
}
