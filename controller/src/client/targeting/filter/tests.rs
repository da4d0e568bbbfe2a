use std::collections::HashMap;

use proptest::{collection::vec, prelude::*, sample::select, test_runner::Config};

use super::*;

fn judge(text: &str) -> Truth {
    let known: HashMap<&str, &str> = [
        ("host", "web1"),
        ("state", "online"),
        ("os", "Debian GNU/Linux"),
        ("os_version", "12"),
        ("cores", "2"),
        ("memory.odd", "nan"),
        ("label.env", "prod"),
        ("label.none", ""),
        ("cpu.usage", "81.5"),
        ("memory.used_bytes", "5368709120"),
        ("disk.fullest_mount", "/var"),
    ]
    .into();
    let filter: Filter = text.parse().unwrap_or_else(|error| panic!("{error}"));
    filter.judge(&|field| {
        let value = known.get(field.to_string().as_str());
        value.map(ToString::to_string).ok_or_else(|| format!("{field} is not known"))
    })
}

#[test]
fn comparisons_hold_or_not() {
    for (text, holds) in [
        (r#"cpu.usage > 80 and label.env = "prod" and os ~ "debian*""#, true),
        ("cpu.usage > 81.5", false),
        ("cpu.usage >= 81.5%", true),
        ("cpu.usage < 100 and not cpu.usage <= 50", true),
        ("memory.used_bytes > 4GiB", true),
        ("memory.used_bytes > 6GB", false),
        ("os_version = 12", true),
        ("os_version = 12.0", false),
        ("cores = 2.0", true),
        // 'and' binds more tightly than 'or'.
        ("host = web1 or os = x and os = y", true),
        ("os = y and os = x or host = web1", true),
        ("not host = web1 or host = web1", true),
        ("os_version = '12.0'", false),
        ("os = debian", false),
        ("os ~ DEBIAN*", true),
        ("os !~ 'red hat*'", true),
        ("label.none = ''", true),
        ("label.env != prod or host = web1", true),
        ("(label.env != prod or host = web1) and state = offline", false),
        ("NOT (host ~ web? AND state = online)", false),
        ("disk.fullest_mount = /var", true),
    ] {
        assert_eq!(judge(text), if holds { Truth::Yes } else { Truth::No }, "{text}");
    }
}

#[test]
fn what_is_not_known_is_neither_and_decides_nothing() {
    for text in ["cpu.none > 1", "not cpu.none > 1", "cpu.none > 1 and host = web1", "cpu.none > 1 or host = db1"] {
        assert_eq!(judge(text), Truth::Unknown("cpu.none is not known".into()), "{text}");
    }
    assert_eq!(judge("cpu.none > 1 and host = db1"), Truth::No);
    assert_eq!(judge("host = web1 or cpu.none > 1"), Truth::Yes);
    let no_number = Truth::Unknown("os is 'Debian GNU/Linux', which is no number".into());
    assert_eq!(judge("os > 3"), no_number);
    assert!(matches!(judge("not memory.odd > 3"), Truth::Unknown(_)));
}

#[test]
fn what_is_wrong_is_pointed_at() {
    for (text, caret, problem) in [
        ("", "^", "a comparison such as cpu.usage > 80 is missing here"),
        ("cpu.usage >> 80", "           ^", "after >, a value is missing"),
        ("cpu.usage", "         ^", "after cpu.usage, one of = != < <= > >= ~ !~ is missing"),
        ("cpuu.usage > 1", "^^^^^^^^^^", "there is no 'cpuu.usage': did you mean cpu.usage?"),
        ("os > debian", "     ^^^^^^", "> needs a number"),
        ("(os = a", "^", "this '(' is never closed"),
        ("os = a)", "      ^", "there is no '(' to this"),
        ("os = a cpu.usage > 1", "       ^^^^^^^^^", "'and' or 'or' is missing before this"),
        ("os = ä & x", "       ^", "it means nothing here"),
        ("os = 'x", "     ^^", "its quote is never closed"),
        ("state = up", "        ^^", "a state is online, offline or stopped"),
        ("'os' = x", "^^^^", "a name such as cpu.usage"),
        ("os =\nx y", "       ^", "is missing before this"),
    ] {
        let error = text.parse::<Filter>().unwrap_err().to_string();
        let lines: Vec<_> = error.lines().collect();
        assert!(lines[0].contains(problem), "{text}: {error}");
        assert_eq!(lines.last().unwrap().strip_prefix("  "), Some(caret), "{text}: {error}");
    }
    let deep = format!("{}os = x{}", "(".repeat(200), ")".repeat(200));
    assert!(deep.parse::<Filter>().unwrap_err().to_string().contains("nested deeper than 50"));
    let wide = vec!["os = x"; 300].join(" or ");
    assert!(wide.parse::<Filter>().is_ok());
    assert!("ä".repeat(3000).parse::<Filter>().unwrap_err().to_string().contains("at most 4096 bytes, not 6000"));
}

#[test]
fn labels_are_asked_for_in_short() {
    let judge = |text: &str| {
        let filter = Filter::labels(text).unwrap_or_else(|error| panic!("{error}"));
        filter.judge(&|field| Ok(if field.to_string() == "label.role" { "db" } else { "" }.to_owned()))
    };
    for (text, holds) in [
        ("role=db", true),
        ("role==db", true),
        ("role!=db", false),
        ("role", true),
        ("none", false),
        ("role=db,none=", true),
        ("role=db, none=x", false),
        ("role=d", false),
    ] {
        assert_eq!(judge(text), if holds { Truth::Yes } else { Truth::No }, "{text}");
    }
    for (text, caret, problem) in [
        ("=db", "^^^", "write NAME=VALUE"),
        ("role=db,!tier", "        ^^^^^", "write NAME=VALUE"),
        ("role~db", "^^^^^^^", "write NAME=VALUE"),
        ("role!=db*", "^^^^^^^^^", "this is no pattern here"),
        ("", "^", "write NAME=VALUE"),
    ] {
        let refused = Filter::labels(text).unwrap_err().to_string();
        assert!(refused.contains(problem) && refused.lines().last().unwrap()[2..] == *caret, "{text}: {refused}");
    }
}

/// An expression, and what it must come to.
type Expected = (String, Option<bool>);

/// What a sign means for two numbers.
type Holds = fn(usize, usize) -> bool;

/// A comparison, and what it must come to. Of the labels 0 to 9, each is its own number; those above are not known.
fn comparison() -> impl Strategy<Value = Expected> {
    let signs: [(&str, Holds); 6] = [
        ("=", |one, other| one == other),
        ("!=", |one, other| one != other),
        ("<", |one, other| one < other),
        ("<=", |one, other| one <= other),
        (">", |one, other| one > other),
        (">=", |one, other| one >= other),
    ];
    (0..14_usize, 0..10_usize, select(signs.to_vec()), select(vec!["", " ", "  "])).prop_map(
        |(name, value, (sign, holds), blank)| {
            let known = (name < 10).then_some(name);
            (format!("label.l{name}{blank}{sign}{blank}{value}"), known.map(|known| holds(known, value)))
        },
    )
}

/// An expression, and what it must come to.
fn expression() -> impl Strategy<Value = Expected> {
    comparison().prop_recursive(5, 64, 2, |inner| {
        let both = |((one, first), (other, second)): (Expected, Expected)| {
            let both = match (first, second) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            };
            (format!("({one}) AND ({other})"), both)
        };
        let either = |((one, first), (other, second)): (Expected, Expected)| {
            let either = match (first, second) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            };
            (format!("({one}) or ({other})"), either)
        };
        prop_oneof![
            inner.clone().prop_map(|(one, first)| (format!("not ({one})"), first.map(|first| !first))),
            (inner.clone(), inner.clone()).prop_map(both),
            (inner.clone(), inner).prop_map(either),
        ]
    })
}

