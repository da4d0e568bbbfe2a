//! `ctl host key`: the key that a host's results must be signed with.

use std::path::{Path, PathBuf};

use protocol::{
    name::{HostName, Namespace},
    trust::key::Key,
};
use serde_json::{Value, json};

use crate::{
    client::{Fleet, known_name},
    output::{Advice, Cell, Format, Printer, Table, style},
};

/// What shows a host's key on the host.
const CHECK: &str = "worker --config /etc/redfleet/worker.toml --check-config";

/// What shall become of the key that is trusted.
pub enum Change {
    /// Nothing.
    None,
    /// It shall be this one: a key, the fingerprint of the one that the host publishes, or (empty) whichever that is.
    Pin {
        /// What was typed.
        typed: String,
        /// Not to be asked.
        sure: bool,
    },
    /// There shall be none.
    Forget,
}

/// The keys of a host: those that are trusted, and the one that it publishes.
pub struct HostKeys {
    known: Vec<Key>,
    published: Option<Key>,
    file: PathBuf,
}

impl HostKeys {
    /// Reads them.
    pub async fn of(host: &HostName, namespace: Option<&Namespace>, fleet: &mut Fleet) -> anyhow::Result<Self> {
        let published = fleet.published_key(host).await?;
        let known_hosts = fleet.known_hosts();
        let known = known_hosts.keys(&known_name(namespace, host)).to_vec();
        Ok(Self { known, published, file: known_hosts.path().map(Path::to_owned).unwrap_or_default() })
    }

    /// Whether the host publishes a key that is not the known one.
    fn differ(&self) -> bool {
        let is_known = |key: &Key| self.known.iter().any(|known| known.blob() == key.blob());
        !self.known.is_empty() && self.published.as_ref().is_some_and(|key| !is_known(key))
    }

    /// The keys in a word or two.
    pub fn cell(&self) -> Cell {
        match &self.published {
            _ if self.differ() => Cell::styled("another one than the known one: ctl host key", style::BAD),
            Some(key) if self.known.is_empty() => Cell::from(format!("{} (not known yet)", key.fingerprint())),
            _ if self.known.is_empty() => Cell::from("not known"),
            _ => Cell::from(fingerprints(&self.known)),
        }
    }

    /// The keys for scripts.
    pub fn object(&self) -> Value {
        json!({
            "known": self.known.iter().map(object).collect::<Vec<_>>(),
            "published": self.published.as_ref().map(object),
            "known_hosts": self.file,
        })
    }

    fn table(&self, host: &HostName) -> Table {
        let mut pairs = Table::of_pairs();
        pairs.pair("host", host.as_str());
        let known = if self.known.is_empty() { "none".into() } else { fingerprints(&self.known) };
        pairs.pair("trusted", format!("{known} ({})", self.file.display()));
        let published = self.published.as_ref().map_or_else(|| "none".into(), Key::fingerprint);
        pairs.pair("published", if self.differ() { Cell::styled(&published, style::BAD) } else { published.into() });
        pairs
    }
}

/// Shows or changes the key that is trusted.
pub async fn run(
    host: &HostName,
    change: &Change,
    namespace: Option<&Namespace>,
    fleet: &mut Fleet,
    printer: &Printer,
) -> anyhow::Result<()> {
    let name = known_name(namespace, host);
    match change {
        Change::None => {}
        Change::Forget => {
            let forgotten = fleet.known_hosts().forget(&name)?;
            if forgotten.is_empty() {
                return Err(Advice::new(format!("no key of {host} is known")).into());
            }
            let keys = fingerprints(&forgotten);
            if printer.format() != Format::Table {
                let forgotten: Vec<_> = forgotten.iter().map(object).collect();
                printer.object(&json!({ "host": host, "forgotten": forgotten }))?;
            }
            printer.note(&format!("{host}: {keys} is forgotten; the next key that signs a result is trusted"));
            return Ok(());
        }
        Change::Pin { typed, sure } => {
            let key = meant(host, typed, *sure, fleet).await?;
            let before = fleet.known_hosts().pin(&name, &key)?;
            if printer.format() != Format::Table {
                let before: Vec<_> = before.iter().map(object).collect();
                printer.object(&json!({ "host": host, "pinned": object(&key), "before": before }))?;
            }
            let instead = before.iter().any(|before| before.blob() != key.blob());
            let instead = if instead { format!(", and not {}", fingerprints(&before)) } else { String::new() };
            printer.note(&format!("{host}: {} is trusted from now on{instead}", key.fingerprint()));
            return Ok(());
        }
    }
    let keys = HostKeys::of(host, namespace, fleet).await?;
    if printer.format() != Format::Table {
        let mut object = keys.object();
        object["host"] = json!(host);
        return printer.object(&object);
    }
    printer.table(&keys.table(host))?;
    if keys.differ() {
        printer.trouble(&format!(
            "{host} publishes another key than the trusted one. Ask there which is right ({CHECK}); if it is the \
             new one: ctl host key {host} --pin"
        ));
    }
    Ok(())
}

/// The key that is to be pinned. One that only Redis vouches for is shown first.
async fn meant(host: &HostName, typed: &str, sure: bool, fleet: &mut Fleet) -> anyhow::Result<Key> {
    let mut words = typed.split_ascii_whitespace();
    if let (Some(kind), Some(key)) = (words.next(), words.next()) {
        if kind != "ssh-ed25519" {
            return Err(Advice::new(format!("the key of a host is of type ssh-ed25519, not {kind}")).into());
        }
        return Ok(Key::from_words(kind, key)?);
    }
    let unpublished = || {
        let hint = format!(
            "is its worker running, and recent? Or name the key: --pin='ssh-ed25519 AAAA…'; ctl host show {host}"
        );
        Advice::new(format!("{host} publishes no key")).hint(hint)
    };
    let key = fleet.published_key(host).await?.ok_or_else(unpublished)?;
    let fingerprint = key.fingerprint();
    if typed == fingerprint || (typed.is_empty() && sure) {
        return Ok(key);
    }
    if !typed.is_empty() {
        let other = Advice::new(format!("{host} publishes the key {fingerprint}, and not '{typed}'"));
        return Err(other.hint(format!("which one has it? On {host}: {CHECK}")).into());
    }
    let question = format!("{host} publishes the key {fingerprint}. `{CHECK}` shows it there. Trust it?");
    match Printer::confirm(&question) {
        Some(true) => Ok(key),
        Some(false) => Err(Advice::new("nothing was changed").into()),
        None => {
            let error = Advice::new(format!("whether {fingerprint} is the key of {host} must be confirmed"));
            Err(error.hint(format!("if it is: ctl host key {host} --pin={fingerprint}")).into())
        }
    }
}

/// A key for scripts.
fn object(key: &Key) -> Value {
    json!({ "fingerprint": key.fingerprint(), "key": key.line() })
}

fn fingerprints(keys: &[Key]) -> String {
    keys.iter().map(Key::fingerprint).collect::<Vec<_>>().join(" or ")
}
