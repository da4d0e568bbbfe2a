//! A round: a fleet is started, disturbed, healed, left to settle, and judged.

use std::{
    collections::{BTreeMap, HashSet},
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use protocol::outcome::State;
use redis::{Connection, RedisResult};

use super::{
    checker::{self, Traces},
    command::Command,
    evidence::Evidence,
    faults,
    fleet::Fleet,
    history::About,
    leftovers,
    load::{self, Load},
    lock, operator,
    profile::{Bug, Profile},
    report::{Report, Violation},
    session::{self, Session},
    watcher::{self, Watched},
};

/// A healed fleet that makes no progress for so long has lost something. This is longer than a worker's longest
/// backoff, its reader's blocking read and its timeout for Redis together.
const STUCK: Duration = Duration::from_secs(25);

/// The pause between two checks whether all has settled.
const PAUSE: Duration = Duration::from_millis(50);

/// How often a waiting controller checks whether it must redispatch.
const REDISPATCH: Duration = Duration::from_secs(1);

/// The names of those who use `ctl`, and what makes their seeds differ.
const OPERATORS: [(&str, u64); 3] = [("ann", 4), ("bob", 6), ("cleo", 7)];

pub(super) struct Round {
    pub(super) profile: Profile,
    pub(super) bug: Option<Bug>,
    pub(super) seed: u64,
}

impl Round {
    /// Disturbs a fleet for `time` and judges it.
    pub(super) fn run(&self, time: Duration) -> Report {
        let Some(fleet) = Fleet::start(self.profile, self.bug) else {
            let skipped = vec![format!("a round of {} (needs root and the right to mount)", self.profile)];
            return Report { skipped, ..Report::default() };
        };
        let fleet = &fleet;
        let sessions = thread::scope(|scope| {
            let load = Load::new(fleet, self.seed);
            let injectors = [
                scope.spawn(|| faults::keep_workers(fleet, self.bug, self.seed ^ 1)),
                scope.spawn(|| faults::disturb_workers(fleet, self.seed ^ 2)),
                scope.spawn(|| faults::disturb_workers(fleet, self.seed ^ 5)),
                scope.spawn(|| faults::disturb_redis(fleet, self.seed ^ 3)),
                scope.spawn(|| watcher::watch(fleet)),
            ];
            let operators =
                OPERATORS.map(|(name, salt)| scope.spawn(move || operator::operate(fleet, name, self.seed ^ salt)));
            let load = scope.spawn(|| load.run());
            thread::sleep(time);
            fleet.disturbed.store(false, Ordering::Relaxed);
            // Whatever is halted or frozen goes on first.
            for injector in injectors {
                injector.join().expect("a fault injector");
            }
            fleet.heal();
            while !load.is_finished() || operators.iter().any(|operator| !operator.is_finished()) {
                // A worker may still die at its named point.
                fleet.restart_dead_workers();
                thread::sleep(PAUSE);
            }
            load.join().expect("the load");
            operators.into_iter().flat_map(|operator| operator.join().expect("an operator")).collect()
        });
        let mut judged = Judged { sessions, ..Judged::default() };
        if let Err(error) = judged.settle(fleet).and_then(|redis| judged.judge(fleet, redis)) {
            judged.wrong.push((None, format!("Redis cannot be read: {error}")));
        }
        judged.report(fleet, self.profile)
    }
}

#[derive(Default)]
struct Judged {
    /// What is wrong, and the number of the command that shows it.
    wrong: Vec<(Option<usize>, String)>,
    traces: Vec<Traces>,
    evidence: Evidence,
    commands: Vec<Command>,
    sessions: Vec<Session>,
    memory_kb: u64,
}

impl Judged {
    /// Waits until every command has ended and every entry is acknowledged. Commands that Redis has lost are
    /// redispatched, as a waiting `ctl` does.
    fn settle(&mut self, fleet: &Fleet) -> RedisResult<Connection> {
        let mut redis = crate::eventually("Redis", || fleet.connect());
        let (mut left, mut progress) = (usize::MAX, Instant::now());
        let mut again = Instant::now();
        loop {
            fleet.restart_dead_workers();
            let commands = lock(&fleet.commands).clone();
            let watched: Vec<Watched> = commands.iter().map(Watched::of).collect();
            let states = watcher::states(&mut redis, fleet, &watched)?;
            watcher::record(fleet, &watched, &states);
            let open: HashSet<usize> = watched
                .iter()
                .zip(&states)
                .filter(|(_, state)| !state.is_some_and(State::is_terminal))
                .map(|(watched, _)| watched.number)
                .filter(|number| commands[*number].acknowledged.is_some())
                .collect();
            let mut unsettled = leftovers::unsettled(&mut redis, fleet)?;
            unsettled.extend(leftovers::processes(fleet));
            let now_left = open.len() + unsettled.len();
            if now_left == 0 {
                return Ok(redis);
            }
            if now_left < left {
                (left, progress) = (now_left, Instant::now());
            }
            if progress.elapsed() > STUCK {
                self.wrong.extend(unsettled.into_iter().map(|text| (None, format!("left behind: {text}"))));
                return Ok(redis);
            }
            if fleet.profile.loses() && again.elapsed() > REDISPATCH {
                again = Instant::now();
                for number in open {
                    fleet.history.note(About::Command(number), "redispatched");
                    load::dispatch(fleet, &commands[number]).exec(&mut redis)?;
                }
            }
            thread::sleep(PAUSE);
        }
    }

    fn judge(&mut self, fleet: &Fleet, mut redis: Connection) -> RedisResult<()> {
        self.commands.clone_from(&lock(&fleet.commands));
        self.evidence = Evidence::read(&fleet.evidence);
        for command in &self.commands {
            let traces = Traces::read(&mut redis, fleet, command.job(), &fleet.hosts[command.host].name)?;
            let wrong = checker::judge(fleet, command, &traces, &self.evidence);
            self.wrong.extend(wrong.into_iter().map(|text| (Some(command.number), text)));
            self.traces.push(traces);
        }
        let locks = checker::judge_locks(&self.commands, &self.evidence);
        self.wrong.extend(locks.into_iter().map(|(number, text)| (Some(number), text)));
        let keys = leftovers::keys(&mut redis, fleet)?;
        let (memory_kb, memory) = leftovers::memory(fleet);
        self.memory_kb = memory_kb;
        self.wrong.extend(keys.into_iter().chain(memory).map(|text| (None, format!("left behind: {text}"))));
        let sessions = session::judge(fleet, &self.sessions, &self.evidence, &mut redis)?;
        self.wrong.extend(sessions.into_iter().map(|text| (None, text)));
        Ok(())
    }

    fn report(self, fleet: &Fleet, profile: Profile) -> Report {
        let mut commands = BTreeMap::new();
        for (command, traces) in self.commands.iter().zip(&self.traces) {
            let state = traces.state().map_or_else(|| "never arrived".to_owned(), |state| state.to_string());
            *commands.entry((command.work.action().to_owned(), state)).or_default() += 1;
        }
        for session in &self.sessions {
            *commands.entry((session.command().to_owned(), session.end())).or_default() += 1;
        }
        // Violations of a single command come first: the others are often mere consequences.
        let (of_commands, others): (Vec<_>, Vec<_>) = self.wrong.iter().partition(|(number, _)| number.is_some());
        let violations = of_commands.into_iter().chain(others).map(|(number, text)| match number {
            Some(number) => {
                let job = self.commands[*number].job();
                Violation { what: format!("{profile}, job {job}: {text}"), history: self.history(fleet, *number) }
            }
            None => Violation { what: format!("{profile}: {text}"), history: String::new() },
        });
        Report {
            rounds: vec![profile.to_string()],
            commands,
            faults: fleet.history.faults(),
            violations: violations.take(100).collect(),
            most_memory_kb: self.memory_kb,
            ..Report::default()
        }
    }

    /// Everything that is known of a command, in the order of time.
    fn history(&self, fleet: &Fleet, number: usize) -> String {
        let command = &self.commands[number];
        let (host, job) = (&fleet.hosts[command.host], command.job().to_string());
        let mut lines = self.evidence.lines(&job);
        let log = host.log();
        lines.extend(log.lines().filter(|line| line.contains(&job)).map(str::to_owned));
        let ends = self.traces.get(number).map(Traces::lines).unwrap_or_default();
        let Command { work, sending, manifest, .. } = command;
        format!(
            "job {job} on {}: {work:?}, {sending:?}, start-by {} ms after it was issued, timeout {} ms\n{}\n{}",
            host.name,
            i128::from(manifest.start_by_ms) - i128::from(manifest.issued_at_ms),
            manifest.timeout_ms,
            fleet.history.of_command(number, command.host, lines),
            ends.join("\n"),
        )
    }
}
