//! `ctl host enroll`: all that a machine needs to become a host, as one script.

use std::{
    io::{IsTerminal, stdout},
    path::Path,
};

use anyhow::Context;
use protocol::{
    acl::Role,
    trust::{
        revocation::{is_text, to_text},
        sshsig::JOB,
    },
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::trust::own_copy;
use crate::{
    cli::{
        fleet_trust::{FleetTrust, replace},
        grammar::Enroll,
        keys,
        settings::Settings,
    },
    client::Error,
    output::{Advice, Format, Printer},
};

const SCRIPT: &str = include_str!("enroll.sh");
const SETTINGS: &str = include_str!("enroll.toml");
const UNIT: &str = include_str!("enroll.service");

/// Bytes of a password: nobody has to type it.
const PASSWORD_BYTES: usize = 32;

/// Writes the script, and makes the host's Redis user or prints how.
pub async fn run(options: Enroll, settings: &Settings, printer: &Printer) -> anyhow::Result<()> {
    let Enroll { name, out, apply_acl, worker_redis } = options;
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
    let password = password()?;
    let ca = settings.redis().ok().and_then(|own| own.ca().map(Path::to_owned));
    let ca = ca.filter(|_| redis.is_encrypted());
    let ca = ca.map(|path| std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display())));
    let script = Script { host: name.as_str(), url: redis.url_of(&user), ca: ca.transpose()?, fleet: &fleet }
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
    if printer.format() != Format::Table {
        return printer.object(&json!({
            "host": name,
            "user": user,
            "file": is_file.then(|| out.display().to_string()),
            "script": (!is_file).then_some(&*script),
            "acl": command,
            "applied": apply_acl,
        }));
    }
    match (is_file, apply_acl) {
        (true, true) => {}
        (true, false) => {
            printer.line(&command)?;
            if stdout().is_terminal() {
                printer.note(&format!("the line above makes the Redis user {user}: pipe it to redis-cli"));
            }
        }
        (false, _) => printer.raw(script.as_bytes())?,
    }
    if !is_file && !apply_acl {
        printer.note(&format!("its Redis user, for redis-cli to read: {command}"));
    }
    let file = if is_file { out.display().to_string() } else { "the script".to_owned() };
    printer.note(&format!("run {file} on {name} as root, with the program `worker` beside it, and remove it then"));
    Ok(())
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
    fleet: &'a FleetTrust,
}

impl Script<'_> {
    fn fill(&self, password: &str, settings: &Settings) -> Zeroizing<String> {
        // A string of JSON is a string of TOML too.
        let string = |text: &str| Value::from(text).to_string();
        let Self { host, url, ca, fleet } = self;
        let namespace = settings.namespace.as_ref().map(|name| format!("namespace = \"{name}\"\n")).unwrap_or_default();
        let ca_setting = if ca.is_some() { "redis_ca = \"/etc/redfleet/redis-ca.pem\"\n" } else { "" };
        let toml = SETTINGS
            .replace("@HOST@", host)
            .replace("@NAMESPACE@", &namespace)
            .replace("@REDIS@", &string(url))
            .replace("@CA@", ca_setting)
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
