//! What is sent to web addresses: where to, how it is trusted, and what an answer means.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, sync::LazyLock, time::Duration};

use anyhow::{Context, bail};
use protocol::tls::TlsFiles;
use reqwest::{
    Client, Response, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION},
    redirect::Policy,
};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::secret_file::SecretFile;
use crate::output::style;

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// So many bytes of an answer are read.
const ANSWER: usize = 512;

static USER_AGENT: LazyLock<String> = LazyLock::new(|| format!("redfleet/{}", env!("CARGO_PKG_VERSION")));

/// An address as it stands in the settings.
#[derive(Clone, Debug, Default)]
pub struct Setting {
    /// The address.
    pub url: Option<String>,
    /// A file with the address, where it is a secret.
    pub url_file: Option<SecretFile>,
    /// A file with the token that the other side wants.
    pub bearer_token_file: Option<SecretFile>,
    /// More headers.
    pub headers: BTreeMap<String, String>,
    /// The certificates of the CAs to trust, in place of the public ones.
    pub ca: Option<PathBuf>,
}

/// An address to which something can be sent.
#[derive(Clone)]
pub struct Endpoint {
    url: Url,
    client: Client,
    token: Option<SecretFile>,
    headers: HeaderMap,
}

/// Why something was not delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason, for people. It has neither secrets nor control characters.
    pub reason: String,
    /// Whether another attempt may succeed.
    pub again: bool,
}

impl Failure {
    /// Another attempt may succeed.
    pub fn passing(reason: impl AsRef<str>) -> Self {
        Self { reason: style::plain(reason.as_ref()), again: true }
    }

    /// Another attempt would fail, too.
    pub fn lasting(reason: impl AsRef<str>) -> Self {
        Self { reason: style::plain(reason.as_ref()), again: false }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.reason)
    }
}

/// Paths of web hooks, and what is in front of `@`, are often secrets: only the rest is shown.
impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.origin())
    }
}

impl Endpoint {
    /// Judges an address. Files are read once, so that what is wrong with them is told at the beginning.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn new(setting: Setting) -> anyhow::Result<Self> {
        let written = match (setting.url, &setting.url_file) {
            (Some(url), None) => url,
            (None, Some(file)) => file.read().context("url_file")?.to_string(),
            (None, None) => bail!("url is missing"),
            (Some(_), Some(_)) => bail!("name either url or url_file"),
        };
        // Errors of the parser say nothing of the address.
        let url = Url::parse(&written).context("url: it is no address, such as https://example.com/hook")?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            bail!("url: it must begin with https:// or http://");
        }
        if !url.username().is_empty() || url.password().is_some() {
            bail!("url: it holds a user or a password: write the token into a file and name that (bearer_token_file)");
        }
        let is_plain = url.scheme() == "http";
        if is_plain && setting.ca.is_some() {
            bail!("ca is for TLS, and url has none: write https:// in place of http://");
        }
        if let Some(file) = &setting.bearer_token_file {
            bearer(file)?;
            if is_plain && !is_loopback(url.host_str().unwrap_or_default()) {
                bail!("url: without TLS anybody on the way could read the token: write https:// in place of http://");
            }
        }
        let tls = if is_plain { no_tls()? } else { TlsFiles { ca: setting.ca, ..TlsFiles::default() }.read()? };
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(Policy::none())
            .timeout(TIMEOUT)
            .user_agent(USER_AGENT.as_str())
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self { url, client, token: setting.bearer_token_file, headers: headers(&setting.headers)? })
    }

    /// The address without what may be secret of it.
    pub fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// The same, with this behind its path.
    pub fn below(mut self, path: &str) -> Self {
        let path = format!("{}/{path}", self.url.path().trim_end_matches('/'));
        self.url.set_path(&path);
        self
    }

    /// Asks for the address.
    ///
    /// # Errors
    /// It was not answered well.
    pub async fn get(&self) -> Result<(), Failure> {
        self.send(self.client.get(self.url.clone())).await
    }

    /// Sends a JSON document to the address, under this id.
    ///
    /// # Errors
    /// It was not answered well.
    pub async fn post(&self, id: &str, document: Vec<u8>) -> Result<(), Failure> {
        let request = self.client.post(self.url.clone()).header("content-type", "application/json");
        self.send(request.header("idempotency-key", id).body(document)).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<(), Failure> {
        let mut request = request.headers(self.headers.clone());
        if let Some(file) = &self.token {
            let token = bearer(file).map_err(|error| Failure::passing(format!("{error:#}")))?;
            request = request.header(AUTHORIZATION, token);
        }
        match request.send().await {
            Ok(answer) => self.judge(answer).await,
            Err(error) => Err(Failure::passing(format!("{}: {}", self.origin(), chain(error.without_url())))),
        }
    }

    async fn judge(&self, answer: Response) -> Result<(), Failure> {
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let origin = self.origin();
        if status.is_redirection() {
            let to = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let to = to
                .and_then(|to| self.url.join(to).ok())
                .map_or_else(|| "nowhere".to_owned(), |to| to.origin().ascii_serialization());
            return Err(Failure::lasting(format!(
                "{origin}: it is answered from another address ({status}), at {to}: name that one"
            )));
        }
        let said = beginning(answer).await;
        let said = said.trim();
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        let reason = format!("{origin}: {status}{said}");
        let is_lasting = status.is_client_error() && !matches!(status.as_u16(), 408 | 429);
        Err(if is_lasting { Failure::lasting(reason) } else { Failure::passing(reason) })
    }
}

/// The beginning of an answer: it may be as long as it likes.
async fn beginning(mut answer: Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER {
        let Ok(Some(more)) = answer.chunk().await else { break };
        bytes.extend(more.iter().take(ANSWER - bytes.len()));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// All that is known of an error.
fn chain(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {TIMEOUT:?}");
    }
    format!("{:#}", anyhow::Error::new(error))
}

/// Whether these are this machine's own addresses.
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn no_tls() -> anyhow::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into());
    Ok(builder
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}

fn bearer(file: &SecretFile) -> anyhow::Result<HeaderValue> {
    let token = file.read().context("bearer_token_file")?;
    let value = zeroize::Zeroizing::new(format!("Bearer {}", *token));
    let mut value = HeaderValue::from_str(&value)
        .ok()
        .with_context(|| format!("bearer_token_file: {} holds no token", file.path().display()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn headers(written: &BTreeMap<String, String>) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in written {
        let wrong = || format!("headers: '{}' is no header with a value", style::plain(name));
        let header: HeaderName = name.parse().ok().with_context(wrong)?;
        if ["authorization", "content-length", "content-type", "host", "idempotency-key", "transfer-encoding"]
            .contains(&header.as_str())
        {
            bail!("headers: '{header}' is set by ctl itself (for authorization: bearer_token_file)");
        }
        let mut value: HeaderValue = value.parse().ok().with_context(wrong)?;
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(headers)
}
