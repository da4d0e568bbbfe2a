//! A playbook as it is written: TOML, checked as a whole before anything is done.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use protocol::time::read_duration;
use serde::{Deserialize, de::IntoDeserializer};
use toml::{Table, Value};

use super::values::fill;
use crate::{
    cli::{
        targeting::{joined, words},
        waves::Waves,
    },
    client::{Budget, Filter, Limit, Selection, closest},
};

/// Steps that one playbook may have.
const STEPS: usize = 200;

/// How long a check waits by default.
const WITHIN: Duration = Duration::ZERO;

/// A playbook.
pub struct Playbook {
    /// Its steps, in order.
    pub steps: Vec<Step>,
}

/// A step.
pub struct Step {
    /// Its name.
    pub name: String,
    /// The hosts that it is for.
    pub selection: Selection,
    /// What it does.
    pub task: Task,
    /// Of its hosts, those for which this holds when it begins.
    pub when: Option<Filter>,
    /// What a failure leads to.
    pub on_failure: OnFailure,
    /// What undoes it.
    pub rollback: Option<Call>,
    /// How it goes from host to host.
    pub waves: Waves,
    /// How long its action may run on a host.
    pub timeout: Option<Duration>,
}

/// What a step does.
pub enum Task {
    /// An action.
    Run(Call),
    /// Something must hold for its hosts.
    Check {
        /// What.
        filter: Filter,
        /// It may take so long until it does.
        within: Duration,
    },
}

/// An action and its arguments.
#[derive(Clone)]
pub struct Call {
    /// The action.
    pub action: String,
    /// Its arguments as `NAME=VALUE`, in which results may be asked for.
    pub words: Vec<String>,
    /// The release that is sent, of a deploy.
    pub from: Option<PathBuf>,
}

impl Task {
    /// Its action, where it has one.
    pub const fn call(&self) -> Option<&Call> {
        match self {
            Self::Run(call) => Some(call),
            Self::Check { .. } => None,
        }
    }
}

impl Step {
    /// On how many of so many hosts it may fail.
    pub fn budget(&self, total: usize) -> usize {
        self.waves.max_fail.map_or(0, |budget| budget.of(total))
    }
}

impl Call {
    /// The steps of which it uses results.
    fn results(&self) -> impl Iterator<Item = String> {
        let asked = self.words.iter().flat_map(|word| word.split("${result.").skip(1));
        asked.filter_map(|rest| Some(rest.split_once('.')?.0.to_owned()))
    }
}

/// What a step that has failed leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The playbook ends.
    #[default]
    Stop,
    /// The next step begins.
    Continue,
    /// What was done is undone, in the reverse order, and the playbook ends.
    Rollback,
}

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    #[expect(dead_code, reason = "it is for readers")]
    description: Option<String>,
    #[serde(default)]
    values: BTreeMap<String, Value>,
    hosts: Option<HostsText>,
    #[serde(default)]
    step: Vec<StepText>,
}

/// Which hosts.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostsText {
    #[serde(default)]
    host: OneOrMore,
    #[serde(default)]
    group: OneOrMore,
    #[serde(default)]
    all: bool,
    label: Option<String>,
    #[serde(rename = "where")]
    filter: Option<String>,
    #[serde(default)]
    exclude: OneOrMore,
    limit: Option<Number>,
}

/// A step of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepText {
    name: String,
    hosts: Option<HostsText>,
    action: Option<String>,
    #[serde(default)]
    arguments: Table,
    from: Option<String>,
    check: Option<String>,
    within: Option<String>,
    when: Option<String>,
    #[serde(default)]
    on_failure: OnFailure,
    rollback: Option<CallText>,
    batch: Option<Number>,
    batch_wait: Option<String>,
    canary: Option<Number>,
    max_fail: Option<Number>,
    abort_if: Option<String>,
    timeout: Option<String>,
}

/// An action of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallText {
    action: String,
    #[serde(default)]
    arguments: Table,
}

/// A text, or a list of them.
#[derive(Clone, Default, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    #[default]
    None,
    One(String),
    More(Vec<String>),
}

/// `5` or `"10%"`.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Number {
    Count(u64),
    Text(String),
}

