//! What runs: programs with their parameters, users, input and results.

use std::fs;

use protocol::{
    action::{Argument, Arguments},
    command::Manifest,
    keys::Keys,
    outcome::State,
};
use serde_json::{Value, json};
use tests::{Ctl, Evidence, Gate, Output, Raw, Redis, eventually, renewed, skipped};

use super::host;

const SHOW: &str = r#"
description = "Show each argument on a line"
argv = ["printf", "%s\\n", ["--keep", "{keep}"], "{fast?--fast}", "--role={role}", "{mode}"]

[parameters.mode]
kind = "choice"
values = ["quick", "full"]
required = true
description = "how thorough"

[parameters.keep]
kind = "integer"
min = 1
max = 9

[parameters.fast]
kind = "boolean"

[parameters.role]
kind = "text"
pattern = "web*"
default = "web1"
"#;

/// A line of shell as an item of `argv`, in which braces have a meaning of their own.
fn item(script: &str) -> String {
    format!("{:?}", script.replace('{', "{{").replace('}', "}}"))
}

/// Runs an action on web1.
#[track_caller]
fn run(ctl: &Ctl, words: &[&str]) -> Output {
    ctl.run([&["run", "--host", "web1", "-o", "json"], words].concat())
}

/// The result of an action on web1 that ended with this exit code of `ctl`.
#[track_caller]
fn result(ctl: &Ctl, words: &[&str], code: i32) -> Value {
    run(ctl, words).expect(code).json()["hosts"][0].clone()
}

#[test]
fn an_own_action_is_listed_checked_completed_and_run_like_any_other() {
    let (_redis, worker, ctl) = host("", &[("show", SHOW)]);
    worker.wait_log("allowed to change this host: show");
    let listed = ctl.run(["action", "list"]).expect(0);
    assert!(listed.stdout.contains("Show each argument on a line"), "{listed}");
    let shown = ctl.run(["action", "show", "show"]).expect(0);
    for part in ["mode=quick|full", "[keep=N]", "text like web*", "how thorough", "[dry_run=true|false]", "actions.d"] {
        assert!(shown.stdout.contains(part), "no {part}: {shown}");
    }

    for (words, said) in [
        (&["show"][..], "show needs mode=quick|full: how thorough"),
        (&["show", "mode=slow"], "mode must be one of quick, full, not 'slow'"),
        (&["show", "mode=full", "keep=10"], "keep must be a whole number from 1 to 9"),
        (&["show", "mode=full", "role=db1"], "role must be text like web*, not 'db1'"),
        (&["show", "mode=full", "role=web1;id"], "role must be text like web*"),
        (&["show", "mode=full", "rule=web1"], "has no parameter 'rule'"),
        (&["show", "mode=full", "--", "x"], "takes no words after --"),
    ] {
        let refused = run(&ctl, words).expect(1);
        assert!(refused.stderr.contains(said), "{words:?}: {refused}");
    }

    let all = result(&ctl, &["show", "mode=full", "keep=3", "fast=true", "role=web-7"], 0);
    assert_eq!(all["stdout"], "--keep\n3\n--fast\n--role=web-7\nfull\n");
    assert_eq!(all["data"], json!({ "changed": true }));
    let few = result(&ctl, &["show", "mode=quick"], 0);
    assert_eq!(few["stdout"], "--role=web1\nquick\n");
    // On a busy machine the catalogue may come too late for the shell.
    eventually("the words to be completed", || {
        let completed = ctl.clone().env("COMPLETE", "fish").run(["--", "ctl", "run", "--host", "web1", "show", "mo"]);
        (completed.stdout.contains("mode=quick") && completed.stdout.contains("mode=full")).then_some(())
    });
}

