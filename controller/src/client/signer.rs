//! The operator's key: signs jobs, orders to cancel and approvals.
//!
//! Nothing is asked here. A key that needs a passphrase is opened by the caller.

use std::{
    fmt::{self, Debug, Formatter},
    sync::Arc,
    time::Duration,
};

use protocol::trust::{
    UNSIGNED,
    certificate::Certificate,
    sshsig::{self, Signature, SignatureError},
};
use ssh_key::{Algorithm, Fingerprint, HashAlg, PrivateKey, PublicKey};
use tokio::time::timeout;

use super::agent::{Agent, AgentError};

/// After this time without a signature, somebody is probably asked by the agent.
const PROMPT: Duration = Duration::from_secs(1);

/// A key that can sign.
#[derive(Clone)]
pub struct Signer {
    public: PublicKey,
    /// Signatures carry it instead of the bare key.
    certificate: Option<Box<Certificate>>,
    half: Half,
    waiting: Option<Arc<dyn Fn() + Send + Sync>>,
}

/// Where the private half is.
#[derive(Clone)]
enum Half {
    Here(Box<PrivateKey>),
    /// In an agent, under this key or certificate.
    Agent(Agent, Vec<u8>),
}

/// Why nothing was signed. The text of each error is complete without its source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignerError {
    /// The private key must be decrypted first.
    #[error("the key {0} is encrypted")]
    Encrypted(Fingerprint),
    /// It is no private key in OpenSSH's format.
    #[error("it is no private key of OpenSSH: {0}")]
    Key(#[from] ssh_key::Error),
    /// The certificate is for another key.
    #[error("the certificate is not for the key {0}")]
    Certificate(Fingerprint),
    /// Keys of this type are not accepted.
    #[error("cannot sign with a key of type {0}; use ed25519, ecdsa-p256 or a hardware key of these types")]
    Algorithm(String),
    /// The key refused.
    #[error("cannot sign: {0}")]
    Signature(#[source] SignatureError),
    /// The agent signed with another key, or the hardware key signed without a touch.
    #[error(
        "cannot sign: ssh-agent signed as no host accepts it: with another key, or nobody touched the hardware key"
    )]
    Unsound,
    /// The agent was of no help.
    #[error("cannot sign: {0}")]
    Agent(#[from] AgentError),
}

impl Signer {
    /// Signs with a private key that is at hand.
    ///
    /// # Errors
    /// The key is encrypted.
    pub fn from_private(key: PrivateKey) -> Result<Self, SignerError> {
        let public = key.public_key().clone();
        if key.is_encrypted() {
            return Err(SignerError::Encrypted(public.fingerprint(HashAlg::Sha256)));
        }
        Ok(Self { public, certificate: None, half: Half::Here(Box::new(key)), waiting: None })
    }

    /// Signs with a private key in OpenSSH's format, which is not encrypted.
    ///
    /// # Errors
    /// The text is no such key.
    pub fn from_openssh(text: &str) -> Result<Self, SignerError> {
        Self::from_private(PrivateKey::from_openssh(text)?)
    }

    /// Signs with a key in an agent, which holds it under `identity`: the public key, or a certificate for it.
    pub const fn from_agent(public: PublicKey, agent: Agent, identity: Vec<u8>) -> Self {
        Self { public, certificate: None, half: Half::Agent(agent, identity), waiting: None }
    }

    /// Signs with a certificate for the key, so that hosts need to trust only the authority that issued it.
    ///
    /// # Errors
    /// It is for another key.
    pub fn certified(mut self, certificate: Certificate) -> Result<Self, SignerError> {
        if certificate.key().data() != self.public.key_data() {
            return Err(SignerError::Certificate(self.fingerprint()));
        }
        self.certificate = Some(Box::new(certificate));
        Ok(self)
    }

    /// Calls `waiting` whenever a signature waits for somebody: to touch the hardware key, or to confirm.
    #[must_use]
    pub fn when_waiting(mut self, waiting: impl Fn() + Send + Sync + 'static) -> Self {
        self.waiting = Some(Arc::new(waiting));
        self
    }

