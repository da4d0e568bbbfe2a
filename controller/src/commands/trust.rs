//! `ctl key list`, `trust`, `revoke` and `send`: whom the fleet trusts. Hosts take it from somebody who is trusted already.

use anyhow::bail;
use protocol::{
    outcome::State,
    status::Status,
    targets::Targets,
    time::show_moment,
    trust::{
        allowed_signers::{self, Line},
        key::Key,
        revocation, sshsig,
    },
};
use serde_json::{Value, json};

use super::{
    selected::select,
    watch::{self, Live},
};
use crate::{
    cli::{
        fleet_trust::{FleetTrust, public_key, revoked_keys},
        grammar::{RevokeKey, SendAgain, SendTo, SomeHosts, TrustKey},
        keys,
        settings::Settings,
        targeting::joined,
    },
    client::{Fleet, Host, HostResult, Request, Selection, shorten, understand},
    output::{Advice, Cell, Exit, Format, Printer, Table, events, moments, style},
};

/// The action that replaces a host's trust files.
const ACTION: &str = "set-trust";

/// Lists whom the fleet trusts, and what hosts have in force.
pub async fn list(whom: SomeHosts, settings: &Settings, printer: &Printer) -> anyhow::Result<()> {
    let Some(own) = FleetTrust::read(settings)? else { return Err(no_copy()) };
    let hosts = match selection(whom) {
        None => Vec::new(),
        Some(selection) => select(&selection, &mut super::connect(settings).await?, printer).await?.0,
    };
    let revoked = revoked_keys(own.revoked.as_deref().unwrap_or_default());
    if printer.format() != Format::Table {
        let host = |host: &Host| {
            let version = host.status.as_ref().map(|status| status.trust_version);
            json!({ "host": host.name, "version": version, "state": standing(host, &own) })
        };
        return printer.object(&json!({
            "file": own.path().display().to_string(),
            "version": own.trust.version(),
            "digest": own.digest(),
            "keys": own.trust.lines().iter().map(object).collect::<Vec<_>>(),
            "revoked": revoked.iter().map(|(key, remark)| json!({ "fingerprint": key.fingerprint(), "remark": remark })).collect::<Vec<_>>(),
            "hosts": hosts.iter().map(host).collect::<Vec<_>>(),
        }));
    }
    let mut table = Table::new(["PRINCIPALS", "TYPE", "FINGERPRINT", "VALID", "FOR"]);
    for line in own.trust.lines() {
        let kind = if line.is_authority() { "authority" } else { line.key().type_name() };
        let purposes = line.namespaces().unwrap_or("everything");
        table.row([
            line.principals().into(),
            kind.into(),
            line.key().fingerprint().into(),
            window(line).into(),
            purposes.into(),
        ]);
    }
    for (key, remark) in &revoked {
        let cells = [remark.into(), key.type_name().into(), key.fingerprint().into()];
        table.row(cells.into_iter().chain([Cell::styled("revoked", style::BAD), "nothing".into()]));
    }
    printer.table(&table)?;
    printer.note(&format!("version {} of {}", own.trust.version(), own.path().display()));
    if hosts.is_empty() {
        return Ok(());
    }
    printer.line("")?;
    let mut table = Table::new(["HOST", "VERSION", "IN FORCE"]);
    for host in &hosts {
        let version = host.status.as_ref().map(|status| status.trust_version.to_string()).unwrap_or_default();
        let state = standing(host, &own);
        let style = if state == "the same" { style::GOOD } else { style::WARNING };
        table.row([host.name.as_str().into(), version.into(), Cell::styled(state, style)]);
    }
    printer.table(&table)
}

/// How what a host has in force compares with the copy.
fn standing(host: &Host, own: &FleetTrust) -> &'static str {
    let Some(status) = &host.status else { return "unknown" };
    match status {
        Status { trust_digest, .. } if *trust_digest == own.digest() => "the same",
        Status { trust_digest, .. } if trust_digest.is_empty() => "nothing",
        Status { trust_version, .. } if *trust_version > own.trust.version() => "newer",
        status if own.knows(status) => "older",
        _ => "another file",
    }
}

