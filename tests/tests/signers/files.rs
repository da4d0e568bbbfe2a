//! Odd `allowed_signers` files.

use std::sync::LazyLock;

use fastrand::Rng;
use protocol::trust::sshsig::JOB;

use crate::{
    stock::{ANN, Question, Stock},
    verdict::{
        Tally,
        Verdict::{Accepted, Refused, Stricter},
    },
};

/// More than a pattern of OpenSSH's may have.
static LONG: LazyLock<String> = LazyLock::new(|| "n".repeat(1023));

/// What is in order, and what is odd.
type Choices = (&'static [&'static str], &'static [&'static str]);

const PRINCIPALS: Choices = (
    &[
        ANN, ANN, ANN, ANN, ANN, ANN, "*", "ann@*", "*@desk", "a?n@desk", "ann@des?", "**", "bob", "!bob", "!ann@*",
        "!*", "ANN@desk",
    ],
    &["", "!", "!!bob", " ann@desk", "ann@desk ", "ann@\tdesk", "\"", "\\", "ann@d\u{e9}sk", "???????\u{e9}", "LONG"],
);

const NAMESPACES: Choices = (
    &[JOB, JOB, JOB, "redfleet-*", "*", "redfleet-job@v?", "git", "!git", "!redfleet-*", "REDFLEET-JOB@v1"],
    &["", "a\\\"b", " git", "git ", "a\\", "\\\""],
);

const MOMENTS: Choices = (
    &["20270115080000Z", "20270115075959Z", "20270115080001Z", "20270115Z", "20270116Z", "202701150800z", "19700102Z"],
    &[
        "20260101",
        "20280101000000",
        "20300230Z",
        "20270115246060Z",
        "2027011508Z",
        "19700101Z",
        "19691231Z",
        "00000101Z",
        "99991231Z",
        "2027-1-1Z",
        "20270115080000UTC",
        "+2027011Z",
        "",
        "Z",
        "20270115080060Z",
        " 20270115Z",
    ],
);

/// What may stand between two words.
const BLANKS: Choices = (&[" ", " ", " ", "\t", "  ", " \t "], &["\u{a0}", "\u{b}", "", "\r", ","]);

const COMMA: Choices = (&[","], &[",,", ", ", "", " ,"]);

const ENDS: Choices = (&["\n", "\n", "\n", "\r\n", "\n\n", "\n \t\n", "\n\r\n"], &["\r\r\n", "\r", "", "\0\n"]);

const OTHER_LINES: Choices = (
    &["# a comment\n", " # a comment\n", "\t\n", "#\n", "# version: 3\n"],
    &[
        "#version:4\n# version: 5\n",
        "# version: x\n",
        "# \u{1}\n",
        "\u{feff}\n",
        "ann@desk\n",
        "ann@desk namespaces=\"git\"\n",
        "\0\n",
        "\u{feff}ann@desk ",
    ],
);

const ODD_OPTIONS: &[&str] =
    &["no-touch-required", "cert-authority=\"yes\"", "cert-authorityx", "restrict", "ssh-rsa", "=", "namespaces"];

/// Makes files. The same seed makes the same file.
struct Odd<'a> {
    rng: Rng,
    /// How many choices of a hundred are odd.
    percent: u32,
    keys: &'a [String],
}

impl<'a> Odd<'a> {
    fn new(seed: u64, keys: &'a [String]) -> Self {
        let mut rng = Rng::with_seed(seed);
        Self { percent: [0, 0, 5, 10][rng.usize(..4)], rng, keys }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(..100) < percent
    }

    fn is_odd(&mut self) -> bool {
        self.chance(self.percent)
    }

