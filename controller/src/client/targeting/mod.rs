//! Which hosts are meant: the language of `--host`, `--exclude`, `--label`, `--where` and `--limit`, and of saved groups.
//!
//! Words name hosts; an expression asks what is known about each. What is not known of a host makes it *unknown*: it is
//! neither among those that are meant, nor left out without a word.

mod field;
mod filter;
mod group;
mod lexer;
mod limit;
mod unknown;
mod word;

pub(super) use self::filter::is_label;
pub use self::{
    field::Field,
    filter::{Filter, FilterError, Truth},
    group::{Group, GroupError},
    limit::{Limit, LimitError},
    unknown::{Unknown, by_reason},
    word::{Word, WordError, split_words},
};