impl Playbook {
    /// Reads the file. `given`: values in place of those in the file, as `NAME=VALUE`.
    ///
    /// # Errors
    /// What is wrong in which line or step.
    pub fn read(path: &Path, given: &[String]) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        let directory = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, given, directory).with_context(|| format!("the playbook {shown} cannot be run"))
    }

    fn parse(text: &str, given: &[String], directory: &Path) -> anyhow::Result<Self> {
        // First as it is written, as only that has lines to point at; then with its values.
        let file: FileText = toml::from_str(text)?;
        let values = values(&file.values, given)?;
        let mut table: Table = text.parse()?;
        table.remove("values");
        let mut whole = Value::Table(table);
        fill_all(&mut whole, &values, false)?;
        let file = FileText::deserialize(whole.into_deserializer())?;

        ensure!(!file.step.is_empty(), "it has no [[step]]");
        ensure!(file.step.len() <= STEPS, "it has {} steps, and {STEPS} are the most", file.step.len());
        let mut steps: Vec<Step> = Vec::new();
        for step in file.step {
            let name = step.name.clone();
            let before: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
            let step = step.read(file.hosts.as_ref(), &before, directory).with_context(|| format!("step '{name}'"))?;
            steps.push(step);
        }
        Ok(Self { steps })
    }
}

/// The values of the file, and those that were given in their place.
fn values(of_file: &BTreeMap<String, Value>, given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    for (name, value) in of_file {
        let text = scalar(value).with_context(|| format!("the value '{name}' is no text, whole number or boolean"))?;
        values.insert(name.clone(), text);
    }
    for word in given {
        let (name, value) = word.split_once('=').with_context(|| format!("--set '{word}' is not NAME=VALUE"))?;
        let Some(known) = values.get_mut(name) else {
            let meant = closest(name, of_file.keys().map(String::as_str));
            let meant = meant.map(|meant| format!(": did you mean {meant}?")).unwrap_or_default();
            bail!("--set {name}: it has no such value in [values]{meant}");
        };
        value.clone_into(known);
    }
    Ok(values)
}

/// Puts values into all texts.
fn fill_all(value: &mut Value, values: &BTreeMap<String, String>, is_argument: bool) -> anyhow::Result<()> {
    match value {
        Value::String(text) => {
            // Arguments are filled once more, with results.
            *text = fill(text, !is_argument, &|name| {
                // What a step comes to is known once it has run.
                if name.starts_with("result.") {
                    return Ok(None);
                }
                let meant = || closest(name, values.keys().map(String::as_str));
                let unknown = || {
                    let meant = meant().map(|meant| format!(": did you mean ${{{meant}}}?")).unwrap_or_default();
                    format!("there is no value '{name}' in [values]{meant}")
                };
                values.get(name).cloned().map(Some).ok_or_else(unknown)
            })?;
        }
        Value::Array(array) => array.iter_mut().try_for_each(|value| fill_all(value, values, is_argument))?,
        Value::Table(table) => {
            for (name, value) in table {
                fill_all(value, values, is_argument || name == "arguments")?;
            }
        }
        _ => {}
    }
    Ok(())
}