#[test]
fn a_dry_run_runs_nothing_and_says_what_would_be_run() {
    let place = Redis::start();
    let evidence = Evidence::new(&place, "evidence");
    let touch = format!(
        "description = 'x'\nargv = ['sh', '-c', {:?}, 'sh', '{{word}}']\nenv = {{ TOKEN = '{{token}}' }}\ncwd = '/'\n\
         [parameters.word]\nkind = 'text'\npattern = '*'\n[parameters.token]\nkind = 'secret'",
        evidence.script()
    );
    let rehearse = "description = 'x'\nargv = ['printf', 'would %s\\n', '{dry_run}']\n\
                    [parameters.dry_run]\nkind = 'boolean'";
    let (_redis, _worker, ctl) = host("", &[("touch", &touch), ("rehearse", rehearse)]);
    let dry = result(&ctl, &["touch", "word=x", "token=hunter2", "dry_run=true"], 0);
    let would = format!("run {}", json!(["sh", "-c", evidence.script(), "sh", "x"]));
    let steps = [&would, "in the directory /", "with TOKEN in its environment"];
    assert_eq!(dry["data"], json!({ "changed": false, "would": steps }));
    assert_eq!(evidence.count(), 0);
    let again = ctl.run(["run", "--host", "web1", "--dry-run", "touch", "word=x"]).expect(0);
    assert!(again.stdout.contains("run [") && evidence.count() == 0, "{again}");
    assert_eq!(result(&ctl, &["touch", "word=x"], 0)["data"], json!({ "changed": true }));
    assert_eq!(evidence.count(), 1);
    // A program that knows how to rehearse is asked.
    let dry = result(&ctl, &["rehearse", "dry_run=true"], 0);
    assert_eq!(dry["data"], json!({ "changed": false, "would": ["would true"] }));
    let wet = result(&ctl, &["rehearse"], 0);
    assert_eq!((&wet["data"], &wet["stdout"]), (&json!({ "changed": true }), &json!("would false\n")));
}

#[test]
fn parameters_reach_a_program_as_json_with_their_types() {
    let echo = "description = 'x'\nargv = ['cat']\nrepeat = 'repeatable'\nstdin = 'json'\nresult = 'json'\n\
                [parameters.note]\nkind = 'text'\n[parameters.count]\nkind = 'integer'\nmin = -5\nmax = 5\n\
                [parameters.deep]\nkind = 'boolean'\ndefault = false\n[parameters.token]\nkind = 'secret'";
    let (_redis, _worker, ctl) = host("", &[("echo", echo)]);
    let note = "-rf \"x\" $(id)\n; 'y' \u{1f600}";
    let data = result(&ctl, &["echo", &format!("note={note}"), "count=-3"], 0)["data"].clone();
    assert_eq!(data, json!({ "count": -3, "deep": false, "note": note }));
}

#[test]
fn json_becomes_data_and_figures_of_its_own() {
    let figures = "description = 'x'\nargv = ['printf', '%s', '{{\"left\": 12.5, \"name\": \"a b\", \"ok\": true, \
                   \"list\": [1]}}']\nrepeat = 'repeatable'\nresult = 'json'\nmetrics = true";
    let plain = figures.replace("metrics = true", "");
    let (redis, mut worker, ctl) = host("", &[("figures", figures), ("plain", &plain)]);
    let mut raw = Raw::on(&redis);
    let data = result(&ctl, &["figures"], 0);
    assert_eq!(data["data"], json!({ "left": 12.5, "name": "a b", "ok": true, "list": [1] }));
    assert_eq!(data["stdout"], "", "what became data is no output");
    let key = "server:{web1}:custom:figures";
    let field = |raw: &mut Raw, name: &str| raw.query::<Option<String>>(&["HGET", key, name]);
    assert_eq!(field(&mut raw, "left").as_deref(), Some("12.5"));
    assert_eq!(field(&mut raw, "name").as_deref(), Some("a b"));
    assert_eq!(field(&mut raw, "list"), None, "figures are flat");
    assert!(field(&mut raw, "sampled_at").is_some());
    let ttl: i64 = raw.query(&["TTL", key]);
    assert!((1..=3600).contains(&ttl), "{ttl}");
    result(&ctl, &["plain"], 0);
    assert_eq!(raw.query::<u64>(&["EXISTS", "server:{web1}:custom:plain"]), 0);

    let shown = ctl.run(["host", "show", "web1", "-o", "json"]).expect(0).json();
    assert_eq!(shown["metrics"]["custom:figures"]["left"], 12.5);
    let doctor = Ctl::as_administrator(&redis).run(["doctor", "-o", "json"]).expect(0);
    assert!(doctor.stdout.contains("every key has a TTL or a cap"), "{doctor}");
    worker.terminate();
    ctl.run(["host", "forget", "web1"]).expect(0);
    assert_eq!(raw.query::<Vec<String>>(&["KEYS", "server:{web1}:*"]), [""; 0]);
}

