//! `ctl exec` and `ctl sh`: a program on one host, as if it ran here.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use tests::{Ctl, Evidence, Redis, Worker, fleet_with};

/// Runs a command to its end with this standard input.
fn fed(mut command: Command, input: &[u8]) -> (i32, String, String) {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("ctl starts");
    // `ctl` may have refused it before all is written.
    drop(child.stdin.take().expect("piped").write_all(input));
    let output = child.wait_with_output().expect("its output");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

#[test]
fn a_program_looks_as_if_it_ran_here() {
    let (redis, _worker, _raw) = fleet_with("");
    let ctl = Ctl::on(&redis).knowing_web1();
    let output = ctl.run(["exec", "web1", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).expect(7);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    let output = ctl.run(["sh", "web1", "echo one two | tr a-z A-Z"]).expect(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("ONE TWO\n", ""));
    let output = ctl.run(["sh", "web1", "-p", "env.WHO=me", "-p", "cwd=/", "echo $WHO in $PWD"]).expect(0);
    assert_eq!(output.stdout, "me in /\n");

    let output = ctl.run(["sh", "web1", "kill -9 $$"]).expect(137);
    assert_eq!(output.stderr, "");
    let output = ctl.run(["exec", "web1", "--", "/no/such/program"]).expect(255);
    assert!(output.stderr.starts_with("web1: failed: cannot run '/no/such/program'"), "{output}");
    let output = ctl.run(["sh", "web1", "-t", "100ms", "sleep 1000"]).expect(255);
    assert!(output.stderr.contains("web1: timed out"), "{output}");
}

#[test]
fn output_is_live_and_an_interrupt_ends_the_program() {
    let (redis, _worker, mut raw) = fleet_with("");
    let ctl = Ctl::on(&redis);
    // The signal ends the sleep as well, so that the shell's trap need not wait.
    let running = ctl.spawn(["sh", "web1", "trap 'echo bye; exit 3' TERM; echo begun; sleep 300"]);
    running.wait_stdout("begun");
    running.interrupt();
    let output = running.wait().expect(130);
    assert_eq!(output.stdout, "begun\nbye\n", "{output}");
    assert_eq!(ctl.host_states("last"), [("web1".to_owned(), "cancelled".to_owned())]);
    raw.wait_settled("web1");
}

#[test]
fn standard_input_is_forwarded_and_shown_nowhere() {
    let (redis, _worker, _raw) = fleet_with("");
    let ctl = Ctl::on(&redis).knowing_web1();
    let input = "@first line\n".to_owned() + &"hunter2\n".repeat(7000);
    let (code, stdout, stderr) = fed(ctl.command(["sh", "web1", "cat; exit 4"]), input.as_bytes());
    assert_eq!((code, stderr.as_str()), (4, ""));
    assert!(stdout == input, "{} bytes came back of {}", stdout.len(), input.len());
    let shown = ctl.run(["job", "show", "last"]).expect(0);
    let listed = ctl.run(["job", "list"]).expect(0);
    assert!(shown.stdout.contains("stdin") && shown.stdout.contains("***"), "{shown}");
    assert!(!format!("{shown}{listed}").contains("hunter2"), "{shown}{listed}");

    // A program without input finds its end at once, and one that reads none of it does not mind.
    assert_eq!(fed(ctl.command(["exec", "web1", "--", "cat"]), b"").1, "");
    assert_eq!(fed(ctl.command(["exec", "-n", "web1", "--", "cat"]), b"not this").1, "");
    assert_eq!(fed(ctl.command(["exec", "web1", "--", "echo", "done"]), input.as_bytes()).1, "done\n");
}

#[test]
fn what_cannot_be_run_now_is_refused() {
    let redis = Redis::start();
    let mut workers = ["web1", "web2"].map(|host| Worker::on(&redis).host(host).allow_exec().start());
    workers.iter().for_each(Worker::wait_online);
    let (ctl, evidence) = (Ctl::on(&redis), Evidence::new(&redis, "evidence"));
    let script = evidence.script();
    let output = ctl.run(["sh", "web*", &script]).expect(255);
    assert!(output.stderr.contains("hint: for several: ctl run --host 'web*'"), "{output}");
    let output = ctl.run(["sh", "web7", &script]).expect(255);
    assert!(output.stderr.contains("web7"), "{output}");
    workers[1].terminate();
    let output = ctl.run(["sh", "web2", &script]).expect(255);
    assert!(output.stderr.contains("web2: offline, last seen"), "{output}");
    assert_eq!(evidence.count(), 0);
}

#[test]
fn a_dry_run_says_what_would_be_run_and_runs_nothing() {
    let (redis, _worker, _raw) = fleet_with("");
    let (ctl, evidence) = (Ctl::on(&redis).knowing_web1(), Evidence::new(&redis, "evidence"));
    let script = evidence.script();
    let program = ["--", "sh", "-c", &script];
    let options = ["run", "--host", "web1", "-o", "json", "exec", "dry_run=true", "cwd=/", "user=nobody", "sudo=true"];
    let dry = ctl.run([&options[..], &program].concat()).expect(0).json()["hosts"][0].clone();
    assert_eq!(dry["data"]["changed"], false);
    let would = dry["data"]["would"].as_array().expect("steps").iter().map(|step| step.as_str().expect("text"));
    let would: Vec<_> = would.collect();
    assert!(would[0].starts_with(r#"run ["sudo","-n","-u","nobody","--","sh","-c","#), "{would:?}");
    assert_eq!(would[1..], ["in the directory /"]);
    let secret = ["run", "--host", "web1", "exec", "dry_run=true", "env.A=1", "secret.TOKEN=hunter2", "stdin=abc"];
    let dry = ctl.run([&secret[..], &program].concat()).expect(0);
    assert!(dry.stdout.contains("with A, TOKEN in its environment") && !dry.to_string().contains("hunter2"), "{dry}");
    assert!(dry.stdout.contains("with 3 bytes on standard input"), "{dry}");
    ctl.run([&["run", "--dry-run", "--host", "web1", "exec"], &program[..]].concat()).expect(0);
    assert_eq!(evidence.count(), 0);

    let real = ctl.run([&["run", "--host", "web1", "exec"], &program[..]].concat()).expect(0);
    assert!(real.stderr.contains(", changed"), "{real}");
    assert_eq!(evidence.count(), 1);
}
