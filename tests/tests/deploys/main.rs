//! Deploys, as a worker carries them out: real releases of a real server, behind each kind of service.

mod http;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use protocol::{
    action::Argument,
    artifact::{Artifact, ContentKey},
    command::Manifest,
    outcome::{Outcome, State},
};
use serde_json::{Value, json};
use tests::{Raw, Redis, Served, Worker, WorkerOptions, chaos_worker, eventually, get};

/// What lets a worker deploy.
const ALLOW: &str = "[actions]\nallow = ['deploy', 'deploy-rollback', 'deploy-status', 'start', 'restart', 'stop']";

/// An archive of these files (name, content), which are all executable. Equal files make equal archives at any time.
fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, content).expect("a file");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("its mode");
    }
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--mtime=@0", "-czf", "-", "-C"]).arg(directory.path()).arg(".");
    let output = tar.output().expect("tar");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// A release of the server: this version, which behaves so.
fn release(version: &str, behaviour: &str) -> Vec<u8> {
    let program = Served::program();
    let script = format!(
        "#!/bin/sh\nMARK=$BEHAVIOUR BEHAVIOUR=$(dirname $0)/../behaviour VERSION={version} exec {}\n",
        program.display()
    );
    archive(&[("bin/web", &script), ("behaviour", behaviour)])
}

/// A host with an application.
struct Host {
    raw: Raw,
    options: WorkerOptions,
    worker: Option<Worker>,
    served: Served,
    app: PathBuf,
    _redis: Redis,
}

impl Host {
    /// A host whose application `web` is run by a supervised service of that name, with these lines in the settings of
    /// the application.
    fn new(lines: &str) -> Self {
        Self::with(lines, |options| options)
    }

    fn with(lines: &str, change: impl FnOnce(WorkerOptions) -> WorkerOptions) -> Self {
        let served = Served::new("web");
        let app = served.directory().join("app");
        let (address, environment) = (served.address, served.environment());
        let program = app.join("current/bin/web").display().to_string();
        let service = format!(
            "[services.web]\nprogram = [{program:?}]\nlisten = ['{address}']\n{environment}\nsettle = '300ms'\n\
             check = {{ http = 'http://{address}/health', status = 200 }}\ndrain = '1s'"
        );
        let within = if lines.contains("within") { "" } else { "within = '8s'\n" };
        Self::made(served, app, &format!("service = 'web'\n{within}{lines}\n{service}"), change)
    }

    /// A host whose application no service runs.
    fn bare(lines: &str) -> Self {
        let served = Served::new("web");
        let app = served.directory().join("app");
        Self::made(served, app, lines, |options| options)
    }

    fn made(served: Served, app: PathBuf, lines: &str, change: impl FnOnce(WorkerOptions) -> WorkerOptions) -> Self {
        fs::create_dir(&app).expect("a directory");
        let redis = Redis::start();
        let settings = format!("{ALLOW}\n[apps.web]\ndirectory = {:?}\n{lines}", app.display().to_string());
        let options = change(Worker::on(&redis).config(&settings));
        let raw = Raw::on(&redis);
        let mut host = Self { raw, options, worker: None, served, app, _redis: redis };
        host.start();
        host
    }

    fn start(&mut self) {
        let worker = self.options.start();
        worker.wait_online();
        self.raw.wait_reading();
        self.worker = Some(worker);
    }

    /// A command to deploy this content.
    fn deploy_of(&mut self, version: &str, content: &[u8]) -> (Artifact, Manifest, ContentKey) {
        let (artifact, key) = self.raw.put_content(content);
        let arguments = [("app", "web".to_owned()), ("version", version.to_owned()), ("content", artifact.to_string())];
        let arguments = arguments.into_iter().map(|(name, value)| (name.to_owned(), Argument::Text(value))).collect();
        (artifact, Manifest { arguments, ..self.raw.manifest(&["web1"], "deploy") }, key)
    }

