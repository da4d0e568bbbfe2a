//! How a program is run, and that no process of it stays.

use std::{collections::BTreeMap, fs, path::PathBuf};

use nix::{
    sys::ptrace,
    unistd::{Uid, User},
};
use protocol::{
    action::{Argument, Arguments},
    command::Manifest,
    outcome::{Outcome, State},
};
use tests::{Ctl, Gate, Raw, Redis, Worker, eventually, fleet, is_alive, kill_groups};

/// Long enough for a program to have begun even on a busy machine.
const TIMEOUT_MS: u64 = 8000;

/// Runs a line of shell with one more argument of `exec`.
fn run_with(raw: &mut Raw, script: &str, name: &str, value: Argument) -> Outcome {
    let manifest = raw.shell("web1", script);
    let more = Arguments::from([(name.to_owned(), value)]);
    raw.run("web1", &Manifest { arguments: manifest.arguments.into_iter().chain(more).collect(), ..manifest })
}

fn environment<const N: usize>(variables: [(&str, &str); N]) -> Argument {
    Argument::Map(variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

fn printed(outcome: &Outcome) -> String {
    String::from_utf8_lossy(&outcome.stdout.kept).into_owned()
}

/// Where a program leaves the id of a process that it started.
struct Pid(PathBuf);

impl Pid {
    fn new(redis: &Redis) -> Self {
        Self(redis.directory().join("pid"))
    }

    /// A line of shell that starts a process in the background and leaves its id.
    fn script(&self) -> String {
        format!("sleep 1000 & echo $! > '{}'", self.0.display())
    }

    fn read(&self) -> u32 {
        fs::read_to_string(&self.0).expect("a file").trim().parse().expect("a pid")
    }
}

#[test]
fn a_timeout_ends_grandchildren_too() {
    let (redis, _worker, mut raw) = fleet();
    let (pid, mut gate) = (Pid::new(&redis), Gate::new(&redis, "gate"));
    let script = format!("echo begun; sh -c \"{}; {}\"", pid.script().replace('$', "\\$"), gate.script());
    let manifest = Manifest { timeout_ms: TIMEOUT_MS, ..raw.shell("web1", &script) };
    raw.send("web1", &manifest);
    gate.reached();
    assert!(is_alive(pid.read()));
    let outcome = raw.outcome("web1", &manifest);
    assert_eq!((outcome.state, printed(&outcome)), (State::TimedOut, "begun\n".into()));
    assert!(!is_alive(pid.read()), "gone before the outcome is published");
}

#[test]
fn a_program_that_ignores_term_is_killed_and_its_output_is_kept() {
    let (redis, _worker, mut raw) = fleet();
    let pid = Pid::new(&redis);
    let script = format!("trap '' TERM; echo begun; {}; while :; do sleep 1; done", pid.script());
    let manifest = raw.shell("web1", &script);
    let outcome = raw.run("web1", &Manifest { timeout_ms: TIMEOUT_MS, ..manifest });
    assert_eq!((outcome.state, outcome.exit_code), (State::TimedOut, None));
    assert_eq!(printed(&outcome), "begun\n");
    assert!(!is_alive(pid.read()), "it ignores TERM like its parent");
    assert!(outcome.duration_ms() >= Some(TIMEOUT_MS + 5000), "it had the time between TERM and KILL: {outcome:?}");
}

#[test]
fn a_program_that_handles_term_may_print_before_it_ends() {
    let (_redis, _worker, mut raw) = fleet();
    let manifest = raw.shell("web1", "trap 'echo bye; exit 7' TERM; echo begun; while :; do sleep 0.01; done");
    let outcome = raw.run("web1", &Manifest { timeout_ms: TIMEOUT_MS, ..manifest });
    assert_eq!((outcome.state, outcome.exit_code), (State::TimedOut, Some(7)));
    assert_eq!(printed(&outcome), "begun\nbye\n");
}

#[test]
fn processes_that_a_program_leaves_behind_are_ended() {
    let (redis, _worker, mut raw) = fleet();
    let pid = Pid::new(&redis);
    for script in [pid.script(), format!("trap '' TERM; {}", pid.script())] {
        let manifest = raw.shell("web1", &format!("echo begun; {script}"));
        let outcome = raw.run("web1", &manifest);
        assert_eq!((outcome.state, outcome.exit_code), (State::Succeeded, Some(0)));
        assert_eq!(outcome.reason.as_deref(), Some("ended processes that it left behind"));
        assert_eq!(printed(&outcome), "begun\n");
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.read()));
        assert!(!is_alive(pid.read()), "{script}: {outcome:?} {stat:?}");
    }
}

