//! A service that the worker supervises itself.

use std::{collections::BTreeSet, fs};

use tests::{Load, Served, descendants, eventually, get, is_alive, supervisor};

use super::Host;

#[test]
fn each_action_says_whether_it_changed_anything() {
    let host = Host::supervising("settle = '100ms'");
    assert_eq!(host.run("status").good().is(), "down");
    assert!(host.served.processes().is_empty());

    let dry = host.run("--dry-run start").good();
    assert_eq!((dry.changed(), dry.is()), (Some(false), "down"));
    assert!(dry.would()[0].starts_with("start /") && dry.would()[1].contains("up for 100ms"), "{dry:?}");
    assert!(host.served.processes().is_empty() && !host.directory().exists(), "a dry run does nothing");

    let started = host.run("start").good();
    assert_eq!((started.changed(), started.is(), started.pid()), (Some(true), "up", host.served.pid()));
    assert_eq!(started.data["addresses"][0], host.served.address.to_string());
    let again = host.run("start").good();
    assert_eq!((again.changed(), again.pid()), (Some(false), started.pid()));
    assert!(host.run("--dry-run start").good().would().is_empty());

    let dry = host.run("--dry-run restart").good();
    let expected = format!("end process {}: TERM, and KILL after 30s", started.pid());
    assert_eq!((dry.changed(), dry.would().last().copied()), (Some(false), Some(expected.as_str())));
    assert!(dry.would()[0].ends_with(&format!(", beside process {}", started.pid())), "{dry:?}");
    assert_eq!(host.served.pid(), started.pid());
    let restarted = host.run("restart").good();
    assert_eq!(restarted.changed(), Some(true));
    assert_ne!(restarted.pid(), started.pid());
    assert_eq!(host.served.wait_pid(), restarted.pid());

    // What a person reads.
    let output = host.ctl.run(["run", "--host", "web1", "--dry-run", "stop", "service=web"]).expect(0);
    assert!(output.stderr.contains(", would change\n") && output.stdout.contains("\nwould "), "{output}");
    assert_eq!(host.run("--dry-run stop").good().would().len(), 1);
    assert_eq!(host.served.pid(), restarted.pid());
    let stopped = host.run("stop").good();
    assert_eq!((stopped.changed(), stopped.is()), (Some(true), "down"));
    assert!(get(host.served.address, "/").is_err());
    let output = host.ctl.run(["run", "--host", "web1", "stop", "service=web"]).expect(0);
    assert!(output.stderr.contains(", unchanged\n"), "{output}");
    host.run("reload").bad("nothing to reload");
}

#[test]
fn no_connection_is_refused_over_twenty_restarts_under_load() {
    let served = Served::new("web");
    let check = format!("settle = '100ms'\ncheck = {{ http = 'http://{}/health', status = 200 }}", served.address);
    let settings = served.settings(&check);
    let host = Host::with(served, |worker| worker.config(&settings));
    host.run("start").good();
    let load = Load::start(host.served.address, "/", 4);
    let mut pids = BTreeSet::from([host.served.pid()]);
    for _ in 0..20 {
        let restarted = host.run("restart").good();
        assert_eq!(restarted.changed(), Some(true));
        assert!(pids.insert(restarted.pid()), "each restart makes a new process");
    }
    let (counts, time) = load.finish();
    let rate = counts.answered as f64 / time.as_secs_f64();
    println!("20 restarts: {counts:?}, {rate:.0} answers a second");
    assert_eq!((counts.refused, counts.broken, counts.other.as_slice()), (0, 0, &[][..]));
    assert!(counts.answered > 100, "{counts:?}");
    // None of the processes before is left.
    eventually("the old processes to be gone", || (host.served.processes().len() == 1).then_some(()));
}

#[test]
fn what_was_accepted_is_finished_before_the_old_process_ends() {
    let host = Host::supervising("settle = '100ms'");
    host.run("start").good();
    let load = Load::start(host.served.address, "/slow", 8);
    for _ in 0..3 {
        host.run("restart").good();
    }
    let (counts, _) = load.finish();
    println!("3 restarts with answers that take 300 ms: {counts:?}");
    assert_eq!((counts.refused, counts.broken, counts.other.as_slice()), (0, 0, &[][..]));
    assert!(counts.answered >= 8, "{counts:?}");
}

