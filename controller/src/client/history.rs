//! The history of figures: of hosts, and of Redis itself. What draws it, draws from here.

use std::time::Duration;

use protocol::{
    clock::millis,
    history::{FIGURES, STEP},
    limits,
    name::HostName,
    time::Millis,
};

use super::{
    error::Error,
    fleet::{Fleet, RawHash},
    redis_status,
};

/// Entries that are read in a round trip.
const CHUNK: usize = 100;

/// Longer steps are not known.
const LONGEST: Duration = Duration::from_secs(3600);

/// No figure is so great: a sum of them is a number.
const GREATEST: f64 = 1e18;

/// What the figures were in a step of time.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// When it began, by Redis' clock.
    pub at_ms: Millis,
    /// How long it was.
    pub step: Duration,
    /// The figures that are known of it, in the order of [`History::names`].
    pub figures: Vec<(&'static str, f64)>,
}

/// The figures of a span of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Its beginning, by Redis' clock.
    pub from_ms: Millis,
    /// Its end: now.
    pub until_ms: Millis,
    /// The figures that it may have.
    pub names: Vec<&'static str>,
    /// The steps of which something is known, the oldest first.
    pub points: Vec<Point>,
}

impl Point {
    /// When it ended.
    pub fn end_ms(&self) -> Millis {
        self.at_ms.saturating_add(millis(self.step))
    }

    /// A figure, if it is known.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|(known, _)| *known == name).map(|(_, figure)| *figure)
    }

    /// An entry of the stream. What is no figure is left out.
    fn read(id: &str, fields: &RawHash, names: &[&'static str]) -> Option<Self> {
        let number = |name: &str| -> Option<f64> {
            let text = fields.get(name.as_bytes())?;
            let number: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
            (number.abs() <= GREATEST).then_some(number)
        };
        let at_ms = id.split_once('-')?.0.parse().ok()?;
        let step = Duration::try_from_secs_f64(number(STEP)?).ok()?;
        let step = step.clamp(Duration::from_secs(1), limits::HISTORY_SPAN);
        let figures = names.iter().filter_map(|name| Some((*name, number(name)?))).collect();
        Some(Self { at_ms, step, figures })
    }
}

impl History {
    /// What is known of a figure, the oldest first.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Point, f64)> {
        self.points.iter().filter_map(move |point| Some((point, point.figure(name)?)))
    }
}

impl Fleet {
    /// The figures of a host for so long a time up to now, at most [`limits::HISTORY_ENTRIES`] steps.
    ///
    /// # Errors
    /// [`Error::Redis`], and something else that stands in the place of its history.
    pub async fn host_history(&mut self, host: &HostName, since: Duration) -> Result<History, Error> {
        let key = self.keys().history(host);
        self.history(&key, FIGURES.map(|(_, _, name)| name).into(), since).await
    }

    /// The figures of Redis itself for so long a time up to now, if a `ctl serve` has kept them.
    ///
    /// # Errors
    /// As of a host.
    pub async fn redis_history(&mut self, since: Duration) -> Result<History, Error> {
        let key = self.keys().redis_history();
        self.history(&key, redis_status::KEPT.into(), since).await
    }

    async fn history(&mut self, key: &str, names: Vec<&'static str>, since: Duration) -> Result<History, Error> {
        let () = self.query_with_time(&redis::pipe()).await?;
        let until_ms = self.now();
        let from_ms = until_ms.saturating_sub(millis(since));
        // A step may have begun before.
        let first = from_ms.saturating_sub(millis(LONGEST));
        let (mut points, mut read, mut end) = (Vec::new(), 0, until_ms.to_string());
        loop {
            let mut look = redis::pipe();
            look.cmd("XREVRANGE").arg(key).arg(end).arg(first).arg("COUNT").arg(CHUNK);
            let (entries,): (Vec<(String, RawHash)>,) = self.query(&look).await?;
            points.extend(entries.iter().filter_map(|(id, fields)| Point::read(id, fields, &names)));
            read += entries.len();
            match entries.last() {
                Some((id, _)) if entries.len() == CHUNK && read < limits::HISTORY_ENTRIES => end = format!("({id}"),
                _ => break,
            }
        }
        points.retain(|point| point.end_ms() > from_ms);
        points.reverse();
        Ok(History { from_ms, until_ms, names, points })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_figure_is_left_out() {
        let read = |id: &str, fields: &[(&str, &[u8])]| {
            let fields: RawHash =
                fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect();
            Point::read(id, &fields, &["cpu_usage", "load1"])
        };
        let figures: [(&str, &[u8]); 5] =
            [("step_seconds", b"300"), ("cpu_usage", b"12.5"), ("load1", b"NaN"), ("\u{1b}[2J", b"1"), ("x", b"\xff")];
        let point = read("600000-0", &figures).unwrap();
        assert_eq!((point.at_ms, point.end_ms(), &point.figures[..]), (600_000, 900_000, &[("cpu_usage", 12.5)][..]));
        for step in [&b"1e300"[..], b"-1", b"inf", b"x", b""] {
            assert_eq!(read("600000-0", &[("step_seconds", step)]), None);
        }
        assert_eq!(read("1-0", &[("step_seconds", b"1e9")]).unwrap().step, limits::HISTORY_SPAN);
        assert_eq!(read("18446744073709551615-1", &figures).unwrap().end_ms(), Millis::MAX);
        assert!(read("1-0", &[("step_seconds", b"60"), ("load1", b"1e300")]).unwrap().figures.is_empty());
    }
}
