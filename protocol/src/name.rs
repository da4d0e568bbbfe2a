//! Validated names: hosts, namespaces and job ids.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::time::Millis;

/// Why a text is not a name.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// Empty or too long.
    #[error("'{0}' is not a valid name: use 1 to {max} characters", max = MAX_NAME)]
    Length(String),
    /// A character outside the allowed set.
    #[error("'{0}' is not a valid name: use letters, digits, '.', '_' and '-', beginning with a letter or digit")]
    Character(String),
    /// Not a UUID.
    #[error("'{0}' is not a job id")]
    JobId(String),
}

/// Characters in a name at most: the length of a DNS name.
pub const MAX_NAME: usize = 253;

fn check(text: &str) -> Result<(), NameError> {
    let shown = || text.chars().take(80).collect::<String>();
    if text.is_empty() || text.len() > MAX_NAME {
        return Err(NameError::Length(shown()));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if !text.as_bytes()[0].is_ascii_alphanumeric() || !text.bytes().all(allowed) {
        return Err(NameError::Character(shown()));
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $type(Box<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.pad(&self.0)
            }
        }
    };
}

name! {
    /// A host of the fleet. Safe inside a Redis key and a file name.
    HostName
}

name! {
    /// A group of hosts, as operators call it.
    GroupName
}

name! {
    /// A schedule, as operators call it.
    ScheduleName
}

name! {
    /// A rule by which alerts begin and end, as operators call it.
    RuleName
}

name! {
    /// A prefix that keeps several fleets in one Redis apart.
    Namespace
}

/// Digits in the short form of a job id.
const SHORT: usize = 8;

/// A job's id: a `UUIDv7`, so that ids sort by the time they were made (RFC 9562 §5.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(Uuid);

/// Random bytes that set the jobs of one operator and moment apart.
pub type Salt = ByteArray<16>;

#[expect(clippy::new_without_default, reason = "each is new: there is no usual one")]
impl JobId {
    /// The id of the job that `operator` issues at this moment. Nobody else can issue a job with this id: a worker
    /// derives the id again from the signed manifest, and its random bits are a digest of the operator and the salt.
    pub fn derive(operator: &str, issued_at_ms: Millis, salt: &Salt) -> Self {
        let digest =
            Sha256::new().chain_update(salt.as_slice()).chain_update(issued_at_ms.to_be_bytes()).chain_update(operator);
        let digest: [u8; 32] = digest.finalize().into();
        let mut random = [0; 10];
        random.copy_from_slice(&digest[..10]);
        // UUIDv7 (RFC 9562): 48 bits of time, 74 bits of anything.
        Self(uuid::Builder::from_unix_timestamp_millis(issued_at_ms, &random).into_uuid())
    }

    /// When the job was issued, as its id says.
    pub fn issued_at_ms(&self) -> Millis {
        // The first 48 of 128 bits.
        Millis::try_from(self.0.as_u128() >> 80).unwrap_or(Millis::MAX)
    }

    /// A fresh salt.
    ///
    /// # Panics
    /// The system has no random numbers.
    pub fn salt() -> Salt {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).expect("the system has random numbers");
        Salt::new(salt)
    }

    /// A new id, later than all that this process made before.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id of a part of what has this id: the same for the same name.
    #[must_use]
    pub fn part(&self, name: &str) -> Self {
        Self::derive(name, self.issued_at_ms(), &Salt::new(*self.as_bytes()))
    }

    /// The id's 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id's last eight digits. They are random, while its first ones are the time: enough to tell the jobs of a
    /// fleet apart, and short enough to be typed.
    pub fn short(&self) -> String {
        let id = self.to_string();
        id[id.len() - SHORT..].to_owned()
    }

    /// Whether the id, or its [short form](Self::short), begins like this.
    pub fn begins(&self, typed: &str) -> bool {
        let id = self.to_string();
        !typed.is_empty() && (id.starts_with(typed) || id[id.len() - SHORT..].starts_with(typed))
    }

    /// Reads what [`Self::as_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Uuid::from_slice(bytes).ok().map(Self)
    }
}

impl FromStr for JobId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Uuid::try_parse(text).map(Self).map_err(|_| NameError::JobId(text.chars().take(80).collect()))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["web1", "db-1.eu.example", "0", "a_b"] {
            assert_eq!(good.parse::<HostName>().unwrap().as_str(), good);
        }
        for bad in ["", "-x", "a b", "a}b", "a{b", "é", "a/b", "a:b", &"x".repeat(254)] {
            assert!(bad.parse::<HostName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_job_id_is_known_by_the_beginning_of_either_form() {
        let id: JobId = "019a0000-0000-7000-8000-0123456789ab".parse().unwrap();
        assert_eq!(id.short(), "456789ab");
        for typed in ["456789ab", "4567", "019a", "019a0000-0000-7", &id.to_string()] {
            assert!(id.begins(typed), "{typed}");
        }
        for typed in ["", "89ab", "456789abc", "9a00"] {
            assert!(!id.begins(typed), "{typed}");
        }
    }

    #[test]
    fn a_derived_id_belongs_to_its_operator_moment_and_salt() {
        let salt = JobId::salt();
        let id = JobId::derive("ann", 1_790_000_000_000, &salt);
        assert_eq!(id, JobId::derive("ann", 1_790_000_000_000, &salt));
        assert_eq!(id.issued_at_ms(), 1_790_000_000_000);
        assert_eq!((id.0.get_version_num(), &id.to_string()[..13]), (7, "01a0c450-6c00"));
        for other in [
            JobId::derive("bob", 1_790_000_000_000, &salt),
            JobId::derive("ann", 1_790_000_000_001, &salt),
            JobId::derive("ann", 1_790_000_000_000, &JobId::salt()),
        ] {
            assert_ne!(id, other);
        }
        assert!(id < JobId::derive("ann", 1_790_000_000_001, &salt), "ids sort by time");
    }

    #[test]
    fn job_ids_sort_by_time() {
        let ids: Vec<_> = (0..100).map(|_| JobId::new()).collect();
        assert!(ids.is_sorted());
        assert_eq!(ids[0].to_string().parse::<JobId>().unwrap(), ids[0]);
    }
}
