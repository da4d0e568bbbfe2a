//! Looks at alerts: what fires, by which rules, and who was told.

use anyhow::bail;
use protocol::time::{Millis, show_moment};
use serde_json::{Value, json};

use crate::{
    client::{
        Error, Fleet,
        alerts::{Alert, Course, Delivery, Key, Logged, Origin, Rule, Severity, Silence, Snapshot, Stage, StoredRule},
    },
    output::{Advice, Cell, Format, Printer, Table, moments, style},
};

/// After so long without an evaluation, nobody does it.
const STALE_MS: Millis = 180_000;

const fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Inactive => "ended",
        Stage::Pending => "pending",
        Stage::Firing => "firing",
        Stage::Clearing => "clearing",
    }
}

const fn look(stage: Stage, severity: Option<Severity>) -> anstyle::Style {
    match (stage, severity) {
        (Stage::Firing, Some(Severity::Critical)) => style::BAD,
        (Stage::Firing, _) => style::WARNING,
        _ => style::DIM,
    }
}

/// What else is to be known of its state: nobody is told, or nobody knows.
fn remark(course: &Course, silences: &[Silence], now: Millis) -> &'static str {
    let is_silenced = |alert: &Alert| silences.iter().any(|silence| silence.covers(alert, now));
    if course.alert.as_ref().is_some_and(is_silenced) {
        " (silenced)"
    } else if course.held_ms.is_some() {
        " (held)"
    } else {
        ""
    }
}

fn object(key: &Key, course: &Course, silences: &[Silence], now: Millis) -> Value {
    let alert = course.alert.as_ref();
    let is_silenced = alert.is_some_and(|alert| silences.iter().any(|silence| silence.covers(alert, now)));
    json!({
        "alert": key.alert,
        "host": key.host,
        "state": word(course.stage),
        "since": show_moment(alert.map_or(course.since_ms, |alert| alert.begins_ms)),
        "severity": alert.map(|alert| alert.severity),
        "labels": alert.map(|alert| &alert.labels),
        "text": alert.map(|alert| &alert.text),
        "found": alert.map(|alert| &alert.found),
        "silenced": is_silenced,
        "held": course.held_ms.is_some(),
    })
}

/// What is not idle, what fires first, the worst of it first.
fn in_order(snapshot: &Snapshot) -> Vec<(&Key, &Course)> {
    let mut all: Vec<_> = snapshot.courses.iter().filter(|(_, course)| course.stage != Stage::Inactive).collect();
    all.sort_by_key(|(key, course)| {
        let severity = course.alert.as_ref().map(|alert| alert.severity);
        (course.alert.is_none(), std::cmp::Reverse(severity), (*key).clone())
    });
    all
}

fn table(courses: &[(&Key, &Course)], silences: &[Silence], now: Millis) -> Table {
    let mut table = Table::new(["ALERT", "HOST", "STATE", "SINCE", "TEXT"]);
    for (key, course) in courses {
        let alert = course.alert.as_ref();
        let since = alert.map_or(course.since_ms, |alert| alert.begins_ms);
        let state = format!("{}{}", word(course.stage), remark(course, silences, now));
        table.row([
            key.alert.as_str().into(),
            key.host.as_ref().map_or("redis", |host| host.as_str()).into(),
            Cell::styled(&state, look(course.stage, alert.map(|alert| alert.severity))),
            moments::ago(since, now).as_str().into(),
            alert.map(|alert| alert.text.as_str()).unwrap_or_default().into(),
        ]);
    }
    table.folded()
}

/// Says where alerts are not evaluated, or not delivered.
async fn warn(snapshot: &Snapshot, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    let now = fleet.now();
    match snapshot.at_ms {
        None => printer.trouble("nobody evaluates alerts yet: start ctl serve"),
        Some(at) if now.saturating_sub(at) > STALE_MS => {
            let (ago, by) = (moments::ago(at, now), style::plain(&snapshot.by));
            printer.trouble(&format!("nobody evaluates alerts: {by} did so {ago}; start ctl serve"));
        }
        Some(_) => {}
    }
    for (name, problem) in snapshot.rules.iter().filter_map(|(name, rule)| Some((name, rule.as_ref().err()?))) {
        printer.trouble(&format!("{}: cannot be used: {}", style::plain(name), style::plain(problem)));
    }
    let has_rules = snapshot.rules.values().any(Result::is_ok);
    if snapshot.at_ms.is_some() && has_rules && snapshot.receivers.is_empty() {
        printer.warn("nobody is told: no receiver is named in the settings of ctl serve");
    }
    let waiting = fleet.deliveries().await?;
    for (id, Delivery { receiver, attempts, problem, at_ms, .. }) in &waiting {
        let Some(problem) = problem else { continue };
        let (id, receiver) = (short(id), style::plain(receiver));
        let (problem, since) = (style::plain(problem), moments::ago(*at_ms, now));
        printer.trouble(&format!("{receiver}: not told of {id} ({since}, tried {attempts} times): {problem}"));
    }
    let given_up = fleet.alert_log(100).await?;
    for Logged { id, receiver, problem, at_ms, .. } in given_up.iter().filter(|logged| logged.fate == "given up") {
        if at_ms.is_some_and(|at| now.saturating_sub(at) < 24 * 3600 * 1000) {
            let problem = style::plain(problem.as_deref().unwrap_or("it was tried for a day"));
            printer.trouble(&format!("{}: {} was given up: {problem}", style::plain(receiver), short(id)));
        }
    }
    Ok(())
}

