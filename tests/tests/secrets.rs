//! Secret arguments reach the program of their host and nothing else.

use std::fs;

use protocol::{
    action::{Argument, Arguments},
    command::Manifest,
    outcome::State,
    sealing::{SealedKey, SealingKey, UnsealingKey},
    secret::JobKey,
    signed::Signed,
    trust::{signing::SigningKey, sshsig::HOST},
};
use tests::{
    Ctl, Evidence, Gate, Raw, Redis, Worker, eventually, fleet, fleet_with_ctl, renewed,
    search::{assert_hidden, command_lines, contains, files, kept},
};

const SECRET: &str = "tin-opener-and-lamp";

/// For the one test that reads the command lines of the whole machine: no other test may put it into one.
const HIDDEN: &str = "correct-horse-battery";

const INBOX: &str = "server:{web1}:commands";

fn token(value: &str) -> Arguments {
    Arguments::from([("secret".to_owned(), Argument::Map([("TOKEN".to_owned(), value.to_owned())].into()))])
}

#[test]
fn a_secret_reaches_the_program_and_is_nowhere_else() {
    // What is compressed could not be searched.
    let redis = Redis::options().set("rdbcompression", "no").start();
    let worker = Worker::on(&redis).config("[log]\nlevel = 'trace'").allow_exec().start();
    worker.wait_online();
    let (ctl, mut raw) = (Ctl::on(&redis), Raw::on(&redis));
    let file = ctl.write("token", &format!("{HIDDEN}\n"));
    let secret = format!("secret.TOKEN=@{}", file.display());
    let mut gate = Gate::new(&redis, "gate");
    // The program knows the secret, and shows that without printing it.
    let script = format!(": x-x-x; {}; printf %s \"$TOKEN\" | tr a-z b-za", gate.script());

    let run = ctl.spawn(["run", "--host", "web1", "--follow", "exec", &secret, "--", "sh", "-c", &script]);
    gate.reached();
    let (inside, ps) = (kept(&redis), command_lines());
    redis.cli(["SAVE"]);
    gate.open();
    let output = run.wait().expect(0);
    assert_eq!(output.stdout.trim(), "dpssfdu-ipstf-cbuufsz", "{output}");
    let shown = ctl.run(["job", "show", "last"]).expect(0);
    let json = ctl.run(["job", "show", "last", "-o", "json"]).expect(0);
    assert!(shown.stdout.contains("***") && json.json()["arguments"]["secret"] == "***", "{shown}\n{json}");
    let written = ctl.home().join("written");
    ctl.run(["job", "show", "last", "--raw", written.to_str().expect("text")]).expect(0);
    raw.wait_settled("web1");

    assert!(contains(&fs::read(redis.directory().join("dump.rdb")).expect("a dump"), "x-x-x"), "a dump was written");
    let places = [
        ("Redis while it ran", inside),
        ("Redis afterwards", kept(&redis)),
        ("the files of Redis", files(redis.directory())),
        ("the files of the worker", files(&worker.options().directory())),
        ("the worker's log", worker.log().into_bytes()),
        ("what ctl wrote", files(&written)),
        ("what ctl printed", format!("{output}{shown}{json}").into_bytes()),
        ("ps", ps),
    ];
    assert_hidden(&places, "x-x-x", &[HIDDEN]);
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
    let mut clear = raw.exec(&["web1"], &["true"]);
    clear.arguments.extend(token(SECRET));
    let outcome = raw.run("web1", &clear);
    assert_eq!(outcome.state, State::Rejected);
    assert!(!outcome.reason.expect("a reason").contains(SECRET));
    assert!(!worker.log().contains(SECRET));
}

#[test]
fn attack_exchanging_the_key_of_secrets() {
    let (redis, worker, mut raw) = fleet();
    let web2 = Worker::on(&redis).host("web2").allow_exec().start();
    web2.wait_online();
    let evidence = Evidence::new(&redis, "evidence");
    let script = evidence.script();
    let mut job = |value: &str| {
        let manifest = raw.shell("web1", &script);
        raw.seal("web1", manifest, token(value))
    };
    let (asked, own) = job(SECRET);
    let (other, others) = job("another");
    let for_web2 = raw.sealing_key("web2").seal(&JobKey::generate(), &manifest_digest(&asked));
    let altered = |at: usize| {
        let mut bytes = own.as_bytes().to_vec();
        bytes[at] ^= 1;
        SealedKey::from_bytes(bytes)
    };
    // Whoever is trusted, but does not know the secret, puts it into a job of their own.
    let stolen = renewed(Manifest { sealed: asked.sealed.clone(), ..raw.shell("web1", &script) });
    let resealed = raw.sealing_key("web1").seal(&JobKey::generate(), &manifest_digest(&other));
    for (manifest, key, expected) in [
        (&asked, Some(&others), "belongs to another command"),
        (&stolen, Some(&own), "belongs to another command"),
        (&renewed(asked.clone()), Some(&for_web2), "is not sealed to this host's sealing key"),
        (&renewed(asked.clone()), Some(&altered(0)), "is not sealed to this host's sealing key"),
        (&renewed(asked.clone()), Some(&altered(111)), "is not sealed to this host's sealing key"),
        (&renewed(asked.clone()), Some(&SealedKey::from_bytes(vec![7; 113])), "has 113 bytes"),
        (&renewed(asked.clone()), None, "is missing"),
        (&other, Some(&resealed), "do not open with their key"),
    ] {
        match key {
            Some(key) => raw.send_sealed("web1", manifest, key),
            None => raw.send("web1", manifest),
        };
        let outcome = raw.outcome("web1", manifest);
        let reason = outcome.reason.expect("a reason");
        assert_eq!(outcome.state, State::Rejected, "{expected}: {reason}");
        assert!(reason.contains(expected) && !reason.contains(SECRET), "{expected}: {reason}");
    }
    // A replay runs nothing twice.
    let (good, key) = {
        let manifest = raw.shell("web1", &script);
        raw.seal("web1", manifest, token(SECRET))
    };
    raw.send_sealed("web1", &good, &key);
    assert_eq!(raw.outcome("web1", &good).state, State::Succeeded);
    raw.send_sealed("web1", &good, &key);
    raw.send_sealed("web1", &good, &others);
    raw.ping("web1");
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 1, "only what is whole has run, and once");
    assert!(!worker.log().contains(SECRET));
}

