//! Words and stream entries that no honest controller writes.

use protocol::{
    action::Argument,
    command::{Envelope, Manifest},
    signed::Signed,
    targets::Proof,
};

use crate::Evidence;

/// Words that a shell, an option parser, a path, a format or a terminal might take for more than they are. Those that
/// could run something leave evidence.
pub fn words(evidence: &Evidence) -> Vec<String> {
    let run = evidence.script();
    let mut words = vec![
        format!("; {run}"),
        format!("$({run})"),
        format!("`{run}`"),
        format!("x\n{run}\n"),
        format!("x\r\n{run}"),
        format!("' ; {run} ; '"),
        format!("\" ; {run} ; \""),
        format!("|| {run}"),
        format!("& {run} &"),
        format!("| sh -c '{run}'"),
        format!("-c {run}"),
    ];
    let others = [
        "-",
        "--",
        "-rf",
        "--help",
        "--version",
        "../../../../etc/passwd",
        "/../../etc",
        "/dev/null/..",
        "~root",
        "$HOME",
        "${IFS}",
        "*",
        "?",
        "{}",
        "{a,b}",
        "%s%n%s",
        "\\",
        "\\x41",
        "a:b",
        "a}b{c",
        "\u{1b}[2J\u{1b}]0;x\u{7}",
        "\u{9b}2J",
        "\u{202e}abc",
        "\t",
        " ",
        "",
        "\u{7f}",
        "\u{feff}",
        "\u{1f600}",
        "+0",
        "-1",
        "0x0",
        "nan",
        "null",
    ];
    words.extend(others.map(str::to_owned));
    words
}

/// The hostile word as an argument of this kind, and as one of each other kind.
pub fn arguments_with(word: &str) -> Vec<Argument> {
    let text = || word.to_owned();
    vec![
        Argument::Text(text()),
        Argument::List(vec![text()]),
        Argument::List(vec!["true".into(), text()]),
        Argument::Map([(text(), "x".into())].into()),
        Argument::Map([("X".into(), text())].into()),
    ]
}

/// The fields of a stream entry.
pub type Entry = Vec<(Vec<u8>, Vec<u8>)>;

/// A valid entry, to be damaged.
pub fn entry(envelope: &Envelope<Manifest>) -> Entry {
    envelope.fields().into_iter().map(|(name, value)| (name.into(), value)).collect()
}

/// The entry with another value in one field.
#[must_use]
pub fn with(entry: &Entry, name: &str, value: impl Into<Vec<u8>>) -> Entry {
    without(entry, name).into_iter().chain([(name.into(), value.into())]).collect()
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

/// `MessagePack`: `depth` nested arrays.
pub fn nested(depth: usize) -> Vec<u8> {
    [vec![0x91; depth], vec![0xc0]].concat()
}

/// Values that claim four billion elements or bytes and hold none: array, map, text, bytes, extension.
pub const ENDLESS: [[u8; 5]; 5] = [
    [0xdd, 0xff, 0xff, 0xff, 0xff],
    [0xdf, 0xff, 0xff, 0xff, 0xff],
    [0xdb, 0xff, 0xff, 0xff, 0xff],
    [0xc6, 0xff, 0xff, 0xff, 0xff],
    [0xc9, 0xff, 0xff, 0xff, 0xff],
];

/// The manifest's bytes with one more, unknown field.
pub fn with_unknown_field(manifest: &Manifest, value: &[u8]) -> Vec<u8> {
    let mut bytes = Signed::unsigned(manifest).bytes;
    assert_eq!(bytes[0] & 0xf0, 0x80, "a fixmap has up to 15 fields");
    bytes[0] += 1;
    [bytes, text("mood"), value.to_vec()].concat()
}

/// The bytes of a proof.
pub fn proof(index: u64, path: Vec<u8>) -> Vec<u8> {
    let signed = Signed::<Manifest>::of_bytes(Vec::new(), Vec::new());
    let mut fields = Envelope { signed, proof: Proof { index, path } }.fields();
    fields.pop().expect("the proof comes last").1
}

/// What stands in the place of a signature over a run of a standing order, around any bytes.
pub fn voucher(order: &[u8], signature: &[u8]) -> Vec<u8> {
    [&[0x82][..], &text("standing_order"), &bytes(order), &text("signature"), &bytes(signature)].concat()
}

/// `MessagePack`: bytes.
fn bytes(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("not so many").to_be_bytes();
    [&[0xc5], &length[..], bytes].concat()
}