fn short(id: &str) -> String {
    style::plain(&id.chars().take(8).collect::<String>())
}

/// What fires and what is pending.
pub async fn list(fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    let snapshot = fleet.alerts().await?;
    let (now, courses) = (fleet.now(), in_order(&snapshot));
    let silences = snapshot.silences_at(now);
    if printer.format() != Format::Table {
        let objects = courses.iter().map(|(key, course)| object(key, course, &silences, now));
        printer.objects(&objects.collect::<Vec<_>>())?;
        return warn(&snapshot, fleet, printer).await;
    }
    if courses.is_empty() {
        printer.note("nothing fires");
    } else {
        printer.table(&table(&courses, &silences, now))?;
        let firing = courses.iter().filter(|(_, course)| course.alert.is_some()).count();
        let quiet = courses.iter().filter(|(_, course)| remark(course, &silences, now) == " (silenced)").count();
        let quiet = if quiet > 0 { format!(", {quiet} silenced") } else { String::new() };
        printer.note(&format!("{firing} firing{quiet}, {} pending", courses.len() - firing));
    }
    warn(&snapshot, fleet, printer).await
}

fn rule_object(stored: &StoredRule) -> Value {
    let mut object = json!({ "rule": stored.rule.name, "origin": stored.origin, "by": stored.by });
    if let (Some(object), Ok(Value::Object(mut rule))) = (object.as_object_mut(), serde_json::to_value(&stored.rule)) {
        rule.remove("name");
        object.extend(rule);
    }
    object
}

fn origin(stored: &StoredRule) -> String {
    let by = style::plain(&stored.by);
    match stored.origin {
        Origin::Shipped => "shipped".into(),
        Origin::File => by,
        Origin::Added => format!("added by {by}"),
    }
}

/// The rules that there are.
pub async fn rules(fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    let snapshot = fleet.alerts().await?;
    let usable: Vec<&(StoredRule, Rule)> = snapshot.rules.values().filter_map(|rule| rule.as_ref().ok()).collect();
    if printer.format() != Format::Table {
        return printer.objects(&usable.iter().map(|(stored, _)| rule_object(stored)).collect::<Vec<_>>());
    }
    if usable.is_empty() {
        printer.note(
            "there is no rule; ctl serve brings some along; add one: ctl alert add --name NAME --when 'cpu.usage > 90'",
        );
    } else {
        let mut table = Table::new(["RULE", "SEVERITY", "FROM", "FOR", "WHEN"]);
        for (stored, _) in usable {
            table.row([
                stored.rule.name.as_str().into(),
                stored.rule.severity.word().into(),
                origin(stored).as_str().into(),
                stored.rule.lasts.as_deref().unwrap_or("-").into(),
                stored.rule.when.as_str().into(),
            ]);
        }
        printer.table(&table.folded())?;
    }
    warn(&snapshot, fleet, printer).await
}

/// A rule with its alerts, or a notification.
pub async fn show(what: &str, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    let snapshot = fleet.alerts().await?;
    let rule = match snapshot.rules.get(what) {
        Some(Ok((rule, _))) => rule,
        Some(Err(problem)) => {
            let advice = Advice::new(format!("the rule {what} cannot be used: {}", style::plain(problem)));
            bail!(advice.hint(format!("remove it: ctl alert rm {what}")));
        }
        None if show_notification(what, fleet, printer).await? => return Ok(()),
        None => {
            bail!(Error::UnknownRule { name: what.to_owned(), known: snapshot.rules.keys().cloned().collect() })
        }
    };
    let (now, no_data) = (fleet.now(), format!("{what}: no data"));
    let silences = snapshot.silences_at(now);
    let mut courses = in_order(&snapshot);
    courses.retain(|(key, _)| key.alert == what || key.alert == no_data);
    if printer.format() != Format::Table {
        let mut whole = rule_object(rule);
        whole["alerts"] = courses.iter().map(|(key, course)| object(key, course, &silences, now)).collect();
        return printer.object(&whole);
    }
    let mut pairs = Table::of_pairs();
    pairs.pair("rule", what);
    pairs.pair("from", origin(rule));
    if let Value::Object(fields) = rule_object(rule) {
        for (name, value) in fields.iter().filter(|(name, _)| !["rule", "origin", "by"].contains(&name.as_str())) {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            pairs.pair(&name.replace('_', " "), style::plain(&value));
        }
    }
    printer.table(&pairs.folded())?;
    if courses.is_empty() {
        printer.note("nothing of it fires");
    } else {
        printer.line("")?;
        printer.table(&table(&courses, &silences, now))?;
    }
    Ok(())
}

