//! Deploys, as a worker carries them out: real releases of a real server, behind each kind of service.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
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
const ALLOW: &str = "[actions]\nallow = ['deploy', 'deploy-rollback', 'start', 'restart', 'stop']";

/// An archive of these files (name, content), which are all executable.
fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, content).expect("a file");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("its mode");
    }
    let output = Command::new("tar").args(["-czf", "-", "-C"]).arg(directory.path()).arg(".").output().expect("tar");
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
        Self::made(served, app, &format!("service = 'web'\nwithin = '3s'\n{lines}\n{service}"), change)
    }

    /// A host whose application no service runs.
    fn bare(lines: &str) -> Self {
        let served = Served::new("web");
        let app = served.directory().join("app");
        Self::made(served, app, lines, |options| options)
    }

    fn made(
        served: Served,
        app: PathBuf,
        lines: &str,
        change: impl FnOnce(WorkerOptions) -> WorkerOptions,
    ) -> Self {
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
    host.deploy("1", &release("other", "")).bad("version 1 is here already with another content").0.data.unwrap();

    host.deploy("2", &release("2", "")).good().is("deployed", Some("2"), Some("1"));
    let status = host.is_at("2");
    assert_eq!(status["history"].as_array().map(Vec::len), Some(2), "what was already there is no event");
    assert_eq!(host.releases(), ["1", "2"]);

    // The process was started by its release's own path, so a restart of the service is one of the release, too.
    host.run("restart", &[("service", "web")]).good();
    host.is_at("2");
}
