//! `ctl up` and `ctl down`: what they start, replace, refuse and stop.

use std::{fs, os::unix::fs::MetadataExt, path::Path, process::Command};

use tests::{Output, Stack, binary, eventually, is_alive};

/// The files of a state directory in which nothing runs.
const FILES: [&str; 9] = [
    "allowed_signers",
    "ctl-up.key",
    "ctl-up.key.pub",
    "ctl-up.lock",
    "data",
    "redis.log",
    "worker",
    "worker.log",
    "worker.toml",
];

/// What is added once the worker has replied.
const KNOWN: [&str; 2] = ["known_hosts", "known_hosts.lock"];

/// The names of a directory's entries, sorted.
fn listing(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory").flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn kill9(pid: u32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill runs");
    assert!(status.success());
    eventually("the process to be gone", || (!is_alive(pid)).then_some(()));
}

#[track_caller]
fn redis_cli(stack: &Stack, arguments: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    let output = command.arg("-s").arg(stack.directory().join("redis.sock")).args(arguments).output();
    String::from_utf8(output.expect("redis-cli runs").stdout).expect("text").trim().to_owned()
}

#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    assert_eq!(output.code, 1, "{output}");
    assert_eq!(output.stdout, "", "{output}");
    for words in words {
        assert!(output.stderr.contains(words), "'{words}' is missing: {output}");
    }
}

#[test]
fn up_then_use_without_settings_then_down_then_again() {
    let stack = Stack::new();
    let up = stack.ctl.run(["up", "--host", "web1"]).expect(0);
    assert!(up.stdout.contains(&format!(" on unix://{}/redis.sock\n", stack.directory().display())), "{up}");
    assert!(up.stdout.contains("worker web1: ready; first command done "), "{up}");
    assert!(up.stderr.contains("ctl run --host web1 collect-cpu"), "{up}");

    let stored = |field: &str| redis_cli(&stack, &["HGET", "server:{web1}:cpu", field]);
    // The worker also samples by itself. Its first sample may end in the same millisecond as a collect; after that, if a
    // sample came in between, collect again.
    eventually("the first sample", || (!stored("sampled_at").is_empty()).then_some(()));
    let (printed, usage) = eventually("the result to be the current sample", || {
        let run = stack.ctl.run(["run", "--host", "web1", "collect-cpu", "-o", "json"]).expect(0).json();
        let data = &run["hosts"][0]["data"];
        let usage = stored("usage");
        (data["sampled_at"] == stored("sampled_at")).then(|| (data["usage"].to_string(), usage))
    });
    assert_eq!(printed, usage);
    let exec = stack.ctl.run(["run", "-q", "--host", "web1", "exec", "--", "echo", "it works"]).expect(0);
    assert_eq!(exec.stdout, "it works\n");

    let mode = |name: &str| fs::metadata(stack.directory().join(name)).unwrap().mode() & 0o777;
    assert_eq!((mode(""), mode("redis.sock"), mode("data")), (0o700, 0o700, 0o700));
    let pids = [stack.pid("redis.pid"), stack.pid("worker.pid")];
    let down = stack.ctl.run(["down"]).expect(0);
    assert!(down.stdout.starts_with("worker web1 has stopped\nredis-server has stopped\n"), "{down}");
    assert!(down.stderr.contains(&stack.directory().display().to_string()), "{down}");
    assert_eq!(pids.map(is_alive), [false, false]);
    assert_eq!(stack.running(), [0; 0]);
    let mut files = [&FILES[..], &KNOWN].concat();
    files.sort_unstable();
    assert_eq!(listing(stack.directory()), files);

    // Redis has kept its data.
    stack.up();
    let jobs = stack.ctl.run(["job", "list", "-o", "json"]).expect(0);
    assert!(jobs.stdout.contains("collect-cpu"), "{jobs}");
    stack.ctl.run(["down"]).expect(0);
}

#[test]
fn what_it_starts_is_apart_from_the_terminal() {
    let stack = Stack::new();
    stack.up();
    for name in ["redis.pid", "worker.pid"] {
        let pid = stack.pid(name);
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let group = stat.rsplit_once(") ").unwrap().1.split(' ').nth(2).unwrap();
        assert_eq!(group, pid.to_string(), "{name}: Ctrl-C must not reach its process group");
        let input = fs::read_link(format!("/proc/{pid}/fd/0")).unwrap();
        assert_eq!(input, Path::new("/dev/null"), "{name}");
    }
}