#[test]
fn a_program_that_crashes_at_once_is_not_started_and_replaces_nothing() {
    let host = Host::supervising("settle = '200ms'");
    host.served.behave("crash");
    let failed = host.run("start").bad("it is not up: exit code 3");
    assert_eq!((failed.changed(), failed.is()), (Some(false), "down"));
    assert!(failed.stderr.contains("told to crash"), "its last lines: {failed:?}");
    eventually("nothing to be left", || {
        (host.served.processes().is_empty() && supervisor(&host.directory()).is_none()).then_some(())
    });

    host.served.behave("");
    let pid = host.run("start").good().pid();
    host.served.behave("crash");
    let failed = host.run("restart").bad("it is not up: exit code 3");
    assert_eq!((failed.changed(), failed.is(), failed.pid()), (Some(false), "up", pid), "the old process goes on");
    assert_eq!(host.served.pid(), pid);
}

#[test]
fn a_program_that_cannot_be_run_is_named() {
    let served = Served::new("web");
    let settings = format!("[services.web]\nprogram = ['/no/such/program']\nlisten = ['{}']\n", served.address);
    let host = Host::with(served, |worker| worker.config(&settings));
    host.run("start").bad("it is not up: cannot run '/no/such/program' in /: No such file or directory");
    host.ctl.run(["run", "--host", "web1", "start", "service=nginx"]).expect(2);
    let output = host.ctl.run(["run", "--host", "web1", "start", "service=nginx"]).expect(2);
    assert!(output.stderr.contains("there is no service 'nginx' on this host"), "{output}");
    assert!(output.stderr.contains("the settings name web"), "{output}");
    let output = host.ctl.run(["run", "--host", "web1", "start", "service=--now"]).expect(2);
    assert!(output.stderr.contains("'--now' is no name of a service"), "{output}");
}

#[test]
fn a_check_that_does_not_pass_is_reported_in_time_and_leaves_what_was() {
    let served = Served::new("web");
    let check = format!("settle = '100ms'\ncheck = {{ http = 'http://{}/health', status = 200 }}", served.address);
    let settings = served.settings(&check);
    let host = Host::with(served, |worker| worker.config(&settings));
    host.served.behave("sick");
    let failed = host.run("--timeout 6s start").bad("/health: status 500");
    assert_eq!((failed.state.as_str(), failed.changed()), ("timed_out", Some(false)));
    eventually("nothing to be left", || host.served.processes().is_empty().then_some(()));

    host.served.behave("slow 700");
    let pid = host.run("start").good().pid();
    assert_eq!(host.served.pid(), pid, "a start that takes its time is waited for");
    host.served.behave("sick");
    let failed = host.run("--timeout 6s restart").bad("/health: status 500");
    assert_eq!((failed.changed(), failed.pid()), (Some(false), pid));
    // One that ends while it is checked is not waited for: its socket stays open.
    host.served.behave("crash");
    let failed = host.run("--timeout 1h restart").bad("it is not up: exit code 3");
    assert_eq!((failed.changed(), failed.pid()), (Some(false), pid));
    let (status, _) = get(host.served.address, "/health").expect("the old process answers");
    assert_eq!((status, host.served.pid()), (200, pid));
}

#[test]
fn a_server_behind_a_shell_finishes_what_it_has_accepted() {
    let served = Served::new("web");
    // The shell does not become the server: TERM ends it at once, and the server drains.
    let line = format!("LISTEN_PID=$$ exec {}", Served::program().display());
    let shell = ["sh", "-c", "sh -c \"$1\"; exit 0", "run", &line];
    let program = format!("program = [{:?}]", Served::program().display().to_string());
    let settings = served.settings("settle = '200ms'").replace(&program, &format!("program = {shell:?}"));
    let host = Host::with(served, |worker| worker.config(&settings));
    host.run("start").good();
    let load = Load::start(host.served.address, "/slow", 8);
    for _ in 0..3 {
        host.run("restart").good();
    }
    let (counts, _) = load.finish();
    assert_eq!((counts.refused, counts.broken, counts.other.as_slice()), (0, 0, &[][..]), "{counts:?}");
    eventually("the old processes to be gone", || (host.served.processes().len() == 2).then_some(()));
    host.run("stop").good();
    assert!(host.served.processes().is_empty());
}

