//! Host figures, read from Linux's `/proc`: what the sampler keeps current in Redis and
//! what the `collect-*` actions return.
//!
//! Figures are flat: a name with its unit, and a number or a text. Percentages lie between
//! 0.0 and 100.0 and are rounded to one decimal; bytes are whole numbers. What belongs to one
//! of several things carries its name after a colon (`usage:/home`, `receive_errors:eth0`).

mod cpu;
mod disk;
mod error;
mod facts;
mod load;
mod memory;
mod mounts;
mod network;
mod probe;
mod processes;
mod readings;
mod source;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

pub use error::MetricsError;
pub use protocol::metrics::Group;

use disk::Disk;
use processes::Processes;
use readings::Readings;
use source::Source;

/// Named figures, the most telling first.
pub type Figures = serde_json::Map<String, Value>;

/// How long a mount may take to say how full it is before it is called unresponsive.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(1);

/// What the list of processes is ordered by, the greatest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessOrder {
    /// Use of the processors, over 200 ms.
    Cpu,
    /// Resident memory.
    Memory,
}

impl ProcessOrder {
    /// The order's name, as people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        }
    }
}

/// Reads the figures of this host. One per worker, shared: it remembers earlier readings, so
/// that rates cover a second or more without anyone waiting for it, and it remembers
/// which mounts hang.
pub struct Collector {
    source: Source,
    cpu: Readings<cpu::Ticks>,
    network: Readings<network::Interfaces>,
    disk: Disk,
    processes: Processes,
}

impl Collector {
    /// A collector for this host. Takes the first processor and network readings at once.
    pub fn new() -> Self {
        Self::at(PathBuf::from("/"))
    }

    /// A collector for the host whose root directory is `root`: reads `<root>/proc/…`, and
    /// looks for mounts below it.
    pub fn at(root: PathBuf) -> Self {
        let source = Source::new(root);
        let collector = Self {
            disk: Disk::new(&source, MOUNT_TIMEOUT),
            processes: Processes::new(&source),
            cpu: Readings::new(),
            network: Readings::new(),
            source,
        };
        // A file that cannot be read is reported by the first collect that needs it.
        let _ = collector.cpu.take(|| cpu::read(&collector.source));
        let _ = collector.network.take(|| network::read(&collector.source));
        collector
    }

    /// Gives each mount this long to answer, in place of one second.
    #[must_use]
    pub fn with_mount_timeout(mut self, timeout: Duration) -> Self {
        self.disk = Disk::new(&self.source, timeout);
        self
    }

    /// Fresh figures of one group. Ends within 50 ms, or for [`Group::Disk`] within the
    /// mount timeout; usually at once.
    pub async fn collect(&self, group: Group) -> Result<Figures, MetricsError> {
        let figures = match group {
            Group::Cpu => cpu::collect(&self.source, &self.cpu).await,
            Group::Memory => memory::collect(&self.source),
            Group::Load => load::collect(&self.source),
            Group::Disk => self.disk.collect(&self.source).await,
            Group::Network => network::collect(&self.source, &self.network).await,
        }?;
        Ok(stamped(figures))
    }

    /// The `top` processes that use most. By [`ProcessOrder::Cpu`] it takes 200 ms.
    pub async fn processes(&self, by: ProcessOrder, top: usize) -> Result<Figures, MetricsError> {
        Ok(stamped(self.processes.collect(by, top).await?))
    }

    /// What rarely changes about the host. What cannot be found out is left out.
    pub fn facts(&self) -> Figures {
        facts::collect(&self.source)
    }
}

impl Default for Collector {
    fn default() -> Self {
        Self::new()
    }
}

/// Adds when the figures were taken.
fn stamped(mut figures: Figures) -> Figures {
    put(&mut figures, "sampled_at", format!("{:.3}", jiff::Timestamp::now()));
    figures
}

fn put(figures: &mut Figures, name: impl Into<String>, value: impl Into<Value>) {
    figures.insert(name.into(), value.into());
}

/// `part` of `whole` in percent with one decimal; nothing of nothing is 0.
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    rounded(100.0 * part.min(whole) as f64 / whole as f64, 1)
}

fn rounded(value: f64, decimals: i32) -> f64 {
    let scale = 10_f64.powi(decimals);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_have_one_decimal_and_stay_in_range() {
        assert_eq!(Value::from(percent(1, 3)).to_string(), "33.3");
        assert_eq!(Value::from(percent(5, 4)).to_string(), "100.0");
        assert_eq!(Value::from(percent(0, 0)).to_string(), "0.0");
    }

    #[tokio::test]
    async fn this_host_gives_every_group_with_its_time_last() {
        let collector = Collector::new();
        for group in Group::ALL {
            let figures = collector.collect(group).await.unwrap();
            let (last, stamp) = figures.iter().next_back().unwrap();
            assert_eq!(last, "sampled_at", "{group:?}");
            let stamp = stamp.as_str().unwrap();
            assert_eq!(stamp.len(), "2026-01-01T00:00:00.000Z".len(), "{stamp}");
            assert!(stamp.parse::<jiff::Timestamp>().is_ok(), "{stamp}");
        }
    }

    #[tokio::test]
    async fn a_missing_or_broken_file_is_named() {
        let root = tempfile::tempdir().unwrap();
        let collector = Collector::at(root.path().to_owned());
        for group in Group::ALL {
            let error = collector.collect(group).await.unwrap_err().to_string();
            assert!(error.contains("/proc/"), "{group:?}: {error}");
        }
        std::fs::create_dir(root.path().join("proc")).unwrap();
        std::fs::write(root.path().join("proc/loadavg"), "high\n").unwrap();
        let error = collector.collect(Group::Load).await.unwrap_err();
        assert!(matches!(error, MetricsError::Malformed { .. }), "{error}");
        assert!(error.to_string().contains("/proc/loadavg"), "{error}");
    }
}
