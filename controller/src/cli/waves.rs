//! The flags of a rolling run.

use std::time::Duration;

use clap::{ArgGroup, Args};
use protocol::{clock::millis, limits, rollout};

use super::durations::up_to;
use crate::{
    client::{Budget, Filter, Limit},
    output::Advice,
};

/// How a run goes from host to host.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Rolling runs")]
#[command(group = ArgGroup::new("waves").args(["batch", "canary"]).multiple(true))]
pub struct Waves {
    /// So many hosts at a time, or this share of them (10%, rounded up); the next ones follow once these have ended
    #[arg(long, value_name = "N|N%")]
    pub batch: Option<Limit>,
    /// So many hosts first, alone
    #[arg(long, value_name = "N|N%")]
    pub canary: Option<Limit>,
    /// How long to wait between one wave and the next
    #[arg(long, value_name = "DURATION", value_parser = up_to(limits::START_BY_MAX))]
    pub batch_wait: Option<Duration>,
    /// Stop once more hosts than this have failed, or this share of all (5%, rounded down); hosts that are offline
    /// or have not answered count [default: 0]
    #[arg(long, value_name = "N|N%")]
    pub max_fail: Option<Budget>,
    /// Stop at the first failure: --max-fail 0
    #[arg(long, conflicts_with = "max_fail")]
    pub fail_fast: bool,
    /// Stop before the next wave if this holds for a host on which it has succeeded, or is not known of one, such as
    /// 'cpu.usage > 90'; figures are waited for until they are from after the wave (20s)
    #[arg(long, value_name = "EXPR")]
    pub abort_if: Option<Filter>,
}

impl Waves {
    /// Whether the hosts are reached in waves at all.
    pub const fn is_rolling(&self) -> bool {
        self.batch.is_some() || self.canary.is_some()
    }

    /// Whether waves are asked for, of a run that had none.
    ///
    /// # Errors
    /// What only waves can have is asked for without any.
    pub fn asks(&self) -> anyhow::Result<bool> {
        let others = [
            ("--batch-wait", self.batch_wait.is_some()),
            ("--max-fail", self.max_fail.is_some()),
            ("--fail-fast", self.fail_fast),
            ("--abort-if", self.abort_if.is_some()),
        ];
        match others.into_iter().find(|(_, is_given)| *is_given && !self.is_rolling()) {
            Some((flag, _)) => {
                let alone = Advice::new(format!("nothing was sent: {flag} is for hosts that are reached in waves"));
                Err(alone
                    .hint("say how many at a time, such as --batch 10%, or how many first, such as --canary 1")
                    .into())
            }
            None => Ok(self.is_rolling()),
        }
    }

    /// The waves for so many hosts.
    pub fn of(&self, total: usize) -> rollout::Waves {
        let share = |limit: Option<Limit>| limit.map(|limit| limit.of(total) as u64);
        rollout::Waves {
            canary: share(self.canary).unwrap_or(0),
            batch: share(self.batch).unwrap_or(total as u64),
            wait_ms: self.batch_wait.map_or(0, millis),
            max_fail: self.max_fail.map_or(0, |budget| budget.of(total) as u64),
            abort_if: self.abort_if.as_ref().map(|filter| filter.text().to_owned()),
        }
    }

    /// The waves that another run had, but for what is given here.
    pub fn over(&self, total: usize, prior: &rollout::Waves) -> rollout::Waves {
        let given = self.of(total);
        rollout::Waves {
            canary: if self.canary.is_some() { given.canary } else { prior.canary },
            batch: if self.batch.is_some() { given.batch } else { prior.batch },
            wait_ms: if self.batch_wait.is_some() { given.wait_ms } else { prior.wait_ms },
            max_fail: if self.max_fail.is_some() || self.fail_fast { given.max_fail } else { prior.max_fail },
            abort_if: given.abort_if.or_else(|| prior.abort_if.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waves(batch: &str, max_fail: &str) -> Waves {
        Waves { batch: batch.parse().ok(), max_fail: max_fail.parse().ok(), ..Waves::default() }
    }

    #[test]
    fn shares_become_numbers() {
        let of = |waves: Waves, total| {
            let waves = waves.of(total);
            (waves.canary, waves.batch, waves.max_fail)
        };
        assert_eq!(of(waves("10%", "5%"), 30), (0, 3, 1));
        assert_eq!(of(waves("10%", "5%"), 3), (0, 1, 0));
        let canary = Waves { canary: "1".parse().ok(), ..Waves::default() };
        assert_eq!(of(canary, 30), (1, 30, 0));
    }

    #[test]
    fn what_is_given_replaces_what_was() {
        let prior = waves("5", "3").of(30);
        let over = |waves: &Waves| waves.over(7, &prior);
        assert_eq!(over(&Waves::default()), prior);
        let given = over(&waves("50%", ""));
        assert_eq!((given.batch, given.max_fail), (4, 3));
        let canary = over(&Waves { canary: "1".parse().ok(), ..Waves::default() });
        assert_eq!((canary.canary, canary.batch), (1, 5), "the others stay as many at a time as they were");
        assert!(Waves { fail_fast: true, ..Waves::default() }.asks().is_err());
        assert_eq!(over(&Waves { fail_fast: true, ..Waves::default() }).max_fail, 0);
    }
}
