//! What waits for the receiver: a bounded number of samples, of which the newest win.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::batch::Batch;

/// Bytes that wait at most, whatever the number of samples.
const BYTES: usize = 64 * 1024 * 1024;

/// Batches in the order of their moments.
#[derive(Debug)]
pub struct Queue {
    most: usize,
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<Arc<Batch>>,
    samples: usize,
    bytes: usize,
    /// Samples of the batch that was taken last: it is being sent.
    taken: usize,
    /// Samples that were dropped or refused.
    lost: u64,
    is_closed: bool,
}

impl Queue {
    /// For so many samples.
    pub fn new(most: usize) -> Self {
        Self { most, waiting: Mutex::default(), changed: Notify::new() }
    }

    /// Adds batches. Where there are too many, the oldest are dropped; returns how many samples these had, if they are the
    /// first that were lost.
    pub fn push(&self, batches: impl IntoIterator<Item = Arc<Batch>>) -> Option<usize> {
        let mut waiting = self.lock();
        let mut dropped = 0;
        for batch in batches {
            waiting.samples += batch.samples;
            waiting.bytes += batch.bytes();
            waiting.batches.push_back(batch);
            while waiting.batches.len() > 1 && (waiting.samples > self.most || waiting.bytes > BYTES) {
                dropped += waiting.pop().map_or(0, |batch| batch.samples);
            }
        }
        let is_first = waiting.lost == 0 && dropped > 0;
        waiting.lost += dropped as u64;
        drop(waiting);
        self.changed.notify_one();
        is_first.then_some(dropped)
    }

    /// Counts samples as lost.
    pub fn lose(&self, samples: usize) {
        self.lock().lost += samples as u64;
    }

    /// How many samples were lost since this was asked last.
    pub fn take_lost(&self) -> u64 {
        std::mem::take(&mut self.lock().lost)
    }

    /// Whether none waits, but some were lost.
    pub fn has_recovered(&self) -> bool {
        let waiting = self.lock();
        waiting.samples == 0 && waiting.lost > 0
    }

    /// The oldest batch; waits until there is one. `None`: there comes none any more.
    pub async fn next(&self) -> Option<Arc<Batch>> {
        loop {
            {
                let mut waiting = self.lock();
                let batch = waiting.pop();
                waiting.taken = batch.as_ref().map_or(0, |batch| batch.samples);
                if let Some(batch) = batch {
                    return Some(batch);
                }
                if waiting.is_closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    /// Says that no batch comes any more.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// Returns when no batch comes any more. There is one who takes batches, and only they may ask.
    pub async fn closed(&self) {
        while !self.is_closed() {
            self.changed.notified().await;
        }
    }

    /// Whether no batch comes any more.
    pub fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// How many samples wait or are being sent.
    pub fn samples(&self) -> usize {
        let waiting = self.lock();
        waiting.samples + waiting.taken
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No code that holds the lock can panic half-way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn pop(&mut self) -> Option<Arc<Batch>> {
        let batch = self.batches.pop_front()?;
        self.samples -= batch.samples;
        self.bytes -= batch.bytes();
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::{
        exporter::samples::{self, Sample},
        remote_write::batch::Identity,
    };

    /// A batch of so many samples.
    fn batch(samples: usize) -> Arc<Batch> {
        let identity = Identity::default();
        let mut collector = identity.collect(1);
        let samples = (0..samples).map(|at| Sample::labelled("host", &at.to_string(), 1.0)).collect();
        collector.take(&samples::Batch { family: &samples::HOST_UP, samples });
        collector.finish().batches.remove(0)
    }

    #[tokio::test]
    async fn the_newest_win() {
        let queue = Queue::new(10);
        assert_eq!(queue.push([batch(4), batch(5)]), None);
        assert_eq!(queue.push([batch(3), batch(2)]), Some(4));
        assert_eq!(queue.samples(), 10);
        // A batch that is too large for the queue goes all the same.
        assert_eq!(queue.push([batch(11)]), None);
        assert_eq!((queue.take_lost(), queue.take_lost()), (14, 0));
        queue.close();
        assert_eq!(queue.next().await.map(|batch| batch.samples), Some(11));
        assert!(queue.next().await.is_none());
        assert_eq!(queue.samples(), 0);
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let queue = Queue::new(10);
        let (first, ()) = tokio::join!(queue.next(), async { assert!(queue.push([batch(1)]).is_none()) });
        assert_eq!(first.map(|batch| batch.samples), Some(1));
        tokio::join!(queue.closed(), async { queue.close() });
        assert!(queue.next().await.is_none());
    }
}
