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
    told::{self, Told},
    watcher::{self, Asked},
};

/// A fleet that has been healed and still comes no further for so long has lost something. Longer
/// than a worker's longest backoff, its reader's second look and its patience with Redis together.
const STUCK: Duration = Duration::from_secs(25);

/// Between two looks at whether all has settled.
const LOOK: Duration = Duration::from_millis(50);

/// How often a controller that waits looks whether it must send again.
const SEND_AGAIN: Duration = Duration::from_secs(1);

/// Who uses `ctl`, and what tells their seeds apart.
const OPERATORS: [(&str, u64); 3] = [("ann", 4), ("bob", 6), ("cleo", 7)];

pub(super) struct Round {
    pub(super) profile: Profile,
    pub(super) bug: Option<Bug>,
    pub(super) seed: u64,
}

impl Round {
    /// Disturbs a fleet for so long and judges it.
    pub(super) fn run(&self, time: Duration) -> Report {
        let Some(fleet) = Fleet::start(self.profile, self.bug) else {
            let skipped = vec![format!("a round of {} (needs root and the right to mount)", self.profile)];
            return Report { skipped, ..Report::default() };
        };
        let fleet = &fleet;
        let told = thread::scope(|scope| {
            let load = Load::new(fleet, self.seed);
            let hands = [
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
            // Whoever holds something down lets go of it first.
            for hand in hands {
                hand.join().expect("a hand");
            }
            fleet.heal();
            while !load.is_finished() || operators.iter().any(|operator| !operator.is_finished()) {
                // Those that are still to die at a named point may do so now.
                fleet.start_the_dead();
                thread::sleep(LOOK);
            }
            load.join().expect("the load");
            operators.into_iter().flat_map(|operator| operator.join().expect("an operator")).collect()
        });
        let mut judged = Judged { told, ..Judged::default() };
        if let Err(error) = judged.settle(fleet).and_then(|redis| judged.judge(fleet, redis)) {
            judged.wrong.push((None, format!("Redis cannot be asked: {error}")));
        }
        judged.report(fleet, self.profile)
    }
}

#[derive(Default)]
struct Judged {
    /// What is wrong, and with which command.
    wrong: Vec<(Option<usize>, String)>,
    traces: Vec<Traces>,
    evidence: Evidence,
    commands: Vec<Command>,
    told: Vec<Told>,
    memory_kb: u64,
}

impl Judged {
    /// Waits until every command has ended and nothing is left to be acknowledged. Whoever waits for
    /// a command that Redis has lost sends it again.
    fn settle(&mut self, fleet: &Fleet) -> RedisResult<Connection> {
        let mut redis = crate::eventually("Redis", || fleet.connect());
        let (mut left, mut progress) = (usize::MAX, Instant::now());
        let mut again = Instant::now();
        loop {
            fleet.start_the_dead();
            let commands = lock(&fleet.commands).clone();
            let asked: Vec<Asked> = commands.iter().map(Asked::of).collect();
            let states = watcher::states(&mut redis, fleet, &asked)?;
            watcher::see(fleet, &asked, &states);
            let open: HashSet<usize> = asked
                .iter()
                .zip(&states)
                .filter(|(_, state)| !state.is_some_and(State::is_terminal))
                .map(|(asked, _)| asked.number)
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
            if fleet.profile.loses() && again.elapsed() > SEND_AGAIN {
                again = Instant::now();
                for number in open {
                    fleet.history.note(About::Command(number), "sent again");
                    load::dispatch(fleet, &commands[number]).exec(&mut redis)?;
                }
            }
            thread::sleep(LOOK);
        }
    }

    fn judge(&mut self, fleet: &Fleet, mut redis: Connection) -> RedisResult<()> {
        self.commands.clone_from(&lock(&fleet.commands));
        self.evidence = Evidence::read(&fleet.evidence);
        for command in &self.commands {
            let traces = Traces::ask(&mut redis, fleet, command.job(), &fleet.hosts[command.host].name)?;
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
        let told = told::judge(fleet, &self.told, &self.evidence, &mut redis)?;
        self.wrong.extend(told.into_iter().map(|text| (None, text)));
        Ok(())
    }

    fn report(self, fleet: &Fleet, profile: Profile) -> Report {
        let mut commands = BTreeMap::new();
        for (command, traces) in self.commands.iter().zip(&self.traces) {
            let state = traces.state().map_or_else(|| "never arrived".to_owned(), |state| state.to_string());
            *commands.entry((command.work.action().to_owned(), state)).or_default() += 1;
        }
        for told in &self.told {
            *commands.entry((told.question().to_owned(), told.verdict())).or_default() += 1;
        }
        // One that shows what broke comes first; all the others are often mere consequences.
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

    /// Everything that is known of a command, in order.
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
            fleet.history.tell(number, command.host, lines),
            ends.join("\n"),
        )
    }
}
