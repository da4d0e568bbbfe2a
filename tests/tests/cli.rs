//! The texts of `ctl`, word for word: the help of every command, and every refusal.
//!
//! The texts are in `snapshots/`. After an intended change, `INSTA_UPDATE=always cargo test -p tests
//! --test cli` rewrites them; read the difference before you keep it.

use insta::assert_snapshot;
use tests::{Ctl, Output, Raw, Redis, Worker};

/// What a terminal would show for these lines. Texts that differ from run to run are replaced.
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

/// The server's address as it is shown: without the login.
fn address(redis: &Redis) -> String {
    format!("{}?***", redis.url())
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
        transcript(&self.ctl, lines, &[(&address(&self.redis), "URL")])
    }
}

#[test]
fn help() {
    let ctl = Ctl::alone();
    // The list of commands is read from the help, so that none is forgotten.
    let commands = |of: &str| -> Vec<String> {
        let help = ctl.run(format!("{of} --help").split(' ').skip(1)).expect(0).stdout;
        let listed = help.split("Commands:\n").nth(1).unwrap_or_default().lines();
        let names = listed.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
        names.filter_map(|line| line.split_whitespace().next()).map(|name| format!("{of} {name}")).collect()
    };
    let mut all = vec!["ctl".to_owned()];
    for command in commands("ctl").into_iter().filter(|command| command != "ctl help") {
        all.push(command.clone());
        all.extend(commands(&command));
    }
    assert!(all.len() > 15, "{all:?}");
    for command in all {
        let name = format!("help {command}").replace(' ', "-");
        assert_snapshot!(name, transcript(&ctl, &[&format!("{command} --help")], &[]));
    }
    assert_snapshot!("help-short", transcript(&ctl, &["ctl -h", "ctl run -h", "ctl --version"], &[]));
}

#[test]
fn habits_of_other_programs_are_met() {
    let redis = Redis::start();
    let ctl = Ctl::on(&redis);
    let run = |line: &str| ctl.run(line.split(' ')).expect(0).stdout;
    assert_eq!(run("version"), run("--version"));
    assert_eq!(run("help"), run("--help"));
    assert_eq!(run("help job list"), run("job list --help"));
    for noun in ["host", "job", "action"] {
        assert_eq!(run(&format!("{noun} ls -o json")), "[]\n");
    }
    let top = run("help");
    assert!(top.contains("--redis-password-file"), "{top}");
    assert!(!run("host list --help").contains("--redis-password-file"));
}

#[test]
fn a_program_and_its_arguments_in_one_word_are_warned_of() {
    let fleet = Fleet::start();
    let output = fleet.ctl.run(["run", "--host", "web1", "exec", "--", "uname -a"]).expect(2);
    assert!(output.stderr.contains("did you mean: ctl run … exec -- uname -a\n"), "{output}");
}

