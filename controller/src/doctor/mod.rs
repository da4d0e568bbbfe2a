//! `ctl doctor`: what may be wrong with Redis and the fleet, before it goes wrong.
//!
//! Each check finds one thing or several, and each finding says what it means. Exits 0 when there is no
//! problem (warnings are allowed), 2 when there is one, 1 when Redis cannot be asked.

mod hosts;
mod keys;
mod server;

use serde::Serialize;

use crate::{
    exit::Exit,
    fleet::Fleet,
    printer::Printer,
    settings::Format,
    style,
    table::{Cell, Table},
};

/// How bad a finding is; the worst sorts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// Commands or data are lost or refused, or will be.
    Problem,
    /// Somebody should know and decide.
    Warning,
    /// As it should be.
    Ok,
}

/// What a check found.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    message: String,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, message: message.into() }
    }

    fn warning(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, level: Level::Warning, message: message.into() }
    }

    fn problem(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, level: Level::Problem, message: message.into() }
    }
}

/// All that was found.
#[derive(Serialize)]
struct Report {
    redis: String,
    problems: usize,
    warnings: usize,
    checks: Vec<Finding>,
}

/// Checks everything and tells what was found.
pub async fn run(fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<Exit> {
    let mut checks = server::check(fleet).await?;
    // What keeps the hosts from being read is likely a key, and the next check names it.
    let unreadable = |error: anyhow::Error| vec![Finding::problem("hosts", format!("cannot be read: {error:#}"))];
    checks.extend(hosts::check(fleet).await.unwrap_or_else(unreadable));
    checks.extend(keys::check(fleet).await?);
    // What is out of the ordinary comes first; within a level the order stays.
    checks.sort_by_key(|finding| finding.level);
    let count = |level| checks.iter().filter(|finding| finding.level == level).count();
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    let report = Report { redis: fleet.address.to_string(), problems, warnings, checks };
    tell(&report, printer)?;
    Ok(if problems == 0 { Exit::Success } else { Exit::Failed })
}

fn tell(report: &Report, printer: &Printer) -> anyhow::Result<()> {
    match printer.format() {
        Format::Json => return printer.object(report),
        Format::Jsonl => return printer.objects(&report.checks),
        Format::Table => {}
    }
    let mut table = Table::default();
    for finding in &report.checks {
        let level = match finding.level {
            Level::Ok => Cell::styled("ok", style::GOOD),
            Level::Warning => Cell::styled("warning", style::WARNING),
            Level::Problem => Cell::styled("problem", style::BAD),
        };
        table.row([level, finding.check.into(), finding.message.as_str().into()]);
    }
    printer.table(&table)?;
    let Report { checks, problems, warnings, .. } = report;
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (checks, problems) = (counted(checks.len(), "check"), counted(*problems, "problem"));
    printer.note(&format!("{checks}: {problems}, {}", counted(*warnings, "warning")));
    Ok(())
}

/// Some names: the first few, and how many more there are.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}
