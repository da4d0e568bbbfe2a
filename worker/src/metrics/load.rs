//! Load averages, tasks and uptime, from `/proc/loadavg` and `/proc/uptime`.

use procfs_core::{FromRead, LoadAverage, Uptime};

use super::{
    Figures, MetricsError, cpu, put, rounded,
    source::{Source, parsed},
};

pub(super) fn collect(source: &Source) -> Result<Figures, MetricsError> {
    let load = source.parse("/proc/loadavg", |text| parsed(LoadAverage::from_read(text)))?;
    let uptime = source.parse("/proc/uptime", |text| parsed(Uptime::from_read(text)))?;

    let mut figures = Figures::new();
    for (name, average) in [("load1", load.one), ("load5", load.five), ("load15", load.fifteen)] {
        // The kernel writes two decimals. Without rounding, 0.83 as f32 would become 0.8299999833106995.
        put(&mut figures, name, rounded(average.into(), 2));
    }
    put(&mut figures, "cores", cpu::read(source)?.cores);
    put(&mut figures, "running_tasks", load.cur);
    put(&mut figures, "total_tasks", load.max);
    put(&mut figures, "uptime_seconds", uptime.uptime_duration().as_secs());
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn collect_from(loadavg: &str, uptime: &str) -> Result<Figures, MetricsError> {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("proc")).unwrap();
        fs::write(root.path().join("proc/loadavg"), loadavg).unwrap();
        fs::write(root.path().join("proc/uptime"), uptime).unwrap();
        fs::write(root.path().join("proc/stat"), "cpu 1 2 3 4\ncpu0 1 2 3 4\nctxt 1\nbtime 1\nprocesses 1\n").unwrap();
        collect(&Source::new(root.path().to_owned()))
    }

    #[test]
    fn parses_what_the_kernel_writes() {
        let figures = collect_from("0.83 0.40 12.18 2/102 17569\n", "350735.97 234388.90\n").unwrap();
        assert_eq!(
            serde_json::to_string(&figures).unwrap(),
            r#"{"load1":0.83,"load5":0.4,"load15":12.18,"cores":1,"running_tasks":2,"total_tasks":102,"#.to_owned()
                + r#""uptime_seconds":350735}"#
        );
    }

    #[test]
    fn malformed_text_is_an_error() {
        for text in ["", "0.1 0.2", "0.1 0.2 0.3", "0.1 0.2 0.3 4", "0.1 0.2 0.3 4 5", "a b c 1/2 3", "0 0 0 1/x 3"] {
            let error = collect_from(text, "1.00 1.00\n").unwrap_err();
            assert!(matches!(error, MetricsError::Malformed { .. }), "{text:?}: {error}");
        }
        for text in ["", "\n", "soon", "1.00"] {
            let error = collect_from("0.83 0.40 12.18 2/102 17569\n", text).unwrap_err();
            assert!(matches!(error, MetricsError::Malformed { .. }), "{text:?}: {error}");
        }
    }
}
