//! Hostile words in every argument, name and id: each is taken as itself or refused, and nothing else happens.

use std::collections::BTreeSet;

use protocol::{
    action::{ActionSpec, Argument, Arguments, Kind, Parameter},
    artifact::{ContentKey, Digester},
    command::Manifest,
    name::JobId,
    outcome::State,
    sealing::SealedKey,
};
use tests::{
    Ctl, Evidence, OnTerminal, Raw, Redis, Worker, eventually, fleet,
    hostile::{ENDLESS, arguments_with, map, nested, words},
    operator, renewed,
};

/// Valid values for all that the action needs: those that are no secrets, and those that are.
fn needed(spec: &ActionSpec) -> (Arguments, Arguments) {
    let value = |parameter: &Parameter| match parameter.kind {
        Kind::List => Argument::List(vec!["true".into()]),
        // A trust file that names nobody new, and has no newer version: it is refused all the same.
        Kind::Text if parameter.name == "signers" => Argument::Text(operator().line("*", "")),
        Kind::Text if parameter.name == "service" => Argument::Text("web".into()),
        Kind::Text if parameter.name == "app" => Argument::Text("shop".into()),
        Kind::Text if parameter.name == "version" => Argument::Text("1".into()),
        // No content, which need not be fetched.
        Kind::Text if parameter.name == "content" => Argument::Text(Digester::default().artifact().to_string()),
        Kind::Text if parameter.name == "content_key" => Argument::Text(ContentKey::generate().to_text()),
        Kind::Path => Argument::Text("/srv/file".into()),
        _ => panic!("{}: extend this test by a valid value for {}", spec.name, parameter.name),
    };
    // A deploy needs a key, or a URL.
    let is_needed =
        |parameter: &&Parameter| parameter.required || (spec.name == "deploy" && parameter.name == "content_key");
    let needed = spec.parameters.iter().filter(is_needed);
    let (secret, plain): (Vec<_>, Vec<_>) = needed.partition(|parameter| parameter.secret);
    let values = |parameters: Vec<&Parameter>| {
        parameters.into_iter().map(|parameter| (parameter.name.clone(), value(parameter))).collect()
    };
    (values(plain), values(secret))
}

#[test]
fn no_argument_of_any_action_is_taken_for_more_than_it_is() {
    let redis = Redis::start();
    let srv = redis.directory().join("srv");
    std::fs::create_dir(&srv).expect("a directory");
    let places = format!("[files]\nput = [{srv:?}]\nget = [{srv:?}]\n[apps.shop]\ndirectory = {srv:?}");
    let allowed = "[actions]\nallow = ['deploy', 'deploy-rollback', 'deploy-status', 'exec', 'file-get', 'file-put', \
                   'set-trust', 'start', 'status', 'stop', 'restart', 'reload']";
    let worker = Worker::on(&redis).config(&places).config(allowed).start();
    worker.wait_online();
    let mut raw = Raw::on(&redis);
    let evidence = Evidence::new(&redis, "injected");
    let mut sent = Vec::new();
    for spec in worker::actions::specs() {
        let known = spec.parameters.iter().map(|parameter| (parameter.name.clone(), parameter.secret));
        let known: Vec<_> = known.collect();
        for word in words(&evidence) {
            let first = sent.len();
            // One that the action does not have, named by the word itself, is among them.
            for (name, secret) in known.iter().cloned().chain([(word.clone(), false)]) {
                for argument in arguments_with(&word) {
                    let given = Arguments::from([(name.clone(), argument)]);
                    let manifest = raw.manifest(&["web1"], &spec.name);
                    let (mut plain, mut secrets) = needed(&spec);
                    // A place for files that is allowed.
                    if let Some(path) = plain.get_mut("path") {
                        *path = Argument::Text(srv.join("file").display().to_string());
                    }
                    if secret { &mut secrets } else { &mut plain }.extend(given);
                    let mut manifest = Manifest { arguments: plain, ..manifest };
                    if secrets.is_empty() {
                        raw.send("web1", &manifest);
                    } else {
                        let (sealed, key) = raw.seal("web1", manifest, secrets);
                        raw.send_sealed("web1", &sealed, &key);
                        manifest = sealed;
                    }
                    sent.push(manifest);
                }
            }
            raw.wait_all("web1", &sent[first..]);
        }
        raw.wait_settled("web1");
        assert_eq!(evidence.count(), 0, "{}", spec.name);
        for manifest in sent.drain(..) {
            let reason = raw.outcome("web1", &manifest).reason.unwrap_or_default();
            assert!(!reason.contains(char::is_control) && reason.len() < 1000, "{reason:?}");
        }
    }
    raw.ping("web1");
    let pid = worker.status().expect("a status").pid;
    assert_eq!(pid, worker.pid(), "it is still the same process");
    assert!(!worker.log().replace('\n', "").contains(char::is_control));
}

