//! One look at the fleet: all samples, batch by batch. Nothing is kept but the names of hosts and the numbers of one group.

use std::{collections::VecDeque, sync::Arc};

use protocol::{keys::Keys, metrics::MetricGroup};
use redis::Cmd;
use tokio::time::Instant;

use super::{
    Exporter,
    columns::{CPU, DISK, LOAD, MEMORY, NETWORK, Rows, Table},
    facts::{Facts, Kind},
    hosts::{self, ITEMS, Known, LeftOut, PAGE},
    own,
    samples::{self, Batch, Sample, VALUE_BYTES, label_value},
    whom::Whom,
};
use crate::client::{Error, Fleet, SAMPLED};

/// A look that has begun. It is a part of the fleet's figures at the moment; begin another one for the next.
#[derive(Debug)]
pub struct Scrape {
    exporter: Arc<Exporter>,
    hosts: Vec<Known>,
    names: Vec<Arc<str>>,
    /// Hosts of the whole fleet.
    fleet_size: usize,
    steps: VecDeque<Step>,
    /// Rows that were read, and are being told.
    rows: VecDeque<Rows>,
    /// Batches that wait.
    ready: VecDeque<Batch>,
    facts: Facts,
    left_out: LeftOut,
    begun: Instant,
}

/// What is read next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Liveness,
    /// The labels of the hosts from this one on.
    Labels(usize),
    Facts,
    /// Facts of the hosts from this one on, which were read.
    Fact(Kind, usize),
    Whole(MetricGroup, &'static Table),
    Items(MetricGroup, &'static Table),
    /// Figures of own actions, of the hosts from this one on.
    Custom(usize),
    Own,
}

impl Scrape {
    /// Reads which hosts there are.
    ///
    /// # Errors
    /// An error of Redis.
    pub async fn begin(exporter: &Arc<Exporter>, fleet: &mut Fleet, whom: &Whom) -> Result<Self, Error> {
        let begun = Instant::now();
        let mut hosts: Vec<_> = fleet.host_names().await?.into_iter().map(Known::of).collect();
        let fleet_size = hosts.len();
        hosts.retain(|known| whom.has(known.host.as_str()));
        hosts.sort_unstable_by(|one, other| one.host.cmp(&other.host));
        let names = hosts.iter().map(|known| Arc::from(known.host.as_str())).collect();
        let steps = [
            Step::Liveness,
            Step::Labels(0),
            Step::Facts,
            Step::Fact(Kind::Uname, 0),
            Step::Fact(Kind::System, 0),
            Step::Fact(Kind::Boot, 0),
            Step::Whole(MetricGroup::Cpu, &CPU),
            Step::Whole(MetricGroup::Memory, &MEMORY),
            Step::Whole(MetricGroup::Load, &LOAD),
            Step::Items(MetricGroup::Disk, &DISK),
            Step::Items(MetricGroup::Network, &NETWORK),
            Step::Custom(0),
            Step::Own,
        ];
        Ok(Self {
            exporter: Arc::clone(exporter),
            hosts,
            names,
            fleet_size,
            steps: steps.into(),
            rows: VecDeque::new(),
            ready: VecDeque::new(),
            facts: Facts::default(),
            left_out: LeftOut::default(),
            begun,
        })
    }

    /// The next samples; batches of one family follow each other. `None`: that was all.
    ///
    /// # Errors
    /// An error of Redis. What was read before is then no whole look.
    pub async fn next(&mut self, fleet: &mut Fleet) -> Result<Option<Batch>, Error> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            if let Some(rows) = self.rows.front_mut() {
                if let Some((family, samples)) = rows.next(&self.names) {
                    return Ok(Some(Batch { family, samples }));
                }
                self.rows.pop_front();
                continue;
            }
            let Some(step) = self.steps.pop_front() else { return Ok(None) };
            self.step(step, fleet).await?;
        }
    }

    async fn step(&mut self, step: Step, fleet: &mut Fleet) -> Result<(), Error> {
        match step {
            Step::Liveness => {
                let read = hosts::liveness(fleet, &mut self.hosts, &mut self.left_out).await?;
                self.rows.extend([read.hosts, read.commands, read.dropped]);
            }
            Step::Labels(from) => {
                if let Some(next) = self.page(from) {
                    self.steps.push_front(Step::Labels(next));
                    let batch = self.labels(from, fleet).await?;
                    self.ready.push_back(batch);
                }
            }
            Step::Facts => self.facts = Facts::read(fleet, &self.hosts).await?,
            Step::Fact(kind, from) => {
                if let Some(next) = self.page(from) {
                    self.steps.push_front(Step::Fact(kind, next));
                    self.ready.push_back(self.facts.batch(kind, &(from..next), &self.names));
                }
            }
            Step::Whole(group, table) => {
                let key = |keys: &Keys, host: &_| keys.metrics(host, group);
                self.rows.push_back(hosts::whole(fleet, &self.hosts, table, key, &mut self.left_out).await?);
            }
            Step::Items(group, table) => {
                let key = |keys: &Keys, host: &_| keys.metrics(host, group);
                let items = if group == MetricGroup::Disk { &self.exporter.mounts } else { &self.exporter.interfaces };
                self.rows.push_back(items.read(fleet, &self.hosts, table, key, &mut self.left_out).await?);
            }
            Step::Custom(from) => {
                if let Some(next) = self.page(from) {
                    self.steps.push_front(Step::Custom(next));
                    let batch = self.custom(from, fleet).await?;
                    self.ready.push_back(batch);
                }
            }
            Step::Own => {
                let redis = own::redis(fleet).await;
                self.ready.extend(redis);
                self.ready
                    .push_back(Batch { family: &samples::HOSTS, samples: vec![Sample::bare(self.fleet_size as f64)] });
                self.ready.extend(self.exporter.own());
                let LeftOut { unreadable, beyond, old } = self.left_out;
                let reasons = [("unreadable", unreadable), ("beyond a bound", beyond), ("old", old)];
                let sample = |(reason, count)| Sample::labelled("reason", reason, count as f64);
                let samples = reasons.into_iter().map(sample).collect();
                self.ready.push_back(Batch { family: &samples::LEFT_OUT, samples });
                let took = Sample::bare(self.begun.elapsed().as_secs_f64());
                self.ready.push_back(Batch { family: &samples::SCRAPE_DURATION, samples: vec![took] });
            }
        }
        self.ready.retain(|batch| !batch.samples.is_empty());
        Ok(())
    }

    /// Where the page after this one begins; `None` where there is none any more.
    fn page(&self, from: usize) -> Option<usize> {
        (from < self.hosts.len()).then(|| (from + PAGE).min(self.hosts.len()))
    }

    /// The hosts of the page from this one on that are online.
    fn online(&self, from: usize) -> Vec<usize> {
        hosts::online(&self.hosts, from..self.hosts.len().min(from + PAGE))
    }

    /// Labels of a host stand beside one figure only: at each figure they would multiply what Prometheus keeps, and a
    /// label that changes would end all series of its host.
    async fn labels(&mut self, from: usize, fleet: &mut Fleet) -> Result<Batch, Error> {
        let page: Vec<_> = (from..self.hosts.len().min(from + PAGE)).collect();
        let keys = fleet.keys().clone();
        let ask = page.iter().map(|at| &self.hosts[*at].host);
        let ask = ask.flat_map(|host| [Cmd::hgetall(keys.labels(host)), Cmd::hgetall(keys.set_labels(host))]);
        let replies = hosts::ask(fleet, ask).await?;
        let samples = page.iter().zip(replies.chunks_exact(2)).map(|(at, replies)| {
            let version = Arc::clone(&self.hosts[*at].version);
            let sample = Sample::of_host(&self.names[*at], 1.0).with("version", version);
            hosts::labels(sample, &replies[0], &replies[1], &mut self.left_out)
        });
        Ok(Batch { family: &samples::HOST_INFO, samples: samples.collect() })
    }

    async fn custom(&mut self, from: usize, fleet: &mut Fleet) -> Result<Batch, Error> {
        let page = self.online(from);
        let actions = self.exporter.customs.of(page.iter().map(|at| &self.hosts[*at]), fleet).await?;
        let keys = fleet.keys().clone();
        let mut each = Vec::new();
        for (at, actions) in page.iter().zip(&actions) {
            each.extend(actions.iter().map(|action| (*at, Arc::clone(action))));
        }
        let ask: Vec<_> =
            each.iter().map(|(at, action)| Cmd::hgetall(keys.custom(&self.hosts[*at].host, action))).collect();
        let replies = hosts::ask(fleet, ask.into_iter()).await?;
        let mut samples = Vec::new();
        for ((at, action), reply) in each.into_iter().zip(&replies) {
            let mut count = 0;
            for (field, value) in hosts::pairs(reply).filter(|(field, _)| *field != SAMPLED.as_bytes()) {
                if count == ITEMS || field.len() > VALUE_BYTES {
                    self.left_out.beyond += 1;
                    continue;
                }
                // A text, such as a version, is no figure.
                let Some(figure) = hosts::figure(value) else {
                    self.left_out.unreadable += 1;
                    continue;
                };
                let (name, item) = match field.iter().position(|byte| *byte == b':') {
                    Some(colon) => (&field[..colon], &field[colon + 1..]),
                    None => (field, &[][..]),
                };
                let sample = Sample::of_host(&self.names[at], figure);
                let sample = sample.with("action", label_value(&action)).with("figure", hosts::label(name));
                samples.push(sample.with("item", hosts::label(item)));
                count += 1;
            }
        }
        // What differs only in characters that were replaced would be the same series twice.
        let same = |sample: &Sample| {
            let further = sample.labels.iter().map(|(_, value)| Arc::clone(value));
            sample.host.iter().cloned().chain(further).collect::<Vec<_>>()
        };
        let mut known = std::collections::HashSet::new();
        samples.retain(|sample| known.insert(same(sample)));
        Ok(Batch { family: &samples::CUSTOM, samples })
    }
}
