//! Evidence that programs leave of their runs: lines in a file, outside of Redis and of the worker.

use std::{collections::HashMap, fs, path::Path};

use protocol::{
    name::HostName,
    time::{Millis, show_moment},
};

use super::now;

/// A shell script that leaves evidence. `$1` is the file. `$2` is the number of lines to print, half of them
/// before and half after a pause of `$3` seconds. `$4` is the exit code, `$5` the name that the script writes into
/// its evidence. The worker's environment names the host. A line this short is appended by a single write, so lines
/// of several programs never mix.
pub(super) const SCRIPT: &str = r#"
read -r up _ </proc/uptime; echo "$5 start $$ $up $REDFLEET_HOST" >>"$1"
half=$(($2 / 2)); seq 1 $half; sleep "$3"; seq $((half + 1)) "$2"
read -r up _ </proc/uptime; echo "$5 end $$ $up $REDFLEET_HOST" >>"$1"
exit "$4""#;

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) who: String,
    host: String,
    pub(super) started: bool,
    pub(super) at: Millis,
    line: String,
}

/// All lines of a round.
#[derive(Default)]
pub(super) struct Evidence {
    marks: Vec<Mark>,
    by_name: HashMap<String, Vec<usize>>,
}

impl Evidence {
    /// Reads the evidence so far.
    pub(super) fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_default();
        // The kernel's uptime counts hundredths of a second; good enough to sort by.
        let booted = now().saturating_sub(hundredths(&fs::read_to_string("/proc/uptime").unwrap_or_default()) * 10);
        let mut evidence = Self::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some(who), Some(what)) = (words.next(), words.next()) else { continue };
            let at = booted + hundredths(words.nth(1).unwrap_or_default()) * 10;
            let (who, host, line) = (who.to_owned(), words.next().unwrap_or_default().to_owned(), line.to_owned());
            evidence.by_name.entry(who.clone()).or_default().push(evidence.marks.len());
            evidence.marks.push(Mark { who, host, started: what == "start", at, line });
        }
        evidence
    }

    /// All lines in the order in which they were written.
    pub(super) fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// How often the program started and how often it came to its end, on all hosts together.
    pub(super) fn count(&self, who: &str) -> (usize, usize) {
        count(self.of(who))
    }

    /// The same on one host.
    pub(super) fn count_on(&self, who: &str, host: &HostName) -> (usize, usize) {
        count(self.of(who).filter(|mark| mark.host == host.as_str()))
    }

    /// The program's lines, each preceded by its time.
    pub(super) fn lines(&self, who: &str) -> Vec<String> {
        self.of(who).map(|mark| format!("{} evidence: {}", show_moment(mark.at), mark.line)).collect()
    }

    fn of(&self, who: &str) -> impl Iterator<Item = &Mark> {
        self.by_name.get(who).into_iter().flatten().map(|at| &self.marks[*at])
    }
}

fn count<'a>(marks: impl Iterator<Item = &'a Mark>) -> (usize, usize) {
    let (starts, ends): (Vec<_>, Vec<_>) = marks.partition(|mark| mark.started);
    (starts.len(), ends.len())
}

/// `12.34 …` as 1234.
fn hundredths(text: &str) -> u64 {
    let number = text.split_whitespace().next().unwrap_or_default();
    number.replace('.', "").parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_writes_what_evidence_reads() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("evidence");
        let words = [file.to_str().unwrap(), "5", "0", "3", "me"];
        let output = std::process::Command::new("sh")
            .args(["-c", SCRIPT, "sh"])
            .args(words)
            .env("REDFLEET_HOST", "web1")
            .output()
            .expect("sh starts");
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(output.stdout, b"1\n2\n3\n4\n5\n");
        let evidence = Evidence::read(&file);
        assert_eq!(evidence.count("me"), (1, 1));
        assert_eq!(evidence.count("you"), (0, 0));
        assert_eq!(["web1", "web2"].map(|host| evidence.count_on("me", &host.parse().unwrap())), [(1, 1), (0, 0)]);
        assert!(now().abs_diff(evidence.marks()[0].at) < 10_000, "{:?}", evidence.marks());
    }
}
