//! What `ctl` prints of a program's output, held against what the program prints: each byte once and in
//! order, up to the stated bounds.

use protocol::{limits, name::HostName};

/// The beginning of the line that stands for what was cut, and its end.
const CUT: [&str; 2] = ["\n[... ", " bytes cut ...]\n"];

/// What may excuse that less was printed than is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Excuse {
    Nothing,
    /// The worker died: what was still to come live is in the result only.
    WorkerDied,
    /// Redis may have lost a part: that is said.
    RedisLost,
}

/// What was printed of one host's output.
pub(super) struct Printed {
    text: String,
    /// How many bytes `ctl` said to be gone from Redis.
    gone: usize,
    /// Whether lines were marked with their host. The last one is then always whole.
    marked: bool,
}

impl Printed {
    /// Takes what is of `host`, one of several or the only one, out of what `ctl` has written.
    pub(super) fn of(host: &HostName, several: bool, stdout: &str, stderr: &str) -> Self {
        let mark = if several { format!("{host} | ") } else { String::new() };
        let text = stdout.split_inclusive('\n').filter_map(|line| line.strip_prefix(&mark)).collect();
        let gone = stderr.lines().filter_map(|line| {
            line.strip_prefix(&format!("{host}: "))?.strip_suffix(" bytes of output are not there any more")
        });
        Self { text, gone: gone.filter_map(|count| count.parse::<usize>().ok()).sum(), marked: several }
    }

    /// Says what is wrong if this is to be all of `full`.
    pub(super) fn whole(&self, full: &str, excuse: Excuse) -> Result<(), String> {
        let (before, cut, after) = self.parts();
        let half = limits::OUTPUT_BYTES / 2;
        if self.gone > 0 {
            let told = [before, after].concat();
            let all = told.len() + cut + self.gone == full.len() && is_within(&told, full);
            return if excuse == Excuse::RedisLost && all { Ok(()) } else { Err(self.unlike(full)) };
        }
        let unfinished = self.marked && !full.is_empty() && !full.ends_with('\n');
        let finished = if unfinished { format!("{full}\n") } else { full.to_owned() };
        if finished.strip_prefix(before).and_then(|rest| rest.get(cut..)) != Some(after) {
            return Err(self.unlike(full));
        }
        // What came live reaches to its bound, else the result has half of what is kept on either side.
        let bounds = [half, limits::LIVE_BYTES];
        let begins = bounds.contains(&before.len())
            || excuse > Excuse::Nothing && (bounds[0]..bounds[1]).contains(&before.len());
        let fits = cut == 0 || begins && before.len() + cut + half == full.len();
        if fits { Ok(()) } else { Err(format!("{cut} bytes are cut behind {}", before.len())) }
    }

    /// Says what is wrong if this is to be a beginning of `full`, perhaps with the tail of what the program
    /// had come to.
    pub(super) fn beginning(&self, full: &str, excuse: Excuse) -> Result<(), String> {
        let (before, cut, _) = self.parts();
        let torn = if self.marked && cut == 0 { before.strip_suffix('\n').unwrap_or(before) } else { before };
        let fits =
            if self.gone > 0 { excuse == Excuse::RedisLost && is_within(torn, full) } else { full.starts_with(torn) };
        if fits { Ok(()) } else { Err(self.unlike(full)) }
    }

    /// What stands before the cut, how much was cut, and what stands behind.
    fn parts(&self) -> (&str, usize, &str) {
        let found = || {
            let (before, rest) = self.text.split_once(CUT[0])?;
            let (count, after) = rest.split_once(CUT[1])?;
            Some((before, count.parse().ok()?, after))
        };
        found().unwrap_or((&self.text, 0, ""))
    }

    fn unlike(&self, full: &str) -> String {
        let same = self.text.bytes().zip(full.bytes()).take_while(|(one, other)| one == other).count();
        format!(
            "of {} bytes {} were printed, {} said to be gone; they differ at {same}",
            full.len(),
            self.text.len(),
            self.gone
        )
    }
}

/// Whether `part` is `full` with some of it left out.
fn is_within(part: &str, full: &str) -> bool {
    let mut bytes = full.bytes();
    part.bytes().all(|byte| bytes.any(|other| other == byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Excuse::{Nothing, RedisLost, WorkerDied};

    fn printed(several: bool, stdout: &str, stderr: &str) -> Printed {
        Printed::of(&"web1".parse().unwrap(), several, stdout, stderr)
    }

    fn numbers(count: usize) -> String {
        (1..=count).flat_map(|number| [number.to_string(), "\n".into()]).collect()
    }

    #[test]
    fn each_byte_once_and_in_order() {
        let full = numbers(12);
        assert_eq!(printed(false, &full, "").whole(&full, Nothing), Ok(()));
        for wrong in ["", &full[1..], &full[..full.len() - 1], &format!("{full}12\n"), &full.replace("3\n4", "4\n3")] {
            assert!(printed(false, wrong, "").whole(&full, RedisLost).is_err(), "{wrong}");
        }
        assert_eq!(printed(false, &full[..7], "").beginning(&full, Nothing), Ok(()));
        assert!(printed(false, &full[1..7], "").beginning(&full, RedisLost).is_err());
    }

    #[test]
    fn hosts_are_told_apart_and_their_last_line_is_whole() {
        let stdout = "web1 | 1\nweb2 | 9\nweb1 | 2\nweb1 | 3\n";
        assert_eq!(printed(true, stdout, "").whole("1\n2\n3\n", Nothing), Ok(()));
        assert_eq!(printed(true, stdout, "").whole("1\n2\n3", Nothing), Ok(()));
        assert_eq!(printed(true, stdout, "").beginning("1\n2\n34\n", Nothing), Ok(()));
        assert!(printed(true, "web1 | 1\nweb2 | 2\n", "").whole("1\n2\n", Nothing).is_err());
    }

    #[test]
    fn a_cut_stands_where_it_may_and_counts_right() {
        let full = numbers(60_000);
        let half = limits::OUTPUT_BYTES / 2;
        let cut = |from: usize, count: usize, excuse| {
            let rest = &full[full.len() - half..];
            printed(false, &format!("{}\n[... {count} bytes cut ...]\n{rest}", &full[..from]), "").whole(&full, excuse)
        };
        for from in [half, limits::LIVE_BYTES] {
            assert_eq!(cut(from, full.len() - half - from, Nothing), Ok(()));
            assert!(cut(from, full.len() - half - from - 1, RedisLost).is_err());
        }
        let shorter = |excuse| cut(half + 1, full.len() - 2 * half - 1, excuse);
        assert!(shorter(Nothing).is_err(), "less than the bound");
        assert_eq!(shorter(WorkerDied), Ok(()));
        assert!(cut(half - 1, full.len() - 2 * half + 1, RedisLost).is_err(), "less than is kept");
    }

    #[test]
    fn what_is_gone_is_said_and_counted() {
        let stderr = "web2: 9 bytes of output are not there any more\nweb1: 4 bytes of output are not there any more\n";
        let gapped = printed(false, "1\n4\n5\n", stderr);
        assert_eq!(gapped.whole(&numbers(5), RedisLost), Ok(()));
        assert!(gapped.whole(&numbers(5), WorkerDied).is_err(), "nothing may be gone");
        assert!(gapped.whole(&numbers(6), RedisLost).is_err(), "more is gone than was said");
        assert!(printed(false, "1\n5\n4\n", stderr).whole(&numbers(5), RedisLost).is_err());
    }
}
