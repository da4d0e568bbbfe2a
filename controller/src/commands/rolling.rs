//! Rolling runs: drives one from wave to wave, until all hosts are reached or it must stop.

use std::{collections::BTreeMap, time::Duration};

use protocol::{
    limits,
    name::{HostName, Namespace},
    outcome::State,
    rollout::Waves,
};
use serde_json::json;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use super::watch::{self, Live, Watched};
use crate::{
    cli::{settings::Settings, waves::Waves as Flags},
    client::{
        Course, Error, Field, Filter, Fleet, Host, HostResult, Origin, Outlook, Request, Rollout, Signer, by_reason,
    },
    output::{
        Exit, Printer, events,
        explain::explain,
        fold, moments,
        results::View,
        style,
        summary::{counts, hosts},
    },
};

/// How often the driver of a run says that it lives.
const BEAT: Duration = Duration::from_secs(3);

/// In this time a host has read its figures anew, unless its `sample_interval` is longer than twice the default.
const SAMPLED: Duration = Duration::from_secs(20);

/// A request that is to reach its hosts in waves.
pub struct Rolling<'a> {
    /// What runs, and where.
    pub request: &'a Request,
    /// How it goes from host to host.
    pub waves: &'a Waves,
    /// Where the run comes from.
    pub origin: Origin,
    /// What is printed meanwhile.
    pub live: Live,
    /// Whether it is a part of something greater, which says how to go on.
    pub is_part: bool,
    /// Signs the plan, and each wave.
    pub signer: &'a Signer,
}

/// What a run has come to.
pub struct Ran {
    /// How it went on the hosts that were sent something.
    pub results: Vec<HostResult>,
    /// Hosts that were offline, and sent nothing.
    pub offline: Vec<HostName>,
    /// How it ended.
    pub end: End,
    /// Whether a command may still run.
    pub is_open: bool,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All hosts were reached.
    Reached,
    /// More have failed than may, or it was aborted by what hosts report.
    Stopped,
    /// It was interrupted, or cannot go on from here.
    Broken,
    /// Redis has lost its record: it cannot be resumed.
    Lost,
}

