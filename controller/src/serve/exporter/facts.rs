//! What hosts say of their systems: texts that stand as labels beside the figure 1, and when the system was booted.

use std::{collections::HashMap, ops::Range, sync::Arc};

use super::{
    hosts::{self, Known, PAGE},
    samples::{self, Batch, Family, Sample},
};
use crate::client::{Error, Fleet};

/// The fields of a host's facts that a page has: texts, and the moment of the boot.
const FIELDS: [&str; 6] = ["hostname", "kernel", "architecture", "os", "os_version", "booted_at"];

/// Texts that are known at a time. Those of most hosts are the same.
const TEXTS: usize = 10_000;

/// The families of facts. All samples of one belong together.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `node_uname_info`.
    Uname,
    /// `node_os_info`.
    System,
    /// `node_boot_time_seconds`.
    Boot,
}

/// The facts of the hosts that are online, in their order.
#[derive(Debug, Default)]
pub struct Facts(Vec<Fact>);

#[derive(Debug)]
struct Fact {
    /// The place of the host.
    host: usize,
    /// In the order of [`FIELDS`]: empty where it is missing.
    texts: [Arc<str>; 5],
    /// In seconds since the epoch.
    booted: f64,
}

impl Facts {
    /// Reads them.
    pub async fn read(fleet: &mut Fleet, known: &[Known]) -> Result<Self, Error> {
        let mut facts = Vec::new();
        let mut texts: HashMap<Vec<u8>, Arc<str>> = HashMap::new();
        for page in hosts::online(known, 0..known.len()).chunks(PAGE) {
            let keys = fleet.keys().clone();
            let ask = page.iter().map(|at| hosts::hmget(&keys.facts(&known[*at].host), FIELDS.iter()));
            let replies = hosts::ask(fleet, ask).await?;
            for (host, reply) in page.iter().zip(&replies) {
                let found = hosts::values(reply);
                if texts.len() > TEXTS {
                    texts.clear();
                }
                let mut text = |at: usize| {
                    let bytes = found.get(at).and_then(hosts::bytes).unwrap_or_default();
                    if let Some(known) = texts.get(bytes) {
                        return Arc::clone(known);
                    }
                    let text = hosts::label(bytes);
                    texts.insert(bytes.to_owned(), Arc::clone(&text));
                    text
                };
                let texts = std::array::from_fn(&mut text);
                let booted = hosts::moment(found.last().and_then(hosts::bytes));
                facts.push(Fact { host: *host, texts, booted });
            }
        }
        Ok(Self(facts))
    }

    /// The samples of the hosts whose places are in this range.
    pub fn batch(&self, kind: Kind, range: &Range<usize>, names: &[Arc<str>]) -> Batch {
        let begin = self.0.partition_point(|fact| fact.host < range.start);
        let facts = self.0[begin..].iter().take_while(|fact| fact.host < range.end);
        let (family, labels, from): (&'static Family, &[&'static str], usize) = match kind {
            Kind::Uname => (&samples::UNAME_INFO, &["nodename", "release", "machine"], 0),
            Kind::System => (&samples::OS_INFO, &["name", "version_id"], 3),
            Kind::Boot => {
                let of = |fact: &Fact| Sample::of_host(&names[fact.host], fact.booted);
                let samples = facts.filter(|fact| fact.booted.is_finite()).map(of).collect();
                return Batch { family: &samples::BOOT_TIME, samples };
            }
        };
        let sample = |fact: &Fact| {
            let texts = &fact.texts[from..from + labels.len()];
            let add = |sample: Sample, (label, text): (&&'static str, &Arc<str>)| sample.with(*label, Arc::clone(text));
            let is_known = texts.iter().any(|text| !text.is_empty());
            is_known.then(|| labels.iter().zip(texts).fold(Sample::of_host(&names[fact.host], 1.0), add))
        };
        Batch { family, samples: facts.filter_map(sample).collect() }
    }
}
