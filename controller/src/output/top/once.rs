//! The same figures as plain tables, for `--once`.

use std::time::Duration;

use protocol::time::Millis;

use super::{columns::Column, order::Sort};
use crate::{
    client::{Overview, RecentJob},
    output::{Cell, Table, moments, style, summary},
};

/// The table of hosts, the busiest first.
pub fn hosts(overview: &Overview) -> Table {
    let mut table = Table::new(Column::all().map(Column::heading));
    for vitals in Sort::default().sorted(&overview.hosts, false, overview.now) {
        table.row(Column::all().map(|column| {
            let (text, style) = column.cell(vitals, overview.now);
            Cell::styled(&text, style)
        }));
    }
    table
}

/// The table of the jobs that run.
pub fn jobs(overview: &Overview) -> Table {
    let mut table = Table::new(["JOB", "AGE", "BY", "STATE", "COMMAND"]);
    for job in &overview.jobs {
        let [age, by, states, command] = job_cells(job, overview.now);
        table.row([job.id.short(), age, by, states, command].map(Cell::from));
    }
    table
}

/// Of a job: its age, its operator, its hosts by state, its command.
pub(super) fn job_cells(job: &RecentJob, now: Millis) -> [String; 4] {
    let Some(headline) = &job.headline else { return ["", "", "damaged", ""].map(str::to_owned) };
    let age = moments::span(Duration::from_secs(now.saturating_sub(headline.issued_at_ms) / 1000));
    let cancelled = (job.cancel_ordered > 0).then(|| format!("{} to be cancelled", job.cancel_ordered));
    let damaged = job.damage.is_some().then(|| "damaged".to_owned());
    let states = [Some(summary::counts(&job.states)), cancelled, damaged].into_iter().flatten().collect::<Vec<_>>();
    let command = style::plain(&summary::command(&headline.action, &headline.arguments));
    [age, headline.operator.clone(), states.join(", "), command]
}