#[test]
fn what_it_starts_inherits_no_open_file() {
    let stack = Stack::new();
    let file = stack.ctl.write("held", "");
    let mut shell = stack.ctl.clone().program("sh".into()).command(["-c", "exec \"$0\" up --host web1 8<held 9>>held"]);
    let output = shell.arg(binary("ctl")).output().expect("sh runs");
    assert!(output.status.success(), "{output:?}");
    for name in ["redis.pid", "worker.pid"] {
        let open = fs::read_dir(format!("/proc/{}/fd", stack.pid(name))).expect("its descriptors").flatten();
        let open: Vec<_> = open.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
        assert!(open.len() > 3 && !open.contains(&file), "{name}: {open:?}");
    }
}

#[test]
#[ignore = "needs `script` of util-linux"]
fn what_it_starts_outlives_the_terminal() {
    let stack = Stack::new();
    // `script` runs its command on a terminal of its own, which is closed at its end.
    let line = format!("{} up --host web1", binary("ctl").display());
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env_clear().env("HOME", stack.ctl.home());
    let output = script.env("PATH", std::env::var_os("PATH").unwrap_or_default()).output().expect("script runs");
    assert!(output.status.success(), "{output:?}");
    stack.ctl.run(["run", "--host", "web1", "ping"]).expect(0);
    assert_eq!(stack.running().len(), 2);
}

#[test]
fn a_second_up_reports_what_runs() {
    let stack = Stack::new();
    stack.up();
    let (redis, worker) = (stack.pid("redis.pid"), stack.pid("worker.pid"));
    let again = stack.ctl.run(["up", "--host", "web2"]);
    let processes = format!("(process {redis}) and worker web1 (process {worker})");
    refused(&again, &["already up in ", &processes, "ctl host list", "ctl down"]);
    stack.ctl.run(["run", "--host", "web1", "ping"]).expect(0);
}

#[test]
fn down_without_up_is_refused() {
    let stack = Stack::new();
    refused(&stack.ctl.run(["down"]), &["nothing is up in ", "ctl up"]);
    assert!(!stack.directory().exists());
    stack.up();
    stack.ctl.run(["down"]).expect(0);
    refused(&stack.ctl.run(["down"]), &["nothing is up in "]);
}

#[test]
fn after_a_crash_stale_pid_files_and_socket_do_not_matter() {
    let stack = Stack::new();
    stack.up();
    kill9(stack.pid("worker.pid"));
    kill9(stack.pid("redis.pid"));
    assert!(stack.directory().join("redis.sock").exists());
    // Meanwhile other processes have got the ids: here this very test, which must survive `ctl down`.
    let recycled = format!("{} 1\n", std::process::id());
    for name in ["redis.pid", "worker.pid"] {
        fs::write(stack.directory().join(name), &recycled).unwrap();
    }
    stack.up();
    stack.ctl.run(["run", "--host", "web1", "ping"]).expect(0);
    stack.ctl.run(["down"]).expect(0);
    for name in ["redis.pid", "worker.pid"] {
        fs::write(stack.directory().join(name), &recycled).unwrap();
    }
    refused(&stack.ctl.run(["down"]), &["nothing is up in "]);
    assert!(!stack.directory().join("redis.pid").exists());
}

#[test]
fn a_worker_without_its_redis_is_replaced_with_it() {
    let stack = Stack::new();
    stack.up();
    let worker = stack.pid("worker.pid");
    kill9(stack.pid("redis.pid"));
    refused(&stack.ctl.run(["host", "list"]), &["cannot reach Redis", "ctl up"]);
    let up = stack.ctl.run(["up", "--host", "web2"]).expect(0);
    assert!(up.stderr.contains("only worker web1 was still running: stopping it"), "{up}");
    assert!(!is_alive(worker));
    assert_eq!(stack.running().len(), 2);
    stack.ctl.run(["run", "--host", "web2", "ping"]).expect(0);
}

