//! Output: results go to stdout, everything else to stderr.

pub mod chart;
mod compared;
pub mod events;
pub mod exit;
pub mod explain;
pub mod figures;
pub mod fold;
pub mod json;
pub mod moments;
pub mod natural;
pub mod printer;
pub mod progress;
mod releases;
pub mod results;
pub mod style;
pub mod summary;
pub mod table;
pub mod tail;
pub mod terminal;
pub mod top;

pub use self::{
    exit::Exit,
    explain::Advice,
    printer::{Exact, Format, Look, Printer},
    table::{Cell, Table},
};
