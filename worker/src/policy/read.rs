//! Reads the policy out of the settings. What is not understood is an error: a rule must never grant more, or ask for
//! less, than was written.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{
    action::{ActionSpec, Repeat},
    limits,
    pattern::Pattern,
};
use toml::{Spanned, Table, Value};

use super::{Policy, RIGHTS, Rule, Signer, values::Allowed};
use crate::spelling::did_you_mean;

/// The keys of a rule.
const KEYS: [&str; 6] = ["who", "actions", "arguments", "approvals", "approvers", "pre_approved"];

/// More principals than this will not sign one job.
const MOST_APPROVALS: usize = limits::APPROVALS + 1;

/// The part of the settings file that is about the policy, not judged yet.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// The file.
    pub origin: Origin,
    /// `[groups]`.
    pub groups: Table,
    /// `[[policy]]`.
    pub rules: Vec<Spanned<Table>>,
    /// Actions of this host whose files are broken. A rule may name them; they cannot run.
    pub broken: Vec<String>,
}

impl Input {
    /// Whether every known signer may run this action though nothing names it: it looks at the host, and there is no rule.
    pub fn allows_by_default(&self, spec: &ActionSpec) -> bool {
        let looks = spec.name == "ping" || spec.name.starts_with("collect-");
        self.rules.is_empty() && looks && spec.repeat == Repeat::Repeatable && !spec.own
    }
}

/// The settings file, so that a rule can be named by its line.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// Its name.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// Why a policy cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct PolicyError {
    /// The rule or group.
    place: String,
    problem: String,
}

impl Policy {
    /// Makes the policy of what the settings say. `allow` are actions that every known signer may run besides, `specs`
    /// are the actions that there are.
    ///
    /// # Errors
    /// The first rule or group that is not understood.
    pub fn new(input: &Input, allow: &[String], specs: &[ActionSpec]) -> Result<Self, PolicyError> {
        let groups = groups(&input.groups)?;
        let mut rules = Vec::new();
        for (index, rule) in input.rules.iter().enumerate() {
            let before = input.origin.text.get(..rule.span().start).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let title = format!("rule {} ({}, line {line})", index + 1, input.origin.name);
            let broken = &input.broken;
            let read = Reader { title: &title, table: rule.get_ref(), groups: &groups, specs, broken };
            rules.push(read.rule().map_err(|problem| PolicyError { place: title.clone(), problem })?);
        }
        if input.rules.is_empty() {
            let by_default = specs.iter().filter(|spec| input.allows_by_default(spec));
            rules.push(open("the default rule", by_default.map(|spec| spec.name.as_str())));
        }
        let covers = |rule: &Rule, name: &String| {
            rule.grants_right(name) || specs.iter().any(|spec| spec.name == *name && rule.covers(spec))
        };
        let written = if input.rules.is_empty() { &[] } else { rules.as_slice() };
        let voided = |name| Some((name, written.iter().find(|rule| covers(rule, name))?));
        if let Some((name, Rule { title, .. })) = allow.iter().find_map(voided) {
            return Err(PolicyError {
                place: "actions.allow".into(),
                problem: format!("it lets every known signer run {name} and so voids {title}: remove {name} from it"),
            });
        }
        if !allow.is_empty() {
            rules.push(open("actions.allow", allow.iter().map(String::as_str)));
        }
        Ok(Self { rules })
    }

    /// What is allowed where the settings say nothing: known signers may run what only reads.
    pub fn default_of(specs: &[ActionSpec], allow: &[String]) -> Self {
        Self::new(&Input::default(), allow, specs).unwrap_or(Self { rules: Vec::new() })
    }

    /// Approvals that are asked for in vain, because another rule grants the same without them.
    pub fn warnings(&self, specs: &[ActionSpec]) -> Vec<String> {
        let mut warnings = Vec::new();
        for strict in self.rules.iter().filter(|rule| rule.approvals > 1) {
            for spec in specs.iter().filter(|spec| strict.covers(spec)) {
                let needed = strict.approvals_of(spec);
                let bypasses = |rule: &&Rule| {
                    rule.covers(spec)
                        && rule.approvals_of(spec) < needed
                        && rule.arguments.is_none()
                        && rule.who.contains(&Signer::Known)
                };
                if let Some(bypass) = self.rules.iter().find(bypasses) {
                    let (name, strict, bypass) = (&spec.name, &strict.title, &bypass.title);
                    warnings.push(format!(
                        "{strict} asks for {needed} approvals of {name} in vain: {bypass} lets every known signer run it"
                    ));
                }
            }
        }
        warnings
    }
}

