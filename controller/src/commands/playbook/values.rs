//! What earlier steps came to, and texts with such values in them.

use std::collections::BTreeMap;

use protocol::{name::HostName, outcome::Captured};
use serde_json::Value;

use crate::{
    client::HostResult,
    output::{Advice, fold},
};

/// Puts values in the place of `${NAME}`; `$${` stands for `${`. `known`: the value, or `None` where the name stays as it
/// is. `is_last`: the text will not be filled again; otherwise what stands for `${` stays, and values have it, too.
///
/// # Errors
/// A name has no value, or does not end.
pub fn fill(
    text: &str,
    is_last: bool,
    known: &dyn Fn(&str) -> Result<Option<String>, String>,
) -> anyhow::Result<String> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, behind) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            filled.push_str(before);
            filled.push_str(if is_last { "${" } else { "$${" });
            rest = &behind[2..];
            continue;
        }
        let Some((name, after)) = behind[2..].split_once('}') else {
            return Err(Advice::new(format!("there is no }} to the ${{ in '{text}'"))
                .hint("for ${ itself: $${")
                .into());
        };
        filled.push_str(before);
        match known(name).map_err(anyhow::Error::msg)? {
            Some(value) if is_last => filled.push_str(&value),
            Some(value) => filled.push_str(&value.replace("${", "$${")),
            None => filled.push_str(&behind[..name.len() + 3]),
        }
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// What the steps of a playbook have come to on their hosts.
#[derive(Default)]
pub struct Results(BTreeMap<String, BTreeMap<HostName, HostResult>>);

impl Results {
    /// Adds what a step came to. What was there of its hosts is replaced.
    pub fn add(&mut self, step: &str, results: impl IntoIterator<Item = HostResult>) {
        let of_step = self.0.entry(step.to_owned()).or_default();
        of_step.extend(results.into_iter().map(|result| (result.host.clone(), result)));
    }

    /// How a step went on its hosts.
    pub fn of(&self, step: &str) -> impl Iterator<Item = &HostResult> {
        self.0.get(step).into_iter().flat_map(BTreeMap::values)
    }

    /// A part of the result of a step on a host.
    ///
    /// # Errors
    /// Why it is not known.
    pub fn get(&self, step: &str, host: &HostName, name: &str) -> Result<String, String> {
        let of_step = self.0.get(step).ok_or_else(|| format!("step '{step}' did not run"))?;
        let result = of_step.get(host).ok_or_else(|| format!("step '{step}' did not run there"))?;
        part(result, name).ok_or_else(|| format!("the result of step '{step}' has no {name}"))
    }

    /// A part of the result of a step, where it is the same on all of its hosts.
    ///
    /// # Errors
    /// It is not, or is not known of one.
    pub fn agreed(&self, step: &str, name: &str) -> Result<String, String> {
        let mut by_value: BTreeMap<String, Vec<&HostName>> = BTreeMap::new();
        for result in self.of(step) {
            by_value.entry(self.get(step, &result.host, name)?).or_default().push(&result.host);
        }
        match by_value.len() {
            0 => Err(format!("step '{step}' ran nowhere")),
            1 => Ok(by_value.into_keys().next().unwrap_or_default()),
            _ => {
                let parts = by_value.iter().map(|(value, hosts)| format!("'{value}' on {}", fold::names(hosts)));
                Err(format!("result.{step}.{name} differs: {}", parts.collect::<Vec<_>>().join(", ")))
            }
        }
    }

    /// An argument `NAME=VALUE` with the results in it that it asks for.
    ///
    /// # Errors
    /// One of them is not known, or not the same on all hosts; or it would make the value name a file of the operator's.
    pub fn fill_argument(&self, word: &str) -> anyhow::Result<String> {
        let filled = self.fill(word)?;
        let is_file = |word: &str| word.split_once('=').is_some_and(|(_, value)| value.starts_with('@'));
        if is_file(&filled) && !is_file(word) {
            return Err(Advice::new(format!("a result that begins with @ cannot be a value: {word}")).into());
        }
        Ok(filled)
    }

    fn fill(&self, text: &str) -> anyhow::Result<String> {
        fill(text, true, &|name| {
            let wrong = || format!("${{{name}}} is no result: write ${{result.STEP.NAME}}");
            let (step, part) = name.strip_prefix("result.").and_then(|name| name.split_once('.')).ok_or_else(wrong)?;
            self.agreed(step, part).map(Some)
        })
    }
}

