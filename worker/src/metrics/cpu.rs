//! Use of the processors, from two readings of `/proc/stat`.

use std::time::Duration;

use super::readings::{Readings, Span};
use super::source::{Parsed, Source, excerpt, number};
use super::{Figures, MetricsError, percent, put, rounded};

const FILE: &str = "/proc/stat";

/// The length of the kernel's usual clock tick.
const TICK: Duration = Duration::from_millis(10);

/// How often a span without a single tick is lengthened by one.
const LENGTHENINGS: u32 = 5;

/// Where all processors together spent their time since boot, in clock ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ticks {
    user: u64,
    system: u64,
    idle: u64,
    iowait: u64,
    steal: u64,
    cores: u64,
}

pub(super) fn read(source: &Source) -> Result<Ticks, MetricsError> {
    source.parse(FILE, parse)
}

pub(super) async fn collect(source: &Source, readings: &Readings<Ticks>) -> Result<Figures, MetricsError> {
    for _ in 0..=LENGTHENINGS {
        let span = readings.span(|| read(source)).await?;
        if let Some(figures) = figures(&span) {
            return Ok(figures);
        }
        tokio::time::sleep(TICK).await;
    }
    Err(MetricsError::Malformed {
        path: source.path(FILE.as_ref()),
        reason: "its clock ticks do not advance".to_owned(),
    })
}

/// Nothing if not a tick passed.
fn figures(Span { before, after, window }: &Span<Ticks>) -> Option<Figures> {
    // A counter may go backwards: iowait by its nature, all of them when a core is unplugged.
    let passed = |ticks: fn(&Ticks) -> u64| ticks(after).saturating_sub(ticks(before));
    let user = passed(|ticks| ticks.user);
    let system = passed(|ticks| ticks.system);
    let idle = passed(|ticks| ticks.idle);
    let iowait = passed(|ticks| ticks.iowait);
    let steal = passed(|ticks| ticks.steal);
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

/// The number of processors that are online.
pub(super) fn cores(source: &Source) -> Result<u64, MetricsError> {
    Ok(read(source)?.cores)
}

fn parse(text: &str) -> Parsed<Ticks> {
    let mut lines = text.lines();
    let line = lines.next().unwrap_or_default();
    let mut words = line.split_whitespace();
    if words.next() != Some("cpu") {
        return Err(format!("the first line is not of all processors: {:?}", excerpt(line)));
    }
    let ticks = words.map(|word| number(Some(word), "a count of ticks")).collect::<Parsed<Vec<u64>>>()?;
    // Guest time, after these, is contained in user and nice already. Kernels before
    // 2.6.11 have no steal.
    let [user, nice, system, idle, iowait, irq, softirq, ref more @ ..] = ticks[..] else {
        return Err(format!("too few counts of ticks: {:?}", excerpt(line)));
    };
    let cores = lines.take_while(|line| line.starts_with("cpu")).count();
    Ok(Ticks {
        user: user.saturating_add(nice),
        system: system.saturating_add(irq).saturating_add(softirq),
        idle,
        iowait,
        steal: more.first().copied().unwrap_or_default(),
        cores: cores.max(1) as u64,
    })
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
";

    #[test]
    fn parses_what_the_kernel_writes() {
        assert_eq!(
            parse(STAT),
            Ok(Ticks { user: 8500, system: 2807, idle: 110_762, iowait: 327, steal: 10, cores: 2 })
        );
        assert_eq!(parse("cpu 1 2 3 4 5 6 7\n").unwrap().steal, 0);
    }

    #[test]
    fn malformed_text_is_an_error() {
        for text in [
            "",
            "\n",
            "cpu\n",
            "cpu 1 2 3\n",
            "cpu 1 2 3 4 5 6 -7 8\n",
            "cpu 1 2 x 4 5 6 7 8\n",
            "cpu 1 2 3 4 5 6 99999999999999999999 8\n",
            "cpu0 1 2 3 4 5 6 7 8\n",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn usage_leaves_out_idle_and_iowait_and_survives_counters_going_backwards() {
        let before = parse(STAT).unwrap();
        let after = Ticks {
            user: before.user + 30,
            system: before.system + 15,
            idle: before.idle + 50,
            iowait: before.iowait - 7,
            steal: before.steal + 5,
            cores: 2,
        };
        let window = Duration::from_micros(1_234_567);
        let span = Span { before, after, window };
        assert_eq!(
            serde_json::to_string(&figures(&span).unwrap()).unwrap(),
            r#"{"usage":50.0,"user_percent":30.0,"system_percent":15.0,"iowait_percent":0.0,"#.to_owned()
                + r#""steal_percent":5.0,"idle_percent":50.0,"cores":2,"window_seconds":1.235}"#
        );
        let still = Span { before, after: before, window };
        assert!(figures(&still).is_none());
    }

    #[tokio::test]
    async fn a_clock_that_stands_still_is_an_error_not_a_division_by_zero() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("proc")).unwrap();
        std::fs::write(root.path().join("proc/stat"), STAT).unwrap();
        let source = Source::new(root.path().to_owned());
        let error = collect(&source, &Readings::new()).await.unwrap_err();
        assert!(error.to_string().contains("do not advance"), "{error}");
    }
}
