//! How many hosts of a rolling run may fail.

use std::{fmt, str::FromStr};

use crate::client::targeting::Limit;

/// A number of hosts, or a share of them. Unlike a [`Limit`] it may be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(Option<Limit>);

/// Why a text is no budget.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither a number of hosts, such as 0 or 3, nor a share of them, such as 5%")]
pub struct BudgetError(String);

impl Budget {
    /// No host.
    pub const NONE: Self = Self(None);

    /// How many that is of `total` hosts: a share is rounded down, so that a run of few hosts stops rather than goes on.
    pub fn of(self, total: usize) -> usize {
        match self.0 {
            None => 0,
            Some(Limit::Count(count)) => count,
            Some(Limit::Percent(percent)) => total * usize::from(percent) / 100,
        }
    }
}

impl FromStr for Budget {
    type Err = BudgetError;

    fn from_str(text: &str) -> Result<Self, BudgetError> {
        match text {
            "0" | "0%" => Ok(Self::NONE),
            text => text.parse().map(|limit| Self(Some(limit))).map_err(|_| BudgetError(text.to_owned())),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => out.write_str("0"),
            Some(limit) => limit.fmt(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_few_hosts_is_none() {
        let of = |text: &str, total| text.parse::<Budget>().unwrap().of(total);
        assert_eq!([of("0", 30), of("3", 30), of("40", 30)], [0, 3, 40]);
        assert_eq!([of("0%", 30), of("5%", 19), of("5%", 20), of("5%", 39), of("100%", 7)], [0, 0, 1, 1, 7]);
        for wrong in ["", "-1", "101%", "5 %", "some"] {
            assert!(wrong.parse::<Budget>().is_err(), "{wrong}");
        }
    }
}