#[test]
fn processes_left_behind_may_print_before_they_end() {
    let (redis, _worker, mut raw) = fleet();
    let ready = redis.directory().join("ready").display().to_string();
    let behind = format!("(trap 'echo bye; exit' TERM; > '{ready}'; while :; do sleep 0.01; done) &");
    let manifest = raw.shell("web1", &format!("{behind} while ! [ -e '{ready}' ]; do sleep 0.01; done; echo begun"));
    let outcome = raw.run("web1", &manifest);
    assert_eq!((outcome.state, printed(&outcome)), (State::Succeeded, "begun\nbye\n".into()));
    assert_eq!(outcome.reason.as_deref(), Some("ended processes that it left behind"));
}

#[test]
fn a_daemon_in_its_own_session_holds_up_nothing() {
    let (redis, _worker, mut raw) = fleet();
    let pid = Pid::new(&redis);
    let mut gate = Gate::new(&redis, "gate");
    // The daemon keeps the output open, too.
    let daemon = format!("setsid sh -c \"echo \\$\\$ > '{}'; {}\" &", pid.0.display(), gate.script());
    let manifest =
        raw.shell("web1", &format!("echo begun; {daemon} while ! [ -s '{}' ]; do sleep 0.01; done", pid.0.display()));
    let outcome = raw.run("web1", &manifest);
    assert_eq!((outcome.state, printed(&outcome)), (State::Succeeded, "begun\n".into()));
    gate.reached();
    assert!(is_alive(pid.read()));
    kill_groups(&[pid.read()]);
}

#[test]
fn a_program_runs_in_the_given_directory() {
    let (redis, _worker, mut raw) = fleet();
    let directory = redis.directory().canonicalize().expect("a directory").display().to_string();
    let outcome = run_with(&mut raw, "pwd -P", "cwd", Argument::Text(directory.clone()));
    assert_eq!((outcome.state, printed(&outcome)), (State::Succeeded, format!("{directory}\n")));
    let outcome = run_with(&mut raw, "pwd", "cwd", Argument::Text("/no/such/place".into()));
    assert_eq!(outcome.state, State::Failed);
    assert!(outcome.reason.expect("a reason").starts_with("cannot run 'sh': "));
}

#[test]
fn a_program_has_a_small_environment_with_what_it_was_given() {
    let (_redis, worker, mut raw) = fleet();
    let given = environment([("GREETING", "hello\nworld"), ("LANG", "eo"), ("EMPTY", "")]);
    let outcome = run_with(&mut raw, "env -0", "env", given);
    assert_eq!(outcome.state, State::Succeeded);
    let printed = printed(&outcome);
    let variables: BTreeMap<&str, &str> =
        printed.split_terminator('\0').filter_map(|line| line.split_once('=')).collect();
    assert_eq!((variables["GREETING"], variables["LANG"], variables["EMPTY"]), ("hello\nworld", "eo", ""));
    let me = User::from_uid(Uid::effective()).expect("users").expect("a user");
    assert_eq!((variables["HOME"], variables["USER"]), (me.dir.to_str().expect("text"), me.name.as_str()));
    assert_eq!(variables["REDFLEET_HOST"], "web1");
    let names: Vec<&str> = variables.keys().copied().collect();
    let expected =
        ["EMPTY", "GREETING", "HOME", "LANG", "LOGNAME", "PATH", "PWD", "REDFLEET_HOST", "REDFLEET_JOB", "USER"];
    // The shell adds some of its own.
    let own = ["OLDPWD", "SHLVL", "_"];
    assert_eq!(names.into_iter().filter(|name| !own.contains(name)).collect::<Vec<_>>(), expected);
    for wrong in ["", "A=B", "A\0"] {
        let outcome = run_with(&mut raw, "true", "env", environment([(wrong, "x")]));
        assert_eq!(outcome.state, State::Failed, "{wrong:?}");
    }
    assert!(!worker.log().contains("hello"), "a program's environment is not logged");
}

