//! The requests to a server, as its `MONITOR` command shows them, and the cluster slots that they touch.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    thread::{self, JoinHandle},
};

use redis::Connection;

use crate::Redis;

/// The last argument of the command that ends a recording.
const END: &str = "end-of-recording";

/// A recording of all commands.
pub struct Monitor {
    recording: JoinHandle<Vec<Request>>,
}

/// A command and who sent it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The client's address, or `lua` for what a script does.
    pub client: String,
    /// The command and its arguments.
    pub words: Vec<String>,
}

/// What Redis executes as a whole: a transaction, or a single command with what its script does.
#[derive(Debug, Default)]
pub struct Unit {
    /// Its commands, in short.
    pub commands: Vec<String>,
    /// Its keys by slot.
    pub slots: BTreeMap<u16, BTreeSet<String>>,
}

impl Monitor {
    /// Begins to record.
    pub fn start(redis: &Redis) -> Self {
        let mut stream = UnixStream::connect(redis.socket()).expect("a connection");
        stream.write_all(b"MONITOR\r\n").expect("the server listens");
        let mut lines = BufReader::new(stream).split(b'\n').map_while(Result::ok);
        assert_eq!(lines.next().expect("a reply"), b"+OK\r");
        let recording = thread::spawn(move || {
            let texts = lines.map(|line| String::from_utf8_lossy(&line).into_owned());
            let requests = texts.filter_map(|line| Request::read(&line));
            requests.take_while(|request| request.words.last().is_none_or(|word| word != END)).collect()
        });
        Self { recording }
    }

    /// Ends the recording.
    pub fn finish(self, redis: &Redis) -> Vec<Request> {
        redis.cli(["ECHO", END]);
        self.recording.join().expect("a recording")
    }
}

impl Request {
    /// `+SECONDS [DATABASE CLIENT] "WORD" "WORD" …`
    fn read(line: &str) -> Option<Self> {
        let (head, words) = line.split_once("] ")?;
        let client = head.rsplit(' ').next()?.to_owned();
        let mut text = words.trim_end().chars();
        let mut read = Vec::new();
        while text.by_ref().any(|character| character == '"') {
            let mut word = String::new();
            loop {
                match text.next()? {
                    '"' => break,
                    // Only an escaped quote or backslash matters: keys are plain text.
                    '\\' => word.push(text.next()?),
                    character => word.push(character),
                }
            }
            read.push(word);
        }
        Some(Self { client, words: read })
    }

    fn is(&self, name: &str) -> bool {
        self.words.first().is_some_and(|word| word.eq_ignore_ascii_case(name))
    }
}

/// Groups requests into units that Redis executes as a whole. The server itself tells which words are keys.
pub fn units(requests: &[Request], connection: &mut Connection) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    // The transaction that each client is in, and the last unit, to which the commands of a script belong.
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    let mut last = None;
    for request in requests {
        let client = request.client.as_str();
        if request.is("EXEC") || request.is("DISCARD") {
            open.remove(client);
            continue;
        }
        let unit = match (client, open.get(client)) {
            ("lua", _) => last.expect("a script runs within a command"),
            (_, Some(unit)) => *unit,
            (_, None) => {
                units.push(Unit::default());
                units.len() - 1
            }
        };
        last = Some(unit);
        if request.is("MULTI") {
            open.insert(client, unit);
            continue;
        }
        units[unit].commands.push(request.words.iter().take(4).cloned().collect::<Vec<_>>().join(" "));
        for key in keys(request, connection) {
            units[unit].slots.entry(slot(&key)).or_default().insert(key);
        }
    }
    units
}

fn keys(request: &Request, connection: &mut Connection) -> Vec<String> {
    if request.words.len() < 2 {
        return Vec::new();
    }
    let mut question = redis::cmd("COMMAND");
    question.arg("GETKEYS").arg(&request.words);
    match question.query(connection) {
        Ok(keys) => keys,
        // A command without keys is an error here, and a script without any.
        Err(error) if error.to_string().contains("no key arguments") => Vec::new(),
        Err(error) => panic!("the keys of {:?}: {error}", request.words),
    }
}

/// The cluster slot of a key (Redis Cluster specification: CRC16 of the hash tag or the key, modulo 16384).
pub fn slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    crc16(tag.filter(|tag| !tag.is_empty()).unwrap_or(key).as_bytes()) % 16384
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot("server:{web1}:cpu"), slot("server:{web1}:commands"));
        assert_eq!((slot("foo"), slot("foo{}{bar}"), slot("{foo}x")), (12182, slot("foo{}{bar}"), 12182));
    }

    #[test]
    fn a_unit_has_the_keys_of_a_whole_transaction_and_of_what_its_script_does() {
        let redis = Redis::options().tcp().start();
        let (monitor, mut connection) = (Monitor::start(&redis), redis.blocking());
        let (a, b) = ("server:{web1}:status", "job:{1}:hosts");
        let two = redis::pipe().atomic().hset(a, "x", 1).hset(b, "x", 1).query::<()>(&mut connection);
        two.expect("one server, one transaction");
        let mut script = redis::cmd("EVAL");
        script.arg("redis.call('SET', ARGV[1], 1)").arg(0).arg("undeclared");
        script.query::<()>(&mut connection).expect("this server permits it");
        redis::pipe().set("alone", 1).set("too", 1).query::<()>(&mut connection).expect("two units");

        let requests = monitor.finish(&redis);
        let keys = |unit: &Unit| unit.slots.values().flatten().cloned().collect::<BTreeSet<_>>();
        let units: Vec<_> =
            units(&requests, &mut redis.blocking()).iter().map(keys).filter(|keys| !keys.is_empty()).collect();
        let expected = [vec![a, b], vec!["undeclared"], vec!["alone"], vec!["too"]];
        assert_eq!(units, expected.map(|keys| keys.into_iter().map(str::to_owned).collect()));
    }

    #[test]
    fn a_line_reads_as_it_was_sent() {
        let line = r#"+1700000000.1 [0 unix:/r.sock] "hset" "job:{1}" "a \"b\" \\" "\x00""#;
        let request = Request::read(line).unwrap();
        assert_eq!(request.client, "unix:/r.sock");
        assert_eq!(request.words, ["hset", "job:{1}", r#"a "b" \"#, "x00"]);
    }
}