#[test]
fn a_redis_without_its_worker_is_replaced_and_keeps_its_data() {
    let stack = Stack::new();
    stack.up();
    stack.ctl.run(["run", "--host", "web1", "collect-load"]).expect(0);
    let redis = stack.pid("redis.pid");
    kill9(stack.pid("worker.pid"));
    let up = stack.ctl.run(["up", "--host", "web1"]).expect(0);
    assert!(up.stderr.contains("only redis-server was still running: stopping it"), "{up}");
    assert!(!is_alive(redis));
    assert_eq!(stack.running().len(), 2);
    stack.ctl.run(["run", "--host", "web1", "ping"]).expect(0);
    let jobs = stack.ctl.run(["job", "list"]).expect(0);
    assert!(jobs.stdout.contains("collect-load"), "{jobs}");
}

#[test]
fn a_worker_that_is_replaced_finishes_what_it_runs() {
    let stack = Stack::new();
    stack.up();
    let [running, go] = ["running", "go"].map(|name| stack.ctl.home().join(name));
    let (touch, wait) = (running.display(), go.display());
    let script = format!("touch {touch}; until [ -e {wait} ]; do sleep 0.01; done; echo finished");
    // The job is on disk before it runs, so killing Redis cannot lose it.
    assert_eq!(redis_cli(&stack, &["CONFIG", "SET", "appendfsync", "always"]), "OK");
    let job = stack.ctl.dispatch("web1", &script);
    eventually("the command to run", || running.exists().then_some(()));
    kill9(stack.pid("redis.pid"));
    let up = stack.ctl.spawn(["up", "--host", "web1"]);
    eventually("the worker to be asked to stop", || stack.worker_log().contains("SIGTERM").then_some(()));
    fs::write(go, "").unwrap();
    up.wait().expect(0);
    // The outcome was in the journal, from which the new worker publishes it.
    let wait = stack.ctl.run(["job", "wait", &job]).expect(0);
    assert!(wait.stdout.contains("finished"), "{wait}");
}

#[test]
fn down_ends_a_stack_without_its_redis() {
    let stack = Stack::new();
    stack.up();
    kill9(stack.pid("redis.pid"));
    let down = stack.ctl.run(["down"]).expect(0);
    assert_eq!(down.stdout, "worker web1 has stopped\nredis-server was not running\n", "{down}");
    assert_eq!(stack.running(), [0; 0]);
}

#[test]
fn down_lets_the_worker_finish_and_publish_that_it_stopped() {
    let stack = Stack::new();
    stack.up();
    let [running, go] = ["running", "go"].map(|name| stack.ctl.home().join(name));
    let (touch, wait) = (running.display(), go.display());
    let script = format!("touch {touch}; until [ -e {wait} ]; do sleep 0.01; done; echo finished");
    let run = stack.ctl.spawn(["run", "--host", "web1", "-q", "exec", "--", "sh", "-c", &script]);
    eventually("the command to run", || running.exists().then_some(()));
    let down = stack.ctl.spawn(["down"]);
    eventually("the worker to be asked to stop", || stack.worker_log().contains("SIGTERM").then_some(()));
    fs::write(go, "").unwrap();
    assert_eq!(run.wait().expect(0).stdout, "finished\n");
    down.wait().expect(0);
    // The worker has ended before Redis, so its last status is stored.
    stack.ctl.run(["up", "--host", "web2"]).expect(0);
    let hosts = stack.ctl.run(["host", "list", "-o", "json"]).expect(0);
    assert!(hosts.stdout.contains("stopped"), "{hosts}");
}

#[test]
fn another_directory_can_be_given_by_flag_or_variable() {
    let stack = Stack::new();
    let up = stack.ctl.run(["up", "--host", "web1", "--dir", "a stack: 100%25?#"]).expect(0);
    let directory = stack.ctl.home().join("a stack: 100%25?#");
    assert!(up.stderr.contains(&format!("export REDFLEET_DIR='{}'", directory.display())), "{up}");
    refused(&stack.ctl.run(["host", "list"]), &["no Redis"]);
    let there = stack.ctl.clone().env("REDFLEET_DIR", directory.to_str().unwrap());
    there.run(["run", "--host", "web1", "ping"]).expect(0);
    let mut down = there.command(["down"]);
    down.current_dir("/");
    assert!(down.output().unwrap().status.success());
    assert_eq!(stack.running(), [0; 0]);
}

