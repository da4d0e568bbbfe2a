//! Plays recorded courses of data, and compares what is told with what should be. See `courses.txt`.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{name::HostName, time::Millis};

use super::*;

const BASE: Millis = 1_800_000_000_000;

/// What is kept between two evaluations, as Redis has it: as text.
#[derive(Clone, Debug, Default)]
struct Kept {
    version: usize,
    courses: BTreeMap<String, String>,
    told: BTreeMap<String, String>,
    last: Option<Millis>,
}

#[derive(Default)]
struct World {
    rules: String,
    fields: BTreeMap<String, BTreeMap<String, String>>,
    silences: Vec<Silence>,
    offset: i64,
    room: usize,
    waiting: BTreeMap<String, usize>,
    down_until: u64,
    three: bool,
    kept: Kept,
    before: Kept,
    ids: BTreeSet<String>,
    said: Vec<String>,
    refused: usize,
}

impl World {
    fn set(&mut self, name: &str, value: &str) {
        let (host, field) = name.split_once('.').unwrap_or((name, "cpu.usage"));
        let fields = self.fields.entry(host.to_owned()).or_default();
        if let "off" | "stopped" | "gone" = value {
            fields.insert("state".into(), value.into());
            return;
        }
        fields.insert(field.into(), value.into());
        if field == "cpu.usage" {
            fields.remove("state");
        }
    }

    fn now(&self, tick: u64) -> Millis {
        (BASE + tick * 1000).checked_add_signed(self.offset * 1000).unwrap()
    }

    /// What an instance makes of what it has read.
    fn round(&self, read: &Kept, tick: u64) -> (Kept, Vec<Notification>) {
        let now = self.now(tick);
        let rules = Rules::new(read_file(&self.rules).unwrap());
        assert!(rules.doubts.is_empty(), "{:?}", rules.doubts);
        let courses: BTreeMap<Key, Course> = read
            .courses
            .iter()
            .map(|(key, course)| (key.parse().unwrap(), serde_json::from_str(course).unwrap()))
            .collect();
        let told = read.told.iter().map(|(key, told)| (key.clone(), serde_json::from_str(told).unwrap())).collect();
        let mut round = Round::new(&rules, &courses, now, read.last.map(|last| last.min(now)));
        for (host, fields) in &self.fields {
            let known = |field: &crate::client::Field| {
                let name = field.to_string();
                let state = fields.get("state").map_or("online", String::as_str);
                match name.as_str() {
                    "host" => return Ok(host.clone()),
                    "state" => return Ok(if state == "off" { "offline" } else { state }.to_owned()),
                    _ if state != "online" && field.is_live() => return Err("it is offline".to_owned()),
                    _ => {}
                }
                let name = name.strip_prefix("redis.").unwrap_or(&name);
                fields.get(name).filter(|value| *value != "?").cloned().ok_or_else(|| "not known".to_owned())
            };
            let state = fields.get("state").map(String::as_str);
            if host == "redis" {
                round.redis(&known);
            } else if state != Some("gone") {
                round.host(&host.parse::<HostName>().unwrap(), state.is_none(), &known);
            }
        }
        let Outcome { mut courses, muted } = round.end();
        let receivers = ["ops".to_owned()];
        let scene = Scene {
            courses: &courses,
            muted: &muted,
            rules: &rules,
            silences: &self.silences,
            receivers: &receivers,
            now,
            room: self.room,
            waiting: &self.waiting,
        };
        let Due { notifications, told, .. } = scene.due(&told);
        forget(&mut courses, &told);
        let text = |value: &dyn Fn() -> String| value();
        let kept = Kept {
            version: read.version + 1,
            courses: courses
                .iter()
                .map(|(key, course)| (key.to_string(), text(&|| serde_json::to_string(course).unwrap())))
                .collect(),
            told: told.iter().map(|(key, told)| (key.clone(), serde_json::to_string(told).unwrap())).collect(),
            last: Some(now),
        };
        (kept, notifications)
    }

    fn commit(&mut self, read: usize, kept: Kept, notifications: &[Notification], tick: u64) {
        if self.kept.version != read {
            self.refused += 1;
            return;
        }
        self.before = std::mem::replace(&mut self.kept, kept);
        let mut lines: Vec<_> = notifications
            .iter()
            .map(|notification| {
                let name = |alert: &Alert| {
                    let host = alert.host.as_ref().map(ToString::to_string).unwrap_or_default();
                    let sign = if alert.phase == Phase::Resolved { "-" } else { "" };
                    format!("{sign}{}/{host}", alert.rule)
                };
                let alerts: Vec<_> = notification.alerts.iter().map(name).collect();
                let phase = if notification.phase == Phase::Firing { "firing" } else { "resolved" };
                let again = if self.ids.insert(notification.id.clone()) { "" } else { " (again)" };
                format!("= {tick} {} {phase} {}{again}", notification.receiver, alerts.join(" "))
            })
            .collect();
        lines.sort();
        self.said.extend(lines);
    }

