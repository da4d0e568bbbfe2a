//! What a screen shows of the fleet: hosts with their current figures, and the jobs that run. Nothing else is read.

use protocol::{
    keys::Keys,
    metrics::MetricGroup,
    name::HostName,
    status::Status,
    time::{Millis, read_moment},
};
use redis::Cmd;

use super::{
    error::{Error, WrongType},
    fleet::{Fleet, text},
    hosts::{Host, score_millis},
    jobs::RecentJob,
    running::Running,
    select::{Meant, SAMPLED, Selection, is_fresh},
    targeting::Unknown,
};

/// A figure of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Figure {
    /// It is current.
    Known(f64),
    /// It was true once: it is older than five minutes, or the host is not there.
    Old,
    /// The host does not publish it.
    #[default]
    Missing,
}

/// The figures of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// CPU use in percent.
    pub cpu: Figure,
    /// Memory use in percent.
    pub memory: Figure,
    /// Load averages of one, five and fifteen minutes.
    pub load: [Figure; 3],
    /// Use of the fullest disk in percent.
    pub disk: Figure,
    /// Seconds since the machine has booted.
    pub uptime: Figure,
}

/// A host as a screen shows it.
#[derive(Clone, Debug)]
pub struct Vitals {
    /// The host. Its catalogue of actions was not read, nor all of its status.
    pub host: Host,
    /// Its figures.
    pub figures: Figures,
}

impl Vitals {
    /// How many commands run, and how many may run at once; `None` where that is not known now.
    pub fn running(&self, now: Millis) -> Option<(u64, u64)> {
        let status = self.host.status.as_ref().filter(|status| status.is_online(now))?;
        Some((status.running, status.slots))
    }
}

/// The fleet at a moment.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// The moment, by the fleet's clock.
    pub now: Millis,
    /// The hosts that are meant, sorted by name.
    pub hosts: Vec<Vitals>,
    /// How many there are without the filter and the limit.
    pub considered: usize,
    /// Those of which it is not known whether they are meant.
    pub unknown: Vec<Unknown>,
    /// See [`Selected::doubts`](super::Selected::doubts).
    pub doubts: Vec<String>,
    /// The jobs that run, on whichever hosts, the newest first.
    pub jobs: Vec<RecentJob>,
    /// Older jobs of which it is not known yet whether they run.
    pub unread_jobs: usize,
}

impl Figure {
    /// What it is, if it is current.
    pub const fn known(self) -> Option<f64> {
        if let Self::Known(figure) = self { Some(figure) } else { None }
    }

    /// A figure as Redis has it. A text that is no number counts as missing.
    fn of(text: Option<&str>, is_current: bool) -> Self {
        match text.and_then(|text| text.parse().ok()).filter(|figure: &f64| figure.is_finite()) {
            Some(figure) if is_current => Self::Known(figure),
            Some(_) => Self::Old,
            None => Self::Missing,
        }
    }
}

/// The fields of the status that are shown.
const STATUS: [&str; 8] =
    ["last_seen", "state", "clock_ahead_ms", "running", "slots", "version", "started_at", "refuses"];

/// The figures that are shown, and when they were read.
const USAGE: [&str; 2] = [SAMPLED, "usage"];
const LOAD: [&str; 5] = [SAMPLED, "load1", "load5", "load15", "uptime_seconds"];

/// The reply to `HMGET`.
type Texts = Option<Vec<Option<Vec<u8>>>>;

impl Fleet {
    /// The hosts that are meant, and the jobs that run. That no host is meant is no error. `running`: what the last look
    /// has found out about jobs.
    ///
    /// # Errors
    /// A name that no host has, or a pattern that no host matches.
    pub async fn overview(&mut self, selection: &Selection, running: &mut Running) -> Result<Overview, Error> {
        let Meant { names, unknown, doubts, considered, .. } = match self.meant(selection).await {
            // There will be some.
            Err(Error::NoHosts(_)) if selection.words.is_empty() => Meant::default(),
            meant => meant?,
        };
        let hosts = self.vitals(&names).await?;
        if let Some(stranger) = hosts.iter().find(|vitals| !vitals.host.is_known()) {
            return Err(self.stranger(&stranger.host.name).await?);
        }
        let jobs = self.running_jobs(running).await?;
        let unread_jobs = running.unread();
        Ok(Overview { now: self.now(), hosts, considered, unknown, doubts, jobs, unread_jobs })
    }