impl Ran {
    /// How many hosts have not succeeded, of those that were reached.
    pub fn failures(&self) -> usize {
        self.offline.len() + self.results.iter().filter(|result| result.state != State::Succeeded).count()
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        let is_cut_off = matches!(self.end, End::Broken | End::Lost);
        if self.results.is_empty() && self.offline.is_empty() && is_cut_off {
            return Exit::NotSent;
        }
        let exit = Exit::of(self.results.iter().map(|result| result.state));
        exit.with_left_out(self.end != End::Reached || !self.offline.is_empty())
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

/// What a run will do, and how bad it can get: `30 hosts in 7 waves, 1 first, then 5 at a time; …: at most 8 can fail`.
pub fn foretell(outlook: &Outlook, waves: &Waves) -> String {
    let (failed, in_flight) = outlook.worst_case();
    let total = outlook.total();
    let sizes = match (outlook.canary(), outlook.batch()) {
        (0, batch) => format!("{batch} at a time"),
        (canary, _) if canary == total => format!("{canary} at once"),
        (canary, batch) => format!("{canary} first, then {batch} at a time"),
    };
    let in_waves = match outlook.count() {
        1 => "1 wave".to_owned(),
        count => format!("{count} waves"),
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

/// The waves for so many hosts, if any are asked for. Prints what they will do.
///
/// # Errors
/// What only waves can have is asked for without any.
pub fn asked_for(flags: &Flags, total: usize, printer: &Printer) -> anyhow::Result<Option<Waves>> {
    let waves = flags.asks()?.then(|| flags.of(total));
    if let Some(waves) = &waves {
        printer.note(&foretell(&Outlook::of(total, waves), waves));
    }
    Ok(waves)
}

/// How long a run may take, if each host takes so long at most.
pub fn longest(outlook: &Outlook, waves: &Waves, each: Duration) -> Duration {
    let count = u32::try_from(outlook.count()).unwrap_or(u32::MAX);
    (each + Duration::from_millis(waves.wait_ms)).saturating_mul(count).min(limits::TIMEOUT_MAX)
}

/// Runs a request on its hosts in waves, and prints the results of each.
///
/// # Errors
/// Nothing was sent, and no run was begun.
pub async fn roll(
    rolling: &Rolling<'_>,
    fleet: &mut Fleet,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<Ran> {
    let Rolling { request, waves, origin, .. } = *rolling;
    let abort_if: Option<Filter> = waves.abort_if.as_deref().map(str::parse).transpose()?;
    let interrupt = signal(SignalKind::interrupt())?;
    let mut rollout = fleet.begin_rollout(request, waves.clone(), origin, rolling.signer).await?;
    let course = Course::new(rollout.targets().hosts().cloned(), waves);
    if course.outlook().count() > 1 && !rolling.is_part {
        printer.note(&format!("should this end early: ctl job resume {}", rollout.id().short()));
    }
    let _heart = Heart::beat(settings, fleet.namespace().cloned(), rollout.clone());
    printer.begin_document();
    let ran = Ran { results: Vec::new(), offline: Vec::new(), end: End::Reached, is_open: false };
    let mut drive = Drive { rolling, fleet, printer, course, interrupt, settled: Instant::now(), ran };
    let stop = drive.go_on(&mut rollout, abort_if.as_ref()).await;
    drive.ran.end = match &stop {
        None => End::Reached,
        Some(Stop::Failures | Stop::Aborted(_)) => End::Stopped,
        Some(Stop::Error(Error::UnknownJob(_))) => End::Lost,
        Some(Stop::Interrupted | Stop::Error(_)) => End::Broken,
    };
    drive.conclude(&rollout, stop).await;
    Ok(drive.ran)
}

/// Drives a run.
struct Drive<'a> {
    rolling: &'a Rolling<'a>,
    fleet: &'a mut Fleet,
    printer: &'a Printer,
    course: Course,
    interrupt: Signal,
    /// Since when heartbeats can be relied on.
    settled: Instant,
    ran: Ran,
}

impl Drive<'_> {
    /// Reaches all hosts, or returns why not.
    async fn go_on(&mut self, rollout: &mut Rollout, abort_if: Option<&Filter>) -> Option<Stop> {
        let total = self.course.outlook().count();
        loop {
            if self.course.has_overrun() || self.course.unreached().len() == 0 {
                return (self.course.unreached().len() > 0).then_some(Stop::Failures);
            }
            if self.course.begun() > 0
                && let Some(stop) = self.pause(abort_if).await
            {
                return Some(stop);
            }
            if let Some(stop) = self.settle().await {
                return Some(stop);
            }

            let wave = self.course.begin().unwrap_or_default();
            if total > 1 {
                let names: Vec<_> = wave.iter().collect();
                let number = self.course.begun();
                self.printer.note(&format!("wave {number} of {total}: {}", fold::names(&names)));
            }
            if let Some(stop) = self.wave(rollout, wave).await {
                return Some(stop);
            }
        }
    }

    /// Waits before the next wave, and looks at the hosts that were reached. Returns why there is no next one.
    async fn pause(&mut self, abort_if: Option<&Filter>) -> Option<Stop> {
        let mut pause = Duration::from_millis(self.rolling.waves.wait_ms);
        if abort_if.is_some_and(|filter| filter.fields().into_iter().any(Field::is_live)) {
            // Older figures are those from before the wave.
            pause = pause.max(SAMPLED);
        }
        tokio::select! {
            biased;
            Some(()) = self.interrupt.recv() => return Some(Stop::Interrupted),
            () = sleep(pause) => {}
        }
        let abort_if = abort_if?;
        if let Some(stop) = self.settle().await {
            return Some(stop);
        }
        match self.aborts(abort_if).await {
            Ok(None) => None,
            Ok(Some(reason)) => Some(Stop::Aborted(reason)),
            Err(error) => Some(Stop::Error(error)),
        }
    }

    /// Waits until Redis replies, and living hosts can have sent it a heartbeat. Returns why that does not come.
    async fn settle(&mut self) -> Option<Stop> {
        let waits = async {
            if self.fleet.ready().await? {
                self.settled = Instant::now() + limits::OFFLINE_AFTER;
            }
            sleep_until(self.settled).await;
            Ok::<(), Error>(())
        };
        tokio::select! {
            biased;
            Some(()) = self.interrupt.recv() => Some(Stop::Interrupted),
            waited = waits => waited.err().map(Stop::Error),
        }
    }

    /// Sends a wave, and prints its results. Hosts that are offline are sent nothing: what would wait for them could run long
    /// after the run has stopped. Returns why the run ends with it.
    async fn wave(&mut self, rollout: &mut Rollout, wave: Vec<HostName>) -> Option<Stop> {
        let printer = self.printer;
        let found = match self.fleet.hosts(&wave).await {
            Ok(found) => found,
            Err(error) => return Some(self.not_sent(wave, error)),
        };
        let now = self.fleet.now();
        let (online, offline): (Vec<Host>, Vec<Host>) = found.into_iter().partition(|host| host.is_online(now));
        let offline: Vec<HostName> = offline.into_iter().map(|host| host.name).collect();
        let note_offline = || {
            if !offline.is_empty() {
                let names = fold::names(&offline.iter().collect::<Vec<_>>());
                printer.trouble(&format!("{names}: offline, and sent nothing: counts as failed"));
            }
        };
        if online.is_empty() {
            note_offline();
            self.course.failed(offline.len());
            self.ran.offline.extend(offline);
            return None;
        }

        let request = self.rolling.request.to(online.iter().map(|host| host.name.clone()));
        let report = |event| events::note_dispatch(&event, printer);
        let job = match self.fleet.begin_wave(rollout, request, self.rolling.signer, report).await {
            Ok(job) => job,
            Err(error) => return Some(self.not_sent(wave, error)),
        };
        note_offline();
        self.course.failed(offline.len());
        self.ran.offline.extend(offline);
        let job = match self.fleet.send_wave(job, report).await {
            Ok(job) => job,
            Err(error) => {
                let names: Vec<_> = online.iter().map(|host| &host.name).collect();
                printer.trouble(&format!("{}: may have been sent the command", fold::names(&names)));
                self.ran.results.extend(online.iter().map(|host| HostResult::new(host.name.clone())));
                self.ran.is_open = true;
                return Some(Stop::Error(error));
            }
        };
        let mut follower = watch::follower(&job, &online, false, self.fleet.now(), printer);
        follower.leave_silent();
        let view = View::of(&job);
        let watched = watch::watch_as(view, self.fleet, &job, &mut follower, printer, self.rolling.live).await;

        self.settled = follower.heartbeats_from().into();
        let results: Vec<HostResult> = follower.results().cloned().collect();
        self.course.failed(results.iter().filter(|result| result.state != State::Succeeded).count());
        self.ran.is_open |= results.iter().any(|result| !result.has_ended() && result.state != State::Expired);
        self.ran.results.extend(results);
        match watched {
            Ok(Watched::ToTheEnd(_)) => None,
            Ok(Watched::Left(_)) => Some(Stop::Interrupted),
            Err(error) => {
                printer.error(&explain(&error));
                Some(Stop::Interrupted)
            }
        }
    }

    /// The run ends before this wave.
    fn not_sent(&mut self, wave: Vec<HostName>, error: Error) -> Stop {
        self.course.put_back(wave);
        Stop::Error(error)
    }

    /// Why the run is to be stopped by what is known of the hosts on which it has succeeded.
    async fn aborts(&mut self, abort_if: &Filter) -> Result<Option<String>, Error> {
        let good = self.ran.results.iter().filter(|result| result.state == State::Succeeded);
        let good: Vec<_> = good.map(|result| result.host.clone()).collect();
        let (holds, unknown) = self.fleet.judge(&good, abort_if, &|_, _| None).await?;
        let text = abort_if.text();
        if !holds.is_empty() {
            let names = fold::names(&holds.iter().collect::<Vec<_>>());
            return Ok(Some(format!("{text} holds for {names}")));
        }
        let reasons = by_reason(&unknown);
        Ok(reasons
            .first_key_value()
            .map(|(reason, names)| format!("whether {text} holds for {} is not known: {reason}", fold::names(names))))
    }

    /// Says how the run has ended, and records it.
    async fn conclude(&mut self, rollout: &Rollout, stop: Option<Stop>) {
        let printer = self.printer;
        let reason = stop.as_ref().map(|stop| match stop {
            Stop::Failures => match (self.course.failures(), self.rolling.waves.max_fail) {
                (failed, 0) => format!("{failed} failed"),
                (failed, most) => format!("{failed} failed, more than the {most} that may"),
            },
            Stop::Aborted(reason) => style::plain(reason),
            Stop::Interrupted => "interrupted".to_owned(),
            Stop::Error(Error::RolloutClosed(_)) => "somebody has taken it over, or cancelled a wave of it".to_owned(),
            Stop::Error(Error::UnknownJob(_)) => "Redis has lost the record of the run".to_owned(),
            Stop::Error(error) => style::plain(&error.to_string()),
        });
        // Where it cannot be recorded, the claimed waves say enough.
        let is_error = matches!(stop, Some(Stop::Error(_)));
        if !is_error {
            let how = reason.as_deref().unwrap_or("all hosts were reached");
            if let Ok(false) = self.fleet.end_rollout(rollout, how).await {
                printer.trouble("somebody has taken the run over, or cancelled a wave of it");
                self.ran.end = End::Broken;
            }
        }

        let (results, offline) = (&self.ran.results, &self.ran.offline);
        let unreached: Vec<_> = self.course.unreached().collect();
        let mut states = BTreeMap::new();
        for result in results {
            *states.entry(result.state).or_default() += 1;
        }
        let total = rollout.targets().len();
        if let Some(Stop::Error(error)) = stop
            && !matches!(error, Error::RolloutClosed(_) | Error::UnknownJob(_))
        {
            printer.error(&explain(&error.into()));
        }
        if let Some(reason) = &reason {
            let (begun, count) = (self.course.begun(), self.course.outlook().count());
            printer.trouble(&format!("stopped after wave {begun} of {count}: {reason}"));
        }
        if !unreached.is_empty() {
            printer.trouble(&format!("not reached: {}", fold::names(&unreached)));
        }
        if self.course.outlook().count() > 1 || reason.is_some() {
            let reached = (!states.is_empty()).then(|| counts(&states));
            let offline = (!offline.is_empty()).then(|| format!("{} offline", offline.len()));
            let left = (!unreached.is_empty()).then(|| format!("{} not reached", unreached.len()));
            let parts: Vec<_> = reached.into_iter().chain(offline).chain(left).collect();
            printer.note(&format!("{}: {}", hosts(total), parts.join(", ")));
        }
        let is_whole = unreached.is_empty() && self.ran.failures() == 0;
        if !is_whole && !self.rolling.is_part {
            let short = rollout.id().short();
            printer.note(&match self.ran.end {
                End::Lost => {
                    "it cannot be resumed; give its command again, for the hosts that were not reached".to_owned()
                }
                _ => format!("to go on with the hosts on which it has not succeeded: ctl job resume {short}"),
            });
        }
        let whole = json!({
            "rollout": rollout.id(),
            "stopped": reason,
            "offline": offline,
            "not_reached": unreached,
            "summary": { "hosts": total, "states": states },
        });
        let written = printer.end_document("waves", whole);
        printer.report_loss(written, || format!("the results of each wave: ctl job list; {}", rollout.id()));
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
                sleep(BEAT).await;
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
