//! `ctl doctor`: what may be wrong with Redis and the fleet, before it goes wrong.
//!
//! Each check finds one thing or several, and each finding says what it means. Exits 0 when there is no
//! problem (warnings are allowed), 2 when there is one, 1 when Redis cannot be reached.

mod hosts;
mod keys;
mod rights;
mod server;
mod serving;

use serde::Serialize;

use crate::{
    client::{Error, Fleet},
    output::{Cell, Exit, Format, Printer, Table, style},
};

/// Clocks further apart than this make times in logs hard to compare.
const CLOCK_MS: u64 = 1000;
/// What a wrong clock means.
const WRONG_CLOCK: &str = "deadlines go by Redis' clock, but times in logs will not agree";

/// How bad a finding is; the worst sorts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// Commands or data are lost or refused, or will be.
    Problem,
    /// The operator should know and decide.
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
    fn new(check: &'static str, level: Level, message: impl Into<String>) -> Self {
        Self { check, level, message: message.into() }
    }
}

/// All findings.
#[derive(Serialize)]
struct Diagnosis {
    redis: String,
    problems: usize,
    warnings: usize,
    checks: Vec<Finding>,
}

/// The reply to a question, or the finding that this user may not ask it: then the other checks go on.
///
/// # Errors
/// Anything else that went wrong.
fn permitted<T>(check: &'static str, reply: Result<T, Error>) -> Result<Result<T, Finding>, Error> {
    match reply {
        Ok(reply) => Ok(Ok(reply)),
        Err(Error::Redis { source, .. }) if source.code() == Some("NOPERM") => {
            let why = source.detail().unwrap_or("this user is not permitted to ask");
            Ok(Err(Finding::new(check, Level::Warning, format!("not checked: {why}"))))
        }
        Err(error) => Err(error),
    }
}

/// What a check has found, or that it could not read the fleet. A key of another type is the likely cause, which the check of
/// keys names.
async fn found(check: &'static str, reply: Result<Vec<Finding>, Error>) -> Vec<Finding> {
    match permitted(check, reply) {
        Ok(findings) => findings.unwrap_or_else(|finding| vec![finding]),
        Err(error) => {
            let message = format!("cannot be read: {}", error.diagnosed().await);
            vec![Finding::new(check, Level::Problem, message)]
        }
    }
}

/// Runs all checks and prints the findings.
pub async fn run(fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<Exit> {
    let mut checks = server::check(fleet).await?;
    checks.extend(rights::check(fleet).await?);
    checks.extend(found("hosts", hosts::check(fleet).await).await);
    checks.extend(found("redis:status", serving::redis_status(fleet).await).await);
    checks.extend(found("ctl serve", serving::check(fleet).await).await);
    checks.extend(found("alerts", serving::rules(fleet).await).await);
    checks.extend(found("alerts", serving::deliveries(fleet).await).await);
    checks.extend(keys::check(fleet).await?);
    // The worst findings come first; within a level the order stays.
    checks.sort_by_key(|finding| finding.level);
    let count = |level| checks.iter().filter(|finding| finding.level == level).count();
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    let diagnosis = Diagnosis { redis: fleet.address().to_string(), problems, warnings, checks };
    print(&diagnosis, printer)?;
    Ok(if problems == 0 { Exit::Success } else { Exit::Failed })
}

fn print(diagnosis: &Diagnosis, printer: &Printer) -> anyhow::Result<()> {
    match printer.format() {
        Format::Json => return printer.object(diagnosis),
        Format::Jsonl => return printer.objects(&diagnosis.checks),
        Format::Table => {}
    }
    let mut table = Table::default();
    for finding in &diagnosis.checks {
        let level = match finding.level {
            Level::Ok => Cell::styled("ok", style::GOOD),
            Level::Warning => Cell::styled("warning", style::WARNING),
            Level::Problem => Cell::styled("problem", style::BAD),
        };
        table.row([level, finding.check.into(), finding.message.as_str().into()]);
    }
    printer.table(&table.folded())?;
    let Diagnosis { checks, problems, warnings, .. } = diagnosis;
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (checks, problems) = (counted(checks.len(), "check"), counted(*problems, "problem"));
    printer.note(&format!("{checks}: {problems}, {}", counted(*warnings, "warning")));
    Ok(())
}
