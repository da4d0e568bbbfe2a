//! The files: where they are, who may run what they define, and what is said about those that are broken.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    process::Command,
};

use protocol::environment;
use tests::{Ctl, Output, Redis, Worker, WorkerOptions, binary, eventually};

use super::{actions_dir, host, put, with_actions};

const HELLO: &str = "description = 'Say hello'\nargv = ['echo', 'hello', '{name}']\nrepeat = 'repeatable'\n\
                     [parameters.name]\nkind = 'text'\npattern = '*'\ndefault = 'you'";

const CHANGE: &str = "description = 'Change something'\nargv = ['true', '{name}']\n\
                      [parameters.name]\nkind = 'text'\npattern = '*'\nrequired = true";

/// Runs the worker's program to its end, with the settings of this worker.
fn ask(options: &WorkerOptions, words: &[&str]) -> Output {
    let mut command = Command::new(binary("worker"));
    for (name, _) in environment::ALL {
        command.env_remove(name);
    }
    let file = options.directory().join("worker.toml");
    let output = command.args(words).arg("--config").arg(file).output().expect("the worker starts");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    Output { code: output.status.code().expect("an exit code"), stdout, stderr }
}

#[test]
fn a_broken_file_is_reported_everywhere_and_the_others_are_used() {
    let broken = "description = 'x'\nargv = ['true',\n  '{nmae}']\n[parameters.name]\nkind = 'text'\npattern = '*'";
    let redis = Redis::start();
    // What the policy says about the broken one does not matter until it is mended.
    let rules = "[[policy]]\nwho = ['*']\nactions = ['hello', 'broken']\n[[policy]]\nwho = ['*']\n\
                 actions = ['broken']\narguments = { name = 'web*' }\n";
    let options = with_actions(&redis, rules, &[("hello", HELLO), ("broken", broken)]);
    let worker = options.start();
    worker.wait_online();
    let said = "actions.d/broken.toml, line 3: argv: there is no parameter 'nmae' (did you mean 'name'?)";
    worker.wait_log("an action of this host's own is broken: ");
    assert!(worker.log().contains(said), "{}", worker.log());
    let checked = ask(&options, &["--check-config"]).expect(64);
    assert!(checked.stderr.contains(said) && checked.stderr.starts_with("error: "), "{checked}");
    assert!(checked.stdout.contains("own action       hello: Say hello"), "{checked}");
    let doctor = Ctl::as_administrator(&redis).run(["doctor", "-o", "json"]).expect(2);
    assert!(doctor.stdout.contains("did you mean 'name'?"), "{doctor}");
    let ctl = Ctl::on(&redis).knowing_web1();
    assert_eq!(ctl.run(["exec", "web1", "--", "true"]).code, 255);
    assert!(ctl.run(["run", "--host", "web1", "hello"]).expect(0).stdout.contains("hello you"));
    let unknown = ctl.run(["run", "--host", "web1", "broken"]).expect(1);
    assert!(unknown.stderr.contains("'broken'"), "{unknown}");

    put(&actions_dir(&options).join("broken.toml"), &broken.replace("nmae", "name"));
    let checked = ask(&options, &["--check-config"]).expect(0);
    assert!(checked.stdout.contains("own action       broken: x"), "{checked}");
}

#[test]
fn files_are_read_anew_at_sighup() {
    let rules = "[[policy]]\nwho = ['*']\nactions = ['*']\n";
    let (_redis, worker, ctl) = host(rules, &[]);
    let directory = actions_dir(&worker.options());
    let offered = || ctl.run(["action", "list"]).expect(0).stdout.contains("hello");
    assert!(!offered());
    put(&directory.join("hello.toml"), HELLO);
    worker.hangup();
    eventually("the new action", || offered().then_some(()));
    assert!(ctl.run(["run", "--host", "web1", "hello", "name=ann"]).expect(0).stdout.contains("hello ann"));

    put(&directory.join("hello.toml"), "argv = 7");
    worker.hangup();
    let problem = || worker.status().and_then(|status| status.actions);
    let said = eventually("the report of what is broken", problem);
    assert!(said.contains("hello.toml, line 1: "), "{said}");
    eventually("it to be gone", || (!offered()).then_some(()));

    put(&directory.join("hello.toml"), HELLO);
    worker.hangup();
    eventually("it to be back", || offered().then_some(()));
    eventually("nothing to be wrong", || problem().is_none().then_some(()));
    assert_eq!(worker.status().map(|status| status.pid), Some(worker.pid()));
}

