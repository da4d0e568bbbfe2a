//! Attacks on own actions: what is taken for more than it is, what leaves its directory, and what is hostile in a file.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use protocol::{
    action::{Argument, Arguments},
    command::Manifest,
    outcome::State,
};
use tests::{
    Ctl, Evidence, Raw, Redis,
    hostile::{arguments_with, words},
    renewed,
};

use super::{actions_dir, host, put, with_actions};

/// An action with a parameter of each kind, whose program prints each of its arguments behind a mark.
fn each_kind(root: &Path) -> String {
    format!(
        r#"
description = "Print each argument"
argv = [
    "printf", "<%s>", "{{pattern}}", "--pattern={{pattern}}", "{{integer}}", "{{choice}}", "{{boolean}}",
    "{{boolean?--boolean}}", "{{path}}", ["--group", "{{path}}"],
]
env = {{ PATTERN = "{{pattern}}", SECRET = "{{secret}}" }}
lock = "{{choice}}"
stdin = "json"

[parameters.pattern]
kind = "text"
pattern = ["*", "web?"]

[parameters.free]
kind = "text"

[parameters.integer]
kind = "integer"
min = 0
max = 9

[parameters.choice]
kind = "choice"
values = ["a", "b"]
default = "a"

[parameters.boolean]
kind = "boolean"

[parameters.path]
kind = "path"
under = {root:?}

[parameters.secret]
kind = "secret"
"#,
        root = root.display().to_string()
    )
}

/// What each word in the output is: those that the program got.
fn printed(output: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(output).into_owned();
    let inner = text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or_default();
    inner.split("><").map(str::to_owned).collect()
}

#[test]
fn attack_hostile_words_in_every_parameter() {
    let redis = Redis::start();
    let root = redis.directory().join("root");
    fs::create_dir(&root).expect("a directory");
    let worker = with_actions(&redis, "", &[("kinds", &each_kind(&root))]).start();
    worker.wait_online();
    let mut raw = Raw::on(&redis);
    let evidence = Evidence::new(&redis, "injected");
    let (mut sent, mut done) = (Vec::new(), 0);
    let names = ["pattern", "free", "integer", "choice", "boolean", "path", "secret", "dry_run"];
    for word in words(&evidence) {
        let below = Argument::Text(format!("{}/{word}", root.display()));
        for name in names.into_iter().chain([word.as_str()]) {
            for argument in arguments_with(&word).into_iter().chain([below.clone()]) {
                let given = Arguments::from([(name.to_owned(), argument)]);
                let manifest = raw.manifest(&["web1"], "kinds");
                let manifest = if name == "secret" {
                    let (sealed, key) = raw.seal("web1", manifest, given);
                    raw.send_sealed("web1", &sealed, &key);
                    sealed
                } else {
                    let manifest = Manifest { arguments: given, ..manifest };
                    raw.send("web1", &manifest);
                    manifest
                };
                sent.push(manifest);
            }
        }
        raw.wait_all("web1", &sent[done..]);
        done = sent.len();
    }
    assert_eq!(evidence.count(), 0);
    let mut succeeded = 0;
    for manifest in sent {
        let outcome = raw.outcome("web1", &manifest);
        let reason = outcome.reason.clone().unwrap_or_default();
        assert!(!reason.contains(char::is_control) && reason.len() < 1000, "{reason:?}");
        if outcome.state != State::Succeeded {
            continue;
        }
        succeeded += 1;
        // What the program got is what was asked for, as whole words that are no options.
        let known = ["--boolean", "--group"];
        for got in printed(&outcome.stdout.kept).iter().filter(|got| !got.is_empty() && !known.contains(&got.as_str()))
        {
            let value = got.strip_prefix("--pattern=").unwrap_or(got);
            let is_given = manifest.arguments.values().any(|argument| argument == &Argument::Text(value.into()));
            let is_below = Path::new(value).starts_with(&root);
            assert!(is_given || is_below || value == "a", "{manifest:?}: {got:?}");
            assert!(!value.starts_with('-'), "{manifest:?}: {got:?}");
        }
    }
    assert!(succeeded > 40, "only {succeeded} were run: the free text and the secret alone are more");
    raw.ping("web1");
    assert_eq!(worker.status().map(|status| status.pid), Some(worker.pid()));
}

/// Runs `show` with a path, through Redis alone: no `ctl` looks at it first.
fn shown(raw: &mut Raw, path: &Path) -> (State, String) {
    let arguments = Arguments::from([("path".to_owned(), Argument::Text(path.display().to_string()))]);
    let manifest = renewed(Manifest { arguments, ..raw.manifest(&["web1"], "show") });
    let outcome = raw.run("web1", &manifest);
    (outcome.state, outcome.reason.unwrap_or_else(|| String::from_utf8_lossy(&outcome.stdout.kept).into_owned()))
}

