//! Live output is compared with what the host has signed.
//!
//! Anybody who can write to Redis can write live output. What was printed of it is known to be the host's only once its
//! result has come, and only where that keeps all output.

use protocol::outcome::{Captured, Outcome, State};
use sha2::{Digest, Sha256};

/// Parts of a stream that are remembered. A result that keeps all output has fewer gaps between its pieces.
const PARTS: usize = 8192;

/// What was printed of a stream before its result came: digests of its parts, between which output was missing.
#[derive(Default)]
pub(super) struct Printed {
    parts: Vec<Part>,
    /// There were more parts than are remembered.
    overflowed: bool,
}

struct Part {
    begin: u64,
    end: u64,
    digest: Sha256,
}

impl Printed {
    /// Notes that `data`, which begins at `offset`, was printed.
    pub(super) fn add(&mut self, offset: u64, data: &[u8]) {
        let end = offset.saturating_add(data.len() as u64);
        if let Some(part) = self.parts.last_mut().filter(|part| part.end == offset) {
            part.end = end;
            part.digest.update(data);
        } else if self.parts.len() < PARTS {
            self.parts.push(Part { begin: offset, end, digest: Sha256::new_with_prefix(data) });
        } else {
            self.overflowed = true;
        }
    }

    /// Whether what was printed is not what the host has signed, as far as the result tells.
    pub(super) fn differs(self, outcome: &Outcome, captured: &Captured) -> bool {
        // After a crash nobody knows what the program has written.
        if outcome.state == State::Interrupted {
            return false;
        }
        if self.parts.last().is_some_and(|part| part.end > captured.written_bytes) {
            return true;
        }
        if captured.cut_bytes > 0 {
            return false;
        }
        let kept = |part: &Part| {
            let [begin, end] = [part.begin, part.end].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
            captured.kept.get(begin..end)
        };
        let is_kept = |part: Part| kept(&part).is_some_and(|kept| Sha256::digest(kept) == part.digest.finalize());
        self.overflowed || !self.parts.into_iter().all(is_kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(pieces: &[(u64, &str)]) -> Printed {
        let mut printed = Printed::default();
        for (offset, data) in pieces {
            printed.add(*offset, data.as_bytes());
        }
        printed
    }

    fn differs(pieces: &[(u64, &str)], state: State, cut_bytes: u64) -> bool {
        let captured = Captured { kept: b"abcdef".to_vec(), written_bytes: 6 + cut_bytes, cut_bytes };
        printed(pieces).differs(&Outcome::bare(state, None, 0), &captured)
    }

    #[test]
    fn what_differs_in_a_byte_is_noticed_and_a_gap_is_none() {
        for pieces in [&[][..], &[(0, "abcdef")], &[(0, "ab"), (2, "cd")], &[(1, "b"), (4, "ef")]] {
            assert!(!differs(pieces, State::Succeeded, 0), "{pieces:?}");
        }
        for pieces in [&[(0, "abcdeF")][..], &[(0, "ab"), (3, "cd")], &[(1, "b"), (4, "fe")], &[(6, "g")]] {
            assert!(differs(pieces, State::Failed, 0), "{pieces:?}");
        }
    }

    #[test]
    fn what_no_result_tells_is_not_judged() {
        assert!(!differs(&[(0, "xyz")], State::Interrupted, 0));
        assert!(!differs(&[(0, "xyz")], State::Succeeded, 10));
        assert!(differs(&[(14, "xyz")], State::Succeeded, 10), "more than was written");
    }

    #[test]
    fn any_number_of_gaps_takes_no_more_memory() {
        let mut many = Printed::default();
        for at in 0..=PARTS as u64 {
            many.add(2 * at, b"a");
        }
        assert_eq!(many.parts.len(), PARTS);
        let kept = vec![b'a'; 2 * PARTS + 1];
        let captured = Captured { written_bytes: kept.len() as u64, kept, cut_bytes: 0 };
        assert!(many.differs(&Outcome::bare(State::Succeeded, None, 0), &captured));
    }
}