fn manifest_digest(manifest: &Manifest) -> protocol::secret::Digest {
    protocol::secret::digest(&Signed::unsigned(manifest).bytes)
}

#[test]
fn attack_having_secrets_sealed_to_another_key() {
    let (redis, _worker, ctl) = fleet_with_ctl("");
    let web2 = Worker::on(&redis).host("web2").allow_exec().start();
    web2.wait_online();
    ctl.run(["run", "--host", "web1", "ping"]).expect(0);
    let facts = "server:{web1}:facts";
    let true_one = redis.cli(["HGET", facts, "sealing_key"]);
    let public = UnsealingKey::generate().public(None, "web1".parse().expect("a name"));
    let signed = Signed::unsigned(&public);
    let signature = SigningKey::generate().sign(HOST, &signed.bytes);
    let signature_for_results = SealingKey::from_fact(&true_one).expect("a document").signature;
    let of_web2 = redis.cli(["HGET", "server:{web2}:facts", "sealing_key"]);
    let sent = redis.cli(["XLEN", INBOX]);
    for (fact, expected) in [
        (SealingKey::to_fact(&signed.clone().with_signature(signature)), "THE HOST KEY OF web1 HAS CHANGED"),
        (of_web2, "THE HOST KEY OF web1 HAS CHANGED"),
        (SealingKey::to_fact(&signed.clone().with_signature(signature_for_results)), "cannot be trusted"),
        (SealingKey::to_fact(&signed), "cannot be trusted"),
        ("garbage".to_owned(), "publishes no sealing key"),
    ] {
        redis.cli(["HSET", facts, "sealing_key", &fact]);
        let secret = format!("secret.TOKEN={SECRET}");
        let output = ctl.run(["run", "--host", "web1", "exec", &secret, "--", "true"]).expect(1);
        assert!(output.stderr.contains("nothing was sent") && output.stderr.contains(expected), "{expected}: {output}");
        assert!(!output.to_string().contains(SECRET), "{output}");
    }
    assert_eq!(redis.cli(["XLEN", INBOX]), sent);
    // What needs no secret does not ask for the key.
    ctl.run(["run", "--host", "web1", "ping"]).expect(0);
    redis.cli(["HSET", facts, "sealing_key", &true_one]);
    ctl.run(["run", "--host", "web1", "exec", "secret.TOKEN=x", "--", "true"]).expect(0);
}

#[test]
fn a_host_may_have_another_sealing_key() {
    let (_redis, mut worker, ctl) = fleet_with_ctl("");
    let run = |more: &[&str]| {
        let words = ["run", "--host", "web1"].into_iter().chain(more.iter().copied());
        ctl.run(words.chain(["exec", "secret.TOKEN=x", "--", "sh", "-c", "echo $TOKEN"]))
    };
    assert_eq!(run(&[]).expect(0).stdout, "x\n");
    worker.terminate();
    let job = run(&["--detach"]).expect(0).stdout.trim().to_owned();
    let file = worker.options().directory().join("state/sealing_key");
    fs::remove_file(file).expect("the key");
    let worker = worker.options().start();
    worker.wait_online();
    let late = ctl.run(["job", "wait", &job]).expect(2);
    assert!(
        late.to_string().contains("is not sealed to this host's sealing key, or was altered; send it anew"),
        "{late}"
    );
    // The host's key vouches for the new one.
    assert_eq!(run(&[]).expect(0).stdout, "x\n");
}

#[test]
fn a_lost_command_with_a_secret_is_redispatched_by_anybody() {
    let redis = Redis::start();
    let [ctl, another] = [(); 2].map(|()| Ctl::on(&redis));
    let mut worker = Worker::on(&redis).allow_exec().start();
    worker.wait_online();
    worker.terminate();
    let words = ["run", "--host", "web1", "--detach", "exec", "secret.TOKEN=x", "--", "sh", "-c", "echo $TOKEN"];
    let dispatch = || ctl.run(words).expect(0).stdout.trim().to_owned();
    let (job, keyless) = (dispatch(), dispatch());
    redis.cli(["DEL", &format!("job:{{{keyless}}}:keys")]);
    let waiting = another.spawn(["job", "wait", &job]);
    let hopeless = another.spawn(["job", "wait", &keyless]);
    let blocked = || redis.cli(["INFO", "clients"]).contains("blocked_clients:2");
    eventually("both to wait", || blocked().then_some(()));
    redis.cli(["FLUSHALL"]);
    waiting.wait_stderr("dispatched again");
    hopeless.wait_stderr("cannot be dispatched again");
    let _worker = worker.options().start();
    assert_eq!(waiting.wait().expect(0).stdout, "x\n");
}
