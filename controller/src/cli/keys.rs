//! The operator's key: which one it is, and what it takes to sign with it.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use protocol::trust::{
    allowed_signers,
    certificate::{Certificate, CertificateFault},
    key::Key,
    sshsig,
};
use ssh_key::{Algorithm, Error as KeyFault, PrivateKey, PublicKey};
use tokio::task::spawn_blocking;

use super::{
    key_file::{self, KeyFile},
    passphrase::{self, NO_TERMINAL},
    settings::Settings,
};
use crate::{
    client::{Agent, Signer},
    output::{Advice, Printer},
};

/// How often a passphrase is asked for: as often as ssh does.
const ATTEMPTS: usize = 3;

/// The operator's key, before anything is asked.
#[derive(Debug)]
pub struct Found {
    /// Its file; none where only ssh-agent has it.
    pub path: Option<PathBuf>,
    /// The public key, of a type that hosts accept.
    pub public: Key,
    /// What signatures will carry instead of the bare key.
    pub certificate: Option<Certificate>,
    /// A certificate that is there and not used, and why.
    pub unusable: Option<(Certificate, CertificateFault)>,
    half: Half,
}

/// Where the private half is.
#[derive(Debug)]
enum Half {
    /// In the file, perhaps encrypted.
    File(Box<PrivateKey>),
    /// In ssh-agent, under this key or certificate.
    Agent(Agent, Vec<u8>),
}

/// Finds the operator's key and opens it. Asks for the passphrase on the terminal where that is needed.
///
/// # Errors
/// There is no key, or it cannot be used; the error tells what to do.
pub async fn open(settings: &Settings) -> anyhow::Result<Signer> {
    let found = find(settings).await?;
    let printer = Printer::new(settings.format, settings.quiet, settings.colour);
    // One for somebody else is for another purpose: the user's name on servers, say.
    if let Some((certificate, fault)) = &found.unusable
        && !matches!(fault, CertificateFault::Principal { .. })
    {
        printer.warn(&format!("the key's certificate '{}' is not used: {fault}", certificate.id()));
    }
    let (quiet, format, colour) = (settings.quiet, settings.format, settings.colour);
    let waiting = move || Printer::new(format, quiet, colour).note("waiting for ssh-agent: touch the key, or confirm");
    Ok(found.open().await?.when_waiting(waiting))
}

/// Finds the operator's key: the one that is named, or else the first one in the usual places. Nothing is asked.
///
/// # Errors
/// There is no key, or it is none that can sign.
pub async fn find(settings: &Settings) -> anyhow::Result<Found> {
    let places = &settings.keys;
    let agent = places.agent.as_ref().map(Agent::at);
    let usual = || [&places.stack, &places.own, &places.ssh].into_iter().flatten().find(|path| path.exists());
    if let Some(path) = places.named.as_ref().or_else(usual) {
        return of_file(path, agent, &settings.operator).await;
    }
    let held = held(agent, None).await.map_err(|reason| {
        Advice::new(format!("no key to sign with ({reason})"))
            .hint("make one: ctl key init")
            .hint("or name one with --key FILE, REDFLEET_KEY, or `key = \"FILE\"` in the settings file")
    })?;
    let (certificate, unusable) = choose(held.certificates, &settings.operator);
    let half = Half::Agent(held.agent, held.identity);
    Ok(Found { path: None, public: held.public, certificate, unusable, half })
}

/// The line by which hosts trust the operator's key, or the authority of its certificate.
///
/// # Errors
/// The operator's name cannot stand in a trust file.
pub fn signers_line(key: &Key, certificate: Option<&Certificate>, settings: &Settings) -> anyhow::Result<String> {
    let trusted = certificate.map_or(key, Certificate::authority);
    let line = allowed_signers::line(&settings.operator, trusted, certificate.is_some(), sshsig::OPERATOR, None);
    let hint = "it is REDFLEET_OPERATOR, or `operator` in the settings file";
    Ok(line.ok_or_else(|| odd_name(&settings.operator).hint(hint))?)
}

/// The error where a name cannot stand in a trust file.
pub fn odd_name(name: &str) -> Advice {
    Advice::new(format!("'{name}' cannot be the name of an operator in allowed_signers"))
        .hint("choose one of letters, digits and @.-_")
}

/// The key that a file is about.
async fn of_file(path: &Path, agent: Option<Agent>, operator: &str) -> anyhow::Result<Found> {
    let (public, in_file, own) = match key_file::read(path)? {
        // The file of a hardware key holds only what the device needs to find the key.
        KeyFile::Private(key) => (accepted(key.public_key(), path)?, Some(key).filter(|key| !is_hardware(key)), None),
        KeyFile::Public(key) => (accepted(&key, path)?, None, None),
        KeyFile::Certificate(certificate) => (certificate.key().clone(), None, Some(*certificate)),
    };
    let mut certificates: Vec<_> = own.into_iter().chain(key_file::read_certificate(path)?).collect();
    let half = match in_file {
        Some(key) if !key.is_encrypted() => Half::File(key),
        in_file => match (held(agent, Some(&public)).await, in_file) {
            (Ok(held), _) => {
                certificates.extend(held.certificates);
                Half::Agent(held.agent, held.identity)
            }
            (Err(_), Some(encrypted)) => Half::File(encrypted),
            (Err(reason), None) => {
                let private = key_file::beside(path, "");
                let message = format!("cannot sign with the key {}: {reason}", path.display());
                return Err(Advice::new(message).hint(format!("add it: ssh-add {}", private.display())).into());
            }
        },
    };
    let (certificate, unusable) = choose(certificates, operator);
    Ok(Found { path: Some(path.to_owned()), public, certificate, unusable, half })
}

