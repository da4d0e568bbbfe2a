//! CPU use, from two readings of `/proc/stat`.

use std::time::Duration;

use procfs_core::{CpuTime, ExplicitSystemInfo, FromBufReadSI, KernelStats};

use super::{
    Figures, MetricsError, percent, put,
    readings::{Readings, Span},
    rounded,
    source::{Parsed, Source, parsed},
};

/// The kernel's usual clock tick.
const TICK: Duration = Duration::from_millis(10);

/// How many more ticks a collect waits for the counters to advance.
const EXTRA_TICKS: u32 = 5;

/// What is kept of one reading of `/proc/stat`.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// Clock ticks of all processors together, since boot.
    ticks: CpuTime,
    /// How many processors are online.
    pub(super) cores: usize,
    /// When the host booted, in seconds since 1970.
    pub(super) booted: u64,
}

pub(super) fn read(source: &Source) -> Result<Reading, MetricsError> {
    source.parse("/proc/stat", parse)
}

pub(super) async fn collect(readings: &Readings<Reading>) -> Result<Figures, MetricsError> {
    for _ in 0..=EXTRA_TICKS {
        if let Some(figures) = figures(&readings.span().await?) {
            return Ok(figures);
        }
        tokio::time::sleep(TICK).await;
    }
    Err(MetricsError::NoTicks)
}

/// None if no clock tick passed.
fn figures(Span { before, after, window }: &Span<Reading>) -> Option<Figures> {
    // Counters can decrease: iowait at any time, all of them when a processor goes offline.
    let passed = |ticks: fn(&CpuTime) -> u64| ticks(&after.ticks).saturating_sub(ticks(&before.ticks));
    // Guest time is part of user and nice.
    let user = passed(|ticks| ticks.user.saturating_add(ticks.nice));
    let system = passed(|ticks| {
        let interrupts = ticks.irq.unwrap_or(0).saturating_add(ticks.softirq.unwrap_or(0));
        ticks.system.saturating_add(interrupts)
    });
    let idle = passed(|ticks| ticks.idle);
    let iowait = passed(|ticks| ticks.iowait.unwrap_or(0));
    let steal = passed(|ticks| ticks.steal.unwrap_or(0));
    let busy = user.saturating_add(system).saturating_add(steal);
    let total = busy.saturating_add(idle).saturating_add(iowait);
    if total == 0 {
        return None;
    }

    let mut figures = Figures::new();
    put(&mut figures, "usage", percent(busy, total));
    put(&mut figures, "user_percent", percent(user, total));
    put(&mut figures, "system_percent", percent(system, total));
    put(&mut figures, "iowait_percent", percent(iowait, total));
    put(&mut figures, "steal_percent", percent(steal, total));
    put(&mut figures, "idle_percent", percent(idle, total));
    put(&mut figures, "cores", after.cores);
    put(&mut figures, "window_seconds", rounded(window.as_secs_f64(), 3));
    Some(figures)
}

fn parse(text: &[u8]) -> Parsed<Reading> {
    // Required by the parser, but without effect on the fields that are used here.
    let system =
        ExplicitSystemInfo { boot_time_secs: 0, ticks_per_second: 100, page_size: 4096, is_little_endian: true };
    let stats = parsed(KernelStats::from_buf_read(text, &system))?;
    Ok(Reading { ticks: stats.total, cores: stats.cpu_time.len().max(1), booted: stats.btime })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "\
cpu  8490 10 2777 110762 327 0 30 10 400 0
cpu0 3847 0 1183 56176 20 0 6 2 0 0
cpu1 4643 10 1593 54585 306 0 23 8 0 0
intr 1268471 0 9 0 0
ctxt 2341834
btime 1753000000
processes 5025
procs_running 2
procs_blocked 0
softirq 1234 0 1 2
";

    /// A reading in which the counters of all processors are `ticks`.
    fn reading(ticks: &str) -> Parsed<Reading> {
        parse(STAT.replace("cpu  8490 10 2777 110762 327 0 30 10 400 0", ticks).as_bytes())
    }

    #[test]
    fn parses_what_the_kernel_writes() {
        let reading = parse(STAT.as_bytes()).unwrap();
        assert_eq!((reading.cores, reading.booted), (2, 1_753_000_000));
        assert_eq!((reading.ticks.user, reading.ticks.softirq, reading.ticks.steal), (8490, Some(30), Some(10)));
    }

    #[test]
    fn malformed_text_is_an_error() {
        for text in ["", "\n", "cpu 1 2 3 4 5 6 7 8\n", "\u{e9}\n"] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(parse(b"cpu 1 2 3 4 5 6 7 8 \xff\n").is_err());
        for ticks in [
            "cpu ",
            "cpu 1 2 3",
            "cpu 1 2 3 4 5 6 -7 8",
            "cpu 1 2 x 4 5 6 7 8",
            "cpu 1 2 3 4 5 6 99999999999999999999 8",
            "cpu9 1 2 3 4 5 6 7 8",
        ] {
            assert!(reading(ticks).is_err(), "{ticks:?}");
        }
    }

    #[test]
    fn usage_leaves_out_idle_and_iowait_and_survives_counters_going_backwards() {
        let before = parse(STAT.as_bytes()).unwrap();
        let after = reading("cpu 8515 15 2787 110812 320 2 33 15 500 0").unwrap();
        let window = Duration::from_micros(1_234_567);
        let span = Span { before: before.clone(), after, window };
        assert_eq!(
            serde_json::to_string(&figures(&span).unwrap()).unwrap(),
            r#"{"usage":50.0,"user_percent":30.0,"system_percent":15.0,"iowait_percent":0.0,"#.to_owned()
                + r#""steal_percent":5.0,"idle_percent":50.0,"cores":2,"window_seconds":1.235}"#
        );
        let still = Span { before: before.clone(), after: before, window };
        assert!(figures(&still).is_none());
    }

    #[tokio::test]
    async fn a_clock_that_stands_still_is_an_error_not_a_division_by_zero() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("proc")).unwrap();
        std::fs::write(root.path().join("proc/stat"), STAT).unwrap();
        let readings = Readings::new(&Source::new(root.path().to_owned()), read);
        assert!(matches!(collect(&readings).await, Err(MetricsError::NoTicks)));
    }
}