    /// Sends a command to deploy this content.
    fn send(&mut self, version: &str, content: &[u8]) -> Manifest {
        let (_, manifest, key) = self.deploy_of(version, content);
        let secrets = [("content_key".to_owned(), Argument::Text(key.to_text()))].into();
        let (manifest, key) = self.raw.seal("web1", manifest, secrets);
        self.raw.send_sealed("web1", &manifest, &key);
        manifest
    }

    /// Deploys this content.
    #[track_caller]
    fn deploy(&mut self, version: &str, content: &[u8]) -> Done {
        let manifest = self.send(version, content);
        Done(self.raw.outcome("web1", &manifest))
    }

    /// Runs another action.
    #[track_caller]
    fn run(&mut self, action: &str, arguments: &[(&str, &str)]) -> Done {
        let arguments = arguments.iter().map(|(name, value)| ((*name).to_owned(), Argument::Text((*value).to_owned())));
        let manifest = Manifest { arguments: arguments.collect(), ..self.raw.manifest(&["web1"], action) };
        self.raw.send("web1", &manifest);
        Done(self.raw.outcome("web1", &manifest))
    }

    #[track_caller]
    fn status(&mut self) -> Value {
        self.run("deploy-status", &[("app", "web")]).good().data()
    }

    /// The version that answers.
    fn answers(&self) -> Option<String> {
        let (_, body) = get(self.served.address, "/").ok()?;
        Some(body.split(' ').next()?.to_owned())
    }

    /// Where the link leads.
    fn current(&self) -> Option<String> {
        let target = fs::read_link(self.app.join("current")).ok()?;
        Some(target.strip_prefix("releases").expect("a release").to_str()?.to_owned())
    }

    /// The releases, and whatever else is in their directory.
    fn releases(&self) -> Vec<String> {
        let entries = fs::read_dir(self.app.join("releases")).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().expect("text")).collect();
        names.sort();
        names
    }

    /// Link, service and state are at this one release, which is whole.
    #[track_caller]
    fn is_at(&mut self, version: &str) -> Value {
        let status = self.status();
        let found = (&status["running"], &status["current"], &status["deploying"]);
        assert_eq!(found, (&json!(version), &json!(version), &Value::Null), "{status:#}");
        assert_eq!(self.current().as_deref(), Some(version));
        assert!(self.app.join("current/bin/web").is_file() && self.app.join("current/behaviour").is_file());
        eventually("the version to answer", || (self.answers()? == version).then_some(()));
        status
    }

    fn kill_services(&self) {
        let directory = self.served.supervised_in(&self.options);
        while let Some(pid) = tests::supervisor(&directory) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It would start its process again.
        drop(self.worker.take());
        self.kill_services();
    }
}

/// How an action ended.
#[derive(Debug)]
struct Done(Outcome);

impl Done {
    #[track_caller]
    fn good(self) -> Self {
        assert_eq!(self.0.state, State::Succeeded, "{self:?}");
        self
    }

    /// This end, which must be a failure for that reason.
    #[track_caller]
    fn bad(self, reason: &str) -> Self {
        assert!(self.0.state == State::Failed && self.reason().contains(reason), "{} {self:?}", self.reason());
        self
    }

    fn reason(&self) -> &str {
        self.0.reason.as_deref().unwrap_or_default()
    }

    fn data(&self) -> Value {
        self.0.data.as_ref().map(|data| json!(data)).unwrap_or_default()
    }

    /// Result, what runs, what ran before.
    #[track_caller]
    fn is(&self, result: &str, running: Option<&str>, prior: Option<&str>) {
        let data = self.data();
        let found = (&data["result"], &data["running"], &data["prior"], &data["changed"]);
        let changed = json!(running != prior);
        assert_eq!(found, (&json!(result), &json!(running), &json!(prior), &changed), "{self:?}");
    }

    fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr.kept).into_owned()
    }
}

