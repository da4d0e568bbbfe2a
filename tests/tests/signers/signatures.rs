//! Signatures: stock ones here, ours there, and odd ones on both sides.

use base64ct::{Base64, Encoding};
use fastrand::Rng;
use protocol::trust::{
    key::ACCEPTED,
    sshsig::{self, HOST, JOB, Signature},
};
use sha2::{Digest, Sha256};

use crate::{
    crafted::{self, Key, Parts, mpint, relabelled, signed, strings},
    stock::{ANN, DOCUMENT, Question, Stock},
    verdict::{
        Tally,
        Verdict::{self, Accepted, Refused, Stricter},
    },
};

/// A trust file in which ann has this key.
fn trusting(blob: &[u8], name: &str) -> String {
    format!("{ANN} {name} {}\n", Base64::encode_string(blob))
}

#[test]
fn stock_signatures_are_accepted_here_and_ours_there() {
    let stock = Stock::new();
    for kind in ["ed25519", "ecdsa"] {
        stock.key(kind, kind);
        stock.key("authority", kind);
        stock.keygen(&["-q", "-s", "authority", "-I", "id", "-n", ANN, &format!("{kind}.pub")]);
        let signers = format!("{ANN} {}\n{ANN} cert-authority {}\n", stock.public(kind), stock.public("authority"));
        let certificate =
            protocol::trust::certificate::Certificate::from_openssh(&stock.read_text(&format!("{kind}-cert.pub")));
        let ours = sshsig::sign(&stock.private(kind), JOB, DOCUMENT).unwrap();
        let ours_certified = ours.clone().certified(&certificate.unwrap()).unwrap();
        for signature in [
            stock.sign(kind, JOB),
            stock.sign(&format!("{kind}-cert.pub"), JOB),
            ours.to_bytes(),
            ours_certified.to_bytes(),
        ] {
            let ask = |namespace| {
                let question = Question { signers: &signers, namespace, signature: &signature, revoked: None };
                Tally::default().ask(&stock, question, kind)
            };
            assert_eq!((ask(JOB), ask(HOST)), (Accepted, Refused), "{kind}");
            // What was read is written as it was.
            assert_eq!(Signature::from_bytes(&signature).unwrap().to_bytes(), signature);
        }
        for file in ["authority", "authority.pub"] {
            std::fs::remove_file(stock.path(file)).unwrap();
        }
    }
}

#[test]
fn every_accepted_type_is_accepted_there_too() {
    let stock = Stock::new();
    for name in ACCEPTED {
        let key = Key::new(name);
        let signature = Parts::new(&key, JOB, DOCUMENT).bytes();
        let signers = trusting(&key.blob(), name);
        let question = Question { signers: &signers, namespace: JOB, signature: &signature, revoked: None };
        assert_eq!(Tally::default().ask(&stock, question, name), Accepted, "{name}");
        assert_eq!(Signature::from_bytes(&signature).unwrap().to_bytes(), signature, "{name}");
    }
}

/// What each type of key signs can be altered in every part.
#[test]
fn no_altered_signature_is_accepted() {
    let stock = Stock::new();
    let mut tally = Tally::default();
    for name in ACCEPTED {
        let key = Key::new(name);
        let signers = trusting(&key.blob(), name);
        let mut ask = |change: &dyn Fn(&mut Parts<'_>), expected: Verdict, case: &str| {
            let mut parts = Parts::new(&key, JOB, DOCUMENT);
            change(&mut parts);
            let signature = parts.bytes();
            let question = Question { signers: &signers, namespace: JOB, signature: &signature, revoked: None };
            assert_eq!(tally.ask(&stock, question, case), expected, "{name}: {case}");
        };
        let spelling = Stricter("signatures in another spelling");
        ask(&|_| {}, Accepted, "as it is");
        ask(&|parts| parts.version = 0, spelling.clone(), "version 0");
        ask(&|parts| parts.version = 2, Refused, "version 2");
        ask(&|parts| parts.namespace = b"redfleet-host@v1", Refused, "another purpose");
        ask(&|parts| parts.namespace = b"redfleet-job@v1\0x", Refused, "a purpose with a NUL");
        ask(&|parts| parts.namespace = b"redfleet-job@v1\0", spelling.clone(), "a purpose that ends with a NUL");
        ask(&|parts| parts.reserved = b"reserved", Accepted, "reserved, and not signed");
        ask(&|parts| parts.hash = b"sha256", Refused, "another digest");
        ask(&|parts| parts.hash = b"sha512\0", spelling.clone(), "a digest with a NUL");
        ask(&|parts| parts.trailing = b"\0", Refused, "bytes at the end");
        ask(&|parts| parts.signature.push(0), Refused, "bytes behind the signature of the key");
        let relabel = |parts: &mut Parts<'_>| parts.signature = relabelled(&parts.signature, name, "ssh-rsa");
        ask(&relabel, Refused, "a signature of another type");
        ask(&|parts| parts.key.push(0), Refused, "bytes behind the key");
        for hash in [&b"sha1"[..], b"sha384", b"md5", b"none", b"SHA512", b"sha256,sha512", b""] {
            let digest = Sha256::digest(DOCUMENT);
            let signature = key.sign(&signed(JOB.as_bytes(), hash, &digest));
            ask(&|parts| (parts.hash, parts.signature) = (hash, signature.clone()), Refused, "an unknown digest");
        }
        let short = key.sign(&signed(JOB.as_bytes(), b"sha256", &Sha256::digest(DOCUMENT)));
        ask(&|parts| (parts.hash, parts.signature) = (b"sha256", short.clone()), Accepted, "SHA-256");
    }
    println!("{tally}");
}

