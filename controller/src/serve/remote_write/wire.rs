//! The messages of Prometheus' remote write, versions 2.0 and 1.0, and how one becomes the other.
//!
//! The numbers of fields are those of `io.prometheus.write.v2.Request` and of `prometheus.WriteRequest`. Both number theirs
//! so that a receiver which takes one for the other finds nothing in it.

use std::collections::HashMap;

/// What is written, in version 2.0: each text stands in it once.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// All texts. The first is empty.
    #[prost(string, repeated, tag = "4")]
    pub symbols: Vec<String>,
    /// The series.
    #[prost(message, repeated, tag = "5")]
    pub series: Vec<Series>,
}

/// A series with some of its samples.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Series {
    /// Names and values of its labels in turn, sorted by name: their places among the texts.
    #[prost(uint32, repeated, tag = "1")]
    pub labels: Vec<u32>,
    /// Its samples, the oldest first.
    #[prost(message, repeated, tag = "2")]
    pub samples: Vec<Sample>,
    /// What is known about it.
    #[prost(message, optional, tag = "5")]
    pub about: Option<About>,
}

/// A value at a moment. Both versions have the same.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Sample {
    /// The value.
    #[prost(double, tag = "1")]
    pub value: f64,
    /// The moment, in milliseconds since the epoch.
    #[prost(int64, tag = "2")]
    pub at_ms: i64,
}

/// What is known about a series.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct About {
    /// Its [`Kind`].
    #[prost(enumeration = "Kind", tag = "1")]
    pub kind: i32,
    /// The place of its description among the texts.
    #[prost(uint32, tag = "3")]
    pub help: u32,
    /// The place of its unit among the texts.
    #[prost(uint32, tag = "4")]
    pub unit: u32,
}

/// What the values of a series are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Kind {
    /// It is not said.
    Unspecified = 0,
    /// They only rise, but for restarts.
    Counter = 1,
    /// They rise and fall.
    Gauge = 2,
    /// They count what was up to certain sizes.
    Histogram = 3,
}

/// What is written, in version 1.0.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OldRequest {
    /// The series.
    #[prost(message, repeated, tag = "1")]
    pub series: Vec<OldSeries>,
}

/// A series with some of its samples, in version 1.0.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OldSeries {
    /// Its labels, sorted by name.
    #[prost(message, repeated, tag = "1")]
    pub labels: Vec<OldLabel>,
    /// Its samples, the oldest first.
    #[prost(message, repeated, tag = "2")]
    pub samples: Vec<Sample>,
}

/// A label, in version 1.0.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct OldLabel {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
}

impl Request {
    /// The labels of a series: names and values.
    pub fn labels<'a>(&'a self, series: &'a Series) -> impl Iterator<Item = (&'a str, &'a str)> {
        let text = |place: u32| self.symbols.get(place as usize).map_or("", String::as_str);
        series.labels.chunks_exact(2).map(move |pair| (text(pair[0]), text(pair[1])))
    }

    /// The same in version 1.0.
    pub fn to_old(&self) -> OldRequest {
        let label = |(name, value): (&str, &str)| OldLabel { name: name.into(), value: value.into() };
        let series = |series: &Series| OldSeries {
            labels: self.labels(series).map(label).collect(),
            samples: series.samples.clone(),
        };
        OldRequest { series: self.series.iter().map(series).collect() }
    }
}

/// The texts of a request, while it is made.
#[derive(Debug)]
pub struct Symbols {
    texts: Vec<String>,
    places: HashMap<String, u32>,
    bytes: usize,
}

impl Default for Symbols {
    fn default() -> Self {
        Self { texts: vec![String::new()], places: HashMap::from([(String::new(), 0)]), bytes: 0 }
    }
}

impl Symbols {
    /// The place of a text.
    pub fn place(&mut self, text: &str) -> u32 {
        if let Some(place) = self.places.get(text) {
            return *place;
        }
        let place = u32::try_from(self.texts.len()).expect("a batch has some thousand texts");
        self.bytes += text.len();
        self.texts.push(text.to_owned());
        self.places.insert(text.to_owned(), place);
        place
    }

    /// How long all of them are.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// All of them; none is left.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(self).texts
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn request() -> Request {
        let mut symbols = Symbols::default();
        let labels = ["__name__", "up", "host", "web1"].map(|text| symbols.place(text)).to_vec();
        let samples = vec![Sample { value: 1.0, at_ms: 1_000 }];
        let about = Some(About { kind: Kind::Gauge.into(), help: symbols.place("Whether it is there."), unit: 0 });
        Request { series: vec![Series { labels, samples, about }], symbols: symbols.take() }
    }

    /// The bytes that the specification's own definition of the message gives, by hand.
    #[test]
    fn messages_have_the_bytes_of_the_specification() {
        let mut expected = vec![0x22, 0];
        for text in ["__name__", "up", "host", "web1", "Whether it is there."] {
            expected.extend([0x22, u8::try_from(text.len()).unwrap()]);
            expected.extend(text.as_bytes());
        }
        let mut sample = vec![0x09];
        sample.extend(1.0_f64.to_le_bytes());
        sample.extend([0x10, 0xe8, 0x07]);
        let mut series = vec![0x0a, 4, 1, 2, 3, 4, 0x12, u8::try_from(sample.len()).unwrap()];
        series.extend(sample);
        series.extend([0x2a, 4, 0x08, 2, 0x18, 5]);
        expected.extend([0x2a, u8::try_from(series.len()).unwrap()]);
        expected.extend(series);
        assert_eq!(request().encode_to_vec(), expected);
    }

    #[test]
    fn a_receiver_of_the_other_version_finds_nothing() {
        let new = request().encode_to_vec();
        assert_eq!(OldRequest::decode(&*new).unwrap(), OldRequest::default());
        let old = request().to_old();
        assert_eq!(Request::decode(&*old.encode_to_vec()).unwrap(), Request::default());
        assert_eq!(old.series[0].labels[1], OldLabel { name: "host".into(), value: "web1".into() });
        assert_eq!(old.series[0].samples, request().series[0].samples);
    }
}
