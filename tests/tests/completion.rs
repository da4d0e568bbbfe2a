//! Completion in a real bash, key by key.

use std::process::Command;

use tests::{Ctl, OnTerminal, Redis, Worker, binary, eventually};

/// What a line does when each `\t` in it is the key that completes.
fn typed(ctl: &Ctl, line: &str) -> String {
    let program = binary("ctl");
    let directory = program.parent().expect("a directory").display();
    let mut bash = Command::new("bash");
    let settings = ctl.command([""]);
    bash.args(["--norc", "--noprofile", "-i"]).env_clear();
    bash.envs(settings.get_envs().filter_map(|(name, value)| Some((name, value?))));
    bash.env("PATH", format!("{directory}:/usr/bin:/bin")).env("TERM", "dumb").env("PS1", "$ ").env("HISTFILE", "");
    let keys = format!("source <(ctl completions bash)\n{line}\nexit\n");
    OnTerminal::start_typing(&mut bash, &keys).wait().1
}

#[test]
fn hosts_and_groups_are_completed_after_an_equals_sign_and_after_a_comma() {
    let redis = Redis::start();
    let _workers = ["web1", "db1"].map(|host| {
        let worker = Worker::on(&redis).host(host).start();
        worker.wait_online();
        worker
    });
    let ctl = Ctl::on(&redis);
    ctl.run(["group", "set", "frontend", "--host", "web1,db1"]).expect(0);
    for (line, done) in [
        ("ctl run --host=we\tping", "web1: succeeded in "),
        ("ctl run --host we\tping", "web1: succeeded in "),
        ("ctl run --host web1,d\tping", "2 hosts: 2 succeeded in "),
        ("ctl run --host=web1,d\tping", "2 hosts: 2 succeeded in "),
        ("ctl run --host=web1 collect-processes by=m\ttop=1", "web1: succeeded in "),
        ("ctl run --host web1,@fr\tping", "2 hosts: 2 succeeded in "),
        ("ctl run --host=@fr\tping", "2 hosts: 2 succeeded in "),
        ("ctl run --group fr\tping", "2 hosts: 2 succeeded in "),
        ("ctl group rm fr\t", "frontend: removed"),
        ("ctl ru\t--host=db1 pi\t", "db1: succeeded in "),
    ] {
        // On a busy machine the names may come too late for the shell.
        eventually(&format!("{line}: {done}"), || typed(&ctl, line).contains(done).then_some(()));
    }
}
