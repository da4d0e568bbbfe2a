//! What `ctl` says: the help of every command, and each way in which it refuses, word for word.
//!
//! The words are in `snapshots/`. After a wanted change, `INSTA_UPDATE=always cargo test -p tests
//! --test cli` writes them anew; read the difference before you keep it.

use insta::assert_snapshot;
use tests::{Ctl, Output, Raw, Redis, Worker};

/// What a person would see who typed these lines, with what differs from run to run replaced.
fn transcript(ctl: &Ctl, lines: &[&str], replaced: &[(&str, &str)]) -> String {
    let typed = |line: &&str| {
        let Output { code, stdout, stderr } = ctl.run(line.split(' ').skip(1));
        format!("$ {line}\n{stdout}{stderr}[{code}]\n")
    };
    let home = ctl.home().display().to_string();
    let replaced = [(home.as_str(), "HOME")].iter().chain(replaced).copied().collect::<Vec<_>>();
    let text = lines.iter().map(typed).collect::<Vec<_>>().join("\n");
    replaced.iter().fold(text, |text, (what, by)| text.replace(what, by))
}

/// A Redis with a worker `web1` that allows `exec`, and one `db1` that does not.
struct Fleet {
    redis: Redis,
    ctl: Ctl,
    _workers: [Worker; 2],
}

impl Fleet {
    fn start() -> Self {
        let redis = Redis::start();
        let workers = [Worker::on(&redis).allow_exec().start(), Worker::on(&redis).host("db1").start()];
        workers.iter().for_each(Worker::wait_online);
        Self { ctl: Ctl::on(&redis), redis, _workers: workers }
    }

    fn transcript(&self, lines: &[&str]) -> String {
        transcript(&self.ctl, lines, &[(&self.redis.url(), "URL")])
    }
}

#[test]
fn help() {
    let ctl = Ctl::alone();
    // The commands as the help lists them, so that none is forgotten here.
    let commands = |of: &str| -> Vec<String> {
        let help = ctl.run(format!("{of} --help").split(' ').skip(1)).expect(0).stdout;
        let listed = help.split("Commands:\n").nth(1).unwrap_or_default().lines();
        let names = listed.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
        names.filter_map(|line| line.split_whitespace().next()).map(|name| format!("{of} {name}")).collect()
    };
    let mut all = vec!["ctl".to_owned()];
    for command in commands("ctl") {
        all.push(command.clone());
        all.extend(commands(&command));
    }
    assert!(all.len() > 15, "{all:?}");
    let top = transcript(&ctl, &["ctl --help"], &[]);
    let global =
        top.split("Global options:").nth(1).and_then(|rest| rest.split("\n\nExit codes").next()).expect("options");
    for command in all {
        let name = format!("help {command}").replace(' ', "-");
        let repeated = if command == "ctl" { "none" } else { global };
        assert_snapshot!(name, transcript(&ctl, &[&format!("{command} --help")], &[(repeated, " as above")]));
    }
    assert_snapshot!("help-short", transcript(&ctl, &["ctl -h", "ctl run -h", "ctl --version"], &[]));
}

#[test]
fn wrong_usage() {
    let lines = [
        "ctl",
        "ctl rnu",
        "ctl run",
        "ctl run ping",
        "ctl run --host web1",
        "ctl run --all --host web1 ping",
        "ctl run --host web1 --timeout 5 ping",
        "ctl run --host web1 --timeout 8d ping",
        "ctl run --host web1 --start-by 8d ping",
        "ctl run --host web1 --retention 91d ping",
        "ctl run --host web1 --colour blue ping",
        "ctl run --hots web1 ping",
        "ctl job",
        "ctl job show",
        "ctl host show",
        "ctl up --host a/b",
        "ctl --namespace a:b host list",
        "ctl -o xml host list",
        "ctl completions tcsh",
        "ctl down web1",
    ];
    let ctl = Ctl::alone();
    for line in lines {
        ctl.run(line.split(' ').skip(1)).expect(64);
    }
    assert_snapshot!(transcript(&ctl, &lines, &[]));
}

#[test]
fn wrong_settings() {
    let ctl = Ctl::alone();
    let line = ["ctl host list"];
    let mut told = vec![transcript(&ctl, &["ctl --config missing.toml host list"], &[])];
    for content in ["redis = 5", "redis = \"http://x\"", "= 5", "output = \"xml\"", "timeout = \"5\"", "reddis = \"x\""]
    {
        ctl.write(".config/redfleet/ctl.toml", content);
        told.push(format!("# {content}\n{}", transcript(&ctl, &line, &[])));
    }
    std::fs::remove_file(ctl.home().join(".config/redfleet/ctl.toml")).expect("a settings file");
    for (name, value) in [
        ("REDFLEET_REDIS", "web1"),
        ("REDFLEET_REDIS", "rediss://web1"),
        ("REDFLEET_REDIS", "redis://:secret@web1:port"),
        ("REDFLEET_NAMESPACE", "a:b"),
        ("REDFLEET_OUTPUT", "xml"),
        ("REDFLEET_CONFIG", "missing.toml"),
    ] {
        told.push(format!("# {name}={value}\n{}", transcript(&ctl.clone().env(name, value), &line, &[])));
    }
    let told = told.join("\n");
    assert_eq!(told.matches("secret").count(), 1, "only the heading knows it: {told}");
    assert_snapshot!(told);
}

