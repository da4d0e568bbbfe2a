//! The audit trail: each decision of a host leaves its line, and what may change the host starts only after that.

use std::{
    fs,
    path::{Path, PathBuf},
};

use protocol::{
    action::{Argument, Arguments},
    command::{Envelope, Manifest},
    event::{Decision, EventKind},
    limits,
    name::JobId,
    outcome::State,
    secret,
    signed::Signed,
};
use serde_json::Value;
use tests::{
    Evidence, Gate, Raw, Redis, Worker, WorkerOptions, chaos_worker, eventually, fill, fleet,
    hostile::{entry, with},
    operator, renewed,
};

/// The newest file of the trail.
fn trail(options: &WorkerOptions) -> PathBuf {
    options.directory().join("state/audit.jsonl")
}

/// All lines of a file of the trail, each of which must be what a line is.
#[track_caller]
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    // The worker may be in the midst of writing the last one.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let read = |line: &str| {
        assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "not plain: {line:?}");
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(value["at"].is_string() && value["host"] == "web1" && value["decision"].is_string(), "{line}");
        value
    };
    whole.lines().map(read).collect()
}

/// The lines about a job, as soon as there are so many.
#[track_caller]
fn about(worker: &Worker, job: JobId, count: usize) -> Vec<Value> {
    let path = trail(&worker.options());
    eventually(&format!("{count} lines about {job} in {}", path.display()), || {
        let found: Vec<_> = lines(&path).into_iter().filter(|line| line["job"] == job.to_string()).collect();
        (found.len() >= count).then_some(found)
    })
}

/// Their decisions, in words.
fn words(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["decision"].as_str()).collect()
}