#[test]
fn releases_follow_on_each_other_and_what_runs_is_left_alone() {
    let mut host = Host::new("");
    let first = release("1", "");
    host.deploy("1", &first).good().is("deployed", Some("1"), None);
    let status = host.is_at("1");
    assert_eq!((&status["proven"], &status["service_state"]), (&json!("1"), &json!("up")));
    let pid = host.served.pid();

    let again = host.deploy("1", &first).good();
    again.is("already", Some("1"), Some("1"));
    assert_eq!(host.served.pid(), pid, "nothing was done");
    host.deploy("1", &release("other", "")).bad("version 1 is here already with another content");

    host.deploy("2", &release("2", "")).good().is("deployed", Some("2"), Some("1"));
    let status = host.is_at("2");
    assert_eq!(status["history"].as_array().map(Vec::len), Some(2), "what was already there is no event");
    assert_eq!(host.releases(), ["1", "2"]);

    // The process was started by its release's own path, so a restart of the service is one of the release, too.
    host.run("restart", &[("service", "web")]).good();
    host.is_at("2");
}

#[test]
fn what_fails_before_the_switch_leaves_all_as_it_was() {
    let mut host = Host::new("before = ['bin/before']\nwithin = '5s'");
    let with_hook = |version: &str, behaviour: &str, hook: &str| {
        let script = format!(
            "#!/bin/sh\nMARK=$BEHAVIOUR BEHAVIOUR=$(dirname $0)/../behaviour VERSION={version} exec {}\n",
            Served::program().display()
        );
        archive(&[("bin/web", &script), ("behaviour", behaviour), ("bin/before", &format!("#!/bin/sh\n{hook}\n"))])
    };
    // Nothing runs yet: who does not come up is not switched to.
    let failed = host.deploy("0", &with_hook("0", "crash", "")).bad("version 0 does not come up (exit code 3)");
    failed.is("failed", None, None);
    assert!(failed.stderr().contains("told to crash"), "{failed:?}");
    assert_eq!((host.current(), host.releases()), (None, vec![]));

    let told = "echo $REDFLEET_APP $REDFLEET_VERSION after ${REDFLEET_PRIOR:-nothing} > told; pwd >> told";
    host.deploy("1", &with_hook("1", "", told)).good().is("deployed", Some("1"), None);
    let release = host.app.join("releases/1");
    let expected = format!("web 1 after nothing\n{}\n", release.canonicalize().expect("a directory").display());
    assert_eq!(fs::read_to_string(release.join("told")).expect("a file"), expected);
    let pid = host.served.pid();

    let failed = host.deploy("2", &with_hook("2", "", "echo no space left; exit 7"));
    let failed = failed.bad("version 2 failed in its hook 'before': exit status: 7; 1 stays");
    failed.is("failed", Some("1"), Some("1"));
    assert_eq!(failed.stderr(), "no space left\n");
    // It is checked at a private port first.
    let failed =
        host.deploy("2", &with_hook("2", "sick", "")).bad("version 2 failed its health check (http://127.0.0.1:");
    failed.is("failed", Some("1"), Some("1"));
    host.deploy("2", &with_hook("2", "crash", "")).bad("version 2 does not come up").is("failed", Some("1"), Some("1"));
    let failed =
        host.deploy("2", b"no archive").bad("version 2 cannot be unpacked: it is neither a .tar.gz nor a .tar.zst");
    failed.is("failed", Some("1"), Some("1"));
    host.is_at("1");
    assert_eq!((host.served.pid(), host.releases()), (pid, vec!["1".to_owned()]), "nothing is left of them");
    let status = host.status();
    let results: Vec<_> = status["history"].as_array().expect("a list").iter().map(|entry| &entry["result"]).collect();
    assert_eq!(results, ["failed", "failed", "failed", "failed", "deployed", "failed"], "{status:#}");
}

