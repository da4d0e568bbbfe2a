//! Labels that controllers set, beside those of the hosts' own settings.

use protocol::{acl::Role, limits};
use tests::{Ctl, Raw, Redis, Worker, eventually};

const KEY: &str = "server:{web1}:set-labels";

/// Workers `web1` and `web2`, each with the label `env=prod` of its own.
fn fleet() -> (Redis, Vec<Worker>, Ctl) {
    let redis = Redis::start();
    let start = |host| Worker::on(&redis).host(host).config("[labels]\nenv = 'prod'").start();
    let workers: Vec<_> = ["web1", "web2"].into_iter().map(start).collect();
    workers.iter().for_each(Worker::wait_online);
    let ctl = Ctl::on(&redis);
    (redis, workers, ctl)
}

/// The hosts that are meant by these flags.
#[track_caller]
fn meant(ctl: &Ctl, flags: &[&str]) -> Vec<String> {
    let ran = ctl.run([&["run", "-o", "json", "ping"], flags].concat()).expect(0).json();
    let hosts = ran["hosts"].as_array().expect("a list").iter();
    hosts.map(|host| host["host"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn labels_are_set_replaced_removed_and_mean_hosts() {
    let (redis, _workers, ctl) = fleet();
    let set = ctl.run(["host", "label", "web*", "tier=gold", "rack=r 7", "old-"]).expect(0);
    for line in ["web[1,2]: tier=gold\n", "web[1,2]: rack=r 7\n", "web[1,2]: old was not set by ctl\n"] {
        assert!(set.stderr.contains(line), "{set}");
    }
    let again = ctl.run(["host", "label", "web1,web2", "tier=silver", "--exclude", "web2", "-o", "json"]).expect(0);
    let expected = serde_json::json!([{ "host": "web1", "label": "tier", "value": "silver", "before": "gold" }]);
    assert_eq!(again.json(), expected);
    assert_eq!(meant(&ctl, &["-l", "tier=silver,env=prod"]), ["web1"]);
    assert_eq!(meant(&ctl, &["-l", "tier"]), ["web1", "web2"]);
    assert_eq!(meant(&ctl, &["--where", "label.rack ~ 'r *' and label.tier != silver"]), ["web2"]);

    let shown = ctl.run(["host", "show", "web1"]).expect(0);
    assert!(shown.stdout.contains("silver (set by ctl)") && shown.stdout.contains("prod\n"), "{shown}");
    let listed = ctl.run(["host", "list", "--host", "web2", "-o", "json"]).expect(0).json();
    assert_eq!(listed[0]["labels"], serde_json::json!({ "env": "prod" }));
    assert_eq!(listed[0]["set_labels"], serde_json::json!({ "rack": "r 7", "tier": "gold" }));

    let removed = ctl.run(["host", "label", "web2", "tier-", "rack-"]).expect(0);
    assert!(removed.stderr.contains("web2: tier removed (it was gold)"), "{removed}");
    assert_eq!(redis.cli(["EXISTS", "server:{web2}:set-labels"]), "0");
    assert_eq!(meant(&ctl, &["-l", "tier"]), ["web1"]);
    let sound = ctl.run(["doctor", "-o", "json"]).expect(0);
    assert!(sound.stdout.contains("every key has a TTL or a cap"), "{sound}");

    for (words, code, problem) in [
        (&["web1", "tier"][..], 64, "write NAME=VALUE to set a label, or NAME- to remove it"),
        (&["web1", "ti er=x"], 64, "no label can be called that"),
        (&["web1", "tier="], 64, "to remove a label write NAME-"),
        (&["web1", "tier=\x1b[2J"], 64, "no control characters"),
        (&["web1"], 64, "required"),
        (&["wbe1", "tier=x"], 1, "did you mean web1?"),
        (&["web1", "tier=x", "tier-"], 1, "the label 'tier' is changed twice"),
    ] {
        let refused = ctl.run([&["host", "label"], words].concat()).expect(code);
        assert!(refused.stderr.contains(problem), "{words:?}: {refused}");
    }
    let (code, screen) = ctl.at_terminal(["host", "label", "web*", "tier=x"], "n\n");
    assert!(code == 1 && screen.contains("label tier=x on 2 hosts: web[1,2]. Go on?"), "{code} {screen}");
    assert_eq!(redis.cli(["HGET", KEY, "tier"]), "silver");
}

#[test]
fn the_label_of_a_hosts_own_settings_counts() {
    let (redis, mut workers, ctl) = fleet();
    let refused = ctl.run(["host", "label", "web*", "tier=gold", "env=test"]).expect(1);
    assert!(refused.stderr.contains("web1, web2 have a label 'env' of their own, and that one counts"), "{refused}");
    assert_eq!(redis.cli(["KEYS", "server:*:set-labels"]), "", "nothing was changed");

    // It may come later, or somebody may write it all the same.
    ctl.run(["host", "label", "web1", "tier=gold"]).expect(0);
    redis.cli(["HSET", KEY, "env", "test"]);
    let mut web1 = workers.remove(0);
    web1.terminate();
    let web1 = web1.options().config("tier = 'silver'").start();
    web1.wait_online();
    assert_eq!(meant(&ctl, &["-l", "tier=silver,env=prod"]), ["web1"]);
    let none = ctl.run(["run", "--where", "label.tier = gold or label.env = test", "ping"]).expect(1);
    assert!(none.stderr.contains("holds for none of 2 hosts"), "{none}");
    let shown = ctl.run(["host", "show", "web1"]).expect(0);
    assert!(shown.stdout.contains("silver (its own; ctl has set gold, which does not count)"), "{shown}");
}

#[test]
fn labels_live_as_long_as_their_host() {
    let (redis, mut workers, ctl) = fleet();
    ctl.run(["host", "label", "web1", "tier=gold"]).expect(0);
    let expires = || redis.cli(["TTL", KEY]).parse::<u64>().expect("a time to live");
    let longest = limits::HOST_RETENTION.as_secs();
    assert!((longest - 60..=longest).contains(&expires()), "{}", expires());
    // Its worker renews them with its facts.
    redis.cli(["EXPIRE", KEY, "1000"]);
    workers[0].terminate();
    workers[0] = workers[0].options().start();
    eventually("the labels to be renewed", || (expires() > 1000).then_some(()));
    workers[0].terminate();
    assert_eq!(meant_offline(&ctl), "gold (set by ctl)");
    ctl.run(["host", "forget", "web1"]).expect(0);
    assert_eq!(redis.cli(["KEYS", "server:{web1}:*"]), "");
}

/// How the label `tier` of web1 is shown.
#[track_caller]
fn meant_offline(ctl: &Ctl) -> String {
    let shown = ctl.run(["host", "show", "web1"]).expect(0).stdout;
    let line = shown.lines().find_map(|line| line.strip_prefix("tier")).expect("the label");
    line.trim().to_owned()
}

#[test]
fn whatever_somebody_writes_as_labels_is_harmless() {
    let (redis, _workers, ctl) = fleet();
    let mut raw = Raw::on(&redis);
    raw.query::<u64>(&["HSET", KEY, "\x1b[2J", "x", "tier", "\x1b]0;x\x07\nforged", "big", &"x".repeat(1_000_000)]);
    let (code, screen) = ctl.at_terminal(["host", "show", "web1"], "");
    assert!(code == 0 && !screen.contains('\x1b') && !screen.contains("\nforged"), "{}", screen.len());
    assert_eq!(meant(&ctl, &["-l", "tier"]), ["web1"]);
    let replaced = ctl.run(["host", "label", "web1", "tier=gold"]).expect(0);
    assert!(!replaced.stderr.contains('\x1b'), "{replaced}");

    let fill = "for i = 1, 64 do redis.call('HSET', KEYS[1], 'l' .. i, 'x') end";
    redis.cli(["EVAL", fill, "1", KEY]);
    let refused = ctl.run(["host", "label", "web*", "another=x"]).expect(1);
    let reason = "web1 would have more than 64 labels that ctl has set: nothing was changed";
    assert!(refused.stderr.contains(reason), "{refused}");
    assert_eq!(redis.cli(["EXISTS", "server:{web2}:set-labels"]), "0");

    raw.query::<u64>(&["DEL", KEY]);
    raw.query::<u64>(&["SADD", KEY, "x"]);
    let damaged = ctl.run(["host", "label", "web*", "tier=gold"]).expect(1);
    assert!(damaged.stderr.contains(&format!("the key {KEY} is damaged")), "{damaged}");
    let some = ctl.run(["run", "-l", "tier!=gold", "ping"]).expect(4);
    assert!(some.stderr.contains(&format!("web1: left out: the key {KEY} is damaged")), "{some}");
    assert!(some.stderr.contains("web2: succeeded"), "{some}");
    ctl.run(["host", "show", "web1"]).expect(0);
}

#[test]
fn a_reader_sets_no_label_and_a_namespace_has_its_own() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).env("REDFLEET_NAMESPACE", "prod").start();
    worker.wait_online();
    let ctl = Ctl::within(&redis, "prod");
    ctl.run(["host", "label", "web1", "tier=gold"]).expect(0);
    assert_eq!(redis.cli(["HGET", "prod:server:{web1}:set-labels", "tier"]), "gold");
    let role = Role::Reader;
    let prod = "prod".parse().expect("a namespace");
    redis.admit(&role, Some(&prod));
    let reader =
        Ctl::alone().env("REDFLEET_REDIS", &redis.url_of(&role, Some(&prod))).env("REDFLEET_NAMESPACE", "prod");
    let shown = reader.run(["host", "show", "web1"]).expect(0);
    assert!(shown.stdout.contains("gold (set by ctl)"), "{shown}");
    let refused = reader.run(["host", "label", "web1", "tier=silver"]).expect(1);
    assert!(refused.stderr.contains("does not permit this user"), "{refused}");
}
