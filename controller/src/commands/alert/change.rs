//! Changes rules and silences.

use std::fs;

use anyhow::{Context, bail};
use protocol::{clock::millis, name::RuleName};

use super::look::covered;
use crate::{
    cli::{
        alerts::{AddRule, NewSilence},
        settings::Settings,
        targeting::joined,
    },
    client::{
        Error, Fleet,
        alerts::{Origin, Rule, Severity, Silence, StoredRule, Subject, Written, read_file},
    },
    output::{Advice, Printer, moments, style},
};

/// Bytes of why something is silenced.
const WHY: usize = 500;

/// Adds rules.
pub async fn add(options: AddRule, fleet: &mut Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<()> {
    let rules = if let Some(path) = &options.file {
        let shown = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        let rules = read_file(&text).map_err(|problem| Advice::new(format!("{shown}: {problem}")))?;
        if rules.is_empty() {
            bail!(Advice::new(format!("{shown} has no rule")).hint("a rule begins with [[rule]]"));
        }
        rules
    } else {
        let written = written(options)?;
        let name = written.name.clone();
        vec![Rule::judge(written).map_err(|error| Advice::new(format!("rule {name}: {error}")))?]
    };
    let known = fleet.alerts().await?.rules;
    for rule in &rules {
        let is_known =
            |other: &RuleName| known.contains_key(other.as_str()) || rules.iter().any(|rule| rule.name() == other);
        for other in rule.written.depends_on.iter().filter(|other| !is_known(other)) {
            printer.warn(&format!("{}: there is no rule {other} yet, on which it depends", rule.name()));
        }
    }
    for rule in rules {
        let name = rule.name().clone();
        let by = settings.operator.clone();
        fleet.put_rule(&StoredRule { origin: Origin::Added, by, rule: rule.written }).await?;
        let word = if known.contains_key(name.as_str()) { "replaced" } else { "added" };
        printer.note(&format!("{name}: {word}; try it: ctl alert test {name}"));
    }
    Ok(())
}

/// The rule that the flags describe.
fn written(options: AddRule) -> anyhow::Result<Written> {
    let severity = match options.severity.as_str() {
        "info" => Severity::Info,
        "critical" => Severity::Critical,
        _ => Severity::Warning,
    };
    let name = options.name.context("--name is missing")?;
    Ok(Written {
        name,
        on: if options.on_redis { Subject::Redis } else { Subject::Hosts },
        when: options.when.context("--when is missing")?,
        lasts: options.lasts,
        clear: options.clear,
        clear_for: options.clear_for,
        severity,
        labels: options.labels.into_iter().collect(),
        text: options.text,
        hosts: (!options.hosts.is_empty()).then(|| options.hosts.join(",")),
        except: None,
        filter: options.filter,
        depends_on: options.depends_on,
        receivers: options.receivers,
        group_by: Vec::new(),
        group_wait: options.group_wait,
        repeat: options.repeat,
        unknown_for: None,
    })
}

/// Removes a rule.
pub async fn remove(name: &RuleName, yes: bool, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    let rules = fleet.alerts().await?.rules;
    match rules.get(name.as_str()) {
        None => bail!(Error::UnknownRule { name: name.to_string(), known: rules.into_keys().collect() }),
        Some(Ok((stored, _))) if stored.origin != Origin::Added => {
            let whose =
                if stored.origin == Origin::Shipped { "comes with Redfleet" } else { "is in a file of ctl serve" };
            let advice = Advice::new(format!("{name} {whose}, which would bring it back"));
            bail!(
                advice
                    .hint(format!("silence it: ctl alert silence --rule {name} --for 30d --why …"))
                    .hint("without all shipped rules: defaults = false in [alerts] of the settings of ctl serve")
            );
        }
        Some(_) => {}
    }
    if !yes && Printer::confirm(&format!("Remove the rule {name}? Its alerts end.")) == Some(false) {
        bail!(Advice::new("nothing was removed").hint("without this question: --yes"));
    }
    fleet.remove_rule(name).await?;
    printer.note(&format!("{name}: removed"));
    Ok(())
}

/// Silences alerts.
pub async fn silence(
    options: NewSilence,
    fleet: &mut Fleet,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<()> {
    let words = joined(&options.hosts);
    if words.iter().any(|word| word.text().starts_with('@')) {
        bail!(Advice::new("a silence names hosts, patterns or ranges: no groups, as they change"));
    }
    let snapshot = fleet.alerts().await?;
    if let Some(rule) = &options.rule
        && !snapshot.rules.contains_key(rule.as_str())
    {
        bail!(Error::UnknownRule { name: rule.to_string(), known: snapshot.rules.into_keys().collect() });
    }
    if options.why.len() > WHY || options.why.trim().is_empty() {
        bail!(Advice::new(format!("say why in 1 to {WHY} bytes")));
    }
    let mut random = [0; 4];
    getrandom::fill(&mut random).context("this machine has no random numbers")?;
    let hosts: Vec<_> = words.iter().map(|word| word.text().to_owned()).collect();
    let now = fleet.now();
    let silence = Silence {
        id: format!("{:08x}", u32::from_be_bytes(random)),
        labels: options.labels(),
        rule: options.rule,
        hosts: (!hosts.is_empty()).then(|| hosts.join(",")),
        why: options.why,
        author: settings.operator.clone(),
        begins_ms: now,
        until_ms: now.saturating_add(millis(options.lasts)),
    };
    fleet.put_silence(&silence).await?;
    let (until, id) = (moments::local(silence.until_ms, now), &silence.id);
    let fires = snapshot.courses.values().filter_map(|course| course.alert.as_ref());
    let count = fires.filter(|alert| silence.covers(alert, now)).count();
    let fires = if count == 1 { "1 of them fires".to_owned() } else { format!("{count} of them fire") };
    printer.note(&format!("{id}: nobody is told of alerts of {} until {until}; {fires} now", covered(&silence)));
    printer.note(&format!("end it: ctl alert silence rm {id}"));
    Ok(())
}

/// Ends a silence.
pub async fn end_silence(id: &str, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    if !fleet.remove_silence(id).await? {
        let advice = Advice::new(format!("there is no silence {}", style::plain(id)));
        bail!(advice.hint("see which there are: ctl alert silence list"));
    }
    printer.note(&format!("{id}: removed; what fires is told now"));
    Ok(())
}