/// The public key, if hosts accept keys of its type.
fn accepted(key: &PublicKey, path: &Path) -> anyhow::Result<Key> {
    let bytes = key.to_bytes()?;
    Key::from_bytes(&bytes).map_err(|error| {
        Advice::new(format!("cannot sign with the key {}: {error}", path.display()))
            .hint("make another one: ctl key init")
            .into()
    })
}

fn is_hardware(key: &PrivateKey) -> bool {
    matches!(key.algorithm(), Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256)
}

/// A key that ssh-agent holds.
struct Held {
    agent: Agent,
    public: Key,
    /// What the agent has it under.
    identity: Vec<u8>,
    certificates: Vec<Certificate>,
}

/// Asks ssh-agent for a key, or else for its first one that hosts accept. If it has none, the error is why.
async fn held(agent: Option<Agent>, wanted: Option<&Key>) -> Result<Held, String> {
    let agent = agent.ok_or("there is no ssh-agent: SSH_AUTH_SOCK is not set")?;
    let identities = agent.identities().await.map_err(|error| error.to_string())?;
    let certificate = |blob: &[u8]| Certificate::from_bytes(blob).ok();
    let public = |blob: &[u8]| Key::from_bytes(blob).ok().or_else(|| Some(certificate(blob)?.key().clone()));
    let mut usable = identities.into_iter().filter_map(|identity| Some((public(&identity.blob)?, identity.blob)));
    let is_wanted = |key: &Key| wanted.is_none_or(|wanted| wanted.blob() == key.blob());
    let Some((public, identity)) = usable.find(|(key, _)| is_wanted(key)) else {
        let what = if wanted.is_some() { "this key" } else { "a key of a type that is accepted" };
        return Err(format!("ssh-agent does not hold {what}"));
    };
    // ssh-add adds a key and its certificate one after the other.
    let others = usable.filter(|(key, _)| key.blob() == public.blob()).map(|(_, blob)| blob);
    let certificates = [identity.clone()].into_iter().chain(others).filter_map(|blob| certificate(&blob)).collect();
    Ok(Held { agent, public, identity, certificates })
}

/// The first certificate that speaks for the operator today, or else why the first one does not: no host would take
/// it, while the bare key may be trusted.
fn choose(
    certificates: Vec<Certificate>,
    operator: &str,
) -> (Option<Certificate>, Option<(Certificate, CertificateFault)>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut unusable = None;
    for certificate in certificates {
        match certificate.judge(operator, now) {
            Ok(()) => return (Some(certificate), None),
            Err(fault) => {
                unusable.get_or_insert((certificate, fault));
            }
        }
    }
    (None, unusable)
}

impl Found {
    /// Where the private half is, in words.
    pub fn private(&self) -> &'static str {
        match &self.half {
            Half::Agent(..) => "in ssh-agent",
            Half::File(key) if key.is_encrypted() => "in the file, with a passphrase",
            Half::File(_) => "in the file",
        }
    }

    async fn open(self) -> anyhow::Result<Signer> {
        let signer = match self.half {
            Half::Agent(agent, identity) => {
                Signer::from_agent(PublicKey::from_bytes(self.public.blob())?, agent, identity)
            }
            Half::File(key) if key.is_encrypted() => {
                let path = self.path.unwrap_or_default();
                Signer::from_private(spawn_blocking(move || decrypt(&key, &path)).await??)?
            }
            Half::File(key) => Signer::from_private(*key)?,
        };
        Ok(match self.certificate {
            Some(certificate) => signer.certified(certificate)?,
            None => signer,
        })
    }
}

/// Asks for the passphrase until it is right.
fn decrypt(key: &PrivateKey, path: &Path) -> anyhow::Result<PrivateKey> {
    let cannot =
        |error: &dyn std::fmt::Display| Advice::new(format!("cannot open the key {}: {error}", path.display()));
    let to_agent = || format!("or add it to ssh-agent, which asks only once: ssh-add {}", path.display());
    for attempt in 1..=ATTEMPTS {
        let which = if attempt == 1 { String::new() } else { format!(" (attempt {attempt} of {ATTEMPTS})") };
        let passphrase = passphrase::ask(&format!("passphrase of {}{which}: ", path.display()));
        let passphrase = passphrase.map_err(|error| match error.kind() {
            NO_TERMINAL => {
                cannot(&format!("it has a passphrase, and {error}")).hint("run it on a terminal").hint(to_agent())
            }
            _ => cannot(&error),
        })?;
        match key.decrypt(passphrase.as_bytes()) {
            Err(KeyFault::Crypto) => {}
            key => return Ok(key.map_err(|error| cannot(&error))?),
        }
    }
    Err(cannot(&format!("its passphrase is another one ({ATTEMPTS} attempts)")).into())
}
