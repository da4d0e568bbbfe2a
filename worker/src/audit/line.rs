//! A line of the trail: a JSON object in plain ASCII. Whatever a hostile name or argument holds, it stays within its
//! line, and no terminal obeys it.

use std::{
    fmt::Write as _,
    io::{self, Write},
    sync::Arc,
};

use protocol::{
    action::{ActionSpec, Argument},
    clock::FleetClock,
    command::Manifest,
    control::CancelOrder,
    event, limits,
    name::JobId,
    outcome::State,
    secret::Digest,
    time::show_moment,
};
use serde::Serialize;
use serde_json::{Map, Value, ser::Formatter};

use crate::{
    delivery::Asker,
    identity::Identity,
    log::{self, excerpt},
};

/// What stands in the place of a value that is not shown.
const HIDDEN: &str = "***";

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// The command may start, or the order is obeyed.
    Accepted,
    /// The command never starts, and ends in this state; or the order is not obeyed.
    Refused(State),
    /// The entry is dropped, and counted under this name. Nothing is published about it.
    Dropped(&'static str),
}

/// What the decision is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum About<'a> {
    /// A command that was read.
    Command {
        manifest: &'a Manifest,
        /// Of the manifest's bytes as they were received.
        digest: &'a Digest,
        /// The action's description, where there is such an action: only declared arguments are shown.
        spec: Option<&'a ActionSpec>,
        asker: Option<&'a Asker>,
    },
    /// A command, or a copy of one, of which another line tells the rest.
    Known { job: JobId, asker: Option<&'a Asker> },
    /// An order to cancel.
    Cancel {
        order: &'a CancelOrder,
        asker: &'a Asker,
        /// Whether its command runs or waits here.
        at_work: bool,
    },
    /// An entry of the inbox that names no job.
    Inbox,
    /// An entry of the control stream that is no order.
    Control,
}

/// A decision of this host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decision<'a> {
    pub(crate) about: About<'a>,
    pub(crate) verdict: Verdict,
    /// Why it was refused or dropped, or what is done.
    pub(crate) reason: Option<&'a str>,
    /// The stream entry's id.
    pub(crate) entry: &'a str,
    /// Whether a prior process of this worker was given the command, and may have decided about it.
    pub(crate) again: bool,
}

/// Decisions of which many say little more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    about: &'static str,
    pub(super) verdict: Verdict,
    /// Whether a trusted key has asked for it.
    pub(super) verified: bool,
}

impl About<'_> {
    const fn word(&self) -> &'static str {
        match self {
            Self::Command { .. } | Self::Known { .. } | Self::Inbox => "command",
            Self::Cancel { .. } | Self::Control => "cancel",
        }
    }

    const fn job(&self) -> Option<JobId> {
        match self {
            Self::Command { manifest, .. } => Some(manifest.job),
            Self::Cancel { order, .. } => Some(order.job),
            Self::Known { job, .. } => Some(*job),
            Self::Inbox | Self::Control => None,
        }
    }

    const fn asker(&self) -> Option<&Asker> {
        match self {
            Self::Cancel { asker, .. } => Some(asker),
            Self::Command { asker, .. } | Self::Known { asker, .. } => *asker,
            Self::Inbox | Self::Control => None,
        }
    }
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Accepted => event::Decision::ACCEPTED,
            Self::Refused(state) => state.as_str(),
            Self::Dropped(_) => "dropped",
        }
    }

    /// Where it is dropped: why, in one word.
    const fn dropped_as(self) -> Option<&'static str> {
        match self {
            Self::Dropped(reason) => Some(reason),
            Self::Accepted | Self::Refused(_) => None,
        }
    }
}

impl Decision<'_> {
    /// Whether it always gets a line: something is done on this host.
    pub(super) fn must(&self) -> bool {
        let idle = matches!(self.about, About::Cancel { at_work: false, .. });
        self.verdict == Verdict::Accepted && !idle
    }

    /// Whether its line is to be on disk soon. What only reads is too frequent for that, and matters less.
    pub(super) const fn syncs(&self) -> bool {
        !matches!((self.verdict, self.about), (Verdict::Accepted, About::Command { .. }))
    }

    pub(super) fn kind(&self) -> Kind {
        let verified = self.about.asker().is_some_and(|asker| asker.principal.is_some());
        Kind { about: self.about.word(), verdict: self.verdict, verified }
    }
}

/// The fields of a line, in their order.
#[derive(Default, Serialize)]
struct Fields<'a> {
    at: String,
    host: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    about: &'static str,
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped_as: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<JobId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<Map<String, Value>>,
    /// Whether not all of the arguments is shown.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    arguments_cut: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    approved_by: &'a [String],
    /// The schedule, where it is a run of a standing order that `principal` has given.
    #[serde(skip_serializing_if = "Option::is_none")]
    standing_order: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest_sha256: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    entry: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    again: bool,
}

/// Makes the lines of one worker.
#[derive(Clone)]
pub(super) struct Lines(Arc<Identity>);

impl Lines {
    pub(super) const fn new(identity: Arc<Identity>) -> Self {
        Self(identity)
    }

