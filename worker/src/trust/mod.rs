//! Whom this host trusts: the trust file and the list of what is revoked, reread when they change.
//!
//! What was last in force is kept in the state directory. A file that is gone, broken, or older than that never takes
//! its place: whoever can put an old file back must not thereby bring back who was trusted then.

mod change;

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use protocol::{
    limits,
    trust::{
        self, Trust, TrustFileError, Untrusted, digest,
        sshsig::{Signature, SignatureError, Signer},
    },
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use crate::{
    fault::{self, Bug},
    guarded::is_guarded,
};

pub(crate) use self::change::{Change, Changes, InForce, Request as ChangeRequest};

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Who is trusted: OpenSSH's `allowed_signers`.
    pub signers: PathBuf,
    /// What is trusted no more: a list of `ssh-keygen -k`, or lines of public keys.
    pub revoked: PathBuf,
}

/// Who is trusted now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trusted {
    pub(crate) trust: Arc<Trust>,
    /// What tells the files that are in force from others.
    pub(crate) digest: String,
    /// What is wrong with the files, if anything is.
    pub(crate) problem: Option<String>,
}

/// Why nobody's signature was found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsigned {
    #[error("it is not signed")]
    Missing,
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
}

impl Trusted {
    /// What this text says.
    #[cfg(test)]
    pub(crate) fn of(signers: &str) -> Self {
        Self { trust: Arc::new(Trust::parse(signers, None).unwrap()), ..Self::default() }
    }

    /// Whether `principal` signed this document for this purpose, by this host's own clock: Redis' clock is not to be
    /// believed where it decides about a key.
    pub(crate) fn verify(
        &self,
        namespace: &str,
        principal: &str,
        document: &[u8],
        signature: &[u8],
    ) -> Result<Option<Signature>, Unsigned> {
        let skipped = trust::UNSIGNED || (signature.is_empty() && fault::planted(Bug::NoSignature));
        if skipped {
            return Ok(None);
        }
        if signature.is_empty() {
            return Err(Unsigned::Missing);
        }
        let signature = Signature::from_bytes(signature).map_err(Untrusted::from)?;
        match self.trust.verify(namespace, principal, document, &signature, own_clock()) {
            Err(untrusted) if !fault::planted(bug_of(&untrusted)) => Err(untrusted.into()),
            _ => Ok(Some(signature)),
        }
    }