#[test]
fn a_release_that_falls_ill_is_rolled_back_to_the_proven_one_and_not_to_the_newest() {
    let mut host = Host::new("settle = '8s'");
    host.deploy("1", &release("1", "")).good();
    host.deploy("2", &release("2", "")).good();
    for (version, sickness, problem) in [
        ("3", "ill 5000", "version 3 failed its health check (http://127.0.0.1:"),
        ("4", "ill 2200", "; rolled back to 2, which is up"),
    ] {
        let failed = host.deploy(version, &release(version, sickness)).bad(problem);
        failed.is("rolled_back", Some("2"), Some("2"));
        let waited = failed.data()["rollback_started_ms"].as_u64().expect("a number");
        println!("version {version}: the first step back {waited} ms after the failed check");
        assert!(waited < 5000, "{failed:?}");
        host.is_at("2");
    }
    assert_eq!(host.releases(), ["1", "2", "3", "4"], "what failed can be looked at");

    // By hand it goes back, one proven release after the other, and never to one that was not, nor to one that somebody
    // has gone back from.
    let back = host.run("deploy-rollback", &[("app", "web")]).good();
    back.is("rolled_back", Some("1"), Some("2"));
    host.is_at("1");
    host.run("deploy-rollback", &[("app", "web")]).bad("no release that was proven before is on this host");
    host.run("deploy-rollback", &[("app", "web"), ("version", "7")]).bad("there is no release '7'");
    host.run("deploy-rollback", &[("app", "web"), ("version", "2")]).good().is("rolled_back", Some("2"), Some("1"));
    let failed = host.run("deploy-rollback", &[("app", "web"), ("version", "4")]).bad("rolled back to 2, which is up");
    failed.is("rolled_back", Some("2"), Some("2"));
    host.is_at("2");
}

#[test]
fn where_a_rollback_is_forbidden_the_new_release_stays() {
    let mut host = Host::new("settle = '8s'\nrollback = 'forbidden'");
    host.deploy("1", &release("1", "")).good();
    let failed = host.deploy("2", &release("2", "ill 5000")).bad("it stays, as its rollback is forbidden");
    failed.is("kept", Some("2"), Some("1"));
    let status = host.is_at("2");
    assert_eq!((&status["proven"], &status["history"][0]["result"]), (&json!("1"), &json!("kept")));
    host.run("deploy-rollback", &[("app", "web")]).bad("rollback = \"forbidden\" in [apps.web]");
}

#[test]
fn the_first_release_stays_as_there_is_nothing_to_go_back_to() {
    let mut host = Host::new("settle = '8s'");
    let failed = host.deploy("1", &release("1", "ill 5000")).bad("it stays, as no release was proven before");
    failed.is("kept", Some("1"), None);
    assert_eq!(host.is_at("1")["proven"], Value::Null);
}

#[test]
fn old_releases_go_and_those_that_are_needed_stay() {
    let mut host = Host::bare("keep = 1\ncheck = { argv = ['test', '!', '-e', 'sick'] }\nsettle = '0s'\nwithin = '0s'");
    let check = host.app.join("current/ok").display().to_string();
    host.options = host.options.clone().replace_config("'!', '-e', 'sick'", &format!("'-e', '{check}'"));
    drop(host.worker.take());
    host.start();
    let good = |number: u32| archive(&[("ok", &number.to_string())]);
    for number in 1..=4 {
        host.deploy(&number.to_string(), &good(number)).good();
    }
    assert_eq!(host.releases(), ["2", "3", "4"], "4 runs, 3 is the one before, 2 is kept besides");
    for number in 5..=8 {
        let failed = host.deploy(&number.to_string(), &archive(&[("bad", &number.to_string())]));
        failed.bad("rolled back to 4").is("rolled_back", Some("4"), Some("4"));
    }
    host.deploy("9", &good(9)).good();
    assert_eq!(host.releases(), ["4", "8", "9"], "9 runs, 4 is the proven one before");
    assert_eq!(host.current().as_deref(), Some("9"));
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let mut host = Host::new("before = ['bin/migrate']");
    let (_, manifest, key) = host.deploy_of("1", &release("1", ""));
    let mut arguments = manifest.arguments.clone();
    arguments.insert("dry_run".into(), Argument::Boolean(true));
    let secrets = [("content_key".to_owned(), Argument::Text(key.to_text()))].into();
    let (manifest, key) = host.raw.seal("web1", Manifest { arguments, ..manifest }, secrets);
    host.raw.send_sealed("web1", &manifest, &key);
    let done = Done(host.raw.outcome("web1", &manifest)).good();
    done.is("deployed", None, None);
    let would = done.data()["would"].clone();
    let words = would.as_array().expect("a list").iter().map(|step| step.as_str().expect("text").split(' ').next());
    let words: Vec<_> = words.map(Option::unwrap_or_default).collect();
    assert_eq!(words, ["fetch", "unpack", "run", "start", "let", "check"], "{would:#}");
    assert_eq!((host.releases(), host.current()), (vec![], None));
}

