//! Groups: which hosts are meant, saved under names.

use protocol::{acl::Role, limits};
use tests::{Ctl, Raw, Redis, Worker};

/// Workers `web1` to `web3`, of which `web3` has the label `role=db`.
fn fleet() -> (Redis, Vec<Worker>, Ctl) {
    let redis = Redis::start();
    let start = |(host, role): (&str, &str)| {
        Worker::on(&redis).host(host).config(&format!("[labels]\nrole = '{role}'")).allow_exec().start()
    };
    let workers: Vec<_> = [("web1", "web"), ("web2", "web"), ("web3", "db")].into_iter().map(start).collect();
    workers.iter().for_each(Worker::wait_online);
    let ctl = Ctl::on(&redis);
    (redis, workers, ctl)
}

/// Saves a group with these flags.
#[track_caller]
fn set(ctl: &Ctl, name: &str, flags: &[&str]) {
    ctl.run([&["group", "set", name], flags].concat()).expect(0);
}

/// The hosts that `ctl host list` shows with these flags.
#[track_caller]
fn listed(ctl: &Ctl, flags: &[&str]) -> Vec<String> {
    let listed = ctl.run([&["host", "list", "-o", "json"], flags].concat()).expect(0).json();
    let hosts = listed.as_array().expect("a list").iter();
    let mut hosts: Vec<_> = hosts.map(|host| host["host"].as_str().expect("a name").to_owned()).collect();
    hosts.sort();
    hosts
}

#[test]
fn a_group_is_saved_as_text_and_meant_wherever_hosts_are() {
    let (redis, _workers, ctl) = fleet();
    set(&ctl, "db", &["-l", "role=db"]);
    set(&ctl, "web", &["--host", "web[1-3]", "--exclude", "@db"]);
    set(&ctl, "both", &["--group", "web,db"]);
    set(&ctl, "first", &["--group", "both", "--where", "host ~ '*1' or host = web3", "-l", "role!=\"x y\""]);
    assert_eq!(redis.cli(["HGET", "groups", "db"]), "* where label.role = db");
    assert_eq!(redis.cli(["HGET", "groups", "web"]), "web[1-3] except @db");

    for (flags, meant) in [
        (&["--group", "db"][..], &["web3"][..]),
        (&["--host", "@web"], &["web1", "web2"]),
        (&["--group", "@web"], &["web1", "web2"]),
        (&["--group", "db", "--group", "web"], &["web1", "web2", "web3"]),
        (&["--host", "web1,@db"], &["web1", "web3"]),
        (&["--group", "both", "-l", "role=web", "--exclude", "web1"], &["web2"]),
        (&["--group", "both", "--limit", "2"], &["web1", "web2"]),
        (&["--all", "--exclude", "@web"], &["web3"]),
        (&["--where", "not @web or host = web1"], &["web1", "web3"]),
        (&["--group", "first"], &["web1", "web3"]),
    ] {
        assert_eq!(listed(&ctl, flags), meant, "{flags:?}");
    }
    let ran = ctl.run(["run", "--group", "web", "ping", "-o", "json"]).expect(0).json();
    let hosts: Vec<_> = ran["hosts"].as_array().expect("a list").iter().map(|host| host["host"].clone()).collect();
    assert_eq!(hosts, ["web1", "web2"]);
    ctl.write("file", "content");
    let refused = ctl.run(["file", "put", "file", "@web:/srv/"]).expect(1);
    assert!(refused.stderr.contains("web1, web2 do not allow the action 'file-put'"), "{refused}");
    let refused = ctl.run(["deploy", "status", "shop", "--group", "web"]).expect(1);
    assert!(refused.stderr.contains("web1, web2 do not allow the action 'deploy-status'"), "{refused}");
    ctl.run(["exec", "@db", "--", "true"]).expect(0);

    let list = ctl.run(["group", "list"]).expect(0);
    assert!(list.stdout.contains("web    web[1-3] except @db\n") && list.stderr.contains("4 groups"), "{list}");
    let shown = ctl.run(["group", "show", "web"]).expect(0);
    assert!(shown.stdout.contains("2 hosts: web[1,2]"), "{shown}");
    assert_eq!(ctl.run(["group", "show", "db", "-o", "json"]).expect(0).json()["hosts"], serde_json::json!(["web3"]));
    let replaced = ctl.run(["group", "set", "first", "--host", "web1"]).expect(0);
    assert!(replaced.stderr.contains("first: it was: @both where "), "{replaced}");
    let in_use = ctl.run(["group", "rm", "web"]).expect(1);
    assert!(in_use.stderr.contains("the group web is a part of both"), "{in_use}");
    ctl.run(["group", "rm", "both"]).expect(0);
    ctl.run(["group", "rm", "@web"]).expect(0);
    let gone = ctl.run(["group", "rm", "web"]).expect(1);
    assert!(gone.stderr.contains("there is no group web"), "{gone}");
}

