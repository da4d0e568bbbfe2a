//! Proposals: what needs more signatures than one's own. `ctl run --propose` and `ctl job approve`.

use std::time::Duration;

use protocol::{
    action::{Argument, Arguments},
    time::Millis,
};
use serde_json::json;

use super::{
    last,
    register::{Register, Signed},
    watch::{self, Live, Sent},
};
use crate::{
    cli::{jobs::Approve, keys, settings::Settings},
    client::{Approved, Fleet, Job, Proposal, Request},
    output::{Advice, Exit, Format, Printer, Table, events, moments, style, summary},
};

/// Refuses to send what needs the signatures of others, too.
pub fn refuse_alone(action: &str, needed: usize) -> anyhow::Result<()> {
    if needed <= 1 {
        return Ok(());
    }
    let (action, others) = (style::plain(action), needed - 1);
    let alone =
        Advice::new(format!("nothing was sent: {action} needs {needed} signatures there, yours and {others} more"));
    Err(alone.hint(format!("propose it, for others to approve: ctl run --propose … {action} …")).into())
}

/// Refuses to wait for a job that was not sent.
pub fn refuse_waiting(job: &Job, now: Millis) -> anyhow::Result<()> {
    let Some(proposal) = job.proposal(now) else { return Ok(()) };
    let short = job.id().short();
    let waits = Advice::new(format!("job {short} was not sent: it is proposed, and {proposal} have signed it"));
    Err(waits.hint(format!("somebody else sends it with: ctl job approve {short}")).into())
}

/// Signs a job and keeps it. Whoever proposes wants somebody else to look at it, even where no host asks for that.
pub async fn propose(
    request: Request,
    needed: usize,
    fleet: &mut Fleet,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let signer = keys::open(settings).await?;
    let report = |event| events::note_dispatch(&event, printer);
    let job = fleet.propose(request, needed.max(2), &signer, report).await?;
    let short = job.id().short();
    let written = watch::print_id(&job, printer);
    printer.report_loss(written, || format!("the job is proposed: ctl job show {short}"));
    let until = moments::local(job.manifest().start_by_ms, fleet.now());
    printer.note(&format!("proposed, nothing was sent; until {until} somebody else may: ctl job approve {short}"));
    Ok(Exit::Success)
}

/// Shows a proposal, asks, and signs it. Whoever completes the number sends it.
pub async fn approve(
    options: Approve,
    fleet: &mut Fleet,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let job = last::find(&options.id.id, fleet, settings).await?;
    let principal = &settings.operator;
    fleet.check_approval(&job, principal, None)?;
    let Some(proposal) = job.proposal(fleet.now()) else { anyhow::bail!("its start-by has just passed") };
    let register = Register::read(settings, fleet.now(), printer);
    let remarks = [register.operator(&job)]
        .iter()
        .chain(&register.approvers(&job))
        .filter_map(Signed::remark)
        .collect::<Vec<_>>();
    for line in shown(&job, proposal, &register, fleet.now()).lines(None).into_iter().chain(remarks) {
        // Nobody is asked about what was not shown.
        if options.yes { printer.note(&line) } else { printer.trouble(&line) }
    }
    agree(&job, principal, options.yes)?;

    let signer = keys::open(settings).await?;
    let report = |event| events::note_dispatch(&event, printer);
    match fleet.approve(&job, principal, &signer, report).await? {
        Approved::Waits(proposal) => {
            let Proposal { signed, needed } = proposal;
            if printer.format() != Format::Table {
                printer.object(&json!({ "job": job.id(), "proposed": { "signed": signed, "needed": needed } }))?;
            }
            printer.note(&format!("approved: {proposal} have signed; {} more needed", needed.saturating_sub(signed)));
            Ok(Exit::Success)
        }
        Approved::Sent(job) => {
            printer.note("approved, and sent: yours was the last signature needed");
            let names: Vec<_> = job.targets().hosts().cloned().collect();
            let hosts = fleet.hosts(&names).await?;
            printer.set_look(options.look);
            let sent = Sent { detach: options.detach, live: Live::following(options.follow), wait: false };
            watch::sent(fleet, &job, &hosts, &sent, printer).await
        }
    }
}