    /// Whether all who have signed a command for this purpose would still be believed.
    ///
    /// # Errors
    /// Whose signature does not count any more, and why.
    pub(crate) fn still_accepts(&self, namespace: &str, signatories: &[(String, Vec<u8>)]) -> Result<(), Untrusted> {
        for (principal, signer) in signatories {
            let signer = Signer::from_bytes(signer).map_err(SignatureError::from)?;
            match self.trust.accepts(namespace, principal, &signer, own_clock()) {
                Err(untrusted) if !fault::planted(bug_of(&untrusted)) => return Err(untrusted),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The time by this host's own clock, in Unix seconds.
fn own_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The bug that overlooks this.
const fn bug_of(untrusted: &Untrusted) -> Bug {
    match untrusted {
        Untrusted::Unknown { .. } => Bug::NoSigners,
        Untrusted::NotYetValid { .. } | Untrusted::Expired { .. } => Bug::NoWindow,
        Untrusted::Purpose { .. } => Bug::NoPurpose,
        Untrusted::Revoked(_) => Bug::NoRevocation,
        Untrusted::Certificate { .. } => Bug::NoCertificate,
        Untrusted::Signature(_) => Bug::NoDigest,
    }
}

/// Why a file does not come into force.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("cannot read {path}: {1}", path = .0.display())]
    Read(PathBuf, io::Error),
    #[error("{path} can be changed by others: chmod go-w it, and let root or the worker's user own it", path = .0.display())]
    Writable(PathBuf),
    #[error("{path}: {1}", path = .0.display())]
    Broken(PathBuf, TrustFileError),
    #[error("{path} has version {1}, but version {2} was in force; put the newer file back, or raise '# version:'", path = .0.display())]
    Older(PathBuf, u64, u64),
    #[error("{path} is gone; to revoke nothing, leave an empty file there", path = .0.display())]
    Gone(PathBuf),
    #[error("cannot keep a copy of {path}: {1}", path = .0.display())]
    Keep(PathBuf, io::Error),
}

/// The contents of both files.
#[derive(Debug, PartialEq, Eq)]
struct Contents {
    signers: String,
    revoked: Option<Vec<u8>>,
}

/// What tells one state of a file from another.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// The files, and what of them is in force.
#[derive(Debug)]
pub(crate) struct TrustFiles {
    paths: Paths,
    /// What the names of the kept files begin with.
    kept: PathBuf,
    stamps: [Stamp; 2],
    in_force: Option<Contents>,
    /// Whether a copy of it is in the state directory.
    is_kept: bool,
    /// The highest version that was in force.
    version: u64,
    trusted: watch::Sender<Trusted>,
}

impl TrustFiles {
    /// Reads the files. What is wrong with them is reported by [`Trusted::problem`].
    pub(crate) fn open(paths: Paths, kept: PathBuf) -> Self {
        let trusted = watch::channel(Trusted::default()).0;
        let mut files = Self { paths, kept, stamps: [None; 2], in_force: None, is_kept: true, version: 0, trusted };
        files.read_kept();
        files.reread();
        files
    }

    /// Who is trusted, now and later.
    pub(crate) fn trusted(&self) -> watch::Receiver<Trusted> {
        self.trusted.subscribe()
    }

    /// Rereads the files whenever they have changed, and at SIGHUP; makes the changes that are asked for. The disk may
    /// hang: nobody else waits for it.
    pub(crate) async fn keep(mut self, mut requests: mpsc::Receiver<ChangeRequest>) {
        let mut hangup = signal(SignalKind::hangup()).ok();
        let mut tick = interval(limits::HEARTBEAT);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            let (forced, request) = tokio::select! {
                _ = tick.tick() => (false, None),
                _ = asked => (true, None),
                Some(request) = requests.recv() => (false, Some(request)),
            };
            let work = tokio::task::spawn_blocking(move || {
                if forced || self.stamps != self.look() {
                    self.reread();
                }
                if let Some(request) = request {
                    self.serve(request);
                }
                self
            });
            let Ok(files) = work.await else { return };
            self = files;
        }
    }

    fn look(&self) -> [Stamp; 2] {
        [&self.paths.signers, &self.paths.revoked].map(|path| {
            let found = fs::metadata(path).ok()?;
            Some((
                found.dev(),
                found.ino(),
                found.len(),
                found.mtime_nsec() ^ (found.mtime() << 30),
                found.ctime_nsec(),
            ))
        })
    }

    /// Brings into force what was in force when the prior process ended.
    fn read_kept(&mut self) {
        let [signers, revoked] = self.kept();
        let Ok(text) = fs::read_to_string(signers) else { return };
        let contents = Contents { signers: text, revoked: fs::read(revoked).ok() };
        match Trust::parse(&contents.signers, contents.revoked.as_deref()) {
            Ok(trust) => self.bring(trust, contents),
            Err(error) => tracing::error!("the kept copy of the trust file is broken: {error}"),
        }
    }

    /// Reads the files, and brings them into force if nothing is wrong with them.
    fn reread(&mut self) {
        self.stamps = self.look();
        let problem = self.try_reread().err();
        if let Some(Problem::Read(..) | Problem::Keep(..)) = problem {
            // What went wrong may pass although the files do not change.
            self.stamps = Default::default();
        }
        let problem = problem.map(|problem| self.explain(&problem));
        let changed = self.trusted.borrow().problem != problem;
        match &problem {
            Some(problem) if changed => tracing::error!("{problem}"),
            None if changed => tracing::info!("the trust files are in order again"),
            _ => {}
        }
        self.trusted.send_modify(|trusted| trusted.problem = problem);
    }

    fn try_reread(&mut self) -> Result<(), Problem> {
        let Paths { signers, revoked } = self.paths.clone();
        let text = read(&signers, limits::TRUST_BYTES)?;
        let text = String::from_utf8(text)
            .map_err(|_| Problem::Read(signers.clone(), io::Error::other("it is not UTF-8 text")))?;
        let list = match read(&revoked, limits::REVOKED_BYTES) {
            Err(Problem::Read(_, error)) if error.kind() == io::ErrorKind::NotFound => {
                if self.in_force.as_ref().is_some_and(|contents| contents.revoked.is_some()) {
                    return Err(Problem::Gone(revoked));
                }
                None
            }
            list => Some(list?),
        };
        let trust = Trust::parse(&text, list.as_deref()).map_err(|error| {
            let path = if matches!(error, TrustFileError::Revoked { .. }) { &revoked } else { &signers };
            Problem::Broken(path.clone(), error)
        })?;
        if trust.version() < self.version && !fault::planted(Bug::NoVersion) {
            return Err(Problem::Older(signers, trust.version(), self.version));
        }

        let contents = Contents { signers: text, revoked: list };
        let is_new = self.in_force.as_ref() != Some(&contents);
        if !is_new && self.is_kept {
            return Ok(());
        }
        let [kept_signers, kept_revoked] = self.kept();
        // The list first: after a crash between the two, too much is revoked rather than too little.
        let kept = contents.revoked.as_ref().map_or(Ok(()), |list| replace(&kept_revoked, list));
        let kept = kept.and_then(|()| replace(&kept_signers, contents.signers.as_bytes()));
        self.is_kept = kept.is_ok();
        if is_new {
            let (version, lines) = (trust.version(), trust.lines().len());
            self.bring(trust, contents);
            tracing::info!("{} is in force: version {version}, {lines} lines", signers.display());
        }
        kept.map_err(|error| Problem::Keep(signers, error))
    }

    fn bring(&mut self, trust: Trust, contents: Contents) {
        self.version = trust.version();
        let digest = digest(&contents.signers, contents.revoked.as_deref());
        self.in_force = Some(contents);
        self.trusted.send_modify(|trusted| (trusted.trust, trusted.digest) = (Arc::new(trust), digest));
    }

    fn explain(&self, problem: &Problem) -> String {
        match (&self.in_force, problem) {
            (_, Problem::Keep(..)) => format!("trust: {problem}; it is in force, but not after a restart"),
            (Some(_), _) => format!("trust: {problem}; what was in force before stays"),
            (None, _) => format!("trust: {problem}; until then this host obeys nobody"),
        }
    }

    fn kept(&self) -> [PathBuf; 2] {
        ["allowed_signers", "revoked"].map(|name| {
            let mut path = self.kept.clone().into_os_string();
            path.push(name);
            path.into()
        })
    }
}

/// The file's content, if nobody else can change it.
fn read(path: &Path, limit: usize) -> Result<Vec<u8>, Problem> {
    let failed = |error| Problem::Read(path.to_owned(), error);
    let file = File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !is_guarded(&found) {
        return Err(Problem::Writable(path.to_owned()));
    }
    let mut bytes = Vec::new();
    // One byte more than the limit: the parser says that it is too large.
    io::Read::read_to_end(&mut io::Read::take(file, limit as u64 + 1), &mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Writes a file whole or not at all.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let mut fresh = path.to_owned().into_os_string();
    fresh.push(".new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const ANN: &str = "ann ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti\n";

    fn files(directory: &TempDir) -> TrustFiles {
        let at = |name: &str| directory.path().join(name);
        TrustFiles::open(Paths { signers: at("signers"), revoked: at("revoked") }, at("web1."))
    }

    fn put(directory: &TempDir, name: &str, text: &str) {
        fs::write(directory.path().join(name), text).unwrap();
    }

    fn lines(files: &TrustFiles) -> usize {
        files.trusted.borrow().trust.lines().len()
    }

    fn problem(files: &TrustFiles) -> String {
        files.trusted.borrow().problem.clone().unwrap_or_default()
    }

    #[test]
    fn an_old_or_broken_file_never_replaces_what_is_in_force() {
        let directory = tempfile::tempdir().unwrap();
        let mut at_start = files(&directory);
        assert!(problem(&at_start).ends_with("this host obeys nobody"), "{}", problem(&at_start));
        put(&directory, "signers", &format!("# version: 2\n{ANN}"));
        at_start.reread();
        assert_eq!((lines(&at_start), problem(&at_start)), (1, String::new()));

        // The worker's restart changes nothing of this.
        for start_anew in [false, true] {
            let mut files = if start_anew { files(&directory) } else { at_start };
            for (text, said) in [
                (format!("# version: 1\n{ANN}{ANN}"), "has version 1, but version 2 was in force"),
                (format!("# version: 3\n{ANN}bob ssh-ed25519 AAAA\n"), "line 3"),
                (format!("{ANN}{ANN}"), "has version 0"),
            ] {
                put(&directory, "signers", &text);
                files.reread();
                assert_eq!(lines(&files), 1);
                assert!(problem(&files).contains(said) && problem(&files).ends_with("stays"), "{}", problem(&files));
            }
            fs::remove_file(directory.path().join("signers")).unwrap();
            files.reread();
            assert_eq!(lines(&files), 1);
            at_start = files;
        }
        put(&directory, "signers", "# version: 3\n");
        at_start.reread();
        assert_eq!((lines(&at_start), problem(&at_start)), (0, String::new()));
    }

    #[test]
    fn what_is_revoked_stays_revoked_when_the_list_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        put(&directory, "signers", ANN);
        put(&directory, "revoked", "");
        let mut first = files(&directory);
        assert_eq!(problem(&first), "");
        fs::remove_file(directory.path().join("revoked")).unwrap();
        first.reread();
        assert!(problem(&first).contains("is gone"), "{}", problem(&first));
        assert!(problem(&files(&directory)).contains("is gone"));
    }

    #[test]
    fn a_file_that_others_can_change_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        put(&directory, "signers", ANN);
        let path = directory.path().join("signers");
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        assert!(problem(&files(&directory)).contains("can be changed by others"));
    }
}