fn window(line: &Line) -> String {
    let moment = |seconds: u64| moments::exact(seconds.saturating_mul(1000));
    match (line.valid_after(), line.valid_before()) {
        (None, None) => "always".to_owned(),
        (Some(from), None) => format!("from {}", moment(from)),
        (None, Some(until)) => format!("until {}", moment(until)),
        (Some(from), Some(until)) => format!("{} to {}", moment(from), moment(until)),
    }
}

fn object(line: &Line) -> Value {
    let moment = |seconds: Option<u64>| seconds.map(|seconds| show_moment(seconds.saturating_mul(1000)));
    json!({
        "principals": line.principals(),
        "authority": line.is_authority(),
        "type": line.key().type_name(),
        "fingerprint": line.key().fingerprint(),
        "valid_after": moment(line.valid_after()),
        "valid_before": moment(line.valid_before()),
        "namespaces": line.namespaces(),
    })
}

/// Lets a key speak for somebody.
pub async fn trust(options: TrustKey, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    let TrustKey { name, file, valid_before, authority, to } = options;
    let key = public_key(&file)?;
    let own = own_copy(settings).await?;
    if revoked_keys(own.revoked.as_deref().unwrap_or_default()).iter().any(|(revoked, _)| revoked.blob() == key.blob())
    {
        bail!(Advice::new(format!("the key {} is revoked", key.fingerprint())).hint("make another one: ctl key init"));
    }
    let same = |line: &&Line| line.key().blob() == key.blob() && line.is_for(&name) && line.is_authority() == authority;
    if let Some(line) = own.trust.lines().iter().find(same) {
        let message = format!("'{name}' has the key {} already (line {})", key.fingerprint(), line.number());
        let edit = format!("to change that, edit {}, raise '# version:', and: ctl key send", own.path().display());
        bail!(Advice::new(message).hint(edit).hint("to bring it to more hosts: ctl key send"));
    }
    let line = allowed_signers::line(&name, &key, authority, sshsig::OPERATOR, valid_before.as_deref());
    let line = line.ok_or_else(|| keys::odd_name(&name))?;
    let new = own.with(&line)?;
    printer.note(&format!("'{name}' is to have the key {}", key.fingerprint()));
    bring(&own, &new, to, settings, printer).await
}

/// Takes the trust from keys, for good.
pub async fn revoke(options: RevokeKey, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    let own = own_copy(settings).await?;
    let keys = meant(&options.what, &own, printer)?;
    for (key, remark) in &keys {
        printer.note(&format!("{} {remark} is to be revoked", key.fingerprint()));
    }
    let new = own.without(&keys)?;
    bring(&own, &new, options.to, settings, printer).await
}

/// The keys that somebody means by a name, a fingerprint or a file, each with whose it is. A line that is for a name only
/// by a pattern is for others, too: it is named, and stays.
fn meant(what: &str, own: &FleetTrust, printer: &Printer) -> anyhow::Result<Vec<(Key, String)>> {
    let lines = own.trust.lines();
    let pair = |line: &Line| (line.key().clone(), line.principals().to_owned());
    let by_fingerprint: Vec<_> = lines.iter().filter(|line| line.key().fingerprint() == what).map(pair).collect();
    if !by_fingerprint.is_empty() {
        return Ok(without_repeats(by_fingerprint));
    }
    let (named, matching): (Vec<_>, Vec<_>) = lines
        .iter()
        .filter(|line| line.is_for(what))
        .partition(|line| line.principals().split(',').any(|one| one == what));
    let others = matching.iter().map(|line| {
        let (number, key, principals) = (line.number(), line.key().fingerprint(), line.principals());
        format!(
            "line {number} of {} lets the key {key} speak for '{what}', as one of '{principals}'",
            own.path().display()
        )
    });
    if !named.is_empty() {
        others.for_each(|line| printer.warn(&format!("not revoked: {line}")));
        return Ok(without_repeats(named.into_iter().map(pair).collect()));
    }
    let path = std::path::Path::new(what);
    if !path.exists() {
        if matching.is_empty() {
            let message =
                format!("'{what}' is neither a principal nor a fingerprint of the fleet's trust file, nor a file");
            bail!(Advice::new(message).hint("whom the fleet trusts: ctl key list"));
        }
        let message = format!("no line of the fleet's trust file names '{what}'");
        let advice = others.fold(Advice::new(message), Advice::hint);
        bail!(advice.hint("to revoke such a key for all whom it speaks for: ctl key revoke FINGERPRINT"));
    }
    let key = public_key(path)?;
    let whose = lines.iter().find(|line| line.key().blob() == key.blob()).map(Line::principals).unwrap_or_default();
    let whose = whose.to_owned();
    Ok(vec![(key, whose)])
}