async fn show_notification(id: &str, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<bool> {
    let logged = fleet.alert_log(protocol::limits::ALERT_LOG).await?;
    if let Some(logged) = logged.iter().find(|logged| logged.id.starts_with(id)) {
        if printer.format() == Format::Table {
            let mut pairs = Table::of_pairs();
            pairs.pair("notification", &logged.id);
            pairs.pair("receiver", style::plain(&logged.receiver));
            let at = logged.at_ms.map(|at| format!(" at {}", moments::exact(at))).unwrap_or_default();
            pairs.pair("state", format!("{}{at}", style::plain(&logged.fate)));
            pairs.pair("text", style::plain(&logged.text));
            if let Some(problem) = &logged.problem {
                pairs.pair("problem", style::plain(problem));
            }
            printer.table(&pairs.folded())?;
        } else {
            printer.object(&logged_object(logged))?;
        }
        return Ok(true);
    }
    let waiting = fleet.deliveries().await?;
    let Some((id, delivery)) = waiting.iter().find(|(known, _)| known.starts_with(id)) else { return Ok(false) };
    if printer.format() == Format::Table {
        let mut pairs = Table::of_pairs();
        pairs.pair("notification", id);
        pairs.pair("receiver", style::plain(&delivery.receiver));
        pairs.pair("state", format!("waits; tried {} times", delivery.attempts));
        if let Some(problem) = &delivery.problem {
            pairs.pair("problem", style::plain(problem));
        }
        printer.table(&pairs.folded())?;
    } else {
        let state = json!({ "id": id, "receiver": delivery.receiver, "state": "waits", "text": null,
            "problem": delivery.problem, "attempts": delivery.attempts });
        printer.object(&state)?;
    }
    Ok(true)
}

fn logged_object(logged: &Logged) -> Value {
    json!({
        "id": logged.id,
        "at": logged.at_ms.map(show_moment),
        "receiver": logged.receiver,
        "state": logged.fate,
        "text": logged.text,
        "problem": logged.problem,
    })
}

/// What was told.
pub async fn log(limit: usize, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    let log = fleet.alert_log(limit).await?;
    let now = fleet.now();
    if printer.format() != Format::Table {
        return printer.objects(&log.iter().map(logged_object).collect::<Vec<_>>());
    }
    if log.is_empty() {
        printer.note("nobody was told anything yet");
        return Ok(());
    }
    let mut table = Table::new(["ID", "AT", "RECEIVER", "STATE", "TEXT"]);
    for logged in &log {
        let text = logged.problem.as_ref().map_or(logged.text.clone(), |problem| format!("{problem}: {}", logged.text));
        let look = if logged.fate == "delivered" { style::PLAIN } else { style::BAD };
        table.row([
            short(&logged.id).as_str().into(),
            logged.at_ms.map(|at| moments::local(at, now)).unwrap_or_default().as_str().into(),
            logged.receiver.as_str().into(),
            Cell::styled(&logged.fate, look),
            text.as_str().into(),
        ]);
    }
    printer.table(&table.folded())
}

/// What is silenced, in words.
pub fn covered(silence: &Silence) -> String {
    let rule = silence.rule.as_ref().map(|rule| format!("rule {rule}"));
    let hosts = silence.hosts.as_ref().map(|hosts| format!("on {hosts}"));
    let labels = silence.labels.iter().map(|(name, value)| format!("with {name}={value}"));
    style::plain(&rule.into_iter().chain(hosts).chain(labels).collect::<Vec<_>>().join(" "))
}

/// The silences that are not over.
pub async fn silences(fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    let snapshot = fleet.alerts().await?;
    let now = fleet.now();
    let silences = snapshot.silences_at(now);
    if printer.format() != Format::Table {
        let object = |silence: &Silence| {
            json!({ "id": silence.id, "rule": silence.rule, "hosts": silence.hosts, "labels": silence.labels,
                "why": silence.why, "author": silence.author, "from": show_moment(silence.begins_ms),
                "until": show_moment(silence.until_ms) })
        };
        return printer.objects(&silences.iter().map(object).collect::<Vec<_>>());
    }
    if silences.is_empty() {
        printer.note("nothing is silenced");
        return Ok(());
    }
    let mut table = Table::new(["ID", "UNTIL", "BY", "WHAT", "WHY"]);
    for silence in &silences {
        table.row([
            silence.id.as_str().into(),
            moments::local(silence.until_ms, now).as_str().into(),
            silence.author.as_str().into(),
            covered(silence).as_str().into(),
            silence.why.as_str().into(),
        ]);
    }
    printer.table(&table.folded())
}
