//! A receiver of remote write that does as it is told, and remembers what it was sent.

use std::{
    collections::{HashMap, VecDeque},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use prost::Message;
use tests::eventually;

/// The value of a marker.
pub(crate) const STALE: u64 = 0x7ff0_0000_0000_0002;

/// How a request is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    /// With this status and these headers.
    Status(u16, &'static str),
    /// It takes version 1.0 only, and says so.
    OldOnly,
    /// It takes version 1.0 only, and ignores what it does not know.
    OldSilent,
    /// All is written.
    Written,
    /// Not at all.
    Never,
}

/// A sample that has arrived.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Got {
    /// `name{label="value",…}`
    pub(crate) series: String,
    pub(crate) at_ms: i64,
    pub(crate) bits: u64,
}

/// A request that has arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// By names in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) version: String,
    pub(crate) samples: Vec<Got>,
    /// What metadata says: name → kind and description.
    pub(crate) about: HashMap<String, (i32, String)>,
    /// Whether it was taken.
    pub(crate) is_taken: bool,
}

#[derive(Debug)]
struct State {
    /// The next replies, before the usual one.
    next: VecDeque<Reply>,
    usual: Reply,
    requests: Vec<Request>,
}

/// Listens at a port of its own.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    is_over: Arc<AtomicBool>,
}

impl Receiver {
    pub(crate) fn start(next: impl IntoIterator<Item = Reply>, usual: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = State { next: next.into_iter().collect(), usual, requests: Vec::new() };
        let (state, is_over) = (Arc::new(Mutex::new(state)), Arc::new(AtomicBool::new(false)));
        let (shared, over) = (Arc::clone(&state), Arc::clone(&is_over));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(&stream, &shared));
            }
        });
        Self { address, state, is_over }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it was held")
    }

    /// From now on, this is the reply.
    pub(crate) fn reply(&self, usual: Reply) {
        self.lock().usual = usual;
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.lock().requests.clone()
    }

    /// The samples of all requests that were taken so far, or were not.
    pub(crate) fn samples(&self, is_taken: bool) -> Vec<Got> {
        let requests = self.requests().into_iter().filter(|request| request.is_taken == is_taken);
        requests.flat_map(|request| request.samples).collect()
    }

    /// Waits until such a sample was taken.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, look: impl Fn(&Got) -> bool) -> Got {
        eventually(what, || self.samples(true).into_iter().find(&look))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

impl Got {
    pub(crate) fn value(&self) -> f64 {
        f64::from_bits(self.bits)
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.bits == STALE
    }

    pub(crate) fn is(&self, name: &str, host: &str) -> bool {
        self.series.starts_with(&format!("{name}{{")) && self.is_of(host)
    }

    pub(crate) fn is_of(&self, host: &str) -> bool {
        self.series.contains(&format!("host=\"{host}\""))
    }
}

/// Answers the requests of a connection.
fn serve(stream: &TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    while let Some((path, headers)) = head(&mut reader) {
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).expect("a length");
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        let mut request = decode(path, headers, &body);
        let reply = {
            let mut state = state.lock().expect("no panic while it was held");
            let reply = state.next.pop_front().unwrap_or(state.usual);
            let is_new = request.version == "2.0.0";
            let reply = match (reply, is_new) {
                (Reply::Written, true) => Reply::Status(204, "X-Prometheus-Remote-Write-Samples-Written: 1\r\n"),
                (Reply::OldOnly, true) => Reply::Status(415, ""),
                (Reply::Written | Reply::OldOnly | Reply::OldSilent, false) | (Reply::OldSilent, true) => {
                    Reply::Status(204, "")
                }
                (other, _) => other,
            };
            let is_ignored = is_new && matches!(reply, Reply::Status(204, ""));
            request.is_taken = matches!(reply, Reply::Status(200..300, _)) && !is_ignored;
            state.requests.push(request);
            reply
        };
        let Reply::Status(status, headers) = reply else {
            // Until the other side hangs up.
            let _ = reader.read(&mut [0]);
            return;
        };
        let body = if status >= 400 { "no\r\nluck" } else { "" };
        let length = if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        if write!(&*stream, "HTTP/1.1 {status} X\r\n{length}{headers}\r\n{body}").is_err() {
            return;
        }
    }
}

