//! Plays a playbook, step by step.
//!
//! Each step with an action is a rolling run, whose id follows from that of the playbook's run and the step's name. So all that
//! is needed to go on is the id and the file: which steps were begun, and how far they came, stands in Redis.

use std::time::{Duration, Instant};

use protocol::{
    name::{HostName, JobId},
    outcome::State,
    targets::Targets,
};
use serde_json::json;

use super::{
    super::{
        delivery::Delivery,
        deploy::source::Offer,
        proposal,
        resume::remaining,
        rolling::{End, Ran, Rolling, foretell, longest},
        secrets,
        selected::select,
        watch::Live,
    },
    file::{Call, OnFailure, Playbook, Step, Task},
    values::Results,
};
use crate::{
    cli::{deploys::Source, settings::Settings, waves::Waves},
    client::{
        Error, Field, Filter, Fleet, HostResult, Origin, Request, Rollout, Run, Signer, Standing, Standings, by_reason,
        understand,
    },
    output::{Advice, Exit, Printer, events, explain::explain, fold, style, summary::hosts},
};

/// How often a check looks.
const LOOK: Duration = Duration::from_secs(2);

/// Plays a playbook.
pub struct Player<'a> {
    playbook: &'a Playbook,
    /// The id of this run of it.
    run: JobId,
    signer: &'a Signer,
    fleet: &'a mut Fleet,
    settings: &'a Settings,
    printer: &'a Printer,
    results: Results,
    /// The states of hosts in all steps.
    states: Vec<State>,
    /// Hosts were left out of a step.
    left_out: bool,
}

/// How a step went.
enum Ended {
    /// As it should.
    Done,
    /// It was for no host.
    Skipped,
    /// It has failed on too many hosts, or what was checked does not hold.
    Failed,
    /// It was interrupted, or cannot go on from here.
    Broken,
}

impl<'a> Player<'a> {
    /// A player of this run.
    pub fn new(
        playbook: &'a Playbook,
        run: JobId,
        signer: &'a Signer,
        fleet: &'a mut Fleet,
        settings: &'a Settings,
        printer: &'a Printer,
    ) -> Self {
        let results = Results::default();
        Self { playbook, run, signer, fleet, settings, printer, results, states: Vec::new(), left_out: false }
    }

    /// Plays all steps that were not finished. `file`: how the file is typed.
    pub async fn play(mut self, file: &str) -> anyhow::Result<Exit> {
        let begun = self.begun().await?;
        self.printer.begin_document();
        let (mut failed, mut broken) = (Vec::new(), false);
        let mut played = 0;
        for (at, step) in self.playbook.steps.iter().enumerate() {
            self.printer.note(&format!("step {} of {}: {}", at + 1, self.playbook.steps.len(), step.name));
            let is_over = begun[at + 1..].iter().any(Option::is_some);
            let ended = self.step(step, begun[at].as_ref(), is_over).await;
            let ended = ended.unwrap_or_else(|error| {
                self.printer.error(&explain(&error));
                Ended::Broken
            });
            match ended {
                Ended::Done | Ended::Skipped => {}
                Ended::Failed => {
                    failed.push(step.name.as_str());
                    match step.on_failure {
                        OnFailure::Continue => self.printer.trouble(&format!("step {} failed; going on", step.name)),
                        OnFailure::Stop => break,
                        OnFailure::Rollback => {
                            self.roll_back(at).await?;
                            break;
                        }
                    }
                }
                Ended::Broken => {
                    broken = true;
                    break;
                }
            }
            played += 1;
        }
        self.conclude(played, &failed, broken, file)
    }

    /// The steps that were begun before, each with its rolling run.
    async fn begun(&mut self) -> anyhow::Result<Vec<Option<Rollout>>> {
        let mut begun = Vec::new();
        for step in &self.playbook.steps {
            if self.find(&undoing(&step.name)).await?.is_some() {
                let over = Advice::new(format!("run {} was rolled back: it cannot be gone on with", self.run));
                return Err(over.hint("begin another one: without --resume").into());
            }
            let found = self.find(&step.name).await?;
            if let Some(rollout) = &found
                && !rollout.is_signed_by(self.signer)
                && rollout.plan().operator != self.settings.operator
            {
                let by = style::plain(&rollout.plan().operator);
                self.printer.warn(&format!("step {} was begun by {by}", step.name));
            }
            begun.push(found);
        }
        Ok(begun)
    }

    async fn find(&mut self, step: &str) -> Result<Option<Rollout>, Error> {
        self.fleet.rollout_if_any(self.run.part(step)).await
    }

