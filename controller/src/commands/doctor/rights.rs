//! Checks what Redis permits: each command that `ctl` and the workers need, on keys of this namespace. Nothing is
//! executed.

use std::collections::BTreeSet;

use protocol::{
    acl::Role,
    keys::{Any, CONSUMER_GROUP, Keys},
    name::{HostName, JobId},
};
use redis::{Arg, Cmd, Pipeline, RedisError, Value};

use super::{Finding, Level};
use crate::client::{Error, Fleet, shorten};

/// A command's name, and why Redis refuses it.
type Refusal = (String, String);

pub async fn check(fleet: &mut Fleet) -> Result<Vec<Finding>, Error> {
    let keys = fleet.keys().clone();
    let refused = refused_to_us(fleet, &needed_by_ctl(&keys)).await?;
    let mut findings: Vec<_> = finding("ctl", &refused).into_iter().collect();

    let (us, readers) = (user(fleet).await?, readers(fleet).await?);
    for reader in &readers {
        // A user of `ctl acl` has rights on the keys of its own host only.
        let host = Role::host_of(reader, fleet.namespace()).unwrap_or_else(nobody);
        let worker = needed_by_worker(&keys, &host);
        let refused = match &us {
            Some(us) if us != reader => refused_to(fleet, reader, &worker).await?,
            _ => refused_to_us(fleet, &worker).await?,
        };
        findings.extend(finding(&format!("the workers' user {reader}"), &refused));
    }
    if findings.is_empty() {
        let whom = if readers.is_empty() {
            "ctl may send all that it needs"
        } else {
            "ctl and the workers may send all that they need"
        };
        findings.push(Finding::new("rights", Level::Ok, whom));
    }
    Ok(findings)
}

fn finding(whom: &str, refused: &[Refusal]) -> Option<Finding> {
    let (_, reason) = refused.first()?;
    let names: Vec<_> = refused.iter().map(|(name, _)| name).collect();
    Some(Finding::new("rights", Level::Problem, format!("Redis refuses {whom}: {} ({reason})", shorten(&names))))
}

/// What `ctl` sends to run, follow and cancel a job.
fn needed_by_ctl(keys: &Keys) -> Vec<Cmd> {
    let (host, job) = (nobody(), JobId::new());
    let (inbox, record) = (keys.commands(&host), keys.job(job));
    vec![
        command("XADD", &[&inbox, "NOMKSTREAM", "*", "version", "1"]),
        command("XADD", &[&keys.control(&host), "NOMKSTREAM", "*", "kind", "wake"]),
        command("EXPIRE", &[&inbox, "1"]),
        command("XRANGE", &[&inbox, "-", "+"]),
        command("XPENDING", &[&inbox, CONSUMER_GROUP]),
        command("XREAD", &["STREAMS", &keys.job_events(job), "0"]),
        command("HSET", &[&record, "action", "ping"]),
        command("PEXPIRE", &[&record, "1"]),
        command("EXISTS", &[&record]),
        command("HGETALL", &[&keys.job_hosts(job)]),
        command("ZADD", &[&keys.jobs(), "0", "x"]),
        command("ZREMRANGEBYRANK", &[&keys.jobs(), "0", "0"]),
        command("ZREVRANGE", &[&keys.servers(), "0", "0"]),
        command("HSET", &[&keys.set_labels(&host), "x", "x"]),
        command("HGETALL", &[&keys.groups()]),
        command("EVAL", &["return 0", "1", &keys.groups()]),
        command("SET", &[&keys.artifact(&Any, 0), "x", "PX", "1"]),
        command("GETRANGE", &[&keys.job_file(job, &host, 0), "0", "0"]),
    ]
}

