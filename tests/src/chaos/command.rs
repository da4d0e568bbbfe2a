//! The commands of a round: what they execute, how they are sent, and how they may end.

use std::{path::Path, time::Duration};

use fastrand::Rng;
use protocol::{
    action::{Argument, Arguments},
    clock::millis,
    command::Manifest,
    job::JobRecord,
    limits,
    name::{HostName, JobId},
    outcome::{Captured, State},
    targets::Targets,
    time::Millis,
};

use super::{evidence::SCRIPT, now};
use crate::operator;

/// The operator of all commands.
const OPERATOR: &str = "chaos";

/// What a command executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A once action: a program that leaves evidence, prints `lines` numbered lines and exits with `code`.
    Exec { lines: u64, pause: Duration, code: i32 },
    /// A repeatable action.
    Collect(&'static str),
    /// An unknown action, which must be rejected.
    Nonsense,
}

/// How a command is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// Sent until Redis has acknowledged it.
    Plain,
    /// The controller dies after it has sent a part of the bytes; all of them are sent again later.
    KilledMidway,
    /// Acknowledged, and sent again some time later.
    Again { after: Duration },
    /// Sent once: whether it has arrived stays unknown.
    Abandoned,
}

/// A command and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Command {
    pub(super) number: usize,
    pub(super) host: usize,
    pub(super) work: Work,
    pub(super) sending: Sending,
    pub(super) manifest: Manifest,
    pub(super) record: JobRecord,
    pub(super) lock: Option<String>,
    /// When it is cancelled, counted from its sending.
    pub(super) cancel_after: Option<Duration>,
    /// It is cancelled before it is sent.
    pub(super) cancel_first: bool,
    /// When Redis acknowledged it.
    pub(super) acknowledged: Option<Millis>,
    /// When a cancel was first sent; whether that was acknowledged before the command was sent.
    pub(super) cancelled: Option<Millis>,
    pub(super) cancelled_first: bool,
    /// The states that were read from Redis, in order, without repetitions.
    pub(super) seen: Vec<(Millis, Option<State>)>,
}

impl Command {
    /// Draws the next one.
    pub(super) fn draw(random: &mut Rng, number: usize, hosts: &[HostName], evidence: &Path) -> Self {
        let host = random.usize(..hosts.len());
        let work = draw_work(random);
        let once = matches!(work, Work::Exec { .. });
        let lock = (once && random.u8(..100) < 15).then(|| format!("lock{}", random.u8(..2)));
        let issued_at_ms = now();
        let salt = JobId::salt();
        let job = JobId::derive(OPERATOR, issued_at_ms, &salt);
        let start_by_ms = match random.u8(..100) {
            0..4 => issued_at_ms - 100,
            4..12 => issued_at_ms + random.u64(..400),
            _ => issued_at_ms + millis(limits::START_BY_DEFAULT),
        };
        let timeout_ms = if random.u8(..100) < 8 { random.u64(1..150) } else { millis(limits::TIMEOUT_DEFAULT) };
        let targets = Targets::new([hosts[host].clone()]);
        let manifest = Manifest {
            job,
            salt,
            action: work.action().into(),
            arguments: work.arguments(job, lock.as_deref(), evidence),
            sealed: None,
            operator: OPERATOR.into(),
            issued_at_ms,
            start_by_ms,
            timeout_ms,
            retention_ms: millis(limits::RETENTION_DEFAULT),
            keep_output: None,
            targets: targets.root(),
            namespace: None,
            trace: None,
        };
        let record = operator().record(manifest.clone(), targets);
        let sending = match random.u8(..100) {
            0..10 => Sending::KilledMidway,
            10..25 => Sending::Again { after: Duration::from_millis(random.u64(..3000)) },
            25..28 => Sending::Abandoned,
            _ => Sending::Plain,
        };
        let cancel = random.u8(..100);
        Self {
            number,
            host,
            work,
            sending,
            manifest,
            record,
            lock,
            cancel_after: (4..12).contains(&cancel).then(|| Duration::from_millis(random.u64(..250))),
            cancel_first: cancel < 4,
            acknowledged: None,
            cancelled: None,
            cancelled_first: false,
            seen: Vec::new(),
        }
    }

    pub(super) fn job(&self) -> JobId {
        self.manifest.job
    }

    /// Whether it must not run twice.
    pub(super) fn is_once(&self) -> bool {
        matches!(self.work, Work::Exec { .. })
    }

    /// Whether its last known state is a terminal one.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.seen.last(), Some((_, Some(state))) if state.is_terminal())
    }
}

fn draw_work(random: &mut Rng) -> Work {
    match random.u8(..100) {
        0..70 => {
            let lines = [0, 1, 3, 100, 100, 2000, 20_000, 60_000][random.usize(..8)];
            let pause = Duration::from_millis(if random.bool() { 0 } else { random.u64(..300) });
            Work::Exec { lines, pause, code: if random.u8(..10) == 0 { 7 } else { 0 } }
        }
        70..84 => Work::Collect("ping"),
        84..97 => {
            Work::Collect(["collect-memory", "collect-load", "collect-disk", "collect-network"][random.usize(..4)])
        }
        _ => Work::Nonsense,
    }
}

impl Work {
    /// Its name in the counts.
    pub(super) const fn action(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Collect(name) => name,
            Self::Nonsense => "no-such-action",
        }
    }

    fn arguments(self, job: JobId, lock: Option<&str>, evidence: &Path) -> Arguments {
        let Self::Exec { lines, pause, code } = self else { return Arguments::new() };
        let mut arguments =
            Arguments::from([("argv".into(), Argument::List(argv(lines, pause, code, &job.to_string(), evidence)))]);
        arguments.extend(lock.map(|lock| ("lock".into(), Argument::Text(lock.into()))));
        arguments
    }

    /// What it prints if it runs to its end.
    pub(super) fn full_output(self) -> Vec<u8> {
        let Self::Exec { lines, .. } = self else { return Vec::new() };
        (1..=lines).flat_map(|line| format!("{line}\n").into_bytes()).collect()
    }
}

/// The program and its arguments.
pub(super) fn argv(lines: u64, pause: Duration, code: i32, who: &str, evidence: &Path) -> Vec<String> {
    let pause = format!("{:.3}", pause.as_secs_f64());
    let file = evidence.display().to_string();
    let words = ["sh", "-c", SCRIPT, "chaos", &file, &lines.to_string(), &pause, &code.to_string(), who];
    words.map(str::to_owned).into()
}

/// What a worker must keep of these bytes, calculated independently of the worker.
pub(super) fn bounded(written: &[u8]) -> Captured {
    let (length, half) = (written.len(), limits::OUTPUT_BYTES / 2);
    if length <= limits::OUTPUT_BYTES {
        return Captured { kept: written.to_vec(), written_bytes: length as u64, cut_bytes: 0 };
    }
    let cut = length - limits::OUTPUT_BYTES;
    let remark = format!("\n[... {cut} bytes cut ...]\n");
    let kept = [&written[..half], remark.as_bytes(), &written[length - half..]].concat();
    Captured { kept, written_bytes: length as u64, cut_bytes: cut as u64 }
}