#[test]
fn wrong_usage() {
    let lines = [
        "ctl",
        "ctl rnu",
        "ctl run",
        "ctl run ping",
        "ctl run web1 ping",
        "ctl run exec uname -a",
        "ctl run --host web1 exec uname -a",
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
    let mut shown = vec![transcript(&ctl, &["ctl --config missing.toml host list"], &[])];
    for content in ["redis = 5", "redis = \"http://x\"", "= 5", "output = \"xml\"", "timeout = \"5\"", "reddis = \"x\""]
    {
        ctl.write(".config/redfleet/ctl.toml", content);
        shown.push(format!("# {content}\n{}", transcript(&ctl, &line, &[])));
    }
    std::fs::remove_file(ctl.home().join(".config/redfleet/ctl.toml")).expect("a settings file");
    for (name, value) in [
        ("REDFLEET_REDIS", "web1"),
        ("REDFLEET_REDIS", "rediss://web1#insecure"),
        ("REDFLEET_REDIS", "redis://:secret@web1:port"),
        ("REDFLEET_NAMESPACE", "a:b"),
        ("REDFLEET_OUTPUT", "xml"),
        ("REDFLEET_CONFIG", "missing.toml"),
    ] {
        shown.push(format!("# {name}={value}\n{}", transcript(&ctl.clone().env(name, value), &line, &[])));
    }
    let shown = shown.join("\n");
    assert_eq!(shown.matches("secret").count(), 1, "only the heading may show it: {shown}");
    assert_snapshot!(shown);
}

#[test]
fn no_redis() {
    let ctl = Ctl::alone();
    let lines = ["ctl host list", "ctl run --host web1 ping", "ctl doctor", "ctl down"];
    let mut shown = vec![transcript(&ctl, &lines, &[])];
    let mut redis = Redis::options().password("secret").start();
    let url = redis.url();
    let without = url.split('?').next().expect("a URL").to_owned();
    let mut add = |heading: &str, url: &str| {
        let ctl = ctl.clone().env("REDFLEET_REDIS", url);
        shown.push(format!("# {heading}\n{}", transcript(&ctl, &["ctl host list"], &[(&without, "URL")])));
    };
    add("without its password", &without);
    add("with a wrong one", &format!("{without}?pass=guess"));
    redis.kill9();
    add("dead, on a socket", &url);
    add("dead, over TCP", "redis://:secret@127.0.0.1:1");
    let shown = shown.join("\n");
    assert!(!shown.contains("secret") && !shown.contains("guess"), "{shown}");
    assert_snapshot!(shown);
}

#[test]
fn wrong_hosts() {
    let redis = Redis::start();
    let empty = transcript(
        &Ctl::on(&redis),
        &["ctl host list", "ctl host show web1", "ctl run --host web1 ping", "ctl run --all ping", "ctl action list"],
        &[(&address(&redis), "URL")],
    );
    let fleet = Fleet::start();
    let two_hosts = fleet.transcript(&[
        "ctl run --host web2 ping",
        "ctl run --host wbe1 ping",
        "ctl run --host mail* ping",
        "ctl run --host web1,mail ping",
        "ctl run --host a/b ping",
        "ctl host show wbe1",
        "ctl host show zzz",
    ]);
    assert_snapshot!(format!("{empty}\n# with two hosts\n\n{two_hosts}"));
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
        "ctl run --host web1 --dry-run collect-cpu",
        "ctl run --all --dry-run ping",
        "ctl action show colect-cpu",
        "ctl action show reboot",
    ]));
}

#[test]
fn wrong_jobs() {
    let redis = Redis::start();
    let ctl = Ctl::on(&redis).env("REDFLEET_OPERATOR", "ann@desk");
    let shown = transcript(
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
    assert_snapshot!(format!("{shown}\n# damaged\n\n{damaged}"));
}

#[test]
fn a_full_redis_says_so() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).start();
    worker.wait_online();
    redis.cli(["CONFIG", "SET", "maxmemory", "1"]);
    let shown = transcript(&Ctl::on(&redis), &["ctl run --host web1 ping"], &[(&address(&redis), "URL")]);
    assert_snapshot!(shown);
}

#[test]
fn a_user_without_rights_is_told_what_is_not_permitted() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).start();
    worker.wait_online();
    redis.cli(["ACL", "SETUSER", "guest", "on", ">secret", "~*", "+@read", "+ping", "+time"]);
    let url = format!("{}?user=guest&pass=secret", redis.url());
    let ctl = Ctl::alone().env("REDFLEET_REDIS", &url);
    ctl.run(["host", "list"]).expect(0);
    assert_snapshot!(transcript(&ctl, &["ctl run --host web1 ping"], &[(&redis.url(), "URL")]));
}

#[test]
fn an_offline_host_is_reported_at_once() {
    let redis = Redis::start();
    let mut raw = Raw::on(&redis);
    let mut worker = Worker::on(&redis).start();
    worker.wait_online();
    worker.kill9();
    let long_ago = protocol::time::show_moment(raw.now() - 185_000);
    redis.cli(["HSET", "server:{web1}:status", "last_seen", &long_ago]);
    redis.cli(["ZADD", "servers", &(raw.now() - 185_000).to_string(), "web1"]);
    let ctl = Ctl::on(&redis);
    let output = ctl.run(["run", "--host", "web1", "--detach", "ping"]).expect(0);
    assert!(output.stderr.contains("web1: offline, last seen 3 min ago; queued until "), "{output}");
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
    assert!(output.stderr.contains("/nowhere"), "the program's own output is not hidden: {output}");
}