    /// Plays a step, or what is left of it. `is_over`: a later one was begun.
    async fn step(&mut self, step: &Step, begun: Option<&Rollout>, is_over: bool) -> anyhow::Result<Ended> {
        let call = match &step.task {
            // What held when a later step was begun need not hold any more.
            Task::Check { .. } if is_over => return Ok(Ended::Done),
            Task::Check { filter, within } => return self.check(step, filter, *within).await,
            Task::Run(call) => call,
        };
        let Some(rollout) = begun else {
            return if is_over { Ok(Ended::Skipped) } else { self.begin(step, call).await };
        };

        let (newest, standings) = self.look_back(rollout).await?;
        self.results.add(&step.name, standings.results.values().cloned());
        let left = if is_over { Vec::new() } else { remaining(&standings, &[]) };
        self.left_out |= standings.open().count() > 0;
        if left.is_empty() {
            self.states.extend(standings.results.values().map(|result| result.state));
            let succeeded = standings.at(Standing::Succeeded).count();
            self.printer.note(&format!("was done before: succeeded on {}", hosts(succeeded)));
            return Ok(Ended::Done);
        }
        let good = standings.results.values().filter(|result| result.state == State::Succeeded);
        self.states.extend(good.map(|result| result.state));
        self.run_on(step, call, left, Origin::Resumes(newest)).await
    }

    /// How a step stands that was begun before, with all runs that have gone on with it. Returns also the newest of these.
    async fn look_back(&mut self, rollout: &Rollout) -> anyhow::Result<(JobId, Standings)> {
        let mut chain = self.fleet.chain(Run::Rollout(Box::new(rollout.clone()))).await?;
        if let Run::Rollout(newest) = chain.newest() {
            let closed = self.fleet.close_rollout(newest, &self.settings.operator).await?;
            chain.renew(closed);
        }
        let printer = self.printer;
        let report = |job: &_, event, fleet: &Fleet| events::note(&event, job, fleet.now(), printer);
        let standings = self.fleet.standings(&chain, report).await?;
        Ok((chain.newest().id(), standings))
    }

    /// Begins a step on the hosts that it is for now.
    async fn begin(&mut self, step: &Step, call: &Call) -> anyhow::Result<Ended> {
        let (found, left_out) = select(&step.selection, self.fleet, self.printer).await?;
        self.left_out |= left_out;
        let mut names: Vec<HostName> = found.into_iter().map(|host| host.name).collect();
        if let Some(when) = &step.when {
            let results = &self.results;
            let known = |host: &HostName, field: &Field| known(results, host, field);
            let (holds, unknown) = self.fleet.judge(&names, when, &known).await?;
            for (reason, hosts) in by_reason(&unknown) {
                self.left_out = true;
                self.printer.trouble(&format!("{}: left out: {}", fold::names(&hosts), style::plain(reason)));
            }
            names = holds;
        }
        if names.is_empty() {
            self.printer.note("skipped: its condition holds for no host");
            return Ok(Ended::Skipped);
        }
        self.run_on(step, call, names, Origin::Part(self.run.part(&step.name))).await
    }

    /// Runs a step on these hosts.
    async fn run_on(
        &mut self,
        step: &Step,
        call: &Call,
        names: Vec<HostName>,
        origin: Origin,
    ) -> anyhow::Result<Ended> {
        let ran = self.call(call, &names, &step.waves, step.timeout, origin).await?;
        let failed = ran.failures();
        self.add(&step.name, ran.results, &ran.offline);
        Ok(match ran.end {
            End::Broken => Ended::Broken,
            End::Stopped => Ended::Failed,
            End::Reached if failed > step.waves.max_fail.map_or(0, |budget| budget.of(names.len())) => Ended::Failed,
            End::Reached => Ended::Done,
        })
    }

    /// Adds what a step has come to.
    fn add(&mut self, step: &str, results: Vec<HostResult>, offline: &[HostName]) {
        self.states.extend(results.iter().map(|result| result.state));
        // Nothing has come of it there.
        self.states.extend(offline.iter().map(|_| State::Queued));
        self.results.add(step, results);
    }

    async fn call(
        &mut self,
        call: &Call,
        names: &[HostName],
        waves: &Waves,
        timeout: Option<Duration>,
        origin: Origin,
    ) -> anyhow::Result<Ran> {
        let mut words = call.words.iter().map(|word| self.results.fill(word)).collect::<Result<Vec<_>, _>>()?;
        let mut offer = call.from.clone().map(|from| Offer::of(&Source::Here(from), None, None)).transpose()?;
        words.extend(offer.iter().flat_map(Offer::arguments));
        let found = self.fleet.hosts(names).await?;
        let understood = understand(&found, &call.action, &words, &[])?;
        proposal::refuse_alone(&call.action, understood.approvals)?;
        let settings = self.settings;
        let request = Request {
            action: call.action.clone(),
            arguments: understood.arguments,
            secrets: secrets::read(understood.secrets)?,
            targets: Targets::new(names.iter().cloned()),
            timeout: timeout.or(settings.timeout).unwrap_or(understood.timeout),
            start_by: settings.start_by,
            retention: settings.retention,
            keep_output: None,
            operator: settings.operator.clone(),
            trace: settings.trace.clone(),
        };
        let is_rolling = waves.is_rolling();
        let waves = waves.of(names.len());
        if is_rolling {
            self.printer.note(&foretell(names.len(), &waves));
        }
        let content = offer.as_mut().and_then(Offer::content);
        let longest = longest(names.len(), &waves, request.timeout);
        let mut delivery = Delivery::begin(content, longest, self.fleet, settings, self.printer).await?;
        let live = Live::Results;
        let rolling = Rolling { request: &request, waves: &waves, origin, live, signer: self.signer };
        let ran = delivery.roll(&rolling, self.fleet, settings, self.printer).await?;
        delivery.end(self.fleet, self.printer).await;
        Ok(ran)
    }

