//! The exporter of `ctl serve`: what its pages say, who may ask, and what does not bring it down.

#![expect(clippy::float_cmp, reason = "a figure is told as it was written")]

mod access;
mod conduct;
mod figures;
mod hostile;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    time::Duration,
};

use protocol::{
    keys::Keys,
    name::HostName,
    status::Status,
    time::{Millis, show_moment},
};
use tests::{Ctl, Raw, Redis, Running, skipped};

/// How long a reply may take: longer than any bound of the exporter.
const WITHIN: Duration = Duration::from_secs(60);

/// An instance of `ctl serve` with an exporter.
struct Serving {
    running: Running,
    address: SocketAddr,
    _ctl: Ctl,
}

/// Samples by their name and labels, as they are written.
type Samples = BTreeMap<String, f64>;

impl Serving {
    /// Starts one with the rights of a controller.
    fn on(redis: &Redis) -> Self {
        Self::with(redis, "")
    }

    /// The same, with these lines under `[http]`.
    fn with(redis: &Redis, http: &str) -> Self {
        let ctl = Ctl::on(redis);
        let listen = if http.contains("listen") { "" } else { "listen = '127.0.0.1:0'\n" };
        let config = ctl.write("serve.toml", &format!("interval = '200ms'\n[http]\n{listen}{http}\n"));
        let running = ctl.spawn(["serve", config.to_str().expect("text")]);
        let line = running.wait_stderr("http: listens on ");
        let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        running.wait_stderr(": ready");
        Self { running, address: SocketAddr::from(([127, 0, 0, 1], port)), _ctl: ctl }
    }

    /// The status and the body of a reply.
    fn get(&self, path: &str) -> (u16, String) {
        self.get_with(path, "")
    }

    /// The same with more header lines.
    fn get_with(&self, path: &str, headers: &str) -> (u16, String) {
        let mut stream = self.connect();
        // Without a version that knows chunks, the body is as it is.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n{headers}\r\n").expect("it is sent");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("a reply");
        read(&reply)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(WITHIN)).expect("a timeout");
        stream
    }

    /// A whole page of figures.
    fn page(&self, query: &str) -> String {
        let (status, page) = self.get(&format!("/metrics{query}"));
        assert_eq!(status, 200, "{page}");
        assert!(page.contains("\nredfleet_exporter_scrape_duration_seconds "), "it is whole: {page}");
        page
    }

    fn samples(&self, query: &str) -> Samples {
        samples(&self.page(query))
    }
}

/// A reply's status and body.
fn read(reply: &str) -> (u16, String) {
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no reply: {reply:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// Reads a page. Each sample stands there once, below the head of its family; families stand there once.
fn samples(page: &str) -> Samples {
    let (mut samples, mut families, mut family) = (BTreeMap::new(), Vec::new(), String::new());
    for line in page.lines() {
        if let Some(head) = line.strip_prefix("# TYPE ") {
            head.split(' ').next().expect("a name").clone_into(&mut family);
            assert!(!families.contains(&family), "{family} stands there twice");
            families.push(family.clone());
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
            assert!(series.starts_with(&family), "{line:?} below {family}");
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line:?}"));
            assert!(value.is_finite(), "{line:?}");
            assert!(!line.contains(char::is_control), "{line:?}");
            assert!(samples.insert(series.to_owned(), value).is_none(), "{series} stands there twice");
        }
    }
    samples
}

/// The hosts that a page has.
fn hosts(samples: &Samples) -> Vec<String> {
    let host = |series: &String| series.strip_prefix("redfleet_host_up{host=\"")?.split('"').next().map(str::to_owned);
    samples.keys().filter_map(host).collect()
}

/// A sample of a host with its usual labels.
fn of(family: &str, host: &str) -> String {
    format!("{family}{{host=\"{host}\",instance=\"{host}\"}}")
}

/// Publishes a host that stays online, without a worker.
fn publish(raw: &mut Raw, host: &str) {
    let keys = Keys::new(None);
    let (name, now): (HostName, Millis) = (host.parse().expect("a name"), raw.now());
    let status = Status { last_seen_ms: now + 3_600_000, version: "1".into(), slots: 4, ..Status::default() };
    let fields = status.fields();
    set(raw, &keys.status(&name), &fields.iter().map(|(name, value)| (&**name, &**value)).collect::<Vec<_>>());
    raw.query::<()>(&["ZADD", &keys.servers(), &now.to_string(), host]);
    let sampled = show_moment(now);
    let load = [("load1", "0.5"), ("load5", "0.25"), ("load15", "0.125"), ("sampled_at", &*sampled)];
    set(raw, &format!("server:{{{host}}}:load"), &load);
    let disk = [("total_bytes:/", "1000"), ("used_bytes:/", "400"), ("available_bytes:/", "500")];
    set(raw, &format!("server:{{{host}}}:disk"), &[&disk[..], &[("sampled_at", &sampled)]].concat());
}

/// Sets fields of a hash.
fn set(raw: &mut Raw, key: &str, fields: &[(&str, &str)]) {
    let words: Vec<_> =
        ["HSET", key].into_iter().chain(fields.iter().flat_map(|(name, value)| [*name, *value])).collect();
    raw.query::<()>(&words);
}

/// What `promtool check metrics` says of a page; `None` where it is not installed: then the test is reported as skipped.
fn promtool(page: &str) -> Option<Vec<String>> {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        skipped(std::thread::current().name().unwrap_or_default(), "promtool is not installed");
        return None;
    };
    child.stdin.take().expect("piped").write_all(page.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&said).lines().map(str::to_owned).collect())
}

/// The same without what `node_exporter`'s names make it say: theirs are not in snake case.
fn complaints(page: &str) -> Option<Vec<String>> {
    let known = |line: &String| line.starts_with("node_memory_") && line.ends_with("not 'camelCase'");
    promtool(page).map(|lines| lines.into_iter().filter(|line| !known(line)).collect())
}
