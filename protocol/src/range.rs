//! Ranges in brackets, which are short for several names: `web[1-20]`, `web[01-03,7]`, `r[1-2]n[1-2]`.

use std::{fmt::Write, iter};

use crate::name::MAX_NAME;

/// Names that a text can stand for at most.
pub const MOST: usize = 10_000;

/// Why a text with brackets stands for no names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Something is wrong between brackets.
    #[error("'{0}' has no range such as [1-20] or [1,3,7-9] in it: {1}")]
    Malformed(String, &'static str),
    /// It would stand for too many.
    #[error("'{0}' stands for more than {MOST} hosts")]
    Many(String),
    /// No host can be called that.
    #[error("'{0}…' stands for names of more than {MAX_NAME} characters")]
    Long(String),
}

/// A text, taken apart: each of its names is made when it is asked for, so that a short text cannot take much memory.
#[derive(Clone, Debug)]
pub struct Spelled<'a> {
    /// What stands before each range, and the range.
    parts: Vec<(&'a str, Vec<Numbers>)>,
    end: &'a str,
    count: usize,
}

/// Numbers in a row, with at least so many digits.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    from: u64,
    to: u64,
    width: usize,
    /// How many stand before them in the same brackets.
    before: usize,
}

/// All texts that the ranges of this one stand for, in order: `web[1-3]` for three, and what has no brackets for itself.
///
/// # Errors
/// As [`Spelled::read`].
pub fn expand(text: &str) -> Result<Vec<String>, RangeError> {
    Ok(Spelled::read(text)?.names().collect())
}

impl<'a> Spelled<'a> {
    /// Takes a text apart. Its lists of numbers may be long, and the names may not.
    ///
    /// # Errors
    /// What is between brackets is no range, or the text would stand for more than [`MOST`] names or for longer ones than
    /// hosts have.
    pub fn read(text: &'a str) -> Result<Self, RangeError> {
        let wrong = |what| RangeError::Malformed(text.to_owned(), what);
        let (mut parts, mut rest, mut count, mut longest) = (Vec::new(), text, 1, 0);
        let mut lengthens = |by: usize| {
            longest += by;
            let long = || RangeError::Long(text.chars().take(80).collect());
            if longest > MAX_NAME { Err(long()) } else { Ok(()) }
        };
        while let Some((before, after)) = rest.split_once('[') {
            let (range, behind) = after.split_once(']').ok_or_else(|| wrong("a ']' is missing"))?;
            let numbers = numbers(range, MOST / count).map_err(|error| match error {
                Some(what) => wrong(what),
                None => RangeError::Many(text.to_owned()),
            })?;
            lengthens(before.chars().count() + numbers.iter().map(Numbers::digits).max().unwrap_or(0))?;
            count *= count_of(&numbers);
            parts.push((before, numbers));
            rest = behind;
        }
        if rest.contains(']') {
            return Err(wrong("a '[' is missing"));
        }
        lengthens(rest.chars().count())?;
        Ok(Self { parts, end: rest, count })
    }

    /// For how many names it stands.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// They, in order.
    pub fn names(&self) -> impl Iterator<Item = String> {
        (0..self.count).map(|at| self.name(at))
    }

    /// The name at this place: the last range changes the soonest.
    fn name(&self, at: usize) -> String {
        let mut name = String::new();
        let mut below = self.count;
        for (before, numbers) in &self.parts {
            let count = count_of(numbers);
            below /= count;
            name.push_str(before);
            let place = at / below % count;
            let row =
                numbers.partition_point(|row| row.before <= place).checked_sub(1).and_then(|row| numbers.get(row));
            if let Some(Numbers { from, width, before, .. }) = row {
                let _ = write!(name, "{:0width$}", from + (place - before) as u64);
            }
        }
        name.push_str(self.end);
        name
    }
}

impl Numbers {
    fn digits(&self) -> usize {
        let digits = iter::successors(Some(self.to), |number| Some(number / 10).filter(|number| *number > 0)).count();
        digits.max(self.width)
    }
}

/// How many numbers there are in brackets.
fn count_of(numbers: &[Numbers]) -> usize {
    numbers.last().map_or(0, |last| last.before + usize::try_from(last.to - last.from).unwrap_or(MOST) + 1)
}

/// The numbers of `1-20,25`, as they are written: with the zeros of `01-20`. The error is what is wrong; `None`: that there
/// are more than `most`.
fn numbers(range: &str, most: usize) -> Result<Vec<Numbers>, Option<&'static str>> {
    let read = |digits: &str| {
        let is_number = !digits.is_empty() && digits.len() <= 18 && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = is_number.then(|| digits.parse::<u64>().ok()).flatten();
        number.ok_or(Some("there must be numbers, commas and minus signs between the brackets"))
    };
    let mut numbers = Vec::new();
    for part in range.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (read(first)?, read(last)?);
        if from > to {
            return Err(Some("it ends before it begins"));
        }
        let before = count_of(&numbers);
        if to - from >= (most - before) as u64 {
            return Err(None);
        }
        let width = if first.starts_with('0') { first.len() } else { 0 };
        numbers.push(Numbers { from, to, width, before });
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stands_for_as_many_names_as_its_ranges_say() {
        assert_eq!(expand("r[1-2]n[09-10]*").unwrap(), ["r1n09*", "r1n10*", "r2n09*", "r2n10*"]);
        assert_eq!(expand("web").unwrap(), ["web"]);
        assert_eq!(expand("a[1-1000]b[1-1000]").unwrap_err(), RangeError::Many("a[1-1000]b[1-1000]".into()));
        assert!(matches!(expand("web[3-1]"), Err(RangeError::Malformed(..))));
        let last = expand("a[1,08-10]b[7,98-101]c").unwrap().pop();
        assert_eq!(last.as_deref(), Some("a10b101c"));
        assert_eq!(expand("a[1,08-10]b[7,98-101]c").unwrap()[5..7], ["a08b7c", "a08b98c"]);
    }

    /// What a hostile text may take is bounded by the lengths of its names, before any of them is made.
    #[test]
    fn no_text_stands_for_longer_names_than_hosts_have() {
        let long = |text: &str| matches!(Spelled::read(text), Err(RangeError::Long(_)));
        assert!(long(&format!("{}[1-10000]", "x".repeat(150_000))));
        assert!(long(&format!("[1-10000]{}", "x".repeat(150_000))));
        assert!(long(&format!("{}[1-10000]", "[1]".repeat(50_000))));
        assert!(long(&format!("[1-10000]{}", "[1]".repeat(249))));
        assert!(long(&format!("{}[000000000000000001-3]", "x".repeat(236))));
        assert!(long(&"x".repeat(MAX_NAME + 1)));
        let most = format!("{}[1-10000]", "x".repeat(MAX_NAME - 5));
        assert_eq!(Spelled::read(&most).unwrap().count(), MOST);
        // A list of many numbers stands for short names.
        let list: Vec<_> = (0..500).map(|number| (2 * number).to_string()).collect();
        assert_eq!(expand(&format!("web[{}]", list.join(","))).unwrap()[499], "web998");
    }
}