#[test]
fn what_a_group_cannot_be_is_an_error_when_it_is_set() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).start();
    worker.wait_online();
    let ctl = Ctl::on(&redis);
    for (flags, code, problem) in [
        (&["web", "--where", "cpuu.usage > 80"][..], 64, "  cpuu.usage > 80\n  ^^^^^^^^^^"),
        (&["web", "--where", "@a@b"], 64, "  @a@b\n  ^^^^"),
        (&["web", "--host", "web 1"], 64, "is not a valid name"),
        (&["we b", "--host", "web1"], 64, "is not a valid name"),
        (&["web", "--host", "web1", "--limit", "1"], 64, "unexpected argument '--limit'"),
        (&["web"], 64, "required"),
        (&["web", "--group", "wbe"], 1, "there is no group wbe"),
        (&["web", "--host", "web1", "--exclude", "@web"], 1, "web → web refer to each other in a circle"),
        (&["web", "--where", &("os = x and ".repeat(369) + "os = x"), "-l", &"x".repeat(4100)], 1, "8192 are allowed"),
    ] {
        let refused = ctl.run([&["group", "set"], flags].concat()).expect(code);
        assert!(refused.stderr.contains(problem), "{flags:?}: {refused}");
    }
    assert_eq!(redis.cli(["EXISTS", "groups"]), "0");

    // It may be for hosts that are still to come.
    let early = ctl.run(["group", "set", "web", "--host", "web1,web9", "--exclude", "x*"]).expect(0);
    for doubt in ["group web: no host is called web9", "group web: no host matches 'x*'"] {
        assert!(early.stderr.contains(doubt), "{early}");
    }
    set(&ctl, "old", &["--host", "web9"]);
    ctl.run(["group", "set", "new", "--host", "web*", "--exclude", "web9"]).expect(0);
    assert_eq!(listed(&ctl, &["--group", "web"]), ["web1"]);
    // Who is excluded is to be protected.
    for flags in [&["--all", "--exclude", "@old"][..], &["--group", "new"]] {
        let refused = ctl.run([&["run", "ping"], flags].concat()).expect(1);
        assert!(refused.stderr.contains("names web9 to exclude it, and no host is called that"), "{refused}");
    }
    let misspelt = ctl.run(["run", "--group", "wbe", "ping"]).expect(1);
    assert!(
        misspelt.stderr.contains("there is no group wbe") && misspelt.stderr.contains("did you mean web?"),
        "{misspelt}"
    );
}

#[test]
fn whatever_somebody_writes_into_redis_is_named_and_harmless() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).start();
    worker.wait_online();
    let (ctl, mut raw) = (Ctl::on(&redis), Raw::on(&redis));
    let huge = "web1,".repeat(10_000);
    for (name, text, problem) in [
        ("a", "web1\x1b[2J", "the group a cannot be read: "),
        ("b", "web1 where cpuu.usage > 1", "did you mean cpu.usage?"),
        ("c", huge.as_str(), "the group c cannot be read: it has 50000 bytes; 8192 are allowed"),
        ("g", "", "the group g cannot be read"),
        ("f", "@g", "the group g cannot be read"),
        ("f", "web1 where not @d", "there is no group d"),
        ("e", "web1 except @f", "there is no group d"),
        ("d", "@e", "the groups d → e → f → d refer to each other in a circle"),
    ] {
        raw.query::<u64>(&["HSET", "groups", name, text]);
        let refused = ctl.run(["run", "--group", name, "ping"]).expect(1);
        assert!(refused.stderr.contains(problem) && refused.stderr.contains("hint: "), "{refused}");
    }
    raw.query::<u64>(&["HSET", "groups", "\x1b]0;x\x07", "web1"]);
    let (code, screen) = ctl.at_terminal(["group", "list"], "");
    assert!(code == 0 && !screen.contains('\x1b') && screen.contains("8 groups"), "{screen:?}");
    assert!(screen.contains("b: cannot be read: "), "{screen}");
    // The others can be used, and the broken ones replaced and removed.
    set(&ctl, "ok", &["--host", "web1"]);
    set(&ctl, "d", &["--host", "web1"]);
    ctl.run(["group", "rm", "a"]).expect(0);
    ctl.run(["run", "--group", "ok,d,e", "ping"]).expect(0);
    assert_eq!(raw.query::<u64>(&["EXISTS", "jobs"]), 1);

    raw.query::<u64>(&["DEL", "groups"]);
    raw.query::<u64>(&["SADD", "groups", "x"]);
    for line in ["run --group a ping", "group list", "group set a --host web1"] {
        let damaged = ctl.run(line.split(' ')).expect(1);
        assert!(damaged.stderr.contains("the key groups is damaged"), "{damaged}");
        assert!(damaged.stderr.contains("redis-cli DEL 'groups'"), "{damaged}");
    }
    ctl.run(["run", "--all", "ping"]).expect(0);
}