fn agree(job: &Job, principal: &str, sure: bool) -> anyhow::Result<()> {
    if sure {
        return Ok(());
    }
    match Printer::confirm(&format!("Approve it as {principal}?")) {
        Some(true) => Ok(()),
        Some(false) => Err(Advice::new("not approved").into()),
        None => {
            let short = job.id().short();
            let nobody = Advice::new(format!("job {short} was not approved: there is no terminal to ask at"));
            Err(nobody.hint(format!("if you have seen what it does: ctl job approve {short} --yes")).into())
        }
    }
}

/// All that is signed, as far as it decides what happens.
fn shown(job: &Job, proposal: Proposal, register: &Register, now: Millis) -> Table {
    let manifest = job.manifest();
    let mut pairs = Table::of_pairs();
    pairs.pair("job", job.id().to_string());
    if let Some(namespace) = &manifest.namespace {
        pairs.pair("namespace", namespace.to_string());
    }
    let key = job.requester_key().unwrap_or_default();
    let asked = moments::ago(manifest.issued_at_ms, now);
    pairs.pair("asked by", format!("{}, {asked}, with the key {key}", register.operator(job).shown()));
    pairs.pair("action", style::exact(&manifest.action));
    for (name, words) in arguments(&manifest.arguments) {
        pairs.pair(&format!("  {}", style::exact(&name)), words);
    }
    for name in manifest.secret_names() {
        pairs.pair(&format!("  {}", style::exact(name)), "*** (a secret: only who asks for it knows what it is)");
    }
    pairs.pair("timeout", moments::span(Duration::from_millis(manifest.timeout_ms)));
    let names: Vec<_> = job.targets().hosts().map(ToString::to_string).collect();
    pairs.pair("on", format!("{}: {}", summary::hosts(names.len()), names.join(", ")));
    pairs.pair("start by", moments::exact(manifest.start_by_ms));
    let approvers: Vec<_> = register.approvers(job).iter().map(Signed::shown).collect();
    if !approvers.is_empty() {
        pairs.pair("approved by", approvers.join(", "));
    }
    pairs.pair("signed", format!("{proposal}; {} more needed", proposal.needed.saturating_sub(proposal.signed)));
    pairs
}

/// Every argument in full.
pub fn arguments(arguments: &Arguments) -> Vec<(String, String)> {
    let list = |words: &[String]| words.iter().map(|word| style::exact(word)).collect::<Vec<_>>().join(" ");
    let mut shown = Vec::new();
    for (name, argument) in arguments {
        match argument {
            Argument::Boolean(value) => shown.push((name.clone(), value.to_string())),
            Argument::Integer(value) => shown.push((name.clone(), value.to_string())),
            Argument::Text(text) => shown.push((name.clone(), style::exact(text).into_owned())),
            Argument::List(words) => shown.push((name.clone(), list(words))),
            Argument::Map(map) => {
                let pairs = map.iter().map(|(key, value)| (format!("{name}.{key}"), style::exact(value).into_owned()));
                shown.extend(pairs);
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_is_shown_in_full() {
        let long = "x".repeat(300);
        let given = Arguments::from([
            ("argv".into(), Argument::List(vec!["sh".into(), "-c".into(), format!("echo {long}\nrm -r /srv")])),
            ("env".into(), Argument::Map([("A".to_owned(), "\u{202e}b".to_owned())].into())),
            ("top".into(), Argument::Integer(5)),
        ]);
        let expected = [
            ("argv", format!(r"sh -c $'echo {long}\nrm -r /srv'")),
            ("env.A", r"$'\u{202e}b'".to_owned()),
            ("top", "5".to_owned()),
        ];
        assert_eq!(arguments(&given), expected.map(|(name, text)| (name.to_owned(), text)));
    }
}
