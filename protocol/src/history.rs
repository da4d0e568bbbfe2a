//! The history of figures: a stream with an entry for each step of time. The id of an entry is the beginning of its step, so
//! that each step stands there once, whoever writes it how often.

use std::time::Duration;

use redis::Cmd;

use crate::{limits, metrics::MetricGroup, scripts::APPEND_HISTORY, time::Millis};

/// The figures of a host that its history has as means: their group, their name there, and their name in the history.
pub const FIGURES: [(MetricGroup, &str, &str); 6] = [
    (MetricGroup::Cpu, "usage", "cpu_usage"),
    (MetricGroup::Memory, "usage", "memory_usage"),
    (MetricGroup::Load, "load1", "load1"),
    (MetricGroup::Disk, "usage", "disk_usage"),
    (MetricGroup::Network, "receive_bytes_per_second", "receive_bytes_per_second"),
    (MetricGroup::Network, "transmit_bytes_per_second", "transmit_bytes_per_second"),
];

/// The field that says how long the step is: its writer may have had another setting once.
pub const STEP: &str = "step_seconds";

/// The beginning of the step in which a moment lies.
pub fn beginning(moment: Millis, step: Duration) -> Millis {
    moment - moment % (step.as_secs().max(1) * 1000)
}

/// The command that adds the figures of the step that begins at `at`, in whole seconds, if it is not there yet. Figures have
/// two decimals, great ones none.
pub fn append<'a>(key: &str, at: Millis, step: Duration, figures: impl Iterator<Item = (&'a str, f64)>) -> Cmd {
    let seconds = step.as_secs().max(1);
    let most = (limits::HISTORY_SPAN.as_secs() / seconds).clamp(1, limits::HISTORY_ENTRIES as u64);
    let mut append = redis::cmd("EVAL");
    append.arg(APPEND_HISTORY).arg(1).arg(key).arg(at).arg(most).arg(limits::HISTORY_RETENTION.as_secs());
    append.arg(STEP).arg(seconds);
    for (name, figure) in figures {
        let scale = if figure < 100.0 { 100.0 } else { 1.0 };
        append.arg(name).arg(((figure * scale).round() / scale).to_string());
    }
    append
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_of_whole_steps_and_of_short_numbers() {
        let step = Duration::from_secs(300);
        assert_eq!(beginning(1_795_000_123_456, step), 1_795_000_200_000 - 300_000);
        let figures = [("cpu_usage", 12.3456), ("receive_bytes_per_second", 1234.56)];
        let packed = append("k", 600_000, step, figures.into_iter()).get_packed_command();
        let packed = String::from_utf8(packed).unwrap();
        let words: Vec<_> = packed.split("\r\n").filter(|word| !word.starts_with(['*', '$'])).collect();
        let end = ["k", "600000", "288", "90000", "step_seconds", "300", "cpu_usage", "12.35"];
        assert!(words.join(" ").contains(&end.join(" ")), "{words:?}");
        assert!(words.contains(&"1235"), "{words:?}");
    }
}