/// Each key once: several lines may have it.
fn without_repeats(keys: Vec<(Key, String)>) -> Vec<(Key, String)> {
    let mut once: Vec<(Key, String)> = Vec::new();
    for (key, whose) in keys {
        if once.iter().all(|(known, _)| known.blob() != key.blob()) {
            once.push((key, whose));
        }
    }
    once
}

/// Sends the copy as it is.
pub async fn send(options: SendAgain, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    let SendAgain { whom, force } = options;
    let to = SendTo { whom, local: false, force };
    let own = own_copy(settings).await?;
    bring(&own, &own, to, settings, printer).await
}

/// Brings a new version to hosts. The copy follows once a host has taken it, or may still take it: a host must never
/// have a version that nobody has a copy of.
async fn bring(
    own: &FleetTrust,
    new: &FleetTrust,
    to: SendTo,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let SendTo { whom, local, force } = to;
    let Some(selection) = selection(whom).filter(|_| !local) else {
        new.store()?;
        if printer.format() != Format::Table {
            let (version, digest) = (new.trust.version(), new.digest());
            let file = own.path().display().to_string();
            printer.object(&json!({ "file": file, "version": version, "digest": digest, "sent": false }))?;
        }
        printer.note(&format!("version {} of {}; nothing was sent", new.trust.version(), own.path().display()));
        return Ok(Exit::Success);
    };
    let mut fleet = super::connect(settings).await?;
    let (hosts, left_out) = select(&selection, &mut fleet, printer).await?;
    if !force {
        refuse_unknown(&hosts, own, new)?;
    }
    let mut typed = vec![format!("signers={}", new.signers)];
    typed.extend(new.revoked.as_ref().map(|list| format!("revoked={}", revocation::to_text(list))));
    typed.extend(force.then(|| "force=true".to_owned()));
    let understood = understand(&hosts, ACTION, &typed, &[])?;
    let request = Request {
        action: ACTION.into(),
        arguments: understood.arguments,
        secrets: understood.secrets,
        targets: Targets::new(hosts.iter().map(|host| host.name.clone())),
        timeout: understood.timeout,
        start_by: settings.start_by,
        retention: settings.retention,
        keep_output: None,
        operator: settings.operator.clone(),
        trace: settings.trace.clone(),
    };
    let Reception { exit, taken } = dispatch(request, &hosts, &mut fleet, settings, printer).await?;
    let path = own.path();
    let path = path.display();
    if taken != Taken::Nowhere {
        new.store()?;
        printer.note(&format!("version {} of {path}", new.trust.version()));
    }
    match taken {
        Taken::Somewhere => {}
        Taken::Perhaps => {
            printer.warn("no host has confirmed it, but some may have it, or may still take it: ctl key list --all");
        }
        Taken::Nowhere => printer.note(&format!("no host took it: {path} stays as it is")),
    }
    Ok(exit.with_left_out(left_out))
}

/// How it went.
struct Reception {
    exit: Exit,
    taken: Taken,
}

/// Whether a host has the new version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Taken {
    /// No host has.
    Nowhere,
    /// Some may have it, or may still take it.
    Perhaps,
    /// A host has said so.
    Somewhere,
}

