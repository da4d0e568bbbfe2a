//! A key of the wrong type concerns its host or its job alone.

use tests::{Ctl, Output, Redis, Worker};

/// `web1` and `web2` are online.
fn fleet() -> (Redis, Vec<Worker>, Ctl) {
    let redis = Redis::start();
    let workers: Vec<_> = ["web1", "web2"].map(|name| Worker::on(&redis).host(name).start()).into();
    workers.iter().for_each(Worker::wait_online);
    let ctl = Ctl::on(&redis);
    (redis, workers, ctl)
}

/// Stops `web2` and puts something else in the place of one of its keys.
fn damage(redis: &Redis, workers: &mut [Worker], key: &str) {
    workers[1].terminate();
    redis.cli(["DEL", key]);
    redis.cli(["SET", key, "mine"]);
}

#[track_caller]
fn names(output: &Output, key: &str) {
    let text = format!("the key {key} is damaged: its value is of another type");
    assert!(output.stderr.contains(&text) && !output.stderr.contains("WRONGTYPE"), "{output}");
}

#[test]
fn a_host_with_a_damaged_key_is_shown_as_such_among_the_others() {
    for part in ["status", "facts"] {
        let (redis, mut workers, ctl) = fleet();
        let key = format!("server:{{web2}}:{part}");
        damage(&redis, &mut workers, &key);
        let listed = ctl.run(["host", "list"]).expect(0);
        assert!(listed.stdout.contains("online") && listed.stdout.contains("damaged"), "{listed}");
        names(&listed, &key);
        assert!(ctl.run(["action", "list"]).expect(0).stdout.contains("ping"));
        assert!(ctl.run(["doctor"]).expect(2).stdout.contains(&key));
    }
}

#[test]
fn a_run_on_all_leaves_out_a_host_whose_actions_are_damaged() {
    let (redis, mut workers, ctl) = fleet();
    damage(&redis, &mut workers, "server:{web2}:facts");
    let output = ctl.run(["run", "--all", "-o", "json", "ping"]).expect(4);
    assert_eq!(output.json()["hosts"][0]["state"], "succeeded", "{output}");
    names(&output, "server:{web2}:facts");
    names(&ctl.run(["run", "--host", "web2", "ping"]).expect(1), "server:{web2}:facts");
}

#[test]
fn a_damaged_inbox_fails_its_host_alone() {
    let (redis, mut workers, ctl) = fleet();
    damage(&redis, &mut workers, "server:{web2}:commands");
    let output = ctl.run(["run", "--all", "collect-cpu"]).expect(2);
    assert!(output.stdout.contains("the key server:{web2}:commands is damaged"), "{output}");
    assert!(output.stderr.contains("1 succeeded") && !output.stderr.contains("queued"), "{output}");
}

#[test]
fn a_damaged_job_is_listed_among_the_others() {
    for part in ["", ":hosts"] {
        let (redis, _workers, ctl) = fleet();
        let jobs = [(); 2].map(|()| ctl.run(["run", "--all", "--detach", "ping"]).expect(0).stdout.trim().to_owned());
        for job in &jobs {
            ctl.run(["job", "wait", job]).expect(0);
        }
        let key = format!("job:{{{}}}{part}", jobs[0]);
        redis.cli(["DEL", &key]);
        redis.cli(["SET", &key, "mine"]);
        let listed = ctl.run(["job", "list"]).expect(0);
        assert!(listed.stdout.contains("damaged") && listed.stdout.contains("2 succeeded"), "{listed}");
        names(&listed, &key);
        names(&ctl.run(["job", "show", &jobs[0]]).expect(1), &key);
    }
}