#[test]
fn what_the_policy_names_stays_when_its_file_is_gone() {
    let rules = "[[policy]]\nwho = ['*']\nactions = ['ping', 'change']\n";
    let (_redis, worker, ctl) = host(rules, &[("change", CHANGE)]);
    fs::remove_file(actions_dir(&worker.options()).join("change.toml")).expect("a file");
    worker.hangup();
    let said = eventually("the report", || worker.status().and_then(|status| status.actions));
    assert!(said.contains("those from before stay") && said.contains("no action 'change'"), "{said}");
    ctl.run(["run", "--host", "web1", "change", "name=x"]).expect(0);
}

#[test]
fn without_a_directory_there_are_none_and_one_that_is_named_must_be_there() {
    let redis = Redis::start();
    let options = Worker::on(&redis);
    let mut worker = options.start();
    worker.wait_online();
    worker.terminate();
    assert!(ask(&options, &["--check-config"]).expect(0).stdout.contains("actions_dir      none"));

    let elsewhere = options.directory().join("elsewhere");
    let named = Worker::on(&redis).config(&format!("actions_dir = {:?}", elsewhere.display().to_string()));
    let mut worker = named.start();
    assert_eq!(worker.wait().code(), Some(64));
    assert!(worker.log().contains("actions_dir: cannot read"), "{}", worker.log());
    put(&elsewhere.join("hello.toml"), HELLO);
    let worker = named.start();
    worker.wait_online();
    let actions = Ctl::on(&redis).run(["action", "list"]).expect(0);
    assert!(actions.stdout.contains("Say hello"), "{actions}");
}

#[test]
fn a_file_that_others_can_change_defines_nothing() {
    let redis = Redis::start();
    let options = with_actions(&redis, "", &[("hello", HELLO)]);
    let path = actions_dir(&options).join("hello.toml");
    for (file, mode) in [(path.clone(), 0o646), (actions_dir(&options), 0o777)] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("its mode");
        let mut worker = options.start();
        worker.wait_online();
        assert!(worker.log().contains("can be changed by others"), "{}", worker.log());
        let unknown = Ctl::on(&redis).run(["run", "--host", "web1", "hello"]).expect(1);
        assert!(unknown.stderr.contains("hello"), "{unknown}");
        worker.terminate();
        fs::set_permissions(&file, Permissions::from_mode(0o755)).expect("its mode");
    }
}

#[test]
fn own_actions_are_off_until_they_are_allowed() {
    let redis = Redis::start();
    let options = with_actions(&redis, "# no policy, and nothing allowed", &[("hello", HELLO), ("change", CHANGE)]);
    let worker = options.start();
    worker.wait_online();
    let ctl = Ctl::on(&redis).knowing_web1();
    for (action, argument) in [("hello", "name=ann"), ("change", "name=ann")] {
        let refused = ctl.run(["run", "--host", "web1", action, argument]).expect(1);
        assert!(refused.stderr.contains("not allow"), "{refused}");
    }
    ctl.run(["run", "--host", "web1", "ping"]).expect(0);
}

#[test]
fn rules_grant_own_actions_and_their_arguments_as_those_of_all_workers() {
    let rules = "[[policy]]\nwho = ['*']\nactions = ['*']\n[[policy]]\nwho = ['*']\nactions = ['change']\n\
                 arguments = { name = 'web?' }\n";
    let (redis, worker, ctl) = host(rules, &[("hello", HELLO), ("change", CHANGE)]);
    // What changes the host must be named literally, and then its arguments count.
    ctl.run(["run", "--host", "web1", "hello", "name=ann"]).expect(0);
    ctl.run(["run", "--host", "web1", "change", "name=web7"]).expect(0);
    let refused = ctl.run(["run", "--host", "web1", "change", "name=db7"]).expect(2);
    assert!(format!("{refused}").contains("wants name to be 'web?'"), "{refused}");
    let options = worker.options();
    let start = ["policy", "test", "--principal", "ann", "--action", "change", "--arg"];
    let granted = ask(&options, &[&start[..], &["name=web7"]].concat()).expect(0);
    assert!(granted.stdout.starts_with("granted by rule 2"), "{granted}");
    let denied = ask(&options, &[&start[..], &["name=db7"]].concat()).expect(1);
    assert!(denied.stdout.contains("wants name to be 'web?', not 'db7'"), "{denied}");
    let misspelt = ask(&options, &["policy", "test", "--principal", "ann", "--action", "chnage"]).expect(64);
    assert!(misspelt.stderr.contains("did you mean 'change'?"), "{misspelt}");

    let wild = "[[policy]]\nwho = ['*']\nactions = ['chan*']\n";
    let mut worker = with_actions(&redis, wild, &[("change", CHANGE)]).host("web2").start();
    assert_eq!(worker.wait().code(), Some(64));
    assert!(worker.log().contains("must be named literally"), "{}", worker.log());
}
