//! Ranges in brackets, which are short for several names: `web[1-20]`, `web[01-03,7]`, `r[1-2]n[1-2]`.

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
}

/// All texts that the ranges of this one stand for, in order: `web[1-3]` for three, and what has no brackets for itself.
///
/// # Errors
/// What is between brackets is no range, or the text would stand for more than [`MOST`].
pub fn expand(text: &str) -> Result<Vec<String>, RangeError> {
    let wrong = |what| RangeError::Malformed(text.to_owned(), what);
    let (mut spelled, mut rest) = (vec![String::new()], text);
    while let Some((before, after)) = rest.split_once('[') {
        let (range, behind) = after.split_once(']').ok_or_else(|| wrong("a ']' is missing"))?;
        let numbers = numbers(range, MOST / spelled.len()).map_err(|error| match error {
            Some(what) => wrong(what),
            None => RangeError::Many(text.to_owned()),
        })?;
        let longer =
            |start: &String| numbers.iter().map(move |number| format!("{start}{before}{number}")).collect::<Vec<_>>();
        spelled = spelled.iter().flat_map(longer).collect();
        rest = behind;
    }
    if rest.contains(']') {
        return Err(wrong("a '[' is missing"));
    }
    for name in &mut spelled {
        name.push_str(rest);
    }
    Ok(spelled)
}

/// The numbers of `1-20,25`, as they are written: with the zeros of `01-20`. The error is what is wrong; `None`: that there
/// are more than `most`.
fn numbers(range: &str, most: usize) -> Result<Vec<String>, Option<&'static str>> {
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
        let width = if first.starts_with('0') { first.len() } else { 0 };
        if to - from >= (most - numbers.len()) as u64 {
            return Err(None);
        }
        numbers.extend((from..=to).map(|number| format!("{number:0width$}")));
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
    }
}
