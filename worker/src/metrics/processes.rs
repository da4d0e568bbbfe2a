//! The processes that use most, from `/proc/PID/`. Command lines are shown as `ps` shows
//! them to everybody; environments, where secrets live, are never read.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{SysconfVar, Uid, User, sysconf};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::detached;

use super::source::{Parsed, Source, excerpt, number};
use super::{Figures, MetricsError, ProcessOrder, put, rounded};

/// Over which the use of the processors is measured.
const WINDOW: Duration = Duration::from_millis(200);

/// A command line can hang while its process is stuck in the kernel, and a user's name can
/// while a directory server is away.
const TIMEOUT: Duration = Duration::from_secs(5);

/// At most this many lists are made at once, stuck ones included.
const AT_ONCE: usize = 4;

/// A command line is cut here.
const COMMAND_BYTES: usize = 200;

/// Lists processes, in threads that may get stuck.
pub(super) struct Processes {
    source: Source,
    slots: Arc<Semaphore>,
}

/// A process as `/proc/PID/stat` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    pid: u32,
    name: String,
    state: char,
    /// Spent on the processors, in clock ticks.
    ticks: u64,
    /// When it started, in clock ticks since boot: tells apart processes with the same pid.
    started: u64,
    resident_pages: u64,
}

impl Processes {
    pub(super) fn new(source: &Source) -> Self {
        Self { source: source.clone(), slots: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    pub(super) async fn collect(&self, by: ProcessOrder, top: usize) -> Result<Figures, MetricsError> {
        let timed_out = MetricsError::ProcessesTimedOut(TIMEOUT);
        tokio::time::timeout(TIMEOUT, self.collect_patiently(by, top)).await.unwrap_or(Err(timed_out))
    }

    async fn collect_patiently(&self, by: ProcessOrder, top: usize) -> Result<Figures, MetricsError> {
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let source = self.source.clone();
        let listed = detached::call(move || {
            let figures = list(&source, by, top);
            drop(slot);
            figures
        });
        listed.await.map_err(MetricsError::Thread)?
    }
}

fn list(source: &Source, by: ProcessOrder, top: usize) -> Result<Figures, MetricsError> {
    let mut processes;
    let mut cpu_percent = HashMap::new();
    match by {
        ProcessOrder::Memory => {
            processes = scan(source)?;
            processes.sort_by_key(|(_, process)| (process.resident_pages, u32::MAX - process.pid));
        }
        ProcessOrder::Cpu => {
            let before = scan(source)?;
            thread::sleep(WINDOW);
            processes = scan(source)?;
            cpu_percent = used(&before, &processes);
            processes.sort_by(|(_, a), (_, b)| {
                let used = |process: &Process| cpu_percent[&process.pid];
                // Of idle ones the busiest so far.
                used(a).total_cmp(&used(b)).then(a.ticks.cmp(&b.ticks))
            });
        }
    }
    let count = processes.len() as u64;
    let rows: Vec<Value> = processes
        .iter()
        .rev()
        .take(top)
        .filter_map(|(_, process)| row(source, process, cpu_percent.get(&process.pid).copied()).map(Value::Object))
        .collect();
    let mut figures = Figures::new();
    put(&mut figures, "count", count);
    put(&mut figures, "by", by.name());
    put(&mut figures, "processes", rows);
    Ok(figures)
}

/// All processes, each with when it was looked at.
fn scan(source: &Source) -> Result<Vec<(Instant, Process)>, MetricsError> {
    let path = source.path("/proc".as_ref());
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(source) => return Err(MetricsError::Read { path, source }),
    };
    let mut processes = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        match source.parse(&format!("/proc/{pid}/stat"), |text| parse(pid, text)) {
            Ok(process) => processes.push((Instant::now(), process)),
            // It has ended meanwhile.
            Err(MetricsError::Read { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(processes)
}

/// The use of one processor in percent, by pid. A process that is new has none yet.
fn used(before: &[(Instant, Process)], after: &[(Instant, Process)]) -> HashMap<u32, f64> {
    let before: HashMap<_, _> =
        before.iter().map(|(at, process)| ((process.pid, process.started), (*at, process.ticks))).collect();
    let per_second = sysconf_or(SysconfVar::CLK_TCK, 100) as f64;
    let of = |(now, process): &(Instant, Process)| {
        let used = before.get(&(process.pid, process.started)).map_or(0.0, |(then, earlier)| {
            let seconds = process.ticks.saturating_sub(*earlier) as f64 / per_second;
            let window = now.saturating_duration_since(*then).max(Duration::from_millis(1));
            rounded(100.0 * seconds / window.as_secs_f64(), 1)
        });
        (process.pid, used)
    };
    after.iter().map(of).collect()
}

/// What is said about a process; nothing if it has ended meanwhile.
fn row(source: &Source, process: &Process, cpu_percent: Option<f64>) -> Option<Figures> {
    let uid = source.text(&format!("/proc/{}/status", process.pid)).as_deref().and_then(uid)?;
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let page_bytes = sysconf_or(SysconfVar::PAGE_SIZE, 4096);
    let mut row = Figures::new();
    put(&mut row, "pid", process.pid);
    put(&mut row, "name", printable(&process.name));
    put(&mut row, "user", user.map_or_else(|| uid.to_string(), |user| user.name));
    if let Some(percent) = cpu_percent {
        put(&mut row, "cpu_percent", percent);
    }
    put(&mut row, "memory_bytes", process.resident_pages.saturating_mul(page_bytes));
    put(&mut row, "state", state(process.state));
    put(&mut row, "command", command(source, process)?);
    Some(row)
}

/// A command line can be megabytes long; only its beginning is read.
fn command(source: &Source, process: &Process) -> Option<String> {
    let path = source.path(format!("/proc/{}/cmdline", process.pid).as_ref());
    let mut arguments = Vec::new();
    let mut file = File::open(path).ok()?.take(4 * COMMAND_BYTES as u64);
    file.read_to_end(&mut arguments).ok()?;
    let command = command_line(&arguments);
    // A kernel thread has none, and a process that has ended no longer.
    let bare = || format!("[{}]", printable(&process.name));
    Some(if command.is_empty() { bare() } else { command })
}

fn command_line(arguments: &[u8]) -> String {
    let text = String::from_utf8_lossy(arguments);
    let mut command = printable(&text.trim_end_matches('\0').replace('\0', " "));
    let end = (0..=COMMAND_BYTES.min(command.len())).rev().find(|end| command.is_char_boundary(*end));
    command.truncate(end.unwrap_or_default());
    command
}

fn printable(text: &str) -> String {
    text.replace(char::is_control, "?")
}

fn state(letter: char) -> String {
    match letter {
        'R' => "running",
        'S' => "sleeping",
        'D' => "uninterruptible",
        'I' => "idle",
        'T' => "stopped",
        't' => "traced",
        'Z' => "zombie",
        'X' => "dead",
        other => return printable(&other.to_string()),
    }
    .to_owned()
}

fn sysconf_or(variable: SysconfVar, default: u64) -> u64 {
    let value = sysconf(variable).ok().flatten();
    value.and_then(|value| value.try_into().ok()).unwrap_or(default)
}

/// `PID (NAME) STATE …`, where the name may hold anything, spaces and parentheses included.
fn parse(pid: u32, text: &str) -> Parsed<Process> {
    let shape = || format!("not a process: {:?}", excerpt(text));
    let (_, rest) = text.split_once('(').ok_or_else(shape)?;
    let (name, rest) = rest.rsplit_once(')').ok_or_else(shape)?;
    // Counted from the state, the third field in proc(5).
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |index: usize, what| number::<u64>(fields.get(index).copied(), what);
    let state = fields.first().and_then(|state| state.chars().next());
    Ok(Process {
        pid,
        name: name.to_owned(),
        state: state.ok_or_else(shape)?,
        ticks: field(11, "utime")?.saturating_add(field(12, "stime")?),
        started: field(19, "starttime")?,
        // Kernels have shown a negative number for a moment.
        resident_pages: number::<i64>(fields.get(21).copied(), "rss")?.max(0).unsigned_abs(),
    })
}

/// The effective user.
fn uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "1234 (my (odd) name) S 1 1234 1234 0 -1 4194560 2110 0 3 0 \
        70 30 0 0 20 0 1 0 5678 12345344 1500 18446744073709551615 1 1 0 0 0 0 0 0 0\n";

    #[test]
    fn parses_what_the_kernel_writes() {
        let expected = Process {
            pid: 1234,
            name: "my (odd) name".to_owned(),
            state: 'S',
            ticks: 100,
            started: 5678,
            resident_pages: 1500,
        };
        assert_eq!(parse(1234, STAT), Ok(expected));
        assert_eq!(uid("Name:\tx\nUid:\t1000\t33\t1000\t1000\n"), Some(33));
        assert_eq!(uid("Uid:\tx\n"), None);
    }

    #[test]
    fn malformed_text_is_an_error() {
        for text in ["", "1 name S", "1 (name", "1 (name) ", ") S (", "1 (a) S 1 2 3"] {
            assert!(parse(1, text).is_err(), "{text:?}");
        }
        assert!(parse(1, &STAT.replace("5678", "-5678")).is_err());
    }

    #[test]
    fn a_command_line_is_printable_and_short() {
        assert_eq!(command_line(b"sh\0-c\0echo\x1b[31m\n\0"), "sh -c echo?[31m?");
        assert_eq!(command_line(b""), "");
        let long = command_line("é".repeat(300).replacen('é', "x", 1).as_bytes());
        assert_eq!(long.len(), 199);
        assert_eq!(command_line("\u{fffd}\0".repeat(300).as_bytes()).len(), 200);
    }

    #[test]
    fn use_is_of_one_processor_and_a_reused_pid_starts_anew() {
        let start = Instant::now();
        let process = parse(1234, STAT).unwrap();
        let with = |pid, ticks, started| Process { pid, ticks, started, ..process.clone() };
        let before = [(start, with(1, 100, 5)), (start, with(2, 100, 5))];
        let later = start + Duration::from_secs(2);
        let after = [(later, with(1, 500, 5)), (later, with(2, 500, 6)), (later, with(3, 500, 6))];
        let used = used(&before, &after);
        let shown = [1, 2, 3].map(|pid| used[&pid].to_string());
        assert_eq!(shown, ["200", "0", "0"]);
    }

    #[tokio::test]
    async fn this_process_is_listed_and_the_environment_is_not() {
        let processes = Processes::new(&Source::new("/".into()));
        for by in [ProcessOrder::Memory, ProcessOrder::Cpu] {
            let figures = processes.collect(by, usize::MAX).await.unwrap();
            assert_eq!(figures["by"], by.name());
            let rows = figures["processes"].as_array().unwrap();
            let me = rows.iter().find(|row| row["pid"] == std::process::id()).unwrap();
            assert!(me["memory_bytes"].as_u64().unwrap() > 100_000, "{me}");
            assert!(me["command"].as_str().unwrap().contains("worker"), "{me}");
            assert_eq!(me.get("cpu_percent").is_some(), by == ProcessOrder::Cpu);
            let path = std::env::var("PATH").unwrap();
            assert!(!serde_json::to_string(rows).unwrap().contains(&format!("PATH={path}")));
            assert_eq!(processes.collect(by, 1).await.unwrap()["processes"].as_array().unwrap().len(), 1);
        }
        assert_eq!(processes.slots.available_permits(), AT_ONCE);
    }
}