#[test]
fn a_program_sees_nothing_of_the_workers_own_secrets() {
    let redis = Redis::options().password("open-sesame").start();
    let options = Worker::on(&redis).redis("unix:///nowhere").allow_exec();
    let worker = options.env("REDFLEET_REDIS", &redis.url()).env("TOKEN", "hunter2").start();
    let mut raw = Raw::on(&redis);
    let manifest = raw.shell("web1", "env; ls -l /proc/self/fd; cat /proc/self/cmdline");
    let outcome = raw.run("web1", &manifest);
    assert_eq!(outcome.state, State::Succeeded);
    let printed = printed(&outcome);
    assert!(printed.contains("REDFLEET_HOST=web1"), "{printed}");
    for secret in ["open-sesame", "hunter2", "REDFLEET_REDIS", "socket:"] {
        assert!(!printed.contains(secret), "{secret}: {printed}");
    }
    let command = fs::read(format!("/proc/{}/cmdline", worker.pid())).expect("the worker runs");
    assert!(!String::from_utf8_lossy(&command).contains("open-sesame"));
    assert!(!worker.log().contains("open-sesame"), "{}", worker.log());
}

#[test]
fn a_program_runs_as_the_user_that_is_named() {
    let (_redis, _worker, mut raw) = fleet();
    let nobody = User::from_name("nobody").expect("users").expect("every Linux has nobody");
    for name in ["nobody".to_owned(), nobody.uid.to_string()] {
        let outcome = run_with(&mut raw, "id -u; id -g; id -G; echo $HOME; echo $USER", "user", Argument::Text(name));
        if Uid::effective().is_root() {
            assert_eq!(outcome.state, State::Succeeded, "{outcome:?}");
            let (gid, home) = (nobody.gid, nobody.dir.display());
            assert_eq!(printed(&outcome), format!("{}\n{gid}\n{gid}\n{home}\nnobody\n", nobody.uid));
        } else {
            // Only root can change the user; the program must not run as any other user than the named one.
            assert_eq!((outcome.state, printed(&outcome)), (State::Failed, String::new()));
        }
    }
    for name in ["no-such-user", "", "4294967294"] {
        let outcome = run_with(&mut raw, "id -u", "user", Argument::Text(name.into()));
        assert_eq!((outcome.state, printed(&outcome)), (State::Failed, String::new()), "{name}");
        let reason = outcome.reason.expect("a reason");
        assert!(reason.contains(&format!("'{name}'")), "{reason}");
    }
}

#[test]
fn a_program_runs_without_a_shell() {
    let (_redis, _worker, mut raw) = fleet();
    let words = ["printf", "%s|", "$HOME", "a b", "'", "*", "`id`", "é", "", "\n"];
    let manifest = raw.exec(&["web1"], &words);
    let outcome = raw.run("web1", &manifest);
    assert_eq!(printed(&outcome), "$HOME|a b|'|*|`id`|é||\n|");
    eventually("nothing to be left", || (raw.queued("web1") == 0).then_some(()));
}

#[test]
fn a_relative_directory_is_refused_with_the_reason() {
    let (redis, _worker, mut raw) = fleet();
    let outcome = run_with(&mut raw, "true", "cwd", Argument::Text("srv".into()));
    let reason = "exec: cwd must be an absolute path, not 'srv'";
    assert_eq!((outcome.state, outcome.reason.as_deref()), (State::Rejected, Some(reason)));
    let exec = Ctl::on(&redis).run(["run", "--host", "web1", "exec", "cwd=srv", "--", "true"]);
    assert!(exec.code != 0 && exec.stderr.contains("cwd must be an absolute path"), "{exec}");
}

#[test]
fn a_killed_program_that_a_debugger_holds_as_a_zombie_has_ended() {
    let (redis, _worker, mut raw) = fleet();
    let (pid, mut gate) = (redis.directory().join("pid"), Gate::new(&redis, "gate"));
    let manifest = raw.shell("web1", &format!("echo $$ > '{}'; {}", pid.display(), gate.script()));
    raw.send("web1", &manifest);
    gate.reached();
    let pid = fs::read_to_string(pid).expect("its pid").trim().parse().expect("a pid");
    // Nothing but SIGKILL reaches it, and its status goes to this test first.
    ptrace::seize(nix::unistd::Pid::from_raw(pid), ptrace::Options::empty())
        .expect("one's own descendant may be traced");
    raw.cancel("web1", &manifest);
    let outcome = raw.outcome("web1", &manifest);
    assert_eq!((outcome.state, outcome.reason.as_deref()), (State::Cancelled, Some("while it ran")));
}
