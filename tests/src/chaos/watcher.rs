//! Looks at the commands' states all the time, as many readers would, and remembers what it saw.

use std::{thread, time::Duration};

use protocol::{name::JobId, outcome::State};
use redis::{Connection, RedisResult};

use super::{command::Command, fleet::Fleet, history::About, lock, now};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(25);

/// How many of those that have ended are looked at again each time.
const ENDED: usize = 100;

/// A command, as far as it takes to ask for its state.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) number: usize,
    host: usize,
    job: JobId,
}

impl Asked {
    pub(super) fn of(command: &Command) -> Self {
        Self { number: command.number, host: command.host, job: command.job() }
    }
}

/// Looks until the disturbance ends.
pub(super) fn watch(fleet: &Fleet) {
    let mut connection = None;
    let mut next = 0;
    while fleet.is_disturbed() {
        if connection.is_none() {
            connection = fleet.connect();
        }
        if let Some(redis) = &mut connection
            && look(fleet, redis, &mut next).is_err()
        {
            connection = None;
        }
        thread::sleep(PAUSE);
    }
}

fn look(fleet: &Fleet, redis: &mut Connection, next: &mut usize) -> RedisResult<()> {
    let asked: Vec<Asked> = {
        let commands = lock(&fleet.commands);
        let from = if *next < commands.len() { *next } else { 0 };
        *next = from + ENDED;
        let wanted = |command: &&Command| !command.has_ended() || (from..*next).contains(&command.number);
        commands.iter().filter(wanted).map(Asked::of).collect()
    };
    let states = states(redis, fleet, &asked)?;
    see(fleet, &asked, &states);
    Ok(())
}

/// The states of these commands now.
pub(super) fn states(redis: &mut Connection, fleet: &Fleet, asked: &[Asked]) -> RedisResult<Vec<Option<State>>> {
    let mut states = Vec::new();
    for chunk in asked.chunks(500) {
        let mut pipeline = redis::pipe();
        for Asked { host, job, .. } in chunk {
            pipeline.hget(fleet.keys.job_hosts(*job), fleet.hosts[*host].name.as_str());
        }
        let texts: Vec<Option<String>> = pipeline.query(redis)?;
        states.extend(texts.into_iter().map(|text| text.and_then(|text| text.parse().ok())));
    }
    Ok(states)
}

/// Remembers what is new.
pub(super) fn see(fleet: &Fleet, asked: &[Asked], states: &[Option<State>]) {
    let mut commands = lock(&fleet.commands);
    for (Asked { number, .. }, state) in asked.iter().zip(states) {
        let seen = &mut commands[*number].seen;
        if seen.last().map_or(state.is_some(), |(_, last)| last != state) {
            seen.push((now(), *state));
            let text = state.map_or_else(|| "its state is gone".to_owned(), |state| format!("seen as {state}"));
            fleet.history.note(About::Command(*number), text);
        }
    }
}
