//! The receiver: one request at a time, and what its reply means.

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822};
use protocol::connection::read_password;
use reqwest::{
    Client, Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, RETRY_AFTER},
    redirect,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::{
    batch::Batch,
    settings::{Login, Protocol, Settings},
};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Bytes of a reply that are shown.
const SHOWN: usize = 300;
/// The longest wait that a receiver can ask for.
const WAIT_MAX: Duration = Duration::from_secs(300);

const VERSION: &str = "x-prometheus-remote-write-version";
const WRITTEN: &str = "x-prometheus-remote-write-samples-written";

/// A receiver of samples.
#[derive(Debug)]
pub struct Receiver {
    client: Client,
    settings: Settings,
    protocol: Protocol,
}

/// What has become of a batch.
#[derive(Debug)]
pub enum Fate {
    /// It is written.
    Written,
    /// It will never be taken, because of this.
    Refused(String),
    /// It may be taken later: what was wrong, and how long the receiver asks to wait.
    Later(String, Option<Duration>),
    /// The receiver does not speak this version of the protocol, because of this: the next attempt is of another one.
    Unspoken(String),
}

impl Receiver {
    /// A receiver, which is not asked yet.
    ///
    /// # Errors
    /// The files for TLS cannot be used.
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        let tls = match settings.url.scheme() {
            "https" => settings.tls.read()?,
            _ => ClientConfig::builder_with_provider(ring::default_provider().into())
                .with_safe_default_protocol_versions()?
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth(),
        };
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            // A login is for this receiver only, and so are samples.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT)
            .timeout(settings.timeout)
            .user_agent(concat!("redfleet/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, settings: settings.clone(), protocol: settings.protocol })
    }

    /// Sends a batch once. To send one twice is harmless.
    pub async fn send(&mut self, batch: &Batch) -> Fate {
        let (body, kind, version) = match self.protocol {
            Protocol::New => (batch.body(), "application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0"),
            Protocol::Old => (batch.old_body(), "application/x-protobuf", "0.1.0"),
        };
        let request = self.client.post(self.settings.url.clone()).body(body);
        let request = request.header(CONTENT_TYPE, kind).header(CONTENT_ENCODING, "snappy").header(VERSION, version);
        let secret = |file| read_password(file).map_err(|error| format!("cannot read {}: {error}", file.display()));
        let request = match &self.settings.login {
            Login::None => Ok(request),
            Login::Bearer(file) => secret(file).map(|token| request.bearer_auth(token)),
            Login::Basic(name, file) => secret(file).map(|password| request.basic_auth(name, Some(password))),
        };
        match request {
            Ok(request) => match request.send().await {
                Ok(response) => self.judge(response).await,
                Err(error) => Fate::Later(words(error), None),
            },
            Err(error) => Fate::Later(error, None),
        }
    }

    async fn judge(&mut self, response: Response) -> Fate {
        let (status, is_new) = (response.status(), self.protocol == Protocol::New);
        if status.is_success() {
            // A receiver of version 1.0 finds nothing in a message of 2.0, and says that all is well.
            if is_new && !response.headers().contains_key(WRITTEN) {
                self.protocol = Protocol::Old;
                return Fate::Unspoken("it does not say what it has written".to_owned());
            }
            // The connection can be used again once the reply is read.
            let _ = beginning(response).await;
            return Fate::Written;
        }
        let wait = wait(response.headers());
        let said = beginning(response).await;
        let reason = if said.is_empty() { status.to_string() } else { format!("{status}: {said}") };
        match status {
            StatusCode::UNSUPPORTED_MEDIA_TYPE if is_new => {
                self.protocol = Protocol::Old;
                Fate::Unspoken(reason)
            }
            StatusCode::TOO_MANY_REQUESTS => Fate::Later(reason, wait),
            _ if status.is_server_error() => Fate::Later(reason, wait),
            _ => Fate::Refused(reason),
        }
    }
}

/// The beginning of a reply, in one line. Nobody knows how long all of it is.
async fn beginning(mut response: Response) -> String {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes.extend(chunk.iter().take(SHOWN - bytes.len()));
        if bytes.len() == SHOWN {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// How long the receiver asks to wait: seconds, or a moment.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let span = if let Ok(seconds) = text.parse() {
        Duration::from_secs(seconds)
    } else {
        let until = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
        until.duration_since(Timestamp::now()).try_into().unwrap_or_default()
    };
    Some(span.min(WAIT_MAX))
}

/// The innermost reason says most; the URL, which may have a secret in it, is not shown.
fn words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut inner: &dyn std::error::Error = &error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    if error.is_timeout() { "it does not reply in time".to_owned() } else { inner.to_string() }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn a_receiver_can_ask_to_wait() {
        let wait =
            |text: &'static str| super::wait(&HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]));
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("99999999"), Some(WAIT_MAX));
        assert_eq!(wait("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("Tue, 31 Dec 2199 23:59:59 GMT"), Some(WAIT_MAX));
        assert_eq!(wait("soon"), None);
        assert_eq!(wait("-3"), None);
    }
}
