use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;
use protocol::action::{Argument, Arguments, Kind};
use tempfile::TempDir;

use super::*;
use crate::actions::specs;

const ROTATE: &str = r#"
name = "rotate"
description = "Rotate a log"
argv = ["/usr/bin/rotate", ["--keep", "{keep}"], "{fast?--fast}", "--owner={owner}", "{file}"]
timeout = "5m"
lock = "log {file}"
user = "nobody"
cwd = "/var/log/"
env = { TOKEN = "{token}", LANG = "C" }

[parameters.file]
kind = "path"
under = ["/var/log/", "/srv/log"]
description = "the log"
required = true

[parameters.keep]
kind = "integer"
min = 1
max = 9

[parameters.fast]
kind = "boolean"

[parameters.owner]
kind = "text"
pattern = ["web*", "root"]
default = "root"

[parameters.mode]
kind = "enum"
values = ["a", "b"]

[parameters.token]
kind = "secret"
"#;

/// The example, in which every parameter reaches the program.
fn rotate() -> String {
    ROTATE.replace("\"{file}\"]", "\"{file}\", \"{mode}\"]")
}

fn defined(text: &str) -> Result<Definition, String> {
    Definition::read("rotate", text, &specs())
        .map_err(|Fault { at, reason }| format!("line {}: {reason}", text[..at].matches('\n').count() + 1))
}

#[track_caller]
fn refused(text: &str) -> String {
    defined(text).map(|definition| panic!("{text}: {definition:?}")).unwrap_err()
}

fn arguments<const N: usize>(given: [(&str, Argument); N]) -> Arguments {
    given.into_iter().map(|(name, argument)| (name.to_owned(), argument)).collect()
}

fn text(text: &str) -> Argument {
    Argument::Text(text.into())
}

fn words(definition: &Definition, given: Arguments) -> Vec<String> {
    let given = definition.spec.check(given).unwrap();
    let groups = definition.argv.iter();
    groups
        .filter_map(|group| group.iter().map(|word| word.fill(&given)).collect::<Option<Vec<_>>>())
        .flatten()
        .collect()
}

#[test]
fn a_file_becomes_an_action_like_any_other() {
    let definition = defined(&rotate()).unwrap();
    let spec = &definition.spec;
    assert_eq!((spec.name.as_str(), spec.summary.as_str(), spec.timeout_ms), ("rotate", "Rotate a log", 300_000));
    assert!(spec.own && !spec.metrics);
    let names: Vec<_> = spec.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    assert_eq!(names, ["file", "keep", "fast", "owner", "mode", "token", "dry_run"], "in the order of the file");
    let Kind::PathUnder { roots } = &spec.parameter("file").unwrap().kind else { panic!("{spec:?}") };
    assert_eq!(roots, &["/var/log", "/srv/log"]);
    assert!(spec.parameter("token").unwrap().secret);
    assert_eq!((definition.user.as_deref(), definition.stdin), (Some("nobody"), false));

    let given = arguments([("file", text("/var/log/x"))]);
    assert_eq!(words(&definition, given), ["/usr/bin/rotate", "--owner=root", "/var/log/x"]);
    let given = arguments([
        ("file", text("/srv/log/x")),
        ("keep", Argument::Integer(3)),
        ("fast", Argument::Boolean(true)),
        ("owner", text("web1")),
        ("mode", text("b")),
    ]);
    let all = ["/usr/bin/rotate", "--keep", "3", "--fast", "--owner=web1", "/srv/log/x", "b"];
    assert_eq!(words(&definition, given), all);
}

