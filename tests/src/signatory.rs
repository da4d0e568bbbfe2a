//! Keys of the tests' operators, and of those who attack them.

use std::sync::LazyLock;

use protocol::{
    command::Manifest,
    job::JobRecord,
    name::JobId,
    signed::{Document, Signed},
    targets::Targets,
    trust::{certificate::Certificate, sshsig},
};
use ssh_key::{
    HashAlg, LineEnding, PrivateKey,
    certificate::{Builder, CertType},
    private::Ed25519Keypair,
};

/// Somebody with a key.
pub struct Signatory(PrivateKey);

/// The operator of all tests that are not about trust. Each worker trusts this key, whatever name its owner uses.
pub fn operator() -> &'static Signatory {
    static OPERATOR: LazyLock<Signatory> = LazyLock::new(|| Signatory::new(1));
    &OPERATOR
}

impl Signatory {
    /// The owner of the key that this seed makes.
    pub fn new(seed: u8) -> Self {
        Self(PrivateKey::new(Ed25519Keypair::from_seed(&[seed; 32]).into(), "").expect("a key"))
    }

    /// Signs a document as a job's.
    pub fn sign<T: Document>(&self, document: &T) -> Signed<T> {
        self.sign_for(sshsig::JOB, document)
    }

    /// Signs a document for any purpose.
    pub fn sign_for<T: Document>(&self, namespace: &str, document: &T) -> Signed<T> {
        let signed = Signed::unsigned(document);
        let signature = self.sign_bytes(namespace, &signed.bytes);
        signed.with_signature(signature)
    }

    /// Signs a document as a job's, under a certificate.
    pub fn sign_under<T: Document>(&self, certificate: &Certificate, document: &T) -> Signed<T> {
        let signed = Signed::unsigned(document);
        let signature = sshsig::sign(&self.0, sshsig::JOB, &signed.bytes).expect("a signature");
        let signature = signature.certified(certificate).expect("a certificate of the same key");
        signed.with_signature(signature.to_bytes())
    }

    /// Certifies somebody's key as an authority, from 2020 to 2120.
    pub fn certify(&self, owner: &Self, kind: CertType, change: impl FnOnce(&mut Builder)) -> Certificate {
        let (since, until) = (1_577_836_800, 4_733_510_400);
        let mut builder = Builder::new([7; 16], owner.0.public_key().key_data().clone(), since, until).expect("a time");
        builder.cert_type(kind).expect("a type");
        change(&mut builder);
        let certificate = builder.sign(&self.0).expect("a certificate");
        Certificate::from_bytes(&certificate.to_bytes().expect("its bytes")).expect("a certificate")
    }

    /// Signs any bytes.
    pub fn sign_bytes(&self, namespace: &str, bytes: &[u8]) -> Vec<u8> {
        sshsig::sign(&self.0, namespace, bytes).expect("a signature").to_bytes()
    }

    /// A job's record with the manifest's signature.
    pub fn record(&self, manifest: Manifest, targets: Targets) -> JobRecord {
        JobRecord { signed: self.sign(&manifest), ..JobRecord::unsigned(manifest, targets) }
    }

    /// The line of a trust file by which the key speaks for these principals. `options` may be empty.
    pub fn line(&self, principals: &str, options: &str) -> String {
        let key = self.0.public_key().to_openssh().expect("a public key");
        format!("{principals} {options} {key}\n")
    }

    /// The key's fingerprint, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }

    /// The private key, as `ssh-keygen` writes it.
    pub fn private_key(&self) -> String {
        self.0.to_openssh(LineEnding::LF).expect("a private key").to_string()
    }
}

/// The same job once more, under an id of its own.
#[must_use]
pub fn renewed(manifest: Manifest) -> Manifest {
    let salt = JobId::salt();
    Manifest { job: JobId::derive(&manifest.operator, manifest.issued_at_ms, &salt), salt, ..manifest }
}