/// What may stand in an expression, and what may not.
const PARTS: [&str; 24] = [
    "cpu.usage",
    "label.ä",
    ">",
    "<=",
    "!~",
    "=",
    "and",
    "or",
    "not",
    "(",
    ")",
    "'",
    "\"",
    "\\",
    "80%",
    "4GiB",
    "-",
    "\n",
    "\u{1b}",
    "é",
    ",",
    "state",
    "online",
    " ",
];

proptest! {
    #![proptest_config(Config { cases: 20_000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn whatever_is_written_comes_to_what_its_parts_come_to((text, expected) in expression()) {
        let filter: Filter = text.parse().unwrap_or_else(|error| panic!("{error}"));
        let found = filter.judge(&|field| {
            let Field::Label(name) = field else { panic!("{field}") };
            let number = name.strip_prefix('l').unwrap().parse::<usize>().unwrap();
            if number < 10 { Ok(number.to_string()) } else { Err("?".into()) }
        });
        let found = match found {
            Truth::Yes => Some(true),
            Truth::No => Some(false),
            Truth::Unknown(_) => None,
        };
        prop_assert_eq!(found, expected, "{}", text);
    }

    #[test]
    fn whatever_is_typed_is_read_or_pointed_at(parts in vec(select(&PARTS[..]), 0..12)) {
        let text = parts.concat();
        if let Err(error) = text.parse::<Filter>() {
            let shown = error.to_string();
            prop_assert!(shown.lines().count() == 3 && shown.ends_with('^'), "{:?}: {}", text, shown);
            prop_assert!(!shown.chars().any(|char| char.is_control() && char != '\n'), "{:?}: {:?}", text, shown);
        }
    }
}