impl StepText {
    fn read(self, hosts: Option<&HostsText>, before: &[&str], directory: &Path) -> anyhow::Result<Step> {
        let is_plain = |char: char| char.is_ascii_alphanumeric() || "-_".contains(char);
        let is_name = !self.name.is_empty() && self.name.len() <= 60 && self.name.chars().all(is_plain);
        ensure!(is_name, "a name has letters, digits, - and _ only, at most 60");
        ensure!(!before.contains(&self.name.as_str()), "there are two steps of this name");
        let filter = |name: &str, text: Option<String>| {
            text.map(|text| Filter::after(&text, before).with_context(|| format!("{name} cannot be read"))).transpose()
        };
        let task = match (self.action, self.check) {
            (Some(action), None) => {
                ensure!(self.within.is_none(), "'within' is for a check");
                let from = self.from.map(|from| directory.join(from));
                if let Some(from) = from.as_ref().filter(|from| !from.exists()) {
                    bail!("there is no {}", from.display());
                }
                ensure!(from.is_none() || action == "deploy", "'from' is for the action deploy");
                Task::Run(Call { action, words: arguments(&self.arguments)?, from })
            }
            (None, Some(check)) => {
                let is_bare = self.arguments.is_empty() && self.rollback.is_none() && self.from.is_none();
                ensure!(is_bare, "a check has no arguments, no 'from' and no rollback");
                let within = duration("within", self.within.as_deref())?.unwrap_or(WITHIN);
                let filter = Filter::after(&check, before).context("check cannot be read")?;
                Task::Check { filter, within }
            }
            _ => bail!("it needs either an 'action' or a 'check'"),
        };
        let undo = |call: CallText| {
            Ok::<_, anyhow::Error>(Call { words: arguments(&call.arguments)?, action: call.action, from: None })
        };
        let rollback = self.rollback.map(undo).transpose().context("rollback")?;
        let Some(hosts) = self.hosts.as_ref().or(hosts) else {
            bail!("no hosts are named: write hosts = {{ host = \"web*\" }}, in the step or for all of them");
        };
        let waves = Waves {
            batch: number("batch", self.batch)?,
            canary: number("canary", self.canary)?,
            batch_wait: duration("batch_wait", self.batch_wait.as_deref())?,
            max_fail: number::<Budget>("max_fail", self.max_fail)?,
            fail_fast: false,
            abort_if: self.abort_if.map(|text| text.parse().context("abort_if cannot be read")).transpose()?,
        };
        let is_between = waves.batch_wait.is_some() || waves.abort_if.is_some();
        ensure!(
            waves.is_rolling() || !is_between,
            "'batch_wait' and 'abort_if' are for waves: say 'batch' or 'canary', too"
        );
        if matches!(task, Task::Check { .. }) {
            ensure!(!waves.is_rolling() && self.timeout.is_none(), "a check has no waves and no timeout, but 'within'");
        }
        let calls = [Some(&task).and_then(Task::call), rollback.as_ref()];
        for step in calls.into_iter().flatten().flat_map(Call::results) {
            let is_own = step == self.name && rollback.is_some();
            ensure!(
                before.contains(&step.as_str()) || is_own,
                "there is no earlier step '{step}' of which a result could be used"
            );
        }
        Ok(Step {
            selection: hosts.selection()?,
            task,
            when: filter("when", self.when)?,
            on_failure: self.on_failure,
            rollback,
            waves,
            timeout: duration("timeout", self.timeout.as_deref())?,
            name: self.name,
        })
    }
}

impl OneOrMore {
    fn texts(&self) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::One(text) => vec![text.clone()],
            Self::More(texts) => texts.clone(),
        }
    }
}

impl HostsText {
    fn selection(&self) -> anyhow::Result<Selection> {
        let read = |name: &str, texts: Vec<String>| {
            let read = texts.iter().map(|text| words(text)).collect::<Result<Vec<_>, _>>();
            read.map(|words| joined(&words)).map_err(anyhow::Error::msg).with_context(|| format!("hosts: {name}"))
        };
        let mut host = read("host", self.host.texts())?;
        host.extend(read("group", self.group.texts().iter().map(|name| format!("@{name}")).collect())?);
        let labels = self.label.as_deref().map(Filter::labels).transpose().context("hosts: label")?;
        let filter = self.filter.as_deref().map(str::parse::<Filter>).transpose().context("hosts: where")?;
        let is_narrowed = labels.is_some() || filter.is_some();
        ensure!(!self.all || host.is_empty(), "hosts: either 'all', or 'host' and 'group'");
        ensure!(self.all || is_narrowed || !host.is_empty(), "hosts: none are named; all of them: all = true");
        Ok(Selection {
            words: host,
            except: read("exclude", self.exclude.texts())?,
            filter: labels.into_iter().chain(filter).reduce(Filter::and),
            limit: number::<Limit>("limit", self.limit.clone())?,
        })
    }
}

