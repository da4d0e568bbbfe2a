//! Jobs in a line each, and how one is found by what was typed.

use std::collections::BTreeMap;

use anyhow::bail;
use protocol::{
    name::JobId,
    outcome::State,
    time::{Millis, read_moment},
};
use serde::Serialize;

use crate::{
    dispatch::Job,
    error::Advice,
    fleet::{Fleet, RawHash, fields},
    moments, style, summary,
};

/// A job in a line.
#[derive(Debug, Serialize)]
pub struct Headline {
    /// Its id.
    pub job: JobId,
    /// What was asked.
    pub action: String,
    /// Who asked.
    pub operator: String,
    /// When.
    pub issued_at: String,
    /// Of how many hosts.
    pub hosts: usize,
    /// Hosts by state.
    pub states: BTreeMap<State, usize>,
}

/// The candidates shown where a prefix fits several jobs.
const CANDIDATES: usize = 5;

/// The newest jobs that are still kept, the newest first.
pub async fn newest(fleet: &mut Fleet, limit: usize) -> anyhow::Result<Vec<Headline>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let ids = ids(fleet, limit).await?;
    read(fleet, &ids).await
}

/// The job of that id, unambiguous beginning of an id, or `last`.
///
/// # Errors
/// Where there is none, or where there are several: these are named.
pub async fn find(fleet: &mut Fleet, typed: &str) -> anyhow::Result<Job> {
    let id = match typed.parse() {
        Ok(id) => id,
        Err(_) => complete(fleet, typed).await?,
    };
    let mut pipeline = redis::pipe();
    pipeline.cmd("HGETALL").arg(fleet.keys.job(id));
    let (hash,): (RawHash,) = fleet.ask(&pipeline).await?;
    if hash.is_empty() {
        let error = Advice::new(format!("there is no job {id}"));
        return Err(error.hint("it may be older than its results are kept; what there is: ctl job list").into());
    }
    match Job::from_fields(fields(hash)) {
        Some(job) if job.id() == id => Ok(job),
        _ => bail!("the record of job {id} is damaged, or of a newer release"),
    }
}

/// The id that begins like this.
async fn complete(fleet: &mut Fleet, typed: &str) -> anyhow::Result<JobId> {
    let last = typed == "last";
    let typed = typed.to_ascii_lowercase();
    let is_part = typed.len() <= 36 && !typed.is_empty() && typed.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    if !last && !is_part {
        bail!(Advice::new(format!("'{typed}' is no job id")).hint("what there is: ctl job list"));
    }
    let mut ids = ids(fleet, if last { 1 } else { usize::MAX }).await?;
    if !last {
        ids.retain(|id| id.to_string().starts_with(&typed));
    }
    match ids[..] {
        [] if last => bail!("there is no job yet"),
        [] => bail!(Advice::new(format!("no job begins with {typed}")).hint("what there is: ctl job list")),
        [id] => Ok(id),
        _ => {
            let mut error = Advice::new(format!("{} jobs begin with {typed}", ids.len()));
            ids.truncate(CANDIDATES);
            let now = fleet.clock.now();
            for headline in read(fleet, &ids).await? {
                let asked = read_moment(&headline.issued_at).map(|asked| moments::ago(asked, now)).unwrap_or_default();
                error = error.hint(format!("{}  {}  {asked}", headline.job, style::plain(&headline.action)));
            }
            Err(error.into())
        }
    }
}

async fn ids(fleet: &mut Fleet, limit: usize) -> anyhow::Result<Vec<JobId>> {
    let last = isize::try_from(limit).map_or(-1, |limit| limit - 1);
    let mut pipeline = redis::pipe();
    pipeline.cmd("TIME").cmd("ZREVRANGE").arg(fleet.keys.jobs()).arg(0).arg(last);
    let (time, ids): (_, Vec<String>) = fleet.ask(&pipeline).await?;
    fleet.clock = protocol::clock::FleetClock::from_redis(time);
    Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
}

async fn read(fleet: &mut Fleet, ids: &[JobId]) -> anyhow::Result<Vec<Headline>> {
    let mut pipeline = redis::pipe();
    for id in ids {
        pipeline.cmd("HMGET").arg(fleet.keys.job(*id)).arg(&[
            "action",
            "operator",
            "issued_at",
            "start_by",
            "target_count",
        ]);
        pipeline.cmd("HVALS").arg(fleet.keys.job_hosts(*id));
    }
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let replies: Vec<Vec<Option<String>>> = fleet.ask(&pipeline).await?;
    let now = fleet.clock.now();
    let headline = |(id, reply): (&JobId, &[Vec<Option<String>>])| headline(*id, &reply[0], &reply[1], now);
    Ok(ids.iter().zip(replies.chunks_exact(2)).filter_map(headline).collect())
}

/// `None` where the job has expired.
fn headline(job: JobId, fields: &[Option<String>], states: &[Option<String>], now: Millis) -> Option<Headline> {
    let [Some(action), Some(operator), Some(issued_at), Some(start_by), Some(count)] = fields else { return None };
    let hosts: usize = count.parse().ok()?;
    let mut by_state = BTreeMap::new();
    for state in states.iter().flatten().filter_map(|state| state.parse::<State>().ok()) {
        *by_state.entry(state).or_default() += 1;
    }
    let silent = hosts.saturating_sub(by_state.values().sum());
    if silent > 0 {
        let late = read_moment(start_by).is_some_and(|start_by| now > start_by);
        *by_state.entry(if late { State::Expired } else { State::Queued }).or_default() += silent;
    }
    let [action, operator, issued_at] = [action, operator, issued_at].map(String::clone);
    Some(Headline { job, action, operator, issued_at, hosts, states: by_state })
}

impl Headline {
    /// `2 succeeded, 1 failed`.
    pub fn standing(&self) -> String {
        summary::counts(&self.states)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_have_not_spoken_are_queued_or_expired() {
        let texts = |texts: &[&str]| texts.iter().map(|text| Some((*text).to_owned())).collect::<Vec<_>>();
        let fields = texts(&["ping", "ann@desk", "1970-01-01T00:00:00.000Z", "1970-01-01T00:00:10.000Z", "3"]);
        let states = texts(&["succeeded"]);
        let at = |now| headline(JobId::new(), &fields, &states, now).unwrap().standing();
        assert_eq!(at(5_000), "1 succeeded, 2 queued");
        assert_eq!(at(11_000), "1 succeeded, 2 expired");
        assert!(headline(JobId::new(), &[None, None, None, None, None], &[], 0).is_none());
    }
}
