//! A rule: when an alert begins, when it ends, and what is said about it.

use std::{collections::BTreeMap, time::Duration};

use protocol::{
    clock::millis,
    limits,
    name::{HostName, RuleName},
    time::{Millis, read_duration},
};
use serde::{Deserialize, Serialize};

use super::{Severity, text::Template};
use crate::client::targeting::{Field, Filter, FilterError, Truth, Word, WordError, split_words};

/// How long alerts of a group are gathered before they are told.
const WAIT: Duration = Duration::from_secs(30);
/// When a group whose alerts go on is told again.
const REPEAT: Duration = Duration::from_secs(4 * 3600);
/// How long it may be unknown whether a rule holds before that is an alert of its own.
const UNKNOWN: Duration = Duration::from_secs(300);
/// The longest of these times.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
/// The name of the alert that nobody knows whether a rule holds, behind the rule's own.
const NO_DATA: &str = ": no data";

/// What a rule is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// Each host.
    #[default]
    Hosts,
    /// The fleet's Redis.
    Redis,
}

/// A rule as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// What it is called.
    pub name: RuleName,
    /// What it is about.
    #[serde(default)]
    pub on: Subject,
    /// What must hold for the alert to begin.
    pub when: String,
    /// How long it must hold.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    pub lasts: Option<String>,
    /// What must hold for it to end. Without it: that what it began with does not hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clear: Option<String>,
    /// How long that must hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clear_for: Option<String>,
    /// How bad it is.
    #[serde(default = "warning")]
    pub severity: Severity,
    /// Labels of the alert. They may have placeholders, as the text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What is said: `{host}`, `{label.NAME}` and other fields are filled in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Which hosts, as `--host` has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<String>,
    /// Which not, as `--exclude` has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub except: Option<String>,
    /// Of them, those for which this holds.
    #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Rules that explain this one: where one of them has begun, nothing is said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<RuleName>,
    /// Who is told. Empty: whoever is told where nothing is said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receivers: Vec<String>,
    /// What alerts that are told together have in common: `rule`, `host`, `severity` or names of labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub group_by: Vec<String>,
    /// How long alerts of a group are gathered before they are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_wait: Option<String>,
    /// When what goes on is told again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<String>,
    /// How long it may be unknown whether it holds, before that is told; `never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_for: Option<String>,
}

const fn warning() -> Severity {
    Severity::Warning
}

/// Why a rule cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// An expression.
    #[error("{0}: {1}")]
    Filter(&'static str, FilterError),
    /// A word that names hosts.
    #[error("{0}: {1}")]
    Word(&'static str, WordError),
    /// Anything else.
    #[error("{0}: {1}")]
    Other(&'static str, String),
}

/// A rule that was judged.
#[derive(Clone, Debug)]
pub struct Rule {
    /// As it is written.
    pub written: Written,
    pub(super) when: Filter,
    pub(super) clear: Option<Filter>,
    pub(super) scope: Option<Filter>,
    pub(super) text: Template,
    pub(super) labels: BTreeMap<String, Template>,
    pub(super) for_ms: Millis,
    pub(super) clear_for_ms: Millis,
    pub(super) wait_ms: Millis,
    pub(super) repeat_ms: Millis,
    pub(super) unknown_for_ms: Option<Millis>,
}

/// A rule of a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<Written>,
}

/// Reads the rules of a file.
///
/// # Errors
/// It is none, or a rule in it cannot be used: which, and what is wrong.
pub fn read_file(text: &str) -> Result<Vec<Rule>, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    let judge = |written: Written| {
        let name = written.name.clone();
        Rule::judge(written).map_err(|error| format!("rule {name}: {error}"))
    };
    file.rule.into_iter().map(judge).collect()
}