    fn one<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.rng.usize(..choices.len())]
    }

    fn pick(&mut self, (sound, odd): Choices) -> &'static str {
        if self.is_odd() { self.one(odd) } else { self.one(sound) }
    }

    /// Up to `most` choices, mostly one, with commas between them.
    fn list(&mut self, most: usize, mut item: impl FnMut(&mut Self) -> String) -> String {
        let mut list = item(self);
        while self.chance(30) && list.matches(',').count() + 1 < most {
            list += self.pick(COMMA);
            list += &item(self);
        }
        list
    }

    fn file(&mut self) -> String {
        let lines = self.rng.usize(1..=3);
        let mut file: String = (0..lines).map(|_| self.line()).collect();
        if self.chance(20) {
            file.truncate(file.trim_end_matches(['\n', '\r']).len());
        }
        file
    }

    fn line(&mut self) -> String {
        if self.chance(8) {
            return self.pick(OTHER_LINES).to_owned();
        }
        let mut line = if self.chance(10) { self.pick(BLANKS).to_owned() } else { String::new() };
        line += &self.principals();
        line += self.pick(BLANKS);
        if self.chance(50) {
            line += &self.options();
            line += self.pick(BLANKS);
        }
        line += &self.key();
        if self.chance(50) {
            line += self.one(&[" remark", "\tremark \"quoted", " # remark", " ", " ssh-ed25519 AAAA"]);
        }
        line + self.pick(ENDS)
    }

    fn principals(&mut self) -> String {
        let list = self.list(3, |odd| odd.pick(PRINCIPALS).replace("LONG", &LONG));
        if self.is_odd() {
            let odd =
                [format!("\"{list}"), format!("ann\"@desk\"{list}"), format!("\"{list}\"@desk"), format!("{list}\"")];
            return odd[self.rng.usize(..odd.len())].clone();
        }
        if self.chance(20) { format!("\"{list}\"") } else { list }
    }

    fn options(&mut self) -> String {
        let options = self.list(3, Self::option);
        if self.is_odd() { options + "," } else { options }
    }

    fn option(&mut self) -> String {
        if self.is_odd() {
            return self.one(ODD_OPTIONS).to_owned();
        }
        let (name, value) = match self.rng.u32(..10) {
            0..=2 => return self.one(&["cert-authority", "CERT-authority", "Cert-Authority"]).to_owned(),
            3..=5 => ("namespaces", self.list(2, |odd| odd.pick(NAMESPACES).to_owned())),
            6 => ("valid-after", "20270114Z".to_owned()),
            7 => ("valid-before", "20270117Z".to_owned()),
            8 => ("valid-after", self.pick(MOMENTS).to_owned()),
            _ => ("valid-before", self.pick(MOMENTS).to_owned()),
        };
        let name = if self.chance(20) { name.to_uppercase() } else { name.to_owned() };
        if self.is_odd() {
            let odd = [format!("{name}={value}"), format!("{name}=\"{value}"), format!("{name} =\"{value}\""), name];
            return odd[self.rng.usize(..odd.len())].clone();
        }
        format!("{name}=\"{value}\"")
    }

    fn key(&mut self) -> String {
        let known = if self.is_odd() { self.keys.len() } else { SOUND_KEYS };
        let key = if self.chance(75) { &self.keys[0] } else { &self.keys[self.rng.usize(..known)] };
        let (name, base64) = key.split_once(' ').expect("two words");
        if self.is_odd() {
            let odd = [
                format!("ED25519 {base64}"),
                format!("ecdsa-sha2-nistp256 {base64}"),
                format!("{name} {}", &base64[..base64.len() - 1]),
                format!("{name} {base64}="),
                format!("{name} {}\t{}", &base64[..9], &base64[9..]),
                name.to_owned(),
            ];
            return odd[self.rng.usize(..odd.len())].clone();
        }
        format!("{name}{}{base64}", self.one(&[" ", " ", " ", "\t", "  "]))
    }
}

/// The first of the keys are of types that are accepted.
const SOUND_KEYS: usize = 3;

/// Keys and signatures to ask about.
struct Material {
    stock: Stock,
    keys: Vec<String>,
    signatures: Vec<Vec<u8>>,
}

fn material() -> Material {
    let stock = Stock::new();
    for (name, kind) in [("ann", "ed25519"), ("ann-p256", "ecdsa"), ("authority", "ed25519"), ("rsa", "rsa")] {
        stock.key(name, kind);
    }
    stock.keygen(&["-q", "-s", "authority", "-I", "ann's", "-n", ANN, "ann.pub"]);
    let certificate = stock.read_text("ann-cert.pub").rsplit_once(' ').expect("a comment").0.to_owned();
    let mut keys: Vec<_> = ["ann", "authority", "ann-p256", "rsa"].iter().map(|name| stock.public(name)).collect();
    keys.push(certificate);
    let signatures = ["ann", "ann", "ann", "ann-p256", "ann-cert.pub"].iter().map(|key| stock.sign(key, JOB)).collect();
    Material { stock, keys, signatures }
}

