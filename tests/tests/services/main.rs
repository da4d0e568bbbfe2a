//! Services: real processes behind each driver.

mod commands;
mod faults;
mod supervised;
mod systemd;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tests::{Ctl, Redis, Served, Worker, WorkerOptions};

/// What lets a worker look after services.
const ALLOW: &str = "[actions]\nallow = ['start', 'status', 'stop', 'restart', 'reload']";

/// A host with one service.
struct Host {
    ctl: Ctl,
    worker: Worker,
    served: Served,
    _redis: Redis,
}

impl Host {
    /// A host whose service `web` is supervised, with these lines in its settings.
    fn supervising(lines: &str) -> Self {
        let served = Served::new("web");
        let settings = served.settings(lines);
        Self::with(served, |worker| worker.config(&settings))
    }

    /// A host with this service, and with a worker of these options.
    fn with(served: Served, options: impl FnOnce(WorkerOptions) -> WorkerOptions) -> Self {
        let redis = Redis::start();
        let worker = options(Worker::on(&redis).config(ALLOW)).start();
        worker.wait_online();
        Self { ctl: Ctl::on(&redis).knowing_web1(), worker, served, _redis: redis }
    }

    /// Runs an action on the service.
    #[track_caller]
    fn run(&self, words: &str) -> Done {
        self.ctl.run(Self::words(words)).try_into().expect("a result")
    }

    fn words(words: &str) -> Vec<String> {
        let (options, action) = words.rsplit_once(' ').unwrap_or(("", words));
        let service = ["service=web", "-o", "json"];
        let options = options.split_whitespace();
        ["run", "--host", "web1"].into_iter().chain(options).chain([action]).chain(service).map(str::to_owned).collect()
    }

    /// The directory of the service's supervisor.
    fn directory(&self) -> std::path::PathBuf {
        self.served.supervised_in(&self.worker.options())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It would start its process again. One that is no child of a living worker is ended by nobody else.
        self.worker.kill9();
        while let Some(pid) = tests::supervisor(&self.directory()) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
}

/// How an action ended.
#[derive(Debug)]
struct Done {
    state: String,
    reason: String,
    stderr: String,
    data: Value,
}

impl TryFrom<tests::Output> for Done {
    type Error = String;

    fn try_from(output: tests::Output) -> Result<Self, String> {
        let job: Value = serde_json::from_str(&output.stdout).map_err(|error| format!("{error}\n{output}"))?;
        let host = &job["hosts"][0];
        let text = |name: &str| host[name].as_str().unwrap_or_default().to_owned();
        let data = host["data"].clone();
        Ok(Self { state: text("state"), reason: text("reason"), stderr: text("stderr"), data })
    }
}

impl Done {
    /// This end, which must be a success.
    #[track_caller]
    fn good(self) -> Self {
        assert_eq!(self.state, "succeeded", "{self:?}");
        self
    }

    /// This end, which must be a failure for that reason.
    #[track_caller]
    fn bad(self, reason: &str) -> Self {
        assert!(matches!(self.state.as_str(), "failed" | "timed_out") && self.reason.contains(reason), "{self:?}");
        self
    }

    fn is(&self) -> &str {
        self.data["service_state"].as_str().unwrap_or_default()
    }

    fn changed(&self) -> Option<bool> {
        self.data["changed"].as_bool()
    }

    fn pid(&self) -> u32 {
        self.data["main_pid"].as_u64().and_then(|pid| pid.try_into().ok()).unwrap_or(0)
    }

    /// The steps of a dry run.
    fn would(&self) -> Vec<&str> {
        self.data["would"].as_array().map(|steps| steps.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
    }
}
