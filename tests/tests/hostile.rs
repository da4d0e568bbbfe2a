//! Every entry of a host's streams gets an outcome or is dropped with a counted reason; the worker goes on.

use std::collections::BTreeMap;

use protocol::{
    action::{Argument, Arguments},
    command::Manifest,
    limits,
    name::JobId,
    outcome::State,
    signed::Signed,
    targets::TargetRoot,
    trust::sshsig,
};
use tests::{
    Evidence, Raw, Redis, Worker, eventually,
    hostile::{ENDLESS, Entry, entry, map, nested, proof, text, with, with_unknown_field, without},
    operator,
};

/// A worker that must survive.
struct Target {
    redis: Redis,
    worker: Worker,
    raw: Raw,
    sent: BTreeMap<&'static str, u64>,
}

impl Target {
    fn new() -> Self {
        let redis = Redis::start();
        let worker = Worker::on(&redis).allow_exec().start();
        worker.wait_online();
        let raw = Raw::on(&redis);
        Self { redis, worker, raw, sent: BTreeMap::new() }
    }

    /// Adds an entry that must be dropped for `reason`.
    fn send(&mut self, reason: &'static str, entry: &Entry) {
        let mut xadd = redis::cmd("XADD");
        xadd.arg("server:{web1}:commands").arg("*");
        for (name, value) in entry {
            xadd.arg(name).arg(value);
        }
        xadd.query::<()>(&mut self.redis.blocking()).expect("XADD");
        *self.sent.entry(reason).or_default() += 1;
    }

    /// A valid command, and the entry that carries it.
    fn valid(&mut self) -> (Manifest, Entry) {
        let manifest = self.raw.manifest(&["web1"], "ping");
        let entry = entry(&Raw::envelope(&manifest, &["web1"]));
        (manifest, entry)
    }

    /// Every entry was dropped and counted, no more and no less; the worker still runs commands.
    #[track_caller]
    fn survives(mut self) {
        self.raw.ping("web1");
        self.raw.wait_settled("web1");
        for (reason, count) in &self.sent {
            self.raw.wait_dropped("web1", reason, *count);
        }
        let dropped: BTreeMap<String, u64> = self.worker.status().expect("a status").dropped.into_iter().collect();
        let counted = dropped.iter().filter(|(_, count)| **count > 0).map(|(reason, count)| (reason.as_str(), *count));
        assert_eq!(counted.collect::<BTreeMap<_, _>>(), self.sent, "{}", self.worker.log());
        let rss = self.worker.rss_kb();
        assert!(rss < 64 * 1024, "{rss} kB resident");
        let lines = self.worker.log().lines().count();
        assert!(lines < 200, "{lines} lines");
        for line in self.worker.log().lines() {
            assert!(line.starts_with("202") && !line.starts_with("2030"), "not a line of the worker's own: {line:?}");
            assert!(!line.contains(char::is_control), "{line:?}");
            assert!(line.len() < 1000, "a line of {} bytes", line.len());
        }
        assert!(self.worker.terminate().success());
    }
}

#[test]
fn incomplete_and_oversized_entries_are_dropped() {
    let mut target = Target::new();
    let (_, valid) = target.valid();
    target.send("malformed", &vec![(b"hello".into(), b"world".into())]);
    target.send("malformed", &vec![(b"\xff\xfe\0".into(), b"\xff".into())]);
    for name in ["version", "manifest", "proof"] {
        target.send("malformed", &without(&valid, name));
    }
    for version in ["2", "0", "", "01", " 1", "1\n", "-1", "one"] {
        target.send("unknown_version", &with(&valid, "version", version));
    }
    for (name, limit) in [
        ("version", 16),
        ("manifest", limits::MANIFEST_BYTES),
        ("signature", limits::SIGNATURE_BYTES),
        ("proof", limits::PROOF_BYTES),
    ] {
        target.send("oversize", &with(&valid, name, vec![0; limit + 1]));
        target.send("oversize", &with(&valid, name, vec![b'1'; 2 * 1024 * 1024]));
    }
    target.survives();
}