/// A rule that lets every known signer run some actions.
fn open<'a>(title: &str, actions: impl Iterator<Item = &'a str>) -> Rule {
    Rule {
        title: title.to_owned(),
        who: vec![Signer::Known],
        approvers: Vec::new(),
        actions: actions.filter_map(|action| Pattern::new(action).ok()).filter(|action| !action.is_wild()).collect(),
        arguments: None,
        approvals: 1,
        pre_approved: BTreeSet::new(),
    }
}

type Groups = BTreeMap<String, Vec<Signer>>;

fn groups(table: &Table) -> Result<Groups, PolicyError> {
    let read = |(name, value): (&String, &Value)| {
        let members = texts(value).and_then(|members| {
            members
                .into_iter()
                .map(|member| match member {
                    member if member.starts_with('@') => Err(format!("'{member}': a group cannot hold a group")),
                    member => signer(member),
                })
                .collect()
        });
        let place = format!("group '{}'", name.escape_debug());
        members.map(|members| (name.clone(), members)).map_err(|problem| PolicyError { place, problem })
    };
    table.iter().map(read).collect()
}

/// A list of texts that is not empty.
fn texts(value: &Value) -> Result<Vec<&str>, String> {
    let items = value.as_array().ok_or("it must be an array of texts")?;
    if items.is_empty() {
        return Err("it is empty".into());
    }
    items
        .iter()
        .map(|item| item.as_str().ok_or_else(|| format!("it has an item that is no text but a {}", item.type_str())))
        .collect()
}

fn signer(text: &str) -> Result<Signer, String> {
    if text.starts_with('!') {
        return Err(format!("'{}': nobody can be left out, rules only grant", text.escape_debug()));
    }
    if text == "*" {
        return Ok(Signer::Known);
    }
    let pattern = Pattern::new(text).map_err(|error| format!("'{}' names nobody: {error}", text.escape_debug()))?;
    Ok(Signer::Named(pattern))
}

/// One rule as it is read.
struct Reader<'a> {
    title: &'a str,
    table: &'a Table,
    groups: &'a Groups,
    specs: &'a [ActionSpec],
    broken: &'a [String],
}

