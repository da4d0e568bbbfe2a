//! Remote write: figures go to a receiver, in order, whatever the receiver does; what has ended is marked.

mod prometheus;
mod receiver;
mod shipped;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use protocol::acl::Role;
use receiver::{Got, Receiver, Reply};
use tests::{Aof, Ctl, Raw, Redis, Running, Worker, eventually, own_kb};

/// What tells whether a host is there.
const UP: &str = "redfleet_host_up";

/// An instance of `ctl serve` that writes to this receiver once in a second, with more lines of settings.
fn serve(redis: &Redis, name: &str, receiver: SocketAddr, more: &str) -> Running {
    // It has no key: nothing but the right to talk with Redis.
    let ctl = Ctl::keyless().env("REDFLEET_REDIS", &redis.url_of(&Role::Serve, None));
    let config = ctl.write("serve.toml", &settings(name, receiver, more));
    let running = ctl.spawn(["serve", config.to_str().expect("text")]);
    running.wait_stderr(": ready");
    running
}

fn settings(name: &str, receiver: SocketAddr, more: &str) -> String {
    format!(
        "name = {name:?}\n[http]\nlisten = 'off'\n[remote_write]\nurl = 'http://{receiver}/api/v1/write'\ninterval = '1s'\n{more}\n"
    )
}

fn term(running: &Running) {
    kill(Pid::from_raw(running.pid().cast_signed()), Signal::SIGTERM).expect("it runs");
}

/// Writes a name into the index of hosts, as if its worker had just said that it lives.
fn pretend(raw: &mut Raw, hosts: impl IntoIterator<Item = String>) {
    let now = raw.now().to_string();
    let words: Vec<_> = hosts.into_iter().flat_map(|host| [now.clone(), host]).collect();
    let words: Vec<_> = ["ZADD", "servers"].into_iter().chain(words.iter().map(String::as_str)).collect();
    raw.query::<u64>(&words);
}

/// The moments of each series, in the order in which they came.
fn moments(samples: &[Got]) -> BTreeMap<&str, Vec<i64>> {
    let mut moments: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for sample in samples {
        moments.entry(&sample.series).or_default().push(sample.at_ms);
    }
    moments
}

/// No sample of a series came twice, or before an earlier one.
#[track_caller]
fn assert_ordered(samples: &[Got]) {
    for (series, moments) in moments(samples) {
        assert!(moments.windows(2).all(|pair| pair[0] < pair[1]), "{series}: {moments:?}");
    }
}

#[test]
fn figures_arrive_and_a_marker_when_they_end() {
    let redis = Redis::start();
    let mut workers: Vec<_> = ["web1", "web2"].map(|host| Worker::on(&redis).host(host).start()).into();
    workers.iter().for_each(Worker::wait_online);
    let receiver = Receiver::start([], Reply::Written);
    let token = redis.directory().join("token");
    std::fs::write(&token, "sesame\n").expect("a file");
    let more = format!("bearer_token_file = {token:?}\nlabels = {{ site = 'north', host = 'other' }}");
    let running = serve(&redis, "one", receiver.address, &more);

    for host in ["web1", "web2"] {
        let got = receiver.wait("a host", |got| got.is(UP, host));
        assert_eq!((got.value(), got.at_ms % 1000), (1.0, 0), "{got:?}");
        assert!(got.series.contains("site=\"north\""), "{got:?}");
    }
    let request = receiver.requests().remove(0);
    assert_eq!((request.path.as_str(), request.version.as_str()), ("/api/v1/write", "2.0.0"));
    assert_eq!(request.headers["authorization"], "Bearer sesame");
    assert!(request.headers["user-agent"].starts_with("redfleet/"), "{:?}", request.headers);
    assert_eq!(request.about[UP].0, 2, "{:?}", request.about);
    assert!(request.about[UP].1.ends_with('.'), "{:?}", request.about);

    // A host that is forgotten leaves nothing but markers, one for each of its series.
    assert!(workers.remove(1).terminate().success());
    Ctl::on(&redis).run(["host", "forget", "web2"]).expect(0);
    let end = receiver.wait("web2 to be marked", |got| got.is(UP, "web2") && got.is_stale());
    receiver.wait("more of web1", |got| got.is(UP, "web1") && got.at_ms > end.at_ms);
    let samples = receiver.samples(true);
    assert_ordered(&samples);
    let of_web2: Vec<_> = samples.iter().filter(|got| got.is_of("web2")).cloned().collect();
    for (series, moments) in moments(&of_web2) {
        let markers: Vec<_> = of_web2.iter().filter(|got| got.series == series && got.is_stale()).collect();
        assert_eq!(markers.len(), 1, "{series}: {of_web2:?}");
        assert_eq!(moments.last(), Some(&markers[0].at_ms), "{series}");
    }
    assert!(!samples.iter().any(|got| got.is(UP, "web1") && got.is_stale()));

    // At an orderly stop all series end.
    term(&running);
    running.wait().expect(0);
    let samples = receiver.samples(true);
    assert_ordered(&samples);
    let mut last: BTreeMap<&str, &Got> = BTreeMap::new();
    for got in &samples {
        last.insert(&got.series, got);
    }
    assert!(last.values().all(|got| got.is_stale()), "{last:#?}");
}

