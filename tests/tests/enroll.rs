//! A host is enrolled with one script; who is trusted reaches hosts in commands of those who are trusted already.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use redis::Client;
use tests::{Authority, Ctl, Output, Redis, Signatory, Worker, WorkerOptions, eventually, operator, skipped};

/// `ctl` of somebody with the key of this seed; 1 is the operator's.
fn ctl_of(redis: &Redis, name: &str, seed: u8) -> Ctl {
    let ctl = Ctl::on(redis).env("REDFLEET_OPERATOR", name);
    let key = ctl.write(".config/redfleet/key", &Signatory::new(seed).private_key());
    fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
    ctl
}

/// The file of this key's public half.
fn public_key(ctl: &Ctl, name: &str, seed: u8) -> String {
    let line = Signatory::new(seed).line("", "");
    ctl.write(name, line.trim_start()).to_str().unwrap().to_owned()
}

/// A worker that lets ann change whom it trusts.
fn changeable(redis: &Redis, host: &str) -> WorkerOptions {
    let policy = "[[policy]]\nwho = ['*']\nactions = ['ping']\n[[policy]]\nwho = ['ann']\nactions = ['set-trust']";
    let options = Worker::on(redis).host(host).config(policy);
    options.trust(&version(1, &[("ann", 1)]));
    options
}

/// A trust file.
fn version(version: u64, lines: &[(&str, u8)]) -> String {
    let lines = lines.iter().map(|(name, seed)| Signatory::new(*seed).line(name, ""));
    format!("# version: {version}\n{}", lines.collect::<String>())
}

fn ping(ctl: &Ctl, host: &str) -> Output {
    ctl.run(["run", "--host", host, "ping"])
}

fn set_trust(ctl: &Ctl, signers: &str, more: &[&str]) -> Output {
    let signers = format!("signers={signers}");
    ctl.run(["run", "--host", "web1", "set-trust", &signers].iter().chain(more).copied())
}

fn copy_of(ctl: &Ctl) -> PathBuf {
    ctl.home().join(".config/redfleet/fleet/allowed_signers")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Runs a script of `ctl host enroll` with its files below `root`.
fn install(script: &Path, root: &Path) -> String {
    let run = Command::new("sh").arg(script).env("DESTDIR", root).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

#[test]
fn an_enrolled_host_obeys_its_operator_and_nobody_else() {
    let redis = Redis::start();
    let administrator = ctl_of(&redis, "ann", 1).env("REDFLEET_REDIS", &redis.url());
    let enrolled = administrator.run(["host", "enroll", "web7", "--out", "web7.sh", "--apply-acl"]).expect(0);
    let (script, root) = (administrator.home().join("web7.sh"), administrator.home().join("root"));
    assert_eq!(mode(&script), 0o600);
    match Command::new("shellcheck").arg(&script).stdin(Stdio::null()).output() {
        Ok(checked) => assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout)),
        Err(error) => skipped("shellcheck", &error.to_string()),
    }

    install(&script, &root);
    let settings = root.join("etc/redfleet/worker.toml");
    let password = fs::read_to_string(root.join("etc/redfleet/redis-password")).unwrap();
    assert_eq!((password.trim().len(), mode(&root.join("etc/redfleet/redis-password"))), (64, 0o600));
    assert!(!enrolled.to_string().contains(password.trim()));
    assert_eq!(
        fs::read(root.join("etc/redfleet/allowed_signers")).unwrap(),
        fs::read(copy_of(&administrator)).unwrap()
    );
    assert!(
        fs::read_to_string(root.join("etc/systemd/system/redfleet-worker.service")).unwrap().contains("Restart=always")
    );
    // What somebody has changed stays when it runs again.
    let changed = fs::read_to_string(&settings).unwrap() + "# changed\n";
    fs::write(&settings, &changed).unwrap();
    assert!(install(&script, &root).contains(&format!("left as it is: {}", settings.display())));
    assert_eq!(fs::read_to_string(&settings).unwrap(), changed);

    let worker = Worker::on(&redis).host("web7").enrolled(&root).start();
    worker.wait_online();
    let mut connection = Client::open(redis.url()).unwrap().get_connection().unwrap();
    let clients: String = redis::cmd("CLIENT").arg("LIST").query(&mut connection).unwrap();
    assert!(clients.contains("user=worker-web7"), "{clients}");
    let ann = ctl_of(&redis, "ann", 1);
    ping(&ann, "web7").expect(0);
    assert!(ann.run(["run", "--host", "web7", "exec", "--", "true"]).expect(1).stderr.contains("exec"));
    for (name, seed) in [("ann", 2), ("bob", 1), ("bob", 2)] {
        let refused = ping(&ctl_of(&redis, name, seed), "web7").expect(2);
        assert!(refused.stderr.contains("not trusted"), "{name}, {seed}: {refused}");
    }
    // The skeleton lets its operator change whom the host trusts.
    let key = public_key(&administrator, "bob.pub", 2);
    administrator.run(["key", "trust", "bob", &key, "--all"]).expect(0);
    ping(&ctl_of(&redis, "bob", 2), "web7").expect(0);
}

