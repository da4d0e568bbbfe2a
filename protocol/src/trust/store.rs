//! Whom a host, or a controller, trusts: both files together, and the one question that is asked of them.

use sha2::{Digest, Sha256};

use super::{
    allowed_signers::{AllowedSigners, Line},
    certificate::CertificateFault,
    key::shown,
    moment::show,
    revocation::Revocations,
    sshsig::{Signature, SignatureError, Signer},
};

/// Those who are trusted, and what is trusted no more. Keys are parsed once.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    signers: AllowedSigners,
    revoked: Revocations,
}

/// A trust file that cannot be used. The caller knows the paths.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustFileError {
    /// The file of those who are trusted.
    #[error("{}{reason}", in_line(*line))]
    Signers {
        /// The line, counted from 1; 0 is the file as a whole.
        line: usize,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The list of what is revoked.
    #[error("the revocation list: {}{reason}", in_line(*line))]
    Revoked {
        /// The line, counted from 1; 0 is the file as a whole.
        line: usize,
        /// What is wrong with it, and what to do.
        reason: String,
    },
}

/// Why a signature is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// Nobody says that the key speaks for this principal.
    #[error(
        "the key {key} is not trusted as '{principal}'{}; add it to the trust file, or sign with another key",
        known(known_as)
    )]
    Unknown {
        /// The key's fingerprint.
        key: String,
        /// Who was asked for.
        principal: String,
        /// Whom the trust file lets it speak for.
        known_as: String,
    },
    /// Its line holds later only.
    #[error("the key {key} is not trusted before {from}, says line {line} of the trust file")]
    NotYetValid {
        /// The key's fingerprint.
        key: String,
        /// When it holds.
        from: String,
        /// The line of the trust file.
        line: usize,
    },
    /// Its line holds no more.
    #[error(
        "the key {key} was trusted until {until}, says line {line} of the trust file; sign with a newer key, or extend 'valid-before'"
    )]
    Expired {
        /// The key's fingerprint.
        key: String,
        /// Until when it held.
        until: String,
        /// The line of the trust file.
        line: usize,
    },
    /// Its line is for other purposes.
    #[error(
        "the key {key} may not sign for '{namespace}': line {line} of the trust file allows it other 'namespaces' only"
    )]
    Purpose {
        /// The key's fingerprint.
        key: String,
        /// What it was used for.
        namespace: String,
        /// The line of the trust file.
        line: usize,
    },
    /// The key, its certificate or its authority is revoked.
    #[error("{0}; sign with another key")]
    Revoked(String),
    /// It is signed with a certificate that does not hold.
    #[error("the certificate '{id}' is not accepted: {fault}")]
    Certificate {
        /// What its authority calls it.
        id: String,
        /// What it lacks.
        fault: CertificateFault,
    },
    /// The signature does not belong to the document.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

/// What tells the contents of both files from others: the beginning of a SHA-256. No list is the same as
/// an empty one, and blanks at the ends say nothing.
pub fn digest(allowed_signers: &str, revoked: Option<&[u8]>) -> String {
    let (allowed_signers, revoked) = (allowed_signers.trim_ascii_end(), revoked.unwrap_or_default().trim_ascii_end());
    let length = (allowed_signers.len() as u64).to_be_bytes();
    let hash = Sha256::new().chain_update(length).chain_update(allowed_signers).chain_update(revoked);
    hash.finalize().iter().take(8).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

impl Trust {
    /// Reads the two files.
    ///
    /// # Errors
    /// Anything in them is odd: a file is used whole, or not at all.
    pub fn parse(allowed_signers: &str, revoked: Option<&[u8]>) -> Result<Self, TrustFileError> {
        let signers = AllowedSigners::parse(allowed_signers)
            .map_err(|fault| TrustFileError::Signers { line: fault.line, reason: fault.reason })?;
        let revoked = revoked.map(Revocations::parse).transpose();
        let revoked = revoked.map_err(|fault| TrustFileError::Revoked { line: fault.line, reason: fault.reason })?;
        Ok(Self { signers, revoked: revoked.unwrap_or_default() })
    }

    /// What the file's comment `# version: N` says; 0 where there is none.
    pub const fn version(&self) -> u64 {
        self.signers.version()
    }

    /// Who is trusted, in the file's order.
    pub fn lines(&self) -> &[Line] {
        self.signers.lines()
    }

    /// Whether `principal` signed this document for this purpose, as `ssh-keygen -Y verify` judges it, or stricter.
    /// `at` is the time in Unix seconds by this machine's own clock.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn verify(
        &self,
        namespace: &str,
        principal: &str,
        document: &[u8],
        signature: &Signature,
        at: u64,
    ) -> Result<(), Untrusted> {
        // The cheap questions come first: strangers must not cost the time of an elliptic curve.
        self.accepts(namespace, principal, signature.signer(), at)?;
        Ok(signature.verify(namespace, document)?)
    }

    /// Whether a signature by this signer for this purpose would be believed at that time, whatever it is over.
    ///
    /// # Errors
    /// Why it would not be.
    pub fn accepts(&self, namespace: &str, principal: &str, signer: &Signer, at: u64) -> Result<(), Untrusted> {
        self.judge(namespace, principal, signer, at)?;
        self.revoked.reason(signer).map_or(Ok(()), |reason| Err(Untrusted::Revoked(reason)))
    }

    /// Whether some line lets the signer speak.
    fn judge(&self, namespace: &str, principal: &str, signer: &Signer, at: u64) -> Result<(), Untrusted> {
        let mut fault = None;
        let mut is_known = false;
        for line in self.of(signer) {
            is_known = true;
            if line.is_for(principal) {
                match accept(line, namespace, principal, signer, at) {
                    Ok(()) => return Ok(()),
                    Err(error) => _ = fault.get_or_insert(error),
                }
            }
        }
        if let Some(fault) = fault {
            return Err(fault);
        }
        if let Signer::Certificate(certificate) = signer
            && !is_known
        {
            let fault = CertificateFault::Authority(certificate.authority().fingerprint());
            return Err(Untrusted::Certificate { id: shown(certificate.id()), fault });
        }
        let known_as = self.of(signer).map(Line::principals).collect::<Vec<_>>().join("; ");
        let key = signer.plain().fingerprint();
        Err(Untrusted::Unknown { key, principal: shown(principal), known_as: shown(&known_as) })
    }

    /// The lines with the signer's key, or with the key of its certificate's authority.
    fn of<'a>(&'a self, signer: &'a Signer) -> impl Iterator<Item = &'a Line> {
        let (key, is_certified) = match signer {
            Signer::Key(key) => (&**key, false),
            Signer::Certificate(certificate) => (certificate.authority(), true),
        };
        self.lines().iter().filter(move |line| line.is_authority() == is_certified && line.key().blob() == key.blob())
    }
}

