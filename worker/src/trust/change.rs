//! Changes of the trust files that somebody who is trusted asks for through Redis.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use protocol::trust::{
    Trust, TrustFileError, Untrusted, digest,
    sshsig::{JOB, Signer},
};
use tokio::sync::{mpsc, oneshot};

use super::{Contents, TrustFiles, bug_of, own_clock, replace};
use crate::fault::{self, Bug};

/// New trust files, and who asks for them.
#[derive(Debug)]
pub(crate) struct Change {
    /// The whole new file of those who are trusted.
    pub(crate) signers: String,
    /// The whole new list of what is revoked; none leaves the prior one.
    pub(crate) revoked: Option<Vec<u8>>,
    /// The principal who asks.
    pub(crate) principal: String,
    /// The key or certificate that they have signed with.
    pub(crate) signer: Signer,
    /// Whether it may lock out whoever asks for it.
    pub(crate) force: bool,
}

/// What is in force now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InForce {
    /// The file's version.
    pub(crate) version: u64,
    /// How many lines it has.
    pub(crate) lines: usize,
    /// What tells both files from others.
    pub(crate) digest: String,
}

/// Why a change is not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the new trust file is broken: {0}")]
    Broken(#[from] TrustFileError),
    #[error("the new trust file has version {0}, but version {1} is in force; raise '# version:'")]
    Version(u64, u64),
    #[error("the new trust file locks out '{0}', who asks for it; with force=true it is taken all the same")]
    LockOut(String, #[source] Box<Untrusted>),
    #[error("{path} is not the worker's to write: {1}; change it on the host", path = .0.display())]
    Foreign(PathBuf, &'static str),
    #[error("cannot write {path}; let the worker's user own it and its directory", path = .0.display())]
    Write(PathBuf, #[source] io::Error),
    #[error("it is written, but not in force: {0}")]
    NotInForce(String),
    #[error("while the command waited, this changed: {0}")]
    Untrusted(#[source] Box<Untrusted>),
    #[error("the worker stops")]
    Stopping,
}

/// Asks the task that keeps the trust files for changes.
#[derive(Clone, Debug)]
pub(crate) struct Changes(mpsc::Sender<Request>);

/// A change, and where the reply goes.
#[derive(Debug)]
pub(crate) struct Request {
    change: Change,
    reply: oneshot::Sender<Result<InForce, Refused>>,
}

impl Changes {
    /// The two ends.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), receiver)
    }

    /// Makes a change. It is in force, and kept over restarts, when this returns.
    pub(crate) async fn make(&self, change: Change) -> Result<InForce, Refused> {
        let (reply, done) = oneshot::channel();
        self.0.send(Request { change, reply }).await.map_err(|_| Refused::Stopping)?;
        done.await.unwrap_or(Err(Refused::Stopping))
    }
}

impl TrustFiles {
    /// Makes the change that is asked for.
    pub(super) fn serve(&mut self, Request { change, reply }: Request) {
        // Whoever asked may have been cancelled.
        let _ = reply.send(self.change(change));
    }

    fn change(&mut self, change: Change) -> Result<InForce, Refused> {
        let Change { signers, revoked, principal, signer, force } = change;
        let in_force = self.in_force.as_ref();
        let list = revoked.clone().or_else(|| in_force.and_then(|contents| contents.revoked.clone()));
        let trust = Trust::parse(&signers, list.as_deref())?;
        let new = Contents { signers, revoked: list };
        // A copy of what is in force already, sent to all hosts, say, is no error.
        if trust.version() == self.version && self.trusted.borrow().digest == InForce::of(&trust, &new).digest {
            return Ok(InForce::of(&trust, &new));
        }
        if trust.version() <= self.version && !fault::planted(Bug::NoVersion) {
            return Err(Refused::Version(trust.version(), self.version));
        }
        // The command may have waited since it was admitted.
        let now_trusted = self.trusted.borrow().trust.accepts(JOB, &principal, &signer, own_clock());
        if let Err(untrusted) = now_trusted
            && !fault::planted(bug_of(&untrusted))
        {
            return Err(Refused::Untrusted(Box::new(untrusted)));
        }
        let accepted = trust.accepts(JOB, &principal, &signer, own_clock());
        if let Err(untrusted) = accepted
            && !force
            && !fault::planted(Bug::NoLockOut)
        {
            return Err(Refused::LockOut(principal, Box::new(untrusted)));
        }

        let write = |path: &Path, content: &[u8]| {
            replace(path, content).map_err(|error| Refused::Write(path.to_owned(), error))
        };
        ensure_own(&self.paths.signers)?;
        // The list first: after a crash between the two, too much is revoked rather than too little.
        if let Some(list) = &revoked {
            ensure_own(&self.paths.revoked)?;
            write(&self.paths.revoked, list)?;
        }
        write(&self.paths.signers, new.signers.as_bytes())?;
        self.reread();
        match self.trusted.borrow().problem.clone() {
            Some(problem) => Err(Refused::NotInForce(problem)),
            None => Ok(InForce::of(&trust, &new)),
        }
    }
}

impl InForce {
    fn of(trust: &Trust, contents: &Contents) -> Self {
        let digest = digest(&contents.signers, contents.revoked.as_deref());
        Self { version: trust.version(), lines: trust.lines().len(), digest }
    }
}

/// Makes sure that the file is not one that somebody else keeps, and only lets the worker read.
fn ensure_own(path: &Path) -> Result<(), Refused> {
    let foreign = |why| Err(Refused::Foreign(path.to_owned(), why));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Refused::Write(path.to_owned(), error)),
        Ok(found) if !found.is_file() => foreign("it is no plain file"),
        Ok(found) if found.uid() != nix::unistd::geteuid().as_raw() => foreign("it belongs to another user"),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;
    use crate::trust::Paths;

    fn key(seed: u8) -> ssh_key::PublicKey {
        let pair = ssh_key::private::Ed25519Keypair::from_seed(&[seed; 32]);
        ssh_key::PrivateKey::new(pair.into(), "").unwrap().public_key().clone()
    }

    /// A trust file of this version, in which ann has the first key and bob the second.
    fn text(version: u64, lines: &[&str]) -> String {
        let line = |name: &&str| format!("{name} {}\n", key(1 + u8::from(*name == "bob")).to_openssh().unwrap());
        format!("# version: {version}\n{}", lines.iter().map(line).collect::<String>())
    }

    /// What ann asks for.
    fn asked(signers: String) -> Change {
        let signer = Signer::from_bytes(&key(1).to_bytes().unwrap()).unwrap();
        Change { signers, revoked: None, principal: "ann".into(), signer, force: false }
    }

    fn start(directory: &TempDir) -> (TrustFiles, PathBuf) {
        let at = |name: &str| directory.path().join(name);
        fs::write(at("signers"), text(2, &["ann"])).unwrap();
        let paths = Paths { signers: at("signers"), revoked: at("revoked") };
        (TrustFiles::open(paths, at("kept.")), at("signers"))
    }

    #[test]
    fn a_change_comes_into_force_at_once_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (mut files, path) = start(&directory);
        let change = || Change { revoked: Some(Vec::new()), ..asked(text(3, &["ann", "bob"])) };
        let in_force = files.change(change()).unwrap();
        assert_eq!((in_force.version, in_force.lines), (3, 2));
        assert_eq!(files.trusted.borrow().digest, in_force.digest);
        assert_eq!(fs::read_to_string(&path).unwrap(), text(3, &["ann", "bob"]));
        // The same once more is no error, and a list that is not sent stays.
        assert_eq!(files.change(change()).unwrap(), in_force);
        assert_eq!(files.change(asked(text(3, &["ann", "bob"]))).unwrap(), in_force);
        assert!(files.change(asked(text(3, &["ann"]))).unwrap_err().to_string().contains("version 3 is in force"));
    }

    #[test]
    fn what_must_not_come_into_force_leaves_the_files_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (mut files, path) = start(&directory);
        let own = key(1).to_openssh().unwrap();
        let revoking = Change { revoked: Some(own.into_bytes()), ..asked(text(3, &["ann"])) };
        for (change, said) in [
            (asked(text(1, &["ann"])), "version 1, but version 2 is in force"),
            (asked(text(3, &["ann"]) + "bob ssh-ed25519 AAAA\n"), "line 3"),
            (asked(text(3, &["bob"])), "locks out 'ann'"),
            (asked(text(3, &[])), "locks out 'ann'"),
            (revoking, "locks out 'ann'"),
            (Change { revoked: Some(b"nonsense".to_vec()), ..asked(text(3, &["ann"])) }, "the revocation list: line 1"),
        ] {
            let refused = files.change(change).unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text(2, &["ann"]));
            assert_eq!(files.trusted.borrow().problem, None);
        }
        let forced = Change { force: true, ..asked(text(3, &["bob"])) };
        assert_eq!(files.change(forced).unwrap().version, 3);
    }

    #[test]
    fn a_file_that_others_keep_is_not_the_workers_to_write() {
        let directory = tempfile::tempdir().unwrap();
        let (mut files, path) = start(&directory);
        let elsewhere = directory.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        let refused = files.change(asked(text(3, &["ann"]))).unwrap_err().to_string();
        assert!(refused.contains("no plain file"), "{refused}");
        assert!(path.is_symlink());
    }
}
