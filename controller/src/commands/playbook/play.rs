//! Plays a playbook, step by step.
//!
//! Each step with an action is a rolling run, whose id follows from that of the playbook's run and the step's name. So all that
//! is needed to go on is the id and the file: which steps were begun, and how far they came, stands in Redis.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use protocol::{
    name::{HostName, JobId},
    outcome::State,
};
use serde_json::json;

use super::{
    super::{
        resume::remaining,
        rolling::End,
        selected::{may_change, name_unknown, question, select},
    },
    file::{Call, OnFailure, Playbook, Step, Task},
    stage::Stage,
    values::Results,
};
use crate::{
    client::{Error, Field, Filter, HostResult, Origin, Rollout, Standing, by_reason},
    output::{Advice, Exit, explain::explain, fold, style, summary::hosts},
};

/// How often a check looks.
const LOOK: Duration = Duration::from_secs(2);

/// Plays a playbook.
pub struct Player<'a> {
    playbook: &'a Playbook,
    /// The id of this run of it.
    run: JobId,
    stage: Stage<'a>,
    /// The hosts of each step that were shown before it all began, sorted.
    agreed: Vec<Vec<HostName>>,
    results: Results,
    /// The states of hosts in all steps.
    states: Vec<State>,
    /// Hosts were left out of a step.
    left_out: bool,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// As it should.
    Done,
    /// It was for no host.
    Skipped,
    /// It has failed on too many hosts, or what was checked does not hold.
    Failed,
    /// It was interrupted, or cannot go on from here.
    Broken,
    /// Redis has lost its record: whoever resumed it would begin it anew.
    Lost,
}

impl Ended {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::Broken | Self::Lost => "not_finished",
        }
    }
}

/// How the steps went.
#[derive(Default)]
struct Played<'a> {
    /// How many were finished.
    finished: usize,
    failed: Vec<&'a str>,
    /// Whether it was interrupted, or could not go on.
    is_broken: bool,
    /// Whether Redis has lost the record of a step, so that it cannot be resumed.
    is_lost: bool,
    /// Whether what was done was to be undone, and if so whether all of it was.
    undone: Option<bool>,
}

impl<'a> Player<'a> {
    /// A player of this run. `agreed`: the hosts of each step that were shown.
    pub fn new(playbook: &'a Playbook, run: JobId, stage: Stage<'a>, agreed: Vec<Vec<HostName>>) -> Self {
        Self { playbook, run, stage, agreed, results: Results::default(), states: Vec::new(), left_out: false }
    }

    /// Plays all steps that were not finished. `file`: how the file is typed.
    pub async fn play(mut self, file: &str, is_resumed: bool) -> anyhow::Result<Exit> {
        let (mut begun, mut undoing) = (vec![None; self.playbook.steps.len()], None);
        if is_resumed {
            begun = self.begun().await?;
            undoing = self.undoing().await?;
        }
        self.stage.printer.begin_document();
        let played = match undoing {
            Some(failed) => self.undo_again(&begun, failed).await?,
            None => self.play_steps(&begun).await,
        };
        Ok(self.conclude(&played, file))
    }

