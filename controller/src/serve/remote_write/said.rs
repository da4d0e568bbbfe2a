//! What remote write says.

use std::fmt;

use crate::client::Error;

/// A line for whoever looks after `ctl serve`. Texts in it come from elsewhere and are not clean.
#[derive(Debug)]
pub enum Said {
    /// This instance sends from now on.
    Sends,
    /// This other instance sends.
    Waits(String),
    /// Redis cannot be asked.
    Away(Error),
    /// Redis can be asked again.
    Back,
    /// The receiver does not take a batch now, because of this.
    Fails(String),
    /// The receiver takes samples again; so many were refused or dropped.
    Recovered(u64),
    /// The receiver does not take a batch at all, because of this.
    Refused(String),
    /// So many samples were dropped, as too many wait.
    Full(usize),
    /// The receiver does not speak version 2.0, because of this.
    Falls(String),
    /// At the end, so many samples had not been sent.
    Left(usize),
}

impl Said {
    /// Whether something is wrong.
    pub const fn is_trouble(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Fails(_) | Self::Refused(_) | Self::Full(_) | Self::Left(_))
    }
}

impl fmt::Display for Said {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("remote write: ")?;
        match self {
            Self::Sends => out.write_str("this instance sends"),
            Self::Waits(other) => write!(out, "{other} sends; this instance waits"),
            Self::Away(error) => write!(out, "it is tried again: {error}"),
            Self::Back => out.write_str("Redis can be reached again"),
            Self::Fails(reason) => write!(out, "the receiver fails, it is tried again: {reason}"),
            Self::Recovered(0) => out.write_str("the receiver takes samples again; none was lost"),
            Self::Recovered(lost) => write!(out, "the receiver takes samples again; {lost} were lost"),
            Self::Refused(reason) => write!(out, "the receiver refuses samples, which are dropped: {reason}"),
            Self::Full(samples) => {
                write!(out, "{samples} samples are dropped, the oldest of too many that wait for the receiver")
            }
            Self::Falls(reason) => {
                write!(out, "the receiver does not speak version 2.0 ({reason}): 1.0 is used from now on")
            }
            Self::Left(samples) => write!(out, "{samples} samples were not sent in time"),
        }
    }
}