#[test]
fn programs_get_hostile_words_exactly_as_they_are() {
    let (redis, _worker, mut raw) = fleet();
    let evidence = Evidence::new(&redis, "injected");
    for word in words(&evidence) {
        let as_word = raw.exec(&["web1"], &["printf", "%s", &word]);
        let mut as_variable = raw.exec(&["web1"], &["sh", "-c", "printf %s \"$X\""]);
        as_variable.arguments.insert("env".into(), Argument::Map([("X".into(), word.clone())].into()));
        for manifest in [as_word, renewed(as_variable)] {
            let outcome = raw.run("web1", &manifest);
            let printed = String::from_utf8_lossy(&outcome.stdout.kept);
            assert_eq!((outcome.state, &*printed), (State::Succeeded, &*word), "{outcome:?}");
        }
    }
    assert_eq!(evidence.count(), 0);
}

#[test]
fn a_zero_byte_and_a_forged_mark_are_refused() {
    let (_redis, _worker, mut raw) = fleet();
    let text = |text: &str| Argument::Text(text.into());
    let map = |name: &str, value: &str| Argument::Map([(name.into(), value.into())].into());
    for (name, value) in [
        ("argv", Argument::List(vec!["true\0".into()])),
        ("argv", Argument::List(vec!["true".into(), "a\0b".into()])),
        ("cwd", text("/tmp\0/x")),
        ("user", text("root\0")),
        ("env", map("A\0B", "x")),
        ("env", map("A", "x\0y")),
        ("env", map("A=B", "x")),
        ("env", map("", "x")),
    ] {
        let mut manifest = raw.exec(&["web1"], &["true"]);
        manifest.arguments.insert(name.into(), value);
        let manifest = renewed(manifest);
        let outcome = raw.run("web1", &manifest);
        assert_eq!(outcome.state, State::Failed, "{name}: {outcome:?}");
        assert!(outcome.exit_code.is_none(), "{name}: nothing ran");
    }
    // By these marks the worker finds what it must end.
    for name in ["REDFLEET_JOB", "REDFLEET_HOST"] {
        let mut manifest = raw.exec(&["web1"], &["printenv", name]);
        manifest.arguments.insert("env".into(), map(name, "another"));
        let manifest = renewed(manifest);
        let outcome = raw.run("web1", &manifest);
        let own = if name == "REDFLEET_HOST" { "web1".to_owned() } else { manifest.job.to_string() };
        assert_eq!(String::from_utf8_lossy(&outcome.stdout.kept).trim_end(), own);
    }
}

/// All keys of the server but those that the worker of `web1` keeps up to date.
fn keys(raw: &mut Raw) -> BTreeSet<String> {
    let mut keys: BTreeSet<String> = raw.query(&["KEYS", "*"]);
    keys.retain(|key| !key.starts_with("server:{web1}:"));
    keys
}

