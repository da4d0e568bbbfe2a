//! A real Prometheus: it is written to.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;
use tests::{Redis, Worker, eventually, free_port, skipped};

use super::{UP, serve, term};

/// A Prometheus of this test.
pub(crate) struct Prometheus {
    child: Child,
    pub(crate) address: SocketAddr,
    _directory: TempDir,
}

impl Prometheus {
    /// With these settings. `None`, which is said: there is none on this machine.
    pub(crate) fn start(test: &str, settings: &str) -> Option<Self> {
        Self::with(test, settings, &[])
    }

    /// With these settings, and these files beside them.
    pub(crate) fn with(test: &str, settings: &str, files: &[(&str, &str)]) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        fs::write(directory.path().join("prometheus.yml"), settings).expect("a file");
        for (name, text) in files {
            fs::write(directory.path().join(name), text).expect("a file");
        }
        let mut command = Command::new("prometheus");
        command
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg("--web.enable-remote-write-receiver");
        command.arg(format!("--web.listen-address={address}")).arg("--log.level=warn").current_dir(directory.path());
        let Ok(child) = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
            skipped(test, "prometheus is not installed");
            return None;
        };
        let prometheus = Self { child, address, _directory: directory };
        eventually("Prometheus to be ready", || get(address, "/-/ready").ok().filter(|(status, _)| *status == 200));
        Some(prometheus)
    }

    /// What it replies to a request for JSON.
    #[track_caller]
    pub(crate) fn ask(&self, path: &str) -> Value {
        let (status, body) = get(self.address, path).expect("a reply");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str::<Value>(&body).expect("JSON")["data"].clone()
    }

    /// The series of an expression now, each with its labels and its value.
    #[track_caller]
    pub(crate) fn query(&self, expression: &str) -> Vec<(Value, String)> {
        let encode =
            |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        let expression: String = expression.bytes().map(encode).collect();
        let data = self.ask(&format!("/api/v1/query?query={expression}"));
        let value = |series: &Value| (series["metric"].clone(), series["value"][1].as_str().expect("text").to_owned());
        data["result"].as_array().expect("a list").iter().map(value).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks for a page, in the first version of HTTP, whose replies end with the connection.
pub(crate) fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    let (head, body) = reply.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.to_owned()))
}

/// Whether a program of Prometheus is here; says so where it is not.
pub(crate) fn has(program: &str, test: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        skipped(test, &format!("{program} is not installed"));
    }
    found
}

/// Runs `promtool` in a directory.
#[track_caller]
pub(crate) fn promtool(directory: &Path, words: &[&str]) {
    let output = Command::new("promtool").args(words).current_dir(directory).output().expect("promtool runs");
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !error.contains("WARN"), "promtool {words:?}:\n{out}{error}");
}

#[test]
fn a_real_prometheus_takes_what_is_written() {
    let name = "a_real_prometheus_takes_what_is_written";
    let Some(prometheus) = Prometheus::start(name, "global: { scrape_interval: 1m }\n") else { return };
    let redis = Redis::start();
    let mut worker = Worker::on(&redis).host("web1").start();
    worker.wait_online();
    let running = serve(&redis, "one", prometheus.address, "labels = { site = 'north' }");
    // Debian's Prometheus knows the first version only.
    running.wait_stderr("does not speak version 2.0");
    let up = format!("{UP}{{host=\"web1\"}}");
    let found = eventually("the host in Prometheus", || prometheus.query(&up).pop());
    assert_eq!((&found.0["site"], found.1.as_str()), (&Value::from("north"), "1"), "{found:?}");
    // Several rounds have been taken without gaps.
    let count = format!("count_over_time({up}[1m])");
    eventually("more rounds", || {
        prometheus.query(&count).pop().filter(|(_, count)| count.parse().is_ok_and(|count: f64| count >= 3.0))
    });
    // A marker ends the series at once, not after the five minutes for which Prometheus looks back.
    term(&running);
    let output = running.wait().expect(0);
    eventually("the series to end", || prometheus.query(&up).is_empty().then_some(()));
    assert!(!output.stderr.contains("refuses") && !output.stderr.contains("not sent"), "{output}");
    assert!(worker.terminate().success());
}