#[test]
fn no_redis() {
    let ctl = Ctl::alone();
    let lines = ["ctl host list", "ctl run --host web1 ping", "ctl doctor", "ctl down"];
    let mut told = vec![transcript(&ctl, &lines, &[])];
    let mut redis = Redis::options().password("secret").start();
    let url = redis.url();
    let without = url.split('?').next().expect("a URL").to_owned();
    let mut tell = |heading: &str, url: &str| {
        let ctl = ctl.clone().env("REDFLEET_REDIS", url);
        told.push(format!("# {heading}\n{}", transcript(&ctl, &["ctl host list"], &[(&without, "URL")])));
    };
    tell("without its password", &without);
    tell("with a wrong one", &format!("{without}?pass=guess"));
    redis.kill9();
    tell("dead, on a socket", &url);
    tell("dead, over TCP", "redis://:secret@127.0.0.1:1");
    let told = told.join("\n");
    assert!(!told.contains("secret") && !told.contains("guess"), "{told}");
    assert_snapshot!(told);
}

#[test]
fn wrong_hosts() {
    let redis = Redis::start();
    let nobody = transcript(
        &Ctl::on(&redis),
        &["ctl host list", "ctl host show web1", "ctl run --host web1 ping", "ctl run --all ping", "ctl action list"],
        &[(&redis.url(), "URL")],
    );
    let fleet = Fleet::start();
    let somebody = fleet.transcript(&[
        "ctl run --host web2 ping",
        "ctl run --host wbe1 ping",
        "ctl run --host mail* ping",
        "ctl run --host web1,mail ping",
        "ctl run --host a/b ping",
        "ctl host show wbe1",
        "ctl host show zzz",
    ]);
    assert_snapshot!(format!("{nobody}\n# with two hosts\n\n{somebody}"));
}

#[test]
fn wrong_actions_and_arguments() {
    let fleet = Fleet::start();
    assert_snapshot!(fleet.transcript(&[
        "ctl run --host web1 colect-cpu",
        "ctl run --host web1 reboot",
        "ctl run --host db1 exec -- true",
        "ctl run --all exec -- true",
        "ctl run --host web1 ping loud=yes",
        "ctl run --host web1 ping loud",
        "ctl run --host web1 ping -- loud",
        "ctl run --host web1 collect-processes top=many",
        "ctl run --host web1 collect-processes top=0",
        "ctl run --host web1 collect-processes tpo=5",
        "ctl run --host web1 collect-processes by=size",
        "ctl run --host web1 collect-processes top=1 top=2",
        "ctl run --host web1 exec",
        "ctl run --host web1 exec uname",
        "ctl run --host web1 exec cwd=/ cwd=/tmp -- true",
        "ctl run --host web1 exec env=x -- true",
        "ctl action show colect-cpu",
        "ctl action show reboot",
    ]));
}

#[test]
fn wrong_jobs() {
    let redis = Redis::start();
    let ctl = Ctl::on(&redis);
    let told = transcript(
        &ctl,
        &[
            "ctl job list",
            "ctl job show last",
            "ctl job wait last",
            "ctl job show xyz",
            "ctl job show abc",
            "ctl job show 019a0000-0000-7000-8000-000000000000",
        ],
        &[],
    );
    redis.cli(["HSET", "job:{019a0000-0000-7000-8000-000000000000}", "action", "ping"]);
    let damaged = transcript(&ctl, &["ctl job show 019a0000-0000-7000-8000-000000000000"], &[]);
    assert_snapshot!(format!("{told}\n# damaged\n\n{damaged}"));
}

#[test]
fn a_full_redis_says_so() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).start();
    worker.wait_online();
    redis.cli(["CONFIG", "SET", "maxmemory", "1"]);
    let told = transcript(&Ctl::on(&redis), &["ctl run --host web1 ping"], &[(&redis.url(), "URL")]);
    assert_snapshot!(told);
}

#[test]
fn a_user_without_rights_is_told_what_is_not_permitted() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).start();
    worker.wait_online();
    redis.cli(["ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@read", "+ping", "+time"]);
    let url = format!("{}?user=reader&pass=secret", redis.url());
    let ctl = Ctl::alone().env("REDFLEET_REDIS", &url);
    ctl.run(["host", "list"]).expect(0);
    assert_snapshot!(transcript(&ctl, &["ctl run --host web1 ping"], &[(&redis.url(), "URL")]));
}

#[test]
fn an_offline_host_is_said_at_once() {
    let redis = Redis::start();
    let mut raw = Raw::on(&redis);
    let mut worker = Worker::on(&redis).start();
    worker.wait_online();
    worker.kill9();
    let long_ago = protocol::time::show_moment(raw.now() - 185_000);
    redis.cli(["HSET", "server:{web1}:status", "last_seen", &long_ago]);
    redis.cli(["ZADD", "servers", &(raw.now() - 185_000).to_string(), "web1"]);
    let ctl = Ctl::on(&redis);
    let asked = ctl.run(["run", "--host", "web1", "--detach", "ping"]).expect(0);
    assert!(asked.stderr.contains("web1: offline, last seen 3 min ago; queued until "), "{asked}");
    let hosts = ctl.run(["host", "list"]).expect(0);
    assert!(hosts.stdout.contains("offline") && hosts.stdout.contains("3 min ago"), "{hosts}");
}

#[test]
fn quiet_means_the_result_alone() {
    let fleet = Fleet::start();
    let run = |line: &str| fleet.ctl.run(line.split(' '));
    let output = run("run -q --host web1 exec -- printf a\\nb").expect(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("a\nb", ""), "{output}");
    let output = run("run -q --host web1 exec -- ls /nowhere").expect(2);
    assert_eq!(output.stdout, "", "{output}");
    assert!(output.stderr.contains("/nowhere"), "what the program says is not ours to hide: {output}");
}
