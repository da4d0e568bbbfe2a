//! The commands of a round: what they ask, how they are sent, and what may become of them.

use std::{path::Path, time::Duration};

use fastrand::Rng;
use protocol::{
    action::{Argument, Arguments},
    clock::millis,
    command::{Envelope, Manifest},
    limits,
    name::{HostName, JobId},
    outcome::{Captured, State},
    targets::Targets,
    time::{Millis, show_moment},
};

use super::{evidence::SCRIPT, now};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Once: a program that leaves evidence, prints so many numbered lines and exits with this code.
    Exec { lines: u64, pause: Duration, code: i32 },
    /// Repeatable.
    Collect(&'static str),
    /// Something that must be refused.
    Nonsense,
}

/// How it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// Until Redis has acknowledged it.
    Plain,
    /// The controller dies after a part of what it had to say, and says all of it again later.
    KilledMidway,
    /// Acknowledged, and sent again some time later.
    Again { after: Duration },
    /// Tried once: whether it arrived is left open.
    Abandoned,
}

/// A command.
#[derive(Clone, Debug)]
pub(super) struct Command {
    pub(super) number: usize,
    pub(super) host: usize,
    pub(super) work: Work,
    pub(super) sending: Sending,
    pub(super) manifest: Manifest,
    pub(super) envelope: Envelope,
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
    /// The states in which it was seen, in order, without repetitions.
    pub(super) seen: Vec<(Millis, Option<State>)>,
}

impl Command {
    /// Draws the next one.
    pub(super) fn draw(random: &mut Rng, number: usize, hosts: &[HostName], evidence: &Path) -> Self {
        let host = random.usize(..hosts.len());
        let work = draw_work(random);
        let once = matches!(work, Work::Exec { .. });
        let lock = (once && random.u8(..100) < 15).then(|| format!("lock{}", random.u8(..2)));
        let job = JobId::new();
        let issued_at_ms = now();
        let start_by_ms = match random.u8(..100) {
            0..4 => issued_at_ms - 100,
            4..12 => issued_at_ms + random.u64(..400),
            _ => issued_at_ms + millis(limits::START_BY_DEFAULT),
        };
        let timeout_ms = if random.u8(..100) < 8 { random.u64(1..150) } else { millis(limits::TIMEOUT_DEFAULT) };
        let targets = Targets::new([hosts[host].clone()]);
        let manifest = Manifest {
            job,
            action: work.action().into(),
            arguments: work.arguments(job, lock.as_deref(), evidence),
            operator: "chaos".into(),
            issued_at_ms,
            start_by_ms,
            timeout_ms,
            retention_ms: millis(limits::RETENTION_DEFAULT),
            targets: targets.root(),
            trace: None,
        };
        let (_, proof) = targets.proofs().next().expect("one target");
        let envelope = Envelope { manifest: manifest.encode(), signature: Vec::new(), proof };
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
            envelope,
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

    /// Whether it was last seen in a state that never changes.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.seen.last(), Some((_, Some(state))) if state.is_terminal())
    }

    /// The fields of the job's hash, as `ctl` makes them.
    pub(super) fn job_fields(&self, host: &HostName) -> Vec<(&'static str, Vec<u8>)> {
        let Manifest { start_by_ms, issued_at_ms, timeout_ms, retention_ms, .. } = self.manifest;
        let arguments = serde_json::to_string(&self.manifest.arguments).expect("plain values always encode");
        vec![
            ("action", self.manifest.action.clone().into_bytes()),
            ("arguments", arguments.into_bytes()),
            ("operator", self.manifest.operator.clone().into_bytes()),
            ("issued_at", show_moment(issued_at_ms).into_bytes()),
            ("start_by", show_moment(start_by_ms).into_bytes()),
            ("timeout_ms", timeout_ms.to_string().into_bytes()),
            ("retention_ms", retention_ms.to_string().into_bytes()),
            ("target_count", b"1".to_vec()),
            ("targets", host.as_str().into()),
            ("manifest", self.envelope.manifest.clone()),
            ("signature", Vec::new()),
        ]
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
    pub(super) fn prints(self) -> Vec<u8> {
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

/// What a worker keeps of these bytes: its stated bound, calculated a second time.
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
