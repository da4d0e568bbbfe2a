//! Who sends: of several instances one, as the receiver needs no sample twice. It only saves work. Two that send at once
//! do no harm, as their samples have the same moments.

use std::time::Duration;

use protocol::{
    clock::millis,
    scripts::{LEAVE_LEASE, TAKE_LEASE},
    time::Millis,
};

use crate::client::{Error, Fleet};

/// The right to send, for some time.
#[derive(Debug)]
pub struct Lease {
    /// Who takes it: the name of an instance, and what no other has.
    owner: String,
    length: Duration,
}

impl Lease {
    /// For the instance of this name, which renews it after each `interval`.
    pub fn new(name: &str, interval: Duration) -> Self {
        let unique = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
        Self { owner: format!("{name}/{unique:016x}"), length: interval * 2 + Duration::from_secs(5) }
    }

    /// Takes or renews it. `None`: it is held here now; else, who holds it.
    ///
    /// # Errors
    /// Redis cannot be asked.
    pub async fn take(&self, fleet: &mut Fleet) -> Result<Option<String>, Error> {
        let mut take = redis::pipe();
        take.cmd("EVAL").arg(TAKE_LEASE).arg(1).arg(fleet.keys().remote_write());
        take.arg(&self.owner).arg(millis(self.length)).arg(fleet.now());
        let (holder,): (Option<Vec<u8>>,) = fleet.query_with_time(&take).await?;
        let name = |holder: Vec<u8>| {
            let holder = String::from_utf8_lossy(&holder).chars().take(300).collect::<String>();
            holder.rsplit_once('/').map_or(holder.clone(), |(name, _)| name.to_owned())
        };
        Ok(holder.map(name))
    }

    /// Leaves it. Returns whether another instance has it, or waits for it.
    ///
    /// # Errors
    /// Redis cannot be asked.
    pub async fn leave(&self, fleet: &mut Fleet) -> Result<bool, Error> {
        let mut leave = redis::pipe();
        leave.cmd("EVAL").arg(LEAVE_LEASE).arg(1).arg(fleet.keys().remote_write()).arg(&self.owner);
        let (waited,): (Option<Vec<u8>>,) = fleet.query_with_time(&leave).await?;
        let Some(waited) = waited.map(|waited| String::from_utf8_lossy(&waited).into_owned()) else { return Ok(false) };
        let is_recent = |moment: Millis| fleet.now().saturating_sub(moment) < millis(self.length);
        Ok(waited == "taken" || waited.parse().is_ok_and(is_recent))
    }
}
