//! `ctl exec` and `ctl sh`: a program on one host, in the habit of `kubectl exec` and ssh. It is the action `exec`,
//! followed as any other job.

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    path::{Path, PathBuf},
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

use super::{
    content::{self, Content},
    last, proposal, secrets,
    selected::select,
    watch,
};
use crate::{
    cli::{grammar::Remote, keys, settings::Settings},
    client::{Event, Fleet, Follower, Host, HostResult, Job, Request, Selection, Signer, Upload, understand},
    output::{Advice, Exit, Printer, events, explain::explain, moments, summary::standing, tail::Tail},
};

/// The exit code after Ctrl-C, as of a program that SIGINT ends.
const INTERRUPTED: u8 = 128 + 2;

/// The parameters that take standard input: a short text, or content and its key.
const STDIN: &str = "stdin";
const STDIN_CONTENT: [&str; 2] = ["stdin_content", "stdin_key"];

/// The parameters that take a script and its key.
const SCRIPT: [&str; 2] = ["script", "script_key"];

/// How long standard input may be silent before `ctl` notes that it reads it.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is run.
pub struct Program {
    /// The program and its arguments, or those of the script.
    pub words: Vec<String>,
    /// A script, in place of a program.
    pub script: Option<PathBuf>,
}

/// What is read for the program.
enum Input {
    /// A short text, which travels with the command.
    Text(String),
    /// All else.
    Content(Content),
}

/// Runs a program on one host.
pub async fn run(
    options: Remote,
    program: Program,
    fleet: &mut Fleet,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (hosts, _) = select(&Selection::of([options.host.as_str()])?, fleet, printer).await?;
    let host = one(&hosts, &options.host)?;
    check_online(host, fleet.now())?;
    let Program { mut words, script } = program;
    let mut contents = Vec::new();
    if let Some(path) = &script {
        words.insert(0, script_name(path));
        contents.push((SCRIPT, read_script(path)?));
    }
    let mut understood = understand(&hosts, "exec", &options.arguments, &words)?;
    proposal::refuse_alone("exec", understood.approvals)?;
    let mut sealed = secrets::read(understood.secrets)?;
    let has_input = sealed.contains_key(STDIN);
    if has_input && options.stdin.is_some() {
        return Err(Advice::new("standard input is given twice: by --stdin and as a parameter").into());
    }
    if options.stdin.is_some() || !(options.no_stdin || has_input || io::stdin().is_terminal()) {
        let input = tokio::select! {
            input = read_input(options.stdin, printer) => input?,
            _ = interrupt.recv() => return Ok(INTERRUPTED.into()),
        };
        match input {
            Input::Text(text) if text.is_empty() => {}
            Input::Text(text) => {
                check_takes(host, STDIN, "standard input")?;
                sealed.insert(STDIN.into(), Argument::Text(text));
            }
            Input::Content(content) => contents.push((STDIN_CONTENT, content)),
        }
    }
    for ([name, key], content) in &contents {
        check_takes(host, name, if *name == SCRIPT[0] { "scripts" } else { "so large a standard input" })?;
        understood.arguments.insert((*name).into(), Argument::Text(content.artifact().to_string()));
        sealed.insert((*key).into(), Argument::Text(content.key().to_text()));
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
    let mut uploads = Vec::new();
    for (_, content) in &mut contents {
        uploads.push(content.upload(request.start_by, request.timeout, fleet, printer).await?);
    }
    let sent = fleet.dispatch(request, &signer, &mut |event| events::note_dispatch(&event, printer)).await;
    let job = match sent {
        Ok(job) => job,
        Err(error) => {
            let error = error.into();
            if last::is_unsent(&error) {
                release(&uploads, fleet, printer).await;
            }
            return Err(error);
        }
    };
    printer.set_look(options.exact.into());
    let followed = follow(&job, fleet, &signer, &mut interrupt, settings, printer).await;
    // Once it has begun to run, it has all that it needs; where it may still begin, it needs it.
    if followed.is_ok() {
        release(&uploads, fleet, printer).await;
    }
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

fn check_takes(host: &Host, parameter: &str, what: &str) -> anyhow::Result<()> {
    let takes = host.action("exec").is_some_and(|exec| exec.parameter(parameter).is_some());
    let older = || Advice::new(format!("the worker of {} is older, and does not take {what}", host.name));
    if takes { Ok(()) } else { Err(older().hint("update it, or leave that out (no standard input: -n)").into()) }
}

/// The first word of a script's argument vector.
fn script_name(path: &Path) -> String {
    path.file_name().map_or_else(|| "script".into(), |name| name.to_string_lossy().into_owned())
}

/// The kernel runs a script by its first line.
fn read_script(path: &Path) -> anyhow::Result<Content> {
    let mut content = Content::open(path)?;
    let shown = path.display();
    if content.beginning::<2>()? != b"#!" {
        let no_line = Advice::new(format!("{shown} does not say what runs it"));
        return Err(no_line.hint("it must begin with a line such as #!/bin/sh").into());
    }
    if content.artifact().bytes() > limits::SCRIPT_BYTES as u64 {
        let large =
            Advice::new(format!("{shown} is larger than {} MiB, the largest script", limits::SCRIPT_BYTES >> 20));
        return Err(large.hint("put it there first: ctl file put").into());
    }
    Ok(content)
}

async fn release(uploads: &[Upload], fleet: &mut Fleet, printer: &Printer) {
    for upload in uploads {
        content::release(upload, fleet, printer).await;
    }
}

/// Reads standard input, or what is given in its place, to its end.
async fn read_input(given: Option<PathBuf>, printer: &Printer) -> anyhow::Result<Input> {
    let (sender, receiver) = oneshot::channel();
    let given = given.filter(|path| path != Path::new("-"));
    // A thread of its own: a read that never ends must not keep `ctl` from ending.
    thread::spawn(move || {
        let read = match given {
            None => read_whole(io::stdin()).context("cannot read standard input"),
            Some(path) => File::open(&path)
                .map_err(anyhow::Error::from)
                .and_then(read_whole)
                .with_context(|| format!("cannot read {}", path.display())),
        };
        drop(sender.send(read));
    });
    let mut receiver = pin!(receiver);
    let read = if let Ok(read) = timeout(PATIENCE, &mut receiver).await {
        read
    } else {
        printer.note("reading standard input to its end; if the program needs none: -n");
        receiver.await
    };
    read.context("standard input cannot be read")?
}

/// Reads all that there is. A short text travels with the command; all else travels as content.
fn read_whole(mut source: impl Read) -> anyhow::Result<Input> {
    let mut bytes = Vec::new();
    (&mut source).take(limits::INPUT_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limits::INPUT_BYTES {
        return Ok(Input::Content(Content::spool(&bytes, source)?));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Input::Text(text)),
        Err(error) => Ok(Input::Content(Content::spool(&error.into_bytes(), io::empty())?)),
    }
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