#[test]
fn the_old_process_does_not_pass_the_check_of_the_new_one() {
    let served = Served::new("web");
    // What the name means is not known before, so that no process is tried at a private port.
    let url = format!("http://LOCALHOST:{}/health", served.address.port());
    let settings = served.settings(&format!("settle = '100ms'\ndrain = '1s'\ncheck = {{ http = '{url}' }}"));
    let host = Host::with(served, |worker| worker.config(&settings));
    // It accepts connections until it is killed.
    host.served.behave("stubborn");
    let pid = host.run("start").good().pid();
    host.served.behave("sick");
    let dry = host.run("--dry-run restart").good();
    let wait = format!("wait until process {pid} accepts no more connections");
    assert!(dry.would().contains(&wait.as_str()) && !dry.would().join(" ").contains("private"), "{dry:?}");
    host.run("--timeout 10s restart").bad("/health: status 500");
    let log = fs::read_to_string(host.directory().join("log")).expect("a log");
    assert_eq!(log.matches(" is started: ").count(), 2, "{log}");
}

#[test]
fn the_program_of_a_check_is_told_where_a_candidate_listens() {
    let served = Served::new("web");
    let asked = served.directory().join("asked");
    let check = ["sh", "-c", "echo \"${REDFLEET_ADDRESS:-none}\" >> \"$1\"", "check", &asked.display().to_string()];
    let settings = served.settings(&format!("settle = '100ms'\ncheck = {{ argv = {check:?} }}"));
    let host = Host::with(served, |worker| worker.config(&settings));
    host.run("start").good();
    host.run("restart").good();
    let asked = fs::read_to_string(&asked).expect("its output");
    let lines: Vec<_> = asked.lines().collect();
    assert!(matches!(lines[..], ["none", private, "none"] if private.starts_with("127.0.0.1:")), "{asked}");
    assert!(!asked.contains(&host.served.address.to_string()), "{asked}");
}

#[test]
fn a_process_that_crashes_is_started_again() {
    let host = Host::supervising("settle = '100ms'");
    let pid = host.run("start").good().pid();
    assert!(get(host.served.address, "/crash").is_err());
    // The socket stays open meanwhile: the connection waits.
    let next = host.served.pid();
    assert_ne!(next, pid);
    let status = host.run("status").good();
    assert_eq!((status.is(), status.pid(), status.data["crashes"].as_u64()), ("up", next, Some(1)));
    host.served.behave("crash");
    assert!(get(host.served.address, "/crash").is_err());
    eventually("a failure of the next process", || {
        let status = host.run("status").good();
        let detail = status.data["detail"].as_str().unwrap_or_default().to_owned();
        (status.is() == "failed" && detail.starts_with("exit code 3; started again in")).then_some(())
    });
    host.served.behave("");
    host.served.wait_pid();
    let log = fs::read_to_string(host.directory().join("log")).expect("a log");
    assert!(log.contains("told to crash") && log.contains("[redfleet 20"), "{log}");
}

#[test]
fn stop_ends_children_too_wherever_they_went() {
    let host = Host::supervising("settle = '100ms'");
    host.served.behave("parent");
    let pid = host.run("start").good().pid();
    let supervisor = supervisor(&host.directory()).expect("a supervisor");
    let family = eventually("three processes", || Some(descendants(supervisor)).filter(|all| all.len() >= 3));
    assert!(family.contains(&pid), "{family:?}");
    assert_eq!(host.run("stop").good().is(), "down");
    let left: Vec<_> = family.iter().chain([&supervisor]).filter(|pid| is_alive(**pid)).collect();
    assert!(left.is_empty(), "{left:?} of {family:?}");
}

#[test]
fn what_does_not_end_in_time_is_killed() {
    let host = Host::supervising("settle = '100ms'\ndrain = '2s'");
    host.served.behave("stubborn");
    let first = host.run("start").good().pid();
    let second = host.run("restart").good().pid();
    eventually("the old process to be killed", || (!is_alive(first)).then_some(()));
    assert_eq!(host.run("stop").good().is(), "down");
    assert!(!is_alive(second));
    let log = fs::read_to_string(host.directory().join("log")).expect("a log");
    assert!(log.contains("does not obey") && log.contains("has not ended in time: KILL"), "{log}");
}

