//! Who may be believed: signatures, and the files that say whose.
//!
//! The formats are OpenSSH's, so that operators can make, read and check everything with `ssh-keygen`.

pub mod allowed_signers;
pub mod batch;
pub mod certificate;
pub mod fault;
pub mod key;
mod key_signature;
pub mod moment;
mod pattern;
pub mod revocation;
pub mod signing;
pub mod sshsig;
pub mod store;
pub mod wire;

/// Signatures are neither made nor verified. Only the benchmark is built like this: it shows what signatures cost.
pub const UNSIGNED: bool = cfg!(feature = "unsigned");

pub use store::{Trust, TrustFileError, Untrusted, digest};
