//! Reads the commands' states all the time and records every change.

use std::{thread, time::Duration};

use protocol::{name::JobId, outcome::State};
use redis::{Connection, RedisResult};

use super::{command::Command, fleet::Fleet, history::About, lock, now};

/// The pause between two reads.
const PAUSE: Duration = Duration::from_millis(25);

/// How many ended commands are read again each time.
const ENDED: usize = 100;

/// What it takes to read a command's state.
#[derive(Clone, Copy)]
pub(super) struct Watched {
    pub(super) number: usize,
    host: usize,
    job: JobId,
}

impl Watched {
    pub(super) fn of(command: &Command) -> Self {
        Self { number: command.number, host: command.host, job: command.job() }
    }
}

/// Watches until the disturbance ends.
pub(super) fn watch(fleet: &Fleet) {
    let mut connection = None;
    let mut next = 0;
    while fleet.is_disturbed() {
        if connection.is_none() {
            connection = fleet.connect();
        }
        if let Some(redis) = &mut connection
            && poll(fleet, redis, &mut next).is_err()
        {
            connection = None;
        }
        thread::sleep(PAUSE);
    }
}

fn poll(fleet: &Fleet, redis: &mut Connection, next: &mut usize) -> RedisResult<()> {
    let watched: Vec<Watched> = {
        let commands = lock(&fleet.commands);
        let from = if *next < commands.len() { *next } else { 0 };
        *next = from + ENDED;
        let wanted = |command: &&Command| !command.has_ended() || (from..*next).contains(&command.number);
        commands.iter().filter(wanted).map(Watched::of).collect()
    };
    let states = states(redis, fleet, &watched)?;
    record(fleet, &watched, &states);
    Ok(())
}

/// The states of these commands now.
pub(super) fn states(redis: &mut Connection, fleet: &Fleet, watched: &[Watched]) -> RedisResult<Vec<Option<State>>> {
    let mut states = Vec::new();
    for chunk in watched.chunks(500) {
        let mut pipeline = redis::pipe();
        for Watched { host, job, .. } in chunk {
            pipeline.hget(fleet.keys.job_hosts(*job), fleet.hosts[*host].name.as_str());
        }
        let texts: Vec<Option<String>> = pipeline.query(redis)?;
        states.extend(texts.into_iter().map(|text| text.and_then(|text| text.parse().ok())));
    }
    Ok(states)
}

/// Records the states that are new.
pub(super) fn record(fleet: &Fleet, watched: &[Watched], states: &[Option<State>]) {
    let mut commands = lock(&fleet.commands);
    for (Watched { number, .. }, state) in watched.iter().zip(states) {
        let seen = &mut commands[*number].seen;
        if seen.last().map_or(state.is_some(), |(_, last)| last != state) {
            seen.push((now(), *state));
            let text =
                state.map_or_else(|| "its state is gone from Redis".to_owned(), |state| format!("seen as {state}"));
            fleet.history.note(About::Command(*number), text);
        }
    }
}
