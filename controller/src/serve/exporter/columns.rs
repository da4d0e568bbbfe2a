//! What a group of figures is called in Redis and in Prometheus.
//!
//! The text format wants all samples of a family together, but a host's hash has figures of many. So the figures of a
//! group are read for all hosts first, each hash once, and kept as bare numbers; then they are told family by family.

use std::sync::Arc;

use super::samples::{self, Family, Sample, label_value};

/// Rows of one group that are kept at a time.
pub const ROWS: usize = 250_000;

/// Samples of a batch.
const BATCH: usize = 1_000;

/// The figures of a group, and which families they go to.
#[derive(Debug)]
pub struct Table {
    /// The label that names the item (`device`); empty where the group is about the host as a whole.
    pub item: &'static str,
    /// The fields of the hash. In a row, the moment of the sample follows, in seconds.
    pub fields: &'static [&'static str],
    /// The families.
    pub columns: &'static [Column],
}

/// A family, and how its figure follows from a row. What is no finite number is left out.
#[derive(Debug)]
pub struct Column {
    family: &'static Family,
    label: Option<(&'static str, &'static str)>,
    value: fn(&[f64]) -> f64,
}

/// The figures of a group for many hosts.
#[derive(Debug)]
pub struct Rows {
    table: &'static Table,
    hosts: Vec<u32>,
    items: Vec<Arc<str>>,
    values: Vec<f64>,
    /// Where the telling is: the column, and the row.
    at: (usize, usize),
}

impl Table {
    /// The number of figures in a row.
    pub const fn width(&self) -> usize {
        self.fields.len() + 1
    }
}

impl Rows {
    /// No rows yet.
    pub const fn of(table: &'static Table) -> Self {
        Self { table, hosts: Vec::new(), items: Vec::new(), values: Vec::new(), at: (0, 0) }
    }

    /// What they are rows of.
    pub const fn table(&self) -> &'static Table {
        self.table
    }

    /// Adds a row of [`Table::width`] figures: NaN where one is missing. `false`: there are too many.
    pub fn add(&mut self, host: usize, item: Option<Arc<str>>, values: &[f64]) -> bool {
        debug_assert_eq!(values.len(), self.table.width());
        let Ok(host) = u32::try_from(host) else { return false };
        if self.hosts.len() >= ROWS {
            return false;
        }
        self.hosts.push(host);
        self.items.extend(item);
        self.values.extend_from_slice(values);
        true
    }

    /// The next samples, family by family. `None`: that was all.
    pub fn next(&mut self, hosts: &[Arc<str>]) -> Option<(&'static Family, Vec<Sample>)> {
        let width = self.table.width();
        loop {
            let (column, from) = self.at;
            let Column { family, label, value } = self.table.columns.get(column)?;
            let label = label.map(|(name, text)| (name, label_value(text)));
            let mut samples = Vec::with_capacity(BATCH.min(self.hosts.len()));
            let mut row = from;
            while row < self.hosts.len() && samples.len() < BATCH {
                let figure = value(&self.values[row * width..(row + 1) * width]);
                if figure.is_finite() {
                    let mut sample = Sample::of_host(&hosts[self.hosts[row] as usize], figure);
                    if !self.table.item.is_empty() {
                        sample = sample.with(self.table.item, Arc::clone(&self.items[row]));
                    }
                    if let Some((name, text)) = &label {
                        sample = sample.with(*name, Arc::clone(text));
                    }
                    samples.push(sample);
                }
                row += 1;
            }
            self.at = if row < self.hosts.len() { (column, row) } else { (column + 1, 0) };
            if !samples.is_empty() {
                return Some((family, samples));
            }
        }
    }
}

/// A share from 0 to 1 of a percentage with one decimal.
fn ratio(percent: f64) -> f64 {
    (percent * 10.0).round() / 1000.0
}

const fn plain(family: &'static Family, value: fn(&[f64]) -> f64) -> Column {
    Column { family, label: None, value }
}

const fn labelled(family: &'static Family, name: &'static str, text: &'static str, value: fn(&[f64]) -> f64) -> Column {
    Column { family, label: Some((name, text)), value }
}

/// What is known of every host. The fields are not those of a hash: see [`super::hosts`].
pub static LIVENESS: Table = Table {
    item: "",
    fields: &["up", "seen", "started", "running", "slots", "read_age", "clock_ahead", "journal", "trust", "actions"],
    columns: &[
        plain(&samples::HOST_UP, |row| row[0]),
        plain(&samples::HOST_LAST_SEEN, |row| row[1]),
        plain(&samples::HOST_STARTED, |row| row[2]),
        plain(&samples::HOST_RUNNING, |row| row[3]),
        plain(&samples::HOST_SLOTS, |row| row[4]),
        plain(&samples::HOST_READ_AGE, |row| row[5]),
        plain(&samples::HOST_CLOCK, |row| row[6]),
        labelled(&samples::HOST_PROBLEM, "of", "journal", |row| row[7]),
        labelled(&samples::HOST_PROBLEM, "of", "trust", |row| row[8]),
        labelled(&samples::HOST_PROBLEM, "of", "actions", |row| row[9]),
    ],
};

/// Commands by their end.
pub static COMMANDS: Table =
    Table { item: "state", fields: &["count"], columns: &[plain(&samples::HOST_COMMANDS, |row| row[0])] };

/// Entries that were dropped, by reason.
pub static DROPPED: Table =
    Table { item: "reason", fields: &["count"], columns: &[plain(&samples::HOST_DROPPED, |row| row[0])] };

