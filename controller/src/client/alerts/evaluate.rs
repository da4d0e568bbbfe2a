//! An evaluation on the real fleet: reads what the rules ask for, judges it, and writes what has changed.

use std::{collections::BTreeMap, time::Duration};

use protocol::{clock::millis, limits, name::HostName};

use super::{
    Course, Due, Key, Notification, Outcome, Round, Rule, Rules, Scene, Snapshot, Stage, StoredRule, Subject, forget,
    redis_figures, store::Commit,
};
use crate::client::{
    error::Error,
    fleet::{CHUNK, Fleet},
    targeting::{Field, Truth},
};

/// What an evaluation has done.
#[derive(Debug)]
pub struct Evaluated {
    /// Notifications that wait for their receivers since.
    pub notifications: Vec<Notification>,
    /// How many alerts fire, and how many are pending.
    pub firing: usize,
    /// How many are pending.
    pub pending: usize,
    /// The receivers that rules name, each with such a rule.
    pub named: BTreeMap<String, String>,
    /// What is wrong with rules, and what had no room.
    pub doubts: Vec<String>,
}

/// What a rule comes to for a host now.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The host. `None`: the fleet's Redis.
    pub host: Option<HostName>,
    /// Whether what begins the alert holds.
    pub when: Truth,
    /// What was found.
    pub found: String,
    /// What would be said.
    pub text: String,
}

impl Fleet {
    /// Evaluates all alerts, if it is time: `interval` after the last one, and a whole interval later if that was another
    /// instance's, which may be about to do it again. `None`: somebody else does it. `own`: rules that come with this program,
    /// or its settings.
    ///
    /// # Errors
    /// As of all calls; then nothing was written.
    pub async fn evaluate_alerts(
        &mut self,
        name: &str,
        receivers: &[String],
        own: &[StoredRule],
        interval: Duration,
    ) -> Result<Option<Evaluated>, Error> {
        let (by, last) = self.last_evaluation().await?;
        let now = self.now();
        let wait = millis(interval).saturating_mul(if by == name { 1 } else { 2 });
        // A little early is in time: whoever asks each interval would else skip every second one. What lies in the future was
        // written by a clock that was set back since.
        let is_early = last.is_some_and(|last| last <= now && now - last < wait.saturating_sub(millis(interval) / 4));
        if is_early {
            return Ok(None);
        }
        let mut before = self.alerts().await?;
        // Redis has lost them. Those of another instance stay: each would else remove what the other one has.
        let missing: Vec<_> = own.iter().filter(|rule| !before.rules.contains_key(rule.rule.name.as_str())).collect();
        if !missing.is_empty() {
            for rule in missing {
                self.put_rule(rule).await?;
            }
            before = self.alerts().await?;
        }
        let mut rules = self.with_groups(before.usable()).await?;
        let mut doubts = std::mem::take(&mut rules.doubts);
        for (name, rule) in &before.rules {
            doubts.extend(rule.as_ref().err().map(|problem| format!("rule {name}: cannot be used: {problem}")));
        }
        let named = rules
            .iter()
            .flat_map(|rule| rule.written.receivers.iter().map(|receiver| (receiver.clone(), rule.name().to_string())));
        let named = named.collect();
        let outcome = self.look_around(&rules, &before).await?;
        let Outcome { mut courses, muted } = outcome;
        doubts.extend(bound(&mut courses, &before));

        let now = self.now();
        let silences = before.silences_at(now);
        let room = limits::ALERT_OUTBOX.saturating_sub(before.waiting);
        let waiting = if before.waiting > 0 { self.waiting().await? } else { BTreeMap::new() };
        let scene = Scene {
            courses: &courses,
            muted: &muted,
            rules: &rules,
            silences: &silences,
            receivers,
            now,
            room,
            waiting: &waiting,
        };
        let Due { notifications, told, full, .. } = scene.due(&before.told);
        let of_full = |receiver| {
            format!("{receiver}: it gets no more notifications until some that wait are delivered: see ctl doctor")
        };
        doubts.extend(full.iter().map(of_full));
        forget(&mut courses, &told);
        let commit = Commit {
            before: &before,
            by: name,
            receivers,
            now,
            courses: &courses,
            told: &told,
            notifications: &notifications,
        };
        if !self.commit_alerts(&commit).await? {
            return Ok(None);
        }
        let count = |is: fn(&Course) -> bool| courses.values().filter(|course| is(course)).count();
        Ok(Some(Evaluated {
            firing: count(|course| course.alert.is_some()),
            pending: count(|course| course.stage == Stage::Pending),
            notifications,
            named,
            doubts,
        }))
    }

