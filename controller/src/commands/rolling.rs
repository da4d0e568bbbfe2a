//! Rolling runs: drives one from wave to wave, until all hosts are reached or it must stop.

use std::{collections::BTreeMap, future::Future, pin::pin, time::Duration};

use protocol::{
    name::{HostName, Namespace},
    outcome::State,
    rollout::Waves,
};
use serde_json::json;
use tokio::task::JoinHandle;

use super::watch::{self, Live, Watched};
use crate::{
    cli::settings::Settings,
    client::{Course, Error, Filter, Fleet, Host, Request, Rollout, Signer, by_reason},
    output::{
        Exit, Printer, events,
        explain::explain,
        fold, moments,
        summary::{counts, hosts},
    },
};

/// How often the driver of a run says that it lives.
const BEAT: Duration = Duration::from_secs(3);

/// What a run has come to.
pub struct Ran {
    /// The state of each host that was reached; of one that was offline, [`State::Queued`].
    pub states: Vec<State>,
    /// Whether hosts were not reached.
    pub stopped: bool,
    /// Whether a command may still run.
    pub is_open: bool,
}

impl Ran {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        Exit::of(self.states.iter().copied()).with_left_out(self.stopped)
    }
}

/// Why a run ends before all hosts are reached.
enum Stop {
    /// More hosts have failed than may.
    Failures,
    /// It was to be stopped if that held.
    Aborted(String),
    /// Ctrl-C.
    Interrupted,
    /// Redis does not reply, or somebody else goes on with the run.
    Error(Error),
}

/// What a run will do, and how bad it can get: `30 hosts in 7 waves: 1 first, then 5 at a time; at most 8 can fail …`.
pub fn foretell(total: usize, waves: &Waves) -> String {
    // What the hosts are called does not matter here.
    let names = (0..total).filter_map(|number| format!("host{number}").parse().ok());
    let course = Course::new(names, waves);
    let (failed, in_flight) = course.worst_case();
    let count = course.count();
    let in_waves = if count == 1 { "1 wave".to_owned() } else { format!("{count} waves") };
    let sizes = match (waves.canary, usize::try_from(waves.batch).unwrap_or(usize::MAX).min(total)) {
        (0, batch) => format!("{batch} at a time"),
        (canary, batch) => format!("{canary} first, then {batch} at a time"),
    };
    let wait = match waves.wait_ms {
        0 => String::new(),
        wait => format!(", {} apart", moments::span(Duration::from_millis(wait))),
    };
    let stops = match waves.max_fail {
        0 => "stops at the first failure".to_owned(),
        most => format!("stops once more than {most} have failed"),
    };
    let worst = format!("at most {} can fail ({failed} + {in_flight} in flight)", failed + in_flight);
    format!("{} in {in_waves}, {sizes}{wait}; it {stops}: {worst}", hosts(total))
}

/// A request that is to reach its hosts in waves.
pub struct Rolling<'a> {
    /// What runs, and where.
    pub request: &'a Request,
    /// How it goes from host to host.
    pub waves: &'a Waves,
    /// The run whose remaining hosts these are.
    pub from: Option<&'a Rollout>,
    /// What is printed meanwhile.
    pub live: Live,
    /// Signs the plan, and each wave.
    pub signer: &'a Signer,
}

