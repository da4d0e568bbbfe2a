//! Who is to be told what, and when: a pure function of how the alerts stand and of what was told before.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{limits, time::Millis};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Alert, Course, Key, Notification, Phase, Rules, Silence};

/// What a receiver was told last about a group of alerts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The receiver.
    pub receiver: String,
    /// What the alerts have in common.
    pub group: BTreeMap<String, String>,
    /// When.
    pub at_ms: Millis,
    /// The alerts that it knows to go on, and when each began.
    pub alerts: BTreeMap<String, Millis>,
    /// How long alerts are gathered.
    pub wait_ms: Millis,
}

/// A receiver and what alerts have in common.
type Group = (String, BTreeMap<String, String>);

/// The alerts of a group that its receiver is to know.
#[derive(Default)]
struct Members<'a> {
    alerts: BTreeMap<String, &'a Alert>,
    wait_ms: Option<Millis>,
    repeat_ms: Option<Millis>,
}

/// How everything stands at one moment.
pub struct Scene<'a> {
    /// How each alert has come along.
    pub courses: &'a BTreeMap<Key, Course>,
    /// Those of which nobody is told for now, as something else explains them.
    pub muted: &'a BTreeSet<Key>,
    /// The rules.
    pub rules: &'a Rules,
    /// The silences.
    pub silences: &'a [Silence],
    /// Who is told where a rule names nobody.
    pub receivers: &'a [String],
    /// The moment.
    pub now: Millis,
    /// How many notifications can be made: what is more is told later.
    pub room: usize,
    /// How many wait for each receiver.
    pub waiting: &'a BTreeMap<String, usize>,
}

/// What an evaluation has for the receivers.
#[derive(Default)]
pub struct Due {
    /// The notifications.
    pub notifications: Vec<Notification>,
    /// What each receiver knows when it has them.
    pub told: BTreeMap<String, Told>,
    /// Receivers for which there was no room: later evaluations make their notifications.
    pub full: BTreeSet<String>,
    /// How many there are for each receiver.
    made: BTreeMap<String, usize>,
}

/// The field that has what a group was told.
pub fn field(told: &Told) -> String {
    field_of(&told.receiver, &told.group)
}

fn field_of(receiver: &str, group: &BTreeMap<String, String>) -> String {
    format!("{receiver} {}", serde_json::to_string(group).unwrap_or_default())
}