/// Whether a line that has the key and the principal lets it sign.
fn accept(line: &Line, namespace: &str, principal: &str, signer: &Signer, at: u64) -> Result<(), Untrusted> {
    let key = || line.key().fingerprint();
    if !line.allows(namespace) {
        return Err(Untrusted::Purpose { key: key(), namespace: shown(namespace), line: line.number() });
    }
    if let Some(from) = line.valid_after().filter(|from| at < *from) {
        return Err(Untrusted::NotYetValid { key: key(), from: show(from), line: line.number() });
    }
    if let Some(until) = line.valid_before().filter(|until| at > *until) {
        return Err(Untrusted::Expired { key: key(), until: show(until), line: line.number() });
    }
    if let Signer::Certificate(certificate) = signer {
        let judged = certificate.judge(principal, at);
        return judged.map_err(|fault| Untrusted::Certificate { id: shown(certificate.id()), fault });
    }
    Ok(())
}

fn in_line(number: usize) -> String {
    if number == 0 { String::new() } else { format!("line {number}: ") }
}

fn known(principals: &str) -> String {
    if principals.is_empty() { String::new() } else { format!(", but as '{principals}'") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::sshsig::{self, HOST, JOB};

    fn key(seed: u8) -> ssh_key::PrivateKey {
        let pair = ssh_key::private::Ed25519Keypair::from_seed(&[seed; 32]);
        ssh_key::PrivateKey::new(pair.into(), "").unwrap()
    }

    fn public(seed: u8) -> String {
        key(seed).public_key().to_openssh().unwrap()
    }

    /// What a file of one line says to a job that ann signed with key 1, in second 1,000,000,000.
    fn told(line: &str) -> String {
        let signature = sshsig::sign(&key(1), JOB, b"document").unwrap();
        let told = Trust::parse(line, None).unwrap().verify(JOB, "ann@desk", b"document", &signature, 1_000_000_000);
        told.map_or_else(|error| error.to_string(), |()| "accepted".to_owned())
    }

    #[test]
    fn a_line_speaks_for_its_principals_purposes_and_time() {
        for (front, expected) in [
            ("ann@desk", "accepted"),
            ("\"*@desk,!bob@*\"", "accepted"),
            ("*,!ann@*", "is not trusted as 'ann@desk'"),
            ("bob", "but as 'bob'"),
            ("ann@desk cert-authority", "is not trusted"),
            ("ann@desk NameSpaces=\"redfleet-*\"", "accepted"),
            ("ann@desk namespaces=\"git\"", "may not sign for 'redfleet-job@v1'"),
            ("ann@desk valid-after=\"20010909014639Z\",valid-before=\"20010909014640Z\"", "accepted"),
            ("ann@desk valid-after=\"20010909014641Z\"", "is not trusted before 2001-09-09T01:46:41Z"),
            ("ann@desk valid-before=\"20010909014639Z\"", "was trusted until 2001-09-09T01:46:39Z"),
        ] {
            let told = told(&format!("{front} {} remark", public(1)));
            assert!(told.contains(expected), "{front}: {told}");
        }
        assert!(told(&format!("ann@desk {}", public(2))).contains("is not trusted as 'ann@desk'; add it"));
    }

    #[test]
    fn only_what_was_signed_for_this_purpose_is_believed() {
        let trust = Trust::parse(&format!("# version: 7\nann {}\n", public(1)), None).unwrap();
        assert_eq!(trust.version(), 7);
        let signature = sshsig::sign(&key(1), JOB, b"document").unwrap();
        trust.verify(JOB, "ann", b"document", &signature, 1).unwrap();
        assert!(matches!(trust.verify(JOB, "ann", b"other", &signature, 1), Err(Untrusted::Signature(_))));
        assert!(matches!(trust.verify(HOST, "ann", b"document", &signature, 1), Err(Untrusted::Signature(_))));
        let revoked = Trust::parse(&format!("ann {}", public(1)), Some(public(1).as_bytes())).unwrap();
        assert!(matches!(revoked.verify(JOB, "ann", b"document", &signature, 1), Err(Untrusted::Revoked(_))));
    }
}
