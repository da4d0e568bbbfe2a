//! Remote write: at equal intervals, all figures of the fleet go to a receiver that speaks Prometheus' remote write.
//!
//! A *round* reads the fleet page by page and packs it into batches. Its moment is a multiple of the interval by Redis'
//! clock, so that whoever takes over sends samples of the same moments. The batches wait in a bounded queue for the
//! *delivery*, which sends one after another: so the samples of a series stay in order, whatever is tried again. A series of
//! the round before that is in this one no more is *ended* by a marker; so are all of them when `ctl serve` stops and no
//! other instance waits to go on.

pub mod batch;
mod delivery;
mod lease;
mod queue;
mod receiver;
mod said;
pub mod settings;
pub mod wire;

use std::{sync::Arc, time::Duration};

use protocol::clock::millis;

pub use self::said::Said;
use self::{
    batch::{Identity, Round},
    delivery::Delivery,
    lease::Lease,
    queue::Queue,
    receiver::Receiver,
    settings::Settings,
};
use super::Life;
use crate::{
    client::{Error, Fleet},
    serve::exporter::{Exporter, Scrape, Whom},
};

/// How long what waits is still sent after the service was told to stop.
const LAST: Duration = Duration::from_secs(10);

/// Sends what `exporter` tells until it is told to stop. `name`: what other instances know this one by.
///
/// # Errors
/// The settings cannot be used.
pub async fn run(
    life: Life,
    fleet: Fleet,
    exporter: Arc<Exporter>,
    settings: Settings,
    name: String,
    say: impl Fn(Said) + Clone + Send,
) -> anyhow::Result<()> {
    let queue = Arc::new(Queue::new(settings.queue));
    let mut delivery = Delivery { receiver: Receiver::new(&settings)?, queue: Arc::clone(&queue), say: say.clone() };
    let identity = Identity::new(settings.labels.clone());
    let lease = Lease::new(&name, settings.interval);
    let interval_ms = millis(settings.interval);
    let own = (Arc::clone(&queue), say.clone());
    let mut rounds = Rounds { fleet, exporter, lease, identity, queue: own.0, interval_ms, last: None, say: own.1 };
    life.ready();
    let collecting = async {
        rounds.run(&life).await;
        queue.close();
        // What is sent last has a bound in time.
        tokio::time::sleep(LAST).await;
    };
    tokio::select! {
        () = collecting => say(Said::Left(queue.samples())),
        () = delivery.run() => {}
    }
    Ok(())
}

/// Makes rounds.
struct Rounds<T> {
    fleet: Fleet,
    exporter: Arc<Exporter>,
    lease: Lease,
    identity: Identity,
    queue: Arc<Queue>,
    interval_ms: u64,
    /// The last round that was made, unless another instance has sent since.
    last: Option<Round>,
    say: T,
}

impl<T: Fn(Said) + Send> Rounds<T> {
    async fn run(&mut self, life: &Life) {
        let (mut is_away, mut holder) = (false, None);
        // A round is of the moment at which it begins.
        let mut made = self.fleet.now();
        loop {
            let next = (made / self.interval_ms + 1) * self.interval_ms;
            let wait = next.saturating_sub(self.fleet.now()).min(self.interval_ms);
            tokio::select! {
                () = life.stopped() => break,
                () = tokio::time::sleep(Duration::from_millis(wait)) => {}
            }
            match self.round(made).await {
                Ok(Course::Early) => {}
                Ok(Course::Made(at_ms)) => {
                    made = at_ms;
                    if holder.replace(None) != Some(None) {
                        (self.say)(Said::Sends);
                    }
                    life.worked();
                }
                Ok(Course::Waits(at_ms, other)) => {
                    made = at_ms;
                    if holder.as_ref() != Some(&Some(other.clone())) {
                        (self.say)(Said::Waits(other.clone()));
                    }
                    holder = Some(Some(other));
                    life.worked();
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_away, true) {
                        (self.say)(Said::Away(error));
                    }
                    made = self.fleet.now();
                    // Where there is no connection, the next attempt fails with the dead one.
                    let _ = self.fleet.reconnect().await;
                    continue;
                }
            }
            if std::mem::take(&mut is_away) {
                (self.say)(Said::Back);
            }
        }
        self.end().await;
    }

    /// Makes a round, if one is due and this instance is to make it.
    async fn round(&mut self, made: u64) -> Result<Course, Error> {
        let holder = self.lease.take(&mut self.fleet).await?;
        let now = self.fleet.now();
        let at_ms = now - now % self.interval_ms;
        if let Some(holder) = holder {
            if let Some(last) = self.last.take() {
                self.end_own(&last);
            }
            return Ok(Course::Waits(at_ms, holder));
        }
        if at_ms <= made {
            return Ok(Course::Early);
        }
        let round = self.collect(at_ms).await?;
        let ended = self.last.as_ref().map(|last| self.identity.ended(last, Some(&round), at_ms)).unwrap_or_default();
        if let Some(dropped) = self.queue.push(round.batches.iter().cloned().chain(ended)) {
            (self.say)(Said::Full(dropped));
        }
        self.last = Some(round);
        Ok(Course::Made(at_ms))
    }

    /// Reads the fleet.
    async fn collect(&mut self, at_ms: u64) -> Result<Round, Error> {
        let mut collector = self.identity.collect(at_ms);
        let mut scrape = Scrape::begin(&self.exporter, &mut self.fleet, &Whom::default()).await?;
        while let Some(figures) = scrape.next(&mut self.fleet).await? {
            collector.take(&figures);
        }
        Ok(collector.finish())
    }

    /// Ends all series, unless another instance goes on with them.
    async fn end(&mut self) {
        let Some(last) = self.last.take() else { return };
        // Where Redis is away, nobody goes on.
        if self.lease.leave(&mut self.fleet).await.unwrap_or(false) {
            return self.end_own(&last);
        }
        self.queue.push(self.identity.ended(&last, None, self.end_of(&last)));
    }

    /// Ends the series of this instance itself: nobody goes on with them.
    fn end_own(&self, last: &Round) {
        let at_ms = self.end_of(last);
        let mut own = self.identity.collect(at_ms);
        self.exporter.own().iter().for_each(|figures| own.take(figures));
        self.queue.push(self.identity.ended(&own.finish(), None, at_ms));
    }

    /// After the last sample, and before the next of whoever may go on.
    fn end_of(&self, last: &Round) -> u64 {
        self.fleet.now().clamp(last.at_ms + 1, last.at_ms + self.interval_ms.max(2) - 1)
    }
}

/// What became of a round.
enum Course {
    /// None is due yet.
    Early,
    /// It was made, and this is its moment.
    Made(u64),
    /// At this moment this instance makes it.
    Waits(u64, String),
}
