//! All rules of a fleet, in the order in which they are judged: each behind those that explain it.

use std::collections::HashMap;

use super::rule::{Rule, Subject, rule_of};
use crate::client::targeting::{Field, Filter};

/// All rules of a fleet.
#[derive(Debug, Default)]
pub struct Rules {
    ordered: Vec<Rule>,
    places: HashMap<String, usize>,
    /// What is wrong with some of them, which are used all the same.
    pub doubts: Vec<String>,
}

impl Rules {
    /// Puts them in order. A dependency that is none is left out, and told.
    pub fn new(rules: Vec<Rule>) -> Self {
        let (mut open, mut ordered, mut doubts) = (rules, Vec::<Rule>::new(), Vec::new());
        open.sort_by(|one, other| one.name().cmp(other.name()));
        open.dedup_by(|one, other| one.name() == other.name());
        let names: Vec<_> = open.iter().map(|rule| rule.name().clone()).collect();
        for rule in &mut open {
            let name = rule.name().clone();
            rule.written.depends_on.retain(|other| {
                let is_known = names.contains(other);
                if !is_known {
                    doubts.push(format!("rule {name}: there is no rule {other}, on which it depends"));
                }
                is_known
            });
        }
        while !open.is_empty() {
            let is_free = |rule: &Rule| {
                rule.written.depends_on.iter().all(|other| ordered.iter().any(|known| known.name() == other))
            };
            let free = open.iter().position(is_free);
            let mut rule = open.remove(free.unwrap_or(0));
            if free.is_none() {
                let shown = rule.name();
                doubts.push(format!("rule {shown}: what it depends on depends on itself; that is not obeyed"));
                rule.written.depends_on.clear();
            }
            ordered.push(rule);
        }
        let places = ordered.iter().enumerate().map(|(at, rule)| (rule.name().to_string(), at)).collect();
        Self { ordered, places, doubts }
    }

    /// The rule to which an alert belongs.
    pub fn of(&self, alert: &str) -> Option<&Rule> {
        self.places.get(rule_of(alert)).map(|at| &self.ordered[*at])
    }

    /// Each behind those that explain it.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.ordered.iter()
    }

    /// All expressions in them.
    pub(super) fn filters(&mut self) -> impl Iterator<Item = &mut Filter> {
        self.ordered.iter_mut().flat_map(Rule::filters)
    }

    /// All that must be known of hosts, each once.
    pub(super) fn fields(&self) -> Vec<&Field> {
        let mut fields = Vec::new();
        for field in self.iter().filter(|rule| rule.written.on == Subject::Hosts).flat_map(Rule::fields) {
            if !fields.contains(&field) {
                fields.push(field);
            }
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::alerts::read_file;

    #[test]
    fn each_rule_is_behind_those_that_explain_it() {
        let rule = |name: &str, on: &str| format!("[[rule]]\nname='{name}'\nwhen='cpu.usage > 1'\ndepends_on=[{on}]\n");
        let text = rule("a", "'b'") + &rule("b", "'c'") + &rule("c", "") + &rule("x", "'y'") + &rule("y", "'x', 'z'");
        let rules = Rules::new(read_file(&text).unwrap());
        let names: Vec<_> = rules.iter().map(|rule| rule.name().as_str()).collect();
        assert_eq!(names, ["c", "b", "a", "x", "y"]);
        assert_eq!(rules.doubts.len(), 2, "{:?}", rules.doubts);
        assert_eq!(rules.of("a: no data").unwrap().name().as_str(), "a");
    }
}