#[test]
fn a_program_without_sockets_is_ended_before_the_next_one_starts() {
    let served = Served::new("web");
    let environment = served.environment().replace("env = {", &format!("env = {{ ADDRESS = \"{}\",", served.address));
    let program = Served::program().display().to_string();
    let settings = format!("[services.web]\nprogram = [{program:?}]\n{environment}\nsettle = '100ms'\n");
    let host = Host::with(served, |worker| worker.config(&settings));
    let first = host.run("start").good().pid();
    let dry = host.run("--dry-run restart").good();
    assert!(dry.would()[0].starts_with("end process"), "{dry:?}");
    let second = host.run("restart").good().pid();
    assert!(!is_alive(first) && second == host.served.wait_pid());
    // The new one does not come up: the old one cannot go on, but what it was started with can.
    host.served.behave("crash");
    host.run("restart").bad("exit code 3");
    host.served.behave("");
    let third = host.served.wait_pid();
    assert!(third != second && host.run("status").good().is() == "up");
}

#[test]
fn reload_is_the_signal_hup() {
    let host = Host::supervising("settle = '100ms'");
    let pid = host.run("start").good().pid();
    host.served.behave("sick");
    assert_eq!(host.run("--dry-run reload").good().would(), [format!("send HUP to process {pid}")]);
    assert_eq!(get(host.served.address, "/health").expect("an answer").0, 200);
    assert_eq!(host.run("reload").good().changed(), Some(true));
    eventually("the new settings", || (get(host.served.address, "/health").ok()?.0 == 500).then_some(()));
    assert_eq!(host.served.pid(), pid);
}

#[test]
fn the_log_is_bounded() {
    let host = Host::supervising("settle = '100ms'");
    host.served.behave("loud 400000");
    host.run("start").good();
    let log = || fs::read_to_string(host.directory().join("log")).unwrap_or_default();
    eventually("the last line", || log().ends_with("serves\n").then_some(()));
    let size = |name: &str| fs::metadata(host.directory().join(name)).map_or(0, |found| found.len());
    let (newest, before) = (size("log"), size("log.1"));
    println!("400,000 lines: {newest} and {before} bytes of the log are kept");
    assert!(newest + before <= protocol::limits::SERVICE_LOG_BYTES as u64 && before > 500_000);
}

#[test]
fn sockets_are_handed_over_with_their_names_and_kept_when_settings_change() {
    let served = Served::new("web");
    let path = served.directory().join("web.sock");
    let two = |name: &str| {
        let listen = format!("listen = [\"http={}\", \"{name}=unix:{}\"]", served.address, path.display());
        served.settings("settle = '100ms'").replace(&format!("listen = [\"{}\"]", served.address), &listen)
    };
    let (first, second) = (two("admin"), served.settings("settle = '100ms'"));
    let mut host = Host::with(served, |worker| worker.config(&first));
    host.run("start").good();
    let log = || fs::read_to_string(host.directory().join("log")).expect("a log");
    assert!(log().contains("got 2 sockets: http:admin"), "{}", log());
    std::os::unix::net::UnixStream::connect(&path).expect("the second socket is open");
    let directory = host.directory();

    // A worker with other settings: the next restart brings them into force, without a gap at the socket that stays.
    let options = host.worker.options();
    host.worker.terminate();
    let named = format!("renamed={}", host.served.address);
    let settings = second.replace(&format!("\"{}\"", host.served.address), &format!("{named:?}"));
    host.worker = options.replace_config(&first, &settings).start();
    host.worker.wait_online();
    let load = Load::start(host.served.address, "/", 2);
    host.run("restart").good();
    let (counts, _) = load.finish();
    assert_eq!((counts.refused, counts.broken), (0, 0), "{counts:?}");
    eventually("the second socket to be closed", || (!path.exists()).then_some(()));
    let log = fs::read_to_string(directory.join("log")).expect("a log");
    assert!(log.contains("got 1 sockets: renamed\n"), "{log}");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let host = Host::supervising("settle = '100ms'");
    let taken = std::net::TcpListener::bind(host.served.address).expect("a free port");
    let failed = host.run("start").bad(&format!("cannot listen at {}: Address already in use", host.served.address));
    assert_eq!(failed.is(), "down");
    drop(taken);
    host.run("start").good();
}