/// The group `cpu`.
pub static CPU: Table = Table {
    item: "",
    fields: &["usage", "user_percent", "system_percent", "iowait_percent", "steal_percent", "idle_percent", "cores"],
    columns: &[
        plain(&samples::CPU_USAGE, |row| ratio(row[0])),
        labelled(&samples::CPU_MODE, "mode", "user", |row| ratio(row[1])),
        labelled(&samples::CPU_MODE, "mode", "system", |row| ratio(row[2])),
        labelled(&samples::CPU_MODE, "mode", "iowait", |row| ratio(row[3])),
        labelled(&samples::CPU_MODE, "mode", "steal", |row| ratio(row[4])),
        labelled(&samples::CPU_MODE, "mode", "idle", |row| ratio(row[5])),
        plain(&samples::CPUS, |row| row[6]),
    ],
};

/// The group `memory`.
pub static MEMORY: Table = Table {
    item: "",
    fields: &[
        "total_bytes",
        "available_bytes",
        "free_bytes",
        "buffers_bytes",
        "cached_bytes",
        "swap_total_bytes",
        "swap_used_bytes",
    ],
    columns: &[
        plain(&samples::MEM_TOTAL, |row| row[0]),
        plain(&samples::MEM_AVAILABLE, |row| row[1]),
        plain(&samples::MEM_FREE, |row| row[2]),
        plain(&samples::MEM_BUFFERS, |row| row[3]),
        plain(&samples::MEM_CACHED, |row| row[4]),
        plain(&samples::SWAP_TOTAL, |row| row[5]),
        plain(&samples::SWAP_FREE, |row| row[5] - row[6]),
    ],
};

/// The group `load`.
pub static LOAD: Table = Table {
    item: "",
    fields: &["load1", "load5", "load15", "total_tasks", "running_tasks"],
    columns: &[
        plain(&samples::LOAD1, |row| row[0]),
        plain(&samples::LOAD5, |row| row[1]),
        plain(&samples::LOAD15, |row| row[2]),
        plain(&samples::TASKS, |row| row[3]),
        plain(&samples::TASKS_RUNNING, |row| row[4]),
        plain(&samples::NODE_TIME, |row| row[5]),
    ],
};

/// The group `disk`, for each mount. `state` counts as 1, whatever it says.
pub static DISK: Table = Table {
    item: "mountpoint",
    fields: &["total_bytes", "used_bytes", "available_bytes", "inodes_usage", "state"],
    columns: &[
        plain(&samples::DISK_SIZE, |row| row[0]),
        plain(&samples::DISK_FREE, |row| row[0] - row[1]),
        plain(&samples::DISK_AVAIL, |row| row[2]),
        plain(&samples::DISK_INODES, |row| ratio(row[3])),
        plain(&samples::DISK_ERROR, |row| if row[4].is_nan() { row[0] * 0.0 } else { 1.0 }),
    ],
};

/// The group `network`, for each interface.
pub static NETWORK: Table = Table {
    item: "device",
    fields: &[
        "receive_bytes_total",
        "transmit_bytes_total",
        "receive_errors",
        "transmit_errors",
        "receive_drops",
        "transmit_drops",
    ],
    columns: &[
        plain(&samples::NET_RECEIVE, |row| row[0]),
        plain(&samples::NET_TRANSMIT, |row| row[1]),
        plain(&samples::NET_RECEIVE_ERRS, |row| row[2]),
        plain(&samples::NET_TRANSMIT_ERRS, |row| row[3]),
        plain(&samples::NET_RECEIVE_DROP, |row| row[4]),
        plain(&samples::NET_TRANSMIT_DROP, |row| row[5]),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_family_by_family_and_what_is_missing_is_left_out() {
        let hosts: Vec<Arc<str>> = vec!["a".into(), "b".into()];
        let mut rows = Rows::of(&DISK);
        let missing = f64::NAN;
        assert!(rows.add(0, Some("/".into()), &[1000.0, 400.0, 500.0, 25.0, missing, 7.0]));
        assert!(rows.add(1, Some("/mnt".into()), &[missing, missing, missing, missing, 1.0, 7.0]));
        let mut told = Vec::new();
        while let Some((family, samples)) = rows.next(&hosts) {
            let texts =
                |sample: &Sample| sample.labels().map(|(_, text)| text.to_owned()).collect::<Vec<_>>().join(" ");
            told.extend(samples.iter().map(|sample| format!("{} {} {}", family.name, texts(sample), sample.value)));
        }
        assert_eq!(
            told,
            [
                "node_filesystem_size_bytes a a / 1000",
                "node_filesystem_free_bytes a a / 600",
                "node_filesystem_avail_bytes a a / 500",
                "redfleet_host_filesystem_inodes_usage_ratio a a / 0.25",
                "node_filesystem_device_error a a / 0",
                "node_filesystem_device_error b b /mnt 1",
            ]
        );
    }

    #[test]
    fn rows_and_batches_are_bounded() {
        let hosts: Vec<Arc<str>> = vec!["a".into()];
        let mut rows = Rows::of(&COMMANDS);
        for _ in 0..ROWS {
            assert!(rows.add(0, Some("failed".into()), &[1.0, f64::NAN]));
        }
        assert!(!rows.add(0, Some("failed".into()), &[1.0, f64::NAN]));
        let mut count = 0;
        while let Some((_, samples)) = rows.next(&hosts) {
            assert!(samples.len() <= BATCH);
            count += samples.len();
        }
        assert_eq!(count, ROWS);
    }
}