/// A part of a result, as a text.
fn part(result: &HostResult, name: &str) -> Option<String> {
    if name == "state" {
        return Some(result.state.to_string());
    }
    let outcome = result.outcome.as_ref()?;
    match name {
        "exit_code" => outcome.exit_code.map(|code| code.to_string()),
        "reason" => Some(outcome.reason.clone().unwrap_or_default()),
        "stdout" => printed(&outcome.stdout),
        "stderr" => printed(&outcome.stderr),
        _ => {
            let mut path = name.strip_prefix("data.").unwrap_or(name).split('.');
            let first = outcome.data.as_ref()?.get(path.next()?)?;
            match path.try_fold(first, |value, name| value.get(name))? {
                Value::String(text) => Some(text.clone()),
                // There is none, as of a label that is not set.
                Value::Null => Some(String::new()),
                value @ (Value::Number(_) | Value::Bool(_)) => Some(value.to_string()),
                _ => None,
            }
        }
    }
}

/// All that was printed, without the last newline, if it is text.
fn printed(captured: &Captured) -> Option<String> {
    let text = std::str::from_utf8(&captured.kept).ok().filter(|_| captured.cut_bytes == 0)?;
    Some(text.strip_suffix('\n').unwrap_or(text).to_owned())
}

#[cfg(test)]
mod tests {
    use protocol::outcome::{Outcome, State};
    use serde_json::json;

    use super::*;

    fn result(host: &str, version: &str) -> HostResult {
        let data = json!({ "running": version, "prior": null, "deep": { "count": 3 } });
        let stdout = Captured { kept: format!("{version}\n").into_bytes(), written_bytes: 2, cut_bytes: 0 };
        let outcome = Outcome { data: data.as_object().cloned(), stdout, ..Outcome::bare(State::Succeeded, None, 0) };
        let host = host.parse().unwrap();
        HostResult { state: State::Succeeded, outcome: Some(outcome), ..HostResult::new(host) }
    }

    #[test]
    fn texts_are_filled() {
        let known = |name: &str| match name {
            "a" => Ok(Some("1".to_owned())),
            "later" => Ok(None),
            _ => Err("unknown".to_owned()),
        };
        let fill = |text: &str| fill(text, true, &known).map_err(|error| error.to_string());
        assert_eq!(fill("x${a}y${a}").unwrap(), "x1y1");
        assert_eq!(fill("$ ${later} $${a} $").unwrap(), "$ ${later} ${a} $");
        assert_eq!(fill("${b}").unwrap_err(), "unknown");
        assert!(fill("${a").unwrap_err().contains("there is no }"));
        // What is filled twice stays what it was meant to be.
        let value = |_: &str| Ok(Some("${x}".to_owned()));
        assert_eq!(super::fill("$${HOME} ${v}", false, &value).unwrap(), "$${HOME} $${x}");
        assert_eq!(fill("$${HOME} $${x}").unwrap(), "${HOME} ${x}");
    }

    #[test]
    fn results_are_used_where_all_hosts_agree() {
        let mut results = Results::default();
        results.add("look", [result("a", "2"), result("b", "2")]);
        assert_eq!(results.fill("v${result.look.running} ${result.look.deep.count}").unwrap(), "v2 3");
        assert_eq!(results.fill("${result.look.stdout}/${result.look.state}").unwrap(), "2/succeeded");
        assert_eq!(results.fill("<${result.look.prior}>").unwrap(), "<>");
        results.add("bad", [result("a", "@/etc/shadow")]);
        let leak = results.fill_argument("secret.T=${result.bad.running}").unwrap_err();
        assert!(leak.to_string().contains("begins with @ cannot be a value"), "{leak}");
        assert_eq!(results.fill_argument("secret.T=@token").unwrap(), "secret.T=@token");
        let failed = |results: &Results, text: &str| results.fill(text).unwrap_err().to_string();
        assert_eq!(failed(&results, "${result.look.none}"), "the result of step 'look' has no none");
        assert_eq!(failed(&results, "${result.other.state}"), "step 'other' ran nowhere");
        results.add("look", [result("b", "3")]);
        assert_eq!(failed(&results, "${result.look.running}"), "result.look.running differs: '2' on a, '3' on b");
    }
}
