//! Load averages, tasks and uptime, from `/proc/loadavg` and `/proc/uptime`.

use super::source::{Parsed, Source, excerpt, number};
use super::{Figures, MetricsError, cpu, put};

#[derive(Debug, PartialEq)]
struct Load {
    /// Over 1, 5 and 15 minutes.
    averages: [f64; 3],
    running_tasks: u64,
    total_tasks: u64,
}

pub(super) fn collect(source: &Source) -> Result<Figures, MetricsError> {
    let load = source.parse("/proc/loadavg", parse_load)?;
    let uptime_seconds = source.parse("/proc/uptime", parse_uptime)?;
    let mut figures = Figures::new();
    for (name, average) in ["load1", "load5", "load15"].iter().zip(load.averages) {
        put(&mut figures, *name, average);
    }
    put(&mut figures, "cores", cpu::cores(source)?);
    put(&mut figures, "running_tasks", load.running_tasks);
    put(&mut figures, "total_tasks", load.total_tasks);
    put(&mut figures, "uptime_seconds", uptime_seconds);
    Ok(figures)
}

fn parse_load(text: &str) -> Parsed<Load> {
    let mut words = text.split_whitespace();
    let mut average = |what| {
        number(words.next(), what).and_then(|average: f64| {
            let sound = average.is_finite() && average >= 0.0;
            sound.then_some(average).ok_or_else(|| format!("{what} is {average}"))
        })
    };
    let averages = [average("load1")?, average("load5")?, average("load15")?];
    let tasks = words.next().unwrap_or_default();
    let (running, total) = tasks.split_once('/').ok_or_else(|| format!("no counts of tasks: {:?}", excerpt(text)))?;
    Ok(Load {
        averages,
        running_tasks: number(Some(running), "the number of running tasks")?,
        total_tasks: number(Some(total), "the number of tasks")?,
    })
}

/// Whole seconds since boot.
fn parse_uptime(text: &str) -> Parsed<u64> {
    let seconds = text.split(['.', ' ', '\n']).next();
    number(seconds, "the uptime")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_the_kernel_writes() {
        assert_eq!(
            parse_load("0.83 0.40 12.18 2/102 17569\n"),
            Ok(Load { averages: [0.83, 0.40, 12.18], running_tasks: 2, total_tasks: 102 })
        );
        assert_eq!(parse_uptime("350735.47 234388.90\n"), Ok(350_735));
    }

    #[test]
    fn malformed_text_is_an_error() {
        for text in ["", "0.1 0.2", "0.1 0.2 0.3", "0.1 0.2 0.3 4", "a b c 1/2", "NaN 0 0 1/2"] {
            assert!(parse_load(text).is_err(), "{text:?}");
        }
        for text in ["", "\n", "-3.0 1.0", "soon"] {
            assert!(parse_uptime(text).is_err(), "{text:?}");
        }
    }
}
