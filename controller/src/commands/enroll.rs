//! `ctl host enroll`: all that a machine needs to become a host, as one script.

use std::{
    io::{IsTerminal, stdout},
    path::Path,
    time::Duration,
};

use anyhow::Context;
use protocol::{
    acl::Role,
    name::HostName,
    trust::{
        revocation::{is_text, to_text},
        sshsig::JOB,
    },
};
use serde_json::{Value, json};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{
    acl::{SAVE, note_save},
    trust::own_copy,
};
use crate::{
    cli::{
        fleet_trust::{FleetTrust, replace},
        hosts::Enroll,
        keys,
        settings::Settings,
    },
    client::Error,
    output::{Advice, Format, Printer},
};

const SCRIPT: &str = include_str!("enroll.sh");
const SETTINGS: &str = include_str!("enroll.toml");
const UNIT: &str = include_str!("enroll.service");

/// Settings of the host's own certificate, which nobody has made yet.
const CERTIFICATE: &str = "\
# If Redis wants certificates of its clients, put the host's own there, and remove the # of both lines:
# redis_cert = \"/etc/redfleet/redis-cert.pem\"
# redis_key = \"/etc/redfleet/redis-key.pem\"
";

/// How long Redis may take to say whether the host has a user, where it is not needed for anything else.
const PATIENCE: Duration = Duration::from_secs(3);

/// Bytes of a password: nobody has to type it.
const PASSWORD_BYTES: usize = 32;

/// Writes the script, and makes the host's Redis user or prints how.
pub async fn run(options: Enroll, settings: &Settings, printer: &Printer) -> anyhow::Result<()> {
    let Enroll { name, out, apply_acl, worker_redis, yes } = options;
    let own = settings.redis();
    let redis = match (worker_redis, &own) {
        (Some(redis), _) => redis,
        (None, Ok(own)) => own.clone(),
        (None, Err(_)) => own?,
    };
    if redis.is_local() {
        let hint = "if the host is another machine: --worker-redis URL";
        printer.warn(&format!("the host is to reach Redis at {redis}, which is on this machine; {hint}"));
    }
    let fleet = first_copy(settings, printer).await?;
    let role = Role::Worker(name.clone());
    let user = role.user(settings.namespace.as_ref());
    if !yes && has_user(&name, &user, apply_acl, settings).await? {
        agree(&name, &user)?;
    }
    let password = password()?;
    let ca = settings.redis().ok().and_then(|own| own.ca().map(Path::to_owned));
    let ca = ca.filter(|_| redis.is_encrypted());
    let ca = ca.map(|path| std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display())));
    let certified = redis.is_encrypted() && settings.redis_cert.is_some();
    if certified {
        printer.warn(&format!(
            "Redis may want a certificate of {name}, as it does of you: put it and its key there, and name both in \
             worker.toml (redis_cert, redis_key)"
        ));
    }
    let script =
        Script { host: name.as_str(), url: redis.url_of(&user), ca: ca.transpose()?, certified, fleet: &fleet }
            .fill(&password, settings);

    let line = role.user_line(settings.namespace.as_ref(), Some(&password), redis.selects());
    if apply_acl {
        apply(&line, settings, printer).await?;
    }
    let is_file = out != Path::new("-");
    if is_file {
        replace(&out, 0o600, script.as_bytes())?;
    }
    let command = format!("ACL SETUSER {line}");
    let is_printed = is_file && !apply_acl;
    if printer.format() != Format::Table {
        return printer.object(&json!({
            "host": name,
            "user": user,
            "file": is_file.then(|| out.display().to_string()),
            "script": (!is_file).then_some(&*script),
            "acl": command,
            "acl_save": SAVE,
            "applied": apply_acl,
        }));
    }
    if is_printed {
        printer.line(&command)?;
        printer.line(SAVE)?;
        if stdout().is_terminal() {
            printer.note(&format!("the lines above make the Redis user {user}: pipe them to redis-cli"));
        }
    } else if !is_file {
        printer.raw(script.as_bytes())?;
        if !apply_acl {
            printer.note(&format!("its Redis user, for redis-cli to read: {command}"));
            printer.note(SAVE);
        }
    }
    if !apply_acl {
        note_save(&user, printer);
    }
    let file = if is_file { out.display().to_string() } else { "the script".to_owned() };
    printer.note(&format!("run {file} on {name} as root, with the program `worker` beside it, and remove it then"));
    Ok(())
}

/// Whether the host has its Redis user already, or seems to: as it has reported, where one's own user may not ask for
/// users. `is_needed`: Redis must reply.
async fn has_user(name: &HostName, user: &str, is_needed: bool, settings: &Settings) -> anyhow::Result<bool> {
    let ask = async {
        let mut fleet = super::connect(settings).await?;
        let found: Result<(redis::Value,), Error> =
            fleet.query(redis::pipe().cmd("ACL").arg("GETUSER").arg(user)).await;
        match found {
            Ok((found,)) => Ok(found != redis::Value::Nil),
            Err(error) if error.is_forbidden() => Ok(fleet.host_names().await?.iter().any(|(known, _)| known == name)),
            Err(error) => Err(anyhow::Error::from(error)),
        }
    };
    match timeout(PATIENCE, ask).await {
        Ok(Err(error)) if is_needed => Err(error),
        // The script can be written without Redis.
        reply => Ok(reply.ok().and_then(Result::ok).unwrap_or(false)),
    }
}

fn agree(name: &HostName, user: &str) -> anyhow::Result<()> {
    let known = format!("{name} is enrolled already: the password of its Redis user {user} is replaced");
    match Printer::confirm(&format!("{known}, and its worker is locked out until the new script has run there. Go on?"))
    {
        Some(true) => Ok(()),
        Some(false) => Err(Advice::new("nothing was changed").into()),
        None => Err(Advice::new(known).hint(format!("if that is meant: ctl host enroll {name} --yes …")).into()),
    }
}