#[test]
fn without_the_right_to_make_users_the_command_is_printed() {
    let redis = Redis::start();
    let ann = ctl_of(&redis, "ann", 1);
    let refused = ann.run(["host", "enroll", "web7", "--out", "web7.sh", "--apply-acl"]).expect(1);
    assert!(refused.stderr.contains("--apply-acl"), "{refused}");
    let printed =
        ann.run(["host", "enroll", "web7", "--out", "web7.sh", "--worker-redis", "rediss://[::1]:7/2"]).expect(0);
    assert!(printed.stdout.starts_with("ACL SETUSER worker-web7 reset on "), "{printed}");
    assert_eq!(printed.stdout.lines().skip(1).collect::<Vec<_>>(), ["ACL SAVE"], "{printed}");
    assert!(printed.stderr.contains("name an `aclfile`"), "{printed}");
    let script = fs::read_to_string(ann.home().join("web7.sh")).unwrap();
    assert!(script.contains(r#"redis = "rediss://worker-web7@[::1]:7/2""#), "{script}");
    assert!(ann.run(["host", "enroll", "web7"]).expect(0).stdout.starts_with("#!/bin/sh\n"));
}

/// To enroll a host once more locks its worker out, until the new script has run there.
#[test]
fn the_password_of_a_host_is_replaced_only_by_intent() {
    let redis = Redis::start();
    let administrator = ctl_of(&redis, "ann", 1).env("REDFLEET_REDIS", &redis.url());
    let enroll = ["host", "enroll", "web7", "--out", "web7.sh"];
    let with = |more: &[&str]| administrator.run(enroll.iter().chain(more).copied());
    with(&["--apply-acl"]).expect(0);
    let user = || redis.cli(["ACL", "GETUSER", "worker-web7"]);
    let before = user();
    for more in [&[][..], &["--apply-acl"]] {
        let refused = with(more).expect(1);
        assert!(refused.stderr.contains("the password of its Redis user worker-web7 is replaced"), "{refused}");
        assert!(refused.stderr.contains("ctl host enroll web7 --yes"), "{refused}");
    }
    assert_eq!(user(), before);
    with(&["--apply-acl", "--yes"]).expect(0);
    assert_ne!(user(), before);

    // Who may not ask for users sees which hosts have reported.
    let worker = Worker::on(&redis).host("web8").start();
    worker.wait_online();
    let ann = ctl_of(&redis, "ann", 1);
    let refused = ann.run(["host", "enroll", "web8"]).expect(1);
    assert!(refused.stderr.contains("web8 is enrolled already"), "{refused}");
    assert!(ann.run(["host", "enroll", "web8", "--yes"]).expect(0).stdout.starts_with("#!/bin/sh\n"));
    // The script can be written without Redis.
    let alone = ann.env("REDFLEET_REDIS", "redis://127.0.0.1:1");
    assert!(alone.run(["host", "enroll", "web8"]).expect(0).stdout.starts_with("#!/bin/sh\n"));
}

#[test]
fn a_host_may_need_a_certificate_of_its_own() {
    let redis = Redis::start();
    let ann = ctl_of(&redis, "ann", 1);
    let issued = Authority::new(ann.home(), "ca").issue("ann", &[]);
    let [cert, key] = [&issued.cert, &issued.key].map(|file| file.to_str().unwrap());
    let words = ["--redis", "rediss://127.0.0.1:1", "--redis-cert", cert, "--redis-key", key, "host", "enroll", "web7"];
    let enrolled = ann.run(words).expect(0);
    assert!(enrolled.stderr.contains("Redis may want a certificate of web7"), "{enrolled}");
    for line in ["# redis_cert = \"/etc/redfleet/redis-cert.pem\"", "# redis_key = \"/etc/redfleet/redis-key.pem\""] {
        assert!(enrolled.stdout.lines().any(|one| one == line), "{enrolled}");
    }
    let without = ann.run(["--redis", "rediss://127.0.0.1:1", "host", "enroll", "web7"]).expect(0);
    assert!(!without.to_string().contains("redis_cert"), "{without}");
}

/// Two operators make the next version of one file. The one that comes second must not undo what the first has revoked.
#[test]
fn a_revocation_of_another_operator_is_not_lost() {
    let redis = Redis::start();
    let options = changeable(&redis, "web1");
    let first = version(1, &[("ann", 1), ("bob", 2), ("eve", 3)]);
    options.trust(&first);
    let worker = options.start();
    worker.wait_online();
    let ann = ctl_of(&redis, "ann", 1);
    let other = ctl_of(&redis, "ann", 1);
    for ctl in [&ann, &other] {
        ctl.write(".config/redfleet/fleet/allowed_signers", &first);
    }
    ann.run(["key", "revoke", "eve", "--all"]).expect(0);
    eventually("it to be published", || (worker.status()?.trust_version == 2).then_some(()));
    let key = public_key(&other, "carol.pub", 4);
    other.run(["key", "trust", "carol", &key, "--local"]).expect(0);
    other.run(["key", "revoke", "bob", "--local"]).expect(0);
    let refused = other.run(["key", "send", "--all"]).expect(1);
    assert!(refused.stderr.contains("its trust file is not an earlier version of"), "{refused}");
    ping(&ctl_of(&redis, "eve", 3), "web1").expect(2);
    // What comes of the own copy is known, however many versions lie between.
    let key = public_key(&ann, "carol.pub", 4);
    ann.run(["key", "trust", "carol", &key, "--local"]).expect(0);
    ann.run(["key", "revoke", "bob", "--local"]).expect(0);
    ann.run(["key", "send", "--all"]).expect(0);
    // The override stays.
    other.run(["key", "send", "--all", "--force"]).expect(2);
}

#[test]
fn a_name_is_revoked_wherever_it_stands() {
    let redis = Redis::start();
    let ann = ctl_of(&redis, "ann", 1);
    let lines = [("ann", 1), ("bob,carol", 2), ("\"dave,bob\"", 3), ("*", 4), ("b?b", 5), ("!bob,*", 6)];
    ann.write(".config/redfleet/fleet/allowed_signers", &version(1, &lines));
    let revoked = ann.run(["key", "revoke", "bob", "--local", "-o", "json"]).expect(0);
    assert_eq!((&revoked.json()["version"], &revoked.json()["sent"]), (&2.into(), &false.into()));
    for (seed, is_revoked) in [(2, true), (3, true), (4, false), (5, false), (6, false)] {
        let key = Signatory::new(seed).fingerprint();
        assert_eq!(
            revoked.stderr.contains(&format!("{key} {}", lines[usize::from(seed) - 1].0.trim_matches('"'))),
            is_revoked,
            "{seed}: {revoked}"
        );
        let is_named = revoked.stderr.contains(&format!("lets the key {key} speak for 'bob'"));
        assert_eq!(is_named, [4, 5].contains(&seed), "{seed}: {revoked}");
    }
    let copy = fs::read_to_string(copy_of(&ann)).unwrap();
    assert!(!copy.contains("carol") && !copy.contains("dave") && copy.contains("\nb?b "), "{copy}");
    let only = ann.run(["key", "revoke", "bob", "--local"]).expect(1);
    assert!(only.stderr.contains("no line of the fleet's trust file names 'bob'"), "{only}");
    assert!(only.stderr.contains("as one of 'b?b'") && only.stderr.contains("ctl key revoke FINGERPRINT"), "{only}");
    ann.run(["key", "send", "--local"]).expect(64);
}

/// A host that was killed while it took a trust file may have it.
#[test]
fn what_a_host_may_have_taken_stays_in_the_copy() {
    let redis = Redis::start();
    let options = changeable(&redis, "web1");
    let mut worker = options.start();
    worker.wait_online();
    let ann = ctl_of(&redis, "ann", 1);
    let key = public_key(&ann, "bob.pub", 2);
    ann.write(".config/redfleet/fleet/allowed_signers", &version(1, &[("ann", 1)]));
    // The host's key becomes known; the attacker's is another one.
    ping(&ann, "web1").expect(0);
    worker.stop();
    let running = ann.spawn(["key", "trust", "bob", &key, "--all"]);
    let job = eventually("the job", || redis.cli(["ZRANGE", "jobs", "1", "1"]).lines().next().map(str::to_owned));
    redis.cli(["HSET", &format!("job:{{{job}}}:result:web1"), "statement", "forged", "signature", "forged"]);
    redis.cli(["HSET", &format!("job:{{{job}}}:hosts"), "web1", "failed"]);
    redis.cli(["XADD", &format!("job:{{{job}}}:events"), "*", "host", "web1", "state", "failed"]);
    let output = running.wait().expect(2);
    assert!(output.stderr.contains("unverified") && output.stderr.contains("some may have"), "{output}");
    assert!(!output.stderr.contains("no host took it"), "{output}");
    assert!(fs::read_to_string(copy_of(&ann)).unwrap().contains("bob"));
    worker.cont();
    worker.terminate();
}

#[test]
fn keys_are_trusted_and_revoked_on_all_hosts() {
    let redis = Redis::start();
    let workers = ["web1", "web2"].map(|host| changeable(&redis, host).start());
    workers.iter().for_each(Worker::wait_online);
    let (ann, bob) = (ctl_of(&redis, "ann", 1), ctl_of(&redis, "bob", 2));
    let key = public_key(&ann, "bob.pub", 2);
    ann.write(".config/redfleet/fleet/allowed_signers", &version(1, &[("ann", 1)]));
    ping(&bob, "web1").expect(2);

    ann.run(["key", "trust", "bob", &key, "--valid-before", "20991231Z", "--all"]).expect(0);
    ping(&bob, "web*").expect(0);
    let listed = ann.run(["key", "list", "--all", "-o", "json"]).expect(0).json();
    assert_eq!(listed["version"], 2);
    assert_eq!(listed["keys"][1]["fingerprint"], Signatory::new(2).fingerprint());
    eventually("both hosts to publish that", || {
        let hosts = ann.run(["key", "list", "--all", "-o", "json"]).expect(0).json()["hosts"].clone();
        hosts.as_array()?.iter().all(|host| host["state"] == "the same" && host["version"] == 2).then_some(())
    });
    assert!(ann.run(["key", "trust", "bob", &key, "--all"]).expect(1).stderr.contains("already"));

    ann.run(["key", "revoke", "bob", "--host", "web1"]).expect(0);
    assert!(ping(&bob, "web1").expect(2).stderr.contains("not trusted"));
    ping(&bob, "web2").expect(0);
    ann.run(["key", "send", "--all"]).expect(0);
    ping(&bob, "web2").expect(2);
    let copy = fs::read_to_string(copy_of(&ann)).unwrap();
    assert!(copy.contains("# version: 3") && !copy.contains("bob"), "{copy}");
    assert!(ann.run(["key", "trust", "bob", &key, "--all"]).expect(1).stderr.contains("is revoked"));
    // Nothing of this is lost when a worker starts again.
    let [mut web1, _] = workers;
    web1.terminate();
    let web1 = web1.options().start();
    web1.wait_online();
    ping(&bob, "web1").expect(2);
    ping(&ann, "web1").expect(0);
}

#[test]
fn what_others_have_written_is_not_lost() {
    let redis = Redis::start();
    let options = changeable(&redis, "web1");
    let worker = options.start();
    worker.wait_online();
    let ann = ctl_of(&redis, "ann", 1);
    let key = public_key(&ann, "bob.pub", 2);
    for (newest, said) in [
        (version(4, &[("ann", 1), ("eve", 3)]), "version 4 of the trust file is in force"),
        (version(5, &[("ann", 1), ("eve", 3)]), "version 5 of the trust file is in force"),
    ] {
        options.trust(&newest);
        eventually("it to be published", || {
            let published = worker.status()?.trust_version;
            newest.contains(&format!("# version: {published}")).then_some(())
        });
        let refused = ann.run(["key", "trust", "bob", &key, "--all"]).expect(1);
        assert!(refused.stderr.contains(said), "{refused}");
        assert!(refused.stderr.contains("/etc/redfleet"), "{refused}");
        assert!(!copy_of(&ann).exists());
    }
    ann.write(".config/redfleet/fleet/allowed_signers", &version(5, &[("ann", 1), ("eve", 3)]));
    ann.run(["key", "trust", "bob", &key, "--all"]).expect(0);
    let file = fs::read_to_string(options.trust_file()).unwrap();
    assert!(file.contains("eve") && file.contains("bob"), "{file}");
    // A copy can be prepared without any host.
    ann.run(["key", "revoke", "eve", "--local"]).expect(0);
    assert!(fs::read_to_string(copy_of(&ann)).unwrap().contains("# version: 7"));
    assert!(fs::read_to_string(options.trust_file()).unwrap().contains("eve"));
}

#[test]
fn attack_changing_whom_a_host_trusts_without_the_right() {
    let redis = Redis::start();
    let options = changeable(&redis, "web1");
    options.trust(&version(1, &[("ann", 1), ("bob", 2)]));
    let before = fs::read_to_string(options.trust_file()).unwrap();
    let worker = options.start();
    worker.wait_online();
    let new = version(2, &[("ann", 1), ("bob", 2), ("eve", 3)]);
    let refused = set_trust(&ctl_of(&redis, "bob", 2), &new, &[]).expect(2);
    assert!(refused.stderr.contains("no rule lets 'bob' run set-trust"), "{refused}");
    for (name, seed) in [("eve", 3), ("ann", 3)] {
        assert!(set_trust(&ctl_of(&redis, name, seed), &new, &[]).expect(2).stderr.contains("not trusted"));
    }
    assert_eq!(fs::read_to_string(options.trust_file()).unwrap(), before);
}

#[test]
fn attack_rolling_the_trust_back_by_a_command() {
    let redis = Redis::start();
    let options = changeable(&redis, "web1");
    options.trust(&version(3, &[("ann", 1)]));
    let worker = options.start();
    worker.wait_online();
    let ann = ctl_of(&redis, "ann", 1);
    for old in [2, 3] {
        let refused = set_trust(&ann, &version(old, &[("ann", 1), ("bob", 2)]), &[]).expect(2);
        assert!(refused.stderr.contains("version 3 is in force"), "{refused}");
    }
    assert_eq!(fs::read_to_string(options.trust_file()).unwrap(), version(3, &[("ann", 1)]));
}

#[test]
fn attack_locking_the_operator_out() {
    let redis = Redis::start();
    let options = changeable(&redis, "web1");
    let worker = options.start();
    worker.wait_online();
    let ann = ctl_of(&redis, "ann", 1);
    let revoked = format!("revoked={}", operator().line("", "").trim_start());
    for (signers, more) in [
        (version(2, &[("bob", 2)]), vec![]),
        (version(2, &[]), vec![]),
        (version(2, &[("ann", 1)]), vec![revoked.as_str()]),
    ] {
        let refused = set_trust(&ann, &signers, &more).expect(2);
        assert!(refused.stderr.contains("locks out 'ann'"), "{refused}");
    }
    ann.write(".config/redfleet/fleet/allowed_signers", &version(1, &[("ann", 1)]));
    let own = ann.run(["key", "revoke", "ann", "--all"]).expect(2);
    assert!(own.stderr.contains("locks out 'ann'") && own.stderr.contains("stays as it is"), "{own}");
    ping(&ann, "web1").expect(0);
    set_trust(&ann, &version(2, &[("bob", 2)]), &["force=true"]).expect(0);
    ping(&ann, "web1").expect(2);
}
