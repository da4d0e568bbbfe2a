//! Which hosts are meant: the language of `--host`, `--exclude`, `--label`, `--where` and `--limit`.
//!
//! Words name hosts; an expression asks what is known about each. What is not known of a host makes it *unknown*: it is
//! neither among those that are meant, nor left out without a word.

mod field;
mod filter;
mod lexer;
mod limit;
mod resolve;
mod word;

use protocol::name::HostName;

pub use self::{
    field::Field,
    filter::{Filter, FilterError, Truth},
    limit::{Limit, LimitError},
    resolve::{Selected, Unknown, by_reason},
    word::{Word, WordError, split_words},
};

/// Some hosts of the fleet.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Those with these names; none: all that have ever reported.
    pub words: Vec<Word>,
    /// Without these.
    pub except: Vec<Word>,
    /// Of them, those for which this holds.
    pub filter: Option<Filter>,
    /// Of them, no more than this.
    pub limit: Option<Limit>,
}

impl Selection {
    /// All hosts that have ever reported.
    pub const fn all() -> Self {
        Self { words: Vec::new(), except: Vec::new(), filter: None, limit: None }
    }

    /// The hosts that these words mean.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn of<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, WordError> {
        let words = words.into_iter().map(str::parse).collect::<Result<Vec<Word>, _>>()?;
        Ok(Self { words, ..Self::all() })
    }

    /// Whether this host was named, itself or by a range.
    pub fn is_named(&self, host: &HostName) -> bool {
        self.words.iter().filter_map(Word::exact).any(|names| names.contains(host))
    }
}