#[test]
fn a_deploy_that_is_cancelled_ends_at_one_release() {
    // Before the switch: the hook waits.
    let mut host = Host::new("before = ['sh', '-c', 'test $REDFLEET_VERSION = 1 || sleep 100']\nsettle = '4s'");
    host.deploy("1", &release("1", "")).good();
    let manifest = host.send("2", &release("2", ""));
    eventually("the hook to run", || host.releases().contains(&"2".to_owned()).then_some(()));
    host.raw.wait_state("web1", &manifest, State::Running);
    host.raw.cancel("web1", &manifest);
    let done = Done(host.raw.outcome("web1", &manifest));
    assert_eq!(done.0.state, State::Cancelled, "{done:?}");
    done.is("failed", Some("1"), Some("1"));
    host.is_at("1");
    assert_eq!(host.releases(), ["1"]);

    // Behind it: the release is being looked at.
    let mut host = Host::new("settle = '100s'");
    let first = host.send("1", &release("1", ""));
    host.raw.wait_state("web1", &first, State::Running);
    eventually("the switch", || (host.current()? == "1").then_some(()));
    host.raw.cancel("web1", &first);
    let done = Done(host.raw.outcome("web1", &first));
    assert_eq!(done.0.state, State::Cancelled, "{done:?}");
    done.is("kept", Some("1"), None);
    host.is_at("1");
}

#[test]
fn what_somebody_else_has_put_there_is_left_alone() {
    // As after the loss of the state directory: the release runs, and the worker does not know it.
    let mut host = Host::bare("");
    let strange = host.app.join("releases/1");
    fs::create_dir_all(&strange).expect("a directory");
    fs::write(strange.join("own"), "data").expect("a file");
    std::os::unix::fs::symlink("releases/1", host.app.join("current")).expect("a link");
    let refused = host.deploy("1", &archive(&[("ok", "1")]));
    refused.bad("is there already, and this host does not know what it is");
    host.deploy("2", &archive(&[("ok", "2")])).good().is("deployed", Some("2"), Some("1"));
    assert_eq!(fs::read_to_string(strange.join("own")).expect("a file"), "data");
    assert_eq!(host.current().as_deref(), Some("2"));
}

#[test]
fn who_goes_back_from_a_release_is_not_led_to_it_again() {
    let mut host = Host::bare("");
    for version in ["1", "2", "3"] {
        host.deploy(version, &archive(&[("ok", version)])).good();
    }
    host.run("deploy-rollback", &[("app", "web")]).good().is("rolled_back", Some("2"), Some("3"));
    host.deploy("4", &archive(&[("ok", "4")])).good();
    host.run("deploy-rollback", &[("app", "web")]).good().is("rolled_back", Some("2"), Some("4"));
    // What is deployed again was there before, but what ran until then is the one before it.
    host.deploy("1", &archive(&[("ok", "1")])).good().is("deployed", Some("1"), Some("2"));
    host.run("deploy-rollback", &[("app", "web")]).good().is("rolled_back", Some("2"), Some("1"));
}