#[test]
fn invalid_manifests_are_dropped() {
    let mut target = Target::new();
    let (manifest, valid) = target.valid();
    let good = Signed::unsigned(&manifest).bytes;
    let json = br#"{"job":"019a0000-0000-7000-8000-000000000000","action":"ping"}"#;
    let mut damaged = vec![
        vec![],
        vec![0xc1],
        vec![0xff; limits::MANIFEST_BYTES],
        json.to_vec(),
        good[..good.len() - 1].to_vec(),
        [&*good, &[0xc0]].concat(),
        [&*good, &*good].concat(),
        map("job", &text("not-a-uuid")),
        map("targets", &text("\n2030 forged \x1b[2J")),
        map("targets", &[&[0xda, 0xf0, 0x00], &*vec![b'y'; 0xf000]].concat()),
        map("action", &[0xc0]),
        nested(limits::MANIFEST_BYTES - 1),
        with_unknown_field(&manifest, &nested(50_000)),
        map("arguments", &map("argv", &nested(50_000))),
    ];
    for endless in ENDLESS {
        damaged.push(endless.to_vec());
        damaged.push(with_unknown_field(&manifest, &endless));
        for field in ["job", "action", "arguments", "operator", "targets", "trace", "timeout_ms"] {
            damaged.push(map(field, &endless));
        }
        damaged.push(map("arguments", &map("argv", &endless)));
        damaged.push(map("targets", &map("root", &endless)));
    }
    // A valid manifest, cut off at every possible length.
    damaged.extend((1..good.len()).map(|length| good[..length].to_vec()));
    for manifest in damaged {
        target.send("malformed", &with(&valid, "manifest", manifest));
    }
    target.survives();
}

#[test]
fn invalid_proofs_are_dropped() {
    let mut target = Target::new();
    let (manifest, valid) = target.valid();
    for garbage in [vec![], vec![0xc1], nested(1000), [&*proof(0, vec![]), &[0]].concat(), ENDLESS[3].to_vec()] {
        target.send("malformed", &with(&valid, "proof", garbage));
    }
    for (index, path) in [(1, vec![]), (u64::MAX, vec![]), (0, vec![0; 32]), (0, vec![0; 31]), (0, vec![7; 1900])] {
        target.send("not_for_this_host", &with(&valid, "proof", proof(index, path)));
    }
    // A command for another host with its own proof, and a command with the proof of another host.
    let other = target.raw.manifest(&["db1"], "ping");
    target.send("not_for_this_host", &entry(&Raw::envelope(&other, &["db1"])));
    let several = target.raw.manifest(&["db1", "db2", "web1"], "ping");
    target.send("not_for_this_host", &entry(&Raw::envelope(&several, &["db2", "db1", "web1"])));
    for (count, root) in [
        (0, manifest.targets.root.clone()),
        (u64::MAX, manifest.targets.root.clone()),
        (limits::TARGETS as u64 + 1, manifest.targets.root.clone()),
        (1 << 63, vec![0; 32]),
        (1, vec![]),
        (1, vec![0; 31]),
        (1, vec![0; 100_000]),
    ] {
        let targets = TargetRoot { count, root };
        let moved = Manifest { targets, job: JobId::new(), ..manifest.clone() };
        target.send("not_for_this_host", &with(&valid, "manifest", Signed::unsigned(&moved).bytes));
    }
    target.survives();
}

#[test]
fn a_command_of_another_namespace_is_dropped() {
    let mut target = Target::new();
    let manifest = target.raw.manifest(&["web1"], "ping");
    let foreign = Manifest { namespace: Some("prod".parse().expect("a namespace")), ..manifest };
    target.send("not_for_this_host", &entry(&Raw::envelope(&foreign, &["web1"])));
    target.survives();
}

