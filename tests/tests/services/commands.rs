//! A service for which the settings name commands.

use std::{fs, os::unix::fs::PermissionsExt};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests::{Served, eventually, get, is_alive};

use super::Host;

/// A script as hosts without an init have them: it keeps the process id in a file. `redirect`: where the service prints.
fn script(served: &Served, redirect: &str) -> String {
    let directory = served.directory().display();
    let (program, address) = (Served::program().display().to_string(), served.address);
    format!(
        "#!/bin/sh
pid={directory}/pid
is_up() {{ [ -f $pid ] && kill -0 \"$(cat $pid)\" 2>/dev/null; }}
case $1 in
start)
    ADDRESS={address} VERSION=v1 BEHAVIOUR={directory}/behaviour {program} {redirect} &
    echo $! >$pid
    echo \"started $!\" ;;
stop)
    is_up && kill \"$(cat $pid)\"
    while is_up; do sleep 0.05; done
    rm -f $pid ;;
status) is_up || {{ echo 'it is not there'; exit 3; }} ;;
reload)
    sleep 1000 &
    echo $! >{directory}/left
    is_up && kill -HUP \"$(cat $pid)\" ;;
odd) exit 7 ;;
esac
"
    )
}

fn host(status: &str) -> Host {
    let served = Served::new("web");
    let redirect = format!(">{}/out 2>&1", served.directory().display());
    host_of(served, status, &redirect)
}

fn host_of(served: Served, status: &str, redirect: &str) -> Host {
    let path = served.directory().join("service");
    fs::write(&path, script(&served, redirect)).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
    let word = |word: &str| format!("[{:?}, {word:?}]", path.display().to_string());
    let settings = format!(
        "[services.web]\nstart = {}\nstop = {}\nstatus = {}\nreload = {}\nsettle = '300ms'\ncheck = {{ tcp = '{}' }}\n",
        word("start"),
        word("stop"),
        word(status),
        word("reload"),
        served.address
    );
    Host::with(served, |worker| worker.config(&settings))
}

#[test]
fn commands_of_the_settings_start_and_stop_a_service() {
    let mut host = host("status");
    let status = host.run("status").good();
    assert_eq!((status.is(), status.data["driver"].as_str()), ("down", Some("commands")));
    assert!(status.data["detail"].as_str().unwrap_or_default().contains("it is not there"), "{status:?}");
    let dry = host.run("--dry-run start").good();
    assert!(dry.would()[0].ends_with("/service start") && dry.would()[2].starts_with("check it: connect"), "{dry:?}");
    assert!(host.served.processes().is_empty());

    let started = host.run("start").good();
    assert_eq!((started.is(), started.changed()), ("up", Some(true)));
    let pid = host.served.pid();
    assert_eq!(host.run("start").good().changed(), Some(false));
    // What a command has started outlives the worker.
    host.worker.kill9();
    host.worker = host.worker.options().start();
    host.worker.wait_online();
    assert_eq!((host.run("status").good().is(), host.served.pid()), ("up", pid));

    assert_eq!(host.run("reload").good().changed(), Some(true));
    eventually("the signal to arrive", || {
        fs::read_to_string(host.served.directory().join("out")).ok()?.contains("anew").then_some(())
    });
    assert_eq!(host.run("restart").good().changed(), Some(true));
    assert_ne!(host.served.pid(), pid);
    assert!(!is_alive(pid));
    let stopped = host.run("stop").good();
    assert_eq!((stopped.is(), stopped.changed()), ("down", Some(true)));
    assert!(get(host.served.address, "/").is_err());
}

#[test]
fn a_service_that_does_not_come_up_is_reported() {
    let host = host("status");
    host.served.behave("slow 600000");
    host.run("--timeout 6s start").bad("cannot connect to");
    host.run("stop").good();
    host.served.behave("crash");
    let failed = host.run("--timeout 30s start").bad("it is not there");
    assert_eq!(failed.is(), "down", "{failed:?}");
}

#[test]
fn a_status_that_says_nothing_is_an_error() {
    let host = host("odd");
    host.run("status").bad("exit code 7");
    host.run("start").bad("exit code 7");
    assert!(host.served.processes().is_empty());
}

#[test]
fn what_a_start_leaves_prints_to_the_log_for_as_long_as_it_lives() {
    let mut host = host_of(Served::new("web"), "status", "");
    host.served.behave("crash");
    let failed = host.run("--timeout 30s start").bad("it is not there");
    assert!(failed.stderr.contains("told to crash"), "its last lines: {failed:?}");
    host.served.behave("");
    host.run("start").good();
    let pid = host.served.pid();
    let log = host.directory().join("log");
    let heard = |count: usize| {
        eventually("it to print", || {
            (fs::read_to_string(&log).ok()?.matches("reads its settings anew").count() == count).then_some(())
        });
        assert_eq!(host.served.pid(), pid, "nothing has ended it");
    };
    host.run("reload").good();
    heard(1);
    // The worker that has started it is no more.
    let service = Pid::from_raw(pid.cast_signed());
    host.worker.kill9();
    kill(service, Signal::SIGHUP).expect("it lives");
    heard(2);
    host.worker = host.worker.options().start();
    host.worker.wait_online();
    host.run("stop").good();
}

#[test]
fn what_other_commands_leave_is_ended() {
    let host = host("status");
    host.run("start").good();
    host.run("reload").good();
    let left = fs::read_to_string(host.served.directory().join("left")).expect("a process id");
    assert!(!is_alive(left.trim().parse().expect("a number")));
    host.run("stop").good();
}
