//! `ctl job resume` and `rerun`: what was asked for before, on the hosts on which it has not succeeded, or on all.

use std::{collections::BTreeMap, time::Duration};

use protocol::{
    action::{Arguments, shown},
    name::HostName,
    rollout::Waves,
    targets::Targets,
    time::Millis,
    trust::sshsig,
};
use serde_json::{Map, Value};

use super::{
    last, proposal,
    register::Register,
    rolling::{Rolling, foretell, roll},
    secrets,
    selected::{confirm, may_change},
    watch::{self, Live, Sent},
};
use crate::{
    cli::{
        jobs::{Again, Resume, Standing as Wanted},
        keys,
        settings::Settings,
    },
    client::{Fleet, Host, Job, Request, Rollout, Run, Selection, Signer, Standing, Standings, secrets_of},
    output::{Advice, Exit, Printer, Table, events, fold, moments, style, summary},
};

/// A run that was seen so recently is driven by a living `ctl`: it says so every few seconds.
const ALIVE: Millis = 10_000;

/// Goes on with the hosts on which a run has not succeeded.
pub async fn resume(
    options: Resume,
    fleet: &mut Fleet,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let Resume { only, again } = options;
    let run = newest(find(&again.id.id, fleet, settings).await?, fleet, printer).await?;
    let signer = keys::open(settings).await?;
    let before = Before::of(&run, &signer);
    agree(&run, &before, again.yes, fleet.now(), settings, printer)?;

    let report = |job: &Job, event, fleet: &Fleet| events::note(&event, job, fleet.now(), printer);
    let (rollout, standings) = match &run {
        Run::Rollout(rollout) => {
            let rollout = fleet.close_rollout(rollout, &settings.operator).await?;
            // Somebody else may have resumed it just before.
            if let Some(next) = rollout.next() {
                let error = Advice::new("somebody else has just resumed it");
                return Err(error.hint(format!("go on with that run: ctl job resume {next}")).into());
            }
            let standings = fleet.standings(&rollout, report).await?;
            (Some(rollout), standings)
        }
        Run::Job(job) => {
            proposal::refuse_waiting(job, fleet.now())?;
            (None, fleet.standings_of_job(job, report).await?)
        }
    };
    let remaining = remaining(&standings, &only);
    let has_left = name_open(&standings, printer);
    if remaining.is_empty() {
        let succeeded = standings.at(Standing::Succeeded).count();
        printer.note(&format!("nothing to go on with: succeeded on {}", summary::hosts(succeeded)));
        return Ok(Exit::Success.with_left_out(has_left || succeeded < standings.hosts.len()));
    }
    let exit = run_on(remaining, before, rollout.as_ref(), again, &signer, fleet, settings, printer).await?;
    Ok(exit.with_left_out(has_left))
}

/// Runs everything once more, on all hosts.
pub async fn rerun(options: Again, fleet: &mut Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    let run = find(&options.id.id, fleet, settings).await?;
    let signer = keys::open(settings).await?;
    let before = Before::of(&run, &signer);
    agree(&run, &before, options.yes, 0, settings, printer)?;
    let hosts = before.hosts.clone();
    run_on(hosts, before, None, options, &signer, fleet, settings, printer).await
}

/// What was asked for before.
struct Before {
    action: String,
    arguments: Arguments,
    secrets: Vec<String>,
    operator: String,
    issued_at_ms: Millis,
    start_by: Duration,
    timeout: Duration,
    retention: Duration,
    keep_output: Option<u64>,
    hosts: Vec<HostName>,
    /// How it went from host to host; none: all at once.
    waves: Option<Waves>,
    /// Whether this key has signed it.
    is_own: bool,
}

