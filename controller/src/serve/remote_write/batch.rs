//! Batches: what is written in one request, packed as soon as it is known, so that a fleet that waits takes little memory.

use std::{
    collections::{HashSet, hash_map::RandomState},
    hash::{BuildHasher, Hasher},
    sync::Arc,
};

use prost::Message;

use super::wire::{About, Kind, Request, Sample, Series, Symbols};
use crate::serve::exporter::samples::{self, Family};

/// The value that says that a series has ended: a NaN of its own.
pub const STALE: u64 = 0x7ff0_0000_0000_0002;

/// Samples of a batch.
pub const BATCH_SAMPLES: usize = 2_000;
/// Bytes of a batch's texts before it is closed.
const BATCH_BYTES: usize = 1024 * 1024;

/// A packed request.
#[derive(Debug)]
pub struct Batch {
    /// How many samples it has.
    pub samples: usize,
    /// A [`Request`] as remote write 2.0 sends it: compressed by snappy.
    packed: Vec<u8>,
}

/// All that was known at a moment.
#[derive(Debug)]
pub struct Round {
    /// The moment, in milliseconds since the epoch.
    pub at_ms: u64,
    /// The samples.
    pub batches: Vec<Arc<Batch>>,
    /// The digests of its series.
    series: HashSet<u64>,
}

/// A round that is being collected.
pub struct Collector<'a> {
    identity: &'a Identity,
    round: Round,
    symbols: Symbols,
    open: Vec<Series>,
}

/// What makes a series: how its labels are spelled, and digested.
#[derive(Debug, Default)]
pub struct Identity {
    /// Labels of every series that has none of these names.
    labels: Vec<(String, String)>,
    /// Its keys are random, so that nobody can find series with equal digests.
    digests: RandomState,
}

/// Labels, as a receiver takes them.
type Pairs<'a> = Vec<(&'a str, &'a str)>;

impl Batch {
    fn new(request: &Request) -> Self {
        let samples = request.series.iter().map(|series| series.samples.len()).sum();
        Self { samples, packed: pack(&request.encode_to_vec()) }
    }

    /// The body of a request of version 2.0.
    pub fn body(&self) -> Vec<u8> {
        self.packed.clone()
    }

    /// The body of a request of version 1.0.
    pub fn old_body(&self) -> Vec<u8> {
        pack(&self.request().to_old().encode_to_vec())
    }

    /// How much memory it takes.
    pub const fn bytes(&self) -> usize {
        self.packed.len()
    }

    fn request(&self) -> Request {
        let bytes = snap::raw::Decoder::new().decompress_vec(&self.packed).expect("it was packed here");
        Request::decode(&*bytes).expect("it was encoded here")
    }
}

fn pack(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).expect("a batch has some megabytes")
}

impl Identity {
    /// With these labels of every series.
    pub fn new(labels: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { labels: labels.into_iter().collect(), digests: RandomState::new() }
    }

    /// The labels of a series of this name as a receiver takes them: sorted, each name once, no empty value.
    fn pairs<'a>(&'a self, name: &'a str, sample: &'a samples::Sample) -> Pairs<'a> {
        let own = sample.labels();
        let more = self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut pairs: Pairs<'a> = [("__name__", name)].into_iter().chain(own).chain(more).collect();
        // The sort is stable: of equal names the first counts.
        pairs.sort_by_key(|(name, _)| *name);
        pairs.dedup_by_key(|(name, _)| *name);
        pairs.retain(|(_, value)| !value.is_empty());
        pairs
    }

    fn digest<'a>(&self, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> u64 {
        let mut hasher = self.digests.build_hasher();
        for (name, value) in pairs {
            // No text has this byte.
            for text in [name, value] {
                hasher.write(text.as_bytes());
                hasher.write_u8(0xff);
            }
        }
        hasher.finish()
    }

    /// Begins a round.
    pub fn collect(&self, at_ms: u64) -> Collector<'_> {
        let round = Round { at_ms, batches: Vec::new(), series: HashSet::new() };
        Collector { identity: self, round, symbols: Symbols::default(), open: Vec::new() }
    }

    /// The markers of the series of `before` that have ended: they are not in `now`.
    pub fn ended(&self, before: &Round, now: Option<&Round>, at_ms: u64) -> Vec<Arc<Batch>> {
        let lasts = |digest: &u64| now.is_some_and(|now| now.series.contains(digest));
        if before.series.iter().all(lasts) {
            return Vec::new();
        }
        let mark = |batch: &Arc<Batch>| {
            let mut request = batch.request();
            let mut all = std::mem::take(&mut request.series);
            all.retain_mut(|series| {
                let is_over = !lasts(&self.digest(request.labels(series)));
                series.samples = vec![Sample { value: f64::from_bits(STALE), at_ms: signed(at_ms) }];
                series.about = None;
                is_over
            });
            request.series = all;
            (!request.series.is_empty()).then(|| Arc::new(Batch::new(&request)))
        };
        before.batches.iter().filter_map(mark).collect()
    }
}

