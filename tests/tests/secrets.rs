//! Secret arguments reach the program and nothing else.

use protocol::{
    action::{Argument, Arguments},
    command::Manifest,
    outcome::State,
    secret::Secrets,
};
use tests::{Ctl, Gate, Raw, Redis, Worker, eventually, fleet_with};

const SECRET: &str = "correct-horse-battery";

/// Every key of the server with what is in it, except the inbox that carries commands to their host.
fn kept(redis: &Redis) -> String {
    let mut connection = redis.blocking();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).expect("keys");
    let dump = |key| redis::cmd("DUMP").arg(key).query::<Option<Vec<u8>>>(&mut connection).expect("a value");
    let kept = keys.iter().filter(|key| !key.ends_with(":commands")).filter_map(dump);
    String::from_utf8_lossy(&kept.flatten().collect::<Vec<_>>()).into_owned()
}

#[test]
fn a_secret_reaches_the_program_and_is_kept_nowhere() {
    // A dump must not be compressed, or nothing could be found in it.
    let redis = Redis::options().set("rdbcompression", "no").start();
    let worker = Worker::on(&redis).config("[log]\nlevel = 'trace'").allow_exec().start();
    worker.wait_online();
    let (ctl, mut raw) = (Ctl::on(&redis), Raw::on(&redis));
    let file = ctl.write("token", &format!("{SECRET}\n"));
    let secret = format!("secret.TOKEN=@{}", file.display());
    let mut gate = Gate::new(&redis, "gate");
    // The program knows the secret, and shows that without printing it.
    let script = format!("{}; printf %s \"$TOKEN\" | tr a-z b-za", gate.script());

    let run =
        ctl.spawn(["run", "--host", "web1", "--follow", "exec", &secret, "env.OPEN=1", "--", "sh", "-c", &script]);
    gate.reached();
    let seen = kept(&redis);
    assert!(seen.contains("OPEN"), "what is kept in clear would be found");
    gate.open();
    let output = run.wait().expect(0);
    assert_eq!(output.stdout.trim(), "dpssfdu-ipstf-cbuufsz", "{output}");
    let shown = ctl.run(["job", "show", "last"]).expect(0);
    let json = ctl.run(["job", "show", "last", "-o", "json"]).expect(0);
    assert!(shown.stdout.contains("***") && json.json()["arguments"]["secret"] == "***", "{shown}\n{json}");

    for (place, text) in [
        ("Redis while it ran", seen),
        ("Redis afterwards", kept(&redis)),
        ("the worker's log", worker.log()),
        ("what ctl printed", format!("{output}{shown}{json}")),
    ] {
        assert!(!text.contains(SECRET), "in {place}");
    }
    raw.wait_settled("web1");
}

#[test]
fn no_error_quotes_a_secret() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).allow_exec().start();
    worker.wait_online();
    let ctl = Ctl::on(&redis);
    for (secret, says) in [
        (format!("secret={SECRET}"), "secret"),
        ("secret.TOKEN=@/no/such/file".to_owned(), "/no/such/file"),
        (format!("secret.TOKEN={}", SECRET.repeat(5000)), "secret"),
    ] {
        let output = ctl.run(["run", "--host", "web1", "exec", &secret, "--", "true"]);
        assert!(output.code != 0 && output.stderr.contains(says), "{output}");
        assert!(!format!("{output}{}", worker.log()).contains(SECRET), "{output}");
    }
    // What a careless controller sends in clear is refused, without quoting it.
    let mut raw = Raw::on(&redis);
    let value = Argument::Map([("TOKEN".to_owned(), SECRET.to_owned())].into());
    let mut clear = raw.exec(&["web1"], &["true"]);
    clear.arguments.insert("secret".into(), value);
    let outcome = raw.run("web1", &clear);
    assert_eq!(outcome.state, State::Rejected);
    assert!(!outcome.reason.expect("a reason").contains(SECRET));
    assert!(!worker.log().contains(SECRET));
}

#[test]
fn a_secret_that_was_exchanged_or_lost_is_refused() {
    let (_redis, _worker, mut raw) = fleet_with("");
    let value = |text: &str| {
        Arguments::from([("secret".to_owned(), Argument::Map([("TOKEN".to_owned(), text.to_owned())].into()))])
    };
    let (sealed, other) = (Secrets::seal(&value(SECRET)), Secrets::seal(&value("another")));
    for sent in [&other, &Secrets::default()] {
        let manifest = raw.exec(&["web1"], &["true"]);
        let manifest = Manifest { secrets: sealed.digests(), ..manifest };
        let fields: Vec<_> = Raw::envelope(&manifest, &["web1"]).fields().into_iter().chain(sent.field()).collect();
        raw.add("web1", &fields);
        let outcome = raw.outcome("web1", &manifest);
        assert_eq!(outcome.state, State::Rejected);
        assert!(outcome.reason.expect("a reason").contains("secret"));
    }
}

#[test]
fn a_lost_command_with_a_secret_is_redispatched_only_by_the_ctl_that_knows_it() {
    let redis = Redis::start();
    let ctl = Ctl::on(&redis);
    let mut worker = Worker::on(&redis).allow_exec().start();
    worker.wait_online();
    worker.terminate();
    let line = |more: &[&str]| {
        let words = ["run", "--host", "web1", "exec", "secret.TOKEN=x"].into_iter().chain(more.iter().copied());
        words.chain(["--", "sh", "-c", "echo $TOKEN"]).map(str::to_owned).collect::<Vec<_>>()
    };
    let job = ctl.run(line(&["--detach"])).expect(0).stdout.trim().to_owned();
    let waiting = ctl.spawn(["job", "wait", &job]);
    let running = ctl.spawn(line(&["--wait"]));
    let entries = || redis.cli(["XLEN", "server:{web1}:commands"]);
    eventually("both to be queued", || (entries() == "2").then_some(()));
    redis.cli(["FLUSHALL"]);
    waiting.wait_stderr("cannot be dispatched again");
    running.wait_stderr("dispatched again");
    let _worker = Worker::on(&redis).allow_exec().start();
    assert_eq!(running.wait().expect(0).stdout, "x\n");
}