    /// These hosts with their figures.
    async fn vitals(&mut self, names: &[HostName]) -> Result<Vec<Vitals>, Error> {
        let ask = |keys: &Keys, name: &HostName| {
            let figures = |group, fields: &[&str]| Cmd::hmget(keys.metrics(name, group), fields);
            [
                Cmd::zscore(keys.servers(), name.as_str()),
                Cmd::hmget(keys.status(name), &STATUS),
                figures(MetricGroup::Cpu, &USAGE),
                figures(MetricGroup::Memory, &USAGE),
                figures(MetricGroup::Disk, &USAGE),
                figures(MetricGroup::Load, &LOAD),
            ]
        };
        let read = |name: &HostName,
                    (seen, status, cpu, memory, disk, load): (Option<f64>, Texts, Texts, Texts, Texts, Texts),
                    damage: Option<WrongType>| {
            let fields = STATUS.into_iter().zip(texts(status));
            let fields = fields.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
            let (status, seen_ms) = (Status::from_fields(&fields), seen.map(score_millis));
            let host = Host { name: name.clone(), seen_ms, status, actions: None, damage };
            (host, [cpu, memory, disk, load].map(texts))
        };
        let read = self.query_each(names, ask, read).await?;
        let now = self.now();
        let vitals = |(host, groups): (Host, _)| {
            let figures = figures(host.status.as_ref(), now, groups);
            Vitals { host, figures }
        };
        Ok(read.into_iter().map(vitals).collect())
    }
}

/// The values of a hash's fields as text.
fn texts(values: Texts) -> Vec<Option<String>> {
    values.unwrap_or_default().into_iter().map(|value| value.map(|value| text(&value))).collect()
}

/// The figures in these groups, each of which begins with the moment when it was read.
fn figures(status: Option<&Status>, now: Millis, [cpu, memory, disk, load]: [Vec<Option<String>>; 4]) -> Figures {
    let figure = |group: &[Option<String>], place: usize| {
        let value = |place: usize| group.get(place).and_then(Option::as_deref);
        let is_current =
            status.is_some_and(|status| status.is_online(now) && is_fresh(status, value(0).and_then(read_moment), now));
        Figure::of(value(place), is_current)
    };
    Figures {
        cpu: figure(&cpu, 1),
        memory: figure(&memory, 1),
        disk: figure(&disk, 1),
        load: [1, 2, 3].map(|place| figure(&load, place)),
        uptime: figure(&load, 4),
    }
}

#[cfg(test)]
mod tests {
    use protocol::time::show_moment;

    use super::*;

    /// A group that was read at that moment.
    fn group(sampled_at: Millis, values: &[&str]) -> Vec<Option<String>> {
        [show_moment(sampled_at)].into_iter().chain(values.iter().map(ToString::to_string)).map(Some).collect()
    }

    #[test]
    fn figures_are_known_old_or_missing_and_never_zero() {
        let status = |last_seen_ms| Status { last_seen_ms, clock_ahead_ms: 60_000, ..Status::default() };
        let now = 1_795_000_000_000;
        let groups = || {
            // The host's clock is a minute ahead: what it read at that moment is a minute older.
            let fresh = now - 200_000;
            [group(fresh, &["7.5"]), group(now - 300_000, &["50"]), Vec::new(), group(fresh, &["0.5", "x", "NaN", "9"])]
        };
        let online = figures(Some(&status(now - 1000)), now, groups());
        assert_eq!((online.cpu, online.memory, online.disk), (Figure::Known(7.5), Figure::Old, Figure::Missing));
        assert_eq!(online.load, [Figure::Known(0.5), Figure::Missing, Figure::Missing]);
        assert_eq!(online.uptime, Figure::Known(9.0));
        let offline = figures(Some(&status(now - 60_000)), now, groups());
        assert_eq!((offline.cpu, offline.disk), (Figure::Old, Figure::Missing));
        assert_eq!(figures(None, now, groups()).cpu, Figure::Old);
    }
}