    /// The line of a decision.
    pub(super) fn of(&self, decision: &Decision<'_>) -> String {
        let Decision { about, verdict, reason, entry, again } = *decision;
        let mut fields = Fields {
            about: about.word(),
            decision: verdict.word(),
            dropped_as: verdict.dropped_as(),
            job: about.job(),
            reason,
            entry,
            again,
            ..self.fields()
        };
        if let Some(asker) = about.asker() {
            fields.operator = Some(&asker.operator);
            (fields.principal, fields.key) = (asker.principal.as_deref(), asker.key.as_deref());
            fields.approved_by = &asker.approved_by;
            fields.standing_order = asker.standing_order.as_deref();
        }
        match about {
            About::Command { manifest, digest, spec, .. } => {
                let mut shown = Shown { left: limits::AUDIT_ARGUMENTS, cut: false };
                fields.action = Some(excerpt(&manifest.action, log::NAME));
                fields.arguments = Some(shown.arguments(manifest, spec));
                fields.arguments_cut = shown.cut;
                fields.issued_at = Some(show_moment(manifest.issued_at_ms));
                fields.manifest_sha256 = Some(hexadecimal(digest));
            }
            About::Cancel { order, .. } => fields.issued_at = Some(show_moment(order.issued_at_ms)),
            About::Known { .. } | About::Inbox | About::Control => {}
        }
        ascii(&fields)
    }

    /// The line for decisions of one kind that have none of their own.
    pub(super) fn of_count(&self, kind: Kind, count: u64) -> String {
        let Kind { about, verdict, .. } = kind;
        let dropped_as = verdict.dropped_as();
        ascii(&Fields { about, decision: verdict.word(), dropped_as, count: Some(count), ..self.fields() })
    }

    /// The line for those that could not be written.
    pub(super) fn of_loss(&self, count: u64, reason: &str) -> String {
        let (about, reason) = ("trail", Some(reason));
        ascii(&Fields { about, decision: "lost", count: Some(count), reason, ..self.fields() })
    }

    /// The fields that all lines have.
    fn fields(&self) -> Fields<'_> {
        let Identity { host, namespace, .. } = &*self.0;
        Fields {
            at: show_moment(FleetClock::local().now()),
            host: host.as_str(),
            namespace: namespace.as_ref().map(protocol::name::Namespace::as_str),
            ..Fields::default()
        }
    }
}

fn hexadecimal(digest: &Digest) -> String {
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Arguments as a line shows them.
struct Shown {
    /// How many characters there is still room for.
    left: usize,
    /// Whether something had to be left out.
    cut: bool,
}

impl Shown {
    fn arguments(&mut self, manifest: &Manifest, spec: Option<&ActionSpec>) -> Map<String, Value> {
        let declared = |name: &str| spec.and_then(|spec| spec.parameter(name)).is_some_and(|found| !found.secret);
        let mut shown = Map::new();
        for (name, argument) in &manifest.arguments {
            // A value that was meant as a secret, but was sent in clear or under a wrong name, is none the less one.
            let value = if declared(name) { self.value(argument) } else { HIDDEN.into() };
            self.insert(&mut shown, name, value);
        }
        for name in manifest.secret_names() {
            self.insert(&mut shown, name, HIDDEN.into());
        }
        shown
    }

    fn insert(&mut self, shown: &mut Map<String, Value>, name: &str, value: Value) {
        if self.has_room() {
            let name = self.text(name);
            shown.insert(name, value);
        }
    }

    fn value(&mut self, argument: &Argument) -> Value {
        match argument {
            Argument::Boolean(value) => (*value).into(),
            Argument::Integer(value) => (*value).into(),
            Argument::Text(text) => self.text(text).into(),
            Argument::List(list) => {
                let mut shown = Vec::new();
                for text in list {
                    if !self.has_room() {
                        break;
                    }
                    shown.push(self.text(text).into());
                }
                Value::Array(shown)
            }
            Argument::Map(map) => {
                let mut shown = Map::new();
                for (name, text) in map {
                    let value = self.text(text).into();
                    self.insert(&mut shown, name, value);
                }
                Value::Object(shown)
            }
        }
    }

    /// Whether there is room for another text. An empty one takes room, too.
    fn has_room(&mut self) -> bool {
        self.cut |= self.left == 0;
        self.left = self.left.saturating_sub(4);
        self.left > 0
    }

    fn text(&mut self, text: &str) -> String {
        let mut rest = text.chars();
        let kept: String = rest.by_ref().take(self.left).collect();
        self.cut |= rest.next().is_some();
        self.left -= kept.chars().count();
        kept
    }
}

/// JSON in which everything but printable ASCII is escaped.
fn ascii(value: &impl Serialize) -> String {
    let mut bytes = Vec::with_capacity(512);
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Ascii)).expect("plain data always encodes");
    bytes.push(b'\n');
    String::from_utf8(bytes).expect("ASCII")
}

struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: Write + ?Sized>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let is_plain = |character: char| matches!(character, ' '..='~');
        let mut rest = fragment;
        while !rest.is_empty() {
            let (plain, other) = rest.split_at(rest.find(|character| !is_plain(character)).unwrap_or(rest.len()));
            out.write_all(plain.as_bytes())?;
            let mut others = other.chars();
            if let Some(character) = others.next() {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
            rest = others.as_str();
        }
        Ok(())
    }
}
