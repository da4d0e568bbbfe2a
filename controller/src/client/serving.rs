//! Which instances of `ctl serve` there are: a sorted set, name → last heartbeat. Workers and `ctl doctor` read from it
//! whether any lives.

use protocol::{clock::millis, limits, time::Millis};

use super::{
    error::Error,
    fleet::{Fleet, text},
};

/// An instance that was not heard of for so long is forgotten as soon as another one lives, in milliseconds.
const FORGOTTEN_MS: Millis = 3_600_000;

/// Whether an instance lives that was last heard of at `seen_ms`.
pub fn serves(seen_ms: Millis, now: Millis) -> bool {
    now < seen_ms.saturating_add(millis(limits::SERVE_MISSING_AFTER))
}

impl Fleet {
    /// Says that the instance of this name lives.
    ///
    /// # Errors
    /// As with all calls that ask Redis.
    pub async fn announce_serving(&mut self, name: &str) -> Result<(), Error> {
        self.query_with_time::<()>(&redis::pipe()).await?;
        let (key, now) = (self.keys().serving(), self.now());
        let mut beat = redis::pipe();
        beat.zadd(&key, name, now).ignore();
        beat.zrembyscore(&key, "-inf", now.saturating_sub(FORGOTTEN_MS)).ignore();
        beat.zremrangebyrank(&key, 0, -limits::SERVING.cast_signed() - 1).ignore();
        beat.expire(&key, limits::HOST_RETENTION.as_secs().cast_signed()).ignore();
        self.query(&beat).await
    }

    /// Says that the instance of this name has ended in order. The last one stays listed: so the fleet knows that it had one.
    ///
    /// # Errors
    /// As with all calls that ask Redis.
    pub async fn leave_serving(&mut self, name: &str) -> Result<(), Error> {
        let others = self.serving().await?;
        let now = self.now();
        if !others.iter().any(|(other, seen_ms)| other != name && serves(*seen_ms, now)) {
            return Ok(());
        }
        self.query(redis::pipe().zrem(self.keys().serving(), name).ignore()).await
    }

    /// The instances, and when each was last heard of, the newest first.
    ///
    /// # Errors
    /// As with all calls that ask Redis.
    pub async fn serving(&mut self) -> Result<Vec<(String, Millis)>, Error> {
        let mut newest = redis::pipe();
        newest.zrevrange_withscores(self.keys().serving(), 0, limits::SERVING.cast_signed() - 1);
        let (found,): (Vec<(Vec<u8>, f64)>,) = self.query_with_time(&newest).await?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
        Ok(found.into_iter().map(|(name, seen)| (text(&name), seen as Millis)).collect())
    }
}
