//! Redfleet's worker: reads its host's commands from Redis, executes them, writes the results back.

pub mod metrics;
