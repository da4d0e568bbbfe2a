//! The command line, and the settings that result from flags, environment and settings file.

pub mod alerts;
pub mod completers;
pub mod deploys;
pub mod documents;
pub mod durations;
pub mod fleet_trust;
pub mod grammar;
pub mod groups;
pub mod help;
pub mod hosts;
pub mod jobs;
pub mod key_file;
pub mod keys;
pub mod parse;
pub mod passphrase;
pub mod playbooks;
pub mod redis;
pub mod schedules;
pub mod settings;
pub mod sizes;
pub mod state_directory;
pub mod targeting;
pub mod top;
pub mod transfers;
pub mod waves;
pub mod zones;