/// Arguments as they would be typed.
fn arguments(table: &Table) -> anyhow::Result<Vec<String>> {
    let mut words = Vec::new();
    for (name, value) in table {
        let wrong = || {
            format!(
                "the argument '{name}' is no text, whole number, boolean, list or table of these (write 2.10 as '2.10')"
            )
        };
        match value {
            Value::Array(items) => {
                for item in items {
                    words.push(format!("{name}={}", scalar(item).with_context(wrong)?));
                }
            }
            Value::Table(pairs) => {
                for (key, item) in pairs {
                    words.push(format!("{name}.{key}={}", scalar(item).with_context(wrong)?));
                }
            }
            value => words.push(format!("{name}={}", scalar(value).with_context(wrong)?)),
        }
    }
    Ok(words)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(value) => Some(value.to_string()),
        _ => None,
    }
}

fn number<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    name: &str,
    number: Option<Number>,
) -> anyhow::Result<Option<T>> {
    let text = number.map(|number| match number {
        Number::Count(count) => count.to_string(),
        Number::Text(text) => text,
    });
    text.map(|text| text.parse().with_context(|| format!("{name} cannot be read"))).transpose()
}

fn duration(name: &str, text: Option<&str>) -> anyhow::Result<Option<Duration>> {
    let read = |text| read_duration(text).map_err(anyhow::Error::msg).with_context(|| format!("{name} cannot be read"));
    text.map(read).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Playbook> {
        Playbook::parse(text, &["version=3".to_owned()], Path::new("/"))
    }

    const WHOLE: &str = r#"
        description = "upgrade"
        values = { version = "2", app = "web" }
        hosts = { label = "role=web", exclude = ["web9"] }

        [[step]]
        name = "look"
        action = "deploy-status"
        arguments = { app = "${app}" }

        [[step]]
        name = "deploy"
        action = "deploy"
        from = "."
        arguments = { app = "${app}", version = "${version}" }
        when = "result.look.data.running != ${version}"
        canary = 1
        batch = "20%"
        max_fail = 2
        on_failure = "rollback"
        rollback = { action = "deploy-rollback", arguments = { app = "${app}" } }

        [[step]]
        name = "calm"
        check = "cpu.usage < 80"
        within = "2m"
        hosts = { all = true }
    "#;

    #[test]
    fn a_playbook_is_read_with_its_values() {
        let playbook = parse(WHOLE).unwrap();
        let [_, deploy, calm] = &playbook.steps[..] else { panic!("three steps") };
        let Task::Run(task) = &deploy.task else { panic!("an action") };
        assert_eq!(
            (task.action.as_str(), &task.words[..]),
            ("deploy", &["app=web".to_owned(), "version=3".to_owned()][..])
        );
        assert_eq!(task.from.as_deref(), Some(Path::new("/.")));
        assert_eq!(deploy.when.as_ref().unwrap().text(), "result.look.data.running != 3");
        assert_eq!((deploy.on_failure, deploy.waves.of(30).batch), (OnFailure::Rollback, 6));
        assert!(matches!(calm.task, Task::Check { within, .. } if within == Duration::from_secs(120)));
        assert!(calm.selection.words.is_empty() && calm.selection.filter.is_none());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let refused = |change: &dyn Fn(&str) -> String| format!("{:#}", parse(&change(WHOLE)).err().expect("an error"));
        let by = |from: &'static str, to: &'static str| refused(&move |text| text.replacen(from, to, 1));
        assert!(by("max_fail = 2", "max_fial = 2").contains("unknown field `max_fial`"));
        assert!(by("max_fail = 2", "max_fail = \"x\"").starts_with("step 'deploy': max_fail cannot be read"));
        assert!(by("result.look", "result.lok").contains("there is no earlier step 'lok'"));
        assert!(by("cpu.usage < 80", "cpu.usage <").contains('^'));
        assert!(by("${app}", "${ap}").contains("did you mean ${app}?"));
        assert!(by("name = \"calm\"", "name = \"look\"").contains("two steps of this name"));
        assert!(by("check = ", "action = \"ping\"\ncheck = ").contains("either an 'action' or a 'check'"));
        assert!(by("on_failure = \"rollback\"", "on_failure = \"panic\"").contains("unknown variant `panic`"));
        assert!(by("{ all = true }", "{ }").contains("all = true"));
        assert!(refused(&|_| "values = { version = 1 }".to_owned()).contains("it has no [[step]]"));
        let given = Playbook::parse(WHOLE, &["verson=3".to_owned()], Path::new(""));
        assert!(given.err().expect("an error").to_string().contains("did you mean version?"));
    }
}