/// The points at which a deploy can be killed, in their order; and whether it is one that fails after the switch.
const POINTS: [(&str, bool); 16] = [
    ("recording", false),
    ("fetched", false),
    ("unpacked", false),
    ("placed", false),
    ("hooked", false),
    ("tried", false),
    ("prepared", false),
    ("switching", false),
    ("linked", false),
    ("takenover", false),
    ("healthy", false),
    ("proven", false),
    ("rollingback", true),
    ("linkedback", true),
    ("takenback", true),
    ("restored", true),
];

/// Kills a worker at this point of a deploy from 1 to 2, and returns the host with the worker that came after it.
fn killed_at(point: &str, fails: bool, bug: Option<&str>) -> (Host, Manifest) {
    let mut host = Host::with("settle = '4s'", |options| options.program(chaos_worker()));
    host.deploy("1", &release("1", "")).good();
    drop(host.worker.take());
    let options = host.options.clone();
    let planted = |options: WorkerOptions| bug.map_or(options.clone(), |bug| options.env("REDFLEET_CHAOS_BUG", bug));
    host.options = planted(options.clone()).env("REDFLEET_CHAOS_KILL", &format!("{point}:1"));
    host.start();
    let manifest = host.send("2", &release("2", if fails { "ill 2000" } else { "" }));
    let worker = host.worker.as_mut().expect("a worker");
    eventually(&format!("the worker to die at {point}; its log:\n{}", worker.log()), || {
        worker.has_ended().then_some(())
    });
    host.worker = None;
    host.options = planted(options);
    host.start();
    (host, manifest)
}

#[test]
#[ignore = "needs the worker built with its feature chaos (make test builds it)"]
fn a_worker_that_dies_at_any_step_of_a_deploy_leaves_a_whole_release_and_says_so() {
    for (point, fails) in POINTS {
        let (mut host, manifest) = killed_at(point, fails, None);
        let done = Done(host.raw.outcome("web1", &manifest));
        assert_eq!(done.0.state, State::Interrupted, "{point}: {done:?}");
        let ends_at = if point == "proven" { "2" } else { "1" };
        eventually("the recovery", || host.status()["deploying"].is_null().then_some(()));
        let status = host.is_at(ends_at);
        let newest = &status["history"][0];
        println!("{point}: {} runs, {}: {}", ends_at, newest["result"], newest["reason"]);
        let expected = match point {
            "proven" => "deployed",
            "restored" => "rolled_back",
            _ => "interrupted",
        };
        assert_eq!((&newest["result"], &newest["version"]), (&json!(expected), &json!("2")), "{point}: {status:#}");
        let left: Vec<_> = host.releases().into_iter().filter(|name| name.starts_with('.')).collect();
        assert!(left.is_empty(), "{point}: {left:?}");
        // What follows is not disturbed.
        host.deploy("3", &release("3", "")).good().is("deployed", Some("3"), Some(ends_at));
        host.is_at("3");
    }
}

/// A host whose service is started by commands, which see the release only through the link: the file `runs` tells to
/// which one it led when the service was started last.
fn followed(lines: &str) -> Host {
    let served = Served::new("web");
    let app = served.directory().join("app");
    let at = app.display();
    let settings = format!(
        "service = 'web'\nsettle = '200ms'\nwithin = '5s'\ncheck = {{ argv = ['test', '-e', '{at}/current/ok'] }}\n{lines}\n\
         [services.web]\nsettle = '0s'\nstart = ['sh', '-c', 'readlink {at}/current > {at}/runs']\n\
         stop = ['rm', '-f', '{at}/runs']\nstatus = ['test', '-e', '{at}/runs']"
    );
    Host::made(served, app, &settings, |options| options.program(chaos_worker()))
}