impl Before {
    fn of(run: &Run, signer: &Signer) -> Self {
        match run {
            Run::Rollout(rollout) => {
                let plan = rollout.plan();
                Self {
                    action: plan.action.clone(),
                    arguments: plan.arguments.clone(),
                    secrets: plan.secrets.clone(),
                    operator: plan.operator.clone(),
                    issued_at_ms: plan.issued_at_ms,
                    start_by: Duration::from_millis(plan.start_by_ms),
                    timeout: Duration::from_millis(plan.timeout_ms),
                    retention: Duration::from_millis(plan.retention_ms),
                    keep_output: plan.keep_output,
                    hosts: rollout.targets().hosts().cloned().collect(),
                    waves: Some(plan.waves.clone()),
                    is_own: rollout.is_signed_by(signer),
                }
            }
            Run::Job(job) => {
                let manifest = job.manifest();
                Self {
                    action: manifest.action.clone(),
                    arguments: manifest.arguments.clone(),
                    secrets: manifest.secret_names().cloned().collect(),
                    operator: manifest.operator.clone(),
                    issued_at_ms: manifest.issued_at_ms,
                    start_by: Duration::from_millis(manifest.start_by_ms.saturating_sub(manifest.issued_at_ms)),
                    timeout: Duration::from_millis(manifest.timeout_ms),
                    retention: Duration::from_millis(manifest.retention_ms),
                    keep_output: manifest.keep_output,
                    hosts: job.targets().hosts().cloned().collect(),
                    waves: None,
                    is_own: job.is_signed_by(signer),
                }
            }
        }
    }

    fn shown(&self) -> Map<String, Value> {
        shown(&self.arguments, &self.secrets)
    }

    /// The command as it was typed.
    fn command(&self) -> String {
        style::plain(&summary::command(&self.action, &self.shown()))
    }
}

/// What the word that was typed means.
async fn find(typed: &str, fleet: &mut Fleet, settings: &Settings) -> anyhow::Result<Run> {
    if typed == last::LAST {
        let job = last::find(typed, fleet, settings).await?;
        return Ok(fleet.run_of(job).await?);
    }
    Ok(fleet.find_run(typed).await?)
}

