//! Revocation lists: stock ones, damaged ones, and plain lists of keys.

use base64ct::{Base64, Encoding};
use fastrand::Rng;
use protocol::trust::sshsig::JOB;

use crate::{
    crafted::strings,
    stock::{ANN, Question, Stock},
    verdict::{
        Tally,
        Verdict::{self, Accepted, Refused, Stricter},
    },
};

/// Ann's key, her certificate with serial 7 and one without a serial.
struct Fleet {
    stock: Stock,
    signers: String,
    signatures: [Vec<u8>; 3],
}

impl Fleet {
    fn new() -> Self {
        let stock = Stock::new();
        for name in ["ann", "bob", "authority", "stranger"] {
            stock.key(name, "ed25519");
        }
        stock.key("rsa", "rsa");
        let by_key = stock.sign("ann", JOB);
        stock.keygen(&["-q", "-s", "authority", "-I", "ann's", "-n", ANN, "ann.pub"]);
        let unnumbered = stock.sign("ann-cert.pub", JOB);
        stock.keygen(&["-q", "-s", "authority", "-I", "ann's", "-n", ANN, "-z", "7", "ann.pub"]);
        let numbered = stock.sign("ann-cert.pub", JOB);
        let signers = format!("{ANN} {}\n{ANN} cert-authority {}\n", stock.public("ann"), stock.public("authority"));
        Self { stock, signers, signatures: [by_key, numbered, unnumbered] }
    }

    /// What both say to the three signatures.
    fn ask(&self, tally: &mut Tally, revoked: &[u8], case: &str) -> [Verdict; 3] {
        self.signatures.each_ref().map(|signature| {
            let question = Question { signers: &self.signers, namespace: JOB, signature, revoked: Some(revoked) };
            tally.ask(&self.stock, question, case)
        })
    }

    /// A list of what a file for `ssh-keygen -k` says, under an authority where one is named.
    fn list(&self, authority: Option<&str>, stated: &str) -> Vec<u8> {
        self.stock.write("stated", stated);
        let authority = authority.map(|name| format!("{name}.pub"));
        let mut arguments = vec!["-q", "-k", "-f", "list"];
        arguments.extend(authority.iter().flat_map(|name| ["-s", name]));
        arguments.push("stated");
        self.stock.keygen(&arguments);
        self.stock.read("list")
    }
}

#[test]
fn stock_lists_revoke_the_same() {
    let fleet = Fleet::new();
    let key = |name: &str| fleet.stock.public(name);
    let mut tally = Tally::default();
    for (authority, stated, expected) in [
        (None, String::new(), [true, true, true]),
        (None, format!("{}\n", key("ann")), [false, false, false]),
        (None, format!("key: {}\n", key("authority")), [true, false, false]),
        (None, format!("{}\n{}\n", key("bob"), key("rsa")), [true, true, true]),
        (None, format!("sha1: {}\n", key("ann")), [false, false, false]),
        (None, format!("sha256: {}\n", key("authority")), [true, false, false]),
        (Some("authority"), "serial: 7\n".to_owned(), [true, false, true]),
        (Some("authority"), "serial: 6\nserial: 8-90000\n".to_owned(), [true, true, true]),
        (Some("authority"), "serial: 1-1000000\n".to_owned(), [true, false, true]),
        (Some("authority"), "serial: 1\nserial: 3\nserial: 5\nserial: 7\nserial: 9\n".to_owned(), [true, false, true]),
        (Some("authority"), "serial: 1\nserial: 3\nserial: 5\nserial: 8\nserial: 9\n".to_owned(), [true, true, true]),
        (Some("authority"), "id: ann's\n".to_owned(), [true, false, false]),
        (Some("authority"), "id: bob's\n".to_owned(), [true, true, true]),
        (Some("stranger"), "serial: 7\nid: ann's\n".to_owned(), [true, true, true]),
        (Some("rsa"), "serial: 7\n".to_owned(), [true, true, true]),
    ] {
        let list = fleet.list(authority, &stated);
        let expected = expected.map(|is_accepted| if is_accepted { Accepted } else { Refused });
        assert_eq!(fleet.ask(&mut tally, &list, &stated), expected, "{stated}");
    }
    println!("{tally}");
}

#[test]
fn plain_lists_revoke_the_same() {
    let fleet = Fleet::new();
    let key = |name: &str| fleet.stock.public(name);
    let mut tally = Tally::default();
    let certificate = fleet.stock.read_text("ann-cert.pub");
    for (list, expected) in [
        (String::new(), [Accepted, Accepted, Accepted]),
        (format!("# nothing\n\n  {} bob\n{}", key("bob"), key("rsa")), [Accepted, Accepted, Accepted]),
        (format!("{}\n{} ann\r\n", key("bob"), key("ann")), [Refused, Refused, Refused]),
        (key("authority"), [Accepted, Refused, Refused]),
        (format!("{}\n{}\n", key("bob"), certificate), [Refused, Refused, Refused]),
        (format!("{}\n \r\n", key("bob")), [Refused, Refused, Refused]),
        (format!("{}\n\r\n", key("bob")), [Refused, Refused, Refused]),
        (format!("ann {}\n", key("bob")), [Refused, Refused, Refused]),
        (format!("{}\n", &key("bob")[..40]), [Refused, Refused, Refused]),
        (format!("{}\n", &key("rsa")[..400]), [Refused, Refused, Refused]),
    ] {
        assert_eq!(fleet.ask(&mut tally, list.as_bytes(), &list), expected, "{list:?}");
    }
    println!("{tally}");
}

