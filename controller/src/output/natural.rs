//! The order in which people expect names: `web2` comes before `web10`.

use std::{cmp::Ordering, iter::Peekable, str::Chars};

use protocol::name::HostName;

/// Compares names, in which numbers count by their value.
pub fn by_name(one: &HostName, other: &HostName) -> Ordering {
    let (mut left, mut right) = (one.as_str().chars().peekable(), other.as_str().chars().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            // Equal but for zeros.
            (None, None) => return one.cmp(other),
            (Some(a), Some(b)) if a.is_ascii_digit() && b.is_ascii_digit() => {
                let (a, b) = (digits(&mut left), digits(&mut right));
                a.len().cmp(&b.len()).then_with(|| a.cmp(&b))
            }
            _ => left.next().cmp(&right.next()),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// The number that comes next, without zeros in front.
fn digits(chars: &mut Peekable<Chars>) -> String {
    let mut number = String::new();
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        number.push(digit);
    }
    number.trim_start_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count_by_their_value() {
        let mut names: Vec<HostName> =
            ["web10", "web2", "web02", "db-1", "web1.b", "web1.a", "web", "web1", "1web", "n9-2", "n10-1"]
                .map(|name| name.parse().unwrap())
                .into();
        names.sort_by(by_name);
        let names: Vec<_> = names.iter().map(HostName::as_str).collect();
        assert_eq!(names.join(" "), "1web db-1 n9-2 n10-1 web web1 web1.a web1.b web02 web2 web10");
    }
}
