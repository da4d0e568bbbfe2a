//! Mail to people.

use std::{
    fmt, fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, CertificateStore, Tls, TlsParameters},
        extension::ClientId,
    },
};
use serde::Deserialize;

use super::message;
use crate::{
    client::alerts::Notification,
    output::style,
    serve::{
        secret_file::SecretFile,
        web::{Failure, is_loopback},
    },
};

/// The last moment that the head of a mail can tell: the end of the year 9999.
const LAST_MS: u64 = 253_402_300_799_000;

/// How long the server may take for a step, and for all of them.
const STEP: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(30);

/// The most addressees of a receiver.
const MOST: usize = 50;

/// Its settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// What rules call it.
    pub name: String,
    server: String,
    port: Option<u16>,
    #[serde(default)]
    tls: Kind,
    #[serde(default)]
    insecure: bool,
    user: Option<String>,
    password_file: Option<SecretFile>,
    ca: Option<PathBuf>,
    from: String,
    to: Vec<String>,
}

/// How the way to the server is made safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// TLS begins within the connection, or nothing is sent.
    #[default]
    Starttls,
    /// The whole connection is TLS.
    Wrapper,
    /// Not at all.
    None,
}

/// A mail server, and whom it is to tell.
#[derive(Clone)]
pub struct Smtp {
    server: String,
    port: u16,
    kind: Kind,
    tls: Option<TlsParameters>,
    login: Option<(String, SecretFile)>,
    from: Mailbox,
    to: Vec<Mailbox>,
}

impl Setting {
    /// Judges the settings.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn judge(self) -> anyhow::Result<Smtp> {
        if self.server.is_empty() || self.server.contains(|letter: char| letter.is_control() || letter == ' ') {
            bail!("server: it is no name of a server");
        }
        if self.tls == Kind::None && !self.insecure && !is_loopback(&self.server) {
            bail!(
                "tls = 'none': anybody on the way could read the mail: write 'starttls' or 'wrapper', or insecure = true"
            );
        }
        let port = self.port.unwrap_or(match self.tls {
            Kind::Starttls => 587,
            Kind::Wrapper => 465,
            Kind::None => 25,
        });
        let tls = if self.tls == Kind::None { None } else { Some(tls(&self.server, self.ca)?) };
        let login = match (self.user, self.password_file) {
            (Some(user), Some(file)) => {
                file.read().context("password_file")?;
                Some((user, file))
            }
            (None, None) => None,
            _ => bail!("user and password_file belong together: name both"),
        };
        if self.to.is_empty() || self.to.len() > MOST {
            bail!("to: name 1 to {MOST} addresses");
        }
        let to = self.to.iter().map(|text| address("to", text)).collect::<anyhow::Result<_>>()?;
        Ok(Smtp { server: self.server, port, kind: self.tls, tls, login, from: address("from", &self.from)?, to })
    }
}

impl fmt::Debug for Smtp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown())
    }
}

fn address(name: &str, text: &str) -> anyhow::Result<Mailbox> {
    text.parse().ok().with_context(|| format!("{name}: '{}' is no mail address", style::plain(text)))
}

fn tls(server: &str, ca: Option<PathBuf>) -> anyhow::Result<TlsParameters> {
    let mut builder = TlsParameters::builder(server.to_owned());
    if let Some(path) = ca {
        let shown = path.display().to_string();
        let pem = fs::read(&path).with_context(|| format!("cannot read {shown}"))?;
        let certificate =
            Certificate::from_pem(&pem).ok().with_context(|| format!("{shown} has no certificate in PEM form"))?;
        builder = builder.certificate_store(CertificateStore::None).add_root_certificate(certificate);
    }
    builder.build_rustls().with_context(|| format!("TLS with {server}"))
}

impl Smtp {
    /// Where mail goes, without secrets.
    pub fn shown(&self) -> String {
        let to: Vec<String> = self.to.iter().map(|mailbox| mailbox.email.to_string()).collect();
        style::plain(&format!("{}:{} to {}", self.server, self.port, to.join(", ")))
    }

    /// Sends it. The same notification is always the same mail.
    ///
    /// # Errors
    /// It was not delivered.
    pub async fn send(&self, notification: &Notification) -> Result<(), Failure> {
        let server = format!("{}:{}", self.server, self.port);
        let mail = self.mail(notification).map_err(|error| Failure::lasting(format!("the mail: {error}")))?;
        let transport = self.transport().map_err(|error| Failure::passing(format!("{error:#}")))?;
        match tokio::time::timeout(TIMEOUT, transport.send(mail)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                let again = !error.is_permanent();
                let reason = format!("{server}: {:#}", anyhow::Error::new(error));
                Err(if again { Failure::passing(reason) } else { Failure::lasting(reason) })
            }
            Err(_) => Err(Failure::passing(format!("{server}: no mail was taken within {TIMEOUT:?}"))),
        }
    }

    fn mail(&self, notification: &Notification) -> Result<Message, lettre::error::Error> {
        let mut mail = Message::builder().from(self.from.clone());
        for to in &self.to {
            mail = mail.to(to.clone());
        }
        let moment = SystemTime::UNIX_EPOCH + Duration::from_millis(notification.at_ms.min(LAST_MS));
        mail.subject(message::subject(notification))
            .message_id(Some(format!("<{}@{}>", message::id(notification), self.from.email.domain())))
            .date(moment)
            .header(ContentType::TEXT_PLAIN)
            .body(message::text(notification))
    }

    fn transport(&self) -> anyhow::Result<AsyncSmtpTransport<Tokio1Executor>> {
        let tls = match (&self.tls, self.kind) {
            (Some(tls), Kind::Starttls) => Tls::Required(tls.clone()),
            (Some(tls), Kind::Wrapper) => Tls::Wrapper(tls.clone()),
            _ => Tls::None,
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&self.server);
        builder = builder.port(self.port).tls(tls).timeout(Some(STEP));
        if let Ok(Ok(name)) = nix::unistd::gethostname().map(std::ffi::OsString::into_string) {
            builder = builder.hello_name(ClientId::Domain(name));
        }
        if let Some((user, file)) = &self.login {
            let password = file.read().context("password_file")?;
            builder = builder.credentials(Credentials::new(user.clone(), password.to_string()));
        }
        Ok(builder.build())
    }
}
