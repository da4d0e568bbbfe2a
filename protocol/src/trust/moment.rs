//! Moments as trust files write them, in Unix seconds.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// Reads `YYYYMMDDZ`, `YYYYMMDDHHMMZ` or `YYYYMMDDHHMMSSZ`.
///
/// OpenSSH takes a moment without a `Z` in the zone of the machine. A trust file goes to many machines, and must mean
/// the same on each.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = |why: &str| format!("'{text}' is no moment: {why}; write it as 20301231Z or 20301231235959Z");
    let digits = text.strip_suffix(['Z', 'z']);
    let digits = digits.ok_or_else(|| wrong("without a Z at its end it would mean another one in each zone"))?;
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(wrong("it needs 8, 12 or 14 digits before the Z"));
    }
    let part = |from: usize, to: usize| digits.get(from..to).and_then(|part| part.parse::<i16>().ok()).unwrap_or(0);
    let small = |from: usize| i8::try_from(part(from, from + 2)).unwrap_or(-1);
    DateTime::new(part(0, 4), small(4), small(6), small(8), small(10), small(12), 0)
        .and_then(|moment| moment.to_zoned(TimeZone::UTC))
        .ok()
        .and_then(|moment| u64::try_from(moment.timestamp().as_second()).ok())
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| wrong("there is no such date"))
}

/// A moment as messages show it.
pub fn show(at: u64) -> String {
    let moment = i64::try_from(at).ok().and_then(|at| Timestamp::from_second(at).ok());
    moment.map_or_else(|| "the end of time".to_owned(), |moment| moment.to_string())
}