impl Rule {
    /// Judges what is written.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn judge(written: Written) -> Result<Self, RuleError> {
        let is_about_hosts = written.on == Subject::Hosts;
        let expression = |what, text: &str| {
            let read = if is_about_hosts { text.parse() } else { Filter::about_redis(text) };
            read.map_err(|error| RuleError::Filter(what, error))
        };
        let other = |what, problem: &str| Err(RuleError::Other(what, problem.to_owned()));
        let when = expression("when", &written.when)?;
        let clear = written.clear.as_deref().map(|text| expression("clear", text)).transpose()?;
        let narrows = written.hosts.is_some() || written.except.is_some() || written.filter.is_some();
        if narrows && !is_about_hosts {
            return other("hosts", "a rule about Redis is about no hosts");
        }
        if written.depends_on.contains(&written.name) {
            return other("depends_on", "a rule cannot depend on itself");
        }
        let size = serde_json::to_string(&written).map_or(usize::MAX, |text| text.len());
        if size > limits::ALERT_RULE_BYTES {
            let problem = format!("the rule has {size} bytes; at most {} are possible", limits::ALERT_RULE_BYTES);
            return Err(RuleError::Other("rule", problem));
        }
        let words = words("hosts", written.hosts.as_deref())?.map(|words| Filter::of_words(&words));
        let except = self::words("except", written.except.as_deref())?.map(|words| Filter::of_words(&words).not());
        let filter = written.filter.as_deref().map(|text| expression("where", text)).transpose()?;
        let scope = words.into_iter().chain(except).chain(filter).reduce(Filter::and);
        let template =
            |what, text: &str| Template::read(text, is_about_hosts).map_err(|problem| RuleError::Other(what, problem));
        let usual = if is_about_hosts { "{host}: {found}" } else { "{found}" };
        let text = template("text", written.text.as_deref().unwrap_or(usual))?;
        let labels = written.labels.iter().map(|(name, text)| Ok((name.clone(), template("labels", text)?)));
        let labels = labels.collect::<Result<_, RuleError>>()?;
        let unknown_for_ms = match written.unknown_for.as_deref() {
            Some("never") => None,
            text => Some(time("unknown_for", text, UNKNOWN)?),
        };
        Ok(Self {
            when,
            clear,
            scope,
            text,
            labels,
            for_ms: time("for", written.lasts.as_deref(), Duration::ZERO)?,
            clear_for_ms: time("clear_for", written.clear_for.as_deref(), Duration::ZERO)?,
            wait_ms: time("group_wait", written.group_wait.as_deref(), WAIT)?,
            repeat_ms: time("repeat", written.repeat.as_deref(), REPEAT)?.max(60_000),
            unknown_for_ms,
            written,
        })
    }

    /// What it is called.
    pub const fn name(&self) -> &RuleName {
        &self.written.name
    }

    /// What the alert is called that nobody knows whether it holds.
    pub fn no_data_name(&self) -> String {
        no_data(self.name().as_str())
    }

    /// Whether it is about hosts that are not there.
    pub fn is_about_state(&self) -> bool {
        self.when.fields().contains(&&Field::State)
    }

    /// All that must be known of a host to judge it and to tell of it, maybe several times.
    pub(super) fn fields(&self) -> impl Iterator<Item = &Field> {
        let filters = [Some(&self.when), self.clear.as_ref(), self.scope.as_ref()].into_iter().flatten();
        let texts = self.labels.values().chain([&self.text]);
        filters.flat_map(Filter::fields).chain(texts.flat_map(Template::fields))
    }

    /// All its expressions, in which groups may be meant.
    pub(super) fn filters(&mut self) -> impl Iterator<Item = &mut Filter> {
        [Some(&mut self.when), self.clear.as_mut(), self.scope.as_mut()].into_iter().flatten()
    }

    /// Whether what ends it holds.
    pub(super) fn is_clear(&self, when: &Truth, known: &impl Fn(&Field) -> Result<String, String>) -> Truth {
        match (&self.clear, when) {
            (Some(clear), _) => clear.judge(known),
            (None, Truth::Yes) => Truth::No,
            (None, Truth::No) => Truth::Yes,
            (None, Truth::Unknown(reason)) => Truth::Unknown(reason.clone()),
        }
    }

    /// What was found: `cpu.usage = 97.1`.
    pub(super) fn found(&self, host: Option<&HostName>, known: &impl Fn(&Field) -> Result<String, String>) -> String {
        let fields = self.when.fields().into_iter().filter(|field| **field != Field::Host);
        let found = fields.map(|field| match known(field) {
            Ok(value) => format!("{field} = {}", super::text::clean(&value)),
            Err(_) => format!("{field} is not known"),
        });
        let found: Vec<_> = found.collect();
        match (found.is_empty(), host) {
            (true, Some(host)) => format!("host = {host}"),
            _ => found.join(", "),
        }
    }
}