    async fn play_steps(&mut self, begun: &[Option<Rollout>]) -> Played<'a> {
        let printer = self.stage.printer;
        let mut played = Played::default();
        for (at, step) in self.playbook.steps.iter().enumerate() {
            if self.stage.is_interrupted().await {
                played.is_broken = true;
                break;
            }
            printer.note(&format!("step {} of {}: {}", at + 1, self.playbook.steps.len(), step.name));
            printer.begin_document();
            let is_over = begun[at + 1..].iter().any(Option::is_some);
            let ended = self.step(at, begun[at].as_ref(), is_over).await;
            let ended = ended.unwrap_or_else(|error| {
                printer.error(&explain(&error));
                Ended::Broken
            });
            self.end_document(&step.name, ended.as_str());
            match ended {
                Ended::Done | Ended::Skipped => {}
                Ended::Failed => {
                    played.failed.push(&step.name);
                    match step.on_failure {
                        OnFailure::Continue => printer.trouble(&format!("step {} failed; going on", step.name)),
                        OnFailure::Stop => break,
                        OnFailure::Rollback => {
                            self.begin_undo(at, &mut played).await;
                            break;
                        }
                    }
                }
                Ended::Broken | Ended::Lost => {
                    (played.is_broken, played.is_lost) = (true, ended == Ended::Lost);
                    break;
                }
            }
            played.finished += 1;
        }
        played
    }

    /// Prints what a step has come to, for programs.
    fn end_document(&self, step: &str, outcome: &str) {
        let printer = self.stage.printer;
        let written = printer.end_document("runs", json!({ "step": step, "outcome": outcome }));
        printer.report_loss(written, || "ctl job list".to_owned());
    }

    /// The steps that were begun before, each with its rolling run.
    async fn begun(&mut self) -> anyhow::Result<Vec<Option<Rollout>>> {
        let mut begun = Vec::new();
        for step in &self.playbook.steps {
            begun.push(self.find(&step.name).await?);
        }
        if begun.iter().all(Option::is_none) {
            let nothing = Advice::new(format!("no step of this playbook was begun in the run {}", self.run));
            return Err(nothing.hint("is the id right? To begin: without --resume").into());
        }
        // All that can be refused is refused before anything is done.
        for (step, rollout) in self.playbook.steps.iter().zip(&begun) {
            if let Some(rollout) = rollout {
                self.stage.chain(&step.name, rollout).await?;
            }
        }
        Ok(begun)
    }

    async fn find(&mut self, step: &str) -> Result<Option<Rollout>, Error> {
        self.stage.fleet.rollout_if_any(self.run.part(step)).await
    }

    /// The place of the step since whose failure the run is being undone. Asks whether to go on with that, as nobody vouches
    /// for it.
    async fn undoing(&mut self) -> anyhow::Result<Option<usize>> {
        let Some(failed) = self.stage.fleet.undoing(self.run).await? else { return Ok(None) };
        let failed = style::plain(&failed);
        let Some(at) = self.playbook.steps.iter().position(|step| step.name == failed) else {
            let other =
                Advice::new(format!("the run is being undone since its step {failed} failed: there is none here"));
            return Err(other.hint("restore the file").into());
        };
        for step in &self.playbook.steps {
            let name = undo_of(&step.name);
            if let Some(rollout) = self.find(&name).await? {
                self.stage.chain(&name, &rollout).await?;
            }
        }
        if !self.stage.is_sure {
            let question = format!("step {failed} has failed, so what was done is being undone. Go on undoing it?");
            self.stage.confirm(question).await?;
        }
        Ok(Some(at))
    }

    /// Plays a step, or what is left of it. `is_over`: a later one was begun.
    async fn step(&mut self, at: usize, begun: Option<&Rollout>, is_over: bool) -> anyhow::Result<Ended> {
        let step = &self.playbook.steps[at];
        let call = match &step.task {
            // What held when a later step was begun need not hold any more.
            Task::Check { .. } if is_over => return Ok(Ended::Done),
            Task::Check { filter, within } => return self.check(step, filter, *within).await,
            Task::Run(call) => call,
        };
        let Some(rollout) = begun else {
            return if is_over { Ok(Ended::Skipped) } else { self.begin(at, call).await };
        };

        if !is_over {
            self.stage.check_same(step, call, rollout, &self.results).await?;
        }
        let Some((newest, standings)) = self.stage.look_back(&step.name, rollout).await? else {
            return Ok(Ended::Broken);
        };
        self.results.add(&step.name, standings.results.values().cloned());
        let succeeded = standings.at(Standing::Succeeded).count();
        let left = if is_over { Vec::new() } else { remaining(&standings, &[]) };
        let is_left = |host: &HostName| left.binary_search(host).is_ok();
        self.states
            .extend(standings.results.values().filter(|result| !is_left(&result.host)).map(|result| result.state));
        // Nobody knows how it ended there.
        let failed = standings.hosts.len() - succeeded - left.len();
        self.left_out |= !standings.open().is_empty();
        if left.is_empty() {
            self.stage.printer.note(&format!("was done before: succeeded on {}", hosts(succeeded)));
            return Ok(if failed > step.budget(standings.hosts.len()) { Ended::Failed } else { Ended::Done });
        }
        self.run_on(step, call, left, Origin::Resumes(newest), failed).await
    }

    /// Begins a step on the hosts that it is for now.
    async fn begin(&mut self, at: usize, call: &Call) -> anyhow::Result<Ended> {
        let step = &self.playbook.steps[at];
        let names = self.meant(step).await?;
        if names.is_empty() {
            self.stage.printer.note("skipped: it is for no host now");
            return Ok(Ended::Skipped);
        }
        self.agree(at, &names).await?;
        let origin = Origin::Part(self.run.part(&step.name));
        self.run_on(step, call, names, origin, 0).await
    }

    /// Asks before a step changes hosts that were not shown before.
    async fn agree(&mut self, at: usize, names: &[HostName]) -> anyhow::Result<()> {
        let (step, agreed) = (&self.playbook.steps[at], &self.agreed[at]);
        let new: Vec<_> = names.iter().filter(|name| agreed.binary_search(name).is_err()).cloned().collect();
        let hosts = self.stage.fleet.hosts(&new).await?;
        let calls = [step.task.call(), step.rollback.as_ref()];
        if calls.into_iter().flatten().any(|call| may_change(&hosts, &call.action)) {
            let question = question(&format!("step {}", step.name), [(&step.selection, &hosts[..])]);
            if let Some(question) = question.filter(|_| !self.stage.is_sure) {
                self.stage.confirm(question).await?;
            }
        }
        Ok(())
    }

    /// The hosts that a step is for now, maybe none. Those of which that is not known are named, and left out.
    async fn meant(&mut self, step: &Step) -> anyhow::Result<Vec<HostName>> {
        let (printer, fleet) = (self.stage.printer, &mut *self.stage.fleet);
        let names: Vec<HostName> = match select(&step.selection, fleet, printer).await {
            Ok((found, left_out)) => {
                self.left_out |= left_out;
                found.into_iter().map(|host| host.name).collect()
            }
            Err(error) => match error.downcast_ref() {
                Some(Error::NoneMeant { unknown, .. }) => {
                    self.left_out |= !unknown.is_empty();
                    Vec::new()
                }
                _ => return Err(error),
            },
        };
        let Some(when) = &step.when else { return Ok(names) };
        let results = &self.results;
        let (holds, unknown) = fleet.judge(&names, when, &|host, field| known(results, host, field)).await?;
        self.left_out |= !unknown.is_empty();
        name_unknown(&unknown, printer);
        Ok(holds)
    }

    /// Runs a step on these hosts. `failed`: on how many others it has not succeeded.
    async fn run_on(
        &mut self,
        step: &Step,
        call: &Call,
        names: Vec<HostName>,
        origin: Origin,
        failed: usize,
    ) -> anyhow::Result<Ended> {
        let ran = self.stage.run(call, &names, &step.waves, step.timeout, origin, &self.results).await?;
        let failed = failed + ran.failures();
        self.add(&step.name, ran.results, &ran.offline);
        Ok(match ran.end {
            End::Broken => Ended::Broken,
            End::Lost => Ended::Lost,
            End::Stopped => Ended::Failed,
            End::Reached if failed > step.budget(names.len()) => Ended::Failed,
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

    /// Waits until something holds for all hosts of a step.
    async fn check(&mut self, step: &Step, filter: &Filter, within: Duration) -> anyhow::Result<Ended> {
        let names = self.meant(step).await?;
        let printer = self.stage.printer;
        if names.is_empty() {
            printer.note("skipped: it is for no host now");
            return Ok(Ended::Skipped);
        }
        let begun = Instant::now();
        loop {
            let results = &self.results;
            let known = |host: &HostName, field: &Field| known(results, host, field);
            let (holds, unknown) = self.stage.fleet.judge(&names, filter, &known).await?;
            if holds.len() == names.len() {
                printer.note(&format!("{} holds for {}", filter.text(), hosts(names.len())));
                return Ok(Ended::Done);
            }
            if begun.elapsed() >= within {
                let unsure: HashSet<_> = unknown.iter().map(|unknown| &unknown.host).chain(&holds).collect();
                let not: Vec<_> = names.iter().filter(|host| !unsure.contains(host)).collect();
                if !not.is_empty() {
                    printer.trouble(&format!("{}: {} does not hold", fold::names(&not), filter.text()));
                }
                for (reason, hosts) in by_reason(&unknown) {
                    printer.trouble(&format!("{}: not known: {}", fold::names(&hosts), style::plain(reason)));
                }
                return Ok(Ended::Failed);
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK.min(within.saturating_sub(begun.elapsed()))) => {}
                Some(()) = self.stage.interrupt.recv() => return Ok(Ended::Broken),
            }
        }
    }

    /// Begins to undo what was done, as the step at `failed` has failed.
    async fn begin_undo(&mut self, failed: usize, played: &mut Played<'_>) {
        let step = &self.playbook.steps[failed].name;
        if let Err(error) = self.stage.fleet.begin_undoing(self.run, step, self.stage.settings.retention).await {
            self.stage.printer.error(&explain(&error.into()));
            return;
        }
        self.undo(failed, played).await;
    }

    /// Goes on with undoing what was done, as the step at `failed` has failed.
    async fn undo_again(&mut self, begun: &[Option<Rollout>], failed: usize) -> anyhow::Result<Played<'a>> {
        let name = self.playbook.steps[failed].name.as_str();
        let mut played = Played { finished: failed, failed: vec![name], undone: Some(false), ..Played::default() };
        for (step, rollout) in self.playbook.steps.iter().zip(begun) {
            let Some(rollout) = rollout else { continue };
            let Some((_, standings)) = self.stage.look_back(&step.name, rollout).await? else { return Ok(played) };
            self.results.add(&step.name, standings.results.into_values());
        }
        self.undo(failed, &mut played).await;
        Ok(played)
    }

    /// Undoes what was done on the hosts that were changed: the step at `last`, and those before it, the last one first.
    async fn undo(&mut self, last: usize, played: &mut Played<'_>) {
        let undone = self.try_undo(last, &mut played.is_lost).await;
        played.undone = Some(undone.unwrap_or_else(|error| {
            self.stage.printer.error(&explain(&error));
            false
        }));
    }

    /// Returns whether all of it was undone. `is_lost` is set where Redis has lost what was undone.
    async fn try_undo(&mut self, last: usize, is_lost: &mut bool) -> anyhow::Result<bool> {
        let playbook = self.playbook;
        let mut is_whole = true;
        for step in playbook.steps[..=last].iter().rev() {
            let Some(call) = &step.rollback else { continue };
            let names: Vec<_> = self
                .results
                .of(&step.name)
                .filter(|result| may_have_changed(result))
                .map(|result| result.host.clone())
                .collect();
            if names.is_empty() {
                continue;
            }
            if self.stage.is_interrupted().await {
                return Ok(false);
            }
            let name = undo_of(&step.name);
            let (names, origin) = match self.find(&name).await? {
                None => (names, Origin::Part(self.run.part(&name))),
                Some(rollout) => {
                    let Some((newest, standings)) = self.stage.look_back(&name, &rollout).await? else {
                        return Ok(false);
                    };
                    is_whole &= standings.open().is_empty();
                    // Of some of them it is known by now that the step never ran there.
                    let changed: HashSet<_> = names.into_iter().collect();
                    let left = remaining(&standings, &[]).into_iter().filter(|host| changed.contains(host));
                    (left.collect(), Origin::Resumes(newest))
                }
            };
            if names.is_empty() {
                continue;
            }

            let shown = fold::names(&names.iter().collect::<Vec<_>>());
            self.stage.printer.note(&format!("undoing step {} on {}: {shown}", step.name, hosts(names.len())));
            self.stage.printer.begin_document();
            let ran = self.stage.undo(call, &names, step.timeout, origin, &self.results).await;
            let outcome = match ran {
                Ok(ran) => {
                    let (failures, end) = (ran.failures(), ran.end);
                    self.add(&name, ran.results, &ran.offline);
                    is_whole &= failures == 0 && end == End::Reached;
                    end
                }
                Err(error) => {
                    self.stage.printer.error(&explain(&error));
                    is_whole = false;
                    End::Stopped
                }
            };
            self.end_document(&name, if is_whole { "done" } else { "failed" });
            *is_lost |= outcome == End::Lost;
            if matches!(outcome, End::Broken | End::Lost) {
                return Ok(false);
            }
        }
        Ok(is_whole)
    }

    /// Says how it went.
    fn conclude(self, played: &Played<'_>, file: &str) -> Exit {
        let (total, run, printer) = (self.playbook.steps.len(), self.run, self.stage.printer);
        let is_whole = played.finished == total;
        let exit = match Exit::of(self.states.iter().copied()) {
            Exit::Success if !played.failed.is_empty() => Exit::Failed,
            Exit::Success if self.states.is_empty() && played.is_broken => Exit::NotSent,
            exit => exit.with_left_out(self.left_out || played.is_broken),
        };
        let again = format!("ctl playbook run {file} --resume {run}");
        if !played.failed.is_empty() {
            printer.trouble(&format!("failed: step {}", played.failed.join(", ")));
        }
        if is_whole && played.failed.is_empty() {
            let not_all = if exit == Exit::Success { "" } else { ", but not on all hosts" };
            printer.note(&format!("all {total} steps are done{not_all}"));
        } else if !is_whole {
            let at = &self.playbook.steps[played.finished].name;
            printer.trouble(&format!("ended at step {} of {total}: {at}", played.finished + 1));
            match played.undone {
                None | Some(false) if played.is_lost => {
                    printer.trouble("Redis has lost what this run did: do not resume it, as that would begin anew");
                }
                None => printer.note(&format!("to go on with it: {again}")),
                Some(true) => printer.note("what was done is undone"),
                Some(false) => {
                    printer.trouble("not all that was done is undone");
                    printer.note(&format!("to go on with undoing it: {again}"));
                }
            }
        }
        let whole = json!({ "run": run, "finished": is_whole, "failed": played.failed, "undone": played.undone });
        let written = printer.end_document("steps", whole);
        printer.report_loss(written, || again.clone());
        exit
    }
}

/// Whether a step may have changed a host: unless it says that it did not, or never started.
fn may_have_changed(result: &HostResult) -> bool {
    // It was not begun there, and never will be.
    if result.state == State::Expired {
        return false;
    }
    let Some(outcome) = &result.outcome else { return true };
    let changed = outcome.data.as_ref().and_then(|data| data.get(protocol::action::CHANGED)?.as_bool());
    outcome.started_at_ms.is_some() && changed != Some(false)
}

/// The name under which a step is undone. No step has a colon in its name.
fn undo_of(step: &str) -> String {
    format!("undo:{step}")
}

/// What an earlier step came to.
fn known(results: &Results, host: &HostName, field: &Field) -> Option<Result<String, String>> {
    let Field::Result(step, name) = field else { return None };
    Some(results.get(step, host, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_begun_has_changed_nothing() {
        let at = |state| may_have_changed(&HostResult { state, ..HostResult::new("web1".parse().unwrap()) });
        assert!(!at(State::Expired));
        // Nobody knows how these ended, or whether they will begin.
        assert!(at(State::Queued) && at(State::Running));
    }
}
