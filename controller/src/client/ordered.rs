//! Runs of a paused schedule that something else than its times asks for, such as an alert: nobody who could sign is there, so
//! the standing order of the schedule vouches for them, and each host judges them like any other run.
//!
//! A run belongs to one of the schedule's times: the newest one. So there is one run for each time at most, and whoever asks
//! twice finds the run that is there.

use protocol::{
    name::{HostName, JobId, ScheduleName},
    targets::Targets,
    time::Millis,
};

use super::{error::Error, fleet::Fleet};

/// Times that are looked at: those behind the moment at which something has asked.
const LOOKED_AT: usize = 1000;

/// What has become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ordered {
    /// It is sent, or was sent already.
    Sent(JobId),
    /// Not now, for this reason; perhaps later.
    NotYet(String),
    /// It cannot be, for this reason.
    Never(String),
}

impl Fleet {
    /// Runs the order of a paused schedule on these hosts, as far as it means them. `asked_ms`: when that was asked for. To call
    /// it again with the same moment is harmless.
    ///
    /// # Errors
    /// There is no such schedule, it is damaged, or an error of Redis.
    pub async fn run_ordered(
        &mut self,
        name: &ScheduleName,
        hosts: &[HostName],
        asked_ms: Millis,
    ) -> Result<Ordered, Error> {
        let scheduled = self.schedule(name).await?;
        let (order, standing) = (scheduled.order(), &scheduled.standing);
        if scheduled.paused.is_none() {
            return Ok(Ordered::NotYet(format!("it also runs at its times: ctl schedule pause {name}")));
        }
        let meant = self.selected_hosts(&order.selector).await?;
        let hosts: Vec<_> = hosts.iter().filter(|host| meant.contains(host)).cloned().collect();
        if hosts.is_empty() {
            return Ok(Ordered::Never(format!("the order of {name} means none of the hosts")));
        }
        let times = match order.schedule.times() {
            Ok(times) => times,
            Err(error) => return Ok(Ordered::Never(error.to_string())),
        };

        let now = self.now();
        let is_valid = |instant: &Millis| (order.issued_at_ms..=order.valid_until_ms).contains(instant);
        let from = asked_ms.min(now).saturating_sub(order.start_within_ms);
        let past = times.after(from).take_while(|instant| *instant <= now).filter(is_valid).take(LOOKED_AT);
        let mut free = None;
        for instant in past {
            let targets = Targets::new(hosts.iter().cloned());
            let id = standing.run(instant, 0, targets.root()).job;
            free = match self.job_if_any(id).await {
                Ok(None) => Some(instant),
                Ok(Some(job)) if hosts.iter().all(|host| job.targets().hosts().any(|known| known == host)) => {
                    // Sent again: whoever recorded it may have ended before the hosts had it.
                    self.send_out(job, |_| ()).await?;
                    return Ok(Ordered::Sent(id));
                }
                Ok(Some(_)) => None,
                // It was withdrawn, or its record is damaged.
                Err(error) if error.is_of_record() => None,
                Err(error) => return Err(error),
            };
        }
        match free {
            Some(instant) if now <= instant.saturating_add(order.start_within_ms) => {
                match self.record_run(standing, instant, 0, hosts).await? {
                    Ok(job) => Ok(Ordered::Sent(self.send_out(job, |_| ()).await?.id())),
                    Err(_) => Ok(Ordered::NotYet(format!("another instance runs {name} just now"))),
                }
            }
            _ if now > order.valid_until_ms => Ok(Ordered::Never(format!("the standing order of {name} has ended"))),
            _ => Ok(Ordered::NotYet(format!("{name} may run once at each of its times, and the next has not come"))),
        }
    }
}
