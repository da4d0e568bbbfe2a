//! The section `[http]`: where to listen, and who may ask.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail, ensure};
use protocol::tls::{certificates, private_key};
use rustls::{RootCertStore, ServerConfig, crypto::ring, server::WebPkiClientVerifier};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Where it listens if nothing else is set.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9321);

/// Characters that a token must have.
const TOKEN_MIN: usize = 16;

/// Tokens in a file.
const TOKENS: usize = 100;

/// Bytes of the file with the tokens.
const TOKENS_BYTES: u64 = 64 * 1024;

/// The section as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Section {
    /// `ADDRESS:PORT`, or `off`.
    listen: Option<String>,
    /// A file with one token a line.
    tokens: Option<PathBuf>,
    tls: Option<TlsSection>,
}

/// The files for TLS, all in PEM form.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsSection {
    cert: PathBuf,
    key: PathBuf,
    /// Only those may ask who have a certificate of one of these CAs.
    client_ca: Option<PathBuf>,
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Http {
    /// Where to listen; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// Whether that was not set, so that it is no error if the address is in use.
    pub is_default: bool,
    tokens: Option<PathBuf>,
    tls: Option<TlsSection>,
}

/// Who may ask, as the files say. They are read again from time to time, so that tokens and certificates can be replaced.
#[derive(Clone, Default)]
pub struct Access {
    /// Digests of the tokens; `None`: none is needed.
    tokens: Option<Vec<[u8; 32]>>,
    /// How to begin TLS, if it is asked for.
    pub tls: Option<Arc<ServerConfig>>,
}

impl Http {
    /// Reads the section.
    ///
    /// # Errors
    /// It cannot be, or would let anybody in.
    pub fn judge(section: Section) -> anyhow::Result<Self> {
        let Section { listen, tokens, tls } = section;
        let (is_default, listen) = match listen.as_deref() {
            None => (true, Some(LISTEN)),
            Some("off") => (false, None),
            Some(text) => {
                let address = text.parse();
                let address = address.map_err(|_| {
                    anyhow::anyhow!("http.listen = '{text}': write an address and a port, such as {LISTEN}, or off")
                })?;
                (false, Some(address))
            }
        };
        let is_local = listen.is_none_or(|address| address.ip().to_canonical().is_loopback());
        let is_guarded = tokens.is_some() || tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        ensure!(
            is_local || is_guarded,
            "http.listen = '{}': beyond this machine anybody could ask. Name a file with tokens (http.tokens), or the CA \
             of those who may ask (http.tls.client_ca)",
            listen.unwrap_or(LISTEN)
        );
        let http = Self { listen, is_default, tokens, tls };
        if listen.is_some() {
            http.access()?;
        }
        Ok(http)
    }

    /// Reads the files.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn access(&self) -> anyhow::Result<Access> {
        let tokens = self.tokens.as_deref().map(read_tokens).transpose()?;
        let tls = self.tls.as_ref().map(TlsSection::read).transpose().context("http.tls")?;
        Ok(Access { tokens, tls: tls.map(Arc::new) })
    }

    /// The settings in words, for people.
    pub fn words(&self) -> Vec<(&'static str, String)> {
        let Some(listen) = self.listen else { return vec![("http", "off".into())] };
        let who = match (&self.tokens, self.tls.as_ref().map(|tls| tls.client_ca.is_some())) {
            (Some(_), Some(true)) => "who has a token and a certificate",
            (Some(_), _) => "who has a token",
            (None, Some(true)) => "who has a certificate",
            (None, _) => "everybody on this machine",
        };
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        vec![("http", format!("{scheme}://{listen}")), ("http is for", who.to_owned())]
    }
}

