//! Deploys: real archives, real workers, and a real HTTP server behind a supervised service.

mod busy;
mod fleet;
mod plain;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tests::{Ctl, Output, Redis, Served, Worker, get, supervisor};

/// What the hosts of these tests allow.
const ALLOW: &str = "[actions]\nallow = ['deploy', 'deploy-rollback', 'deploy-status', 'status', 'stop']";

/// A host with the app `web`, whose releases run as the supervised service `web`.
struct Host {
    worker: Worker,
    served: Served,
}

impl Host {
    /// A host of this name. `app`: lines for the settings of the app.
    fn start(name: &str, app: &str, redis: &Redis) -> Self {
        let served = Served::new("web");
        let directory = directory(&served);
        fs::create_dir(&directory).expect("a directory");
        let (shown, address, environment) = (directory.display(), served.address, served.environment());
        let settings = format!(
            "[services.web]\nprogram = [\"{shown}/current/bin/web\"]\nlisten = [\"{address}\"]\n{environment}\n\
             settle = '100ms'\ncheck = {{ http = 'http://{address}/health', status = 200 }}\n\
             [apps.web]\ndirectory = \"{shown}\"\nservice = 'web'\nwithin = '6s'\nsettle = '2s'\n{app}\n{ALLOW}"
        );
        let worker = Worker::on(redis).host(name).config(&settings).start();
        worker.wait_online();
        Self { worker, served }
    }

    /// Where its releases are.
    fn releases(&self) -> PathBuf {
        directory(&self.served).join("releases")
    }

    /// The version that answers.
    #[track_caller]
    fn answers(&self) -> String {
        let (_, body) = get(self.served.address, "/").expect("an answer");
        body.split(' ').next().unwrap_or_default().to_owned()
    }

    /// Whether the release of this version is there.
    fn has(&self, version: &str) -> bool {
        self.releases().join(version).exists()
    }
}

fn directory(served: &Served) -> PathBuf {
    served.directory().join("srv")
}

impl Drop for Host {
    fn drop(&mut self) {
        // It would start its process again. One that is no child of a living worker is ended by nobody else.
        self.worker.kill9();
        let directory = self.served.supervised_in(&self.worker.options());
        while let Some(pid) = supervisor(&directory) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
}

/// The files of a release, in a directory of its own in the home of `ctl`. It behaves as the lines tell it.
fn release(ctl: &Ctl, version: &str, behaviour: &str) -> PathBuf {
    let directory = ctl.home().join("builds").join(version);
    let program = directory.join("bin/web");
    fs::create_dir_all(directory.join("bin")).expect("a directory");
    let script =
        format!("#!/bin/sh\nRELEASE=$(dirname \"$(dirname \"$0\")\") exec '{}'\n", Served::program().display());
    fs::write(&program, script).expect("a program");
    fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("its mode");
    fs::write(directory.join("version"), version).expect("a file");
    fs::write(directory.join("behaviour"), behaviour).expect("a file");
    directory
}

/// A fleet of one host, and who deploys to it.
struct One {
    ctl: Ctl,
    host: Host,
    _redis: Redis,
}

impl One {
    fn start(app: &str) -> Self {
        let redis = Redis::start();
        let host = Host::start("web1", app, &redis);
        Self { ctl: Ctl::on(&redis).knowing_web1(), host, _redis: redis }
    }

    /// Deploys what `from` names.
    fn deploy(&self, version: &str, from: &Path, more: &[&str]) -> Output {
        let from = from.to_str().expect("text");
        self.ctl.run([&["deploy", "web", "--version", version, "--from", from, "web1"], more].concat())
    }

    /// Deploys a release that behaves so.
    #[track_caller]
    fn try_release(&self, version: &str, behaviour: &str) -> Done {
        let from = release(&self.ctl, version, behaviour);
        Done::of(&self.deploy(version, &from, &["-o", "json"]))
    }

    /// Runs `ctl deploy` with these words.
    #[track_caller]
    fn ask(&self, words: &str) -> Done {
        Done::of(&self.ctl.run(["deploy"].into_iter().chain(words.split(' ')).chain(["-o", "json"])))
    }
}

/// How it ended on the only host.
#[derive(Debug)]
struct Done {
    state: String,
    reason: String,
    stderr: String,
    data: Value,
}

impl Done {
    #[track_caller]
    fn of(output: &Output) -> Self {
        let host = output.json()["hosts"][0].clone();
        let text = |name: &str| host[name].as_str().unwrap_or_default().to_owned();
        Self { state: text("state"), reason: text("reason"), stderr: text("stderr"), data: host["data"].clone() }
    }

    /// This end, which must have that result.
    #[track_caller]
    fn is(self, result: &str) -> Self {
        let good = matches!(result, "deployed" | "already");
        assert_eq!(self.state, if good { "succeeded" } else { "failed" }, "{self:?}");
        assert_eq!(self.text("result"), result, "{self:?}");
        self
    }

    /// This end, which must be a rollback that was asked for.
    #[track_caller]
    fn went_back(self) -> Self {
        assert_eq!((self.state.as_str(), self.text("result")), ("succeeded", "rolled_back"), "{self:?}");
        self
    }

    fn text(&self, name: &str) -> &str {
        self.data[name].as_str().unwrap_or_default()
    }

    fn changed(&self) -> Option<bool> {
        self.data["changed"].as_bool()
    }
}
