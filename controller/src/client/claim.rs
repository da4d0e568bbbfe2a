//! The claims of waves: what is sent of a rolling run must stand in its record, or whoever resumes the run would send it
//! anew.

use protocol::rollout::{RolloutRecord, Wave};
use redis::Cmd;

use super::{error::Error, fleet::Fleet};

/// The reply of a script where Redis has lost the end of a run.
const LOST_END: i64 = -2;

impl Fleet {
    /// Claims a wave, also where that was done before and Redis may have lost it.
    ///
    /// # Errors
    /// As of [`Self::add_to_rollout`]: then the wave must not be sent, not even once more.
    pub(super) async fn claim(&mut self, record: &RolloutRecord, number: u32, wave: &Wave) -> Result<(), Error> {
        let claim = record.claim(self.keys(), number, wave, self.now());
        self.add_to_rollout(record, claim).await
    }

    /// Claims the newest wave of a run once more, before it is sent once more.
    ///
    /// # Errors
    /// As of [`Self::claim`].
    pub(super) async fn claim_again(&mut self, record: &RolloutRecord) -> Result<(), Error> {
        let Some((number, wave)) = record.waves.last_key_value() else { return Ok(()) };
        self.claim(record, *number, wave).await
    }

    /// Adds to the record of a run. Where Redis has lost the newest of its waves, these are written first.
    ///
    /// # Errors
    /// [`Error::RolloutClosed`]: somebody had closed the run before. [`Error::UnknownJob`]: Redis has lost it. It is not
    /// written anew, as nobody knows who has closed it.
    pub(super) async fn add_to_rollout(&mut self, record: &RolloutRecord, add: Cmd) -> Result<(), Error> {
        let mut reply = self.ask_rollout(add.clone()).await?;
        if reply == LOST_END {
            for restore in record.restore(self.keys()) {
                reply = self.ask_rollout(restore).await?;
                if reply != 1 {
                    break;
                }
            }
            if reply == 1 {
                reply = self.ask_rollout(add).await?;
            }
        }
        match reply {
            1 => Ok(()),
            0 => Err(Error::RolloutClosed(record.id())),
            _ => Err(Error::UnknownJob(record.id().to_string())),
        }
    }

    pub(super) async fn ask_rollout(&mut self, command: Cmd) -> Result<i64, Error> {
        let mut pipeline = redis::pipe();
        pipeline.add_command(command);
        let (reply,): (i64,) = self.persist(&pipeline).await?;
        Ok(reply)
    }
}
