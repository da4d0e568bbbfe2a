//! The live screen of `ctl top`: its state, which keys change, and how it is drawn. Neither needs a terminal.

mod columns;
mod draw;
mod once;
mod order;
#[cfg(test)]
mod sample;
mod screen;

pub use self::{
    draw::{Trouble, View, draw},
    once::{hosts, jobs},
    screen::{Reaction, Screen},
};