#[test]
fn what_a_receiver_could_not_take_is_sent_again_in_order() {
    let redis = Redis::start();
    pretend(&mut Raw::on(&redis), ["web1".to_owned(), "web2".to_owned()]);
    let fails = [Reply::Status(503, ""), Reply::Status(429, "Retry-After: 2\r\n"), Reply::Status(500, "")];
    let receiver = Receiver::start(fails.into_iter().cycle().take(7), Reply::Written);
    let running = serve(&redis, "one", receiver.address, "");
    running.wait_stderr("the receiver fails");
    running.wait_stderr("none was lost");
    let tried: BTreeSet<_> = receiver.samples(false).into_iter().collect();
    assert!(!tried.is_empty());
    let newest = tried.iter().map(|got| got.at_ms).max().expect("some");
    receiver.wait("what came after", |got| got.at_ms > newest);
    let taken = receiver.samples(true);
    assert_ordered(&taken);
    assert!(tried.iter().all(|got| taken.contains(got)), "{tried:#?}\n{taken:#?}");
    // While the receiver failed, rounds were made and waited.
    let of_web1 = |got: &&Got| got.is(UP, "web1");
    assert!(taken.iter().filter(of_web1).any(|got| tried.iter().all(|tried| tried.at_ms != got.at_ms)));
}

#[test]
fn what_is_refused_is_not_sent_again() {
    let redis = Redis::start();
    pretend(&mut Raw::on(&redis), ["web1".to_owned()]);
    let receiver = Receiver::start([Reply::Status(400, "")], Reply::Written);
    let running = serve(&redis, "one", receiver.address, "");
    // What the receiver says is shown in one line.
    running.wait_stderr("the receiver refuses samples, which are dropped: 400 Bad Request: no luck");
    running.wait_stderr("the receiver takes samples again");
    let (refused, taken) = (receiver.samples(false), receiver.samples(true));
    assert!(!refused.is_empty() && refused.iter().all(|got| !taken.contains(got)), "{refused:?} {taken:?}");
    assert_ordered(&taken);
}

/// Both kinds of receivers that know version 1.0 only get everything.
#[test]
fn a_receiver_of_the_first_version_gets_the_first_version() {
    for (kind, what) in [(Reply::OldOnly, "415"), (Reply::OldSilent, "it does not say what it has written")] {
        let redis = Redis::start();
        pretend(&mut Raw::on(&redis), ["web1".to_owned()]);
        let receiver = Receiver::start([], kind);
        let running = serve(&redis, "one", receiver.address, "");
        assert!(running.wait_stderr("does not speak version 2.0").contains(what));
        let first = receiver.wait("a sample", |got| got.is(UP, "web1"));
        receiver.wait("another", |got| got.is(UP, "web1") && got.at_ms > first.at_ms);
        let requests = receiver.requests();
        let versions: Vec<_> = requests.iter().map(|request| request.version.as_str()).collect();
        assert_eq!(versions[0], "2.0.0");
        assert!(versions[1..].iter().all(|version| *version == "0.1.0"), "{versions:?}");
        assert_eq!(requests[0].samples, requests[1].samples);
        assert_ordered(&receiver.samples(true));
    }
}

#[test]
fn the_first_version_can_be_asked_for() {
    let redis = Redis::start();
    pretend(&mut Raw::on(&redis), ["web1".to_owned()]);
    let receiver = Receiver::start([], Reply::Written);
    let password = redis.directory().join("password");
    std::fs::write(&password, "sesame\n").expect("a file");
    let more = format!("protocol = '1.0'\nusername = 'ann'\npassword_file = {password:?}");
    let _running = serve(&redis, "one", receiver.address, &more);
    receiver.wait("a sample", |got| got.is(UP, "web1"));
    let request = receiver.requests().remove(0);
    assert_eq!(
        (request.version.as_str(), request.headers["authorization"].as_str()),
        ("0.1.0", "Basic YW5uOnNlc2FtZQ==")
    );
}

#[test]
fn a_receiver_that_hangs_is_given_up() {
    let redis = Redis::start();
    pretend(&mut Raw::on(&redis), ["web1".to_owned()]);
    let receiver = Receiver::start([Reply::Never], Reply::Written);
    let running = serve(&redis, "one", receiver.address, "timeout = '1s'");
    running.wait_stderr("it does not reply in time");
    running.wait_stderr("none was lost");
    assert_ordered(&receiver.samples(true));
    // Nor does it keep `ctl serve` from stopping.
    receiver.reply(Reply::Never);
    let before = receiver.requests().len();
    eventually("a request without a reply", || (receiver.requests().len() > before).then_some(()));
    term(&running);
    let output = running.wait().expect(0);
    assert!(output.stderr.contains("were not sent in time"), "{output}");
}