impl Scene<'_> {
    /// The notifications that are due now. `before`: what each receiver knows.
    pub fn due(&self, before: &BTreeMap<String, Told>) -> Due {
        let groups = self.groups();
        let mut due = Due::default();
        let known = before.values().map(|told| (told.receiver.clone(), told.group.clone()));
        let all: BTreeSet<Group> = groups.keys().cloned().chain(known).collect();
        let nobody = Members::default();
        for group in all {
            let field = field_of(&group.0, &group.1);
            let members = groups.get(&group).unwrap_or(&nobody);
            let told = before.get(&field);
            if let Some(told) = self.tell(&group, members, told, &mut due) {
                due.told.insert(field, told);
            }
        }
        due
    }

    /// Whether so many more notifications for this receiver can be made.
    fn has_room(&self, receiver: &str, more: usize, due: &Due) -> bool {
        let of = |counts: &BTreeMap<String, usize>| counts.get(receiver).copied().unwrap_or(0);
        let share = of(self.waiting) + of(&due.made) + more;
        due.notifications.len() + more <= self.room && share <= limits::ALERT_OUTBOX_SHARE
    }

    /// The alerts of each group. One that is silenced or explained belongs to none.
    fn groups(&self) -> BTreeMap<Group, Members<'_>> {
        let mut groups: BTreeMap<Group, Members<'_>> = BTreeMap::new();
        for (key, course) in self.courses {
            let (Some(alert), Some(rule)) = (&course.alert, self.rules.of(&key.alert)) else { continue };
            if self.muted.contains(key) || self.silences.iter().any(|silence| silence.covers(alert, self.now)) {
                continue;
            }
            let own = &rule.written.receivers;
            for receiver in if own.is_empty() { self.receivers } else { own } {
                let group = (receiver.clone(), common(&rule.written.group_by, alert));
                let members = groups.entry(group).or_default();
                members.alerts.insert(key.to_string(), alert);
                members.wait_ms = Some(members.wait_ms.map_or(rule.wait_ms, |wait| wait.min(rule.wait_ms)));
                members.repeat_ms = Some(members.repeat_ms.map_or(rule.repeat_ms, |repeat| repeat.min(rule.repeat_ms)));
            }
        }
        groups
    }

    /// Tells a group what is due, and returns what it then knows.
    fn tell(&self, group: &Group, members: &Members<'_>, told: Option<&Told>, due: &mut Due) -> Option<Told> {
        let now = self.now;
        let mut known = told.map(|told| told.alerts.clone()).unwrap_or_default();
        let last = told.map(|told| told.at_ms.min(now));
        let wait_ms = members.wait_ms.or(told.map(|told| told.wait_ms)).unwrap_or_default();
        let repeat_ms = members.repeat_ms.unwrap_or(Millis::MAX);

        let mut changes: Vec<Millis> = Vec::new();
        for (key, alert) in &members.alerts {
            if known.get(key) != Some(&alert.begins_ms) {
                changes.push(alert.begins_ms);
            }
        }
        let mut ended = Vec::new();
        known.retain(|key, begins| {
            let course = key.parse().ok().and_then(|key: Key| self.courses.get(&key));
            let goes_on =
                course.and_then(|course| course.alert.as_ref()).is_some_and(|alert| alert.begins_ms == *begins);
            if goes_on || members.alerts.contains_key(key) {
                return true;
            }
            let end = course.and_then(|course| course.ended.as_ref()).filter(|ended| ended.begins_ms == *begins);
            if let Some(end) = end {
                changes.push(end.ends_ms.unwrap_or(now));
                ended.push((key.clone(), end));
            }
            // Of what nobody knows anything any more, nothing can be told.
            end.is_some()
        });

        // What lies in the future was written by a clock that was set back since.
        let is_ripe = |moment: &Millis| *moment > now || moment.saturating_add(wait_ms) <= now;
        let is_due = changes.iter().any(is_ripe);
        let again = changes.is_empty()
            && !members.alerts.is_empty()
            && last.is_some_and(|last| last.saturating_add(repeat_ms) <= now);
        let count = members.alerts.len() + ended.len();
        let parts = count.div_ceil(limits::ALERTS_TOLD);
        let has_room = self.has_room(&group.0, parts, due);
        let told_now = (is_due || again) && has_room;
        if is_due && !has_room {
            due.full.insert(group.0.clone());
        }
        if told_now {
            let mut alerts: Vec<Alert> = members.alerts.values().map(|alert| (*alert).clone()).collect();
            alerts.extend(ended.iter().map(|(_, alert)| (*alert).clone()));
            alerts.sort_by(|one, other| {
                let rank = |alert: &Alert| (alert.phase == Phase::Resolved, std::cmp::Reverse(alert.severity));
                let name = |alert: &Alert| (alert.rule.clone(), alert.host.clone());
                rank(one).cmp(&rank(other)).then_with(|| name(one).cmp(&name(other)))
            });
            *due.made.entry(group.0.clone()).or_default() += parts;
            for (part, alerts) in alerts.chunks(limits::ALERTS_TOLD).enumerate() {
                due.notifications.push(notification(group, alerts, last, part, now));
            }
            for (key, _) in &ended {
                known.remove(key);
            }
            known.extend(members.alerts.iter().map(|(key, alert)| (key.clone(), alert.begins_ms)));
        }
        let at_ms = if told_now { now } else { last? };
        let (receiver, group) = group.clone();
        (!known.is_empty()).then_some(Told { receiver, group, at_ms, alerts: known, wait_ms })
    }
}

/// What the alerts of a group have in common.
fn common(group_by: &[String], alert: &Alert) -> BTreeMap<String, String> {
    if group_by.is_empty() {
        return BTreeMap::from([("rule".to_owned(), alert.rule.clone())]);
    }
    let value = |name: &str| match name {
        "rule" => alert.rule.clone(),
        "host" => alert.host.as_ref().map(ToString::to_string).unwrap_or_default(),
        "severity" => alert.severity.word().to_owned(),
        label => alert.labels.get(label).cloned().unwrap_or_default(),
    };
    group_by.iter().map(|name| (name.clone(), value(name))).collect()
}

/// Its id follows from what it says, to whom, and from what was told before: whoever comes to the same makes the same.
fn notification(
    (receiver, group): &Group,
    alerts: &[Alert],
    last: Option<Millis>,
    part: usize,
    now: Millis,
) -> Notification {
    let mut digest = Sha256::new();
    let cause = (receiver, group, last, part);
    digest.update(serde_json::to_vec(&cause).unwrap_or_default());
    for alert in alerts {
        let said = (&alert.rule, &alert.host, alert.phase, alert.begins_ms, alert.ends_ms);
        digest.update(serde_json::to_vec(&said).unwrap_or_default());
    }
    let id = digest.finalize().iter().take(16).fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let phase = if alerts.iter().any(|alert| alert.phase == Phase::Firing) { Phase::Firing } else { Phase::Resolved };
    let (receiver, group) = (receiver.clone(), group.clone());
    Notification { id, receiver, group, phase, alerts: alerts.to_vec(), at_ms: now }
}

/// Drops what nobody is to be told any more: ends that no group waits for.
pub fn forget(courses: &mut BTreeMap<Key, Course>, told: &BTreeMap<String, Told>) {
    let awaited: BTreeSet<(&str, Millis)> =
        told.values().flat_map(|told| told.alerts.iter().map(|(key, begins)| (key.as_str(), *begins))).collect();
    for (key, course) in courses.iter_mut() {
        let key = key.to_string();
        let is_awaited = |ended: &Alert| awaited.contains(&(key.as_str(), ended.begins_ms));
        if !course.ended.as_ref().is_some_and(is_awaited) {
            course.ended = None;
        }
    }
    courses.retain(|_, course| !course.is_idle());
}
