//! The client library, used by a program that is not `ctl`.

use std::{fs, process::Command};

use tests::{Redis, Worker, binary, operator};

#[test]
fn the_example_prints_its_own_table_of_all_hosts() {
    let redis = Redis::start();
    let workers = ["db1", "web1"].map(|host| Worker::on(&redis).host(host).start());
    workers.iter().for_each(Worker::wait_online);
    let example = binary("ctl").with_file_name("examples").join("cpu");
    let key = redis.directory().join("key");
    fs::write(&key, operator().private_key()).expect("a key");
    let known_hosts = redis.directory().join("known_hosts");
    let mut command = Command::new(&example);
    command.env("REDFLEET_REDIS", redis.url()).env("REDFLEET_KEY", key).env("REDFLEET_KNOWN_HOSTS", known_hosts);
    let output = command.output().expect("cargo builds the example");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stderr.is_empty(), "{stdout}{stderr}");

    let mut lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.remove(0).split_whitespace().collect::<Vec<_>>(), ["HOST", "CPU", "%"]);
    lines.sort_unstable();
    assert_eq!(lines.len(), 2, "{stdout}");
    for (line, host) in lines.iter().zip(["db1", "web1"]) {
        let (name, usage) = line.split_once(' ').expect("two columns");
        let usage: f64 = usage.trim().parse().expect("a percentage");
        assert!(name == host && (0.0..=100.0).contains(&usage), "{line}");
    }
}
