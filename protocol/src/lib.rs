//! What Redfleet's controllers and workers agree on, and nothing else: names, Redis keys, the
//! command envelope, actions and their parameters, outcomes, events, limits and the connection.
//!
//! A command's way through these modules: a [`command::Manifest`] describes the command and commits to its
//! [`targets::Targets`]. A [`job::JobRecord`] is the job as Redis keeps it, a [`command::Envelope`] is the command on
//! its way to a host. [`event::Event`]s report progress, an [`outcome::Outcome`] reports the end, as a
//! [`statement::Statement`] by its host. Manifests, orders to cancel and statements are [`signed::Signed`] documents.

pub mod acl;
pub mod action;
pub mod approval;
pub mod artifact;
pub mod clock;
pub mod command;
pub mod connection;
pub mod control;
pub mod diagnosis;
pub mod environment;
pub mod event;
pub mod history;
pub mod job;
pub mod keys;
pub mod limits;
pub mod metrics;
pub mod name;
pub mod outcome;
pub mod pattern;
pub mod range;
pub mod rollout;
pub mod scheduled;
pub mod scripts;
pub mod sealing;
pub mod secret;
pub mod signed;
pub mod standing;
pub mod statement;
pub mod status;
pub mod targets;
pub mod time;
pub mod tls;
pub mod trust;
mod unique;

/// Version of the wire format: the stream entries that controllers write and workers read.
///
/// It grows only when an old worker could misread a new entry; added manifest fields do not count,
/// because unknown fields are ignored.
pub const WIRE_VERSION: u32 = 1;

/// The release and the wire version, as `--version` prints them.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (wire 1)");

#[cfg(test)]
mod tests {
    #[test]
    fn version_names_the_wire_version() {
        assert!(super::VERSION.ends_with(&format!("(wire {})", super::WIRE_VERSION)));
    }
}