impl Collector<'_> {
    /// Takes figures of a family. Of equal series the first counts.
    pub fn take(&mut self, figures: &samples::Batch) {
        let family = figures.family;
        for sample in &figures.samples {
            self.add(family, &format!("{}{}", family.name, sample.suffix), sample);
        }
    }

    fn add(&mut self, family: &Family, name: &str, sample: &samples::Sample) {
        let pairs = self.identity.pairs(name, sample);
        if !self.round.series.insert(self.identity.digest(pairs.iter().copied())) {
            return;
        }
        let texts = pairs.iter().flat_map(|(name, value)| [name, value]);
        let labels = texts.map(|text| self.symbols.place(text)).collect();
        let about = About {
            kind: Kind::from(family.kind).into(),
            help: self.symbols.place(family.help),
            unit: self.symbols.place(family.unit),
        };
        // The bits of a marker mean something else than any value.
        let value = if sample.value.is_nan() { f64::NAN } else { sample.value };
        let samples = vec![Sample { value, at_ms: signed(self.round.at_ms) }];
        self.open.push(Series { labels, samples, about: Some(about) });
        if self.open.len() >= BATCH_SAMPLES || self.symbols.bytes() >= BATCH_BYTES {
            self.close();
        }
    }

    /// The round, complete.
    pub fn finish(mut self) -> Round {
        self.close();
        self.round
    }

    fn close(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let request = Request { symbols: self.symbols.take(), series: std::mem::take(&mut self.open) };
        self.round.batches.push(Arc::new(Batch::new(&request)));
    }
}

fn signed(at_ms: u64) -> i64 {
    i64::try_from(at_ms).unwrap_or(i64::MAX)
}

impl From<samples::Kind> for Kind {
    fn from(kind: samples::Kind) -> Self {
        match kind {
            samples::Kind::Gauge => Self::Gauge,
            samples::Kind::Counter => Self::Counter,
            samples::Kind::Histogram => Self::Histogram,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::exporter::samples::label_value;

    /// Figures of a family.
    fn figures(samples: impl IntoIterator<Item = samples::Sample>) -> samples::Batch {
        samples::Batch { family: &samples::HOST_UP, samples: samples.into_iter().collect() }
    }

    /// A figure with these labels.
    fn figure(labels: &[(&'static str, &str)], value: f64) -> samples::Sample {
        let add = |sample: samples::Sample, (name, text): &(&'static str, &str)| sample.with(*name, label_value(text));
        labels.iter().fold(samples::Sample::bare(value), add)
    }

    fn shown(batches: &[Arc<Batch>]) -> Vec<String> {
        let show = |batch: &Arc<Batch>| {
            let request = batch.request();
            let of = |series: &Series| {
                let labels: Vec<_> = request.labels(series).map(|(name, value)| format!("{name}={value}")).collect();
                let samples: Vec<_> =
                    series.samples.iter().map(|sample| (sample.value.to_bits(), sample.at_ms)).collect();
                let sample = match samples[..] {
                    [(STALE, at)] => format!("stale@{at}"),
                    [(bits, at)] => format!("{}@{at}", f64::from_bits(bits)),
                    _ => panic!("{samples:?}"),
                };
                format!("{} {sample}", labels.join(","))
            };
            request.series.iter().map(of).collect::<Vec<_>>()
        };
        batches.iter().flat_map(show).collect()
    }

    #[test]
    fn labels_are_sorted_and_unique() {
        let identity =
            Identity::new([("host".to_owned(), "other".to_owned()), ("site".to_owned(), "north".to_owned())]);
        let mut collector = identity.collect(1_000);
        collector.take(&figures([
            figure(&[("z", "1"), ("host", "web1"), ("role", "é\n"), ("none", "")], 2.0),
            figure(&[], f64::from_bits(STALE)),
            figure(&[("role", "é\n"), ("host", "web1"), ("z", "1")], 3.0),
        ]));
        let name = "__name__=redfleet_host_up";
        let expected = [
            format!("{name},host=web1,role=é\n,site=north,z=1 2@1000"),
            format!("{name},host=other,site=north NaN@1000"),
        ];
        assert_eq!(shown(&collector.finish().batches), expected);
    }

    #[test]
    fn what_has_ended_is_marked_once() {
        let identity = Identity::default();
        let round = |at_ms, hosts: &[&str]| {
            let mut collector = identity.collect(at_ms);
            collector.take(&figures(hosts.iter().map(|host| figure(&[("host", host)], 1.0))));
            collector.finish()
        };
        let marker = |host, at_ms| format!("__name__=redfleet_host_up,host={host} stale@{at_ms}");
        let (first, second, third) = (round(1_000, &["a", "b"]), round(2_000, &["b", "c"]), round(3_000, &["b", "c"]));
        assert_eq!(shown(&identity.ended(&first, Some(&second), 2_000)), [marker("a", 2_000)]);
        assert!(identity.ended(&second, Some(&third), 3_000).is_empty());
        assert_eq!(shown(&identity.ended(&third, None, 3_001)), [marker("b", 3_001), marker("c", 3_001)]);
    }

    #[test]
    fn batches_are_bounded_and_a_fleet_takes_little_memory() {
        let identity = Identity::default();
        let mut collector = identity.collect(1_000);
        for at in 0..100_000_u32 {
            let (host, device) = (format!("web{}.example.org", at / 100), format!("device{}", at % 100));
            collector.take(&figures([figure(&[("host", &host), ("device", &device)], f64::from(at) * 1.7)]));
        }
        let round = collector.finish();
        assert_eq!(round.batches.len(), 50);
        assert!(round.batches.iter().all(|batch| batch.samples == BATCH_SAMPLES));
        let bytes: usize = round.batches.iter().map(|batch| batch.bytes()).sum();
        println!("100000 samples take {bytes} bytes");
        assert!(bytes < 5_000_000, "{bytes}");

        let long = "x".repeat(200);
        let mut collector = identity.collect(1_000);
        for at in 0..BATCH_SAMPLES {
            let labels: Vec<_> =
                ["a", "b", "c", "d"].into_iter().map(|name| (name, format!("{at}{name}{long}"))).collect();
            let labels: Vec<_> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
            collector.take(&figures([figure(&labels, 1.0)]));
        }
        assert_eq!(collector.finish().batches.len(), 2);
    }
}