#[test]
fn a_manifest_is_no_order_to_cancel() {
    let mut target = Target::new();
    let manifest = target.raw.exec(&["web1"], &["sleep", "1000"]);
    target.raw.send("web1", &manifest);
    target.raw.wait_state("web1", &manifest, State::Running);
    // The manifest of the running command has all the fields of an order.
    let envelope = Raw::envelope(&manifest, &["web1"]);
    let mut order: Vec<_> = envelope.fields().into_iter().filter(|(name, _)| *name != "manifest").collect();
    order.extend([("kind", b"cancel".to_vec()), ("order", envelope.signed.bytes.clone())]);
    target.raw.add_control("web1", &order);
    target.sent.insert("malformed", 1);
    target.raw.wait_dropped("web1", "malformed", 1);
    assert_eq!(target.raw.state("web1", &manifest), Some(State::Running));
    target.raw.cancel("web1", &manifest);
    assert_eq!(target.raw.outcome("web1", &manifest).state, State::Cancelled);
    target.survives();
}

#[test]
fn a_valid_command_with_unknown_fields_is_executed() {
    let mut target = Target::new();
    let additions: Vec<Entry> = vec![
        (0..500).map(|number| (format!("field{number}").into_bytes(), vec![b'x'; 100])).collect(),
        vec![(b"\xff\xfe".into(), b"\xff".into()), (vec![], vec![]), (b"Manifest".into(), b"x".into())],
        vec![(vec![b'x'; 1_000_000], vec![b'y'; 1_000_000])],
    ];
    for more in additions {
        let (manifest, valid) = target.valid();
        target.send("", &[&*more, &*valid].concat());
        target.sent.clear();
        assert_eq!(target.raw.outcome("web1", &manifest).state, State::Succeeded);
    }
    let (manifest, valid) = target.valid();
    let bytes = with_unknown_field(&manifest, &nested(3));
    let signature = operator().sign_bytes(sshsig::JOB, &bytes);
    target.send("", &with(&with(&valid, "manifest", bytes), "signature", signature));
    target.sent.clear();
    target.raw.wait_state("web1", &manifest, State::Succeeded);
    target.survives();
}

#[test]
fn thousands_of_invalid_entries_are_dropped() {
    let mut target = Target::new();
    let mut flood = redis::pipe();
    for number in 0..5000 {
        flood.xadd("server:{web1}:commands", "*", &[("garbage", vec![b'x'; number])]).ignore();
    }
    flood.query::<()>(&mut target.redis.blocking()).expect("XADD");
    target.sent.insert("malformed", 5000);
    target.survives();
}

#[test]
fn a_command_can_neither_forge_nor_flood_the_log() {
    let mut target = Target::new();
    let forged = "x'\n2030-01-01T00:00:00.000000Z ERROR forged \x1b[2J\r\u{9b}31m\0";
    let long = "y".repeat(100_000);
    let argument = |name: &str, value: Argument| Arguments::from([(name.to_owned(), value)]);
    let raw = &mut target.raw;
    for words in [forged, &long] {
        let manifests = [
            raw.manifest(&["web1"], words),
            Manifest { arguments: argument(words, Argument::Boolean(true)), ..raw.manifest(&["web1"], "ping") },
            Manifest {
                arguments: argument("by", Argument::Text(words.into())),
                ..raw.manifest(&["web1"], "collect-processes")
            },
            Manifest {
                arguments: argument("by", Argument::List(vec![words.into(); 1])),
                ..raw.manifest(&["web1"], "collect-processes")
            },
            Manifest { operator: words.into(), ..raw.manifest(&["web1"], "dance") },
            Manifest { trace: Some(words.into()), ..raw.manifest(&["web1"], "dance") },
        ];
        for manifest in manifests {
            let outcome = raw.run("web1", &manifest);
            assert_eq!(outcome.state, State::Rejected, "{outcome:?}");
            let reason = outcome.reason.expect("a reason");
            assert!(reason.len() < 500, "{} bytes", reason.len());
        }
        let (name, user) = (raw.exec(&["web1"], &[words]), raw.exec(&["web1"], &["true"]));
        let user = Manifest {
            arguments: user.arguments.into_iter().chain(argument("user", Argument::Text(words.into()))).collect(),
            ..user
        };
        for manifest in [name, user] {
            let outcome = raw.run("web1", &manifest);
            assert_eq!(outcome.state, State::Failed);
            let reason = outcome.reason.expect("a reason");
            assert!(reason.len() < 500, "{} bytes", reason.len());
        }
    }
    target.survives();
}

