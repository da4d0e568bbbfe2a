//! The command line, and the settings that result from flags, environment and settings file.

pub mod completers;
pub mod documents;
pub mod durations;
pub mod grammar;
pub mod help;
pub mod parse;
pub mod settings;
pub mod sizes;
pub mod state_directory;