/// The path and the headers of the next request.
fn head(reader: &mut impl BufRead) -> Option<(String, HashMap<String, String>)> {
    let mut lines = reader.lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let header = |line: String| {
        let (name, value) = line.split_once(": ").expect("a header");
        (name.to_lowercase(), value.to_owned())
    };
    Some((path, lines.map(header).collect()))
}

/// Messages as the specifications of both versions have them, apart from those of `ctl`.
mod new {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Request {
        #[prost(string, repeated, tag = "4")]
        pub(super) symbols: Vec<String>,
        #[prost(message, repeated, tag = "5")]
        pub(super) timeseries: Vec<TimeSeries>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct TimeSeries {
        #[prost(uint32, repeated, tag = "1")]
        pub(super) labels_refs: Vec<u32>,
        #[prost(message, repeated, tag = "2")]
        pub(super) samples: Vec<super::Sample>,
        #[prost(message, optional, tag = "5")]
        pub(super) metadata: Option<Metadata>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Metadata {
        #[prost(int32, tag = "1")]
        pub(super) kind: i32,
        #[prost(uint32, tag = "3")]
        pub(super) help_ref: u32,
        #[prost(uint32, tag = "4")]
        pub(super) unit_ref: u32,
    }
}

mod old {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct WriteRequest {
        #[prost(message, repeated, tag = "1")]
        pub(super) timeseries: Vec<TimeSeries>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct TimeSeries {
        #[prost(message, repeated, tag = "1")]
        pub(super) labels: Vec<Label>,
        #[prost(message, repeated, tag = "2")]
        pub(super) samples: Vec<super::Sample>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Label {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(string, tag = "2")]
        pub(super) value: String,
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

fn decode(path: String, headers: HashMap<String, String>, body: &[u8]) -> Request {
    assert_eq!(headers.get("content-encoding").map(String::as_str), Some("snappy"), "{headers:?}");
    let bytes = snap::raw::Decoder::new().decompress_vec(body).expect("snappy's block format");
    let version = headers["x-prometheus-remote-write-version"].clone();
    let mut samples = Vec::new();
    let mut about = HashMap::new();
    let mut add = |labels: Vec<(String, String)>, points: Vec<Sample>| {
        assert!(labels.is_sorted() && labels.windows(2).all(|pair| pair[0].0 < pair[1].0), "{labels:?}");
        let name = labels.iter().find(|(name, _)| name == "__name__").expect("a name").1.clone();
        let own = labels.iter().filter(|(name, _)| name != "__name__");
        let own: Vec<_> = own.map(|(name, value)| format!("{name}={value:?}")).collect();
        let series = format!("{name}{{{}}}", own.join(","));
        assert_eq!(points.len(), 1, "{series}");
        let got = |point: Sample| Got { series: series.clone(), at_ms: point.timestamp, bits: point.value.to_bits() };
        samples.extend(points.into_iter().map(got));
        name
    };
    if version == "2.0.0" {
        assert_eq!(headers["content-type"], "application/x-protobuf;proto=io.prometheus.write.v2.Request");
        let request = new::Request::decode(&*bytes).expect("a request of version 2.0");
        assert_eq!(request.symbols.first().map(String::as_str), Some(""));
        let text = |place: u32| request.symbols[place as usize].clone();
        for series in request.timeseries {
            let labels = series.labels_refs.chunks(2).map(|pair| (text(pair[0]), text(pair[1]))).collect();
            let name = add(labels, series.samples);
            if let Some(metadata) = series.metadata {
                about.insert(name, (metadata.kind, text(metadata.help_ref)));
            }
        }
    } else {
        assert_eq!((version.as_str(), headers["content-type"].as_str()), ("0.1.0", "application/x-protobuf"));
        let request = old::WriteRequest::decode(&*bytes).expect("a request of version 1.0");
        for series in request.timeseries {
            add(series.labels.into_iter().map(|label| (label.name, label.value)).collect(), series.samples);
        }
    }
    Request { path, headers, version, samples, about, is_taken: false }
}
