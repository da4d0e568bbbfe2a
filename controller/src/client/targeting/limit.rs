//! How many hosts are meant at most.

use std::{fmt, str::FromStr};

/// A number of hosts, or a share of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// So many.
    Count(usize),
    /// So many of a hundred, from 1 to 100.
    Percent(u8),
}

/// Why a text is no limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither a number of hosts, such as 5, nor a share of them, such as 10%")]
pub struct LimitError(String);

impl Limit {
    /// How many that is of `total` hosts: a share is rounded up, so that of few hosts it is at least one.
    pub fn of(self, total: usize) -> usize {
        match self {
            Self::Count(count) => count.min(total),
            Self::Percent(percent) => (total * usize::from(percent)).div_ceil(100),
        }
    }
}

impl FromStr for Limit {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let limit = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| (1..=100).contains(percent)).map(Self::Percent),
            None => text.parse().ok().filter(|count| *count > 0).map(Self::Count),
        };
        limit.ok_or_else(|| LimitError(text.to_owned()))
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(out, "{count}"),
            Self::Percent(percent) => write!(out, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_few_hosts_is_at_least_one() {
        let of = |text: &str, total| text.parse::<Limit>().unwrap().of(total);
        assert_eq!([of("5", 3), of("5", 30), of("10%", 3), of("10%", 30), of("10%", 31)], [3, 5, 1, 3, 4]);
        assert_eq!([of("100%", 7), of("1%", 1), of("1%", 0)], [7, 1, 0]);
        for wrong in ["", "0", "0%", "101%", "-1", "5 %", "many"] {
            assert!(wrong.parse::<Limit>().is_err(), "{wrong}");
        }
    }
}