/// The beginnings of what a host says that has refused a version before it wrote anything.
const REFUSALS: [&str; 1] = ["the new trust file "];

/// The same of one whose file is not the worker's.
const FOREIGN: &str = " is not the worker's to write: ";

/// Whether this host has the new version.
fn taken(result: &HostResult) -> Taken {
    // Without an outcome it is not known: what is published may be forged.
    let Some(outcome) = &result.outcome else { return Taken::Perhaps };
    match outcome.state {
        State::Succeeded => Taken::Somewhere,
        State::Rejected | State::Expired => Taken::Nowhere,
        State::Cancelled if outcome.started_at_ms.is_none() => Taken::Nowhere,
        State::Failed => {
            let reason = outcome.reason.as_deref().unwrap_or_default();
            let is_refusal = REFUSALS.iter().any(|begin| reason.starts_with(begin)) || reason.contains(FOREIGN);
            if is_refusal { Taken::Nowhere } else { Taken::Perhaps }
        }
        _ => Taken::Perhaps,
    }
}

async fn dispatch(
    request: Request,
    hosts: &[Host],
    fleet: &mut Fleet,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<Reception> {
    let signer = keys::open(settings).await?;
    let job = fleet.dispatch(request, &signer, &mut |event| events::note_dispatch(&event, printer)).await?;
    let mut follower = watch::follower(&job, hosts, false, fleet.now(), printer);
    let exit = watch::watch(fleet, &job, &mut follower, printer, Live::Results).await?;
    let taken = follower.results().map(taken).max().unwrap_or(Taken::Nowhere);
    Ok(Reception { exit, taken })
}

/// Refuses to overwrite what is not a prior version of the copy: it may have lines of others.
fn refuse_unknown(hosts: &[Host], own: &FleetTrust, new: &FleetTrust) -> anyhow::Result<()> {
    let is_unknown = |host: &&Host| {
        host.status.as_ref().is_some_and(|status| !own.knows(status) && status.trust_digest != new.digest())
    };
    let unknown: Vec<_> = hosts.iter().filter(is_unknown).collect();
    let Some(first) = unknown.first() else { return Ok(()) };
    let names: Vec<_> = unknown.iter().map(|host| &host.name).collect();
    let version = first.status.as_ref().map_or(0, |status| status.trust_version);
    let copy = own.path();
    let (copy, ours) = (copy.display(), own.trust.version());
    let message = if version > ours {
        format!("{}: version {version} of the trust file is in force, and {copy} is version {ours}", shorten(&names))
    } else {
        let verb = if names.len() == 1 {
            "its trust file is not an earlier version"
        } else {
            "their trust files are not earlier versions"
        };
        format!("{}: {verb} of {copy} (version {ours})", shorten(&names))
    };
    let fetch = format!(
        "nothing was sent: it would lose lines of others. Put the trust file and `revoked` of {} there (from /etc/redfleet), and try again",
        first.name
    );
    Err(Advice::new(message).hint(fetch).hint("or overwrite what the hosts have: --force").into())
}

fn selection(whom: SomeHosts) -> Option<Selection> {
    match whom {
        SomeHosts { all: true, .. } => Some(Selection::all()),
        SomeHosts { hosts, .. } if !hosts.is_empty() => Some(Selection { words: joined(&hosts), ..Selection::all() }),
        _ => None,
    }
}

/// The operator's copy, or else a first one with their own key.
pub async fn own_copy(settings: &Settings) -> anyhow::Result<FleetTrust> {
    if let Some(own) = FleetTrust::read(settings)? {
        return Ok(own);
    }
    let found = keys::find(settings).await?;
    FleetTrust::begin(settings, &keys::signers_line(&found.public, found.certificate.as_ref(), settings)?)
}

fn no_copy() -> anyhow::Error {
    Advice::new("there is no copy of the fleet's trust file here")
        .hint("make one with the first host: ctl host enroll NAME")
        .hint("or copy /etc/redfleet/allowed_signers of a host to ~/.config/redfleet/fleet/")
        .into()
}
