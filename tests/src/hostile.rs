//! Entries that no honest controller writes.

use protocol::{
    command::{Envelope, Manifest},
    targets::Proof,
};

/// The fields of a stream entry in the making.
pub type Entry = Vec<(Vec<u8>, Vec<u8>)>;

/// A sound entry, to be spoilt.
pub fn entry(envelope: &Envelope) -> Entry {
    envelope.fields().into_iter().map(|(name, value)| (name.into(), value)).collect()
}

/// The entry with another value in one field.
#[must_use]
pub fn with(entry: &Entry, name: &str, value: impl Into<Vec<u8>>) -> Entry {
    let value = value.into();
    let replaced = |field: &(Vec<u8>, Vec<u8>)| {
        if field.0 == name.as_bytes() { (field.0.clone(), value.clone()) } else { field.clone() }
    };
    entry.iter().map(replaced).collect()
}

/// The entry without one field.
#[must_use]
pub fn without(entry: &Entry, name: &str) -> Entry {
    entry.iter().filter(|(field, _)| field != name.as_bytes()).cloned().collect()
}

/// `MessagePack`: a map of one.
pub fn map(name: &str, value: &[u8]) -> Vec<u8> {
    [&[0x81], &*text(name), value].concat()
}

/// `MessagePack`: a short text.
pub fn text(text: &str) -> Vec<u8> {
    assert!(text.len() < 32, "a fixstr has up to 31 bytes");
    let head = 0xa0 | u8::try_from(text.len()).expect("short");
    [&[head], text.as_bytes()].concat()
}

/// `MessagePack`: so many arrays within each other.
pub fn nested(depth: usize) -> Vec<u8> {
    [vec![0x91; depth], vec![0xc0]].concat()
}

/// Beginnings of values that claim four billion elements or bytes, and hold none: array, map, text, bytes, extension.
pub const ENDLESS: [[u8; 5]; 5] = [
    [0xdd, 0xff, 0xff, 0xff, 0xff],
    [0xdf, 0xff, 0xff, 0xff, 0xff],
    [0xdb, 0xff, 0xff, 0xff, 0xff],
    [0xc6, 0xff, 0xff, 0xff, 0xff],
    [0xc9, 0xff, 0xff, 0xff, 0xff],
];

/// The manifest's bytes with one more field, which nobody knows.
pub fn with_unknown_field(manifest: &Manifest, value: &[u8]) -> Vec<u8> {
    let mut bytes = manifest.encode();
    assert_eq!(bytes[0] & 0xf0, 0x80, "a fixmap has up to 15 fields");
    bytes[0] += 1;
    [bytes, text("mood"), value.to_vec()].concat()
}

/// The bytes of a proof.
pub fn proof(index: u64, path: Vec<u8>) -> Vec<u8> {
    let envelope = Envelope { manifest: Vec::new(), signature: Vec::new(), proof: Proof { index, path } };
    let [.., (_, bytes)] = envelope.fields();
    bytes
}
