//! `ctl exec` and `ctl sh`: a program on one host, in the habit of `kubectl exec` and ssh. It is the action `exec`,
//! followed as any other job.

use std::{
    io::{self, IsTerminal, Read},
    pin::pin,
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::Context;
use protocol::{
    action::Argument,
    limits,
    outcome::{Outcome, State},
    targets::Targets,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    time::timeout,
};

use super::{proposal, secrets, watch};
use crate::{
    cli::{grammar::Remote, keys, settings::Settings},
    client::{Event, Fleet, Follower, Host, HostResult, Job, Request, Selection, Signer, understand},
    output::{Advice, Exit, Printer, events, explain::explain, moments, summary::standing, tail::Tail},
};

/// The exit code after Ctrl-C, as of a program that SIGINT ends.
const INTERRUPTED: u8 = 128 + 2;

/// The parameter that takes standard input.
const STDIN: &str = "stdin";

/// How long standard input may be silent before `ctl` notes that it reads it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs the program `words` on one host.
pub async fn run(
    options: Remote,
    words: &[String],
    fleet: &mut Fleet,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hosts = fleet.select(&Selection::Patterns(vec![options.host.clone()])).await?;
    let host = one(&hosts, &options.host)?;
    check_online(host, fleet.now())?;
    let understood = understand(&hosts, "exec", &options.arguments, words)?;
    proposal::refuse_alone("exec", understood.approvals)?;
    let mut sealed = secrets::read(understood.secrets)?;
    if !options.no_stdin && !sealed.contains_key(STDIN) && !io::stdin().is_terminal() {
        let input = tokio::select! {
            input = read_input(printer) => input?,
            _ = interrupt.recv() => return Ok(INTERRUPTED.into()),
        };
        if !input.is_empty() {
            check_takes_input(host)?;
            sealed.insert(STDIN.into(), Argument::Text(input));
        }
    }

    let request = Request {
        action: "exec".into(),
        arguments: understood.arguments,
        secrets: sealed,
        targets: Targets::new([host.name.clone()]),
        timeout: options.timeout.or(settings.timeout).unwrap_or(understood.timeout),
        start_by: settings.start_by,
        retention: settings.retention,
        keep_output: None,
        operator: settings.operator.clone(),
        trace: settings.trace.clone(),
    };
    let signer = keys::open(settings).await?;
    let job = fleet.dispatch(request, &signer, &mut |event| events::note_dispatch(&event, printer)).await?;
    printer.set_look(options.exact.into());
    let followed = follow(&job, fleet, &signer, &mut interrupt, settings, printer).await;
    // The job has been sent: an error from now on must not pass for one of a job that was not.
    Ok(followed.unwrap_or_else(|error| {
        printer.error(&explain(&error));
        Exit::NoCode.into()
    }))
}

/// The one host that is meant.
fn one<'a>(hosts: &'a [Host], typed: &str) -> anyhow::Result<&'a Host> {
    if let [host] = hosts {
        return Ok(host);
    }
    let several = Advice::new(format!("'{typed}' is {} hosts; this is for one", hosts.len()));
    Err(several.hint(format!("for several: ctl run --host '{typed}' exec -- …")).into())
}

/// Whoever waits at a terminal wants a program now.
fn check_online(host: &Host, now: u64) -> anyhow::Result<()> {
    let Some(absent) = host.absent(now) else { return Ok(()) };
    let seen = absent.seen_ms.map(|seen| format!(", last seen {}", moments::ago(seen, now))).unwrap_or_default();
    let offline = Advice::new(format!("{}: offline{seen}; nothing was sent", host.name));
    Err(offline.hint(format!("to queue it for its return: ctl run --host {} exec -- …", host.name)).into())
}

fn check_takes_input(host: &Host) -> anyhow::Result<()> {
    let takes = host.action("exec").is_some_and(|exec| exec.parameter(STDIN).is_some());
    let older = || Advice::new(format!("the worker of {} is older, and takes no standard input", host.name));
    if takes { Ok(()) } else { Err(older().hint("update it, or leave standard input out: -n").into()) }
}

/// Reads standard input to its end.
async fn read_input(printer: &Printer) -> anyhow::Result<String> {
    let (sender, receiver) = oneshot::channel();
    // A thread of its own: a read that never ends must not keep `ctl` from ending.
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = io::stdin().take(limits::INPUT_BYTES as u64 + 1).read_to_end(&mut bytes);
        drop(sender.send(read.map(|_| bytes)));
    });
    let mut receiver = pin!(receiver);
    let read = if let Ok(read) = timeout(PATIENCE, &mut receiver).await {
        read
    } else {
        printer.note("reading standard input to its end; if the program needs none: -n");
        receiver.await
    };
    let bytes = read.context("standard input cannot be read")?.context("cannot read standard input")?;
    if bytes.len() > limits::INPUT_BYTES {
        let large = Advice::new(format!("standard input is larger than {} KiB", limits::INPUT_BYTES / 1024));
        return Err(large.hint("put it into a file on the host").into());
    }
    let binary = || {
        Advice::new("standard input is not text (UTF-8)").hint("encode it: base64 FILE | ctl sh HOST 'base64 -d | …'")
    };
    Ok(String::from_utf8(bytes).map_err(|_| binary())?)
}

/// Prints the output as it comes. Ctrl-C cancels the program, and a second one leaves it. So does a reader of the
/// output that goes away.
async fn follow(
    job: &Job,
    fleet: &mut Fleet,
    signer: &Signer,
    interrupt: &mut Signal,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<ExitCode> {
    let mut follower = Follower::of_new(job);
    follower.watch_output();
    let mut tail = Tail::new(job.id(), 1, printer);
    let mut gone = pin!(Printer::reader_gone());
    let mut stopped: Option<u8> = None;
    loop {
        let stop = tokio::select! {
            event = follower.next(fleet) => {
                match event.map_err(|error| watch::goes_on(job, error))? {
                    None => break,
                    Some(Event::Finished(result)) => tail.end(&result.host, result.outcome.as_ref())?,
                    Some(event) => watch::print_live(&event, &mut tail, job, fleet, printer)?,
                }
                if !printer.is_closed() || stopped.is_some() {
                    continue;
                }
                Exit::Closed as u8
            }
            _ = interrupt.recv() => INTERRUPTED,
            () = &mut gone, if stopped.is_none() => Exit::Closed as u8,
        };
        if let Some(code) = stopped {
            return Ok(code.into());
        }
        printer.leave_line();
        stopped = Some(stop);
        fleet.cancel(job, &[], &settings.operator, signer).await?;
    }

    let code = match (stopped, follower.results().next()) {
        (Some(code), _) => code,
        // A program whose output was forged has no code that one should go by.
        (None, _) if tail.is_forged() => Exit::NoCode as u8,
        (None, Some(result)) => code_of(result).unwrap_or_else(|| {
            printer.trouble(&format!("{}: {}", result.host, standing(result)));
            Exit::NoCode as u8
        }),
        (None, None) => Exit::NoCode as u8,
    };
    Ok(code.into())
}

/// The exit code of a program that ended by itself; `None` where it did not.
fn code_of(result: &HostResult) -> Option<u8> {
    let Outcome { exit_code, signal, .. } = result.outcome.as_ref()?;
    let code = match result.state {
        State::Succeeded | State::Failed => exit_code.or_else(|| signal.map(|signal| 128 + signal))?,
        _ => return None,
    };
    u8::try_from(code).ok()
}
