//! The order in which people expect names: `web2` comes before `web10`.

use std::cmp::Ordering;

use protocol::name::HostName;

/// Compares names, in which numbers count by their value.
pub fn by_name(one: &HostName, other: &HostName) -> Ordering {
    let (mut left, mut right) = (one.as_str(), other.as_str());
    let is_digit = |text: &str| text.starts_with(|char: char| char.is_ascii_digit());
    loop {
        let order = if left.is_empty() && right.is_empty() {
            // Equal but for zeros.
            return one.cmp(other);
        } else if is_digit(left) && is_digit(right) {
            let (a, b) = (number(&mut left), number(&mut right));
            a.len().cmp(&b.len()).then_with(|| a.cmp(b))
        } else {
            let (mut a, mut b) = (left.chars(), right.chars());
            let order = a.next().cmp(&b.next());
            (left, right) = (a.as_str(), b.as_str());
            order
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Takes the number with which the text begins, without zeros in front.
fn number<'a>(text: &mut &'a str) -> &'a str {
    let end = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    *text = rest;
    number.trim_start_matches('0')
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