impl Reader<'_> {
    fn rule(&self) -> Result<Rule, String> {
        if let Some(key) = self.table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            let (meant, all) = (did_you_mean(key, &KEYS), KEYS.join(", "));
            return Err(format!("unknown key '{}'{meant}; a rule has {all}", key.escape_debug()));
        }
        let who = self.signers("who")?.ok_or("it does not say who")?;
        let actions = self.actions()?;
        let approvers = self.signers("approvers")?.unwrap_or_default();
        let mut rule = Rule {
            title: self.title.to_owned(),
            who,
            approvers,
            actions,
            arguments: None,
            approvals: self.approvals()?,
            pre_approved: BTreeSet::new(),
        };
        rule.arguments = self.arguments(&rule)?;
        rule.pre_approved = self.pre_approved(&rule)?;
        Self::check(&rule)?;
        Ok(rule)
    }

    /// The list of texts under a key, if it is there.
    fn list(&self, key: &str) -> Result<Option<Vec<&str>>, String> {
        self.table.get(key).map(|value| texts(value).map_err(|problem| format!("{key}: {problem}"))).transpose()
    }

    fn signers(&self, key: &str) -> Result<Option<Vec<Signer>>, String> {
        let Some(list) = self.list(key)? else { return Ok(None) };
        let mut signers = Vec::new();
        for text in list {
            let Some(group) = text.strip_prefix('@') else {
                signers.push(signer(text).map_err(|problem| format!("{key}: {problem}"))?);
                continue;
            };
            let known: Vec<_> = self.groups.keys().map(String::as_str).collect();
            let meant = did_you_mean(group, &known);
            let unknown = || format!("{key}: there is no group '{}' in [groups]{meant}", group.escape_debug());
            signers.extend(self.groups.get(group).ok_or_else(unknown)?.iter().cloned());
        }
        Ok(Some(signers))
    }

    fn actions(&self) -> Result<Vec<Pattern>, String> {
        let list = self.list("actions")?.ok_or("it names no actions")?;
        let read = |text: &str| {
            let shown = text.escape_debug();
            let pattern = Pattern::new(text).map_err(|error| format!("actions: '{shown}' is no pattern: {error}"))?;
            let literal = pattern.literal();
            if literal.is_some_and(|name| RIGHTS.contains(&name.as_str()) || self.broken.contains(&name)) {
                return Ok(pattern);
            }
            let found: Vec<_> = self.specs.iter().filter(|spec| pattern.matches(&spec.name)).collect();
            if found.is_empty() {
                let known: Vec<_> = self.specs.iter().map(|spec| spec.name.as_str()).chain(RIGHTS).collect();
                return Err(format!("actions: there is no action '{shown}'{}", did_you_mean(text, &known)));
            }
            if pattern.is_wild() && found.iter().all(|spec| spec.repeat == Repeat::Once) {
                let name = &found[0].name;
                return Err(format!(
                    "actions: {name} changes the host, so it must be named literally, not as '{shown}'"
                ));
            }
            Ok(pattern)
        };
        list.into_iter().map(read).collect()
    }

    fn approvals(&self) -> Result<usize, String> {
        let Some(value) = self.table.get("approvals") else { return Ok(1) };
        let number = value.as_integer().and_then(|number| usize::try_from(number).ok());
        let number = number.filter(|number| (1..=MOST_APPROVALS).contains(number));
        number.ok_or_else(|| format!("approvals must be a number from 1 to {MOST_APPROVALS}"))
    }

    fn arguments(&self, rule: &Rule) -> Result<Option<BTreeMap<String, Allowed>>, String> {
        let Some(value) = self.table.get("arguments") else { return Ok(None) };
        let table = value.as_table().ok_or("arguments must be a table such as { argv = [\"uptime\"] }")?;
        let mut arguments = BTreeMap::new();
        for spec in self.specs.iter().filter(|spec| rule.covers(spec)) {
            for (name, value) in table {
                let parameter = spec.parameter(name).ok_or_else(|| {
                    let known: Vec<_> = spec.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
                    let (shown, meant) = (name.escape_debug(), did_you_mean(name, &known));
                    format!("arguments: {} has no parameter '{shown}'{meant}", spec.name)
                })?;
                let allowed = Allowed::read(parameter, value);
                let allowed = allowed.map_err(|problem| format!("arguments.{name}: {problem}"))?;
                if arguments.insert(name.clone(), allowed.clone()).is_some_and(|other| other != allowed) {
                    let problem = "means different things to these actions: give each a rule of its own";
                    return Err(format!("arguments.{name} {problem}"));
                }
            }
            let needed = spec.parameters.iter().find(|needed| needed.required && !table.contains_key(&needed.name));
            if let Some(needed) = needed {
                let name = &needed.name;
                return Err(format!("arguments: {} cannot run without '{name}', so say what it may be", spec.name));
            }
        }
        Ok(Some(arguments))
    }

    fn pre_approved(&self, rule: &Rule) -> Result<BTreeSet<String>, String> {
        let list = self.list("pre_approved")?.unwrap_or_default();
        if !list.is_empty() && rule.approvals == 1 {
            return Err("pre_approved: the rule asks for no approvals".into());
        }
        let read = |text: &str| {
            let spec = self.specs.iter().find(|spec| spec.name == text && rule.covers(spec));
            let shown = text.escape_debug();
            spec.map(|spec| &spec.name)
                .or_else(|| self.broken.iter().find(|broken| *broken == text))
                .cloned()
                .ok_or_else(|| format!("pre_approved: '{shown}' is no name of an action that the rule allows"))
        };
        list.into_iter().map(read).collect()
    }

    /// What can only be a mistake.
    fn check(rule: &Rule) -> Result<(), String> {
        if let Some(right) = RIGHTS.into_iter().find(|right| rule.grants_right(right))
            && (rule.arguments.is_some() || rule.approvals > 1)
        {
            let problem = "is granted without arguments and approvals: give it a rule of its own";
            return Err(format!("the right '{right}' {problem}"));
        }
        if !rule.approvers.is_empty() && rule.approvals == 1 {
            return Err("approvers: the rule asks for no approvals (approvals = 2)".into());
        }
        let signers = rule.who.iter().chain(&rule.approvers);
        let names = signers.map(|signer| match signer {
            Signer::Named(pattern) => pattern.literal(),
            Signer::Known => None,
        });
        match names.collect::<Option<BTreeSet<_>>>() {
            Some(names) if names.len() < rule.approvals => {
                let (needed, count) = (rule.approvals, names.len());
                Err(format!("it asks for {needed} approvals, but only {count} could give them: name more 'approvers'"))
            }
            _ => Ok(()),
        }
    }
}
