//! The grammar of `ctl redis`.

use std::time::Duration;

use clap::Subcommand;

use super::durations::of_history;

/// `ctl redis`.
#[derive(Debug, Subcommand)]
pub enum Redis {
    /// Show how Redis itself is and was, as `ctl serve` has kept it: memory, clients, persistence, replicas
    Status {
        /// How far back the charts reach, such as 90m or 6h, at most 24h
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = of_history)]
        since: Duration,
    },
}
