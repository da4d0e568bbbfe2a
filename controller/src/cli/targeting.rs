//! The flags that say which hosts are meant.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::completers;
use crate::client::{Filter, Limit, Selection, Word, split_words};

/// Hosts by name, and by what is known about them.
#[derive(Args, Clone, Debug)]
pub struct Targeting {
    #[command(flatten)]
    pub whom: Whom,
    /// Every known host
    #[arg(long, conflicts_with_all = ["hosts", "groups"])]
    pub all: bool,
    #[command(flatten)]
    pub most: Most,
}

/// The same, however many there are.
#[derive(Args, Clone, Debug)]
pub struct Whom {
    /// Host, a pattern with `*` and `?`, a range such as web[1-20], or @GROUP; may be repeated, or separated by commas
    #[arg(short = 'H', long = "host", value_name = "NAME|GLOB", value_parser = words, add = ArgValueCompleter::new(completers::hosts))]
    pub hosts: Vec<Words>,
    #[command(flatten)]
    pub besides: Besides,
    #[command(flatten)]
    pub criteria: Criteria,
}

/// Hosts besides those that are named.
#[derive(Args, Clone, Debug)]
pub struct Besides {
    /// The hosts of this group, too, as with --host @NAME; may be repeated, or separated by commas
    #[arg(long = "group", value_name = "NAME", value_parser = groups, add = ArgValueCompleter::new(completers::groups))]
    pub groups: Vec<Words>,
}

/// Which of the hosts that are named.
#[derive(Args, Clone, Debug)]
pub struct Narrowing {
    #[command(flatten)]
    pub criteria: Criteria,
    #[command(flatten)]
    pub most: Most,
}

/// What must hold for hosts.
#[derive(Args, Clone, Debug)]
pub struct Criteria {
    /// Hosts with this label: NAME=VALUE, NAME!=VALUE, or NAME where any value will do; may be repeated, or separated by
    /// commas: all must hold
    #[arg(short = 'l', long = "label", value_name = "LABEL", value_parser = Filter::labels)]
    pub labels: Vec<Filter>,
    /// Hosts for which this holds, such as 'cpu.usage > 80 and label.env = prod'
    #[arg(long = "where", value_name = "EXPR")]
    pub filter: Option<Filter>,
    /// Not these hosts, patterns, ranges or @GROUPs; may be repeated, or separated by commas
    #[arg(long, value_name = "NAME|GLOB", value_parser = words, add = ArgValueCompleter::new(completers::hosts))]
    pub exclude: Vec<Words>,
}

/// How many hosts.
#[derive(Args, Clone, Copy, Debug)]
pub struct Most {
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

/// Reads names of groups, separated by commas.
fn groups(text: &str) -> Result<Words, String> {
    let word = |name: &str| format!("@{}", name.strip_prefix('@').unwrap_or(name)).parse::<Word>();
    text.split(',').map(|name| word(name).map_err(|error| error.to_string())).collect()
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
        Selection { limit: self.most.limit, ..self.whom.selection() }
    }

    /// Whether no flag was given.
    pub fn is_empty(&self) -> bool {
        self.whom.is_empty() && self.most.limit.is_none()
    }
}

impl Whom {
    /// The hosts that are meant.
    pub fn selection(self) -> Selection {
        let hosts = [self.hosts, self.besides.groups].concat();
        Narrowing { criteria: self.criteria, most: Most { limit: None } }.of(&hosts)
    }

    /// Whether no flag was given.
    pub fn is_empty(&self) -> bool {
        let Criteria { labels, filter, exclude } = &self.criteria;
        let named = self.hosts.is_empty() && self.besides.groups.is_empty();
        named && labels.is_empty() && filter.is_none() && exclude.is_empty()
    }
}

impl Narrowing {
    /// Of the hosts with these names, those that are meant.
    pub fn of(self, hosts: &[Words]) -> Selection {
        let Criteria { labels, filter, exclude } = self.criteria;
        Selection {
            words: joined(hosts),
            except: joined(&exclude),
            filter: labels.into_iter().chain(filter).reduce(Filter::and),
            limit: self.most.limit,
        }
    }
}
