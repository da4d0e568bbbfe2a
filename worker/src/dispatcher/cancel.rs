//! Orders to cancel.

use std::sync::Arc;

use protocol::{
    action::Repeat,
    command::EntryError,
    control::{CancelOrder, Control},
    outcome::{Outcome, State},
};

use super::{CANCELLED_MOST, Dispatcher, FORGOTTEN, decisions::Cancelled};
use crate::{
    admission::{self, BEFORE_START, Disobeyed},
    delivery::{Asker, ControlEntry, Delivery},
    executor::Stop,
    log::{self, excerpt, with_sources},
    publisher::{Notice, Write},
};

impl Dispatcher {
    /// Handles an entry of the control stream.
    pub(super) fn control(&mut self, entry: ControlEntry, control: Result<Control, EntryError>) {
        let order = control.map_err(Disobeyed::from).and_then(|control| match control {
            Control::Wake => Ok(None),
            Control::Cancel(order) => {
                let trusted = self.trusted.borrow();
                let now = self.clock.now();
                admission::judge_order(&order, &self.identity, &trusted, &self.config.policy, now).map(Some)
            }
        });
        match order {
            Ok(Some((order, asker))) => return self.cancel(entry, &order, asker),
            Ok(None) => {}
            Err(error) => {
                self.disobeyed(&entry.id, &error);
                let is_first = self.drops(error.reason());
                if is_first {
                    let error = excerpt(&with_sources(&error), log::SENTENCE);
                    tracing::warn!(entry = entry.id, "dropped a control entry: {error}");
                }
                // Whoever is trusted is told why. Of the orders of others there may be a flood.
                if let Disobeyed::Refused { order, asker, reason } = error
                    && (is_first || asker.principal.is_some())
                {
                    self.write(Write::CancelRefused { job: order.job, asker, reason });
                }
            }
        }
        self.write(Write::AcknowledgeControl(entry));
    }

    /// Whether the operator may run something that an order to cancel can keep from running, or may cancel any job. The
    /// orders of others are not remembered: they could name jobs that nobody has sent, until there is no more room.
    fn may_change_the_host(&self, operator: &str) -> bool {
        let policy = &self.config.policy;
        let mut once = self.catalogue.specs().filter(|spec| spec.repeat == Repeat::Once);
        policy.may_cancel(operator) || once.any(|spec| policy.may_ask(operator, spec))
    }

    /// Ends older runs of a schedule whose standing order says so: they run or wait, and a newer one has come.
    pub(super) fn end_prior_runs(&mut self, newer: &Delivery) {
        let Some(asker) = newer.asker.as_deref().filter(|asker| asker.ends_prior) else { return };
        let is_prior = |delivery: &Delivery| {
            let is_older = delivery.job.issued_at_ms() < newer.job.issued_at_ms();
            is_older && delivery.asker.as_deref().is_some_and(|prior| prior.is_of_schedule(asker))
        };
        for running in self.running.values().filter(|running| is_prior(&running.delivery)) {
            running.span.in_scope(|| tracing::info!("is being cancelled: the next run of its schedule has come"));
            running.stop.send_replace(Some(Stop::Cancelled));
        }
        while let Some((claim, waiting)) = self.schedule.take(|waiting| is_prior(&waiting.delivery)) {
            self.start_or_refuse(claim, waiting, true);
        }
    }

    /// Ends the job's command, or makes sure that it never starts. A command that has not been read is published as
    /// cancelled, too. The order is acknowledged once it is on disk. Until then it stays pending in Redis and is read
    /// again from time to time and at every start.
    fn cancel(&mut self, entry: ControlEntry, order: &CancelOrder, asker: Arc<Asker>) {
        let (job, manifest, now) = (order.job, order.manifest, self.clock.now());
        // A command that was delivered to a prior process may have begun: it is judged when it is read.
        let unread = !self.more_prior && !self.pending.has_job(job);
        let waiting = self.schedule.take(|waiting| waiting.delivery.job == job);
        let room = self.cancelled.len() < CANCELLED_MOST || self.cancelled.contains_key(&job);
        let room = room && self.may_change_the_host(&order.operator);
        let running = self.running.contains_key(&job);
        // The journal gets the request before whatever begins later.
        let recorded = (running || room).then(|| self.journal.cancel(job, now));
        let cancelled = match &waiting {
            _ if running => Cancelled::Running,
            Some(_) => Cancelled::Waiting,
            None if room => Cancelled::Remembered,
            None => Cancelled::Forgotten,
        };
        self.ordered(&entry.id, order, &asker, cancelled);
        let at_work = self.running.get(&job).map(|running| &running.delivery);
        if let Some(delivery) = at_work.or(waiting.as_ref().map(|(_, waiting)| &waiting.delivery)) {
            self.write(Write::CancelOrdered { delivery: delivery.clone(), asker: Arc::clone(&asker) });
        }
        if let Some(running) = self.running.get(&job) {
            running.span.in_scope(|| tracing::info!("is being cancelled"));
            running.stop.send_replace(Some(Stop::Cancelled));
        } else if room {
            self.cancelled.insert(job, now);
        }
        if let Some((claim, waiting)) = waiting {
            self.start_or_refuse(claim, waiting, true);
        }
        self.wake_reader();

        let Some(recorded) = recorded else {
            if self.drops(FORGOTTEN) {
                tracing::warn!(%job, "dropped an order to cancel: {CANCELLED_MOST} are remembered, and no more can be");
            }
            return self.write(Write::AcknowledgeControl(entry));
        };
        let (writes, notices) = (self.writes.clone(), self.notices.clone());
        tokio::spawn(async move {
            let Some(never_began) = recorded.await else {
                let _ = notices.send(Notice::Unrecorded(job));
                return;
            };
            if unread && never_began {
                // If the command ended long ago, its outcome stays: a terminal state never changes.
                let outcome = Box::new(Outcome::bare(State::Cancelled, Some(BEFORE_START.into()), now));
                let _ = writes.send(Write::Cancelled { job, manifest, outcome, asker });
            }
            let _ = writes.send(Write::AcknowledgeControl(entry));
        });
    }
}
