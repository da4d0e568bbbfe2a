//! Results are believed only if their host has signed them: an attacker can write anything to Redis.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use protocol::{
    name::{HostName, JobId},
    outcome::{Captured, Outcome, State},
    secret::digest,
    signed::Fields,
    statement::{self, Subject},
    trust::{
        signing::SigningKey,
        sshsig::{HOST, Signature},
    },
};
use redis::Connection;
use tests::{Ctl, Gate, Output, Raw, Redis, Worker, eventually, fleet_with_ctl};

/// Somebody who can write to Redis whatever they like.
struct Attacker {
    redis: Connection,
    key: SigningKey,
}

impl Attacker {
    fn of(redis: &Redis) -> Self {
        Self { redis: redis.blocking(), key: SigningKey::generate() }
    }

    fn result(&mut self, job: &str, host: &str) -> Fields {
        redis::cmd("HGETALL").arg(key(job, host)).query(&mut self.redis).expect("a hash")
    }

    /// Puts a result in the place of the one that is there, with its state and an event.
    fn put(&mut self, job: &str, host: &str, state: &str, fields: &Fields) {
        let mut pipe = redis::pipe();
        pipe.del(key(job, host)).hset(format!("job:{{{job}}}:hosts"), host, state);
        for (name, value) in fields {
            pipe.hset(key(job, host), name, value);
        }
        let event = [("host", host), ("state", state)];
        pipe.xadd(format!("job:{{{job}}}:events"), "*", &event);
        pipe.query::<()>(&mut self.redis).expect("the attacker may do that");
    }

