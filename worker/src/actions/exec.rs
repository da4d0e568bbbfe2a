//! `exec`: run a program given as an argument vector.

use std::{collections::BTreeMap, io, os::unix::process::ExitStatusExt};

use nix::unistd::{Uid, User};
use protocol::{
    action::{ActionSpec, Argument, Arguments, Kind, Parameter, Repeat},
    name::{HostName, JobId},
};

use super::{Action, Failure, Invocation, Report, Running};
use crate::{
    log::{self, excerpt},
    process::{self, Program},
};

/// Where programs are searched if the worker itself has no `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) struct Exec(ActionSpec);

impl Exec {
    pub(super) fn new() -> Self {
        let argv = Parameter {
            required: true,
            trailing: true,
            ..Parameter::optional("argv", Kind::List, "the program and its arguments; no shell is involved")
        };
        let parameters = vec![
            argv,
            Parameter::optional("cwd", Kind::Text, "directory to run in"),
            Parameter::optional("env", Kind::Map, "environment variables to add"),
            Parameter::optional("lock", Kind::Text, "commands with the same lock run one after another"),
            Parameter::optional("user", Kind::Text, "user to run as, by name or id (the worker must be root)"),
        ];
        let spec = ActionSpec::repeatable("exec", "Run a program and return its output");
        Self(ActionSpec { repeat: Repeat::Once, parameters, ..spec })
    }
}

impl Action for Exec {
    fn spec(&self) -> &ActionSpec {
        &self.0
    }

    fn exclusion(&self, arguments: &Arguments) -> Option<String> {
        arguments.get("lock").and_then(Argument::text).map(|lock| format!("lock:{lock}"))
    }

    fn run(&self, invocation: Invocation) -> Running<'_> {
        Box::pin(async move {
            let Invocation { job, host, arguments, stop, live } = invocation;
            let name = argv(&arguments).first().map(|name| excerpt(name, log::NAME)).unwrap_or_default();
            let ended = process::run(move || program(job, &host, &arguments), &stop, &live).await;
            let ended = ended.map_err(|error| Failure(format!("cannot run '{name}': {error}")))?;
            let signal = ended.status.and_then(|status| status.signal());
            let remark = match (ended.status, signal) {
                (None, _) => Some("it could not be ended, not even by SIGKILL".to_owned()),
                // That is how it is ended when it must be.
                (_, Some(_)) if stop.is_cancelled() => None,
                (_, Some(signal)) => Some(format!("ended by signal {signal}")),
                _ if ended.left_behind => Some("ended processes that it left behind".to_owned()),
                _ => None,
            };
            Ok(Report {
                exit_code: ended.status.and_then(|status| status.code()),
                remark,
                killed: ended.status.is_none() || signal.is_some(),
                stdout: ended.stdout,
                stderr: ended.stderr,
                ..Report::default()
            })
        })
    }
}

fn argv(arguments: &Arguments) -> &[String] {
    arguments.get("argv").and_then(Argument::list).unwrap_or_default()
}

/// What is to be run. Users may be looked up in places that take their time.
fn program(job: JobId, host: &HostName, arguments: &Arguments) -> io::Result<Program> {
    let text = |name: &str| arguments.get(name).and_then(Argument::text);
    let user = text("user").map(find_user).transpose()?;
    let argv = argv(arguments).to_vec();
    // The kernel ends strings at a zero byte; a program must not see less than was asked.
    if argv.iter().any(|word| word.contains('\0')) {
        return Err(io::Error::other("an argument holds a zero byte"));
    }
    let mut env = environment(arguments, user.as_ref())?;
    // Last, so that nothing stands in their place: leftovers are found by them.
    env.insert(process::JOB_VARIABLE.into(), job.to_string());
    env.insert(process::HOST_VARIABLE.into(), host.to_string());
    Ok(Program {
        argv,
        cwd: text("cwd").map(Into::into),
        env,
        user: user.map(|user| (user.uid.as_raw(), user.gid.as_raw())),
    })
}

/// A small environment of known content: the worker's own may hold the Redis password.
fn environment(arguments: &Arguments, user: Option<&User>) -> io::Result<BTreeMap<String, String>> {
    let inherited = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let me = User::from_uid(Uid::effective()).ok().flatten();
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), inherited("PATH", PATH)),
        ("LANG".to_owned(), inherited("LANG", "C.UTF-8")),
    ]);
    if let Some(user) = user.or(me.as_ref()) {
        env.insert("HOME".into(), user.dir.to_string_lossy().into_owned());
        env.insert("USER".into(), user.name.clone());
        env.insert("LOGNAME".into(), user.name.clone());
    }
    for (name, value) in arguments.get("env").and_then(Argument::map).into_iter().flatten() {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            let name = excerpt(name, log::NAME);
            return Err(io::Error::other(format!("'{name}' cannot be an environment variable")));
        }
        env.insert(name.clone(), value.clone());
    }
    Ok(env)
}

fn find_user(name: &str) -> io::Result<User> {
    let found = match name.parse() {
        Ok(id) => User::from_uid(Uid::from_raw(id)),
        Err(_) => User::from_name(name),
    };
    let name = excerpt(name, log::NAME);
    found
        .map_err(|error| io::Error::other(format!("cannot look up user '{name}': {error}")))?
        .ok_or_else(|| io::Error::other(format!("there is no user '{name}'")))
}
