//! The live output of a job's hosts: a stream for each that has begun.

use std::collections::{BTreeMap, HashMap};

use protocol::{event::Piece, keys::Keys, limits, name::HostName, name::JobId, outcome::Captured, outcome::Outcome};

use super::{
    events::Event,
    fleet::{RawHash, fields},
};

/// The streams that are read, and the last entry of each that was read.
#[derive(Debug, Default)]
pub(super) struct Outputs(BTreeMap<HostName, String>);

impl Outputs {
    /// Begins to read the output of a host, unless that is done.
    pub(super) fn open(&mut self, host: &HostName) {
        if !self.0.contains_key(host) {
            self.0.insert(host.clone(), "0".into());
        }
    }

    /// Ends the reading of a host's output.
    pub(super) fn close(&mut self, host: &HostName) {
        self.0.remove(host);
    }

    /// The keys of the streams, and behind which entry each is read.
    pub(super) fn places<'a>(&'a self, keys: &Keys, job: JobId) -> Vec<(String, &'a HostName, &'a str)> {
        let place = |(host, last): (&'a HostName, &'a String)| (keys.job_output(job, host), host, last.as_str());
        self.0.iter().map(place).collect()
    }

    /// Takes the entries of a stream that was read. Returns what the program has written.
    pub(super) fn take(&mut self, host: &HostName, entries: Vec<(String, RawHash)>) -> Vec<Event> {
        if let (Some(last), Some((id, _))) = (self.0.get_mut(host), entries.last()) {
            last.clone_from(id);
        }
        let piece = |(_, values)| {
            let Piece { stream, offset, data } = Piece::from_fields(&fields(values))?;
            Some(Event::Output { host: host.clone(), stream, offset, data })
        };
        entries.into_iter().filter_map(piece).collect()
    }
}

/// Whether an outcome has all that live output could add: then it need not be read.
pub(super) fn has_everything(outcome: &Outcome) -> bool {
    let has = |captured: &Captured| captured.cut_bytes == 0 || captured.kept_bytes() >= limits::LIVE_BYTES as u64;
    // The outcome of an interrupted command has no output, though there was some.
    outcome.stdout.written_bytes + outcome.stderr.written_bytes > 0 && has(&outcome.stdout) && has(&outcome.stderr)
}

/// The hosts by the keys of their streams.
pub(super) fn by_key(places: &[(String, &HostName, &str)]) -> HashMap<Vec<u8>, HostName> {
    places.iter().map(|(key, host, _)| (key.clone().into_bytes(), (*host).clone())).collect()
}
