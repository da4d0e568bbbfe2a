//! Equal output of several hosts, and the names of many hosts in a few words: `web[1-28]`.

use std::collections::BTreeMap;

use protocol::{name::HostName, outcome::Outcome};

use crate::client::HostResult;

/// Characters of a label at most. Beyond that, hosts are counted and the first of them named.
const LABEL: usize = 40;

/// Hosts, and what each of them has printed. Hosts that printed the same are one group, if `folds`. In the order of their
/// first hosts.
pub fn groups<'a>(results: &[&'a HostResult], folds: bool) -> Vec<(Vec<&'a HostName>, &'a Outcome)> {
    let mut groups: Vec<(Vec<&HostName>, &Outcome)> = Vec::new();
    let mut places = BTreeMap::new();
    for result in results {
        let Some(outcome) = &result.outcome else { continue };
        // Whether what was cut is equal is not known.
        let known = folds && !outcome.is_cut();
        let place = match known.then_some((&outcome.stdout.kept, &outcome.stderr.kept)) {
            Some(printed) => *places.entry(printed).or_insert(groups.len()),
            None => groups.len(),
        };
        match groups.get_mut(place) {
            Some((hosts, _)) => hosts.push(&result.host),
            None => groups.push((vec![&result.host], outcome)),
        }
    }
    groups
}

/// The hosts in a few words: `web1`, `db1, web[1-28]`, `28 hosts: alpha, beta, …`.
pub fn label(hosts: &[&HostName]) -> String {
    let names = names(hosts);
    if names.len() <= LABEL || hosts.len() == 1 {
        return names;
    }
    let mut first = String::new();
    for host in hosts {
        if first.len() + host.as_str().len() > LABEL {
            break;
        }
        first = first + host.as_str() + ", ";
    }
    format!("{} hosts: {first}…", hosts.len())
}

/// The names of all hosts: `db1, web[1-28]`.
pub fn names(hosts: &[&HostName]) -> String {
    // How wide the number is with its zeros; none where the name has no number.
    let mut series: BTreeMap<(&str, &str, Option<usize>), Vec<u64>> = BTreeMap::new();
    for host in hosts {
        let (stem, digits, rest) = split(host.as_str());
        let padded = if digits.starts_with('0') { digits.len() } else { 0 };
        let padded = (!digits.is_empty()).then_some(padded);
        let numbers = series.entry((stem, rest, padded)).or_default();
        numbers.extend(digits.parse::<u64>());
    }
    let names = series.into_iter().map(|((stem, rest, padded), numbers)| {
        let ranges = ranges(numbers, padded.unwrap_or_default());
        if ranges.contains(['-', ',']) { format!("{stem}[{ranges}]{rest}") } else { format!("{stem}{ranges}{rest}") }
    });
    names.collect::<Vec<_>>().join(", ")
}

/// A name's beginning, its last number of at most 18 digits before the first dot, and what follows.
fn split(name: &str) -> (&str, &str, &str) {
    let end = name.find('.').unwrap_or(name.len());
    let stem = name[..end].trim_end_matches(|character: char| character.is_ascii_digit());
    let digits = &name[stem.len()..end];
    if digits.len() > 18 { (name, "", "") } else { (stem, digits, &name[end..]) }
}

/// `1-3,7`.
fn ranges(mut numbers: Vec<u64>, padded: usize) -> String {
    numbers.sort_unstable();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let shown = |(first, last): (u64, u64)| match last - first {
        0 => format!("{first:0padded$}"),
        1 => format!("{first:0padded$},{last:0padded$}"),
        _ => format!("{first:0padded$}-{last:0padded$}"),
    };
    ranges.into_iter().map(shown).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use protocol::outcome::{Captured, State};

    use super::*;

    fn named(names: &[&str]) -> String {
        let hosts: Vec<HostName> = names.iter().map(|name| name.parse().unwrap()).collect();
        label(&hosts.iter().collect::<Vec<_>>())
    }

    #[test]
    fn many_hosts_are_named_in_a_few_words() {
        assert_eq!(named(&["web1"]), "web1");
        assert_eq!(named(&["web1", "web10", "web2", "web3", "web7"]), "web[1-3,7,10]");
        assert_eq!(named(&["db", "web1.example", "web2.example"]), "db, web[1,2].example");
        assert_eq!(named(&["n01", "n02", "n03"]), "n[01-03]");
        assert_eq!(named(&["a-1", "10"]), "10, a-1");
        assert_eq!(named(&["web", "web1", "web2", "web3"]), "web, web[1-3]");
        let many: Vec<_> = (b'a'..=b'z').map(|letter| format!("host-{}", char::from(letter))).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(named(&many), "26 hosts: host-a, host-b, host-c, host-d, host-e, …");
        let long = "x".repeat(60);
        assert_eq!(named(&[&long]), long);
    }

    #[test]
    fn equal_output_is_one_group_unless_a_part_of_it_is_unknown() {
        let result = |host: &str, text: &str, cut_bytes| {
            let stdout = Captured { kept: text.into(), written_bytes: text.len() as u64 + cut_bytes, cut_bytes };
            let outcome = Outcome { stdout, ..Outcome::bare(State::Succeeded, None, 0) };
            HostResult { outcome: Some(outcome), ..HostResult::new(host.parse().unwrap()) }
        };
        let results =
            [result("a", "x", 0), result("b", "y", 0), result("c", "x", 0), result("d", "x", 5), result("e", "x", 5)];
        let results: Vec<_> = results.iter().collect();
        let labels = |folds| groups(&results, folds).iter().map(|(hosts, _)| label(hosts)).collect::<Vec<_>>();
        assert_eq!(labels(true), ["a, c", "b", "d", "e"]);
        assert_eq!(labels(false), ["a", "b", "c", "d", "e"]);
    }
}
