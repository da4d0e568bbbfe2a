//! The processes that use most CPU or memory, from `/proc/PID/`.
//!
//! Command lines are shown, as `ps` shows them to every user, but with passwords masked. Environments often hold secrets
//! and are never read.
//!
//! `/proc/PID/stat` is not read by `procfs-core`: its `Stat` can panic on malformed text, and it parses and keeps
//! fifty fields of each process.

use std::{
    cmp::Reverse,
    collections::HashMap,
    fs::{self, File},
    io::Read,
    mem,
    os::unix::fs::MetadataExt,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nix::unistd::{SysconfVar, Uid, User, sysconf};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    Figures, MetricsError, ProcessOrder,
    masking::mask,
    put, rounded,
    source::{Parsed, Source},
};
use crate::detached;

/// CPU use is measured over this time.
const WINDOW: Duration = Duration::from_millis(200);

/// Time limit of a list. Reading a command line can hang while its process is stuck in the kernel, and so can
/// looking up a user's name while a directory server is away.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How many lists are made at once, including those that hang.
const AT_ONCE: usize = 4;

/// The maximum length of a command line in the list.
const COMMAND_BYTES: usize = 200;

/// How much of a command line is read. One character takes up to four bytes, and masking shortens what is read.
const READ_BYTES: usize = 8 * COMMAND_BYTES;

pub(super) struct Processes {
    source: Source,
    slots: Arc<Semaphore>,
}

/// What is kept of `/proc/PID/stat`.
#[derive(Clone, Debug)]
struct Process {
    read_at: Instant,
    pid: u32,
    name: String,
    state: char,
    /// CPU time so far, in clock ticks.
    ticks: u64,
    /// Start time, in clock ticks since boot. Processes that had the same pid one after the other differ in it.
    started: u64,
    resident_pages: u64,
    /// 0 until it is measured.
    cpu_percent: f64,
}

