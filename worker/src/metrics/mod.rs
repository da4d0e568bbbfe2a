//! Figures about this host, mostly from Linux's `/proc`. The sampler publishes them in Redis, and the `collect-*`
//! actions return them.
//!
//! Figures are flat: each has a name, which contains its unit, and a number or a text. Percentages lie between
//! 0.0 and 100.0 and have one decimal. Bytes are whole numbers. A figure of one item among several has the
//! item's name after a colon (`usage:/home`, `receive_errors:eth0`).
//!
//! A new group needs a row in `protocol::metrics`, a module here and an arm in [`Collector::collect`]. If its figures
//! cover a time window, [`Collector`] also holds its `Readings`.

mod cpu;
mod disk;
mod facts;
pub(crate) mod history;
mod load;
mod masking;
mod memory;
mod mounts;
mod network;
mod probe;
mod processes;
mod readings;
mod source;

use std::{error::Error, io, path::PathBuf, time::Duration};

use protocol::{keys::Keys, name::HostName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use protocol::metrics::MetricGroup;

use disk::Disk;
use processes::Processes;
use readings::Readings;
use source::Source;

/// Named figures, the most important first.
pub type Figures = serde_json::Map<String, Value>;

/// What figures are about: each has a hash of its own in Redis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// One of the groups that every worker samples.
    Group(MetricGroup),
    /// An action of the host's own, by name: its last result.
    Own(String),
}

impl Topic {
    /// The key of its hash.
    pub(crate) fn key(&self, keys: &Keys, host: &HostName) -> String {
        match self {
            Self::Group(group) => keys.metrics(host, *group),
            Self::Own(action) => keys.custom(host, action),
        }
    }
}

/// The order of the list of processes, greatest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessOrder {
    /// CPU use, measured over 200 ms.
    Cpu,
    /// Resident memory.
    Memory,
}

/// Why figures could not be collected. The texts leave out the sources.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// A file or directory could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system reported.
        source: io::Error,
    },
    /// The text of a file has an unknown format.
    #[error("cannot parse {}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser reported.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The counters of `/proc/stat` stand still.
    #[error("the clock ticks in /proc/stat do not advance")]
    NoTicks,
    /// A thread could not be started, or it panicked.
    #[error("cannot work in a thread")]
    Thread(#[source] io::Error),
    /// The list of processes was not complete in time.
    #[error("the list of processes was not complete within {0:?}")]
    ProcessesTimedOut(Duration),
}

/// Collects the figures of a host. One per worker, shared: it keeps earlier readings, so that a collect seldom
/// waits for a second one, and it knows which mounts hang.
pub struct Collector {
    source: Source,
    cpu: Readings<cpu::Reading>,
    network: Readings<network::Interfaces>,
    disk: Disk,
    processes: Processes,
}

impl Collector {
    /// A collector for the host with the root directory `root`. It reads `<root>/proc/…`, and probes the mounts
    /// below `root`. It takes the first CPU and network readings at once.
    pub fn at(root: PathBuf) -> Self {
        let source = Source::new(root);
        Self {
            cpu: Readings::new(&source, cpu::read),
            network: Readings::new(&source, network::read),
            disk: Disk::new(&source),
            processes: Processes::new(&source),
            source,
        }
    }

    /// Current figures of one group. Usually returns at once. Takes at most about 100 ms, or one second for
    /// [`MetricGroup::Disk`].
    pub async fn collect(&self, group: MetricGroup) -> Result<Figures, MetricsError> {
        let figures = match group {
            MetricGroup::Cpu => cpu::collect(&self.cpu).await,
            MetricGroup::Memory => memory::collect(&self.source),
            MetricGroup::Load => load::collect(&self.source),
            MetricGroup::Disk => self.disk.collect().await,
            MetricGroup::Network => network::collect(&self.network).await,
        };
        figures.map(stamped)
    }

    /// The `top` processes that use most. Takes 200 ms if ordered by CPU use.
    pub async fn processes(&self, by: ProcessOrder, top: usize) -> Result<Figures, MetricsError> {
        self.processes.collect(by, top).await.map(stamped)
    }

    /// Properties of the host that rarely change. Those that cannot be determined are left out.
    pub fn facts(&self) -> Figures {
        facts::collect(&self.source)
    }
}

/// A collector for this host.
impl Default for Collector {
    fn default() -> Self {
        Self::at("/".into())
    }
}

/// Adds the time of the sample.
pub(crate) fn stamped(mut figures: Figures) -> Figures {
    put(&mut figures, "sampled_at", format!("{:.3}", jiff::Timestamp::now()));
    figures
}

fn put(figures: &mut Figures, name: impl Into<String>, value: impl Into<Value>) {
    figures.insert(name.into(), value.into());
}

/// `part` of `whole` in percent with one decimal. 0 if `whole` is 0.
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

    #[test]
    fn process_orders_have_lower_case_names() {
        for (order, name) in [(ProcessOrder::Cpu, "cpu"), (ProcessOrder::Memory, "memory")] {
            assert_eq!(serde_json::to_value(order).unwrap(), name);
            assert_eq!(serde_json::from_value::<ProcessOrder>(name.into()).unwrap(), order);
        }
        assert!(serde_json::from_value::<ProcessOrder>("CPU".into()).is_err());
    }

    #[tokio::test]
    async fn this_host_gives_every_group_with_its_time_last() {
        let collector = Collector::default();
        for group in MetricGroup::ALL {
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
        for group in MetricGroup::ALL {
            let error = collector.collect(group).await.unwrap_err().to_string();
            assert!(error.contains("/proc/"), "{group:?}: {error}");
        }
        std::fs::create_dir(root.path().join("proc")).unwrap();
        std::fs::write(root.path().join("proc/loadavg"), "high\n").unwrap();
        let error = collector.collect(MetricGroup::Load).await.unwrap_err();
        assert!(matches!(error, MetricsError::Malformed { .. }), "{error}");
        assert!(error.to_string().contains("/proc/loadavg"), "{error}");
    }
}
