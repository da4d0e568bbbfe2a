//! Every write belongs to one owner: a host, a job or an index. In a Redis Cluster owners are in different slots,
//! so no transaction and no script may span two of them.

use tests::{
    Ctl, Raw, Redis, Worker, eventually, free_port,
    monitor::{Monitor, units},
};

/// Makes `ctl` and the workers do everything they can: dispatch, follow, cancel, list, recover from a crash and from
/// a loss, drop and refuse.
fn everything(redis: &Redis, ctl: &Ctl, workers: &mut [Worker]) {
    workers.iter().for_each(Worker::wait_online);
    ctl.run(["run", "--all", "collect-all"]).expect(0);
    ctl.run(["run", "--all", "ping"]).expect(0);
    let script = "echo begun; sleep 0.2; echo done; exit 3";
    ctl.run(["run", "--all", "--follow", "exec", "lock=a", "secret.TOKEN=hunter2", "--", "sh", "-c", script]).expect(2);
    ctl.run(["run", "--host", "web1", "exec", "--", "sh", "-c", "seq 100000"]).expect(0);
    ctl.run(["job", "logs", "last"]).expect(0);
    ctl.run(["group", "set", "web", "--host", "web*"]).expect(0);
    ctl.run(["run", "--group", "web", "ping"]).expect(0);
    ctl.run(["group", "rm", "web"]).expect(0);
    ctl.run(["host", "label", "web*", "tier=gold"]).expect(0);
    ctl.run(["run", "-l", "tier=gold", "ping"]).expect(0);
    ctl.run(["run", "--all", "exec", "user=no-such-user", "--", "true"]).expect(2);

    let job = ctl.dispatch("web1", "echo begun; sleep 1000");
    eventually("the job to run", || (ctl.host_states(&job)[0].1 == "running").then_some(()));
    ctl.run(["job", "cancel", &job]).expect(0);
    let job = ctl.dispatch("web2", "sleep 1000");
    eventually("the job to run", || (ctl.host_states(&job)[0].1 == "running").then_some(()));
    workers[1].kill9();
    workers[1] = workers[1].options().start();
    ctl.run(["job", "wait", &job]).expect(2);

    refused_and_lost(redis, ctl, workers);
    for line in ["job list", "job show last", "host list", "host show web1", "action list", "doctor"] {
        ctl.run(line.split(' ')).expect(0);
    }
    for worker in workers {
        worker.terminate();
    }
}

/// Commands that are dropped, rejected, expired, cancelled unread, lost and dispatched again; a backlog.
fn refused_and_lost(redis: &Redis, ctl: &Ctl, workers: &mut [Worker]) {
    let mut raw = Raw::on(redis);
    raw.add("web1", &[("garbage", "x")]);
    raw.wait_dropped("web1", "malformed", 1);
    let manifest = raw.manifest(&["web1"], "no-such-action");
    raw.send("web1", &manifest);
    raw.outcome("web1", &manifest);

    let detached = |options: &[&str]| {
        let line = ["run", "--host", "web1", "--detach"].iter().chain(options).chain(&["exec", "--", "true"]);
        ctl.run(line).expect(0).stdout.trim().to_owned()
    };
    workers[0].terminate();
    let expired = detached(&["--start-by", "1s"]);
    let cancelled = detached(&[]);
    let backlog: Vec<_> = (0..20).map(|_| detached(&[])).collect();
    eventually("it to expire", || (ctl.host_states(&expired)[0].1 == "expired").then_some(()));
    let cancel = ctl.spawn(["job", "cancel", &cancelled]);
    eventually("the order to cancel", || (redis.cli(["XLEN", "server:{web1}:control"]) == "1").then_some(()));
    workers[0] = workers[0].options().start();
    cancel.wait().expect(0);
    for job in backlog {
        ctl.run(["job", "wait", &job]).expect(0);
    }
    raw.wait_settled("web1");

    workers[0].terminate();
    let running = ctl.spawn(["run", "--host", "web1", "--wait", "exec", "--", "true"]);
    eventually("the command", || (redis.cli(["XLEN", "server:{web1}:commands"]) == "1").then_some(()));
    redis.cli(["DEL", "server:{web1}:commands"]);
    running.wait_stderr("dispatched again under the same id");
    workers[0] = workers[0].options().start();
    running.wait().expect(0);
    workers[0].wait_online();
}

fn workers(redis: &Redis) -> [Worker; 2] {
    ["web1", "web2"].map(|host| Worker::on(redis).host(host).redis(&redis.tcp_url()).allow_exec().start())
}

fn ctl(redis: &Redis) -> Ctl {
    Ctl::alone().through(redis, &redis.tcp_url())
}

#[test]
fn nothing_that_is_executed_as_a_whole_spans_two_slots() {
    // Over TCP each connection has an address of its own.
    let redis = Redis::options().tcp().start();
    let monitor = Monitor::start(&redis);
    everything(&redis, &ctl(&redis), &mut workers(&redis));
    let requests = monitor.finish(&redis);
    let units = units(&requests, &mut redis.blocking());

    let several: Vec<_> = units.iter().filter(|unit| unit.slots.len() > 1).collect();
    assert!(several.is_empty(), "{} of {} span slots: {several:#?}", several.len(), units.len());
    // The recording has transactions, scripts, and keys of every owner.
    assert!(units.iter().filter(|unit| unit.commands.len() > 1).count() > 20);
    for key in ["servers", "jobs", "server:{web2}:cpu", "server:{web1}:control"] {
        let slot = tests::monitor::slot(key);
        assert!(units.iter().any(|unit| unit.slots.get(&slot).is_some_and(|keys| keys.contains(key))), "{key}");
    }
}

#[test]
fn a_server_in_cluster_mode_refuses_nothing() {
    let bus = free_port().to_string();
    let options = Redis::options().tcp().set("cluster-enabled", "yes").set("cluster-port", &bus);
    let redis = options.start();
    redis.cli(["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    eventually("the cluster to be up", || redis.cli(["CLUSTER", "INFO"]).contains("cluster_state:ok").then_some(()));
    everything(&redis, &ctl(&redis), &mut workers(&redis));
    let errors = redis.cli(["INFO", "errorstats"]);
    assert!(!errors.contains("CROSSSLOT"), "{errors}");
    // A server in cluster mode does refuse a request that spans slots.
    let refused = redis::cmd("MGET").arg("a").arg("b").query::<Vec<String>>(&mut redis.blocking()).unwrap_err();
    assert_eq!(refused.code(), Some("CROSSSLOT"));
}