#[test]
fn attack_leaving_the_root_by_links_and_dots() {
    let directory = tempfile::tempdir().expect("a directory");
    let base = fs::canonicalize(directory.path()).expect("a path");
    let at = |name: &str| -> PathBuf { base.join(name) };
    fs::create_dir_all(at("root/sub")).expect("a directory");
    fs::create_dir(at("rooted")).expect("a directory");
    for (name, text) in
        [("root/a", "inside\n"), ("root/sub/b", "below\n"), ("outside", "stolen\n"), ("rooted/c", "no\n")]
    {
        fs::write(at(name), text).expect("a file");
    }
    symlink("sub/b", at("root/inner")).expect("a link");
    symlink("../outside", at("root/out")).expect("a link");
    symlink("..", at("root/sub/up")).expect("a link");
    symlink("/", at("root/slash")).expect("a link");
    symlink("../not-there-yet", at("root/dangling")).expect("a link");
    let show = format!(
        "description = 'x'\nargv = ['cat', '{{path}}']\n[parameters.path]\nkind = 'path'\nunder = {:?}\nrequired = true",
        at("root").display().to_string()
    );
    let (redis, _worker, _ctl) = host("", &[("show", &show)]);
    let mut raw = Raw::on(&redis);
    for (path, text) in [("root/a", "inside\n"), ("root/inner", "below\n"), ("root/sub/up/a", "inside\n")] {
        assert_eq!(shown(&mut raw, &at(path)), (State::Succeeded, text.to_owned()), "{path}");
    }
    for (path, state, said) in [
        ("root/out", State::Failed, "leads out of"),
        ("root/sub/up/out", State::Failed, "leads out of"),
        ("root/slash/etc/passwd", State::Failed, "leads out of"),
        ("root/dangling", State::Failed, "leads nowhere"),
        ("root/a/x", State::Failed, "cannot look at"),
        ("root/../outside", State::Rejected, "path must be a path below"),
        ("root/sub/up/../../outside", State::Rejected, "path must be a path below"),
        ("root/new/../../outside", State::Rejected, "path must be a path below"),
        ("rooted/c", State::Rejected, "path must be a path below"),
        ("outside", State::Rejected, "path must be a path below"),
    ] {
        let (found, reason) = shown(&mut raw, &at(path));
        assert!(found == state && reason.contains(said), "{path}: {found}: {reason}");
    }
    // A link that is planted later is seen, too.
    fs::remove_file(at("root/a")).expect("a file");
    symlink(at("outside"), at("root/a")).expect("a link");
    assert!(shown(&mut raw, &at("root/a")).1.contains("leads out of"));
}

#[test]
fn attack_redefining_what_every_worker_has() {
    let redis = Redis::start();
    let evidence = Evidence::new(&redis, "evidence");
    let evil = format!("description = 'x'\nargv = ['sh', '-c', {:?}]\nrepeat = 'repeatable'", evidence.script());
    let options = with_actions(&redis, "# no policy", &[("ping", &evil), ("cancel", &evil), ("collect-cpu", &evil)]);
    let worker = options.start();
    worker.wait_online();
    let ctl = Ctl::on(&redis).knowing_web1();
    ctl.run(["run", "--host", "web1", "ping"]).expect(0);
    assert!(ctl.run(["run", "--host", "web1", "collect-cpu"]).expect(0).stdout.contains("usage"));
    assert!(ctl.run(["run", "--host", "web1", "cancel"]).expect(1).stderr.contains("cancel"));
    assert_eq!(evidence.count(), 0);
    assert_eq!(worker.log().matches("no file can redefine").count(), 3, "{}", worker.log());
}

#[test]
fn attack_hostile_files_harm_neither_the_worker_nor_the_other_actions() {
    let redis = Redis::start();
    let good = "description = 'x'\nargv = ['echo', 'good']\nrepeat = 'repeatable'";
    let options = with_actions(&redis, "", &[("good", good)]);
    let directory = actions_dir(&options);
    let words = "x".repeat(15_000);
    let nested = format!("x = {}", "[".repeat(16_000));
    let tables: Vec<_> = (0..2000).map(|number| format!("[a{number}]\n")).collect();
    let many: Vec<_> = (0..200).map(|number| format!("[parameters.p{number}]\nkind = 'boolean'\n")).collect();
    let (tables, many) = (tables.concat(), many.concat());
    for (name, text) in [
        ("huge", "x".repeat(10_000_000).as_str()),
        ("nested", &nested),
        ("tables", &tables),
        ("many", &format!("description = 'x'\nargv = ['true']\nstdin = 'json'\n{many}")),
        ("long", &format!("description = '{words}'\nargv = ['true']")),
        ("escapes", "description = \"\\u001b[2J\\u001b]0;x\\u0007\"\nargv = ['true']"),
        ("key", "\"\\u001b[2J\" = 1"),
        (
            "stars",
            &format!(
                "description = 'x'\nargv = ['true', '{{a}}']\n[parameters.a]\nkind = 'text'\npattern = '{}'",
                "a*".repeat(500)
            ),
        ),
        ("zero", "description = 'x'\nargv = [\"tr\\u0000ue\"]"),
    ] {
        put(&directory.join(format!("{name}.toml")), text);
    }
    symlink("/dev/zero", directory.join("endless.toml")).expect("a link");
    symlink("/etc/shadow", directory.join("shadow.toml")).expect("a link");
    put(&directory.join("\u{1b}[2J.toml"), good);
    let worker = options.start();
    worker.wait_online();
    let ctl = Ctl::on(&redis).knowing_web1();
    assert!(ctl.run(["run", "--host", "web1", "good"]).expect(0).stdout.contains("good"));
    let log = worker.log();
    for name in ["huge", "nested", "tables", "many", "long", "escapes", "key", "zero", "endless", "shadow", "?[2J"] {
        assert!(log.contains(&format!("/{name}.toml")), "{name}: {log}");
    }
    // No content of a foreign file is quoted, and no terminal obeyed.
    assert!(!log.contains("root:") && !log.replace('\n', "").contains(char::is_control), "{log}");
    let status = worker.status().and_then(|status| status.actions).expect("a problem");
    assert!(status.len() < 1500 && !status.contains(char::is_control), "{status}");
    assert!(worker.rss_kb() < 64 * 1024, "{} kB", worker.rss_kb());
}