/// A list without what precedes its sections cannot be made by `ssh-keygen`, nor one with odd sections.
#[test]
fn no_odd_list_is_taken_for_a_sound_one() {
    let fleet = Fleet::new();
    let header = fleet.list(None, "");
    let authority = fleet.stock.public("authority");
    let authority = Base64::decode_vec(authority.split_once(' ').expect("two words").1).expect("base64");
    let section = |kind: u8, content: &[u8]| [&header[..], &[kind], &strings(&[content])].concat();
    let certificates = |authority: &[u8], kind: u8, content: &[u8]| {
        section(1, &[&strings(&[authority, b""])[..], &[kind], &strings(&[content])].concat())
    };
    let numbers = |numbers: &[u64]| numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>();
    let bitmap = |first: u64, bits: &[u8]| [&numbers(&[first])[..], &strings(&[bits])].concat();
    let mut tally = Tally::default();
    for (case, list, expected) in [
        ("every authority", certificates(b"", 0x20, &numbers(&[7])), [Accepted, Refused, Accepted]),
        ("a list of serials", certificates(&authority, 0x20, &numbers(&[6, 7, 8])), [Accepted, Refused, Accepted]),
        ("serial 0", certificates(&authority, 0x20, &numbers(&[0])), [Refused, Refused, Refused]),
        ("half a serial", certificates(&authority, 0x20, &[0; 7]), [Refused, Refused, Refused]),
        ("a range", certificates(&authority, 0x21, &numbers(&[7, 7])), [Accepted, Refused, Accepted]),
        ("two ranges", certificates(&authority, 0x21, &numbers(&[1, 2, 3, 4])), [Refused, Refused, Refused]),
        ("no range", certificates(&authority, 0x21, b""), [Refused, Refused, Refused]),
        ("a range backwards", certificates(&authority, 0x21, &numbers(&[8, 7])), [Refused, Refused, Refused]),
        ("a range from 0", certificates(&authority, 0x21, &numbers(&[0, 6])), [Refused, Refused, Refused]),
        ("a bitmap", certificates(&authority, 0x22, &bitmap(1, &[0x40])), [Accepted, Refused, Accepted]),
        ("another bitmap", certificates(&authority, 0x22, &bitmap(1, &[0x3f])), [Accepted, Accepted, Accepted]),
        ("a long bitmap", certificates(&authority, 0x22, &bitmap(1, &[0, 1, 0, 0x40])), [Accepted, Refused, Accepted]),
        ("an empty bitmap", certificates(&authority, 0x22, &bitmap(7, b"")), [Accepted, Accepted, Accepted]),
        ("a negative bitmap", certificates(&authority, 0x22, &bitmap(1, &[0x80])), [Refused, Refused, Refused]),
        ("a bitmap from 0", certificates(&authority, 0x22, &bitmap(0, &[0x01])), [Refused, Refused, Refused]),
        (
            "a bitmap over the end",
            certificates(&authority, 0x22, &bitmap(u64::MAX, &[0x02])),
            [Refused, Refused, Refused],
        ),
        (
            "a bitmap to the end",
            certificates(&authority, 0x22, &bitmap(u64::MAX, &[0x01])),
            [Accepted, Accepted, Accepted],
        ),
        ("a huge bitmap", certificates(&authority, 0x22, &bitmap(1, &[1; 2049])), [Refused, Refused, Refused]),
        ("an id", certificates(&authority, 0x23, &strings(&[b"bob's", b"ann's"])), [Accepted, Refused, Refused]),
        ("an id with a NUL", certificates(&authority, 0x23, &strings(&[b"a\0b"])), [Refused, Refused, Refused]),
        ("an unknown part", certificates(&authority, 0x24, b""), [Refused, Refused, Refused]),
        ("an authority that is none", certificates(b"x", 0x20, &numbers(&[7])), [Refused, Refused, Refused]),
        ("an authority that is cut", certificates(&authority[..40], 0x20, &numbers(&[7])), [Refused, Refused, Refused]),
        ("a digest that is cut", section(5, &strings(&[&[0; 31]])), [Refused, Refused, Refused]),
        ("an unknown section", section(9, b""), [Refused, Refused, Refused]),
        ("a key that is none", section(2, &strings(&[b"x"])), [const { Stricter("lists with unknown parts") }; 3]),
        ("something at its end", [&header[..], &[1]].concat(), [Refused, Refused, Refused]),
    ] {
        assert_eq!(fleet.ask(&mut tally, &list, case), expected, "{case}");
    }
    println!("{tally}");
}

#[test]
fn no_damaged_list_lets_in_whom_openssh_keeps_out() {
    let fleet = Fleet::new();
    let stated = format!(
        "serial: 3-900\nserial: 1000\nserial: 1003\nid: bob's\nsha256: {}\nkey: {}\n",
        fleet.stock.public("stranger"),
        fleet.stock.public("bob")
    );
    let sound = fleet.list(Some("authority"), &stated);
    let mut tally = Tally::default();
    let mut rng = Rng::with_seed(1);
    for case in 0..100 {
        let mut list = sound.clone();
        let at = rng.usize(..list.len());
        match rng.u32(..6) {
            0 => list.truncate(at),
            1 => list.insert(at, rng.u8(..)),
            2 => _ = list.remove(at),
            _ => list[at] ^= 1 << rng.u32(..8),
        }
        fleet.ask(&mut tally, &list, &format!("case {case}"));
    }
    println!("{tally}");
    assert!(tally.count(&Accepted) > 20 && tally.count(&Refused) > 80, "{tally}");
}
