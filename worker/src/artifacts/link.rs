//! A connection to Redis that is made again when it breaks.

use std::time::Duration;

use protocol::connection::{Address, Backoff, Connection, is_broken};
use redis::{FromRedisValue, Pipeline, RedisError, RetryMethod};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// The longest wait between attempts.
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// Why Redis has not replied.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The command was ended before it did.
    #[error("it was ended before Redis answered")]
    Stopped,
    /// Redis refuses.
    #[error("Redis refuses: {0}")]
    Refused(#[source] RedisError),
}

/// Such a connection.
pub(super) struct Link<'a> {
    address: &'a Address,
    connection: Option<Connection>,
    backoff: Backoff,
    stop: &'a CancellationToken,
}

impl<'a> Link<'a> {
    /// A connection that is tried again until `stop` is cancelled.
    pub(super) const fn new(address: &'a Address, stop: &'a CancellationToken) -> Self {
        Self { address, connection: None, backoff: Backoff::new(LONGEST_BACKOFF), stop }
    }

    /// Sends commands that may be sent twice.
    pub(super) async fn query<T: FromRedisValue>(&mut self, pipeline: &Pipeline) -> Result<T, LinkError> {
        loop {
            let stop = self.stop;
            let reply = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(LinkError::Stopped),
                reply = self.attempt(pipeline) => reply,
            };
            match reply {
                Ok(value) => {
                    self.backoff.reset();
                    return Ok(value);
                }
                Err(error) if passes(&error) => {
                    tracing::debug!("the connection for content is made again: {error}");
                    self.connection = None;
                }
                Err(error) => return Err(LinkError::Refused(error)),
            }
            let delay = self.backoff.delay();
            self.pause(delay).await?;
        }
    }

    /// Waits, unless the command is ended meanwhile.
    pub(super) async fn pause(&self, delay: Duration) -> Result<(), LinkError> {
        tokio::select! {
            () = self.stop.cancelled() => Err(LinkError::Stopped),
            () = sleep(delay) => Ok(()),
        }
    }

    async fn attempt<T: FromRedisValue>(&mut self, pipeline: &Pipeline) -> Result<T, RedisError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.address.connect().await?,
        };
        let reply = pipeline.query_async(&mut connection).await;
        self.connection = Some(connection);
        reply
    }
}

/// Whether the error may be over in a while.
fn passes(error: &RedisError) -> bool {
    let is_loading = |code: &str| ["LOADING", "MASTERDOWN", "TRYAGAIN", "READONLY"].contains(&code);
    let first = error.clone().into_server_errors().unwrap_or_default();
    is_broken(error)
        || matches!(error.retry_method(), RetryMethod::WaitAndRetry)
        || error.code().is_some_and(is_loading)
        || first.iter().any(|(_, error)| is_loading(error.code()))
}

/// Whether Redis has a value of another type there.
pub(super) fn is_wrong_type(error: &RedisError) -> bool {
    let errors = error.clone().into_server_errors().unwrap_or_default();
    error.code() == Some("WRONGTYPE") || errors.iter().any(|(_, error)| error.code() == "WRONGTYPE")
}