/// Names and ids that no host and no job has.
const STRANGE: [&str; 20] = [
    "web1;id",
    "$(id)",
    "web1\nweb2",
    "web1}:commands",
    "{web1}",
    "a:b",
    "web1:commands",
    "../web1",
    "-rf",
    "--all",
    "\u{1b}[2J",
    "\u{9b}2J",
    "web1\u{202e}",
    "web1\0",
    "w\u{e9}b1",
    " ",
    "",
    "*\u{7}",
    "%s",
    "_web1",
];

#[test]
fn strange_names_of_hosts_and_jobs_are_refused_before_anything_is_sent() {
    let (redis, worker, mut raw) = fleet();
    let ctl = Ctl::on(&redis);
    ctl.run(["run", "--host", "web1", "ping"]).expect(0);
    raw.wait_settled("web1");
    let before = keys(&mut raw);
    // A zero byte cannot be typed.
    for name in STRANGE.iter().filter(|name| !name.contains('\0')) {
        for line in [
            ["run", "--host", name, "ping"].as_slice(),
            &["run", "--host", name, "exec", "--", "true"],
            &["exec", name, "--", "true"],
            &["host", "show", name],
            &["host", "forget", name, "--yes"],
            &["job", "show", name],
            &["job", "wait", name],
            &["job", "logs", name],
            &["job", "cancel", name, "--yes"],
            &["file", "get", &format!("{name}:/srv/file"), "got"],
        ] {
            let (code, shown) = OnTerminal::start(ctl.command(line).env("NO_COLOR", "1")).wait();
            assert!(matches!(code, Some(1 | 64 | 255)), "{line:?}: {code:?}: {shown:?}");
            let shown = shown.replace(['\r', '\n'], "");
            assert!(!shown.contains(char::is_control) && !shown.contains('\u{202e}'), "{line:?}: {shown:?}");
        }
    }
    assert_eq!((keys(&mut raw), raw.queued("web1")), (before, 0), "nothing was written");
    assert_eq!(worker.log().matches("command{").count(), 1, "{}", worker.log());
}

#[test]
fn strange_entries_of_the_indices_harm_nobody() {
    let (redis, worker, mut raw) = fleet();
    let ctl = Ctl::on(&redis);
    ctl.run(["run", "--host", "web1", "ping"]).expect(0);
    let now = raw.now().to_string();
    let uuid = JobId::new().to_string();
    for name in STRANGE.iter().copied().chain([&*uuid]) {
        let _: u64 = raw.query(&["ZADD", "servers", &now, name]);
        let _: u64 = raw.query(&["ZADD", "jobs", &now, name]);
    }
    for line in [
        ["host", "list"].as_slice(),
        &["host", "list", "-o", "json"],
        &["job", "list"],
        &["job", "list", "-o", "json"],
        &["run", "--online", "--all", "ping"],
        &["run", "--host", "web*", "ping"],
        &["doctor"],
    ] {
        let (code, shown) = OnTerminal::start(ctl.command(line).env("NO_COLOR", "1")).wait();
        assert!(code.is_some_and(|code| code < 3), "{line:?}: {code:?}: {shown:?}");
        let shown = shown.replace(['\r', '\n'], "");
        assert!(!shown.contains(char::is_control) && !shown.contains('\u{202e}'), "{line:?}: {shown:?}");
        assert!(shown.contains("web1") || !matches!(line[0], "host" | "run"), "{line:?}: {shown:?}");
    }
    assert_eq!(worker.status().map(|status| status.pid), Some(worker.pid()));
}

/// Bytes of a large entry.
const LARGE: usize = 100 * 1024 * 1024;

