//! Hosts of which nothing is heard, and schedules that are damaged: they hold nothing up for ever.

use protocol::{
    action::{Argument, Arguments},
    job::JobRecord,
    keys::Keys,
    name::{HostName, JobId},
    scheduled::{Claims, Fate, Instant, Scheduled},
    standing::{Conduct, Overlap, Standing, StandingOrder, schedule::Schedule, selector::Selector},
    targets::Targets,
    time::{Millis, show_moment},
    trust::sshsig,
};
use tests::{Raw, eventually, operator};

use super::{Hosts, count, ended, moment};

/// An order for `web1` that leaves evidence each second, as if it had been given ten minutes ago.
fn old_order(hosts: &Hosts, now: Millis) -> StandingOrder {
    let argv = ["sh", "-c", &hosts.script()].map(str::to_owned).into();
    StandingOrder {
        name: "tidy".parse().expect("a name"),
        action: "exec".into(),
        arguments: Arguments::from([("argv".into(), Argument::List(argv))]),
        operator: "tests".into(),
        salt: JobId::salt(),
        issued_at_ms: now - 600_000,
        valid_until_ms: now + 3_600_000,
        start_within_ms: 20_000,
        timeout_ms: 10_000,
        retention_ms: 3_600_000,
        keep_output: None,
        namespace: None,
        selector: Selector { hosts: vec!["web1".into()], ..Selector::default() },
        schedule: Schedule::Every { period_ms: 1000, anchor_ms: now - 600_000 },
        conduct: Conduct { overlap: Overlap::Skip, late: true, jitter_ms: 0, pause_after: 0, retries: 3 },
    }
}

/// A run that another scheduler has sent.
fn run_by_another(instant: Millis) -> Instant {
    Instant::new(Fate::Ran, "another".into(), instant)
}

/// Redis as it is where a host took the run of an instant, and died.
fn begun_by_the_dead(hosts: &Hosts, scheduled: &Scheduled, instant: Millis, host: &str) -> JobId {
    let (mut connection, keys) = (hosts.redis.blocking(), Keys::new(None));
    let targets = Targets::new([host.parse::<HostName>().expect("a name")]);
    let record = JobRecord::unsigned(scheduled.standing.run(instant, 0, targets.root()), targets);
    let record = JobRecord { signed: record.signed.clone().with_signature(scheduled.standing.voucher()), ..record };
    let job = record.manifest.job;
    record.write(&keys).query::<()>(&mut connection).expect("the job");
    scheduled.add(&keys, instant).query::<()>(&mut connection).expect("the schedule");
    let run = Instant { job: Some(job), ..run_by_another(instant) };
    let mut raw = Raw::on(&hosts.redis);
    let name = scheduled.name();
    raw.query::<()>(&["HSET", &keys.job_hosts(job), host, "running"]);
    raw.query::<()>(&["HSET", &keys.schedules(), name.as_str(), &show_moment(instant)]);
    raw.query::<()>(&["HSET", &keys.schedule_open(name), &instant.to_string(), &run.text()]);
    job
}

/// The record decides which hosts a run is for, not those that are meant when it is taken over.
#[test]
fn a_run_that_was_recorded_is_taken_over_as_it_is() {
    let hosts = Hosts::start(2);
    let now = Raw::on(&hosts.redis).now();
    let order = StandingOrder {
        selector: Selector::default(),
        start_within_ms: 600_000,
        // Nothing else is due.
        schedule: Schedule::Every { period_ms: 3_600_000, anchor_ms: now - 60_000 },
        ..old_order(&hosts, now)
    };
    let standing = Standing::open(operator().sign_for(sshsig::STANDING, &order)).expect("an order");
    let scheduled = Scheduled { accounted_ms: now, ..Scheduled::new(standing) };
    let job = begun_by_the_dead(&hosts, &scheduled, now - 60_000, "web2");
    let (mut raw, keys) = (Raw::on(&hosts.redis), Keys::new(None));
    raw.query::<()>(&["DEL", &keys.job_hosts(job)]);
    let open = keys.schedule_open(scheduled.name());
    let record: String = raw.query(&["HGET", &open, &(now - 60_000).to_string()]);
    let run = Instant::read(&record).expect("a run");
    let claimed = Instant { state: Fate::Claimed, becomes: Some(Fate::Late), ..run };
    raw.query::<()>(&["HSET", &open, &(now - 60_000).to_string(), &claimed.text()]);
    let one = hosts.serve("one");
    one.wait_stderr("taken over from another");
    let history = hosts.wait("its end", |history| ended(history, "succeeded") == 1);
    assert_eq!((history.len(), &history[0]["state"]), (1, &"late".into()), "{history:#?}");
    assert_eq!((hosts.ran("web1"), hosts.ran("web2")), (Vec::new(), vec![job.to_string()]));
}