#[test]
fn while_the_receiver_is_away_a_bounded_number_waits() {
    const HOSTS: usize = 2_000;
    let redis = Redis::start();
    pretend(&mut Raw::on(&redis), (0..HOSTS).map(|at| format!("web{at}")));
    let receiver = Receiver::start([], Reply::Status(503, ""));
    let running = serve(&redis, "one", receiver.address, "queue = 9000");
    running.wait_stderr("samples are dropped, the oldest of too many that wait");
    let full_kb = own_kb(running.pid());
    // It goes on, for as many rounds again.
    let (mut raw, begun) = (Raw::on(&redis), receiver.requests().len());
    let until = raw.now() + 5_000;
    eventually("more rounds", || (raw.now() > until && receiver.requests().len() > begun).then_some(()));
    let kb = own_kb(running.pid());
    assert!(kb < full_kb + 4_096, "it grows: {full_kb} kB, then {kb} kB");
    receiver.reply(Reply::Written);
    let said = running.wait_stderr("the receiver takes samples again");
    assert!(said.ends_with("were lost"), "{said}");
    let last = receiver.wait("what came after", |got| got.at_ms > i64::try_from(until).expect("a moment"));
    let taken = receiver.samples(true);
    assert_ordered(&taken);
    // The newest have won: the batch that was being sent and what waited was left of all that came before.
    let before = taken.iter().filter(|got| got.at_ms < last.at_ms).count();
    assert!(before <= 9_000 + 2 * 2_000 + 4 * HOSTS, "{before}");
    println!("{HOSTS} hosts: {kb} kB with a full queue");
}

#[test]
fn of_several_instances_one_sends_and_another_takes_over() {
    let redis = Redis::start();
    let mut raw = Raw::on(&redis);
    pretend(&mut raw, ["web1".to_owned()]);
    let receiver = Receiver::start([], Reply::Written);
    let mut first = serve(&redis, "one", receiver.address, "");
    first.wait_stderr("this instance sends");
    let second = serve(&redis, "two", receiver.address, "");
    second.wait_stderr("one sends; this instance waits");
    let alone = receiver.wait("a sample", |got| got.is(UP, "web1"));
    receiver.wait("another", |got| got.at_ms > alone.at_ms);
    assert!(first.kill9());
    second.wait_stderr("this instance sends");
    let newest = receiver.samples(true).iter().map(|got| got.at_ms).max().expect("some");
    receiver.wait("what the second sends", |got| got.at_ms > newest);

    // One that stops ends what is about itself, and nothing else where another goes on.
    let third = serve(&redis, "three", receiver.address, "");
    third.wait_stderr("two sends; this instance waits");
    term(&second);
    second.wait().expect(0);
    third.wait_stderr("this instance sends");
    let newest = receiver.samples(true).iter().map(|got| got.at_ms).max().expect("some");
    receiver.wait("what the third sends", |got| got.at_ms > newest);
    let samples = receiver.samples(true);
    assert_ordered(&samples);
    let ended: Vec<_> = samples.iter().filter(|got| got.is_stale()).collect();
    let is_own = |got: &&Got| got.series.starts_with("redfleet_serve_") && got.series.contains("instance=\"two\"");
    assert!(!ended.is_empty() && ended.iter().all(is_own), "{ended:#?}");
    // Where none goes on, they end.
    term(&third);
    third.wait().expect(0);
    receiver.wait("a marker", |got| got.is(UP, "web1") && got.is_stale());
    assert_eq!(raw.query::<u64>(&["EXISTS", "serve:{remote-write}"]), 0);
}

#[test]
fn while_redis_is_away_nothing_is_sent_and_nothing_ends() {
    let mut redis = Redis::options().aof(Aof::Always).start();
    pretend(&mut Raw::on(&redis), ["web1".to_owned()]);
    let receiver = Receiver::start([], Reply::Written);
    let running = serve(&redis, "one", receiver.address, "");
    receiver.wait("a sample", |got| got.is(UP, "web1"));
    redis.kill9();
    running.wait_stderr("remote write: it is tried again");
    redis.restart();
    running.wait_stderr("remote write: Redis can be reached again");
    let newest = receiver.samples(true).iter().map(|got| got.at_ms).max().expect("some");
    receiver.wait("a sample after that", |got| got.is(UP, "web1") && got.at_ms > newest);
    assert_ordered(&receiver.samples(true));
    assert!(!receiver.samples(true).iter().any(|got| got.is(UP, "web1") && got.is_stale()));
}

#[test]
fn settings_are_checked() {
    let ctl = Ctl::keyless();
    let check = |text: &str| {
        let path: PathBuf = ctl.write("serve.toml", text);
        ctl.run(["serve", "--check-config", path.to_str().expect("text")])
    };
    let fine = check("[remote_write]\nurl = 'https://far/write?key=secret'").expect(0);
    assert!(fine.stdout.contains("https://far/write, every 15 s, version 2.0"), "{fine}");
    assert!(!fine.stdout.contains("secret"), "{fine}");
    let wrong = check("[remote_write]\nurl = 'https://ann:secret@far/write'").expect(1);
    assert!(wrong.stderr.contains("password_file") && !wrong.stderr.contains("secret"), "{wrong}");
}
