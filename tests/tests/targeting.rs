//! Which hosts are meant: by name, by label, and by what is known about them.

use protocol::{keys::Keys, metrics::MetricGroup, name::HostName};
use tests::{Ctl, Raw, Redis, Worker, eventually};

/// Workers `web1` to `web3`, of which `web3` has the label `role=db`.
fn fleet() -> (Redis, Vec<Worker>, Ctl) {
    let redis = Redis::start();
    let start = |(host, role): (&str, &str)| {
        let labels = format!("[labels]\nrole = '{role}'\nenv = 'prod'");
        Worker::on(&redis).host(host).config(&labels).allow_exec().start()
    };
    let workers: Vec<_> = [("web1", "web"), ("web2", "web"), ("web3", "db")].into_iter().map(start).collect();
    workers.iter().for_each(Worker::wait_online);
    let ctl = Ctl::on(&redis);
    eventually("all to have figures", || {
        let listed = ctl.run(["host", "list", "-o", "json"]).expect(0).json();
        let hosts = listed.as_array().expect("a list");
        (hosts.len() == 3 && hosts.iter().all(|host| host["cpu_usage"].is_number())).then_some(())
    });
    (redis, workers, ctl)
}

/// The hosts that `ctl host list` shows with these flags.
#[track_caller]
fn listed(ctl: &Ctl, flags: &[&str]) -> Vec<String> {
    let listed = ctl.run([&["host", "list", "-o", "json"], flags].concat()).expect(0).json();
    let mut hosts: Vec<_> = listed
        .as_array()
        .expect("a list")
        .iter()
        .map(|host| host["host"].as_str().expect("a name").to_owned())
        .collect();
    hosts.sort();
    hosts
}

#[test]
fn hosts_are_meant_by_name_label_fact_figure_and_state() {
    let (_redis, mut workers, ctl) = fleet();
    for (flags, meant) in [
        (&["--host", "web[1-2]"][..], &["web1", "web2"][..]),
        (&["--host", "web[1,3]"], &["web1", "web3"]),
        (&["--host", "web[1-2],web3", "--exclude", "web1"], &["web2", "web3"]),
        (&["-l", "role=db"], &["web3"]),
        (&["-l", "role!=db", "-l", "env=prod"], &["web1", "web2"]),
        (&["-l", "role!=db,env=prod"], &["web1", "web2"]),
        (&["-l", "rack"], &[]),
        (&["--where", "cores > 0 and cpu.usage >= 0 and memory.total_bytes > 1MiB"], &["web1", "web2", "web3"]),
        (&["--where", "host ~ WEB* and not label.role = web"], &["web3"]),
        (&["--all", "--limit", "2"], &["web1", "web2"]),
        (&["--all", "--limit", "1%"], &["web1"]),
        (&["--where", "state != online"], &[]),
    ] {
        if meant.is_empty() {
            let none = ctl.run([&["host", "list"], flags].concat()).expect(1);
            assert!(none.stderr.contains("holds for none of 3 hosts"), "{none}");
        } else {
            assert_eq!(listed(&ctl, flags), meant, "{flags:?}");
        }
    }

    // What is dispatched is for these hosts alone.
    let ran = ctl.run(["run", "-l", "role=web", "--exclude", "web2", "ping", "-o", "json"]).expect(0).json();
    let hosts: Vec<_> = ran["hosts"].as_array().expect("a list").iter().map(|host| host["host"].clone()).collect();
    assert_eq!(hosts, ["web1"]);

    // Who has stopped has no figure that is true now, and is named.
    let mut gone = workers.remove(0);
    gone.terminate();
    drop(gone);
    let some = ctl.run(["host", "list", "--where", "cpu.usage >= 0"]).expect(0);
    assert!(some.stderr.contains("web1: left out: cpu.usage is not known, as it is offline"), "{some}");
    assert!(!some.stdout.contains("web1") && some.stdout.contains("web2"), "{some}");
    assert_eq!(listed(&ctl, &["--where", "state = stopped or host = web2"]), ["web1", "web2"]);
    let ran = ctl.run(["run", "--where", "cpu.usage >= 0", "ping"]).expect(4);
    assert!(ran.stderr.contains("web1: left out: cpu.usage is not known"), "{ran}");
    assert!(ran.stdout.contains("web2") && ran.stdout.contains("web3"), "{ran}");
    // Who is left out as it is offline does not count.
    let ran = ctl.run(["run", "--all", "--online", "--limit", "2", "ping", "-o", "json"]).expect(0).json();
    assert_eq!(ran["hosts"].as_array().map(Vec::len), Some(2), "{ran}");
}