/// What the alert is called that nobody knows whether a rule holds.
pub(super) fn no_data(rule: &str) -> String {
    format!("{rule}{NO_DATA}")
}

/// The rule that an alert belongs to.
pub(super) fn rule_of(alert: &str) -> &str {
    alert.strip_suffix(NO_DATA).unwrap_or(alert)
}

fn words(what: &'static str, text: Option<&str>) -> Result<Option<Vec<Word>>, RuleError> {
    let Some(text) = text else { return Ok(None) };
    let words = split_words(text).into_iter().map(str::parse).collect::<Result<Vec<Word>, _>>();
    words.map(Some).map_err(|error| RuleError::Word(what, error))
}

fn time(what: &'static str, text: Option<&str>, usual: Duration) -> Result<Millis, RuleError> {
    let time = text.map_or(Ok(usual), read_duration).map_err(|problem| RuleError::Other(what, problem))?;
    if time > LONGEST {
        return Err(RuleError::Other(what, "at most 30d are possible".into()));
    }
    Ok(millis(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        read_file(&format!("[[rule]]\nname = 'r'\n{text}")).unwrap_err()
    }

    #[test]
    fn a_rule_that_cannot_be_used_says_where_it_is_wrong() {
        let error = refused("when = 'cpu.usge >'");
        assert_eq!(
            error,
            "rule r: when: after cpu.usge, a value is missing\n  cpu.usge >\n            ^"
                .replace("after cpu.usge", "after >")
        );
        assert!(refused("when = 'redis.used_memory > 1'").contains("nothing of a host"));
        assert!(refused("on = 'redis'\nwhen = 'cpu.usage > 1'").contains("asks for redis.NAME only"));
        assert!(refused("when = 'cpu.usage > 1'\nfor = '5'").contains("for: '5' is not a duration"));
        assert!(refused("when = 'cpu.usage > 1'\nfor = '99d'").contains("at most 30d"));
        assert!(refused("when = 'cpu.usage > 1'\ntext = '{nothing}'").contains("text: there is no 'nothing'"));
        assert!(refused("when = 'cpu.usage > 1'\ndepends_on = ['r']").contains("itself"));
        assert!(refused("when = 'cpu.usage > 1'\nsevere = true").contains("severe"));
        assert!(refused(&format!("when = 'cpu.usage > 1'\ntext = '{}'", "x".repeat(9000))).contains("bytes"));
    }

    #[test]
    fn a_rule_reads_as_it_is_written() {
        let text = "[[rule]]\nname = 'r'\nwhen = 'cpu.usage > 90'\nfor = '5m'\nclear = 'cpu.usage < 80'\nunknown_for = 'never'";
        let rule = read_file(text).unwrap().pop().unwrap();
        assert_eq!((rule.for_ms, rule.unknown_for_ms, rule.wait_ms), (300_000, None, 30_000));
        let stored = serde_json::to_string(&rule.written).unwrap();
        assert_eq!(serde_json::from_str::<Written>(&stored).unwrap(), rule.written);
    }
}