#[test]
fn a_host_of_which_it_is_not_known_whether_it_is_in_a_group_is_named() {
    let (_redis, mut workers, ctl) = fleet();
    set(&ctl, "known", &["--host", "web[1-2]", "--where", "running >= 0"]);
    workers[0].terminate();
    let some = ctl.run(["run", "--group", "known", "ping"]).expect(4);
    assert!(some.stderr.contains("web1: left out: running is not known, as it is offline"), "{some}");
    assert!(some.stderr.contains("web2: succeeded"), "{some}");
    // Whether it is excluded is not known either.
    let some = ctl.run(["run", "--all", "--exclude", "@known", "ping"]).expect(4);
    assert!(some.stderr.contains("web1: left out: running is not known"), "{some}");
    assert!(some.stderr.contains("web3: succeeded") && !some.stderr.contains("web2"), "{some}");
    // Who is named besides is meant, whatever the group is.
    assert_eq!(listed(&ctl, &["--group", "known", "--host", "web1"]), ["web1", "web2"]);
    let none = ctl.run(["run", "--group", "known", "-l", "role=db", "ping"]).expect(1);
    assert!(none.stderr.contains("'(@known) and (label.role = db)' holds for none of 3 hosts"), "{none}");
}

#[test]
fn a_group_counts_as_hosts_that_were_not_named() {
    let (_redis, _workers, ctl) = fleet();
    set(&ctl, "web", &["--host", "web[1-2]"]);
    let exec = |flags: &[&'static str]| [&["run"], flags, &["exec", "--", "echo", "ran"]].concat();
    let (code, screen) = ctl.at_terminal(exec(&["--group", "web"]), "n\n");
    assert!(code == 1 && screen.contains("exec on 2 hosts: web[1,2]. Go on? [y/N]"), "{code} {screen}");
    let (code, screen) = ctl.at_terminal(exec(&["--host", "web1,web2", "--group", "web"]), "");
    assert!(code == 0 && !screen.contains("Go on?"), "{code} {screen}");
}

#[test]
fn there_are_no_more_groups_than_are_allowed() {
    let redis = Redis::start();
    let ctl = Ctl::on(&redis);
    let fill = "for i = 1, ARGV[1] do redis.call('HSET', KEYS[1], 'g' .. i, 'web1') end";
    redis.cli(["EVAL", fill, "1", "groups", &limits::GROUPS.to_string()]);
    let refused = ctl.run(["group", "set", "another", "--host", "web1"]).expect(1);
    assert!(refused.stderr.contains("there are 1000 groups already"), "{refused}");
    set(&ctl, "g1", &["--host", "web2"]);
    ctl.run(["group", "rm", "g2"]).expect(0);
    set(&ctl, "another", &["--host", "web1"]);
    let sound = ctl.run(["doctor", "-o", "json"]).expect(0);
    assert!(sound.stdout.contains("every key has a TTL or a cap (1 keys)"), "{sound}");
    redis.cli(["HSET", "groups", "h1", "x", "h2", "x"]);
    let above = ctl.run(["doctor", "-o", "json"]).expect(2);
    assert!(above.stdout.contains("1 above its cap: groups"), "{above}");
}

#[test]
fn a_reader_sees_groups_and_a_namespace_has_its_own() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).start();
    worker.wait_online();
    let ctl = Ctl::on(&redis);
    set(&ctl, "web", &["--host", "web1"]);
    let reader = Ctl::alone().env("REDFLEET_REDIS", &redis.url_of(&Role::Reader, None));
    reader.run(["group", "list"]).expect(0);
    assert_eq!(listed(&reader, &["--group", "web"]), ["web1"]);
    for line in ["group set web --host web2", "group set new --host web2", "group rm web"] {
        let refused = reader.run(line.split(' ')).expect(1);
        assert!(refused.stderr.contains("does not permit this user"), "{refused}");
    }
    assert_eq!(redis.cli(["HGETALL", "groups"]), "web\nweb1");

    let prod = Ctl::within(&redis, "prod");
    let none = prod.run(["group", "show", "web"]).expect(1);
    assert!(none.stderr.contains("there is no group web"), "{none}");
    set(&prod, "web", &["--host", "db1"]);
    assert_eq!(redis.cli(["HGETALL", "prod:groups"]), "web\ndb1");
    assert_eq!(redis.cli(["HGETALL", "groups"]), "web\nweb1");
}