    /// A result as good as the attacker can make it: signed, but by their own key.
    fn forged(&mut self, job: &str, host: &str, output: &str) -> Fields {
        let manifest: Vec<u8> =
            redis::cmd("HGET").arg(format!("job:{{{job}}}")).arg("manifest").query(&mut self.redis).expect("a job");
        let stdout = Captured { kept: output.into(), written_bytes: output.len() as u64, cut_bytes: 0 };
        let outcome = Outcome {
            exit_code: Some(0),
            started_at_ms: Some(1_790_000_000_000),
            stdout,
            ..Outcome::bare(State::Succeeded, None, 1_790_000_000_001)
        };
        let host: HostName = host.parse().expect("a name");
        let job: JobId = job.parse().expect("an id");
        let about = Subject { namespace: None, job, host: &host, manifest: Some(digest(&manifest)), unverified: None };
        let fields = statement::fields(&outcome, &about, &self.key);
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn key(job: &str, host: &str) -> String {
    format!("job:{{{job}}}:result:{host}")
}

/// A job that has failed on web1, which `ctl` has seen.
fn failed(ctl: &Ctl) -> String {
    let output = ctl.run(["run", "--host", "web1", "-o", "json", "exec", "--", "sh", "-c", "echo truth; exit 3"]);
    output.expect(2).json()["job"].as_str().expect("an id").to_owned()
}

/// Looks at the job in every way. Nothing shows it as a success, or prints what it claims; each names the reason.
#[track_caller]
fn disbelieved(ctl: &Ctl, job: &str, reason: &str) {
    let shown = |output: &Output| {
        let all = output.to_string();
        assert!(!all.contains("succeeded") && !all.contains("forged"), "{all}");
        assert!(all.contains("unverified") && all.contains(reason), "no '{reason}': {all}");
    };
    shown(&ctl.run(["job", "wait", job]).expect(2));
    shown(&ctl.run(["job", "logs", job]));
    shown(&ctl.run(["job", "logs", "-f", job]).expect(2));
    shown(&ctl.run(["job", "logs", "-o", "json", job]));
    shown(&ctl.run(["job", "show", job]));
    for words in [&["job", "wait", job, "-o", "json"], &["job", "wait", job, "-o", "jsonl"]] {
        let output = ctl.run(words).expect(2);
        shown(&output);
        let value = serde_json::from_str(output.stdout.lines().next().filter(|line| line.len() > 1).unwrap_or("null"));
        let result: serde_json::Value = value
            .ok()
            .filter(|value| *value != serde_json::Value::Null)
            .unwrap_or_else(|| output.json()["hosts"][0].clone());
        assert_eq!((&result["state"], &result["exit_code"]), (&"unverified".into(), &serde_json::Value::Null));
        assert_eq!((&result["stdout"], &result["data"]), (&"".into(), &serde_json::Value::Null));
    }
    let list = ctl.run(["job", "list", "-o", "json"]).expect(0).json();
    let listed = list.as_array().expect("jobs").iter().find(|one| one["job"] == job).expect("the job");
    assert_eq!(listed["states"], serde_json::json!({ "unverified": 1 }));
    let failed = ctl.run(["job", "list", "--failed", "-o", "json"]).expect(0).json();
    assert!(failed.as_array().expect("jobs").iter().any(|one| one["job"] == job));
}

#[test]
fn a_forged_result_is_never_shown_as_true_and_the_other_key_is_an_alarm() {
    let (redis, _worker, ctl) = fleet_with_ctl("");
    let mut attacker = Attacker::of(&redis);
    let job = failed(&ctl);
    let forged = attacker.forged(&job, "web1", "forged\n");
    attacker.put(&job, "web1", "succeeded", &forged);
    disbelieved(&ctl, &job, "signed by the key SHA256:");
    let output = ctl.run(["job", "wait", "-q", &job]).expect(2);
    assert!(output.stderr.contains("THE HOST KEY OF web1 HAS CHANGED!"), "{output}");
    assert!(output.stderr.contains(&attacker.key.fingerprint()), "{output}");
}

/// Whoever writes to Redis claims that a command has ended, so that nobody ends it.
#[test]
fn a_forged_end_keeps_no_command_from_being_cancelled() {
    let (redis, worker, ctl) = fleet_with_ctl("");
    let mut attacker = Attacker::of(&redis);
    failed(&ctl);
    let mut gate = Gate::new(&redis, "gate");
    let job = ctl.dispatch("web1", &gate.script());
    gate.reached();
    let forged = attacker.forged(&job, "web1", "forged\n");
    attacker.put(&job, "web1", "succeeded", &forged);
    let output = ctl.run(["job", "cancel", &job]).expect(2);
    assert!(output.stderr.contains("web1: the order to cancel was sent, but whether it was obeyed"), "{output}");
    assert!(output.stderr.contains("unverified: it is signed by the key"), "{output}");
    worker.wait_log("cancelled");
}

#[test]
fn a_forged_result_that_comes_before_the_true_one_is_not_believed_either() {
    let (redis, worker, ctl) = fleet_with_ctl("");
    let mut attacker = Attacker::of(&redis);
    failed(&ctl);
    for (words, code) in [
        (&["run", "--host", "web1", "ping"][..], 2),
        (&["run", "--host", "web1", "-f", "exec", "--", "true"], 2),
        (&["exec", "web1", "--", "true"], 255),
    ] {
        let before: usize = redis.cli(["ZCARD", "jobs"]).trim().parse().expect("a number");
        worker.stop();
        let running = ctl.spawn(words);
        let job = eventually("the job", || {
            let jobs = redis.cli(["ZRANGE", "jobs", "0", "-1"]);
            jobs.lines().nth(before).map(str::to_owned)
        });
        let forged = attacker.forged(&job, "web1", "forged\n");
        attacker.put(&job, "web1", "succeeded", &forged);
        let output = running.wait().expect(code);
        assert!(output.stderr.contains("THE HOST KEY OF web1 HAS CHANGED!"), "{output}");
        assert!(output.to_string().contains("unverified: it is signed by the key"), "{output}");
        assert!(!output.to_string().contains("succeeded") && !output.stdout.contains("forged"), "{output}");
        worker.cont();
    }
}

#[test]
fn an_altered_byte_of_any_field_is_noticed() {
    let (redis, _worker, ctl) = fleet_with_ctl("");
    let mut attacker = Attacker::of(&redis);
    let job = failed(&ctl);
    let whole = attacker.result(&job, "web1");
    for (name, step) in [("statement", 9), ("signature", 11), ("stdout", 3)] {
        for at in (0..whole[name].len()).step_by(step) {
            let mut altered = whole.clone();
            altered.get_mut(name).expect("the field")[at] ^= 1;
            attacker.put(&job, "web1", "succeeded", &altered);
            let output = ctl.run(["job", "wait", &job, "-o", "json"]).expect(2);
            assert_eq!(output.json()["hosts"][0]["state"], "unverified", "{name}, byte {at}: {output}");
        }
    }
    let mut altered = whole.clone();
    altered.get_mut("statement").expect("the field")[40] ^= 1;
    attacker.put(&job, "web1", "succeeded", &altered);
    disbelieved(&ctl, &job, "it was altered");

    // What is there for people only changes nothing.
    let mut altered = whole.clone();
    altered.insert("status".into(), b"succeeded".to_vec());
    altered.insert("exit_code".into(), b"0".to_vec());
    attacker.put(&job, "web1", "succeeded", &altered);
    let output = ctl.run(["job", "wait", &job, "-o", "json"]).expect(2).json();
    assert_eq!((&output["hosts"][0]["state"], &output["hosts"][0]["exit_code"]), (&"failed".into(), &3.into()));
    let list = ctl.run(["job", "list", "-o", "json"]).expect(0).json();
    assert_eq!(list[0]["states"], serde_json::json!({ "failed": 1 }), "the list goes by what is signed");
}

#[test]
fn a_result_without_a_signature_and_a_state_without_a_result_are_not_believed() {
    let (redis, _worker, ctl) = fleet_with_ctl("");
    let mut attacker = Attacker::of(&redis);
    let job = failed(&ctl);
    let mut bare = attacker.forged(&job, "web1", "forged\n");
    bare.remove("signature");
    attacker.put(&job, "web1", "succeeded", &bare);
    disbelieved(&ctl, &job, "it is not signed");
    bare.insert("signature".into(), b"SSHSIG".to_vec());
    attacker.put(&job, "web1", "succeeded", &bare);
    disbelieved(&ctl, &job, "its signature is malformed");
    attacker.put(&job, "web1", "succeeded", &Fields::new());
    disbelieved(&ctl, &job, "there is no field 'statement'");
}

#[test]
fn a_result_of_another_host_or_job_or_purpose_is_not_believed() {
    let (redis, worker, ctl) = fleet_with_ctl("");
    let other = Worker::on(&redis).host("web2").allow_exec().start();
    other.wait_online();
    let mut attacker = Attacker::of(&redis);
    let job = failed(&ctl);
    let good = ctl.run(["run", "--all", "-o", "json", "exec", "--", "echo", "forged"]).expect(0).json();
    let good = good["job"].as_str().expect("an id");

    let replayed = attacker.result(good, "web1");
    attacker.put(&job, "web1", "succeeded", &replayed);
    disbelieved(&ctl, &job, "about another command");
    let copied = attacker.result(good, "web2");
    attacker.put(&job, "web1", "succeeded", &copied);
    disbelieved(&ctl, &job, "signed by the key");
    // Both hosts may have the same key, if their machines were copied.
    let known = ctl.home().join(".config/redfleet/known_hosts");
    let text = fs::read_to_string(&known).expect("known hosts");
    let web2 = text.lines().find_map(|line| line.strip_prefix("web2 ")).expect("web2");
    fs::write(&known, format!("{text}web1 {web2}\n")).expect("a file");
    disbelieved(&ctl, &job, "about another command");
    // The same job, which has succeeded on web2 alone.
    let split = ["run", "--all", "-o", "json", "exec", "--", "sh", "-c", "test $REDFLEET_HOST = web2"];
    let split = ctl.run(split).expect(2).json()["job"].as_str().expect("an id").to_owned();
    let copied = attacker.result(&split, "web2");
    attacker.put(&split, "web1", "succeeded", &copied);
    let hosts = ctl.run(["job", "wait", &split, "-o", "json"]).expect(2).json()["hosts"].clone();
    let state = |host| hosts.as_array()?.iter().find(|one| one["host"] == host)?["state"].as_str();
    assert_eq!((state("web1"), state("web2")), (Some("unverified"), Some("succeeded")));

    // The host's own key signs other things, too, if it is the one of the SSH server.
    let own = fs::read(worker.options().directory().join("state/host_key")).expect("a key");
    let own = SigningKey::from_openssh(&own).expect("a key");
    let mut signed = attacker.forged(&job, "web1", "forged\n");
    let signature = own.sign("file", &signed["statement"]);
    signed.insert("signature".into(), signature);
    attacker.put(&job, "web1", "succeeded", &signed);
    disbelieved(&ctl, &job, "made for another purpose");
}

/// Whoever can write to Redis can write events of any job. They report that something has happened; what is shown as
/// true is what the host has signed.
#[test]
fn attack_injecting_into_the_events_of_another_job() {
    let (redis, _worker, ctl) = fleet_with_ctl("");
    let mut gate = Gate::new(&redis, "gate");
    let run = ctl.spawn(["run", "--host", "web1", "exec", "--", "sh", "-c", &format!("{}; exit 3", gate.script())]);
    gate.reached();
    let job = redis.cli(["ZRANGE", "jobs", "0", "-1"]).trim().to_owned();
    let events = format!("job:{{{job}}}:events");
    let mut pipe = redis::pipe();
    for (host, field, value) in [
        ("web1", "state", "succeeded"),
        ("web1", "state", "cancelled"),
        ("web1", "state", "nonsense"),
        ("web9", "state", "succeeded"),
        ("\u{1b}[2J", "state", "failed"),
        ("web1", "waits_for", "\u{1b}[2Jforged"),
        ("web1", "progress", "\u{1b}[2Jforged"),
    ] {
        pipe.xadd(&events, "*", &[("host", host), (field, value)]);
    }
    pipe.xadd(&events, "*", &[("garbage", [0xff_u8; 9].as_slice())]);
    let before = redis.calls("hgetall");
    assert!(before > 0, "ctl has read hashes");
    pipe.query::<()>(&mut redis.blocking()).expect("the attacker may do that");
    // The results of the ends that the events name are looked for, and are not there.
    eventually("ctl to look", || (redis.calls("hgetall") >= before + 2).then_some(()));
    gate.open();
    let output = run.wait().expect(2);
    assert!(output.stderr.contains("web1: failed") && output.stderr.contains("exit code 3"), "{output}");
    let all = output.to_string();
    assert!(!all.contains("succeeded") && !all.contains("cancelled") && !all.contains("web9"), "{all}");
    assert!(!all.contains('\u{1b}'), "{all}");
}

#[test]
fn the_refusal_of_another_command_with_the_jobs_id_is_not_the_jobs_end() {
    let (redis, mut worker, ctl) = fleet_with_ctl("");
    failed(&ctl);
    let mut raw = Raw::on(&redis);
    worker.terminate();
    let job = ctl.dispatch("web1", "echo truth");
    redis.cli(["DEL", "server:{web1}:commands"]);
    let mut forged = raw.manifest(&["web1"], "nonsense");
    forged.job = job.parse().expect("an id");
    raw.send("web1", &forged);
    let worker = worker.options().start();
    worker.wait_online();
    raw.wait_state("web1", &forged, State::Rejected);
    let output = ctl.run(["job", "wait", &job]).expect(2).to_string();
    assert!(output.contains("unverified") && output.contains("another command with the id of this job"), "{output}");
    assert!(!output.contains("nonsense"), "{output}");
}

#[test]
fn a_host_is_known_from_its_first_result_on_until_it_is_forgotten() {
    let (_redis, mut worker, ctl) = fleet_with_ctl("");
    let file = ctl.home().join(".config/redfleet/known_hosts");
    let ping = ["run", "--host", "web1", "ping"];
    let first = ctl.run(ping).expect(0);
    assert!(first.stderr.contains("web1: its host key SHA256:"), "{first}");
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    let second = ctl.run(ping).expect(0);
    assert!(!second.stderr.contains("host key"), "{second}");

    // Another key: the state directory of the host was lost, or it is another machine.
    worker.terminate();
    let key_file = worker.options().directory().join("state/host_key");
    fs::remove_file(&key_file).expect("a key");
    let worker = worker.options().start();
    worker.wait_online();
    let changed = ctl.run(ping).expect(2);
    assert!(changed.stderr.contains("HAS CHANGED!") && changed.stderr.contains("web1: unverified"), "{changed}");
    let shown = ctl.run(["host", "key", "web1"]).expect(0);
    assert!(shown.stderr.contains("another key than the trusted one"), "{shown}");
    let object = ctl.run(["host", "key", "web1", "-o", "json"]).expect(0).json();
    let published = object["published"]["fingerprint"].as_str().expect("a fingerprint").to_owned();
    assert_ne!(object["known"][0]["fingerprint"], published.as_str());

    // To pin is a decision: the right fingerprint, a key, or a yes.
    let pin = |key: &str| ctl.run(["host", "key", "web1", key]);
    let wrong = pin("--pin=SHA256:wrong").expect(1);
    assert!(wrong.stderr.contains(&published), "{wrong}");
    pin("--pin").expect(1);
    ctl.run(ping).expect(2);
    pin(&format!("--pin={published}")).expect(0);
    ctl.run(ping).expect(0);
    let own = SigningKey::from_openssh(&fs::read(&key_file).expect("a key")).expect("a key");
    pin(&format!("--pin={}", SigningKey::generate().line())).expect(0);
    ctl.run(ping).expect(2);
    pin(&format!("--pin={}", own.line())).expect(0);
    ctl.run(ping).expect(0);
    assert!(ctl.run(["host", "show", "web1"]).expect(0).stdout.contains(&own.fingerprint()));

    let pinned = ctl.run(["host", "key", "web1", &format!("--pin={}", own.line()), "-o", "json"]).expect(0).json();
    assert_eq!(pinned["pinned"]["fingerprint"], own.fingerprint());
    let forgotten = ctl.run(["host", "key", "web1", "--forget", "-o", "json"]).expect(0).json();
    assert_eq!(forgotten["forgotten"][0]["fingerprint"], own.fingerprint());
    ctl.run(["host", "key", "web1", "--forget"]).expect(1);
    let again = ctl.run(ping).expect(0);
    assert!(again.stderr.contains(&own.fingerprint()), "{again}");
}

/// Whoever writes to Redis has any host say anything: who only looks must not know their keys from then on.
#[test]
fn a_mere_look_makes_no_key_known() {
    let (redis, _worker, ctl) = fleet_with_ctl("");
    let mut attacker = Attacker::of(&redis);
    let job = failed(&ctl);
    let known = ctl.home().join(".config/redfleet/known_hosts");
    let before = fs::read_to_string(&known).expect("known hosts");
    for host in ["db1", "web1"] {
        let forged = attacker.forged(&job, host, "forged\n");
        attacker.put(&job, host, "succeeded", &forged);
    }
    let listed = ctl.run(["job", "list", "-o", "json"]).expect(0);
    assert!(listed.stderr.contains("THE HOST KEY OF web1 HAS CHANGED!"), "{listed}");
    assert_eq!(listed.json()[0]["states"]["unverified"], 1, "{listed}");
    assert_eq!(fs::read_to_string(&known).expect("known hosts"), before);
    // Who knows nobody sees what hosts have signed, and still knows nobody.
    let stranger = Ctl::on(&redis);
    let listed = stranger.run(["job", "list", "-o", "json"]).expect(0);
    assert_eq!(listed.json()[0]["states"], serde_json::json!({ "succeeded": 2 }), "{listed}");
    for words in [&["job", "show", &job][..], &["job", "logs", &job], &["job", "list"]] {
        let looked = stranger.run(words).expect(0);
        assert!(!looked.stderr.contains("host key"), "{looked}");
    }
    assert!(!stranger.home().join(".config/redfleet/known_hosts").exists());
    // To wait for it does.
    assert!(stranger.run(["job", "wait", &job]).stderr.contains("its host key"));
}

#[test]
fn who_cannot_be_recorded_is_not_believed_and_an_odd_file_is_refused() {
    let (_redis, _worker, ctl) = fleet_with_ctl("");
    let nowhere = ctl.clone().env("REDFLEET_KNOWN_HOSTS", "/proc/known_hosts");
    let output = nowhere.run(["run", "--host", "web1", "ping"]).expect(2);
    assert!(output.to_string().contains("is not known, and cannot be recorded"), "{output}");
    let file = ctl.write("hosts", "web1 ssh-rsa AAAA\n");
    let odd = ctl.clone().env("REDFLEET_KNOWN_HOSTS", file.to_str().expect("text"));
    let output = odd.run(["run", "--host", "web1", "ping"]).expect(1);
    assert!(output.stderr.contains("hosts, line 1: the key of a host is of type ssh-ed25519"), "{output}");
    assert_eq!(fs::read_to_string(file).expect("the file"), "web1 ssh-rsa AAAA\n");
}

#[test]
fn several_at_once_get_to_know_all_hosts() {
    let redis = Redis::start();
    let names = ["web1", "web2", "web3"];
    let workers = names.map(|host| Worker::on(&redis).host(host).start());
    workers.iter().for_each(Worker::wait_online);
    let ctl = Ctl::on(&redis);
    let running: Vec<_> = (0..6).map(|place| ctl.spawn(["run", "--host", names[place % 3], "ping"])).collect();
    for one in running {
        one.wait().expect(0);
    }
    let text = fs::read_to_string(ctl.home().join(".config/redfleet/known_hosts")).expect("known hosts");
    assert_eq!(text.lines().count(), 3, "{text}");
    ctl.run(["run", "--all", "ping"]).expect(0);
}

#[test]
fn the_host_key_is_made_once_shown_and_never_replaced() {
    let redis = Redis::start();
    let mut worker = Worker::on(&redis).start();
    worker.wait_online();
    let file = worker.options().directory().join("state/host_key");
    let text = fs::read(&file).expect("a key");
    let key = SigningKey::from_openssh(&text).expect("a key");
    let facts = worker.hash(protocol::keys::Keys::facts).expect("facts");
    assert_eq!(facts["host_key"], key.line());
    let options = worker.options();
    let check = |expected: i32, words: &str| {
        let config = options.directory().join("worker.toml");
        let output = Command::new(tests::binary("worker")).arg("--config").arg(config).arg("--check-config").output();
        let output = output.expect("the worker starts");
        let all = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.code() == Some(expected) && all.contains(words), "{all}");
    };
    check(0, &key.fingerprint());
    assert_eq!(worker.terminate().code(), Some(0));
    options.start().terminate();
    assert_eq!(fs::read(&file).expect("a key"), text);

    let refused = |words: &str| {
        let mut worker = options.start();
        assert_eq!(worker.wait().code(), Some(64));
        assert!(worker.log().contains(words), "{}", worker.log());
        check(64, words);
    };
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("a mode");
    refused("chmod 600");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
    fs::write(&file, "broken").expect("a file");
    refused("holds no private key");
    assert_eq!(fs::read(&file).expect("a file"), b"broken");
}

#[test]
fn ssh_keygen_verifies_what_a_host_states_with_a_key_that_it_has_made() {
    let redis = Redis::start();
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("text").to_owned();
    let keygen = |arguments: &[&str], input: &[u8]| {
        let mut command = Command::new("ssh-keygen");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("ssh-keygen");
        child.stdin.take().expect("piped").write_all(input).expect("it reads");
        child.wait_with_output().expect("it ends")
    };
    assert!(keygen(&["-q", "-t", "ed25519", "-N", "", "-f", &path("key")], b"").status.success());
    let worker = Worker::on(&redis).config(&format!("host_key = '{}'", path("key"))).start();
    worker.wait_online();
    assert!(!worker.options().directory().join("state/host_key").exists());
    let ctl = Ctl::on(&redis);
    let job = ctl.run(["run", "--host", "web1", "-o", "json", "ping"]).expect(0).json();
    let fields = Attacker::of(&redis).result(job["job"].as_str().expect("an id"), "web1");

    let public = fs::read_to_string(path("key.pub")).expect("a public key");
    fs::write(path("signers"), format!("web1 namespaces=\"{HOST}\" {public}")).expect("a file");
    let signature = Signature::from_bytes(&fields["signature"]).expect("a signature");
    fs::write(path("sig"), signature.to_pem()).expect("a file");
    let (signers, sig) = (path("signers"), path("sig"));
    let verify = ["-Y", "verify", "-f", &signers, "-I", "web1", "-n", HOST, "-s", &sig];
    let verified = keygen(&verify, &fields["statement"]);
    assert!(verified.status.success(), "{verified:?}");
    assert!(!keygen(&verify, b"something else").status.success());
}