#[test]
fn a_hardware_key_that_nobody_touched_proves_nothing() {
    let stock = Stock::new();
    for name in ["sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"] {
        for (flags, expected) in [
            (crafted::TOUCHED, Accepted),
            (crafted::TOUCHED | 4, Accepted),
            (0, Stricter("signatures that prove nothing")),
            (4, Stricter("signatures that prove nothing")),
        ] {
            let key = Key { flags: Some(flags), ..Key::new(name) };
            let signature = Parts::new(&key, JOB, DOCUMENT).bytes();
            let signers = trusting(&key.blob(), name);
            let question = Question { signers: &signers, namespace: JOB, signature: &signature, revoked: None };
            assert_eq!(Tally::default().ask(&stock, question, name), expected, "{name} {flags}");
        }
    }
}

/// Points and numbers of ECDSA can be spelt in several ways.
#[test]
fn no_odd_spelling_of_a_key_or_number_is_accepted() {
    let stock = Stock::new();
    let name = "ecdsa-sha2-nistp256";
    let key = Key::new(name);
    let crafted::Private::P256(private) = &key.private else { unreachable!("a P-256 key") };
    let point = |bytes: &[u8]| strings(&[name.as_bytes(), b"nistp256", bytes]);
    let uncompressed = private.verifying_key().to_encoded_point(false).as_bytes().to_vec();
    let off_curve = [&uncompressed[..64], &[uncompressed[64] ^ 1]].concat();
    let hybrid = [&[6 + (uncompressed[64] & 1)], &uncompressed[1..]].concat();
    let mut cases = vec![
        ("compressed", point(private.verifying_key().to_encoded_point(true).as_bytes()), None),
        ("off the curve", point(&off_curve), None),
        ("hybrid", point(&hybrid), None),
        ("infinity", point(&[0]), None),
        ("bytes behind the point", [&key.blob()[..], &[0]].concat(), None),
        ("another curve", strings(&[name.as_bytes(), b"nistp384", &uncompressed]), None),
    ];

    let sound = Parts::new(&key, JOB, DOCUMENT);
    let inner = &sound.signature[4 + name.len() + 4..];
    let length = usize::from(inner[3]);
    let (r, s) = (inner[4..4 + length].to_vec(), inner[4 + length + 4..].to_vec());
    let signature = |parts: &[&[u8]]| Some(strings(&[name.as_bytes(), &strings(parts)]));
    let order: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let more = |number: &[u8]| [&[0], number].concat();
    cases.extend([
        ("as it is", key.blob(), signature(&[&r, &s])),
        ("a zero in front", key.blob(), signature(&[&more(&r), &s])),
        ("many zeros in front", key.blob(), signature(&[&r, &[&[0; 40][..], &s].concat()])),
        ("negative", key.blob(), signature(&[&[0x80], &s])),
        ("no number", key.blob(), signature(&[&r, b""])),
        ("nothing", key.blob(), signature(&[b"", b""])),
        ("the order", key.blob(), signature(&[&r, &more(&order)])),
        ("three numbers", key.blob(), signature(&[&r, &s, &s])),
        ("one number", key.blob(), signature(&[&r])),
    ]);
    let mut tally = Tally::default();
    for (case, blob, signature) in cases {
        let mut parts = Parts::new(&key, JOB, DOCUMENT);
        parts.signature = signature.unwrap_or(parts.signature);
        parts.key.clone_from(&blob);
        let bytes = parts.bytes();
        let signers = trusting(&blob, name);
        let question = Question { signers: &signers, namespace: JOB, signature: &bytes, revoked: None };
        let verdict = tally.ask(&stock, question, case);
        assert_eq!(verdict == Accepted, case == "as it is", "{case}");
    }
    println!("{tally}");
    assert_eq!(mpint(&[0, 0x80]), strings(&[&[0, 0x80]]));
}

#[test]
fn no_weak_key_is_accepted() {
    let stock = Stock::new();
    let name = "ssh-ed25519";
    let key = Key::new(name);
    // The neutral element: with it, anybody's signature of zeros belongs to every document.
    let weak = [&[1], &[0; 31][..]].concat();
    let mut parts = Parts::new(&key, JOB, DOCUMENT);
    parts.key = strings(&[name.as_bytes(), &weak]);
    parts.signature = strings(&[name.as_bytes(), &[&weak[..], &[0; 32]].concat()]);
    let (bytes, signers) = (parts.bytes(), trusting(&parts.key, name));
    let question = Question { signers: &signers, namespace: JOB, signature: &bytes, revoked: None };
    assert_eq!(Tally::default().ask(&stock, question, name), Stricter("odd lines"));
}

#[test]
fn no_changed_byte_of_a_signature_is_accepted() {
    let stock = Stock::new();
    let mut tally = Tally::default();
    let mut rng = Rng::with_seed(1);
    for name in ACCEPTED {
        let key = Key::new(name);
        let (sound, signers) = (Parts::new(&key, JOB, DOCUMENT).bytes(), trusting(&key.blob(), name));
        for case in 0..30 {
            let mut signature = sound.clone();
            let at = rng.usize(..signature.len());
            match rng.u32(..4) {
                0 => signature.truncate(at),
                1 => signature.insert(at, rng.u8(..)),
                2 => _ = signature.remove(at),
                _ => signature[at] ^= rng.u8(1..),
            }
            let question = Question { signers: &signers, namespace: JOB, signature: &signature, revoked: None };
            let verdict = tally.ask(&stock, question, &format!("{name} {case}"));
            assert_ne!(verdict, Accepted, "{name} {case}");
        }
    }
    println!("{tally}");
}
