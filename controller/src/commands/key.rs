//! `ctl key`: the key that signs what the operator sends. `trust.rs` has the keys of others.

use anyhow::{Context, ensure};
use protocol::trust::{key::Key, sshsig::Signature};
use serde_json::json;
use zeroize::Zeroizing;

use super::trust;
use crate::{
    cli::{
        grammar::{Key as Command, NewKey},
        key_file, keys,
        passphrase::{self, NO_TERMINAL},
        settings::Settings,
    },
    output::{Advice, Exit, Format, Printer, Table},
};

/// The purpose of a test document: no host takes it for anything.
const CHECK: &str = "redfleet-check@v1";

/// Runs a command on the operator's key.
pub async fn run(command: Command, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    match command {
        Command::Init(options) => init(options, settings, printer)?,
        Command::Show { check } => show(check, settings, printer).await?,
        Command::List(whom) => trust::list(whom, settings, printer).await?,
        Command::Trust(options) => return trust::trust(options, settings, printer).await,
        Command::Revoke(options) => return trust::revoke(options, settings, printer).await,
        Command::Send(to) => return trust::send(to, settings, printer).await,
    }
    Ok(Exit::Success)
}

/// Makes a key.
fn init(options: NewKey, settings: &Settings, printer: &Printer) -> anyhow::Result<()> {
    let own = || settings.keys.own.clone();
    let path = options.file.or_else(own).ok_or_else(|| {
        Advice::new("no place for the key: HOME is not set").hint("name a file: ctl key init --file FILE")
    })?;
    // The private key is named, even if its public half was.
    let path = key_file::beside(&path, "");
    let private = key_file::generate(&options.comment.unwrap_or_else(|| settings.operator.clone()))?;
    let key = Key::from_bytes(&private.public_key().to_bytes()?)?;
    let line = keys::signers_line(&key, None, settings)?;
    // Before anything is asked.
    key_file::ensure_absent(&path)?;
    let passphrase = if options.no_passphrase { None } else { new_passphrase()? };
    key_file::store(&private, &path, passphrase.as_ref().map(|text| text.as_str()))?;
    if printer.format() == Format::Table {
        printer.line(&line)?;
        printer.note(&format!(
            "made {} ({}); hosts need the line above to trust it",
            path.display(),
            key.fingerprint()
        ));
        return Ok(());
    }
    printer.object(&json!({
        "file": path.display().to_string(),
        "fingerprint": key.fingerprint(),
        "principal": settings.operator,
        "allowed_signers": line,
    }))
}

/// Asks for a new passphrase, twice; an empty one is none.
fn new_passphrase() -> anyhow::Result<Option<Zeroizing<String>>> {
    let ask = |prompt| {
        passphrase::ask(prompt).map_err(|error| {
            let advice = Advice::new(format!("no passphrase for the key: {error}"));
            if error.kind() == NO_TERMINAL {
                advice.hint("run it on a terminal").hint("or make a key without one: ctl key init --no-passphrase")
            } else {
                advice
            }
        })
    };
    let first = ask("new passphrase (empty for none): ")?;
    if first.is_empty() {
        return Ok(None);
    }
    ensure!(*ask("the same again: ")? == *first, "these are two different passphrases; nothing was made");
    Ok(Some(first))
}

/// Shows which key would sign.
async fn show(check: bool, settings: &Settings, printer: &Printer) -> anyhow::Result<()> {
    let found = keys::find(settings).await?;
    let line = keys::signers_line(&found.public, found.certificate.as_ref(), settings)?;
    let file = found.path.as_ref().map(|path| path.display().to_string());
    let private = found.private();
    let keys::Found { public: key, certificate, unusable, .. } = found;
    if check {
        let document = b"a test document";
        let bytes = keys::open(settings).await?.sign(CHECK, document).await?;
        let signature = Signature::from_bytes(&bytes).and_then(|signature| signature.verify(CHECK, document));
        signature.context("the key signed a test document, but")?;
    }
    if printer.format() != Format::Table {
        let certificate = certificate.as_ref().map(|certificate| {
            json!({
                "id": certificate.id(),
                "serial": certificate.serial(),
                "authority": certificate.authority().fingerprint(),
            })
        });
        return printer.object(&json!({
            "file": file,
            "private": private,
            "type": key.type_name(),
            "fingerprint": key.fingerprint(),
            "certificate": certificate,
            "certificate_unusable": unusable.map(|(_, fault)| fault.to_string()),
            "principal": settings.operator,
            "allowed_signers": line,
            "checked": check,
        }));
    }
    let mut pairs = Table::of_pairs();
    pairs.pair("key", file.unwrap_or_else(|| "in ssh-agent".into()));
    pairs.pair("private half", private);
    pairs.pair("type", key.type_name());
    pairs.pair("fingerprint", key.fingerprint());
    if let Some(certificate) = &certificate {
        pairs.pair("certificate", format!("{} (serial {})", certificate.id(), certificate.serial()));
        pairs.pair("authority", certificate.authority().fingerprint());
    }
    if let Some((certificate, fault)) = &unusable {
        pairs.pair("certificate", format!("{} is not used: {fault}", certificate.id()));
    }
    pairs.pair("principal", &settings.operator);
    if check {
        pairs.pair("checked", "it has signed a test document");
    }
    printer.table(&pairs.folded())?;
    printer.line("")?;
    printer.line(&line)?;
    printer.note("hosts that have the line above in their allowed_signers trust it");
    Ok(())
}
