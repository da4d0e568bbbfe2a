//! Alerts: rules over what is known of hosts, their states, and what is sent when these change.
//!
//! A [`Rule`] is judged for each host in a [`Round`], which moves the [`Course`] of each alert on. [`Scene::due`] compares how
//! they stand with what everybody was told. None of these knows Redis: a table of recorded courses tries them. The store
//! writes what a round has come to in one step, if nobody else has written since.

mod course;
mod evaluate;
mod groups;
mod notification;
mod outbox;
mod redis_figures;
mod round;
mod rule;
mod rules;
mod silence;
mod store;
mod text;
#[cfg(test)]
mod trace;

pub use self::{
    course::{Course, GAP_MS, Key, Stage},
    evaluate::{Evaluated, Judged},
    groups::{Due, Scene, Told, forget},
    notification::{Alert, Notification, Phase, Severity},
    outbox::{Attempt, Delivery, Fate, LEASE, Logged, Taken},
    round::{Known, Outcome, Round},
    rule::{Rule, RuleError, Subject, Written, read_file},
    rules::Rules,
    silence::Silence,
    store::{Origin, Snapshot, StoredRule, StoredRules},
};
