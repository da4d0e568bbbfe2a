//! The claims of waves: what is sent of a rolling run must stand in its record, or whoever resumes the run would send it
//! anew.

use std::sync::Arc;

use protocol::rollout::{RolloutRecord, Wave};
use redis::Cmd;

use super::{error::Error, fleet::Fleet};

/// The reply of a script where Redis has lost the end of a run.
const LOST_END: i64 = -2;

/// Where the record of a run says that a job is a wave of it.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    /// The run as it is with this wave.
    record: Arc<RolloutRecord>,
    /// The wave's number.
    number: u32,
}

impl Claim {
    /// The claim of the wave of this number.
    pub(super) fn new(record: &Arc<RolloutRecord>, number: u32) -> Self {
        Self { record: Arc::clone(record), number }
    }
}

impl Fleet {
    /// Claims a wave, also where that was done before and Redis may have lost it. Returns whether Redis has the run still.
    ///
    /// # Errors
    /// [`Error::RolloutClosed`]: the wave was not claimed when somebody closed the run.
    pub(super) async fn claim(&mut self, record: &RolloutRecord, number: u32, wave: &Wave) -> Result<bool, Error> {
        let claim = record.claim(self.keys(), number, wave, self.now());
        let reply = self.add_to_rollout(record, claim).await?;
        if reply == 0 { Err(Error::RolloutClosed(record.id())) } else { Ok(reply == 1) }
    }

    /// Claims the wave once more that a job is, before it is sent once more.
    ///
    /// # Errors
    /// As of [`Self::claim`].
    pub(super) async fn claim_again(&mut self, claim: Option<&Claim>) -> Result<(), Error> {
        let Some(Claim { record, number }) = claim else { return Ok(()) };
        let Some(wave) = record.waves.get(number) else { return Ok(()) };
        // What Redis has lost altogether cannot be resumed by anybody.
        self.claim(record, *number, wave).await.map(drop)
    }

    /// Adds to the record of a run. Where Redis has lost the newest of its waves, these are written first. Returns the
    /// script's reply.
    pub(super) async fn add_to_rollout(&mut self, record: &RolloutRecord, add: Cmd) -> Result<i64, Error> {
        let reply = self.ask_rollout(add.clone()).await?;
        if reply != LOST_END {
            return Ok(reply);
        }
        for restore in record.restore(self.keys()) {
            if self.ask_rollout(restore).await? == 0 {
                return Ok(0);
            }
        }
        self.ask_rollout(add).await
    }

    pub(super) async fn ask_rollout(&mut self, command: Cmd) -> Result<i64, Error> {
        let mut pipeline = redis::pipe();
        pipeline.add_command(command);
        let (reply,): (i64,) = self.persist(&pipeline).await?;
        Ok(reply)
    }
}