#[test]
fn what_a_file_does_not_say_is_safe() {
    let definition = defined("description = 'x'\nargv = ['true']").unwrap();
    let spec = &definition.spec;
    assert_eq!((spec.repeat, spec.timeout_ms), (protocol::action::Repeat::Once, 60_000));
    assert_eq!(spec.parameters.len(), 1, "dry_run alone");
    assert!(!definition.rehearses && definition.lock.is_none() && definition.user.is_none());
    let reads = defined("description = 'x'\nargv = ['true']\nrepeat = 'repeatable'").unwrap();
    assert!(reads.spec.parameters.is_empty());
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let mut wrong = Vec::new();
    for (from, to, said) in [
        ("name = \"rotate\"", "name = \"other\"", "line 2: its name is 'other', but its file is rotate.toml"),
        ("description = \"Rotate a log\"", "", "missing field `description`"),
        ("Rotate a log", " ", "line 3: its description is empty"),
        ("Rotate a log", "a\\nb", "line 3: its description must be one line"),
        ("timeout = \"5m\"", "timeout = \"soon\"", "line 5: timeout: "),
        ("timeout = \"5m\"", "timeout = \"0s\"", "line 5: timeout: it must be longer than nothing"),
        ("timeout = \"5m\"", "timeout = \"9000h\"", "line 5: timeout: it must be"),
        ("timeout = \"5m\"", "timeuot = \"5m\"", "line 5: unknown field `timeuot`"),
        ("user = \"nobody\"", "user = \"\"", "line 7: user: "),
        ("user = \"nobody\"", "user = 0", "line 7: invalid type"),
        ("cwd = \"/var/log/\"", "cwd = \"log\"", "line 8: cwd: 'log' must be an absolute path"),
        ("LANG = \"C\"", "\"A=B\" = \"C\"", "line 9: env: 'A=B' cannot be"),
        ("LANG = \"C\"", "REDFLEET_JOB = \"C\"", "line 9: env: 'REDFLEET_JOB' cannot be"),
        ("lock = \"log {file}\"", "lock = \"{keep}\"", "line 6: lock: 'keep' must be required or have a default"),
        ("lock = \"log {file}\"", "lock = \"{token}\"", "line 6: lock: the parameter 'token' is a secret"),
        ("\"{file}\", ", "\"{fiel}\", ", "line 4: argv: there is no parameter 'fiel' (did you mean 'file'?)"),
        ("\"{file}\", ", "\"{token}\", ", "line 4: argv: the parameter 'token' is a secret"),
        ("\"{file}\", ", "\"{file\", ", "line 4: argv: '{file': a '{' has no '}'"),
        ("\"{file}\", ", "7, ", "line 4: argv: each item must be a text"),
        ("\"{file}\", ", "[], ", "line 4: argv: each item must be a text"),
        ("\"{file}\", ", "[\"a\", 7], ", "line 4: argv: each item must be a text"),
        ("{fast?--fast}", "{keep?--keep}", "line 4: argv: the parameter 'keep' is no boolean"),
        ("\"/usr/bin/rotate\"", "\"./rotate\"", "line 4: argv: './rotate' must be an absolute path"),
        ("\"/usr/bin/rotate\"", "\"\"", "line 4: argv: its first item must be the program"),
        ("\"/usr/bin/rotate\"", "\"{mode}\"", "line 4: argv: its first item must be the program"),
        ("{fast?--fast}", "x", "line 22: parameter 'fast' does not reach the program"),
        ("under = [\"/var/log/\", \"/srv/log\"]", "", "line 11: parameter 'file': it needs the directory"),
        ("under = [\"/var/log/\", \"/srv/log\"]", "under = \"log\"", "line 11: parameter 'file': 'log' must be"),
        (
            "under = [\"/var/log/\", \"/srv/log\"]",
            "under = \"/var/../etc\"",
            "line 11: parameter 'file': '/var/../etc'",
        ),
        ("under = [\"/var/log/\", \"/srv/log\"]", "under = 1", "it must be a text or an array of texts"),
        ("max = 9", "", "line 17: parameter 'keep': it needs a min and a max"),
        ("max = 9", "max = 0", "line 17: parameter 'keep': its min is greater"),
        ("max = 9", "max = 9\nvalues = [\"x\"]", "parameter 'keep': 'values' is for kind = \"choice\" only"),
        ("max = 9", "max = 9\ndefault = 10", "parameter 'keep': its default does not fit: rotate: keep must be"),
        ("max = 9", "max = 9\ndefault = 1.5", "parameter 'keep': its default must be"),
        ("kind = \"boolean\"", "kind = \"bool\"", "line 23: unknown variant `bool`"),
        ("kind = \"boolean\"", "kind = \"boolean\"\nmin = 1", "parameter 'fast': 'min' is for kind = \"integer\" only"),
        ("[\"web*\", \"root\"]", "[\"web**\"]", "parameter 'owner': 'web**' is no pattern"),
        ("[\"web*\", \"root\"]", "[]", "parameter 'owner': it needs 'pattern'"),
        ("default = \"root\"", "default = \"a b\"", "parameter 'owner': its default does not fit"),
        ("default = \"root\"", "default = \"root\"\nrequired = true", "it is required, so it needs no default"),
        ("pattern = [\"web*\", \"root\"]", "", "argv: the parameter 'owner' takes any text: give it a pattern"),
        ("[\"a\", \"b\"]", "[]", "parameter 'mode': it needs 'values'"),
        ("[\"a\", \"b\"]", "[\"a\", \"\"]", "parameter 'mode': one of its values is empty"),
        ("kind = \"secret\"", "kind = \"secret\"\ndefault = \"x\"", "parameter 'token': a secret has no default"),
        ("[parameters.fast]", "[parameters.\"a b\"]", "parameter 'a b': its name must be"),
        ("[parameters.fast]", "[parameters.keep]", "duplicate key"),
    ] {
        let changed = rotate().replacen(from, to, 1);
        assert_ne!(changed, rotate(), "{from}");
        let reason = refused(&changed);
        if !reason.contains(said) {
            wrong.push(format!("{to}: {reason}\n  not: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let with = |line: &str| refused(&format!("description = 'x'\nargv = ['true']\n{line}"));
    assert!(with("metrics = true").starts_with("line 3: metrics: figures come from"));
    assert!(with("result = 'yaml'").starts_with("line 3: unknown variant `yaml`"));
    assert!(with("stdin = 'text'").contains("unknown variant `text`"));
    assert!(with("repeat = 'twice'").contains("unknown variant `twice`"));
    assert!(
        with("[parameters.dry_run]\nkind = 'boolean'\nrequired = true").contains("'dry_run': it must be an optional")
    );
    assert!(with("argv = ['false']").contains("duplicate key"));
    assert_eq!(refused("description = 'x'\nargv = 'true'").split(':').next(), Some("line 2"));
    assert_eq!(refused("a b\n").split(':').next(), Some("line 1"));
}

#[test]
fn no_interpreter_reads_a_parameter_as_its_script() {
    let file = |argv: &str| {
        format!("description = 'x'\nargv = {argv}\n[parameters.file]\nkind = 'path'\nunder = '/srv'\nrequired = true")
    };
    for argv in [
        "['sh', '-c', 'rm {file}']",
        "['/bin/bash', '-ec', '{file}']",
        "['env', 'A=b', '/usr/bin/dash', '-c', '{file}']",
        "['sudo', 'sh', ['-c', 'ls {file}']]",
        "['busybox', 'sh', '-c', '{file}']",
        "['bash', '-o', 'pipefail', '-c', '{file}']",
        "['python3', '-I', '-c', 'open({file})']",
        "['/usr/bin/perl', '-we', '{file}']",
    ] {
        assert!(refused(&file(argv)).contains("as part of a script"), "{argv}");
    }
    for argv in [
        "['sh', '-c', 'rm -- \"$1\"', 'sh', '{file}']",
        "['head', '-c', '{file}']",
        "['tar', '-c', '{file}']",
        "['python3', '/srv/tool.py', '-c', '{file}']",
        "['perl', '--', '{file}']",
    ] {
        assert!(defined(&file(argv)).is_ok(), "{argv}");
    }
}

#[test]
fn names_of_redfleet_are_taken() {
    for name in specs().iter().map(|spec| spec.name.as_str()).chain(["cancel"]) {
        let fault = Definition::read(name, "description = 'x'\nargv = ['true']", &specs()).unwrap_err();
        assert!(fault.reason.contains("no file can redefine"), "{name}: {}", fault.reason);
    }
    for name in ["", "Ping", "a b", "-x", "1x", "a:b", "é", "a/b", "*", &"x".repeat(65)] {
        let fault = Definition::read(name, "description = 'x'\nargv = ['true']", &specs()).unwrap_err();
        assert!(fault.reason.contains("cannot be the name"), "{name}: {}", fault.reason);
    }
}

fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    put(&directory, "good.toml", "description = 'x'\nargv = ['true']");
    directory
}

fn put(directory: &TempDir, name: &str, content: impl AsRef<[u8]>) {
    let path = directory.path().join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
}

fn loaded(directory: &TempDir) -> (Vec<String>, Vec<String>, Vec<String>) {
    let own = ActionsDir::Named(directory.path().to_owned()).load(&specs()).unwrap();
    let name = directory.path().display().to_string();
    let problems = own.problems().iter().map(|problem| problem.to_string().replace(&format!("{name}/"), ""));
    let names = own.specs().map(|spec| spec.name.clone()).collect();
    (names, own.broken().to_vec(), problems.collect())
}

#[test]
fn a_broken_file_is_reported_and_the_others_are_used() {
    let directory = directory();
    put(&directory, "a.toml", "description = 'x'\n\nargv = 7");
    put(&directory, "b.toml", b"description = '\xff'\nargv = ['true']");
    put(&directory, "c.toml", "x".repeat(limits::ACTION_FILE_BYTES + 1));
    put(&directory, "d.toml", format!("x = {}", "[".repeat(limits::ACTION_FILE_BYTES - 10)));
    put(&directory, "e.toml", "description = 'x'\nargv = ['true']");
    fs::set_permissions(directory.path().join("e.toml"), fs::Permissions::from_mode(0o664)).unwrap();
    put(&directory, "ping.toml", "description = 'x'\nargv = ['true']");
    put(&directory, "README", "no action");
    put(&directory, ".draft.toml", "no action either");
    put(&directory, "zero.toml", "");
    fs::create_dir(directory.path().join("folder.toml")).unwrap();
    symlink("/dev/zero", directory.path().join("endless.toml")).unwrap();
    symlink("gone", directory.path().join("gone.toml")).unwrap();
    nix::unistd::mkfifo(&directory.path().join("pipe.toml"), nix::sys::stat::Mode::S_IRUSR).unwrap();

    let (names, broken, problems) = loaded(&directory);
    assert_eq!(names, ["good"]);
    let all = ["a", "b", "c", "d", "e", "endless", "folder", "gone", "ping", "pipe", "zero"];
    assert_eq!(broken, all);
    let expected = [
        "a.toml, line 3: invalid type: integer `7`",
        "b.toml: it is no UTF-8 text",
        "c.toml: it has more than 16384 bytes",
        "d.toml, line 1: ",
        "e.toml: it can be changed by others: chmod go-w it",
        "endless.toml: it is no file",
        "folder.toml: it is no file",
        "gone.toml: it cannot be read: No such file",
        "ping.toml, line 1: 'ping' is an action of Redfleet itself",
        "pipe.toml: it is no file",
        "zero.toml, line 1: missing field",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.starts_with(expected), "{problem}\n  not: {expected}");
    }
    let own = ActionsDir::Named(directory.path().to_owned()).load(&specs()).unwrap();
    assert!(own.problem().unwrap().ends_with("; and 10 more"), "{:?}", own.problem());
}

#[test]
fn what_others_can_put_files_into_is_not_used() {
    let directory = directory();
    assert_eq!(loaded(&directory).0, ["good"]);
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let (names, broken, problems) = loaded(&directory);
    assert_eq!((names.len(), broken), (0, vec!["good".to_owned()]));
    assert!(problems[0].contains("its directory can be changed by others"), "{problems:?}");
    let missing = directory.path().join("missing");
    assert!(ActionsDir::Named(missing.clone()).load(&specs()).is_err());
    assert_eq!(ActionsDir::Beside(missing).load(&specs()).unwrap().specs().count(), 0);
}

#[test]
fn there_are_not_too_many() {
    let directory = directory();
    for number in 0..limits::ACTION_FILES + 2 {
        put(&directory, &format!("a{number:03}.toml"), "description = 'x'\nargv = ['true']");
    }
    let (names, broken, problems) = loaded(&directory);
    assert_eq!((names.len(), broken.len(), problems.len()), (limits::ACTION_FILES, 3, 1), "{problems:?}");
}

#[test]
fn the_examples_in_the_documents_are_understood() {
    let mut examples = 0;
    for document in ["README.md", "docs/ACTIONS.md"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document);
        let text = fs::read_to_string(path).unwrap();
        let blocks = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
        for block in blocks.filter(|block| block.contains("\nargv = ")) {
            let definition = Definition::read("example", block, &specs()).unwrap_or_else(|fault| panic!("{fault:?}"));
            assert_eq!(definition.spec.parameters[0].name, "file", "{document}: in the order of the file");
            examples += 1;
        }
    }
    assert_eq!(examples, 2);
}

proptest! {
    #[test]
    fn strange_files_do_no_harm(at in 0..ROTATE.len(), cut in 0..40_usize, text in "[\\PC\\x00\n\"'{}\\[\\]=.?a-z0-9]{0,12}") {
        let mut bytes = rotate().into_bytes();
        bytes.splice(at..(at + cut).min(bytes.len()), text.bytes());
        let text = String::from_utf8_lossy(&bytes);
        // Whatever is understood can be described, and what is not has a place in the text.
        match Definition::read("rotate", &text, &specs()) {
            Ok(definition) => prop_assert!(serde_json::to_string(&definition.spec).is_ok()),
            Err(fault) => prop_assert!(fault.at <= text.len() && !fault.reason.is_empty(), "{fault:?}"),
        }
    }

    #[test]
    fn strange_words_do_no_harm(text in "[{}?a-z\\PC]{0,20}") {
        if let Ok(template) = super::template::Template::new(&text) {
            prop_assert_eq!(template.literal().is_some(), template.places().count() == 0);
            prop_assert_eq!(template.fill(&Arguments::new()).is_some(), template.places().count() == 0);
        }
    }
}
