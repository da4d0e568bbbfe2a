//! The containers: the images build, three workers come up as three hosts, and a command runs on all of them
//! over the compose network.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

const WORKERS: usize = 3;
/// The user id in the Dockerfile.
const UID: &str = "10001";
/// How long the workers may take from `up` to their first heartbeat.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs a Docker engine"]
fn compose_runs_the_main_job() {
    let project = Project::new();
    project.compose(&["build", "worker", "controller"]);
    let scale = format!("worker={WORKERS}");
    project.compose(&["up", "--detach", "--scale", &scale]);

    let deadline = Instant::now() + PATIENCE;
    let online = loop {
        let listed = project.ctl(&["host", "list", "-o", "json"]);
        let hosts = names(&listed, "online");
        if hosts.len() == WORKERS {
            break hosts;
        }
        assert!(
            Instant::now() < deadline,
            "not {WORKERS} hosts online after {PATIENCE:?}: {listed}\n{}",
            project.output(&["logs", "--no-color"]).text()
        );
        // An engine has no event for "a worker has sent its first heartbeat".
        sleep(Duration::from_millis(500));
    };

    let job = project.ctl(&["run", "--all", "collect-cpu", "-o", "json"]);
    assert_eq!(names(&job["hosts"], "succeeded"), online, "{job}");
    for host in job["hosts"].as_array().unwrap() {
        let usage = host["data"]["usage"].as_f64();
        assert!(usage.is_some_and(|usage| (0.0..=100.0).contains(&usage)), "{host}");
    }

    for index in 1..=WORKERS {
        let index = format!("--index={index}");
        let exec = |script| project.compose(&["exec", "-T", &index, "worker", "sh", "-c", script]);
        let commands = exec("cat /proc/[0-9]*/comm");
        assert!(commands.lines().any(|name| name == "worker"), "{commands}");
        // Real, effective, saved and file-system user of every process.
        let users = exec("grep -h ^Uid: /proc/[0-9]*/status");
        assert!(users.split_whitespace().all(|word| word == "Uid:" || word == UID), "{users}");
    }
}

/// The distinct hosts of a list that are in this state.
fn names(hosts: &Value, state: &str) -> BTreeSet<String> {
    hosts
        .as_array()
        .into_iter()
        .flatten()
        .filter(|host| host["state"] == state)
        .filter_map(|host| host["host"].as_str().map(str::to_owned))
        .collect()
}

/// A compose project of this test's own. It is taken down with all its images and volumes when dropped.
struct Project {
    name: String,
    root: PathBuf,
    compose: &'static [&'static str],
    images: Vec<(String, String)>,
}

impl Project {
    fn new() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
        let has_plugin =
            Command::new("docker").args(["compose", "version"]).output().is_ok_and(|output| output.status.success());
        let images = Output::of(&mut Command::new(root.join("tests/containers/base-images.sh")));
        let images = images
            .success()
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, image)| (name.to_owned(), image.to_owned()))
            .collect();
        Self {
            name: format!("redfleet-test-{}", std::process::id()),
            root,
            compose: if has_plugin { &["docker", "compose"] } else { &["docker-compose"] },
            images,
        }
    }

    fn output(&self, args: &[&str]) -> Output {
        let mut command = Command::new(self.compose[0]);
        command
            .args(&self.compose[1..])
            .args(["--project-name", &self.name, "--project-directory"])
            .arg(&self.root)
            .arg("--file")
            .arg(self.root.join("docker-compose.yml"))
            .args(args)
            .env("PROFILE", "dev")
            .envs(self.images.iter().map(|(name, image)| (name, image)));
        Output::of(&mut command)
    }

    fn compose(&self, args: &[&str]) -> String {
        self.output(args).success()
    }

    /// Runs `ctl` in a controller container of its own and reads the JSON it prints.
    fn ctl(&self, args: &[&str]) -> Value {
        let output = self.output(&[&["run", "--rm", "-T", "controller"], args].concat());
        let text = output.success();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("ctl {args:?} printed no JSON ({error}): {text}"))
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let output = self.output(&["down", "--volumes", "--rmi=local", "--remove-orphans", "--timeout=5"]);
        if !output.ok {
            eprintln!("{}", output.text());
        }
    }
}

/// The output of a finished program.
struct Output {
    what: String,
    ok: bool,
    stdout: String,
    stderr: String,
}

impl Output {
    fn of(command: &mut Command) -> Self {
        let what = format!("{command:?}");
        let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{what}: {error}"));
        Self {
            what,
            ok: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn text(&self) -> String {
        format!("{}\n{}{}", self.what, self.stdout, self.stderr)
    }

    fn success(self) -> String {
        assert!(self.ok, "failed: {}", self.text());
        self.stdout
    }
}