#[test]
fn entries_of_a_hundred_megabytes_are_dropped_and_leave_nothing_behind() {
    let (redis, worker, mut raw) = fleet();
    let large = vec![b'x'; LARGE];
    for name in ["manifest", "proof", "signature", "version", "key", "unknown"] {
        let ping = raw.manifest(&["web1"], "ping");
        let fields = Raw::envelope(&ping, &["web1"]).fields().into_iter().filter(|(field, _)| *field != name);
        let mut add = redis::cmd("XADD");
        add.arg("server:{web1}:commands").arg("*");
        for (name, value) in fields {
            add.arg(name).arg(value);
        }
        add.arg(name).arg(&large).query::<()>(&mut redis.blocking()).expect("XADD");
        match name {
            "key" | "unknown" => assert_eq!(raw.outcome("web1", &ping).state, State::Succeeded),
            _ => {}
        }
        raw.wait_settled("web1");
    }
    raw.wait_dropped("web1", "oversize", 4);
    raw.add_control("web1", &[("kind", &large)]);
    raw.wait_control_settled("web1");
    raw.wait_dropped("web1", "oversize", 5);
    raw.ping("web1");
    eventually("the memory to be given back", || (worker.rss_kb() < 64 * 1024).then_some(()));
}

#[test]
fn secrets_and_orders_that_nest_deeply_or_never_end_are_refused() {
    let (_redis, worker, mut raw) = fleet();
    let order: Vec<_> = Raw::cancel_order("web1", &Raw::unsent()).fields();
    let mut dropped = 0;
    for bytes in [nested(4000), map("job", &nested(3000))].into_iter().chain(ENDLESS.map(|endless| endless.to_vec())) {
        for field in ["order", "proof"] {
            let kept = order.iter().filter(|(name, _)| *name != field).cloned();
            // The bound of a proof is smaller.
            let value = bytes[..bytes.len().min(2000)].to_vec();
            raw.add_control("web1", &kept.chain([(field, value)]).collect::<Vec<_>>());
            dropped += 1;
        }
        for key in [bytes.clone(), map("stdin", &bytes), nested(60_000)] {
            let exec = raw.exec(&["web1"], &["true"]);
            let (exec, _) = raw.seal("web1", exec, Arguments::new());
            raw.send_sealed("web1", &exec, &SealedKey::from_bytes(key));
            assert_eq!(raw.outcome("web1", &exec).state, State::Rejected);
        }
    }
    raw.wait_control_settled("web1");
    raw.wait_dropped("web1", "malformed", dropped);
    raw.ping("web1");
    assert!(worker.rss_kb() < 64 * 1024);
}

#[test]
fn a_hostile_result_is_never_shown_as_true() {
    let (redis, _worker, mut raw) = fleet();
    let ctl = Ctl::on(&redis);
    ctl.run(["run", "--host", "web1", "ping"]).expect(0);
    let job =
        ctl.run(["job", "show", "last", "-o", "json"]).expect(0).json()["job"].as_str().expect("an id").to_owned();
    let key = format!("job:{{{job}}}:result:web1");
    let long = "z".repeat(1_000_000);
    for statement in [nested(16_000), nested(100_000), ENDLESS[0].to_vec(), map("job", &ENDLESS[2]), long.into_bytes()]
    {
        redis::cmd("HSET").arg(&key).arg("statement").arg(statement).query::<()>(&mut redis.blocking()).expect("HSET");
        let (code, shown) = OnTerminal::start(ctl.command(["job", "show", &job]).env("NO_COLOR", "1")).wait();
        assert_eq!(code, Some(0), "{shown:?}");
        assert!(shown.contains("unverified") && !shown.contains("succeeded"), "{shown:?}");
        assert!(shown.len() < 4000, "{} bytes", shown.len());
    }
    let _: u64 = raw.query(&["HSET", &format!("job:{{{job}}}"), "manifest", "\u{1b}[2J"]);
    let (_, shown) = OnTerminal::start(ctl.command(["job", "show", &job]).env("NO_COLOR", "1")).wait();
    assert!(!shown.replace(['\r', '\n'], "").contains(char::is_control), "{shown:?}");
}