#[test]
fn a_namespace_works_and_settings_for_another_redis_are_reported() {
    let stack = Stack::new();
    let ctl = stack.ctl.clone().env("REDFLEET_NAMESPACE", "prod").env("REDFLEET_CONFIG", "");
    ctl.run(["up", "--host", "web1"]).expect(0);
    ctl.run(["run", "--host", "web1", "ping"]).expect(0);
    stack.ctl.run(["down"]).expect(0);
    let other = stack.ctl.clone().env("REDFLEET_REDIS", "redis://127.0.0.1:1");
    let up = other.run(["up", "--host", "web1"]).expect(0);
    assert!(up.stderr.contains("another Redis, redis://127.0.0.1:1"), "{up}");
}

#[test]
fn up_and_down_as_json() {
    let stack = Stack::new();
    let up = stack.ctl.run(["up", "--host", "web1", "-o", "json"]).expect(0).json();
    assert_eq!(up["worker"]["host"], "web1");
    assert_eq!(up["redis"]["pid"], stack.pid("redis.pid"));
    assert!(up["worker"]["first_answer_ms"].is_u64(), "{up}");
    let down = stack.ctl.run(["down", "-o", "json"]).expect(0).json();
    assert_eq!((&down["worker"], &down["redis"]), (&"in_order".into(), &"in_order".into()));
}

#[test]
fn unusable_directories_are_refused_in_clear_words() {
    let stack = Stack::new();
    let up = |directory: &str| stack.ctl.run(["up", "--dir", directory]);
    let home = stack.ctl.home().display().to_string();
    stack.ctl.write("letter", "Dear Ann");
    refused(&up(&format!("{home}/letter")), &["letter", "is not a directory", "--dir"]);
    refused(&up(&format!("{home}/letter/stack")), &["is not a directory", "--dir"]);
    refused(&up(&home), &["holds files that are not of `ctl up`", "--dir"]);
    refused(&up(&format!("{home}/{}", "x".repeat(100))), &["is too long", "107 bytes", "--dir"]);
    assert_eq!(listing(stack.ctl.home()), ["letter"]);
    assert_eq!(stack.running(), [0; 0]);
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let stack = Stack::new();
    let theirs = stack.ctl.home().join("theirs");
    fs::create_dir(&theirs).unwrap();
    // Root can give a directory away; for other users `/usr` belongs to somebody else.
    let given = std::os::unix::fs::chown(&theirs, Some(65533), None).is_ok();
    let directory = if given { theirs.as_path() } else { Path::new("/usr") };
    refused(&stack.ctl.run(["up", "--dir", directory.to_str().unwrap()]), &["belongs to ", "not to you"]);
}

#[test]
fn a_damaged_append_only_file_is_reported_with_its_remedy() {
    let stack = Stack::new();
    stack.up();
    stack.ctl.run(["down"]).expect(0);
    let files = fs::read_dir(stack.directory().join("data/appendonlydir")).unwrap().flatten();
    let incremental = files.map(|file| file.path()).find(|path| path.to_string_lossy().ends_with(".incr.aof")).unwrap();
    let mut content = fs::read(&incremental).unwrap();
    content[..8].copy_from_slice(b"nonsense");
    fs::write(&incremental, content).unwrap();
    let up = stack.ctl.run(["up"]);
    refused(&up, &["redis-server ended at once", "Bad file format", "redis-check-aof --fix"]);
    assert_eq!(stack.running(), [0; 0]);
    assert!(!stack.directory().join("redis.pid").exists());
}

/// A copy of `ctl` with a `worker` beside it that is this shell script, or with none.
fn with_worker(stack: &Stack, script: Option<&str>) -> tests::Ctl {
    let place = stack.ctl.home().join("bin");
    // Another process writes the programs. If this process had them open for writing while some other test starts
    // a process, that process would keep them open for a moment, and they could not be executed.
    let make = r#"mkdir "$1"; cp "$2" "$1/ctl"; test $# = 2 && exit
        printf '#!/bin/sh\n%s\n' "$3" >"$1/worker"; chmod +x "$1/worker""#;
    let mut command = Command::new("sh");
    command.args(["-ec", make, "sh"]).arg(&place).arg(binary("ctl")).args(script);
    assert!(command.status().expect("sh runs").success());
    stack.ctl.clone().program(place.join("ctl"))
}

