//! One evaluation of all rules: what each look comes to. It knows no Redis; hosts are handed to it one after the other.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{name::HostName, time::Millis};

use super::{
    Alert, Course, Key, Phase, Rule, Rules, Severity, Subject,
    course::{Sight, Spans},
    rule::rule_of,
};
use crate::client::targeting::{Field, Truth};

/// What is known of a field, or why it is not.
pub type Known<'a> = dyn Fn(&Field) -> Result<String, String> + 'a;

/// One evaluation.
pub struct Round<'a> {
    rules: &'a Rules,
    unreadable: BTreeSet<String>,
    before: &'a BTreeMap<Key, Course>,
    now: Millis,
    last: Option<Millis>,
    courses: BTreeMap<Key, Course>,
    muted: BTreeSet<Key>,
    seen: BTreeSet<Key>,
}

/// What an evaluation has come to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How each alert has come along.
    pub courses: BTreeMap<Key, Course>,
    /// Those of which nobody is told for now.
    pub muted: BTreeSet<Key>,
}

impl<'a> Round<'a> {
    /// Begins one. `last`: when the one before was.
    pub fn new(rules: &'a Rules, before: &'a BTreeMap<Key, Course>, now: Millis, last: Option<Millis>) -> Self {
        let (courses, muted, seen) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { rules, unreadable: BTreeSet::new(), before, now, last, courses, muted, seen }
    }

    /// There are rules of these names that cannot be read, such as those of a newer release: what they have begun goes on.
    #[must_use]
    pub fn besides(self, unreadable: impl IntoIterator<Item = String>) -> Self {
        Self { unreadable: unreadable.into_iter().collect(), ..self }
    }

    /// Judges a host.
    pub fn host(&mut self, host: &HostName, is_online: bool, known: &Known<'_>) {
        for rule in self.rules.iter().filter(|rule| rule.written.on == Subject::Hosts) {
            let is_hidden = !is_online && !rule.is_about_state();
            self.judge(rule, Some(host), is_hidden, known);
        }
    }

    /// Judges the fleet's Redis.
    pub fn redis(&mut self, known: &Known<'_>) {
        for rule in self.rules.iter().filter(|rule| rule.written.on == Subject::Redis) {
            self.judge(rule, None, false, known);
        }
    }

    fn judge(&mut self, rule: &Rule, host: Option<&HostName>, is_hidden: bool, known: &Known<'_>) {
        let known = &|field: &Field| known(field);
        let scope = rule.scope.as_ref().map_or(Truth::Yes, |scope| scope.judge(known));
        let is_explained = rule.written.depends_on.iter().any(|other| self.has_begun(other.as_str(), host));
        let is_held = is_hidden || is_explained || matches!(scope, Truth::Unknown(_));
        let when = rule.when.judge(known);
        let clear = rule.is_clear(&when, known);
        let sights = if scope == Truth::No {
            [Sight::Over, Sight::Over]
        } else if is_held {
            [Sight::Held, Sight::Held]
        } else {
            let is_unknown = matches!(when, Truth::Unknown(_));
            let unknown = Sight::Known { when: Some(is_unknown), clear: Some(!is_unknown) };
            let unknown = if rule.unknown_for_ms.is_some() { unknown } else { Sight::Over };
            [Sight::Known { when: value(&when), clear: value(&clear) }, unknown]
        };

        let alert = |name: String, severity, text: String, found: String| Alert {
            rule: name,
            host: host.cloned(),
            severity,
            phase: Phase::Firing,
            labels: rule.labels.iter().map(|(name, text)| (name.clone(), text.fill(host, &found, known))).collect(),
            text,
            found,
            begins_ms: self.now,
            ends_ms: None,
        };
        let holds = || {
            let found = rule.found(host, known);
            alert(rule.name().to_string(), rule.written.severity, rule.text.fill(host, &found, known), found)
        };
        let nobody_knows = || {
            let reason = if let Truth::Unknown(reason) = &when { super::text::clean(reason) } else { String::new() };
            let of = host.map(|host| format!("{host}: ")).unwrap_or_default();
            let text = format!("{of}nobody knows whether {} holds: {reason}", rule.name());
            alert(rule.no_data_name(), Severity::Warning.min(rule.written.severity), text, reason)
        };
        let spans = Spans { for_ms: rule.for_ms, clear_for_ms: rule.clear_for_ms };
        let until = Spans { for_ms: rule.unknown_for_ms.unwrap_or_default(), clear_for_ms: 0 };
        let key = |alert: String| Key { alert, host: host.cloned() };
        let [own, no_data] = [rule.name().to_string(), rule.no_data_name()].map(key);
        let steps =
            [self.stepped(&own, sights[0], spans, holds), self.stepped(&no_data, sights[1], until, nobody_knows)];
        for (key, course) in [own, no_data].into_iter().zip(steps) {
            if is_held {
                self.muted.insert(key.clone());
            }
            self.seen.insert(key.clone());
            if !course.is_idle() {
                self.courses.insert(key, course);
            }
        }
    }

    fn stepped(&self, key: &Key, sight: Sight, spans: Spans, alert: impl FnOnce() -> Alert) -> Course {
        let before = self.before.get(key).cloned().unwrap_or_default();
        before.step(sight, spans, self.now, self.last, alert)
    }

    /// Whether an alert of another rule has begun, for this host or for Redis.
    fn has_begun(&self, rule: &str, host: Option<&HostName>) -> bool {
        [host, None].into_iter().any(|host| {
            let key = Key { alert: rule.to_owned(), host: host.cloned() };
            self.courses.get(&key).is_some_and(Course::has_begun)
        })
    }

    /// Ends it: what was not seen is gone.
    pub fn end(mut self) -> Outcome {
        for (key, course) in self.before.iter().filter(|(key, _)| !self.seen.contains(key)) {
            let is_ruled = self.rules.of(&key.alert).is_some_and(|rule| match key.host {
                Some(_) => rule.written.on == Subject::Hosts,
                None => rule.written.on == Subject::Redis,
            });
            let sight = match is_ruled {
                _ if self.unreadable.contains(rule_of(&key.alert)) => Sight::Held,
                true => Sight::Gone,
                false => Sight::Over,
            };
            let course = course.clone().step(sight, Spans::default(), self.now, self.last, || {
                unreachable!("what is not known does not begin")
            });
            self.muted.insert(key.clone());
            if !course.is_idle() {
                self.courses.insert(key.clone(), course);
            }
        }
        Outcome { courses: self.courses, muted: self.muted }
    }
}

const fn value(truth: &Truth) -> Option<bool> {
    match truth {
        Truth::Yes => Some(true),
        Truth::No => Some(false),
        Truth::Unknown(_) => None,
    }
}