/// The run that has gone on last with what this one left.
async fn newest(mut run: Run, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<Run> {
    while let Run::Rollout(rollout) = &run
        && let Some(next) = rollout.next()
    {
        printer.note("it was resumed before: that run is gone on with");
        run = Run::Rollout(Box::new(fleet.rollout(next).await?));
    }
    Ok(run)
}

/// Asks before something runs that another key has signed: what stands in Redis may be anybody's. Asks also before a run is
/// taken from a living driver. `now`: where it is to be taken.
fn agree(
    run: &Run,
    before: &Before,
    is_sure: bool,
    now: Millis,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<()> {
    let mut doubts = Vec::new();
    if let Run::Rollout(rollout) = run
        && rollout.ended().is_none()
        && rollout.seen_ms().is_some_and(|seen| now < seen.saturating_add(ALIVE) && now > 0)
    {
        doubts.push("a ctl has driven it within the last seconds; if it lives, it begins no further wave".to_owned());
    }
    if !before.is_own {
        for line in described(run, before, settings, printer).lines(None) {
            if is_sure { printer.note(&line) } else { printer.trouble(&line) }
        }
        doubts.push(format!("it was not signed with your key, and you would sign it as {}", settings.operator));
    }
    if is_sure || doubts.is_empty() {
        return Ok(());
    }
    for doubt in &doubts {
        printer.trouble(doubt);
    }
    match Printer::confirm("Go on?") {
        Some(true) => Ok(()),
        Some(false) => Err(Advice::new("nothing was sent").into()),
        None => {
            let nobody = Advice::new("nothing was sent: there is no terminal to ask at");
            Err(nobody.hint("if you have seen what it does: --yes").into())
        }
    }
}

/// All that is signed, as far as it decides what happens.
fn described(run: &Run, before: &Before, settings: &Settings, printer: &Printer) -> Table {
    let register = Register::read(settings, before.issued_at_ms, printer);
    let by = match run {
        Run::Job(job) => register.operator(job),
        Run::Rollout(rollout) => register.judge(&before.operator, sshsig::ROLLOUT, rollout.signed()),
    };
    let mut pairs = Table::of_pairs();
    pairs.pair("asked by", format!("{}, {}", by.shown(), moments::exact(before.issued_at_ms)));
    pairs.pair("action", style::exact(&before.action));
    for (name, words) in proposal::arguments(&before.arguments) {
        pairs.pair(&format!("  {}", style::exact(&name)), words);
    }
    for name in &before.secrets {
        pairs.pair(&format!("  {}", style::exact(name)), "*** (a secret)");
    }
    let names: Vec<_> = before.hosts.iter().collect();
    pairs.pair("on", format!("{}: {}", summary::hosts(names.len()), fold::names(&names)));
    pairs
}

/// The hosts that are to be reached.
fn remaining(standings: &Standings, only: &[Wanted]) -> Vec<HostName> {
    let wants = |wanted| only.is_empty() || only.contains(&wanted);
    let is_meant = |standing: &Standing| match standing {
        Standing::Failed => wants(Wanted::Failed),
        Standing::Unreached => wants(Wanted::Unreached),
        Standing::Expired => wants(Wanted::Expired),
        Standing::Succeeded | Standing::Open => false,
    };
    standings.hosts.iter().filter(|(_, standing)| is_meant(standing)).map(|(host, _)| host.clone()).collect()
}

/// Names the hosts that are left out, as a command may still run there. Returns whether there are any.
fn name_open(standings: &Standings, printer: &Printer) -> bool {
    let mut reasons: BTreeMap<&str, Vec<&HostName>> = BTreeMap::new();
    for left in &standings.open {
        reasons.entry(&left.reason).or_default().push(&left.host);
    }
    for (reason, hosts) in &reasons {
        printer.trouble(&format!("{}: left out: {}", fold::names(hosts), style::plain(reason)));
    }
    !reasons.is_empty()
}

/// Runs it on these hosts, in waves if it was.
#[expect(clippy::too_many_arguments, reason = "all of it decides what is sent")]
async fn run_on(
    names: Vec<HostName>,
    before: Before,
    from: Option<&Rollout>,
    options: Again,
    signer: &Signer,
    fleet: &mut Fleet,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let (hosts, gone): (Vec<Host>, Vec<Host>) = fleet.hosts(&names).await?.into_iter().partition(Host::is_known);
    let gone: Vec<_> = gone.iter().map(|host| &host.name).collect();
    if !gone.is_empty() {
        printer.trouble(&format!("{}: left out: no longer a host of the fleet", fold::names(&gone)));
    }
    let given = given(&before, &hosts, &options.secrets)?;
    let total = hosts.len();
    let waves = match &before.waves {
        Some(prior) => Some(options.waves.over(total, prior)),
        None => options.waves.is_rolling().then(|| options.waves.of(total)),
    };

    let shown: Vec<_> = hosts.iter().map(|host| &host.name).collect();
    printer.note(&format!("{} on {}: {}", before.command(), summary::hosts(total), fold::names(&shown)));
    if let Some(waves) = &waves {
        printer.note(&foretell(total, waves));
    }
    if may_change(&hosts, &before.action) {
        confirm(&before.action, [(&Selection::all(), &hosts[..])], options.yes)?;
    }
    let request = Request {
        action: before.action,
        arguments: before.arguments,
        secrets: secrets::read(given)?,
        targets: Targets::new(hosts.iter().map(|host| host.name.clone())),
        timeout: before.timeout,
        start_by: before.start_by,
        retention: before.retention,
        keep_output: before.keep_output,
        operator: settings.operator.clone(),
        trace: settings.trace.clone(),
    };
    printer.set_look(options.look);
    let live = Live::following(options.follow);
    let exit = if let Some(waves) = waves {
        let rolling = Rolling { request: &request, waves: &waves, from, live, signer };
        roll(&rolling, fleet, settings, printer).await?.exit()
    } else {
        let job = fleet.dispatch(request, signer, &mut |event| events::note_dispatch(&event, printer)).await?;
        let sent = Sent { detach: false, live, wait: false };
        watch::sent(fleet, &job, &hosts, &sent, printer).await?
    };
    Ok(exit.with_left_out(!gone.is_empty()))
}

/// The secret arguments as they were typed once more.
fn given(before: &Before, hosts: &[Host], typed: &[String]) -> anyhow::Result<Arguments> {
    let given = secrets_of(hosts, &before.action, typed)?;
    if let Some(stranger) = given.keys().find(|name| !before.secrets.contains(name)) {
        return Err(Advice::new(format!("'{stranger}' was no secret of it")).into());
    }
    let missing: Vec<_> = before.secrets.iter().filter(|name| !given.contains_key(*name)).map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(given);
    }
    let names: Vec<_> = hosts.iter().map(|host| &host.name).collect();
    let hosts = fold::names(&names);
    let error =
        Advice::new(format!("nothing was sent: it has secrets, which Redis does not have: {}", missing.join(", ")));
    // The key of content comes from whoever sends the content.
    let hint = if missing.iter().any(|name| name.ends_with("_key")) {
        format!("it needs content that only the first command could send: give that command again, on {hosts}")
    } else {
        format!("give them again: {}", missing.iter().map(|name| format!("{name}=…")).collect::<Vec<_>>().join(" "))
    };
    Err(error.hint(hint).into())
}
