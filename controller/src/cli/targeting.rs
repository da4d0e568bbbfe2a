//! The flags that say which hosts are meant.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::completers;
use crate::client::{Filter, Limit, Selection, Word, split_words};

/// Hosts by name, and by what is known about them.
#[derive(Args, Clone, Debug)]
pub struct Targeting {
    /// Host, a pattern with `*` and `?`, or a range such as web[1-20]; may be repeated, or separated by commas
    #[arg(short = 'H', long = "host", value_name = "NAME|GLOB", value_parser = words, add = ArgValueCompleter::new(completers::hosts))]
    pub hosts: Vec<Words>,
    /// Every known host
    #[arg(long, conflicts_with = "hosts")]
    pub all: bool,
    #[command(flatten)]
    pub narrowing: Narrowing,
}

/// Which of the hosts that are named.
#[derive(Args, Clone, Debug)]
pub struct Narrowing {
    /// Hosts with this label: NAME=VALUE, NAME!=VALUE, or NAME where any value will do; may be repeated, or separated by
    /// commas: all must hold
    #[arg(short = 'l', long = "label", value_name = "LABEL", value_parser = Filter::labels)]
    pub labels: Vec<Filter>,
    /// Hosts for which this holds, such as 'cpu.usage > 80 and label.env = prod'
    #[arg(long = "where", value_name = "EXPR")]
    pub filter: Option<Filter>,
    /// Not these hosts, patterns or ranges; may be repeated, or separated by commas
    #[arg(long, value_name = "NAME|GLOB", value_parser = words, add = ArgValueCompleter::new(completers::hosts))]
    pub exclude: Vec<Words>,
    /// No more than this many of them, or this share (10%, rounded up): the first by name
    #[arg(long, value_name = "N|N%")]
    pub limit: Option<Limit>,
}

/// Words of one flag.
pub type Words = std::sync::Arc<[Word]>;

/// Reads words that name hosts, separated by commas.
pub fn words(text: &str) -> Result<Words, String> {
    split_words(text).into_iter().map(|word| word.parse::<Word>().map_err(|error| error.to_string())).collect()
}

/// The words of several flags, or arguments.
pub fn joined(words: &[Words]) -> Vec<Word> {
    words.iter().flat_map(|words| words.iter().cloned()).collect()
}

/// These words as they were written.
#[cfg(test)]
pub fn texts(words: &[Words]) -> Vec<String> {
    joined(words).iter().map(|word| word.text().to_owned()).collect()
}

impl Targeting {
    /// The hosts that are meant.
    pub fn selection(self) -> Selection {
        self.narrowing.of(&self.hosts)
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        let Narrowing { labels, filter, exclude, limit } = &self.narrowing;
        self.hosts.is_empty() && labels.is_empty() && filter.is_none() && exclude.is_empty() && limit.is_none()
    }
}

impl Narrowing {
    /// Of the hosts with these names, those that are meant.
    pub fn of(self, hosts: &[Words]) -> Selection {
        let filters = self.labels.into_iter().chain(self.filter);
        Selection {
            words: joined(hosts),
            except: joined(&self.exclude),
            filter: filters.reduce(Filter::and),
            limit: self.limit,
        }
    }
}