/// The only line with this value in one field, as soon as it is there.
#[track_caller]
fn only(worker: &Worker, field: &str, value: &str) -> Value {
    let path = trail(&worker.options());
    let found = eventually(&format!("a line with {field} = {value}"), || {
        let found: Vec<_> = lines(&path).into_iter().filter(|line| line[field] == value).collect();
        (!found.is_empty()).then_some(found)
    });
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

#[test]
fn what_is_accepted_says_who_asked_for_what() {
    let (_redis, worker, mut raw) = fleet();
    let manifest = raw.exec(&["web1"], &["echo", "two words"]);
    let manifest = renewed(Manifest { operator: "ann@desk".into(), ..manifest });
    assert_eq!(raw.run("web1", &manifest).state, State::Succeeded);
    let line = &about(&worker, manifest.job, 1)[0];
    assert_eq!((&line["about"], &line["decision"]), (&"command".into(), &"accepted".into()));
    assert_eq!((&line["action"], &line["operator"]), (&"exec".into(), &"ann@desk".into()));
    assert_eq!(line["arguments"], serde_json::json!({"argv": ["echo", "two words"]}));
    let hexadecimal = line["manifest_sha256"].as_str().expect("a digest");
    let digest: Vec<_> = (0..32).map(|at| u8::from_str_radix(&hexadecimal[2 * at..2 * at + 2], 16)).collect();
    let sent = secret::digest(&Signed::unsigned(&manifest).bytes);
    assert_eq!(digest, sent.iter().map(|byte| Ok(*byte)).collect::<Vec<_>>());
    assert!(line["again"].is_null() && line["reason"].is_null(), "{line}");

    let ping = raw.manifest(&["web1"], "ping");
    raw.run("web1", &ping);
    assert_eq!(words(&about(&worker, ping.job, 1)), ["accepted"]);
}

#[test]
fn what_is_refused_says_why() {
    let (redis, worker, mut raw) = fleet();
    let dance = raw.manifest(&["web1"], "dance");
    let late = Manifest { start_by_ms: raw.now() - 1, ..raw.manifest(&["web1"], "ping") };
    for (manifest, word, reason) in [(dance, "rejected", "unknown action 'dance'"), (late, "expired", "its start-by")] {
        raw.run("web1", &manifest);
        let found = about(&worker, manifest.job, 1);
        assert_eq!(words(&found), [word]);
        assert!(found[0]["reason"].as_str().expect("a reason").contains(reason), "{found:?}");
    }

    let cautious = Worker::on(&redis).host("web1").start();
    drop(worker);
    cautious.wait_online();
    let exec = raw.exec(&["web1"], &["true"]);
    raw.run("web1", &exec);
    let found = about(&cautious, exec.job, 1);
    assert_eq!(words(&found), ["rejected"]);
    assert!(found[0]["reason"].as_str().expect("a reason").contains("not allowed"), "{found:?}");
}

#[test]
fn what_is_dropped_says_why() {
    let (_redis, worker, mut raw) = fleet();
    raw.add("web1", &[("hello", "world")]);
    let ping = raw.manifest(&["web1"], "ping");
    let valid = entry(&Raw::envelope(&ping, &["web1"]));
    let damaged = with(&valid, "version", "9");
    let damaged: Vec<_> = damaged.iter().map(|(name, value)| (String::from_utf8_lossy(name), value.clone())).collect();
    raw.add("web1", &damaged.iter().map(|(name, value)| (&**name, value.clone())).collect::<Vec<_>>());
    let foreign = raw.manifest(&["db1"], "ping");
    raw.add("web1", &Raw::envelope(&foreign, &["db1"]).fields());
    raw.add_control("web1", &[("kind", "explode")]);
    raw.wait_settled("web1");
    raw.wait_control_settled("web1");

    for reason in ["unknown_version", "not_for_this_host"] {
        assert_eq!(only(&worker, "dropped_as", reason)["about"], "command");
    }
    let malformed = eventually("both lines", || {
        let mut found = lines(&trail(&worker.options()));
        found.retain(|line| line["dropped_as"] == "malformed");
        (found.len() == 2).then_some(found)
    });
    let mut subjects: Vec<_> = malformed.iter().filter_map(|line| line["about"].as_str()).collect();
    subjects.sort_unstable();
    assert_eq!(subjects, ["cancel", "command"]);
}

#[test]
fn a_copy_of_what_ran_is_told_from_a_second_run() {
    let (redis, worker, mut raw) = fleet();
    let evidence = Evidence::new(&redis, "evidence");
    let manifest = raw.shell("web1", &evidence.script());
    raw.run("web1", &manifest);
    raw.wait_settled("web1");
    redis.cli(["FLUSHALL"]);
    raw.run("web1", &manifest);
    let found = about(&worker, manifest.job, 3);
    assert_eq!(words(&found), ["accepted", "accepted", "dropped"]);
    assert_eq!(found[2]["dropped_as"], "answered");
    raw.wait_settled("web1");
    raw.send("web1", &manifest);
    raw.wait_settled("web1");
    assert_eq!(words(&about(&worker, manifest.job, 4))[3], "dropped");
    assert_eq!(evidence.count(), 1);
}

#[test]
fn orders_to_cancel_say_what_became_of_the_command() {
    let (redis, worker, mut raw) = fleet();
    let mut gate = Gate::new(&redis, "gate");
    let shell = raw.shell("web1", &gate.script());
    let lock = Arguments::from([("lock".into(), Argument::Text("deploy".into()))]);
    let running = Manifest { arguments: shell.arguments.clone().into_iter().chain(lock).collect(), ..shell };
    let waiting = renewed(running.clone());
    raw.send("web1", &running);
    gate.reached();
    raw.send("web1", &waiting);
    raw.wait_state("web1", &waiting, State::Delivered);
    let absent = raw.manifest(&["web1"], "ping");
    for manifest in [&waiting, &running, &absent] {
        raw.cancel("web1", manifest);
    }
    raw.outcome("web1", &running);
    raw.wait_control_settled("web1");

    let orders = |found: Vec<Value>| found.into_iter().find(|line| line["about"] == "cancel").expect("an order");
    let found = about(&worker, waiting.job, 3);
    assert_eq!(words(&found), ["accepted", "accepted", "cancelled"]);
    assert_eq!(orders(found)["reason"], "its command waits, and does not start");
    let found = about(&worker, running.job, 2);
    assert_eq!(words(&found), ["accepted", "accepted"]);
    assert_eq!(orders(found)["reason"], "its command runs, and is ended");
    let order = orders(about(&worker, absent.job, 1));
    assert!(order["reason"].as_str().expect("a reason").contains("not at work here"), "{order}");
    assert_eq!(order["operator"], "tests");
}

#[test]
fn decisions_are_in_the_events_of_the_job() {
    let (redis, _worker, mut raw) = fleet();
    let decision = |accepted| Decision {
        accepted,
        operator: "tests".into(),
        principal: Some("tests".into()),
        key: Some(operator().fingerprint()),
        reason: (!accepted).then(|| "unknown action 'dance'".into()),
    };
    let [ping, dance] = ["ping", "dance"].map(|action| raw.manifest(&["web1"], action));
    for (manifest, accepted) in [(ping, true), (dance, false)] {
        raw.run("web1", &manifest);
        let events = raw.events(&manifest);
        assert_eq!(events.last().expect("an event").decision, Some(decision(accepted)));
    }

    let mut gate = Gate::new(&redis, "gate");
    let running = raw.shell("web1", &gate.script());
    raw.send("web1", &running);
    gate.reached();
    raw.cancel("web1", &running);
    raw.outcome("web1", &running);
    // A slow machine also reports the signals.
    let events = raw.events(&running);
    let events = events.iter().filter(|event| !matches!(event.kind, EventKind::Progress(_)));
    let kinds: Vec<_> = events.map(|event| (&event.kind, event.decision.as_ref())).collect();
    let accepted = decision(true);
    assert_eq!(
        kinds,
        [
            (&EventKind::State(State::Running), Some(&accepted)),
            (&EventKind::CancelOrdered, Some(&accepted)),
            (&EventKind::State(State::Cancelled), Some(&accepted)),
        ]
    );
}

#[test]
fn the_line_is_written_before_the_program_starts() {
    let (_redis, worker, mut raw) = fleet();
    let trail = trail(&worker.options());
    let manifest = raw.shell("web1", &format!("grep -c \"$REDFLEET_JOB\" '{}'", trail.display()));
    let outcome = raw.run("web1", &manifest);
    assert_eq!((outcome.state, &*outcome.stdout.kept), (State::Succeeded, &b"1\n"[..]));
}

#[test]
#[ignore = "needs the worker built with its feature chaos (make test builds it)"]
fn a_crash_between_the_line_and_the_start_is_seen_in_the_trail() {
    let redis = Redis::start();
    let options = Worker::on(&redis).program(chaos_worker()).allow_exec();
    let mut worker = options.clone().env("REDFLEET_CHAOS_KILL", "audited:1").start();
    worker.wait_online();
    let (mut raw, evidence) = (Raw::on(&redis), Evidence::new(&redis, "evidence"));
    let manifest = raw.shell("web1", &evidence.script());
    raw.send("web1", &manifest);
    worker.wait();
    assert_eq!(words(&about(&worker, manifest.job, 1)), ["accepted"]);
    assert_eq!(evidence.count(), 0);

    let worker = options.start();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
    let found = about(&worker, manifest.job, 2);
    assert_eq!(words(&found), ["accepted", "accepted"]);
    assert_eq!((&found[0]["again"], &found[1]["again"]), (&Value::Null, &true.into()));
    assert_eq!(evidence.count(), 1);
}

/// A worker whose trail cannot be written runs nothing that may change the host, says why, and does everything else.
#[track_caller]
fn refuses(raw: &mut Raw, worker: &Worker, redis: &Redis, cause: &str) {
    let evidence = Evidence::new(redis, "refused");
    let manifest = raw.shell("web1", &evidence.script());
    let outcome = raw.run("web1", &manifest);
    assert_eq!((outcome.state, evidence.count()), (State::Rejected, 0));
    let reason = outcome.reason.expect("a reason");
    assert!(reason.contains("'exec' may change this host") && reason.contains("audit.jsonl"), "{reason}");
    assert!(reason.contains(cause), "{reason}");
    for action in ["ping", "collect-cpu"] {
        let manifest = raw.manifest(&["web1"], action);
        assert_eq!(raw.run("web1", &manifest).state, State::Succeeded);
    }
    let refuses = eventually("the status to say so", || worker.status()?.refuses);
    assert!(refuses.contains("audit.jsonl") && refuses.contains(cause), "{refuses}");
}

#[test]
fn without_a_trail_only_what_reads_is_run() {
    let redis = Redis::start();
    let options = Worker::on(&redis).allow_exec();
    fs::create_dir_all(trail(&options)).expect("a directory in its place");
    let worker = options.start();
    worker.wait_online();
    let mut raw = Raw::on(&redis);
    refuses(&mut raw, &worker, &redis, "Is a directory");
    // Once there is room, the lost lines are counted.
    fs::remove_dir(trail(&options)).expect("an empty directory");
    eventually("the status to refuse nothing", || worker.status()?.refuses.is_none().then_some(()));
    let lost = only(&worker, "decision", "lost");
    // The program, what became of it, and two actions that read.
    assert_eq!((&lost["count"], &lost["about"]), (&4.into(), &"trail".into()));
    let manifest = raw.exec(&["web1"], &["true"]);
    assert_eq!(raw.run("web1", &manifest).state, State::Succeeded);
}

#[test]
fn on_a_full_disk_what_reads_is_run_and_what_runs_can_be_cancelled() {
    let redis = Redis::start();
    let options = Worker::on(&redis);
    let path = options.directory().join("small/audit.jsonl");
    let options = options.config(&format!("audit = {:?}", path.display().to_string())).allow_exec();
    let Some(options) = options.small_disk("small", ":") else { return };
    let worker = options.start();
    worker.wait_online();
    let (mut raw, mut gate) = (Raw::on(&redis), Gate::new(&redis, "gate"));
    let running = raw.shell("web1", &gate.script());
    raw.send("web1", &running);
    gate.reached();
    let (path, filler) = (worker.on_its_disk("audit.jsonl"), worker.on_its_disk("filler"));
    fill(&filler);
    // The file's last page may have some room.
    eventually("the room to be used up", || {
        raw.ping("web1");
        worker.status()?.refuses
    });
    refuses(&mut raw, &worker, &redis, "No space left");
    raw.cancel("web1", &running);
    assert_eq!(raw.outcome("web1", &running).state, State::Cancelled);

    fs::remove_file(filler).expect("a file");
    eventually("the status to refuse nothing", || worker.status()?.refuses.is_none().then_some(()));
    let manifest = raw.exec(&["web1"], &["true"]);
    assert_eq!(raw.run("web1", &manifest).state, State::Succeeded);
    // A line that did not fit may stand there in part.
    let text = fs::read_to_string(path).expect("a trail");
    let read: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let lost: Vec<_> = read.iter().filter(|line| line["decision"] == "lost").collect();
    assert!(lost.len() == 1 && lost[0]["count"].as_u64() >= Some(5), "{text}");
    assert_eq!(read.last().expect("a line")["job"], manifest.job.to_string());
    assert!(text.lines().count() <= read.len() + 1, "{text}");
}

#[test]
fn it_is_for_its_owner_alone_and_bounded() {
    use std::os::unix::fs::PermissionsExt;
    let redis = Redis::start();
    let options = Worker::on(&redis).allow_exec();
    let path = trail(&options);
    fs::create_dir(path.parent().expect("a directory")).expect("a directory");
    let numbered = |number: usize| PathBuf::from(format!("{}.{number}", path.display()));
    fs::write(&path, "{}\n".repeat(limits::AUDIT_BYTES / 3)).expect("a full file");
    for number in 1..=limits::AUDIT_FILES {
        fs::write(numbered(number), number.to_string()).expect("a file");
    }
    let _worker = options.start();
    let mut raw = Raw::on(&redis);
    let manifest = raw.exec(&["web1"], &["true"]);
    assert_eq!(raw.run("web1", &manifest).state, State::Succeeded);

    assert_eq!(fs::metadata(numbered(1)).expect("a file").len(), limits::AUDIT_BYTES as u64 / 3 * 3);
    let last = fs::read_to_string(numbered(limits::AUDIT_FILES)).expect("a file");
    assert_eq!(last, (limits::AUDIT_FILES - 1).to_string());
    assert!(!numbered(limits::AUDIT_FILES + 1).exists());
    assert_eq!(words(&lines(&path)), ["accepted"]);
    assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_flood_is_counted() {
    let (redis, mut worker, mut raw) = fleet();
    let mut flood = redis::pipe();
    for _ in 0..2000 {
        flood.xadd("server:{web1}:commands", "*", &[("hello", "world")]).ignore();
    }
    flood.query::<()>(&mut redis.blocking()).expect("XADD");
    for _ in 0..300 {
        let forged = raw.manifest(&["web1"], "dance");
        let envelope = Raw::envelope(&forged, &["web1"]);
        raw.add("web1", &Envelope { signed: Signed::unsigned(&forged), ..envelope }.fields());
    }
    let exec = raw.exec(&["web1"], &["true"]);
    assert_eq!(raw.run("web1", &exec).state, State::Succeeded);
    raw.wait_settled("web1");
    assert!(worker.terminate().success());

    let found = lines(&trail(&worker.options()));
    let of = |word: &str| found.iter().filter(|line| line["decision"] == word).collect::<Vec<_>>();
    for (word, all, most_bytes) in [("dropped", 2000, 8 * 1024), ("rejected", 300, 32 * 1024)] {
        let counted: u64 = of(word).iter().filter_map(|line| line["count"].as_u64()).sum();
        let single: Vec<_> = of(word).into_iter().filter(|line| line["count"].is_null()).collect();
        let bytes: usize = single.iter().map(|line| line.to_string().len()).sum();
        assert!(single.len() > 10 && bytes <= most_bytes, "{word}: {bytes} bytes in {} lines", single.len());
        assert_eq!(single.len() as u64 + counted, all, "{word}");
    }
    assert_eq!(words(&about(&worker, exec.job, 1)), ["accepted"]);
}

#[test]
fn whatever_a_command_holds_stays_within_its_line() {
    let (_redis, worker, mut raw) = fleet();
    let hostile = "x'\n{\"decision\":\"accepted\"}\r\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\u{2028}\0\u{1f600}\"\\";
    let long = "\u{1f600}".repeat(4000);
    for words in [hostile, &long] {
        let value = Argument::Map([(words.into(), words.into())].into());
        let env = Arguments::from([("env".into(), value), ("lock".into(), Argument::Text(words.into()))]);
        let exec = Manifest { operator: words.into(), ..raw.exec(&["web1"], &["true", words]) };
        let exec = Manifest { arguments: exec.arguments.into_iter().chain(env).collect(), ..exec };
        let dance = Manifest { action: words.into(), ..exec.clone() };
        let dance = Manifest { job: JobId::new(), ..dance };
        for manifest in [exec, dance] {
            raw.run("web1", &manifest);
            let line = &about(&worker, manifest.job, 1)[0];
            assert!(line.to_string().chars().count() < 8000, "{} characters", line.to_string().len());
            let is_long = words.len() > 1000 && manifest.action == "exec";
            assert_eq!(line["arguments_cut"].as_bool().unwrap_or_default(), is_long);
            if manifest.action == "exec" && !is_long {
                assert_eq!(line["arguments"]["argv"][1], hostile, "nothing is lost or changed");
            }
        }
    }
}

#[test]
fn it_holds_no_secret_not_even_a_misplaced_one() {
    const SECRET: &str = "correct-horse-battery";
    let (_redis, worker, mut raw) = fleet();
    let value = Argument::Map([("TOKEN".into(), SECRET.into())].into());
    let exec = raw.exec(&["web1"], &["true"]);
    let (proper, key) = raw.seal("web1", exec.clone(), Arguments::from([("secret".into(), value.clone())]));
    raw.send_sealed("web1", &proper, &key);
    assert_eq!(raw.outcome("web1", &proper).state, State::Succeeded);
    assert_eq!(about(&worker, proper.job, 1)[0]["arguments"]["secret"], "***");
    // In clear, under a wrong name, and of an action that does not exist.
    for (name, action) in [("secret", "exec"), ("secrets", "exec"), ("secret", "exce")] {
        let arguments = Arguments::from([(name.into(), value.clone())]);
        let wrong = Manifest { job: JobId::new(), action: action.into(), arguments, ..exec.clone() };
        assert_eq!(raw.run("web1", &wrong).state, State::Rejected);
        assert_eq!(about(&worker, wrong.job, 1)[0]["arguments"][name], "***");
    }
    assert!(!fs::read_to_string(trail(&worker.options())).expect("a trail").contains(SECRET));
}

#[test]
fn a_trail_that_is_moved_away_is_begun_anew() {
    let (_redis, worker, mut raw) = fleet();
    raw.ping("web1");
    let path = trail(&worker.options());
    let moved = path.with_extension("old");
    eventually("the line", || (!lines(&path).is_empty()).then_some(()));
    fs::rename(&path, &moved).expect("a file");
    let manifest = raw.exec(&["web1"], &["true"]);
    raw.run("web1", &manifest);
    assert_eq!(words(&about(&worker, manifest.job, 1)), ["accepted"]);
    assert_eq!(lines(&moved).len(), 1);
}