/// Two claims of a scheduler that died, the second of which was recorded as a job.
fn two_claims(hosts: &Hosts) -> (Scheduled, [Millis; 2]) {
    let now = Raw::on(&hosts.redis).now();
    let order = StandingOrder {
        start_within_ms: 600_000,
        // Nothing else is due.
        schedule: Schedule::Every { period_ms: 30_000, anchor_ms: now - 600_000 },
        ..old_order(hosts, now)
    };
    let standing = Standing::open(operator().sign_for(sshsig::STANDING, &order)).expect("an order");
    let scheduled = Scheduled { accounted_ms: now + 1_800_000, ..Scheduled::new(standing) };
    let instants = [now - 90_000, now - 60_000];
    let job = begun_by_the_dead(hosts, &scheduled, instants[1], "web1");
    let (mut raw, keys) = (Raw::on(&hosts.redis), Keys::new(None));
    raw.query::<()>(&["DEL", &keys.job_hosts(job)]);
    let unsent = scheduled.standing.run(instants[0], 0, Targets::new([]).root()).job;
    for (instant, job) in instants.into_iter().zip([unsent, job]) {
        let run = Instant { job: Some(job), ..run_by_another(instant) };
        let claimed = Instant { state: Fate::Claimed, becomes: Some(Fate::Late), ..run };
        let open = keys.schedule_open(scheduled.name());
        raw.query::<()>(&["HSET", &open, &instant.to_string(), &claimed.text()]);
    }
    (scheduled, instants)
}

#[test]
fn a_claim_is_no_run_when_its_schedule_is_replaced_unless_it_was_recorded() {
    let hosts = Hosts::start(1);
    let (scheduled, instants) = two_claims(&hosts);
    hosts.add("--every 1h --replace", &hosts.script());
    assert_eq!(recorded_now(&hosts, &scheduled, instants[0]).expect("a reply"), 2, "nobody sends it any more");
    let history = hosts.history();
    assert_eq!(history.iter().map(moment).collect::<Vec<_>>(), instants, "{history:#?}");
    assert_eq!((&history[0]["state"], history[0]["end"].is_null()), (&"failed to dispatch".into(), true));
    assert!(history[0]["reason"].as_str().expect("a reason").contains("replaced before"), "{history:#?}");
    assert_eq!((&history[1]["state"], &history[1]["end"]), (&"late".into(), &"unknown".into()), "{history:#?}");
}

/// What a scheduler that was frozen would still do: it records the run that it has claimed.
fn recorded_now(hosts: &Hosts, scheduled: &Scheduled, instant: Millis) -> Result<i64, redis::RedisError> {
    record_of(scheduled, instant).create(&Keys::new(None)).query(&mut hosts.redis.blocking())
}

fn record_of(scheduled: &Scheduled, instant: Millis) -> JobRecord {
    let targets = Targets::new(["web1".parse::<HostName>().expect("a name")]);
    JobRecord::unsigned(scheduled.standing.run(instant, 0, targets.root()), targets)
}

#[test]
fn a_run_can_be_given_up_while_redis_is_full_and_cannot_be_recorded_then() {
    let hosts = Hosts::start(1);
    let (scheduled, instants) = two_claims(&hosts);
    let mut raw = Raw::on(&hosts.redis);
    raw.query::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    assert!(recorded_now(&hosts, &scheduled, instants[0]).is_err(), "Redis is full");
    let withdraw = record_of(&scheduled, instants[0]).withdraw(&Keys::new(None), "[]");
    assert_eq!(withdraw.query::<i64>(&mut hosts.redis.blocking()).expect("it is permitted"), 0);
    raw.query::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(recorded_now(&hosts, &scheduled, instants[0]).expect("a reply"), 2, "it was withdrawn");
}