#[test]
#[ignore = "needs the worker built with its feature chaos (make test builds it)"]
fn a_service_that_only_sees_the_link_is_never_left_at_another_release() {
    let forbidden = "rollback = 'forbidden'";
    for (kills, lines, file, ends_at) in [
        (&["linked"][..], "", "ok", "1"),
        (&["linked"], forbidden, "ok", "2"),
        (&["takenover"], forbidden, "ok", "2"),
        (&["rollingback"], "", "bad", "1"),
        (&["linkedback"], "", "bad", "1"),
        // The worker that recovers dies, too.
        (&["takenover", "linkedback"], "", "ok", "1"),
        (&["linked", "linkedback", "linkedback"], "", "ok", "1"),
    ] {
        let mut host = followed(lines);
        host.deploy("1", &archive(&[("ok", "1")])).good();
        let options = host.options.clone();
        let mut manifest = None;
        for (number, point) in kills.iter().enumerate() {
            drop(host.worker.take());
            host.options = options.clone().env("REDFLEET_CHAOS_KILL", &format!("{point}:1"));
            let mut worker = host.options.start();
            if number == 0 {
                worker.wait_online();
                manifest = Some(host.send("2", &archive(&[(file, "2")])));
            }
            eventually(&format!("the worker to die at {point}; its log:\n{}", worker.log()), || {
                worker.has_ended().then_some(())
            });
        }
        host.options = options;
        host.start();
        let done = Done(host.raw.outcome("web1", &manifest.expect("a command")));
        assert_eq!(done.0.state, State::Interrupted, "{kills:?}: {done:?}");
        eventually("the recovery", || host.status()["deploying"].is_null().then_some(()));
        let runs = fs::read_to_string(host.app.join("runs")).expect("a file");
        let current = host.current().expect("a link");
        assert_eq!((current.as_str(), runs.trim()), (ends_at, &*format!("releases/{ends_at}")), "{kills:?} {lines}");
    }
}

#[test]
#[ignore = "needs the worker built with its feature chaos (make test builds it)"]
fn a_worker_that_does_not_recover_is_found_out() {
    let (mut host, _) = killed_at("linked", false, Some("NoRecovery"));
    let status = host.status();
    assert_eq!((&status["current"], &status["running"]), (&json!("2"), &json!("1")), "link and service differ");
    drop(host);
    let (mut host, _) = killed_at("linked", false, Some("SwitchBeforeRecord"));
    host.worker.as_ref().expect("a worker").wait_log("current leads to 2");
    let status = host.status();
    assert_eq!((&status["current"], &status["releases"][0]["version"]), (&json!("2"), &json!("1")), "2 is not known");
}

#[test]
fn a_service_of_another_driver_is_restarted_behind_the_link_and_goes_back_with_it() {
    let served = Served::new("web");
    let app = served.directory().join("app");
    let pidfile = served.directory().join("pid").display().to_string();
    let current = app.join("current").display().to_string();
    let start = format!(
        "setsid sh -c 'echo $$ > {pidfile}; exec sleep 1000' >/dev/null 2>&1 & cp {current}/name {pidfile}.name"
    );
    let stop = format!("kill $(cat {pidfile}); rm {pidfile}");
    let status = format!("kill -0 $(cat {pidfile})");
    let service = format!(
        "[services.web]\nstart = ['sh', '-c', {start:?}]\nstop = ['sh', '-c', {stop:?}]\nstatus = ['sh', '-c', {status:?}]\n\
         settle = '100ms'\ncheck = {{ argv = ['grep', '-q', 'good', '{pidfile}.name'] }}"
    );
    let mut host = Host::made(served, app, &format!("service = 'web'\nwithin = '5s'\n{service}"), |options| options);
    let named = |name: &str| archive(&[("name", name)]);
    host.deploy("1", &named("good 1")).good().is("deployed", Some("1"), None);
    host.deploy("2", &named("good 2")).good().is("deployed", Some("2"), Some("1"));
    let failed = host.deploy("3", &named("bad 3")).bad("version 3 failed its health check (grep: exit code 1)");
    let failed = failed.bad("; rolled back to 2, which is up");
    failed.is("rolled_back", Some("2"), Some("2"));
    assert_eq!(fs::read_to_string(format!("{pidfile}.name")).expect("a file"), "good 2");
    assert_eq!(host.current().as_deref(), Some("2"));
    host.run("stop", &[("service", "web")]).good();
}