#[test]
fn a_missing_worker_leaves_nothing_running() {
    let stack = Stack::new();
    refused(&with_worker(&stack, None).run(["up"]), &["the program `worker` is missing", "beside `ctl`"]);
    assert_eq!(stack.running(), [0; 0]);
    refused(&stack.ctl.run(["down"]), &["nothing is up"]);
}

#[test]
fn a_worker_that_dies_is_reported_with_its_log() {
    let stack = Stack::new();
    let up = with_worker(&stack, Some("echo 'no slots left' >&2; exit 7")).run(["up"]);
    refused(&up, &["worker ended at once (exit status: 7)", "worker.log", "no slots left"]);
    assert_eq!(stack.running(), [0; 0]);
    assert_eq!(listing(stack.directory()), FILES);
}

#[test]
fn only_one_runs_at_a_time_and_ctrl_c_leaves_nothing_running() {
    let stack = Stack::new();
    // A worker that never sends a heartbeat.
    let ctl = with_worker(&stack, Some("exec sleep 600"));
    let up = ctl.spawn(["up"]);
    eventually("the worker to be started", || stack.directory().join("worker.pid").exists().then_some(()));
    for verb in ["up", "down"] {
        refused(&ctl.run([verb]), &["another `ctl up` or `ctl down` is at work"]);
    }
    up.interrupt();
    refused(&up.wait(), &["interrupted; what had been started was stopped"]);
    assert_eq!(stack.running(), [0; 0]);
}

#[test]
fn a_strange_redis_keeps_its_socket() {
    let stack = Stack::new();
    stack.up();
    let redis = stack.pid("redis.pid");
    fs::remove_file(stack.directory().join("redis.pid")).unwrap();
    refused(&stack.ctl.run(["up"]), &["another Redis (process ", &format!("kill {redis}")]);
    stack.ctl.run(["run", "--host", "web1", "ping"]).expect(0);
}

/// File systems and machines that differ from this one.
mod mounts {
    use super::*;

    /// Runs a script in a mount namespace of its own, where it may mount anything.
    fn with_mounts(stack: &Stack, script: &str) -> Output {
        let flags = if nix::unistd::geteuid().is_root() { "-m" } else { "-rm" };
        let home = stack.ctl.home();
        let mut command = Command::new("unshare");
        command.args([flags, "sh", "-ec", script]).env_clear().env("HOME", home).env("CTL", binary("ctl"));
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let output = command.output().expect("unshare runs");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().expect("sh exits");
        Output { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    #[test]
    #[ignore = "needs the right to mount"]
    fn a_full_directory_is_refused() {
        let stack = Stack::new();
        let script = r#"mkdir "$HOME/small"; mount -t tmpfs -o size=1m none "$HOME/small"; exec "$CTL" up --dir "$HOME/small/stack""#;
        refused(&with_mounts(&stack, script), &["the file system of ", "is full", "--dir"]);
        assert_eq!(stack.running(), [0; 0]);
    }

    #[test]
    #[ignore = "needs the right to mount"]
    fn a_read_only_directory_is_refused() {
        let stack = Stack::new();
        let script = r#"mkdir "$HOME/fixed"; mount -t tmpfs -o ro none "$HOME/fixed"
            "$CTL" up --dir "$HOME/fixed" || "$CTL" up --dir "$HOME/fixed/stack""#;
        refused(
            &with_mounts(&stack, script),
            &["cannot make ", "cannot write ", "the file system is read-only", "--dir"],
        );
        assert_eq!(stack.running(), [0; 0]);
    }

    #[test]
    #[ignore = "needs the right to mount"]
    fn a_machine_without_redis_says_how_to_install_it() {
        let stack = Stack::new();
        let script = r#"for name in redis-server valkey-server; do
                for place in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin; do
                    test ! -e "$place/$name" || mount --bind /dev/null "$place/$name"
                done
            done
            exec "$CTL" up"#;
        refused(&with_mounts(&stack, script), &["no Redis server is installed here", "install", "--redis URL"]);
        assert_eq!(stack.running(), [0; 0]);
    }
}