/// Runs may be claimed while a schedule is being replaced.
#[test]
fn a_schedule_is_replaced_only_if_it_is_known_what_becomes_of_its_claims() {
    let hosts = Hosts::start(1);
    let (scheduled, instants) = two_claims(&hosts);
    let (mut raw, keys) = (Raw::on(&hosts.redis), Keys::new(None));
    let replace = |claims: &Claims| -> i64 {
        let replaced = Scheduled { accounted_ms: instants[1], ..scheduled.clone() };
        replaced.replace(&keys, claims, instants[1]).query(&mut hosts.redis.blocking()).expect("a reply")
    };
    let open = keys.schedule_open(scheduled.name());
    let why = "100 % \"too\" late";
    let mut claims = Claims::from([(instants[0], Some((Fate::Missed, why.to_owned())))]);
    assert_eq!(replace(&claims), 2, "the other one may be sent");
    assert_eq!(raw.query::<u64>(&["HLEN", &open]), 2, "nothing has changed");
    claims.insert(instants[1], None);
    assert_eq!(replace(&claims), 1);
    assert_eq!(raw.query::<u64>(&["HLEN", &open]), 0);
    let history = hosts.history();
    assert_eq!((&history[0]["state"], &history[0]["reason"]), (&"missed: grace".into(), &why.into()), "{history:#?}");
    assert_eq!((&history[1]["state"], &history[1]["end"]), (&"late".into(), &"unknown".into()), "{history:#?}");
}

#[test]
fn what_is_left_of_a_schedule_that_redis_has_lost_keeps_nobody_from_adding_it() {
    let hosts = Hosts::start(1);
    let (scheduled, _) = two_claims(&hosts);
    let (mut raw, keys) = (Raw::on(&hosts.redis), Keys::new(None));
    raw.query::<i64>(&["DEL", &keys.schedule(scheduled.name()), &keys.schedules()]);
    hosts.add("--every 1h", &hosts.script());
    assert!(hosts.history().iter().all(|instant| instant["end"] == "unknown"), "{:#?}", hosts.history());
}

#[test]
fn a_claim_is_not_taken_over_while_its_schedule_is_paused() {
    let hosts = Hosts::start(1);
    let (scheduled, instants) = two_claims(&hosts);
    hosts.ctl.run(["schedule", "pause", scheduled.name().as_str()]).expect(0);
    let _one = hosts.serve("one");
    let history = hosts.wait("both to be left", |history| count(history, "claimed") == 0);
    assert_eq!(history.iter().map(moment).collect::<Vec<_>>(), instants, "{history:#?}");
    assert_eq!(history[0]["state"], "missed: grace", "{history:#?}");
    assert!(history[0]["reason"].as_str().expect("a reason").contains("paused before"), "{history:#?}");
    assert_eq!(history[1]["state"], "late", "hosts may have it: {history:#?}");
    assert!(hosts.ran("web1").is_empty());
}

#[test]
fn a_host_that_died_during_a_run_holds_up_no_run_beyond_the_last_moment() {
    let mut hosts = Hosts::start(2);
    hosts.workers[1].kill9();
    let now = Raw::on(&hosts.redis).now();
    let standing = Standing::open(operator().sign_for(sshsig::STANDING, &old_order(&hosts, now))).expect("an order");
    // Its start-by, its timeout and the patience with hosts are over.
    let scheduled = Scheduled { accounted_ms: now, ..Scheduled::new(standing) };
    let job = begun_by_the_dead(&hosts, &scheduled, now - 500_000, "web2");
    let _one = hosts.serve("one");
    let history = hosts.wait("a run behind it", |history| ended(history, "succeeded") > 0);
    let dead = &history[0];
    assert_eq!((dead["job"].as_str(), moment(dead)), (Some(job.to_string().as_str()), now - 500_000), "{history:#?}");
    assert_eq!((&dead["end"], &dead["attempt"]), (&"failed".into(), &0.into()), "{history:#?}");
    assert!(dead["reason"].as_str().expect("a reason").contains("web2 has told no result"), "{history:#?}");
    assert!(!hosts.ran("web1").is_empty());
}

