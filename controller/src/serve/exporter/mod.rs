//! The figures of the fleet for Prometheus.

pub mod samples;
