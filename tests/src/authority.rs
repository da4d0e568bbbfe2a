//! Certificates for a server and its clients, made for a test.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

/// A certificate authority.
pub struct Authority {
    directory: PathBuf,
    name: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its private key, each in a file.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate's file.
    pub cert: PathBuf,
    /// The key's file.
    pub key: PathBuf,
}

impl Authority {
    /// Makes an authority that keeps its files in this directory.
    pub fn new(directory: &Path, name: &str) -> Self {
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let authority = Self { directory: directory.into(), name: name.into(), issuer: Issuer::new(params, key) };
        fs::write(authority.file(), certificate.pem()).expect("a file");
        authority
    }

    /// The file with its own certificate.
    pub fn file(&self) -> PathBuf {
        self.directory.join(format!("{}.pem", self.name))
    }

    /// Issues a certificate for these names of a host.
    pub fn issue(&self, name: &str, hosts: &[&str]) -> Issued {
        self.sign(name, &named(name, hosts))
    }

    /// Issues a certificate that has expired.
    pub fn issue_expired(&self, name: &str, hosts: &[&str]) -> Issued {
        let mut params = named(name, hosts);
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        self.sign(name, &params)
    }

    /// Issues a certificate that expires after so many days and a half: the number of whole days left does not change
    /// within a test.
    pub fn issue_for_days(&self, name: &str, hosts: &[&str], days: u64) -> Issued {
        let mut params = named(name, hosts);
        params.not_after = (SystemTime::now() + Duration::from_secs(days * 86_400 + 43_200)).into();
        self.sign(name, &params)
    }

    fn sign(&self, name: &str, params: &CertificateParams) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let file = |kind: &str| self.directory.join(format!("{}-{name}.{kind}", self.name));
        let issued = Issued { cert: file("cert"), key: file("key") };
        fs::write(&issued.cert, certificate.pem()).expect("a file");
        fs::write(&issued.key, key.serialize_pem()).expect("a file");
        issued
    }
}

fn named(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(hosts).expect("names of hosts");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
