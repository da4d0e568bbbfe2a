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

use super::watch;
use crate::{
    cli::{
        fleet_trust::{FleetTrust, public_key, revoked_keys},
        grammar::{RevokeKey, SendTo, SomeHosts, TrustKey},
        keys,
        settings::Settings,
    },
    client::{Fleet, Follower, Host, Request, Selection, shorten, understand},
    output::{Advice, Cell, Exit, Format, Printer, Table, events, moments, style},
};

/// The action that replaces a host's trust files.
const ACTION: &str = "set-trust";

/// Lists whom the fleet trusts, and what hosts have in force.
pub async fn list(whom: SomeHosts, settings: &Settings, printer: &Printer) -> anyhow::Result<()> {
    let Some(own) = FleetTrust::read(settings)? else { return Err(no_copy()) };
    let hosts = match selection(whom) {
        None => Vec::new(),
        Some(selection) => super::connect(settings).await?.select(&selection).await?,
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
    let line = allowed_signers::line(&name, &key, authority, sshsig::JOB, valid_before.as_deref());
    let line = line.ok_or_else(|| keys::odd_name(&name))?;
    let new = own.with(&line)?;
    printer.note(&format!("'{name}' is to have the key {}", key.fingerprint()));
    bring(&own, &new, to, settings, printer).await
}

/// Takes the trust from keys, for good.
pub async fn revoke(options: RevokeKey, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    let own = own_copy(settings).await?;
    let keys = meant(&options.what, &own)?;
    for (key, remark) in &keys {
        printer.note(&format!("{} {remark} is to be revoked", key.fingerprint()));
    }
    let new = own.without(&keys)?;
    bring(&own, &new, options.to, settings, printer).await
}

/// The keys that somebody means by a name, a fingerprint or a file, each with whose it is.
fn meant(what: &str, own: &FleetTrust) -> anyhow::Result<Vec<(Key, String)>> {
    let lines = own.trust.lines();
    let named = |line: &&Line| line.principals() == what || line.key().fingerprint() == what;
    let found: Vec<_> =
        lines.iter().filter(named).map(|line| (line.key().clone(), line.principals().to_owned())).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let path = std::path::Path::new(what);
    if !path.exists() {
        let message =
            format!("'{what}' is neither a principal nor a fingerprint of the fleet's trust file, nor a file");
        bail!(Advice::new(message).hint("whom the fleet trusts: ctl key list"));
    }
    let key = public_key(path)?;
    let whose = lines.iter().find(|line| line.key().blob() == key.blob()).map(Line::principals).unwrap_or_default();
    let whose = whose.to_owned();
    Ok(vec![(key, whose)])
}

/// Sends the copy as it is.
pub async fn send(to: SendTo, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
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
        printer.note(&format!("version {} of {}; nothing was sent", new.trust.version(), own.path().display()));
        return Ok(Exit::Success);
    };
    let mut fleet = super::connect(settings).await?;
    let hosts = fleet.select(&selection).await?;
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
    if taken {
        new.store()?;
        printer.note(&format!("version {} of {}", new.trust.version(), own.path().display()));
    } else {
        printer.note(&format!("no host took it: {} stays as it is", own.path().display()));
    }
    Ok(exit)
}

/// How it went.
struct Reception {
    exit: Exit,
    /// Whether some host took it, or may still do so.
    taken: bool,
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
    let now = fleet.now();
    let reached = hosts.iter().filter(|host| job.reached(&host.name));
    let absent: Vec<_> = reached.filter_map(|host| host.absent(now)).collect();
    events::absent(&absent, job.manifest().start_by_ms, now, printer);
    let mut follower = Follower::of_new(&job);
    follower.known_absent(&absent);
    follower.leave_offline();
    let exit = watch::watch(fleet, &job, &mut follower, printer, false).await?;
    let taken = follower.results().any(|result| result.state == State::Succeeded || !result.has_ended());
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
        format!("{}: a trust file is in force that {copy} (version {ours}) does not come from", shorten(&names))
    };
    let fetch = format!(
        "nothing was sent: it would lose lines of others. Put the trust file and `revoked` of {} there (from /etc/redfleet), and try again",
        first.name
    );
    Err(Advice::new(message).hint(fetch).hint("or overwrite what the hosts have: --force").into())
}

fn selection(whom: SomeHosts) -> Option<Selection> {
    match whom {
        SomeHosts { all: true, .. } => Some(Selection::All),
        SomeHosts { hosts, .. } if !hosts.is_empty() => Some(Selection::Patterns(hosts)),
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
