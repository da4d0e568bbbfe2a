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
    watch::Live,
};
use crate::{
    cli::{
        jobs::{Again, Resume, Standing as Wanted},
        keys,
        settings::Settings,
    },
    client::{Fleet, Host, Job, Origin, Request, Rollout, Run, Selection, Signer, Standing, Standings, secrets_of},
    output::{Advice, Exit, Printer, Table, events, fold, moments, style, summary},
};

/// Secret arguments that are the keys of content.
const CONTENT_KEYS: [&str; 3] = ["content_key", "stdin_key", "script_key"];

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
    let run = find(&again.id.id, fleet, settings).await?;
    if let Run::Job(job) = &run {
        proposal::refuse_waiting(job, fleet.now())?;
    }
    let mut chain = fleet.chain(run).await?;
    let signer = keys::open(settings).await?;
    let before = Before::of(chain.newest(), &signer);
    // All that can be refused is refused before its driver is stopped.
    let known: Vec<Host> = fleet.hosts(&before.hosts).await?.into_iter().filter(Host::is_known).collect();
    given(&before, &known, &again.secrets)?;
    agree(chain.newest(), &before, again.yes, Some(fleet.now()), settings, printer)?;

    if let Run::Rollout(rollout) = chain.newest() {
        let closed = fleet.close_rollout(rollout, &settings.operator).await?;
        chain.renew(closed);
    }
    let report = |job: &Job, event, fleet: &Fleet| events::note(&event, job, fleet.now(), printer);
    let standings = fleet.standings(&chain, report).await?;
    let remaining = remaining(&standings, &only);
    let has_left = name_open(&standings, printer);
    let succeeded = standings.at(Standing::Succeeded).count();
    let exit = if remaining.is_empty() {
        printer.note(&format!("nothing to go on with: succeeded on {}", summary::hosts(succeeded)));
        Exit::Success
    } else {
        let origin = Origin::Resumes(chain.newest().id());
        run_on(&remaining, before, origin, again, &signer, fleet, settings, printer).await?
    };
    // What was not to be gone on with now is left for another time.
    Ok(exit.with_left_out(has_left || succeeded + remaining.len() < standings.hosts.len()))
}

/// Runs everything once more, on all hosts.
pub async fn rerun(options: Again, fleet: &mut Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    let run = find(&options.id.id, fleet, settings).await?;
    let chain = fleet.chain(run).await?;
    let signer = keys::open(settings).await?;
    let before = Before::of(chain.first(), &signer);
    agree(chain.first(), &before, options.yes, None, settings, printer)?;
    let hosts = before.hosts.clone();
    run_on(&hosts, before, Origin::New, options, &signer, fleet, settings, printer).await
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
        last::refuse_unsent(fleet, settings).await?;
        return Ok(fleet.last_run(&settings.operator).await?);
    }
    Ok(fleet.find_run(typed).await?)
}

/// Asks before something runs that another key has signed: what stands in Redis may be anybody's. Asks also before a run is
/// taken from a living driver. `now`: where it is to be taken from one.
fn agree(
    run: &Run,
    before: &Before,
    is_sure: bool,
    now: Option<Millis>,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<()> {
    let mut doubts = Vec::new();
    if let Run::Rollout(rollout) = run
        && now.is_some_and(|now| is_driven(rollout, now))
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

/// Whether a living `ctl` drives the run, as far as is known at `now`.
pub fn is_driven(rollout: &Rollout, now: Millis) -> bool {
    rollout.ended().is_none() && rollout.seen_ms().is_some_and(|seen| now < seen.saturating_add(ALIVE))
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
    pairs.pair("timeout", moments::span(before.timeout));
    if let Some(waves) = &before.waves {
        pairs.pair("waves", foretell(names.len(), waves));
        pairs.pair("unless", style::exact(waves.abort_if.as_deref().unwrap_or("-")));
    }
    pairs
}

/// The hosts that are to be reached.
pub fn remaining(standings: &Standings, only: &[Wanted]) -> Vec<HostName> {
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
    let open: Vec<_> = standings.open().collect();
    for left in &open {
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
    names: &[HostName],
    before: Before,
    origin: Origin,
    options: Again,
    signer: &Signer,
    fleet: &mut Fleet,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let (hosts, gone): (Vec<Host>, Vec<Host>) = fleet.hosts(names).await?.into_iter().partition(Host::is_known);
    let gone: Vec<_> = gone.iter().map(|host| &host.name).collect();
    if !gone.is_empty() {
        printer.trouble(&format!("{}: left out: no longer a host of the fleet", fold::names(&gone)));
    }
    let given = given(&before, &hosts, &options.secrets)?;
    let total = hosts.len();
    let waves = match &before.waves {
        Some(prior) => options.waves.over(total, prior),
        None if options.waves.asks()? => options.waves.of(total),
        // All at once, as it was.
        None => Waves { max_fail: total as u64, ..options.waves.of(total) },
    };

    let shown: Vec<_> = hosts.iter().map(|host| &host.name).collect();
    printer.note(&format!("{} on {}: {}", before.command(), summary::hosts(total), fold::names(&shown)));
    let first = if waves.canary > 0 { waves.canary } else { waves.batch };
    if first < total as u64 {
        printer.note(&foretell(total, &waves));
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
    let rolling = Rolling { request: &request, waves: &waves, origin, live, is_part: false, signer };
    let ran = roll(&rolling, fleet, settings, printer).await?;
    Ok(ran.exit().with_left_out(!gone.is_empty()))
}

/// The secret arguments as they were typed once more.
fn given(before: &Before, hosts: &[Host], typed: &[String]) -> anyhow::Result<Arguments> {
    let given = secrets_of(hosts, &before.action, typed)?;
    let approvals = hosts.iter().filter_map(|host| host.action(&before.action)).map(|action| action.approvals).max();
    proposal::refuse_alone(&before.action, approvals.unwrap_or(1))?;
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
    let hint = if missing.iter().any(|name| CONTENT_KEYS.contains(name)) {
        format!("it needs content that only the first command could send: give that command again, on {hosts}")
    } else {
        format!("give them again: {}", missing.iter().map(|name| format!("{name}=…")).collect::<Vec<_>>().join(" "))
    };
    Err(error.hint(hint).into())
}
