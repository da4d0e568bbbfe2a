//! `ctl acl`: what each program may do in Redis.

use anyhow::Context;
use protocol::{
    acl::{Access, Grant, Role},
    connection::{Address, read_password},
    keys::Keys,
};
use serde_json::{Value, json};

use crate::{
    cli::{grammar::AclPrint, settings::Settings},
    output::{Format, Printer, Table},
};

/// What makes a user outlive Redis' restart, where Redis keeps its users in a file.
pub const SAVE: &str = "ACL SAVE";

/// Tells what `redis-cli` must not have replied to [`SAVE`].
pub fn note_save(user: &str, printer: &Printer) {
    printer.note(&format!(
        "{SAVE} keeps the user {user} over Redis' restart; if Redis replies that it has no ACL file, name an `aclfile` in its \
         configuration first"
    ));
}

/// Prints the user of a role. Asks no Redis.
pub fn print(options: AclPrint, settings: &Settings, printer: &Printer) -> anyhow::Result<()> {
    let role = match options.host {
        Some(host) => Role::Worker(host),
        None if options.controller => Role::Controller,
        None if options.serve => Role::Serve,
        None => Role::Reader,
    };
    let namespace = settings.namespace.as_ref();
    if options.explain {
        return explain(&role.grants(&Keys::new(namespace)), printer);
    }

    let file = options.password_file;
    let read = file.map(|file| read_password(&file).with_context(|| format!("cannot read {}", file.display())));
    let password = read.transpose()?;
    let selects = settings.named_redis.as_ref().is_some_and(Address::selects);
    let line = role.user_line(namespace, password.as_deref(), selects);
    let (user, rules) = line.split_once(' ').unwrap_or((&line, ""));
    if printer.format() == Format::Table {
        let begin = if options.setuser { "ACL SETUSER" } else { "user" };
        printer.line(&format!("{begin} {line}"))?;
        if options.setuser {
            printer.line(SAVE)?;
            note_save(user, printer);
        }
    } else {
        printer.object(&json!({ "user": user, "rules": rules }))?;
    }
    if password.is_none() {
        printer
            .warn(&format!("without a password nobody can log in as {user}: name a file with one (--password-file)"));
    }
    Ok(())
}

fn explain(grants: &[Grant], printer: &Printer) -> anyhow::Result<()> {
    if printer.format() != Format::Table {
        return printer.objects(&grants.iter().map(object).collect::<Vec<_>>());
    }
    let mut table = Table::new(["KEYS", "USE", "COMMANDS", "WHY"]);
    for grant in grants {
        let keys = if grant.keys.is_empty() { "-".to_owned() } else { grant.keys.join(" ") };
        table.row([keys.into(), usage(grant).into(), grant.commands.join(" ").into(), grant.why.into()]);
    }
    printer.table(&table.folded())
}

fn object(grant: &Grant) -> Value {
    json!({ "keys": grant.keys, "use": usage(grant), "commands": grant.commands, "why": grant.why })
}

/// How the keys may be used.
const fn usage(grant: &Grant) -> &'static str {
    match grant.access {
        _ if grant.keys.is_empty() => "-",
        Access::Read => "read",
        Access::Write => "write",
        Access::Both => "read and write",
    }
}