impl TlsSection {
    fn read(&self) -> anyhow::Result<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).with_context(|| format!("a certificate in {}", path.display()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().with_context(|| path.display().to_string())?)
            }
        };
        let Self { cert, key, .. } = self;
        let pair = || format!("the certificate {} cannot be used with the key {}", cert.display(), key.display());
        let mut config = builder.with_single_cert(certificates(cert)?, private_key(key)?).with_context(pair)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl Access {
    /// Whether these words after `Authorization:` let somebody in.
    pub fn admits(&self, authorization: Option<&[u8]>) -> bool {
        let Some(tokens) = &self.tokens else { return true };
        let words = authorization.unwrap_or_default();
        let Some((scheme, token)) = words.split_at_checked(7) else { return false };
        let given: [u8; 32] = Sha256::digest(token.trim_ascii()).into();
        // Each is compared to its end: how long that takes tells nothing of a token.
        let is_known = tokens.iter().fold(false, |known, token| known | is_same(token, &given));
        is_known && scheme.eq_ignore_ascii_case(b"bearer ")
    }
}

fn is_same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    one.iter().zip(other).fold(0, |difference, (one, other)| difference | (one ^ other)) == 0
}

/// Reads tokens, one a line. Empty lines and those that begin with `#` are none.
fn read_tokens(path: &Path) -> anyhow::Result<Vec<[u8; 32]>> {
    let shown = path.display();
    let read = || -> io::Result<_> {
        let file = fs::File::open(path)?;
        let metadata = file.metadata()?;
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(file, TOKENS_BYTES + 1), &mut text)?;
        Ok((text, metadata.permissions().mode()))
    };
    let (text, mode) = read().with_context(|| format!("http.tokens: cannot read {shown}"))?;
    // Its group may read it, as services often get their files that way.
    ensure!(mode & 0o027 == 0, "http.tokens: others can read {shown}, or change it: chmod 600 {shown}");
    let tokens: Vec<_> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    if tokens.is_empty() {
        bail!("http.tokens: {shown} has no token: write one a line, such as what 'openssl rand -hex 32' prints");
    }
    ensure!(
        tokens.len() <= TOKENS && text.len() as u64 <= TOKENS_BYTES,
        "http.tokens: {shown} has more than {TOKENS} tokens or {TOKENS_BYTES} bytes"
    );
    if let Some(line) = text.lines().position(|line| tokens.contains(&line.trim()) && line.trim().len() < TOKEN_MIN) {
        bail!("http.tokens: {shown}, line {}: a token needs {TOKEN_MIN} characters at least", line + 1);
    }
    Ok(tokens.into_iter().map(|token| Sha256::digest(token).into()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(toml: &str) -> anyhow::Result<Http> {
        Http::judge(toml::from_str(toml)?)
    }

    #[test]
    fn beyond_this_machine_only_those_may_ask_who_are_known() {
        let http = judged("").unwrap();
        assert_eq!((http.listen, http.is_default), (Some(LISTEN), true));
        assert!(judged("listen = 'off'").unwrap().listen.is_none());
        assert!(judged("listen = '[::1]:80'").is_ok());
        for open in ["0.0.0.0:9321", "[::]:9321", "10.0.0.1:80"] {
            let error = judged(&format!("listen = '{open}'")).unwrap_err().to_string();
            assert!(error.contains("http.tokens"), "{error}");
        }
        for bad in ["listen = 'here'", "listen = '127.0.0.1'", "port = 1", "tls = { cert = 'x' }"] {
            assert!(judged(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens_are_read_from_a_private_file_and_compared_whole() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tokens");
        let write = |text: &str, mode: u32| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            judged(&format!("listen = '0.0.0.0:1'\ntokens = {:?}", file.to_str().unwrap()))
        };
        let token = "0123456789abcdef";
        let access = write(&format!("# ours\n\n {token} \nfedcba9876543210\n"), 0o640).unwrap().access().unwrap();
        let bearer = |token: &str| access.admits(Some(format!("Bearer {token}").as_bytes()));
        assert!(bearer(token) && bearer("fedcba9876543210"));
        for wrong in ["", "0", "0123456789abcde", "0123456789abcdef0", "# ours"] {
            assert!(!bearer(wrong), "{wrong}");
        }
        assert!(!access.admits(None) && !access.admits(Some(b"Basic 0123456789abcdef")));
        for (text, mode, why) in [
            (token, 0o644, "chmod 600"),
            (token, 0o620, "chmod 600"),
            ("# none\n", 0o600, "no token"),
            ("a\n0123456789abcdef\nshort\n", 0o600, "line 1: "),
        ] {
            let error = format!("{:#}", write(text, mode).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
    }
}
