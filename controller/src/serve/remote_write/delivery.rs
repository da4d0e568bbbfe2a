//! The delivery: sends what waits, one batch after another, and each until its fate is known.

use std::{sync::Arc, time::Duration};

use protocol::connection::Backoff;

use super::{
    batch::Batch,
    queue::Queue,
    receiver::{Fate, Receiver},
    said::Said,
};

/// The longest wait between two attempts, where the receiver does not ask for more.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Sends batches.
pub struct Delivery<T> {
    /// To whom.
    pub receiver: Receiver,
    /// What.
    pub queue: Arc<Queue>,
    /// What is said meanwhile.
    pub say: T,
}

/// What is wrong with the receiver, since it took a batch last. Each is said once.
#[derive(Debug, Default)]
struct Trouble {
    fails: bool,
    refuses: bool,
}

impl<T: Fn(Said)> Delivery<T> {
    /// Returns when nothing waits any more and nothing comes, or nothing more can be sent.
    pub async fn run(&mut self) {
        let mut trouble = Trouble::default();
        while let Some(batch) = self.queue.next().await {
            if !self.deliver(&batch, &mut trouble).await {
                return (self.say)(Said::Left(self.queue.samples()));
            }
        }
    }

    /// Sends a batch until its fate is known. `false`: it is not, and time is up.
    async fn deliver(&mut self, batch: &Arc<Batch>, trouble: &mut Trouble) -> bool {
        let mut backoff = Backoff::new(WAIT_MAX);
        loop {
            match self.receiver.send(batch).await {
                Fate::Written => {
                    let before = std::mem::take(trouble);
                    if before.fails || before.refuses || self.queue.has_recovered() {
                        (self.say)(Said::Recovered(self.queue.take_lost()));
                    }
                    return true;
                }
                Fate::Refused(reason) => {
                    self.queue.lose(batch.samples);
                    if !std::mem::replace(&mut trouble.refuses, true) {
                        (self.say)(Said::Refused(reason));
                    }
                    return true;
                }
                Fate::Unspoken(reason) => (self.say)(Said::Falls(reason)),
                Fate::Later(reason, wait) => {
                    if !std::mem::replace(&mut trouble.fails, true) {
                        (self.say)(Said::Fails(reason));
                    }
                    if self.queue.is_closed() {
                        return false;
                    }
                    let wait = backoff.delay().max(wait.unwrap_or_default());
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.queue.closed() => {}
                    }
                }
            }
        }
    }
}