impl Processes {
    pub(super) fn new(source: &Source) -> Self {
        Self { source: source.clone(), slots: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    pub(super) async fn collect(&self, by: ProcessOrder, top: usize) -> Result<Figures, MetricsError> {
        let listed = async {
            let slot = Arc::clone(&self.slots).acquire_owned().await;
            let source = self.source.clone();
            let list = move || {
                let _slot = slot;
                list(&source, by, top)
            };
            detached::call(list).await.map_err(MetricsError::Thread)?
        };
        timeout(TIMEOUT, listed).await.unwrap_or(Err(MetricsError::ProcessesTimedOut(TIMEOUT)))
    }
}

fn list(source: &Source, by: ProcessOrder, top: usize) -> Result<Figures, MetricsError> {
    let mut processes = scan(source)?;
    match by {
        ProcessOrder::Memory => processes.sort_by_key(|process| (Reverse(process.resident_pages), process.pid)),
        ProcessOrder::Cpu => {
            thread::sleep(WINDOW);
            let before = mem::replace(&mut processes, scan(source)?);
            measure(&before, &mut processes);
            // Equally busy processes, such as idle ones, are ordered by their CPU time so far.
            processes.sort_by(|a, b| b.cpu_percent.total_cmp(&a.cpu_percent).then(b.ticks.cmp(&a.ticks)));
        }
    }

    let rows: Vec<Value> =
        processes.iter().take(top).filter_map(|process| row(source, process, by)).map(Value::Object).collect();
    let mut figures = Figures::new();
    put(&mut figures, "count", processes.len());
    put(&mut figures, "by", json!(by));
    put(&mut figures, "processes", rows);
    Ok(figures)
}

fn scan(source: &Source) -> Result<Vec<Process>, MetricsError> {
    let path = source.path("/proc");
    let entries = fs::read_dir(&path).map_err(|source| MetricsError::Read { path, source })?;
    let mut processes = Vec::new();
    for pid in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        match source.parse(format!("/proc/{pid}/stat"), |text| parse(pid, text)) {
            Ok(process) => processes.push(process),
            // The process has ended meanwhile.
            Err(MetricsError::Read { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(processes)
}

/// Sets the CPU use of each process that was there before, in percent of one processor.
fn measure(before: &[Process], after: &mut [Process]) {
    let before: HashMap<_, _> = before.iter().map(|process| ((process.pid, process.started), process)).collect();
    let per_second = sysconf_or(SysconfVar::CLK_TCK, 100) as f64;
    for process in after {
        if let Some(earlier) = before.get(&(process.pid, process.started)) {
            let seconds = process.ticks.saturating_sub(earlier.ticks) as f64 / per_second;
            let window = process.read_at.saturating_duration_since(earlier.read_at).max(Duration::from_millis(1));
            process.cpu_percent = rounded(100.0 * seconds / window.as_secs_f64(), 1);
        }
    }
}

/// The figures of one process. None if it has ended meanwhile.
fn row(source: &Source, process: &Process, by: ProcessOrder) -> Option<Figures> {
    // The kernel gives the directory to the effective user. That is cheaper than /proc/PID/status.
    let uid = fs::metadata(source.path(format!("/proc/{}", process.pid))).ok()?.uid();
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let page_bytes = sysconf_or(SysconfVar::PAGE_SIZE, 4096);

    let mut row = Figures::new();
    put(&mut row, "pid", process.pid);
    put(&mut row, "name", printable(&process.name));
    put(&mut row, "user", user.map_or_else(|| uid.to_string(), |user| user.name));
    if by == ProcessOrder::Cpu {
        put(&mut row, "cpu_percent", process.cpu_percent);
    }
    put(&mut row, "memory_bytes", process.resident_pages.saturating_mul(page_bytes));
    put(&mut row, "state", state(process.state));
    put(&mut row, "command", command(source, process)?);
    Some(row)
}

/// The command line of a process, or its name in brackets if it has none. None if it has ended meanwhile.
fn command(source: &Source, process: &Process) -> Option<String> {
    let mut arguments = Vec::new();
    // A command line can be megabytes long.
    let file = File::open(source.path(format!("/proc/{}/cmdline", process.pid))).ok()?;
    file.take(READ_BYTES as u64).read_to_end(&mut arguments).ok()?;
    if arguments.len() == READ_BYTES {
        // The last word is not whole: what it is could not be told.
        let end = arguments.iter().rposition(|byte| [0, b' '].contains(byte)).unwrap_or(0);
        arguments.truncate(end);
    }
    let command = command_line(&arguments);
    Some(if command.is_empty() { format!("[{}]", printable(&process.name)) } else { command })
}

fn command_line(arguments: &[u8]) -> String {
    let text = String::from_utf8_lossy(arguments);
    let mut command = printable(&mask(text.trim_end_matches('\0').split('\0')).join(" "));
    while command.len() > COMMAND_BYTES {
        command.pop();
    }
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

/// Parses `PID (NAME) STATE …`. The name can contain anything, including spaces and parentheses.
fn parse(pid: u32, text: &[u8]) -> Parsed<Process> {
    let text = String::from_utf8_lossy(text);
    let (_, rest) = text.split_once('(').ok_or("the name is missing")?;
    let (name, rest) = rest.rsplit_once(')').ok_or("the name has no end")?;
    // The state is the first of these, and the third field in proc(5).
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |index: usize| fields.get(index).copied().ok_or("a field is missing");
    let number = |index| -> Parsed<u64> { Ok(field(index)?.parse()?) };
    Ok(Process {
        read_at: Instant::now(),
        pid,
        name: name.to_owned(),
        state: field(0)?.chars().next().ok_or("the state is missing")?,
        ticks: number(11)?.saturating_add(number(12)?),
        started: number(19)?,
        // Some kernels report a negative number for a moment.
        resident_pages: field(21)?.parse::<i64>()?.max(0).unsigned_abs(),
        cpu_percent: 0.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "1234 (my (odd) name) S 1 1234 1234 0 -1 4194560 2110 0 3 0 \
        70 30 0 0 20 0 1 0 5678 12345344 1500 18446744073709551615 1 1 0 0 0 0 0 0 0\n";

    #[test]
    fn parses_what_the_kernel_writes() {
        let process = parse(1234, STAT.as_bytes()).unwrap();
        assert_eq!((process.pid, process.name.as_str(), process.state), (1234, "my (odd) name", 'S'));
        assert_eq!((process.ticks, process.started, process.resident_pages), (100, 5678, 1500));
        assert_eq!(parse(1, STAT.replace("1500", "-3").as_bytes()).unwrap().resident_pages, 0);
    }

    #[test]
    fn malformed_text_is_an_error() {
        for text in
            ["", "1 name S", "1 (name", "1 (name)", "1 (name) ", ") S (", "(", ")", "1 (a)\u{e9}", "1 (a) S 1 2 3"]
        {
            assert!(parse(1, text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(parse(1, STAT.replace("5678", "-5678").as_bytes()).is_err());
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
        let process = parse(1234, STAT.as_bytes()).unwrap();
        let with = |pid, ticks, started| Process { pid, ticks, started, ..process.clone() };
        let before = [with(1, 100, 5), with(2, 100, 5)];
        let mut after = [with(1, 500, 5), with(2, 500, 6), with(3, 500, 6)];
        for process in &mut after {
            process.read_at += Duration::from_secs(2);
        }
        measure(&before, &mut after);
        assert_eq!(after.map(|process| process.cpu_percent.to_string()), ["200", "0", "0"]);
    }

    #[tokio::test]
    async fn this_process_is_listed_and_the_environment_is_not() {
        let processes = Processes::new(&Source::new("/".into()));
        for by in [ProcessOrder::Memory, ProcessOrder::Cpu] {
            let figures = processes.collect(by, usize::MAX).await.unwrap();
            assert_eq!(figures["by"], json!(by));
            let rows = figures["processes"].as_array().unwrap();
            let me = rows.iter().find(|row| row["pid"] == std::process::id()).unwrap();
            let user = User::from_uid(Uid::effective()).unwrap();
            assert_eq!(me["user"], user.map_or_else(|| Uid::effective().to_string(), |user| user.name));
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