/// What a schedule's keys may be in the hands of somebody who can write to Redis. Their names come before the sound one's.
#[test]
fn a_damaged_schedule_holds_up_no_other() {
    let hosts = Hosts::start(1);
    let (mut raw, keys) = (Raw::on(&hosts.redis), Keys::new(None));
    let now = raw.now();
    let put = |name: &str, selector: Selector| {
        let order = StandingOrder { name: name.parse().expect("a name"), selector, ..old_order(&hosts, now) };
        let standing = Standing::open(operator().sign_for(sshsig::STANDING, &order)).expect("an order");
        let scheduled = Scheduled { accounted_ms: now, ..Scheduled::new(standing) };
        scheduled.add(&keys, now).query::<()>(&mut hosts.redis.blocking()).expect("the schedule");
        scheduled.name().clone()
    };
    let hostile = put("a1", Selector { hosts: vec!["web[3-1]".into()], ..Selector::default() });
    // Whatever is open of it cannot be read, nor begun.
    let shut = put("a2", Selector::default());
    raw.query::<()>(&["SET", &keys.schedule_open(&shut), "x"]);
    let strange: protocol::name::ScheduleName = "a3".parse().expect("a name");
    raw.query::<()>(&["SET", &keys.schedule(&strange), "x"]);
    for name in [&hostile, &shut, &strange] {
        raw.query::<()>(&["HSET", &keys.schedules(), name.as_str(), &show_moment(now)]);
    }
    // Of its open run there is no record that can be read.
    let lost = put("a4", Selector { hosts: vec!["web1".into()], ..Selector::default() });
    raw.query::<()>(&["HSET", &keys.schedules(), lost.as_str(), &show_moment(now)]);
    let job = JobId::new();
    let run = Instant { job: Some(job), ..run_by_another(now - 1000) };
    raw.query::<()>(&["HSET", &keys.schedule_open(&lost), &(now - 1000).to_string(), &run.text()]);
    raw.query::<()>(&["SET", &keys.job(job), "x"]);
    hosts.add("--every 1s --grace 10s --late", &hosts.script());
    let one = hosts.serve("one");
    one.wait_stderr(&format!("a4: job {} is gone from Redis", job.short()));
    one.wait_stderr("a4: ran");
    for name in ["a1", "a2", "a3"] {
        one.wait_stderr(&format!("{name}: cannot be used"));
    }
    hosts.wait("a run of the sound one", |history| ended(history, "succeeded") > 0);
    let listed = hosts.ctl.run(["schedule", "list"]).expect(0);
    assert!(listed.stderr.contains("a3: cannot be read: its key is no hash"), "{listed}");
    assert!(listed.stderr.contains("a2: its history cannot be read"), "{listed}");
}

#[test]
fn a_host_that_is_offline_holds_up_no_run() {
    let mut hosts = Hosts::start(2);
    assert!(hosts.workers[1].terminate().success());
    let _one = hosts.serve("one");
    // None of the runs expires before the test ends.
    hosts.add("--every 2s --grace 10m --late --overlap skip", &hosts.script());
    let history = hosts.wait("three runs", |history| count(history, "ran") + count(history, "late") >= 3);
    // How the others stand depends on when they were looked at: web1 may be at work.
    assert!(history.iter().all(|at| at["end"].is_null()), "web2 may still come back: {history:#?}");
    eventually("three runs on the other host", || (hosts.ran("web1").len() >= 3).then_some(()));
    // It runs them when it is back, and they are at an end.
    let _back = hosts.workers[1].options().start();
    hosts.wait("their ends", |history| ended(history, "succeeded") >= 3);
    assert!(hosts.ran("web2").len() >= 3);
}

#[test]
fn a_schedule_that_a_wrong_clock_has_silenced_is_told() {
    let hosts = Hosts::start(1);
    hosts.add("--every 1h", &hosts.script());
    let (mut raw, keys) = (Raw::on(&hosts.redis), Keys::new(None));
    let key = keys.schedule(&"tidy".parse::<protocol::name::ScheduleName>().expect("a name"));
    let accounted: String = raw.query(&["HGET", &key, "accounted_until"]);
    let (_, order) = accounted.split_once(' ').expect("two words");
    let ahead = raw.now() + 30 * 24 * 3_600_000;
    raw.query::<()>(&["HSET", &key, "accounted_until", &format!("{ahead} {order}")]);
    hosts.serve("one").wait_stderr("tidy: nothing runs before");
    let listed = hosts.ctl.run(["schedule", "list"]).expect(0);
    assert!(
        listed.stderr.contains("tidy: nothing runs before") && listed.stderr.contains("clock was ahead"),
        "{listed}"
    );
}