#[test]
fn invalid_control_entries_are_dropped() {
    let mut target = Target::new();
    let order = Raw::cancel_order("web1", &Raw::unsent()).fields();
    let with = |name: &'static str, value: Vec<u8>| {
        let kept = order.iter().filter(|(field, _)| *field != name).cloned();
        kept.chain([(name, value)]).collect::<Vec<_>>()
    };
    let garbage: Vec<Vec<(&str, Vec<u8>)>> = vec![
        vec![("hello", b"world".into())],
        vec![("kind", b"".into())],
        vec![("kind", b"explode".into())],
        vec![("kind", b"\xff\xfe".into())],
        vec![("kind", b"cancel".into())],
        vec![("kind", b"cancel".into()), ("job", b"7".into())],
        vec![("kind", b"cancel".into()), ("job", b"\xff".into())],
        with("order", b"\xc0".into()),
        with("order", vec![]),
        with("proof", b"\xff".into()),
        (0..500).map(|_| ("field", b"x".to_vec())).collect(),
    ];
    let large = [("kind", 16), ("order", limits::ORDER_BYTES), ("signature", limits::SIGNATURE_BYTES)];
    let large = large.map(|(name, limit)| with(name, vec![0; limit + 1]));
    target.sent.insert("malformed", garbage.len() as u64);
    target.sent.insert("oversize", large.len() as u64 + 1);
    target.sent.insert("unknown_version", 1);
    target.sent.insert("not_for_this_host", 1);
    for entry in garbage.iter().chain(&large) {
        target.raw.add_control("web1", entry);
    }
    target.raw.add_control("web1", &[("kind", vec![b'x'; 1_000_000])]);
    target.raw.add_control("web1", &with("version", b"2".into()));
    target.raw.add_control("web1", &Raw::cancel_order("db1", &Raw::unsent()).fields());
    // These are valid, though they have no effect now.
    target.raw.add_control("web1", &[("kind", "wake")]);
    target.raw.add_control("web1", &order);
    eventually("an empty control stream", || {
        (target.raw.query::<u64>(&["XLEN", "server:{web1}:control"]) == 0).then_some(())
    });
    target.survives();
}

#[test]
fn entries_deleted_while_pending_are_skipped() {
    let redis = Redis::start();
    let mut raw = Raw::on(&redis);
    let key = "server:{web1}:commands";
    let _: String = raw.query(&["XGROUP", "CREATE", key, "worker", "0", "MKSTREAM"]);
    let evidence = Evidence::new(&redis, "evidence");
    let manifests: Vec<_> = (0..20).map(|_| raw.manifest(&["web1"], "collect-load")).collect();
    for (number, manifest) in manifests.iter().enumerate() {
        raw.send("web1", manifest);
        if number % 2 == 0 {
            let exec = raw.shell("web1", &evidence.script());
            raw.send("web1", &exec);
        }
    }
    let _: redis::Value = raw.query(&["XREADGROUP", "GROUP", "worker", "worker", "STREAMS", key, ">"]);
    // Deletes all programs and the last entry.
    let entries: Vec<(String, Vec<redis::Value>)> = raw.query(&["XRANGE", key, "-", "+"]);
    for (number, (id, _)) in entries.iter().enumerate() {
        if number % 3 == 1 || number + 1 == entries.len() {
            let _: u64 = raw.query(&["XDEL", key, id]);
        }
    }
    let _worker = Worker::on(&redis).config("slots = 3").allow_exec().start();
    raw.wait_all("web1", &manifests[..19]);
    raw.wait_settled("web1");
    raw.ping("web1");
    assert_eq!(evidence.count(), 0);
}