    fn tick(&mut self, tick: u64) {
        if tick < self.down_until {
            return;
        }
        let (read, stale) = (self.kept.clone(), self.before.clone());
        let mut all = vec![read.clone()];
        if self.three {
            all.extend([read, stale]);
        }
        // All have read before one of them writes.
        let made: Vec<_> = all.iter().map(|read| (read.version, self.round(read, tick))).collect();
        if self.three {
            let ids = |(_, (_, notifications)): &(usize, (Kept, Vec<Notification>))| {
                notifications.iter().map(|notification| notification.id.clone()).collect::<Vec<_>>()
            };
            assert_eq!(ids(&made[0]), ids(&made[1]), "two that know the same say the same by the same ids");
        }
        for (version, (kept, notifications)) in made {
            self.commit(version, kept, &notifications, tick);
        }
    }
}

fn rule(line: &str) -> String {
    let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
    // KEY = VALUE, where no value has " = " in it but within quotes.
    let mut text = format!("[[rule]]\nname = {name:?}\n");
    let mut quoted = false;
    let mut rest: String = rest
        .chars()
        .map(|char| {
            if char == '"' {
                quoted = !quoted;
            }
            if char == ' ' && !quoted { '\u{1}' } else { char }
        })
        .collect();
    for key in [
        "when",
        "for",
        "clear",
        "clear_for",
        "group_wait",
        "group_by",
        "repeat",
        "depends_on",
        "receivers",
        "where",
        "on",
        "unknown_for",
    ] {
        rest = rest.replace(&format!("\u{1}{key}\u{1}=\u{1}"), &format!("\n{key} = "));
        if let Some(first) = rest.strip_prefix(&format!("{key}\u{1}=\u{1}")) {
            rest = format!("\n{key} = {first}");
        }
    }
    text += &rest.replace('\u{1}', " ");
    for (key, usual) in [("when", "cpu.usage > 90"), ("group_wait", "0s")] {
        if !text.contains(&format!("\n{key} = ")) {
            text.extend([format!("\n{key} = {usual:?}")]);
        }
    }
    text + "\n"
}

fn play(course: &str) -> (String, Vec<String>, Vec<String>) {
    let mut lines = course.lines();
    let title = lines.next().unwrap().to_owned();
    let mut world = World { room: 1000, ..World::default() };
    let (mut expected, mut tick, mut rules) = (Vec::new(), 0, BTreeMap::new());
    for line in lines.map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with('=') {
            expected.push(line.to_owned());
        } else if line == "three" {
            world.three = true;
        } else if let Some(text) = line.strip_prefix("rule ") {
            rules.insert(text.split(' ').next().unwrap().to_owned(), rule(text));
        } else {
            let (at, what) = line.split_once(' ').unwrap();
            let at: u64 = at.parse().unwrap();
            world.rules = rules.values().cloned().collect();
            while tick < at {
                world.tick(tick);
                tick += 10;
            }
            let words: Vec<_> = what.split(' ').collect();
            match words[..] {
                ["end"] => {}
                ["down", span] => world.down_until = at + span.parse::<u64>().unwrap(),
                ["clock", span] => world.offset += span.parse::<i64>().unwrap(),
                ["rollback"] => world.kept = world.before.clone(),
                ["lose"] => world.kept = Kept::default(),
                ["room", room] => world.room = room.parse().unwrap(),
                ["waiting", receiver, count] => drop(world.waiting.insert(receiver.into(), count.parse().unwrap())),
                ["drop", name] => {
                    rules.remove(name);
                    world.rules = rules.values().cloned().collect();
                }
                ["silence", what, span] => {
                    let is_rule = rules.contains_key(what);
                    let now = world.now(at);
                    world.silences.push(Silence {
                        id: what.into(),
                        rule: is_rule.then(|| what.parse().unwrap()),
                        hosts: (!is_rule).then(|| what.to_owned()),
                        labels: BTreeMap::new(),
                        why: String::new(),
                        author: String::new(),
                        begins_ms: now,
                        until_ms: now + span.parse::<Millis>().unwrap() * 1000,
                    });
                }
                [setting] => {
                    let (name, value) = setting.split_once('=').unwrap();
                    world.set(name, value);
                }
                _ => panic!("{line}"),
            }
        }
    }
    assert!(!world.three || world.refused > 0, "{title}: nobody was too late");
    (title, world.said, expected)
}

#[test]
fn recorded_courses_are_told_exactly_as_they_should_be() {
    let (_, courses) = include_str!("courses.txt").split_once("\n== ").unwrap();
    let mut wrong = String::new();
    let courses: Vec<_> = courses.split("\n== ").collect();
    assert!(courses.len() >= 30);
    for course in courses {
        let (title, said, expected) = play(course);
        let sorted = |mut lines: Vec<String>| {
            lines.sort_by_key(|line| (line.split(' ').nth(1).unwrap().parse::<u64>().unwrap(), line.clone()));
            lines
        };
        let (said, expected) = (sorted(said), sorted(expected));
        if said != expected {
            wrong.extend([format!("{title}\n  expected {expected:#?}\n  told {said:#?}\n")]);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