    /// Waits until something holds for all hosts of a step.
    async fn check(&mut self, step: &Step, filter: &Filter, within: Duration) -> anyhow::Result<Ended> {
        let (found, left_out) = select(&step.selection, self.fleet, self.printer).await?;
        self.left_out |= left_out;
        let mut names: Vec<HostName> = found.into_iter().map(|host| host.name).collect();
        let begun = Instant::now();
        if let Some(when) = &step.when {
            let results = &self.results;
            names = self.fleet.judge(&names, when, &|host, field| known(results, host, field)).await?.0;
        }
        loop {
            let results = &self.results;
            let known = |host: &HostName, field: &Field| known(results, host, field);
            let (holds, unknown) = self.fleet.judge(&names, filter, &known).await?;
            if holds.len() == names.len() {
                self.printer.note(&format!("{} holds for {}", filter.text(), hosts(names.len())));
                return Ok(Ended::Done);
            }
            if begun.elapsed() >= within {
                let is_unknown = |host: &&HostName| unknown.iter().any(|unknown| unknown.host == **host);
                let not: Vec<_> = names.iter().filter(|host| !holds.contains(host) && !is_unknown(host)).collect();
                if !not.is_empty() {
                    self.printer.trouble(&format!("{}: {} does not hold", fold::names(&not), filter.text()));
                }
                for (reason, hosts) in by_reason(&unknown) {
                    let reason = style::plain(reason);
                    self.printer.trouble(&format!("{}: not known: {reason}", fold::names(&hosts)));
                }
                return Ok(Ended::Failed);
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK.min(within.saturating_sub(begun.elapsed()))) => {}
                Ok(()) = tokio::signal::ctrl_c() => return Ok(Ended::Broken),
            }
        }
    }

    /// Undoes what was done on the hosts that were reached: the step at `last`, and those before it, the last one first.
    async fn roll_back(&mut self, last: usize) -> anyhow::Result<()> {
        for step in self.playbook.steps[..=last].iter().rev() {
            let Some(call) = &step.rollback else { continue };
            // Where it never started there is nothing to undo.
            let has_started =
                |result: &&HostResult| result.outcome.as_ref().is_none_or(|outcome| outcome.started_at_ms.is_some());
            let names: Vec<_> =
                self.results.of(&step.name).filter(has_started).map(|result| result.host.clone()).collect();
            if names.is_empty() {
                continue;
            }
            let shown = fold::names(&names.iter().collect::<Vec<_>>());
            self.printer.note(&format!("rolling back step {} on {}: {shown}", step.name, hosts(names.len())));
            let origin = Origin::Part(self.run.part(&undoing(&step.name)));
            // Each host is undone, whatever happens on others.
            let waves = Waves { max_fail: "100%".parse().ok(), ..Waves::default() };
            match self.call(call, &names, &waves, step.timeout, origin).await {
                Ok(ran) => self.add(&undoing(&step.name), ran.results, &ran.offline),
                Err(error) => self.printer.error(&explain(&error)),
            }
        }
        Ok(())
    }

    /// Says how it went.
    fn conclude(self, played: usize, failed: &[&str], broken: bool, file: &str) -> anyhow::Result<Exit> {
        let total = self.playbook.steps.len();
        let run = self.run;
        let is_whole = played == total;
        self.printer.end_document(|steps| {
            json!({ "run": run, "steps": steps, "steps_played": played, "failed": failed, "finished": is_whole })
        })?;
        if is_whole && failed.is_empty() {
            self.printer.note(&format!("all {total} steps are done"));
            return Ok(Exit::Success.with_left_out(self.left_out));
        }
        let with = |names: &[&str]| format!("step {}", names.join(", "));
        if !failed.is_empty() {
            self.printer.trouble(&format!("failed: {}", with(failed)));
        }
        if !is_whole {
            let at = &self.playbook.steps[played].name;
            self.printer.trouble(&format!("ended at step {} of {total}: {at}", played + 1));
            self.printer.note(&format!("to go on with it: ctl playbook run {file} --resume {run}"));
        }
        let exit = Exit::of(self.states);
        Ok(match exit {
            Exit::Success if !failed.is_empty() => Exit::Failed,
            exit => exit.with_left_out(self.left_out || broken),
        })
    }
}

/// The name under which a step is undone. No step has a colon in its name.
fn undoing(step: &str) -> String {
    format!("rollback:{step}")
}

/// What an earlier step came to.
fn known(results: &Results, host: &HostName, field: &Field) -> Option<Result<String, String>> {
    let Field::Result(step, name) = field else { return None };
    Some(results.get(step, host, name))
}
