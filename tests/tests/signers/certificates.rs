//! Certificates: stock ones, and such as `ssh-keygen` would never make.

use base64ct::{Base64, Encoding};
use protocol::trust::{key::ACCEPTED, sshsig::JOB};

use crate::{
    crafted::{Certificate, Key, Parts, strings},
    stock::{ANN, DOCUMENT, NOW, Question, Stock},
    verdict::{
        Tally,
        Verdict::{Accepted, Refused, Stricter},
    },
};

#[test]
fn stock_certificates_are_judged_alike() {
    let stock = Stock::new();
    for name in ["ann", "authority", "stranger"] {
        stock.key(name, "ed25519");
    }
    let signers = format!("*@desk cert-authority {}\n", stock.public("authority"));
    let mut tally = Tally::default();
    for (options, expected) in [
        (&["-n", ANN][..], Accepted),
        (&["-n", "bob,ann@desk,eve"], Accepted),
        (&["-n", "bob"], Refused),
        (&["-n", "*@desk"], Refused),
        (&[], Refused),
        (&["-h", "-n", ANN], Refused),
        (&["-n", ANN, "-V", "20270101Z:20280101Z"], Accepted),
        (&["-n", ANN, "-V", "20270115080000Z:20280101Z"], Accepted),
        (&["-n", ANN, "-V", "20270101Z:20270115080000Z"], Refused),
        (&["-n", ANN, "-V", "20270115080001Z:20280101Z"], Refused),
        (&["-n", ANN, "-z", "7", "-O", "clear"], Accepted),
        (&["-n", ANN, "-O", "extension:login@example.com=ann"], Accepted),
        (&["-n", ANN, "-O", "force-command=true"], Stricter("critical options")),
        (&["-n", ANN, "-O", "source-address=10.0.0.0/8"], Stricter("critical options")),
        (&["-n", ANN, "-O", "critical:unknown@example.com=yes"], Stricter("critical options")),
    ] {
        let arguments = [&["-q", "-s", "authority", "-I", "id"], options, &["ann.pub"]].concat();
        stock.keygen(&arguments);
        let signature = stock.sign("ann-cert.pub", JOB);
        let question = Question { signers: &signers, namespace: JOB, signature: &signature, revoked: None };
        assert_eq!(tally.ask(&stock, question, &format!("{options:?}")), expected, "{options:?}");
    }

    // Of another authority; and an authority's line is not for its own key, nor another line for certificates.
    stock.keygen(&["-q", "-s", "stranger", "-I", "id", "-n", ANN, "ann.pub"]);
    let (by_stranger, by_authority) = (stock.sign("ann-cert.pub", JOB), stock.sign("authority", JOB));
    stock.keygen(&["-q", "-s", "authority", "-I", "id", "-n", ANN, "ann.pub"]);
    let certified = stock.sign("ann-cert.pub", JOB);
    let plain = format!("*@desk {}\n*@desk {}\n", stock.public("authority"), stock.public("ann"));
    for (signers, signature) in [(&signers, by_stranger), (&signers, by_authority), (&plain, certified)] {
        let question = Question { signers, namespace: JOB, signature: &signature, revoked: None };
        assert_eq!(tally.ask(&stock, question, "the wrong line"), Refused);
    }
    println!("{tally}");
}

const ED25519: &str = "ssh-ed25519";

type Change = &'static dyn Fn(&mut Certificate);

#[test]
fn no_odd_certificate_is_accepted() {
    let stock = Stock::new();
    let mut tally = Tally::default();
    let mut ask = |change: &dyn Fn(&mut Certificate), case: &str| {
        let mut certificate = Certificate::new(ED25519, ED25519, ANN);
        let signers = format!("* cert-authority {ED25519} {}\n", Base64::encode_string(&certificate.authority.blob()));
        change(&mut certificate);
        let signature = Parts::under(&certificate.key, certificate.blob(), JOB, DOCUMENT).bytes();
        let question = Question { signers: &signers, namespace: JOB, signature: &signature, revoked: None };
        tally.ask(&stock, question, case)
    };
    assert_eq!(ask(&|_| {}, "as it is"), Accepted);
    assert_eq!(ask(&|certificate| certificate.principals.extend(vec![b"x".to_vec(); 255]), "256 principals"), Accepted);
    let cases: [(_, Change); 17] = [
        ("a type that does not exist", &|certificate| certificate.kind = 3),
        ("of a host", &|certificate| certificate.kind = 2),
        ("not valid yet", &|certificate| certificate.valid_after = NOW + 1),
        ("over", &|certificate| certificate.valid_before = NOW),
        ("no principals", &|certificate| certificate.principals.clear()),
        ("a principal with a NUL", &|certificate| certificate.principals = vec![b"ann@desk\0".to_vec()]),
        ("a NUL in another", &|certificate| certificate.principals.push(b"a\0b".to_vec())),
        ("257 principals", &|certificate| certificate.principals.extend(vec![b"x".to_vec(); 256])),
        ("an id with a NUL", &|certificate| certificate.id = b"a\0b".to_vec()),
        ("a critical option", &|certificate| certificate.critical = strings(&[b"", b""])),
        ("half a critical option", &|certificate| certificate.critical = strings(&[b"x"])),
        ("half an extension", &|certificate| certificate.extensions = strings(&[b"x"])),
        ("bytes at its end", &|certificate| certificate.trailing = vec![0]),
        ("an authority of another name", &|certificate| certificate.authority_blob = Key::new(ED25519).blob()),
        ("a signature of another type", &|certificate| certificate.signature_type = "sk-ssh-ed25519@openssh.com"),
        ("signed by another key", &|certificate| certificate.authority = Key::new(ED25519)),
        ("an authority that is a certificate", &|certificate| {
            certificate.authority_blob = Certificate::new(ED25519, ED25519, ANN).blob();
        }),
    ];
    for (case, change) in cases {
        assert_ne!(ask(change, case), Accepted, "{case}");
    }
    println!("{tally}");
}

#[test]
fn every_accepted_type_may_be_certified_and_certify() {
    let stock = Stock::new();
    for key in ACCEPTED {
        for authority in ACCEPTED {
            let certificate = Certificate::new(key, authority, ANN);
            let line = Base64::encode_string(&certificate.authority.blob());
            let signers = format!("* cert-authority {authority} {line}\n");
            let signature = Parts::under(&certificate.key, certificate.blob(), JOB, DOCUMENT).bytes();
            let question = Question { signers: &signers, namespace: JOB, signature: &signature, revoked: None };
            assert_eq!(Tally::default().ask(&stock, question, key), Accepted, "{key} by {authority}");
        }
    }
}