/// The operator's copy of the trust file; one with their key is made if there is none.
async fn first_copy(settings: &Settings, printer: &Printer) -> anyhow::Result<FleetTrust> {
    let is_new = FleetTrust::read(settings)?.is_none();
    let own = own_copy(settings).await?;
    if is_new {
        own.store()?;
        printer.note(&format!("made {}: the fleet's hosts obey your key", own.path().display()));
    } else if let Ok(found) = keys::find(settings).await {
        let operator = &settings.operator;
        let trusted = found.certificate.as_ref().map_or(&found.public, |certificate| certificate.authority());
        let mut lines = own.trust.lines().iter().filter(|line| line.key().blob() == trusted.blob());
        if !lines.any(|line| line.is_for(operator) && line.allows(JOB)) {
            printer.warn(&format!("{} does not trust your own key as '{operator}'", own.path().display()));
        }
    }
    Ok(own)
}

fn password() -> anyhow::Result<Zeroizing<String>> {
    let mut random = Zeroizing::new([0_u8; PASSWORD_BYTES]);
    getrandom::fill(&mut *random).context("this machine has no random numbers")?;
    // Enough room from the start, so that no copy is left behind.
    let mut text = Zeroizing::new(String::with_capacity(2 * PASSWORD_BYTES));
    for byte in random.iter() {
        text.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or_default()));
    }
    Ok(text)
}

/// What the script is made of.
struct Script<'a> {
    host: &'a str,
    url: String,
    /// The certificates of the CAs that the host trusts for Redis.
    ca: Option<String>,
    /// Whether Redis may want a certificate of the host.
    certified: bool,
    fleet: &'a FleetTrust,
}

impl Script<'_> {
    fn fill(&self, password: &str, settings: &Settings) -> Zeroizing<String> {
        // A string of JSON is a string of TOML too.
        let string = |text: &str| Value::from(text).to_string();
        let Self { host, url, ca, certified, fleet } = self;
        let namespace = settings.namespace.as_ref().map(|name| format!("namespace = \"{name}\"\n")).unwrap_or_default();
        let ca_setting = if ca.is_some() { "redis_ca = \"/etc/redfleet/redis-ca.pem\"\n" } else { "" };
        let ca_setting = ca_setting.to_owned() + if *certified { CERTIFICATE } else { "" };
        let toml = SETTINGS
            .replace("@HOST@", host)
            .replace("@NAMESPACE@", &namespace)
            .replace("@REDIS@", &string(url))
            .replace("@CA@", &ca_setting)
            .replace("@WHO@", &settings.operator)
            .replace("@OPERATOR@", &string(&settings.operator));
        let here =
            |command: &str, text: &str| format!("\n{command} <<'END_OF_FILE'\n{}\nEND_OF_FILE\n", text.trim_end());
        let ca = ca.as_ref().map(|pem| here("write \"$settings/redis-ca.pem\" 644", pem)).unwrap_or_default();
        let revoked = fleet.revoked.as_ref().map(|list| {
            let text = to_text(list);
            if is_text(list) {
                return here("begin \"$settings/revoked\" 644", &text);
            }
            let lines: Vec<_> = text.as_bytes().chunks(76).map(String::from_utf8_lossy).collect();
            let command = "base64 -d <<'END_OF_FILE' | begin \"$settings/revoked\" 644";
            format!("\n{command}\n{}\nEND_OF_FILE\n", lines.join("\n"))
        });
        let parts = [
            ("@HOST@", *host),
            ("@CA@", &ca),
            ("@SIGNERS@", fleet.signers.trim_end()),
            ("@REVOKED@", &revoked.unwrap_or_default()),
            ("@SETTINGS@", toml.trim_end()),
            ("@UNIT@", UNIT.trim_end()),
            ("@PASSWORD@", password),
        ];
        let room = SCRIPT.len() + parts.iter().map(|(_, text)| text.len()).sum::<usize>();
        let mut script = Zeroizing::new(String::with_capacity(room + 4096));
        let mut rest = SCRIPT;
        // One pass: what is filled in is not searched again.
        while let Some((at, (name, text))) =
            parts.iter().filter_map(|part| Some((rest.find(part.0)?, part))).min_by_key(|(at, _)| *at)
        {
            script.push_str(&rest[..at]);
            script.push_str(text);
            rest = &rest[at + name.len()..];
        }
        script.push_str(rest);
        script
    }
}

/// Makes the user in Redis, and sees to it that it outlives Redis' restart.
async fn apply(line: &str, settings: &Settings, printer: &Printer) -> anyhow::Result<()> {
    let mut fleet = super::connect(settings).await?;
    let mut set = redis::pipe();
    set.cmd("ACL").arg("SETUSER").arg(line.split(' ').collect::<Vec<_>>());
    fleet.query::<()>(&set).await.map_err(|error| match error {
        Error::Redis { ref source, .. } if source.code() == Some("NOPERM") => {
            let message = format!("your Redis user may not make users: {error}");
            let advice = Advice::new(message).hint("without --apply-acl the command is printed, for redis-cli to read");
            anyhow::Error::from(advice.hint("or name an administrator's login: --redis URL"))
        }
        error => error.into(),
    })?;
    let saved: Result<(), Error> = fleet.query(redis::pipe().cmd("ACL").arg("SAVE")).await;
    if saved.is_err() {
        let remedy = "name an `aclfile` in its configuration, or put the user into it: ctl acl print";
        printer.warn(&format!("Redis forgets the user when it restarts: {remedy}"));
    }
    Ok(())
}
