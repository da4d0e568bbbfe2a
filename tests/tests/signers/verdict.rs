//! What both say to one question, and why we are stricter where we are.

use std::{collections::BTreeMap, fmt};

use crate::stock::{Question, Stock};

/// Why we refuse what `ssh-keygen` accepts: a part of our message, and the name of the reason in SPECIFICATION.md.
const STRICTER: [(&str, &str); 27] = [
    ("has a control character", "control characters"),
    ("a second version", "two versions"),
    ("its version is no number", "a version that is no number"),
    ("are quoted in part", "quotes around a part of the principals"),
    ("have no closing quote", "quotes around a part of the principals"),
    ("have an empty pattern", "empty patterns"),
    ("have blanks around a pattern", "odd patterns"),
    ("a pattern of 1023 bytes", "odd patterns"),
    ("without a Z", "moments without a zone"),
    ("is no moment", "moments that do not exist"),
    ("it is never valid", "odd lines"),
    ("its option '", "odd lines"),
    ("it has the option '", "odd lines"),
    ("something stands between its options", "odd lines"),
    ("it has no key", "odd lines"),
    ("is no key of type", "odd lines"),
    ("it has a certificate", "odd lines"),
    ("is not accepted; use ed25519", "other types of keys"),
    ("its signature is by a key of type", "other types of keys"),
    ("its signature is malformed", "signatures in another spelling"),
    ("its signature does not belong to it", "signatures that prove nothing"),
    ("has the critical option", "critical options"),
    ("is damaged", "lists with unknown parts"),
    ("of a newer format", "lists with unknown parts"),
    ("of the unknown kind", "lists with unknown parts"),
    ("an authority in it cannot be read", "lists with unknown parts"),
    ("one of its keys cannot be read", "lists with unknown parts"),
];

/// What both say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Accepted,
    Refused,
    /// We refuse what `ssh-keygen` accepts, for this reason.
    Stricter(&'static str),
}

/// How often there was each verdict.
#[derive(Default)]
pub(crate) struct Tally(BTreeMap<Verdict, usize>);

impl Tally {
    /// Asks both.
    ///
    /// # Panics
    /// We accept what `ssh-keygen` refuses, or are stricter for a reason that has no name.
    pub(crate) fn ask(&mut self, stock: &Stock, question: Question<'_>, case: &str) -> Verdict {
        let verdict = match (question.judge(), stock.accepts(question)) {
            (Ok(()), true) => Verdict::Accepted,
            (Err(_), false) => Verdict::Refused,
            (Ok(()), false) => panic!("{case}: we accept what ssh-keygen refuses: {question:?}"),
            (Err(reason), true) => Verdict::Stricter(named(&reason).unwrap_or_else(|| {
                panic!(
                    "{case}: we refuse what ssh-keygen accepts, for a reason without a name ({reason}): {question:?}"
                )
            })),
        };
        *self.0.entry(verdict.clone()).or_default() += 1;
        verdict
    }

    /// How often there was a verdict.
    pub(crate) fn count(&self, verdict: &Verdict) -> usize {
        self.0.get(verdict).copied().unwrap_or(0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(verdict, count)| writeln!(out, "{count:>5} {verdict:?}"))
    }
}

/// The names of all reasons.
pub(crate) fn reasons() -> impl Iterator<Item = &'static str> {
    STRICTER.iter().map(|(_, name)| *name)
}

fn named(reason: &str) -> Option<&'static str> {
    STRICTER.iter().find(|(part, _)| reason.contains(part)).map(|(_, name)| *name)
}