#[test]
fn a_figure_that_is_old_or_missing_is_not_known() {
    let redis = Redis::start();
    // It reads its figures once, at its start.
    let worker = Worker::on(&redis).config("sample_interval = '1h'").start();
    worker.wait_online();
    let (ctl, mut raw) = (Ctl::on(&redis), Raw::on(&redis));
    let key = Keys::new(None).metrics(&"web1".parse::<HostName>().expect("a name"), MetricGroup::Cpu);
    eventually("figures", || raw.query::<Option<String>>(&["HGET", &key, "usage"]));
    let list = ["host", "list", "--where", "cpu.usage >= 0"];
    ctl.run(list).expect(0);

    let long_ago = protocol::time::show_moment(raw.now() - 3_600_000);
    // It is online still, and writes nothing more.
    worker.stop();
    raw.query::<u64>(&["HSET", &key, "sampled_at", &long_ago]);
    let none = ctl.run(list).expect(1);
    assert!(
        none.stderr.contains("does not hold for the only host; not known of web1: its cpu.usage is older than 5m"),
        "{none}"
    );
    let none = ctl.run(["run", "--where", "cpu.usge >= 0", "ping"]).expect(1);
    assert!(none.stderr.contains("not known of web1: it has no cpu.usge"), "{none}");
    assert_eq!(raw.query::<u64>(&["EXISTS", "jobs"]), 0, "nothing was sent");
}

#[test]
fn what_cannot_be_meant_is_pointed_at() {
    let redis = Redis::start();
    let ctl = Ctl::on(&redis);
    for (flags, problem) in [
        (["--where", "cpuu.usage > 80"], "  cpuu.usage > 80\n  ^^^^^^^^^^"),
        (["--where", "cpuu.usage > 80"], "did you mean cpu.usage?"),
        (["--where", "cpu.usage > "], "after >, a value is missing"),
        (["--host", "web[3-1]"], "it ends before it begins"),
        (["--host", "web 1"], "is not a valid name"),
        (["--limit", "0%"], "neither a number of hosts"),
        (["-l", "=x"], "write NAME=VALUE"),
        (["-l", "role!=db*"], "this is no pattern here"),
    ] {
        let refused = ctl.run(["host", "list"].into_iter().chain(flags)).expect(64);
        assert!(refused.stderr.contains(problem), "{flags:?}: {refused}");
    }
    let nobody = ctl.run(["run", "--exclude", "web1", "ping"]).expect(64);
    assert!(nobody.stderr.contains("required"), "who is excluded from nothing: {nobody}");
}

#[test]
fn what_is_damaged_misspelt_or_nowhere_protects_nobody_in_silence() {
    let (redis, _workers, ctl) = fleet();
    let mut raw = Raw::on(&redis);
    // A host whose labels cannot be read is not one without labels; nor is one that has published nothing.
    let key = |host: &str, key: fn(&Keys, &HostName) -> String| key(&Keys::new(None), &host.parse().expect("a name"));
    raw.query::<u64>(&["DEL", &key("web1", Keys::labels), &key("web2", Keys::facts)]);
    raw.query::<u64>(&["SADD", &key("web1", Keys::labels), "x"]);
    let some = ctl.run(["run", "-l", "env!=test", "ping"]).expect(4);
    for reason in
        ["web1: left out: the key server:{web1}:labels is damaged", "web2: left out: it has not published label.env"]
    {
        assert!(some.stderr.contains(reason), "{some}");
    }
    assert!(some.stdout.is_empty() && some.stderr.contains("web3: succeeded"), "{some}");

    let misspelt = ctl.run(["run", "--all", "--exclude", "wbe1", "ping"]).expect(1);
    assert!(
        misspelt.stderr.contains("no host is called wbe1") && misspelt.stderr.contains("did you mean web1?"),
        "{misspelt}"
    );
    let misspelt = ctl.run(["run", "--host", "web3,wbe1", "-l", "env=prod", "ping"]).expect(1);
    assert!(misspelt.stderr.contains("no host is called wbe1"), "{misspelt}");
    let nowhere = ctl.run(["host", "list", "--host", "web3", "-l", "evn!=prod", "--exclude", "db*"]).expect(0);
    for doubt in ["no host has the label 'evn'", "no host matches 'db*', which is to be excluded"] {
        assert!(nowhere.stderr.contains(doubt), "{nowhere}");
    }
}

#[test]
fn what_may_change_hosts_that_were_not_named_is_asked_for() {
    let (_redis, _workers, ctl) = fleet();
    let exec = |flags: &[&'static str]| [&["run"], flags, &["exec", "--", "echo", "ran"]].concat();
    let (code, screen) = ctl.at_terminal(exec(&["--all"]), "n\n");
    assert!(code == 1 && screen.contains("exec on 3 hosts: web[1-3]. Go on? [y/N]"), "{code} {screen}");
    assert!(screen.contains("nothing was sent") && screen.contains("without this question: --yes"), "{screen}");
    let (code, screen) = ctl.at_terminal(exec(&["--host", "web*", "--exclude", "web1"]), "y\n");
    assert!(
        code == 0 && screen.contains("exec on 2 hosts: web[2,3]. Go on?") && screen.contains("ran"),
        "{code} {screen}"
    );

    // Who names the hosts, or one, or changes nothing, is not asked; nor is a script, which cannot reply.
    for words in [
        exec(&["--host", "web[1-3]"]),
        exec(&["--host", "web1,web2,web3"]),
        exec(&["--all", "--limit", "1"]),
        exec(&["--all", "--yes"]),
        vec!["run", "--all", "collect-cpu"],
    ] {
        let (code, screen) = ctl.at_terminal(words.clone(), "");
        assert!(code == 0 && !screen.contains("Go on?"), "{words:?}: {code} {screen}");
    }
    ctl.run(exec(&["--all"])).expect(0);
}
