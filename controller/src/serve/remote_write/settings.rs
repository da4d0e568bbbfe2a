//! The settings of remote write: the section `[remote_write]`.

use std::{collections::BTreeMap, ops::RangeInclusive, path::PathBuf, time::Duration};

use anyhow::{Context, bail, ensure};
use protocol::{limits, time::read_duration, tls::TlsFiles};
use serde::Deserialize;
use url::Url;

/// Between two rounds where nothing else is set.
const INTERVAL: Duration = Duration::from_secs(15);
const INTERVALS: RangeInclusive<Duration> = Duration::from_secs(1)..=limits::REMOTE_WRITE_INTERVAL_MAX;
/// How long the receiver may take for one request.
const TIMEOUT: Duration = Duration::from_secs(30);
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);
/// Samples that wait while the receiver is away.
const QUEUE: usize = 1_000_000;
const QUEUES: RangeInclusive<usize> = 1_000..=10_000_000;

/// The version of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    /// The first: texts are repeated, metadata is not sent.
    #[serde(rename = "1.0")]
    Old,
    /// The second. A receiver that does not know it is sent the first.
    #[default]
    #[serde(rename = "2.0")]
    New,
}

/// The section as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    url: String,
    interval: Option<String>,
    timeout: Option<String>,
    #[serde(default)]
    protocol: Protocol,
    bearer_token_file: Option<PathBuf>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    queue: Option<usize>,
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the receiver is.
    pub url: Url,
    /// Between two rounds.
    pub interval: Duration,
    /// How long a request may take.
    pub timeout: Duration,
    /// The version of the protocol to begin with.
    pub protocol: Protocol,
    /// How to log in.
    pub login: Login,
    /// Whom to trust, where the URL is `https`, and the certificate of the client.
    pub tls: TlsFiles,
    /// Labels of every series that has none of these names.
    pub labels: BTreeMap<String, String>,
    /// How many samples wait at most.
    pub queue: usize,
}

/// How to log in at a receiver. The files are read for each request, so that they may change.
#[derive(Clone, Debug)]
pub enum Login {
    /// Not at all.
    None,
    /// By a token: the first line of this file.
    Bearer(PathBuf),
    /// By a name, and the password in the first line of this file.
    Basic(String, PathBuf),
}

impl Protocol {
    /// As it is called.
    pub const fn version(self) -> &'static str {
        match self {
            Self::Old => "1.0",
            Self::New => "2.0",
        }
    }
}

impl Settings {
    /// Judges what was written.
    ///
    /// # Errors
    /// It cannot be.
    pub fn judge(section: Section) -> anyhow::Result<Self> {
        Self::of(section).context("remote_write")
    }

    fn of(section: Section) -> anyhow::Result<Self> {
        let url: Url = section.url.parse().with_context(|| format!("url = '{}'", section.url))?;
        ensure!(matches!(url.scheme(), "http" | "https") && url.has_host(), "url: write http://HOST… or https://HOST…");
        ensure!(
            url.username().is_empty() && url.password().is_none(),
            "url: name the user by username, and the password by password_file"
        );
        let login = match (section.bearer_token_file, section.username, section.password_file) {
            (None, None, None) => Login::None,
            (Some(file), None, None) => Login::Bearer(file),
            (None, Some(name), Some(file)) => Login::Basic(name, file),
            (Some(_), ..) => bail!("either bearer_token_file, or username and password_file"),
            _ => bail!("username and password_file belong together"),
        };
        let tls = TlsFiles { ca: section.ca, cert: section.cert, key: section.key };
        ensure!(tls.is_empty() || url.scheme() == "https", "ca, cert and key are for https");
        for name in section.labels.keys() {
            let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            let is_sound = is_name && !name.is_empty() && !name.starts_with(|first: char| first.is_ascii_digit());
            ensure!(is_sound && !name.starts_with("__"), "labels: '{name}': write letters, digits and _");
        }
        let queue = section.queue.unwrap_or(QUEUE);
        let (least, most) = (QUEUES.start(), QUEUES.end());
        ensure!(QUEUES.contains(&queue), "queue = {queue}: write a number of samples from {least} to {most}");
        Ok(Self {
            url,
            interval: duration("interval", section.interval.as_deref(), INTERVAL, INTERVALS)?,
            timeout: duration("timeout", section.timeout.as_deref(), TIMEOUT, TIMEOUTS)?,
            protocol: section.protocol,
            login,
            tls,
            labels: section.labels,
            queue,
        })
    }

    /// The receiver without what may be secret in its URL.
    pub fn receiver(&self) -> String {
        let port = self.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{}{port}{}", self.url.scheme(), self.url.host_str().unwrap_or_default(), self.url.path())
    }

    /// What is unwise: a secret that others can read on its way.
    pub fn warning(&self) -> Option<String> {
        let is_local = match self.url.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        let is_open = self.url.scheme() == "http" && !is_local && !matches!(self.login, Login::None);
        is_open.then(|| format!("whoever is on the way to {} can read the login: write https://", self.receiver()))
    }
}

fn duration(
    name: &str,
    text: Option<&str>,
    usual: Duration,
    bounds: RangeInclusive<Duration>,
) -> anyhow::Result<Duration> {
    let Some(text) = text else { return Ok(usual) };
    read_duration(text).ok().filter(|time| bounds.contains(time)).with_context(|| {
        let (from, to) = (bounds.start(), bounds.end());
        format!("{name} = '{text}': write a time from {from:?} to {to:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str) -> Result<Settings, String> {
        let section = toml::from_str(text).map_err(|error| error.to_string())?;
        Settings::judge(section).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn settings_are_judged() {
        let usual = judged("url = 'http://prometheus:9090/api/v1/write?key=secret'").unwrap();
        assert_eq!((usual.interval, usual.protocol, usual.queue), (INTERVAL, Protocol::New, QUEUE));
        assert_eq!(usual.receiver(), "http://prometheus:9090/api/v1/write");
        assert!(usual.warning().is_none());
        let open = judged("url = 'http://far/write'\nbearer_token_file = '/token'").unwrap();
        assert!(open.warning().unwrap().contains("http://far/write"));
        for (wrong, what) in [
            ("url = 'far'", "url = 'far'"),
            ("url = 'ftp://far'", "write http://"),
            ("url = 'http://ann:secret@far'", "password_file"),
            ("url = 'http://far'\nusername = 'ann'", "belong together"),
            ("url = 'http://far'\nbearer_token_file = 'a'\nusername = 'ann'\npassword_file = 'b'", "either"),
            ("url = 'http://far'\nca = 'a'", "https"),
            ("url = 'http://far'\ninterval = '1h'", "interval"),
            ("url = 'http://far'\nqueue = 5", "queue"),
            ("url = 'http://far'\nprotocol = '3.0'", "3.0"),
            ("url = 'http://far'\nlabels = { 'a-b' = '1' }", "a-b"),
            ("url = 'http://far'\nlabels = { __name__ = '1' }", "__name__"),
        ] {
            let error = judged(wrong).unwrap_err();
            assert!(error.contains(what) && !error.contains("secret@"), "{wrong}: {error}");
        }
    }
}
