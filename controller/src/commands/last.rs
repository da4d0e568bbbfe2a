//! Which job is meant by the word that was typed: an id, the beginning of one, or `last`.
//!
//! `last` is the operator's own newest job in Redis. A `ctl run`, `exec` or `sh` that was not sent is remembered in a file: after
//! it, `last` means no older job, which the operator would take for the one just asked for.

use std::{fs, path::PathBuf};

use protocol::name::JobId;

use crate::{
    cli::settings::{self, Settings},
    client::{Error, Fleet, Job, JobFilter},
    output::{Advice, style, summary},
};

/// The word for the operator's newest job.
pub const LAST: &str = "last";

/// The job that is meant.
pub async fn find(typed: &str, fleet: &mut Fleet, settings: &Settings) -> anyhow::Result<Job> {
    if typed != LAST {
        return Ok(fleet.find_job(typed).await?);
    }
    refuse_unsent(fleet, settings).await?;
    Ok(fleet.last_job(&settings.operator).await?)
}

/// Refuses `last` where what was run last was not sent.
pub async fn refuse_unsent(fleet: &mut Fleet, settings: &Settings) -> anyhow::Result<()> {
    let Some((at, reason)) = unsent() else { return Ok(()) };
    let mine = JobFilter { operator: Some(settings.operator.clone()), ..JobFilter::default() };
    match fleet.recent_jobs(&mine, 1).await?.pop() {
        Some(job) if job.id > at => Ok(()),
        before => {
            let advice = Advice::new(format!("there is no last job: what you ran last was not sent ({reason})"));
            let hint = before.and_then(|job| {
                let headline = job.headline?;
                let (id, what) = (job.id.short(), summary::command(&headline.action, &headline.arguments));
                Some(format!("the job before it is {id} ({}): name it by this id", style::plain(&what)))
            });
            Err(hint.into_iter().fold(advice, Advice::hint).into())
        }
    }
}

/// Whether an error of `ctl run`, `exec` or `sh` means that no host was sent anything.
pub fn is_unsent(error: &anyhow::Error) -> bool {
    !matches!(error.downcast_ref(), Some(Error::Dispatch { asked, unclear, .. }) if *asked > 0 || *unclear)
}

/// Remembers that a job was not sent, and why. Where that cannot be written, `last` is the newest job in Redis.
pub fn remember_unsent(reason: &str) {
    let Some(file) = file() else { return };
    // Ids sort by the time they were made, so this one tells the attempt from the jobs before and after it.
    let text = format!("{}\n{reason}\n", JobId::new());
    let written = file.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&file, text));
    drop(written);
}

/// The moment, as an id, and the reason of the last attempt that was not sent.
fn unsent() -> Option<(JobId, String)> {
    let text = fs::read_to_string(file()?).ok()?;
    let (id, reason) = text.split_once('\n')?;
    Some((id.parse().ok()?, style::plain(reason.trim_end())))
}

fn file() -> Option<PathBuf> {
    Some(settings::memory()?.join("unsent"))
}
