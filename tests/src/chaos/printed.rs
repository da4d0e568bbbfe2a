//! Compares what `ctl` prints with what the program has printed: each byte once and in order, up to the
//! documented bounds.

use protocol::{limits, name::HostName};

/// The beginning and the end of the line that replaces what was cut.
const CUT: [&str; 2] = ["\n[... ", " bytes cut ...]\n"];

/// Why `ctl` may print less than is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Excuse {
    Nothing,
    /// The worker died: the outcome alone holds the output that it had not sent yet.
    WorkerDied,
    /// Redis may have lost a part, which `ctl` must report.
    RedisLost,
}

/// What `ctl` printed of one host's output.
pub(super) struct Printed {
    text: String,
    /// Whether lines are marked with their host. `ctl` then completes the last line.
    marked: bool,
}

impl Printed {
    /// Filters the output of `host`, one of several or the only one, out of what `ctl` has printed.
    pub(super) fn of(host: &HostName, several: bool, stdout: &str) -> Self {
        let mark = if several { format!("{host} | ") } else { String::new() };
        let text = stdout.split_inclusive('\n').filter_map(|line| line.strip_prefix(&mark)).collect();
        Self { text, marked: several }
    }

    /// Checks that this is all of `full`.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn whole(&self, full: &str, excuse: Excuse) -> Result<(), String> {
        let unfinished = self.marked && !full.is_empty() && !full.ends_with('\n');
        let finished = if unfinished { format!("{full}\n") } else { full.to_owned() };
        let (parts, half) = (self.parts(), limits::OUTPUT_BYTES / 2);
        if reached(&parts, &finished) != Some(finished.len()) {
            return Err(self.difference(full));
        }
        // Live output is whole, unless it is more than Redis keeps; else the outcome has equal halves on both sides of
        // the cut.
        let fits = match parts[..] {
            _ if excuse == Excuse::RedisLost => true,
            [_] => true,
            [(_, before), (cut, _)] => {
                let begins = before.len() == half || excuse > Excuse::Nothing && before.len() > half;
                begins && before.len() + cut + half == full.len()
            }
            _ => false,
        };
        if fits { Ok(()) } else { Err(format!("{} bytes are cut behind {}", parts[1].0, parts[0].1.len())) }
    }

    /// Checks that this is a beginning of `full`, perhaps followed by the tail of what the program had printed.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn beginning(&self, full: &str, excuse: Excuse) -> Result<(), String> {
        let parts = self.parts();
        let fits = match parts[..] {
            [(_, text)] => {
                let torn = if self.marked { text.strip_suffix('\n').unwrap_or(text) } else { text };
                full.starts_with(torn)
            }
            _ if excuse == Excuse::RedisLost => true,
            _ => full.starts_with(parts[0].1),
        };
        if fits { Ok(()) } else { Err(self.difference(full)) }
    }

    /// The pieces of the text, each with the number of bytes that are cut before it.
    fn parts(&self) -> Vec<(usize, &str)> {
        let (mut parts, mut rest) = (Vec::new(), self.text.as_str());
        let mut before = 0;
        while let Some((text, cut, after)) = split_cut(rest) {
            parts.push((before, text));
            (before, rest) = (cut, after);
        }
        parts.push((before, rest));
        parts
    }

    fn difference(&self, full: &str) -> String {
        let same = self.text.bytes().zip(full.bytes()).take_while(|(one, other)| one == other).count();
        format!(
            "of {} bytes {} were printed in {} parts; the first difference is at {same}",
            full.len(),
            self.text.len(),
            self.parts().len()
        )
    }
}

/// The text before the first line about a cut, how many bytes were cut, and the text behind it.
fn split_cut(text: &str) -> Option<(&str, usize, &str)> {
    let (before, rest) = text.split_once(CUT[0])?;
    let (count, after) = rest.split_once(CUT[1])?;
    Some((before, count.parse().ok()?, after))
}

/// How far these parts reach in `full`; `None` where they do not fit.
fn reached(parts: &[(usize, &str)], full: &str) -> Option<usize> {
    parts.iter().try_fold(0, |at, (cut, text)| {
        let from = at + cut;
        full.get(from..)?.starts_with(text).then_some(from + text.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Excuse::{Nothing, RedisLost, WorkerDied};

    fn printed(several: bool, stdout: &str) -> Printed {
        Printed::of(&"web1".parse().unwrap(), several, stdout)
    }

    fn numbers(count: usize) -> String {
        (1..=count).flat_map(|number| [number.to_string(), "\n".into()]).collect()
    }

    #[test]
    fn each_byte_once_and_in_order() {
        let full = numbers(12);
        assert_eq!(printed(false, &full).whole(&full, Nothing), Ok(()));
        for wrong in ["", &full[1..], &full[..full.len() - 1], &format!("{full}12\n"), &full.replace("3\n4", "4\n3")] {
            assert!(printed(false, wrong).whole(&full, RedisLost).is_err(), "{wrong}");
        }
        assert_eq!(printed(false, &full[..7]).beginning(&full, Nothing), Ok(()));
        assert!(printed(false, &full[1..7]).beginning(&full, RedisLost).is_err());
    }

    #[test]
    fn hosts_are_separated_and_their_last_line_is_whole() {
        let stdout = "web1 | 1\nweb2 | 9\nweb1 | 2\nweb1 | 3\n";
        assert_eq!(printed(true, stdout).whole("1\n2\n3\n", Nothing), Ok(()));
        assert_eq!(printed(true, stdout).whole("1\n2\n3", Nothing), Ok(()));
        assert_eq!(printed(true, stdout).beginning("1\n2\n34\n", Nothing), Ok(()));
        assert!(printed(true, "web1 | 1\nweb2 | 2\n").whole("1\n2\n", Nothing).is_err());
    }

    #[test]
    fn a_cut_stands_where_it_may_and_counts_right() {
        let full = numbers(60_000);
        let half = limits::OUTPUT_BYTES / 2;
        let cut = |from: usize, count: usize, excuse| {
            let rest = &full[full.len() - half..];
            printed(false, &format!("{}\n[... {count} bytes cut ...]\n{rest}", &full[..from])).whole(&full, excuse)
        };
        assert_eq!(cut(half, full.len() - 2 * half, Nothing), Ok(()));
        assert!(cut(half, full.len() - 2 * half - 1, RedisLost).is_err());
        let shorter = |excuse| cut(half + 1, full.len() - 2 * half - 1, excuse);
        assert!(shorter(Nothing).is_err(), "less than the bound");
        assert_eq!(shorter(WorkerDied), Ok(()));
        assert!(cut(half - 1, full.len() - 2 * half + 1, WorkerDied).is_err(), "less than is kept");
    }

    #[test]
    fn missing_bytes_must_be_reported_and_counted() {
        let gapped = printed(false, "1\n\n[... 4 bytes cut ...]\n4\n\n[... 2 bytes cut ...]\n6\n");
        assert_eq!(gapped.whole(&numbers(6), RedisLost), Ok(()));
        assert!(gapped.whole(&numbers(6), WorkerDied).is_err(), "nothing may be gone");
        assert!(gapped.whole(&numbers(7), RedisLost).is_err(), "more is gone than was reported");
        let swapped = printed(false, "1\n\n[... 4 bytes cut ...]\n6\n\n[... 2 bytes cut ...]\n4\n");
        assert!(swapped.whole(&numbers(6), RedisLost).is_err());
    }
}