#[test]
fn a_result_that_cannot_be_read_fails_and_is_kept_as_output() {
    let file = |script: &str| {
        let script = item(script);
        format!("description = 'x'\nargv = ['sh', '-c', {script}]\nrepeat = 'repeatable'\nresult = 'json'")
    };
    let once = file("printf '{\"changed\": 1}'").replace("repeatable", "once");
    let unchanged = file("printf '{\"changed\": false}'").replace("repeatable", "once");
    let files = [
        ("words", file("echo hello")),
        ("list", file("echo '[1]'")),
        ("two", file("echo '{} {}'")),
        ("nothing", file("true")),
        ("long", file("printf '{\"x\": \"'; head -c 300000 /dev/zero | tr '\\0' x; printf '\"}'")),
        ("deep", file("printf '{\"x\":'; head -c 1000 /dev/zero | tr '\\0' '['")),
        ("failing", file("echo '{\"left\": 3}'; echo why >&2; exit 3")),
        ("unclear", once),
        ("unchanged", unchanged),
    ];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let (_redis, _worker, ctl) = host("", &files);
    for (action, said) in [
        ("words", "its standard output is no JSON object: "),
        ("list", "its standard output is no JSON object: "),
        ("two", "trailing characters"),
        ("nothing", "its standard output is no JSON object: EOF"),
        ("long", "its standard output has more than 262144 bytes"),
        ("deep", "recursion limit"),
        ("unclear", "says 'changed', which must be true or false"),
        ("failing", "exit code 3"),
    ] {
        let host = result(&ctl, &[action], 2);
        let reason = host["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(said), "{action}: {host}");
        assert_eq!(host["stdout"] == "", matches!(action, "nothing" | "failing"), "{action}: {host}");
    }
    let failing = result(&ctl, &["failing"], 2);
    assert_eq!((&failing["data"], &failing["stderr"]), (&json!({ "left": 3 }), &json!("why\n")));
    assert_eq!(result(&ctl, &["unchanged"], 0)["data"], json!({ "changed": false }));
}

#[test]
fn it_runs_once_under_its_lock_and_within_its_time() {
    let place = Redis::start();
    let (evidence, mut gate) = (Evidence::new(&place, "evidence"), Gate::new(&place, "gate"));
    let wait = format!(
        "description = 'x'\nargv = ['sh', '-c', {}]\nlock = 'site {{name}}'\n\
         [parameters.name]\nkind = 'text'\npattern = '*'\nrequired = true",
        item(&format!("{}; {}", evidence.script(), gate.script()))
    )
    // The parameter reaches the program, too.
    .replace("]\nlock", ", 'sh', '{name}']\nlock");
    let endless = "description = 'x'\nargv = ['sleep', '600']\ntimeout = '1s'";
    let (redis, worker, ctl) = host("slots = 4", &[("wait", &wait), ("endless", endless)]);
    let mut raw = Raw::on(&redis);
    let manifest = |raw: &mut Raw, name: &str| {
        let arguments = Arguments::from([("name".to_owned(), Argument::Text(name.to_owned()))]);
        renewed(Manifest { arguments, ..raw.manifest(&["web1"], "wait") })
    };
    let (first, second) = (manifest(&mut raw, "shop"), manifest(&mut raw, "shop"));
    raw.send("web1", &first);
    gate.reached();
    raw.send("web1", &second);
    raw.wait_state("web1", &second, State::Delivered);
    let waits: Option<String> = eventually("what it waits for", || {
        let key = Keys::new(None).job_hosts(second.job);
        raw.query::<Option<String>>(&["HGET", &key, "web1:waits_for"]).map(Some)
    });
    assert!(waits.as_deref().is_some_and(|waits| waits.contains("lock 'site shop'")), "{waits:?}");
    assert_eq!(evidence.count(), 1);
    gate.open();
    raw.wait_state("web1", &first, State::Succeeded);
    gate.open();
    raw.wait_state("web1", &second, State::Succeeded);
    // A copy of a command that has ended starts nothing.
    raw.send("web1", &first);
    raw.wait_settled("web1");
    raw.ping("web1");
    assert_eq!(evidence.count(), 2);

    let late = result(&ctl, &["endless"], 2);
    assert_eq!(late["state"], "timed_out", "{late}");
    let audit = fs::read_to_string(worker.options().directory().join("state/audit.jsonl")).expect("an audit trail");
    assert!(audit.lines().any(|line| line.contains("\"wait\"") && line.contains("shop")), "{audit}");
}

#[test]
fn a_secret_reaches_the_program_and_nobody_else() {
    let token = "description = 'x'\nargv = ['sh', '-c', 'printf %s \"$TOKEN\" | tr a-z b-za']\n\
                 env = { TOKEN = '{token}' }\n[parameters.token]\nkind = 'secret'\nrequired = true";
    let (redis, worker, ctl) = host("[log]\nlevel = 'trace'\n", &[("token", token)]);
    let shown = result(&ctl, &["token", "token=tin-opener"], 0);
    assert_eq!(shown["stdout"], "ujo-pqfofs");
    let mut raw = Raw::on(&redis);
    raw.wait_settled("web1");
    for key in raw.query::<Vec<String>>(&["KEYS", "*"]) {
        let kept: Option<Vec<u8>> = redis::cmd("DUMP").arg(&key).query(&mut redis.blocking()).expect("a value");
        let kept = String::from_utf8_lossy(&kept.unwrap_or_default()).into_owned();
        assert!(!kept.contains("tin-opener"), "{key}");
    }
    let audit = fs::read_to_string(worker.options().directory().join("state/audit.jsonl")).expect("an audit trail");
    assert!(!worker.log().contains("tin-opener") && !audit.contains("tin-opener"));
}

#[test]
fn it_runs_as_its_user_in_its_directory_with_its_environment() {
    if !nix::unistd::geteuid().is_root() {
        skipped("it_runs_as_its_user_in_its_directory_with_its_environment", "it needs root");
        return;
    }
    let who = "description = 'x'\nargv = ['sh', '-c', 'id -un; pwd; echo $GREETING']\nuser = 'nobody'\ncwd = '/'\n\
               env = { GREETING = 'hello {name}' }\n[parameters.name]\nkind = 'text'\npattern = '*'\ndefault = 'you'";
    let lost = "description = 'x'\nargv = ['true']\nuser = 'no-such-user'";
    let (_redis, _worker, ctl) = host("", &[("who", who), ("lost", lost)]);
    assert_eq!(result(&ctl, &["who", "name=ann"], 0)["stdout"], "nobody\n/\nhello ann\n");
    assert_eq!(result(&ctl, &["who"], 0)["stdout"], "nobody\n/\nhello you\n");
    let reason = result(&ctl, &["lost"], 2)["reason"].to_string();
    assert!(reason.contains("there is no user 'no-such-user'"), "{reason}");
}