    /// The public key.
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// What signatures carry instead of the bare key.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_deref()
    }

    /// Whether this key has made a signature over these bytes, for this purpose.
    pub fn has_signed(&self, namespace: &str, (bytes, signature): (&[u8], &[u8])) -> bool {
        let Ok(signature) = Signature::from_bytes(signature) else { return false };
        let is_own = signature.signer().plain().fingerprint() == self.fingerprint().to_string();
        is_own && signature.verify(namespace, bytes).is_ok()
    }

    /// The key's fingerprint, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> Fingerprint {
        self.public.fingerprint(HashAlg::Sha256)
    }

    /// Signs the document for a purpose: a binary SSHSIG. A hardware key may wait until somebody touches it.
    ///
    /// # Errors
    /// The key refuses, or is of a type that is not accepted.
    pub async fn sign(&self, namespace: &str, document: &[u8]) -> Result<Vec<u8>, SignerError> {
        if UNSIGNED {
            return Ok(Vec::new());
        }
        let signature = match &self.half {
            Half::Here(key) => sshsig::sign(key, namespace, document)?,
            Half::Agent(agent, identity) => {
                let bytes = self.ask(agent, identity, &sshsig::signed_data(namespace, document)).await?;
                let key = self.public.to_bytes().map_err(|_| SignatureError::Malformed)?;
                let signature = Signature::new(&key, namespace, bytes)?;
                // Better told here than by every host: an agent may use another key, or a hardware key no touch.
                signature.verify(namespace, document).map_err(|_| SignerError::Unsound)?;
                signature
            }
        };
        let signature = match &self.certificate {
            Some(certificate) => signature.certified(certificate)?,
            None => signature,
        };
        Ok(signature.to_bytes())
    }

    async fn ask(&self, agent: &Agent, identity: &[u8], data: &[u8]) -> Result<ssh_key::Signature, SignerError> {
        let mut signing = Box::pin(agent.sign(identity, data));
        // A hardware key blinks at once.
        let is_hardware = matches!(self.public.algorithm(), Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256);
        let patience = if is_hardware { Duration::ZERO } else { PROMPT };
        if let Ok(signed) = timeout(patience, &mut signing).await {
            return Ok(signed?);
        }
        if let Some(waiting) = &self.waiting {
            waiting();
        }
        Ok(signing.await?)
    }
}

/// Shows the key by its fingerprint only.
impl Debug for Signer {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Signer").field(&self.fingerprint().to_string()).finish()
    }
}

impl From<SignatureError> for SignerError {
    fn from(error: SignatureError) -> Self {
        match error {
            SignatureError::Algorithm(name) => Self::Algorithm(name),
            other => Self::Signature(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::trust::{sshsig::JOB, wire};
    use ssh_key::private::Ed25519Keypair;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    use super::*;

    #[tokio::test]
    async fn what_it_signs_verifies_and_its_secret_is_not_shown() {
        let key = PrivateKey::new(Ed25519Keypair::from_seed(&[7; 32]).into(), "ann@desk").unwrap();
        let signer = Signer::from_private(key).unwrap();
        let signature = Signature::from_bytes(&signer.sign(JOB, b"document").await.unwrap()).unwrap();
        signature.verify(JOB, b"document").unwrap();
        assert_eq!(signature.signer().key(), signer.public().key_data());
        assert_eq!(format!("{signer:?}"), format!("Signer(\"{}\")", signer.fingerprint()));
    }

    #[tokio::test]
    async fn a_signature_by_another_key_is_refused() {
        let key = |seed| PrivateKey::new(Ed25519Keypair::from_seed(&[seed; 32]).into(), "").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent");
        let listener = UnixListener::bind(&socket).unwrap();
        // An agent that signs with one key whatever it is asked for.
        let agent = async {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; stream.read_u32().await.unwrap().try_into().unwrap()];
                stream.read_exact(&mut request).await.unwrap();
                let mut asked = &request[1..];
                wire::string(&mut asked).unwrap();
                let data = wire::string(&mut asked).unwrap();
                let signature: ssh_key::Signature = signature::Signer::sign(&key(7), data);
                let (mut signed, mut reply) = (vec![14], Vec::new());
                wire::push(&mut signed, &Vec::<u8>::try_from(signature).unwrap());
                wire::push(&mut reply, &signed);
                stream.write_all(&reply).await.unwrap();
            }
        };
        let sign = async |seed| {
            let public = key(seed).public_key().clone();
            let identity = public.to_bytes().unwrap();
            Signer::from_agent(public, Agent::at(&socket), identity).sign(JOB, b"document").await
        };
        let signing = async { (sign(7).await, sign(8).await) };
        let ((own, other), ()) = tokio::join!(signing, agent);
        Signature::from_bytes(&own.unwrap()).unwrap().verify(JOB, b"document").unwrap();
        assert!(matches!(other, Err(SignerError::Unsound)), "{other:?}");
    }
}