/// Runs a request on its hosts in waves, and prints the results of each.
///
/// # Errors
/// Nothing was sent.
pub async fn roll(
    rolling: &Rolling<'_>,
    fleet: &mut Fleet,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<Ran> {
    let Rolling { request, waves, from, live, signer } = *rolling;
    let mut rollout = fleet.begin_rollout(request, waves.clone(), signer).await?;
    if let Some(from) = from {
        fleet.succeed(from, &rollout).await?;
    }
    let _heart = Heart::beat(settings, fleet.namespace().cloned(), rollout.clone());
    let mut course = Course::new(rollout.targets().hosts().cloned(), waves);
    let abort_if: Option<Filter> = waves.abort_if.as_deref().map(str::parse).transpose()?;
    let mut drive =
        Drive { request, live, signer, fleet, printer, states: Vec::new(), good: Vec::new(), is_open: false };
    printer.begin_document();

    let total = course.count();
    let stop = loop {
        if course.begun() > 0 && !course.has_overrun() && course.unreached().len() > 0 {
            let pause = tokio::time::sleep(Duration::from_millis(waves.wait_ms));
            if is_interrupted(pause).await {
                break Some(Stop::Interrupted);
            }
            if let Some(abort_if) = &abort_if {
                match drive.aborts(abort_if).await {
                    Ok(None) => {}
                    Ok(Some(reason)) => break Some(Stop::Aborted(reason)),
                    Err(error) => break Some(Stop::Error(error)),
                }
            }
        }
        let Some(wave) = course.begin() else { break course.has_overrun().then_some(Stop::Failures) };
        if total > 1 {
            let names: Vec<_> = wave.iter().collect();
            printer.note(&format!("wave {} of {total}: {}", course.begun(), fold::names(&names)));
        }
        match drive.wave(&mut rollout, &wave).await? {
            Wave::Ended { failed } => course.failed(failed),
            Wave::Left(stop) => break Some(stop),
            Wave::NotSent(stop) => {
                course.put_back(wave);
                break Some(stop);
            }
        }
    };

    let Drive { states, fleet, is_open, .. } = drive;
    conclude(&rollout, &course, stop, &states, fleet, printer).await?;
    let stopped = course.unreached().len() > 0 || states.len() < rollout.targets().len();
    Ok(Ran { states, stopped, is_open })
}

/// What every wave needs.
struct Drive<'a> {
    request: &'a Request,
    live: Live,
    signer: &'a Signer,
    fleet: &'a mut Fleet,
    printer: &'a Printer,
    /// The states of the hosts that were reached.
    states: Vec<State>,
    /// Those of them that have succeeded.
    good: Vec<HostName>,
    /// A command may still run.
    is_open: bool,
}

/// How a wave went.
enum Wave {
    /// Nothing more is awaited of it.
    Ended {
        /// How many hosts have not succeeded.
        failed: usize,
    },
    /// The run stops while it may be under way.
    Left(Stop),
    /// The run stops, and its hosts were sent nothing.
    NotSent(Stop),
}

impl Drive<'_> {
    /// Sends a wave, and prints its results. Hosts that are offline are sent nothing: what would wait for them could run long
    /// after the run has stopped.
    ///
    /// # Errors
    /// Nothing was sent to any host yet.
    async fn wave(&mut self, rollout: &mut Rollout, wave: &[HostName]) -> anyhow::Result<Wave> {
        let is_first = rollout.waves().len() == 0;
        let failed = |error: Error| if is_first { Err(error.into()) } else { Ok(Wave::NotSent(Stop::Error(error))) };
        let found = match self.fleet.hosts(wave).await {
            Ok(found) => found,
            Err(error) => return failed(error),
        };
        let now = self.fleet.now();
        let (online, offline): (Vec<Host>, Vec<Host>) = found.into_iter().partition(|host| host.is_online(now));
        if !offline.is_empty() {
            let names: Vec<_> = offline.iter().map(|host| &host.name).collect();
            self.printer.trouble(&format!("{}: offline, and sent nothing: counts as failed", fold::names(&names)));
        }
        if online.is_empty() {
            self.states.extend(offline.iter().map(|_| State::Queued));
            return Ok(Wave::Ended { failed: offline.len() });
        }

        let request = self.request.to(online.iter().map(|host| host.name.clone()));
        let printer = self.printer;
        let report = |event| events::note_dispatch(&event, printer);
        let job = match self.fleet.begin_wave(rollout, request, self.signer, report).await {
            Ok(job) => job,
            Err(error) => return failed(error),
        };
        self.states.extend(offline.iter().map(|_| State::Queued));
        let job = match self.fleet.send_wave(job, report).await {
            Ok(job) => job,
            Err(error) => return Ok(Wave::Left(Stop::Error(error))),
        };
        let mut follower = watch::follower(&job, &online, false, self.fleet.now(), printer);
        let watched = watch::watch_wave(self.fleet, &job, &mut follower, printer, self.live).await?;

        let results: Vec<_> = follower.results().collect();
        self.is_open |= results.iter().any(|result| !result.has_ended() && result.state != State::Expired);
        let is_good = |state: &State| *state == State::Succeeded;
        let bad = results.iter().filter(|result| !is_good(&result.state)).count();
        self.states.extend(results.iter().map(|result| result.state));
        self.good.extend(results.iter().filter(|result| is_good(&result.state)).map(|result| result.host.clone()));
        Ok(match watched {
            Watched::ToTheEnd(_) => Wave::Ended { failed: offline.len() + bad },
            Watched::Left(_) => Wave::Left(Stop::Interrupted),
        })
    }

    /// Why the run is to be stopped by what is known of the hosts on which it has succeeded.
    async fn aborts(&mut self, abort_if: &Filter) -> Result<Option<String>, Error> {
        let (holds, unknown) = self.fleet.judge(&self.good, abort_if).await?;
        if !holds.is_empty() {
            let names = fold::names(&holds.iter().collect::<Vec<_>>());
            return Ok(Some(format!("{} holds for {names}", abort_if.text())));
        }
        let reasons = by_reason(&unknown);
        Ok(reasons.first_key_value().map(|(reason, names)| {
            format!("whether {} holds for {} is not known: {reason}", abort_if.text(), fold::names(names))
        }))
    }
}