/// What a worker sends, also from within its script.
fn needed_by_worker(keys: &Keys, host: &HostName) -> Vec<Cmd> {
    let job = JobId::new();
    let (inbox, status, hosts) = (keys.commands(host), keys.status(host), keys.job_hosts(job));
    vec![
        command("XGROUP", &["CREATE", &inbox, CONSUMER_GROUP, "0", "MKSTREAM"]),
        command("XREADGROUP", &["GROUP", CONSUMER_GROUP, "worker", "STREAMS", &inbox, ">"]),
        command("XACK", &[&inbox, CONSUMER_GROUP, "0-1"]),
        command("XDEL", &[&inbox, "0-1"]),
        command("HSET", &[&status, "state", "up"]),
        command("EXPIRE", &[&status, "1"]),
        command("DEL", &[&status]),
        command("ZADD", &[&keys.servers(), "0", "x"]),
        command("EVAL", &["return 0", "1", &hosts]),
        command("PEXPIRETIME", &[&keys.job(job)]),
        command("HGET", &[&hosts, "x"]),
        command("PEXPIREAT", &[&hosts, "1"]),
        command("XADD", &[&keys.job_events(job), "NOMKSTREAM", "*", "host", "x"]),
        command("GETRANGE", &[&keys.artifact(&Any, 0), "0", "0"]),
        command("SET", &[&keys.job_file(job, host, 0), "x", "PX", "1"]),
    ]
}

/// A host that does not exist: mostly, rights go by the beginning of a key.
fn nobody() -> HostName {
    "doctor".parse().expect("a valid name")
}

fn command(name: &str, arguments: &[&str]) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(arguments);
    command
}

/// A transaction refuses what does not exist or is not permitted as soon as it is queued. This one is discarded.
async fn refused_to_us(fleet: &mut Fleet, commands: &[Cmd]) -> Result<Vec<Refusal>, Error> {
    // Outside of a transaction, the commands would be executed.
    let begun = attempt(fleet, &[]).await?;
    if !begun.is_empty() {
        return Ok(begun);
    }
    attempt(fleet, commands).await
}

async fn attempt(fleet: &mut Fleet, commands: &[Cmd]) -> Result<Vec<Refusal>, Error> {
    let ends = [command("MULTI", &[]), command("DISCARD", &[])];
    let all: Vec<&Cmd> = ends[..1].iter().chain(commands).chain(&ends[1..]).collect();
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    for command in &all {
        pipeline.add_command((*command).clone());
    }
    let replies: Vec<Result<Value, RedisError>> = fleet.query(&pipeline).await?;
    let refusals = all.iter().zip(replies).filter_map(|(command, reply)| Some((name(command), reason(&reply.err()?))));
    Ok(refusals.collect())
}

/// What another user may not send.
async fn refused_to(fleet: &mut Fleet, user: &str, commands: &[Cmd]) -> Result<Vec<Refusal>, Error> {
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    for command in commands {
        pipeline.cmd("ACL").arg("DRYRUN").arg(user);
        for word in words(command) {
            pipeline.arg(word);
        }
    }
    let replies: Vec<Result<String, RedisError>> = fleet.query(&pipeline).await?;
    // Who may not ask learns nothing.
    let refusals = commands.iter().zip(replies).filter_map(|(command, reply)| {
        let reply = reply.ok()?;
        (reply != "OK").then(|| (name(command), reply))
    });
    Ok(refusals.collect())
}

/// The users as which workers read their inboxes; none where this user may not ask.
async fn readers(fleet: &mut Fleet) -> Result<BTreeSet<String>, Error> {
    let list: String = permitted(fleet, redis::pipe().cmd("CLIENT").arg("LIST")).await?.unwrap_or_default();
    let readers = list.lines().filter(|client| client.contains(" cmd=xreadgroup "));
    let user = |client: &str| Some(client.split_once(" user=")?.1.split(' ').next()?.to_owned());
    Ok(readers.filter_map(user).collect())
}

/// The user that `ctl` is to Redis; none where it may not ask.
async fn user(fleet: &mut Fleet) -> Result<Option<String>, Error> {
    permitted(fleet, redis::pipe().cmd("ACL").arg("WHOAMI")).await
}

async fn permitted(fleet: &mut Fleet, question: &Pipeline) -> Result<Option<String>, Error> {
    match fleet.query(question).await {
        Ok((reply,)) => Ok(Some(reply)),
        Err(Error::Redis { source, .. }) if source.code().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

fn words(command: &Cmd) -> impl Iterator<Item = &[u8]> {
    command.args_iter().filter_map(|word| match word {
        Arg::Simple(word) => Some(word),
        _ => None,
    })
}

fn name(command: &Cmd) -> String {
    words(command).next().map(|word| String::from_utf8_lossy(word).into_owned()).unwrap_or_default()
}

fn reason(error: &RedisError) -> String {
    error.detail().map_or_else(|| error.to_string(), str::to_owned)
}
