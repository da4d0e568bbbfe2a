//! What can be asked about a host, and where Redis has it.

use std::{fmt, str::FromStr};

use protocol::{keys::Keys, metrics::MetricGroup, name::HostName};

use crate::client::spelling::closest;

/// Something that is known about a host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// Its name.
    Host,
    /// `online`, `offline`, or `stopped`.
    State,
    /// A field of its status.
    Status(&'static str),
    /// A field of its facts.
    Fact(String),
    /// A label. One that is not set is empty.
    Label(String),
    /// A figure.
    Metric(MetricGroup, String),
    /// A figure of an action of its own.
    Custom(String, String),
    /// What an earlier step of a playbook came to there: the step, and what of its result.
    Result(String, String),
    /// What is known about the fleet's Redis itself. It is no field of a host: only rules of alerts ask for it.
    Redis(String),
}

/// Why a name is none of a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no '{name}'{}", .meant.as_ref().map(|meant| format!(": did you mean {meant}?")).unwrap_or_default())]
pub struct NoField {
    name: String,
    meant: Option<String>,
}

/// Fields of the status that can be asked for.
const STATUS: [&str; 4] = ["version", "running", "slots", "rejected"];

/// Facts that can be asked for by their names alone.
const FACTS: [&str; 12] = [
    "os",
    "os_version",
    "kernel",
    "architecture",
    "hostname",
    "cores",
    "memory_bytes",
    "addresses",
    "boot_id",
    "machine_id",
    "virtualization",
    "container",
];

/// What a name with a dot can begin with, besides the groups of metrics.
const PREFIXES: [&str; 4] = ["label", "fact", "custom", "result"];

impl Field {
    /// The hash of Redis that has it, and its name there.
    pub(in crate::client) fn place(&self, keys: &Keys, host: &HostName) -> Option<(String, &str)> {
        match self {
            Self::Host | Self::State | Self::Result(..) | Self::Redis(_) => None,
            Self::Status(name) => Some((keys.status(host), name)),
            Self::Fact(name) => Some((keys.facts(host), name)),
            Self::Label(name) => Some((keys.labels(host), name)),
            Self::Metric(group, name) => Some((keys.metrics(host, *group), name)),
            Self::Custom(action, name) => Some((keys.custom(host, action), name)),
        }
    }

    /// Whether it is a number, however it is written.
    pub(super) fn is_figure(&self) -> bool {
        match self {
            Self::Metric(..) | Self::Custom(..) | Self::Redis(_) => true,
            Self::Status(name) => *name != "version",
            Self::Fact(name) => name == "cores" || name.ends_with("_bytes"),
            Self::Host | Self::State | Self::Label(_) | Self::Result(..) => false,
        }
    }

    /// Whether it changes all the time, so that it says nothing of a host that is not there.
    pub const fn is_live(&self) -> bool {
        matches!(self, Self::Metric(..) | Self::Custom(..) | Self::Status(_))
    }
}

impl FromStr for Field {
    type Err = NoField;

    fn from_str(name: &str) -> Result<Self, NoField> {
        let found = match name.split_once('.') {
            None if name == "host" => Some(Self::Host),
            None if name == "state" => Some(Self::State),
            None => {
                let status = STATUS.into_iter().find(|known| *known == name).map(Self::Status);
                status.or_else(|| FACTS.contains(&name).then(|| Self::Fact(name.to_owned())))
            }
            Some((_, "")) => None,
            Some(("label", label)) => Some(Self::Label(label.to_owned())),
            Some(("fact", fact)) => Some(Self::Fact(fact.to_owned())),
            Some(("custom", figure)) => {
                let parts = figure.split_once('.').filter(|(action, figure)| !action.is_empty() && !figure.is_empty());
                parts.map(|(action, figure)| Self::Custom(action.to_owned(), figure.to_owned()))
            }
            Some(("redis", figure)) => Some(Self::Redis(figure.to_owned())),
            Some(("result", result)) => {
                let parts = result.split_once('.').filter(|(step, name)| !step.is_empty() && !name.is_empty());
                parts.map(|(step, name)| Self::Result(step.to_owned(), name.to_owned()))
            }
            Some((group, figure)) => {
                let group = MetricGroup::ALL.into_iter().find(|known| known.name() == group);
                group.map(|group| Self::Metric(group, figure.to_owned()))
            }
        };
        found.ok_or_else(|| NoField { name: name.to_owned(), meant: meant(name) })
    }
}

/// What was probably meant.
fn meant(name: &str) -> Option<String> {
    let groups = MetricGroup::ALL.map(MetricGroup::name);
    if let Some((prefix, rest)) = name.split_once('.') {
        let known = groups.into_iter().chain(PREFIXES);
        return closest(prefix, known).map(|known| format!("{known}.{}", if rest.is_empty() { "NAME" } else { rest }));
    }
    if groups.contains(&name) || PREFIXES.contains(&name) {
        return Some(format!("{name}.NAME"));
    }
    let known = STATUS.into_iter().chain(FACTS).chain(["host", "state"]);
    closest(name, known).map(str::to_owned)
}

impl fmt::Display for Field {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => out.write_str("host"),
            Self::State => out.write_str("state"),
            Self::Status(name) => out.write_str(name),
            Self::Fact(name) if FACTS.contains(&name.as_str()) => out.write_str(name),
            Self::Fact(name) => write!(out, "fact.{name}"),
            Self::Label(name) => write!(out, "label.{name}"),
            Self::Metric(group, name) => write!(out, "{}.{name}", group.name()),
            Self::Custom(action, name) => write!(out, "custom.{action}.{name}"),
            Self::Redis(name) => write!(out, "redis.{name}"),
            Self::Result(step, name) => write!(out, "result.{step}.{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fields_and_what_was_meant_is_offered() {
        for name in [
            "host",
            "state",
            "running",
            "os",
            "fact.x",
            "label.a.b/c",
            "cpu.usage",
            "custom.dump.age",
            "result.build.data.size",
        ] {
            assert_eq!(name.parse::<Field>().unwrap().to_string(), name);
        }
        assert_eq!("fact.os".parse::<Field>(), "os".parse());
        let refused = |name: &str| name.parse::<Field>().unwrap_err().to_string();
        assert_eq!(refused("cpuu.usage"), "there is no 'cpuu.usage': did you mean cpu.usage?");
        assert_eq!(refused("cpu"), "there is no 'cpu': did you mean cpu.NAME?");
        assert_eq!(refused("label."), "there is no 'label.': did you mean label.NAME?");
        assert_eq!(refused("stat"), "there is no 'stat': did you mean state?");
        assert_eq!(refused("zzzzzz"), "there is no 'zzzzzz'");
    }
}