/// Says how a run has ended, and records it.
async fn conclude(
    rollout: &Rollout,
    course: &Course,
    stop: Option<Stop>,
    states: &[State],
    fleet: &mut Fleet,
    printer: &Printer,
) -> anyhow::Result<()> {
    let reason = stop.as_ref().map(|stop| match stop {
        Stop::Failures => match (course.failures(), rollout.plan().waves.max_fail) {
            (failed, 0) => format!("{failed} failed"),
            (failed, most) => format!("{failed} failed, more than the {most} that may"),
        },
        Stop::Aborted(reason) => reason.clone(),
        Stop::Interrupted => "interrupted".to_owned(),
        Stop::Error(Error::RolloutClosed(_)) => "somebody else has resumed it".to_owned(),
        Stop::Error(error) => error.to_string(),
    });
    // Where it cannot be recorded, the claimed waves say enough.
    let is_taken = matches!(stop, Some(Stop::Error(Error::RolloutClosed(_))));
    if !is_taken && !matches!(stop, Some(Stop::Error(_))) {
        let _ = fleet.end_rollout(rollout, reason.as_deref().unwrap_or("all hosts were reached")).await;
    }

    let unreached: Vec<_> = course.unreached().collect();
    let mut by_state = BTreeMap::new();
    for state in states {
        *by_state.entry(*state).or_default() += 1;
    }
    let total = rollout.targets().len();
    printer.end_document(|waves| {
        json!({
            "rollout": rollout.id(),
            "stopped": reason,
            "waves": waves,
            "not_reached": unreached,
            "summary": { "hosts": total, "states": by_state },
        })
    })?;
    if let Some(Stop::Error(error)) = stop
        && !is_taken
    {
        printer.error(&explain(&error.into()));
    }
    if let Some(reason) = &reason {
        let count = course.count();
        printer.trouble(&format!("stopped after wave {} of {count}: {reason}", course.begun()));
    }
    if !unreached.is_empty() {
        printer.trouble(&format!("not reached: {}", fold::names(&unreached)));
    }
    let reached = if states.is_empty() { "none reached".to_owned() } else { counts(&by_state) };
    let left = if unreached.is_empty() { String::new() } else { format!(", {} not reached", unreached.len()) };
    if course.begun() > 1 || reason.is_some() {
        printer.note(&format!("{}: {reached}{left}", hosts(total)));
    }
    let is_whole = unreached.is_empty() && states.iter().all(|state| *state == State::Succeeded);
    if !is_whole && !is_taken {
        printer
            .note(&format!("to go on with the hosts on which it has not succeeded: ctl job resume {}", rollout.name()));
    }
    Ok(())
}

/// Waits, unless Ctrl-C comes.
async fn is_interrupted(pause: impl Future<Output = ()>) -> bool {
    let pause = pin!(pause);
    tokio::select! {
        () = pause => false,
        Ok(()) = tokio::signal::ctrl_c() => true,
    }
}

/// Says in Redis that the driver of a run lives, over a connection of its own: until it is dropped.
struct Heart(JoinHandle<()>);

impl Heart {
    fn beat(settings: &Settings, namespace: Option<Namespace>, rollout: Rollout) -> Self {
        let redis = settings.redis();
        Self(tokio::spawn(async move {
            let Ok(redis) = redis else { return };
            let mut fleet = None;
            loop {
                tokio::time::sleep(BEAT).await;
                if fleet.is_none() {
                    fleet = Fleet::connect(&redis, namespace.as_ref()).await.ok();
                }
                if let Some(connected) = &mut fleet
                    && connected.beat(&rollout).await.is_err()
                {
                    fleet = None;
                }
            }
        }))
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.0.abort();
    }
}
