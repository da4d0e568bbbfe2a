//! The harness of the end-to-end tests: real Redis servers, real workers, the real `ctl`.
//!
//! Every test has a server of its own on a Unix socket in a directory of its own, so that all tests run in
//! parallel. No test sleeps for a guessed time: it waits until what it expects is there. After a deadline the test
//! fails and names what did not come.
//!
//! ```no_run
//! let redis = tests::Redis::start();
//! let worker = tests::Worker::on(&redis).host("web1").start();
//! worker.wait_online();
//! let output = tests::Ctl::on(&redis).run(["run", "--host", "web1", "ping"]);
//! assert_eq!(output.code, 0, "{output}");
//! ```

#![expect(clippy::missing_panics_doc, reason = "a panic is how a test fails")]

mod authority;
mod binaries;
pub mod chaos;
mod crowd;
mod ctl;
mod fleet;
pub mod hostile;
mod jobs;
mod load;
mod log;
pub mod monitor;
mod network;
pub mod nights;
mod planted;
mod port;
mod process;
mod program;
mod raw;
pub mod search;
mod served;
mod server;
mod signatory;
mod skip;
mod small_disk;
mod stack;
mod terminal;
mod users;
mod wait;
mod worker;

pub use authority::{Authority, Issued};
pub use binaries::{beside, binary, chaos_worker, optimised, optimised_static, released, unsigned};
pub use crowd::Crowd;
pub use ctl::{Ctl, Output, Running};
pub use fleet::{fleet, fleet_with, fleet_with_ctl, outlive_a_redis_outage};
pub use load::{Counts, Load, Versions, get};
pub use log::Log;
pub use network::Network;
pub use planted::some_bugs;
pub use port::free_port;
pub use process::{descendants, is_alive, kill_groups, own_kb};
pub use program::{Evidence, Gate};
pub use raw::Raw;
pub use served::{Served, kill9, supervisor};
pub use server::{Aof, Redis, RedisOptions};
pub use signatory::{Signatory, operator, renewed};
pub use skip::skipped;
pub use small_disk::fill;
pub use stack::Stack;
pub use terminal::OnTerminal;
pub use wait::{PATIENCE, eventually, within};
pub use worker::{Worker, WorkerOptions};