#[test]
fn no_odd_file_lets_in_whom_openssh_keeps_out() {
    let Material { stock, keys, signatures } = material();
    let mut tally = Tally::default();
    for seed in 0..400 {
        let mut odd = Odd::new(seed, &keys);
        let signers = odd.file();
        let signature = &signatures[odd.rng.usize(..signatures.len())];
        let question = Question { signers: &signers, namespace: JOB, signature, revoked: None };
        tally.ask(&stock, question, &format!("seed {seed}"));
    }
    println!("{tally}");
    // The files are odd, but not so odd that nothing is compared.
    assert!(tally.count(&Accepted) > 40 && tally.count(&Refused) > 100, "{tally}");
}

#[test]
fn each_rule_for_a_line_is_the_same() {
    let Material { stock, keys, signatures } = material();
    for (front, expected) in [
        (ANN.to_owned(), Accepted),
        (format!("\"*,!bob\"\tCERT-AUTHORITY,namespaces=\"{JOB}\""), Refused),
        // OpenSSH matches nothing of a list with so long a pattern.
        (format!("{},{ANN}", *LONG), Refused),
        (format!("{},{ANN}", &LONG[1..]), Accepted),
        (format!("{ANN} namespaces=\"{},{JOB}\"", *LONG), Refused),
        (format!("{ANN},!*"), Refused),
        (format!("{ANN} namespaces=\"*,!{JOB}\""), Refused),
        (format!("{ANN} valid-after=\"20270115080000Z\",valid-before=\"20270115080001Z\""), Accepted),
        (format!("{ANN} valid-after=\"20270115080001Z\""), Refused),
        (format!("{ANN} valid-before=\"20270115080000Z\""), Accepted),
        (format!("{ANN} valid-before=\"20270115075959Z\""), Refused),
        (format!("{ANN} valid-after=\"20270114\""), Stricter("moments without a zone")),
        (format!("{ANN} valid-after=\"20260230Z\""), Stricter("moments that do not exist")),
        (format!("\"ann\"@desk {ANN}"), Refused),
        (format!("{ANN},,"), Stricter("empty patterns")),
        (format!("{ANN},!!*"), Stricter("odd patterns")),
        (format!("# version: 1\n# version: 2\n{ANN}"), Stricter("two versions")),
        (format!("# version: one\n{ANN}"), Stricter("a version that is no number")),
        (format!("# \u{7}\n{ANN}"), Stricter("control characters")),
        (format!("bob no key\n{ANN}"), Stricter("odd lines")),
    ] {
        let signers = format!("{front} {}\n", keys[0]);
        let question = Question { signers: &signers, namespace: JOB, signature: &signatures[0], revoked: None };
        assert_eq!(Tally::default().ask(&stock, question, &front), expected, "{front}");
    }
}

/// One letter of a sound file is exchanged, lost or doubled.
#[test]
fn no_slip_of_the_pen_lets_in_whom_openssh_keeps_out() {
    const LETTERS: [&str; 16] =
        [" ", "\t", ",", "!", "*", "?", "\"", "\\", "#", "=", "\r", "\n", "Z", "0", "", "\u{e9}"];
    let Material { stock, keys, signatures } = material();
    let sound = format!(
        "\"ann@*,!bob\" namespaces=\"redfleet-job@v1\",valid-after=\"20270101Z\",valid-before=\"20280101Z\" {} remark\n\
         *@desk,!eve@desk CERT-authority,Namespaces=\"git,redfleet-*\" {}\n",
        keys[0], keys[1]
    );
    let mut tally = Tally::default();
    let letters = sound.char_indices().collect::<Vec<_>>();
    let mut rng = Rng::with_seed(1);
    for case in 0..300 {
        let (at, letter) = letters[rng.usize(..letters.len())];
        let mut signers = sound.clone();
        let end = if rng.u32(..4) == 0 { at } else { at + letter.len_utf8() };
        signers.replace_range(at..end, LETTERS[rng.usize(..LETTERS.len())]);
        let signature = if rng.bool() { &signatures[0] } else { &signatures[4] };
        let question = Question { signers: &signers, namespace: JOB, signature, revoked: None };
        tally.ask(&stock, question, &format!("case {case}"));
    }
    println!("{tally}");
    assert!(tally.count(&Accepted) > 40 && tally.count(&Refused) > 40, "{tally}");
}