    /// The rules, in which groups stand for what they are now.
    async fn with_groups(&mut self, rules: Vec<Rule>) -> Result<Rules, Error> {
        let mut rules = Rules::new(rules);
        if rules.filters().all(|filter| filter.groups().is_empty()) {
            return Ok(rules);
        }
        let all = self.groups().await?;
        let mut doubts = Vec::new();
        for filter in rules.filters().filter(|filter| !filter.groups().is_empty()) {
            match all.within(filter.groups()) {
                Ok(groups) => {
                    let groups = groups.into_iter().map(|(name, group)| (name, group.filter())).collect();
                    *filter = filter.clone().knowing(groups);
                }
                // What it is about is not known then, which holds everything.
                Err(error) => doubts.push(error.to_string()),
            }
        }
        rules.doubts.extend(doubts);
        Ok(rules)
    }

    /// Looks at all hosts, page by page, and at Redis.
    async fn look_around(&mut self, rules: &Rules, before: &Snapshot) -> Result<Outcome, Error> {
        let mut names: Vec<_> = self.host_names().await?.into_iter().map(|(name, _)| name).collect();
        names.sort();
        let figures = self.redis_figures().await?;
        let now = self.now();
        let unreadable = before.rules.iter().filter(|(_, rule)| rule.is_err()).map(|(name, _)| name.clone());
        let round = Round::new(rules, &before.courses, now, before.at_ms.map(|at| at.min(now)));
        let mut round = round.besides(unreadable);
        // Redis first: what is wrong with it may explain the hosts'.
        round.redis(&|field| redis_figures::value(&figures, field, now));
        let fields = rules.fields();
        for page in names.chunks(CHUNK) {
            self.look_at(page, &fields, |host, is_online, known| round.host(host, is_online, known)).await?;
        }
        Ok(round.end())
    }

    /// What a rule comes to now, for these hosts or for all that it is about.
    ///
    /// # Errors
    /// Groups in it are none.
    pub async fn judge_rule(&mut self, rule: &Rule, hosts: &[HostName]) -> Result<Vec<Judged>, Error> {
        let mut rules = self.with_groups(vec![rule.clone()]).await?;
        let group_error = rules.doubts.pop();
        let Some(rule) = rules.iter().next() else { return Ok(Vec::new()) };
        let judged = |host: Option<&HostName>, known: &dyn Fn(&Field) -> Result<String, String>| {
            let known = &|field: &Field| known(field);
            let scope = rule.scope.as_ref().map_or(Truth::Yes, |scope| scope.judge(known));
            let when = match (scope, &group_error) {
                (Truth::No, _) => return None,
                (Truth::Unknown(_), Some(error)) => Truth::Unknown(error.clone()),
                (unknown @ Truth::Unknown(_), None) => unknown,
                (Truth::Yes, _) => rule.when.judge(known),
            };
            let found = rule.found(host, known);
            let text = rule.text.fill(host, &found, known);
            Some(Judged { host: host.cloned(), when, found, text })
        };
        if rule.written.on == Subject::Redis {
            let figures = self.redis_figures().await?;
            let now = self.now();
            return Ok(judged(None, &|field| redis_figures::value(&figures, field, now)).into_iter().collect());
        }
        let names = if hosts.is_empty() { self.known().await? } else { hosts.to_vec() };
        let (fields, mut all) = (rules.fields(), Vec::new());
        for page in names.chunks(CHUNK) {
            self.look_at(page, &fields, |host, _, known| all.extend(judged(Some(host), known))).await?;
        }
        Ok(all)
    }
}

/// Leaves out what is new where there is no room for it.
fn bound(courses: &mut BTreeMap<Key, Course>, before: &Snapshot) -> Option<String> {
    let more = courses.len().saturating_sub(limits::ALERT_STATES);
    if more == 0 {
        return None;
    }
    let new: Vec<_> = courses.keys().filter(|key| !before.courses.contains_key(key)).take(more).cloned().collect();
    for key in &new {
        courses.remove(key);
    }
    Some(format!("{} alerts have no room: there are {} already", new.len(), limits::ALERT_STATES))
}
