//! Expressions over what is known about a host: `cpu.usage > 80 and label.env = "prod"`.
//!
//! They are judged in three values (Kleene's logic): what depends on something that is not known is not known.

use std::{collections::HashMap, fmt, ops::Range, str::FromStr};

use protocol::name::GroupName;
use wildmatch::WildMatch;

use super::{
    field::Field,
    lexer::{self, Placed, Sign, Token},
    word::Word,
};

/// How deep expressions may be nested.
const DEEPEST: usize = 50;

/// Bytes of an expression at most.
const LONGEST: usize = 4096;

/// What must hold for a host.
#[derive(Clone, Debug)]
pub struct Filter {
    text: String,
    root: Node,
    /// What the groups in it stand for, each behind those that it refers to itself.
    groups: Vec<(GroupName, Node)>,
}

#[derive(Clone, Debug)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Test(Test),
    /// The host is one of these.
    Named(Word),
    /// The host is in this group.
    Group(GroupName),
}

/// Of a host, which of the groups it is in.
type Memberships<'a> = HashMap<&'a GroupName, Truth>;

/// A comparison of a field with a value.
#[derive(Clone, Debug)]
struct Test {
    field: Field,
    sign: Sign,
    text: String,
    /// What the text is as a number. What was quoted is none.
    number: Option<f64>,
    /// For `~`.
    pattern: WildMatch,
}

/// Whether something holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It is not known, for this reason.
    Unknown(String),
}

/// Why a text is no expression, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    text: String,
    at: Range<usize>,
    problem: String,
}

impl std::error::Error for FilterError {}

impl fmt::Display for FilterError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What would move the caret is shown as a blank.
        let shown: String = self.text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
        let columns = |text: &str| text.chars().count();
        let before = columns(&self.text[..self.at.start]);
        let carets = columns(&self.text[self.at.clone()]).max(1);
        write!(out, "{}\n  {shown}\n  {:before$}{}", self.problem, "", "^".repeat(carets))
    }
}

impl FilterError {
    /// What is wrong, in one line.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// Where it is, in bytes of the text; empty where something is missing.
    pub const fn place(&self) -> &Range<usize> {
        &self.at
    }
}

impl Filter {
    /// That labels have values (`NAME=VALUE`), have others (`NAME!=VALUE`), or are set at all (`NAME`), separated by commas:
    /// all of it must hold.
    ///
    /// # Errors
    /// It is something else.
    pub fn labels(text: &str) -> Result<Self, FilterError> {
        let (mut tests, mut shown, mut begin) = (Vec::new(), Vec::new(), 0);
        for one in text.split(',') {
            let at = begin..begin + one.len();
            let failed = |problem: &str| FilterError { text: text.to_owned(), at, problem: problem.to_owned() };
            let asked = label(one).map_err(failed)?;
            shown.push(format!("{} {} {}", asked.field, asked.sign.text(), lexer::quoted_if_needed(&asked.text)));
            tests.push(Node::Test(asked));
            begin += one.len() + 1;
        }
        Ok(Self::new(shown.join(" and "), Node::All(tests)))
    }

    /// That the host is one of these.
    pub(in crate::client) fn of_words(words: &[Word]) -> Self {
        let node =
            |word: &Word| word.group().map_or_else(|| Node::Named(word.clone()), |name| Node::Group(name.clone()));
        let text: Vec<_> = words.iter().map(Word::text).collect();
        Self::new(text.join(","), Node::Any(words.iter().map(node).collect()))
    }

    const fn new(text: String, root: Node) -> Self {
        Self { text, root, groups: Vec::new() }
    }

    /// An expression of a playbook, which may also ask for results of these earlier steps.
    ///
    /// # Errors
    /// It is none, or asks for the result of another step.
    pub fn after(text: &str, steps: &[&str]) -> Result<Self, FilterError> {
        Self::read(text, steps, false)
    }

    /// An expression over what is known about the fleet's Redis: `redis.used_memory > 1GiB`.
    ///
    /// # Errors
    /// It is none, or asks for something else.
    pub(in crate::client) fn about_redis(text: &str) -> Result<Self, FilterError> {
        Self::read(text, &[], true)
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self::new(format!("({}) and ({})", self.text, other.text), Node::All(vec![self.root, other.root]))
    }

    /// The opposite.
    #[must_use]
    pub(in crate::client) fn not(self) -> Self {
        Self::new(format!("not ({})", self.text), Node::Not(Box::new(self.root)))
    }

    /// The same, where these are what groups stand for, each behind those that it refers to itself.
    #[must_use]
    pub(in crate::client) fn knowing(self, groups: Vec<(GroupName, Self)>) -> Self {
        Self { groups: groups.into_iter().map(|(name, group)| (name, group.root)).collect(), ..self }
    }

    /// As it can be written: an expression, unless it names hosts.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The groups that it refers to.
    pub fn groups(&self) -> Vec<&GroupName> {
        let mut groups = Vec::new();
        self.root.visit(&mut |node| {
            if let Node::Group(name) = node {
                groups.push(name);
            }
        });
        groups
    }

    /// What must be known to judge it, each once.
    pub fn fields(&self) -> Vec<&Field> {
        let mut fields = Vec::new();
        for root in self.groups.iter().map(|(_, group)| group).chain([&self.root]) {
            root.visit(&mut |node| {
                if let Node::Test(test) = node
                    && !fields.contains(&&test.field)
                {
                    fields.push(&test.field);
                }
            });
        }
        fields
    }

    /// Judges it. `known`: the value of a field, or why it is not known.
    pub fn judge(&self, known: &impl Fn(&Field) -> Result<String, String>) -> Truth {
        let mut groups = HashMap::new();
        for (name, group) in &self.groups {
            let truth = group.judge(known, &groups);
            groups.insert(name, truth);
        }
        self.root.judge(known, &groups)
    }
}

/// Whether a label can have this name.
pub(in crate::client) fn is_label(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|char| char.is_alphanumeric() || "_-./".contains(char))
}

/// What a word of `--label` asks for.
fn label(text: &str) -> Result<Test, &'static str> {
    let (name, sign, value) = match text.split_once('=') {
        Some((name, value)) => match name.strip_suffix('!') {
            Some(name) => (name, Sign::IsNot, value),
            None => (name, Sign::Is, value.strip_prefix('=').unwrap_or(value)),
        },
        None => (text, Sign::IsNot, ""),
    };
    let (name, value) = (name.trim(), value.trim());
    if !is_label(name) {
        return Err("write NAME=VALUE, NAME!=VALUE or NAME; all else is for --where 'label.NAME …'");
    }
    if value.contains(['*', '?', '~', '=']) {
        return Err("this is no pattern here; write --where 'label.NAME ~ PATTERN', or the value in quotes there");
    }
    let field = Field::Label(name.to_owned());
    Ok(Test { field, sign, text: value.to_owned(), number: None, pattern: WildMatch::new("") })
}

impl Node {
    fn visit<'a>(&'a self, seen: &mut impl FnMut(&'a Self)) {
        seen(self);
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().for_each(|node| node.visit(seen)),
            Self::Not(node) => node.visit(seen),
            Self::Test(_) | Self::Named(_) | Self::Group(_) => {}
        }
    }

    fn judge(&self, known: &impl Fn(&Field) -> Result<String, String>, groups: &Memberships<'_>) -> Truth {
        let judged = |nodes: &[Self], decides, otherwise| {
            first(nodes.iter().map(|node| node.judge(known, groups)), decides, otherwise)
        };
        match self {
            Self::All(nodes) => judged(nodes, &Truth::No, Truth::Yes),
            Self::Any(nodes) => judged(nodes, &Truth::Yes, Truth::No),
            Self::Not(node) => match node.judge(known, groups) {
                Truth::Yes => Truth::No,
                Truth::No => Truth::Yes,
                unknown @ Truth::Unknown(_) => unknown,
            },
            Self::Test(test) => match known(&test.field) {
                Ok(value) => test.judge(&value),
                Err(reason) => Truth::Unknown(reason),
            },
            Self::Named(word) => match known(&Field::Host) {
                Ok(name) if word.matches(&name) => Truth::Yes,
                Ok(_) => Truth::No,
                Err(reason) => Truth::Unknown(reason),
            },
            Self::Group(name) => {
                let unknown = || Truth::Unknown(format!("nobody has looked up what @{name} is"));
                groups.get(name).cloned().unwrap_or_else(unknown)
            }
        }
    }
}

/// What decides, if any of them does; else the first that is not known; else what they all are.
fn first(truths: impl Iterator<Item = Truth>, decides: &Truth, otherwise: Truth) -> Truth {
    let mut result = otherwise;
    for truth in truths {
        if truth == *decides {
            return truth;
        }
        if matches!(truth, Truth::Unknown(_)) && !matches!(result, Truth::Unknown(_)) {
            result = truth;
        }
    }
    result
}

impl Test {
    fn judge(&self, value: &str) -> Truth {
        let holds = match self.sign {
            Sign::Is => self.is_equal(value),
            Sign::IsNot => !self.is_equal(value),
            Sign::Like => self.pattern.matches(&value.to_lowercase()),
            Sign::Unlike => !self.pattern.matches(&value.to_lowercase()),
            Sign::Less | Sign::AtMost | Sign::More | Sign::AtLeast => {
                let (Some(limit), Some(value)) = (self.number, finite(value)) else {
                    return Truth::Unknown(format!("{} is '{value}', which is no number", self.field));
                };
                match self.sign {
                    Sign::Less => value < limit,
                    Sign::AtMost => value <= limit,
                    Sign::More => value > limit,
                    _ => value >= limit,
                }
            }
        };
        if holds { Truth::Yes } else { Truth::No }
    }

    #[expect(clippy::float_cmp, reason = "both were read from a text")]
    fn is_equal(&self, value: &str) -> bool {
        // A version, a name or a label is a text: 1.10 is not 1.1.
        let as_numbers = || Some(self.field.is_figure() && self.number? == finite(value)?);
        value == self.text || as_numbers().unwrap_or(false)
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::read(text, &[], false)
    }
}

impl Filter {
    fn read(text: &str, steps: &[&str], is_about_redis: bool) -> Result<Self, FilterError> {
        let failed = |at, problem: &str| FilterError { text: text.to_owned(), at, problem: problem.to_owned() };
        if text.len() > LONGEST {
            let problem = format!("an expression has at most {LONGEST} bytes, not {}", text.len());
            let text = text.chars().take(60).collect::<String>() + "…";
            let at = text.len() - '…'.len_utf8()..text.len();
            return Err(FilterError { text, at, problem });
        }
        let tokens = lexer::read(text).map_err(|(at, problem)| failed(at, problem))?;
        let mut parser = Parser { text, tokens: &tokens, depth: 0, steps, is_about_redis };
        let root = parser.any()?;
        match parser.tokens.first() {
            None => Ok(Self::new(text.to_owned(), root)),
            Some((Token::Close, at)) => Err(failed(at.clone(), "there is no '(' to this")),
            Some((_, at)) => Err(failed(at.clone(), "'and' or 'or' is missing before this")),
        }
    }
}

/// Reads one rule of the grammar after the other.
struct Parser<'a> {
    text: &'a str,
    tokens: &'a [Placed],
    depth: usize,
    /// The steps whose results can be asked for.
    steps: &'a [&'a str],
    /// Whether it asks for what is known about Redis, and not about hosts.
    is_about_redis: bool,
}

impl Parser<'_> {
    fn fail<T>(&self, at: Range<usize>, problem: impl Into<String>) -> Result<T, FilterError> {
        Err(FilterError { text: self.text.to_owned(), at, problem: problem.into() })
    }

    /// That something is missing where this was found, or at the end.
    fn missing<T>(&self, found: Option<Placed>, what: impl Into<String>) -> Result<T, FilterError> {
        let end = self.text.len();
        self.fail(found.map_or(end..end, |(_, at)| at), what)
    }

    fn next(&mut self) -> Option<Placed> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first.clone())
    }

    /// Takes this word, if it comes next.
    fn take(&mut self, word: &str) -> bool {
        let is_next = matches!(self.tokens.first(), Some((Token::Word(next), _)) if next.eq_ignore_ascii_case(word));
        if is_next {
            self.tokens = &self.tokens[1..];
        }
        is_next
    }

    fn any(&mut self) -> Result<Node, FilterError> {
        let mut nodes = vec![self.all()?];
        while self.take("or") {
            nodes.push(self.all()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Any(nodes) })
    }

    fn all(&mut self) -> Result<Node, FilterError> {
        let mut nodes = vec![self.one()?];
        while self.take("and") {
            nodes.push(self.one()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::All(nodes) })
    }

    fn one(&mut self) -> Result<Node, FilterError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.missing(self.tokens.first().cloned(), format!("it is nested deeper than {DEEPEST} times"));
        }
        let node = if self.take("not") {
            Node::Not(Box::new(self.one()?))
        } else {
            match self.next() {
                Some((Token::Open, at)) => {
                    let inner = self.any()?;
                    if !matches!(self.next(), Some((Token::Close, _))) {
                        return self.fail(at, "this '(' is never closed");
                    }
                    inner
                }
                Some((Token::Word(word), at)) => match word.strip_prefix('@').map(str::parse) {
                    Some(Ok(group)) => Node::Group(group),
                    Some(Err(error)) => return self.fail(at, error.to_string()),
                    None => self.test(&word, at)?,
                },
                Some((_, at)) => return self.fail(at, "a name such as cpu.usage, os or label.env is missing here"),
                None => return self.missing(None, "a comparison such as cpu.usage > 80 is missing here"),
            }
        };
        self.depth -= 1;
        Ok(node)
    }

    fn test(&mut self, name: &str, at: Range<usize>) -> Result<Node, FilterError> {
        let field = match name.parse::<Field>() {
            Ok(field) => field,
            Err(error) => return self.fail(at, error.to_string()),
        };
        if let Field::Result(step, _) = &field
            && !self.steps.contains(&step.as_str())
        {
            let known = if self.steps.is_empty() { "none" } else { &self.steps.join(", ") };
            return self.fail(at, format!("there is no earlier step '{step}' of a playbook here, but {known}"));
        }
        if matches!(field, Field::Redis(_)) != self.is_about_redis {
            let problem = if self.is_about_redis {
                "a rule about Redis asks for redis.NAME only, such as redis.used_memory"
            } else {
                "redis.NAME is nothing of a host: only rules of alerts with on = \"redis\" ask for it"
            };
            return self.fail(at, problem);
        }
        let sign = match self.next() {
            Some((Token::Sign(sign), _)) => sign,
            other => return self.missing(other, format!("after {name}, one of = != < <= > >= ~ !~ is missing")),
        };
        let (text, number, at) = match self.next() {
            Some((Token::Text(text), at)) => (text, None, at),
            Some((Token::Word(text), at)) => {
                let number = number(&text);
                (text, number, at)
            }
            other => return self.missing(other, format!("after {}, a value is missing", sign.text())),
        };
        let compares = matches!(sign, Sign::Less | Sign::AtMost | Sign::More | Sign::AtLeast);
        if compares && number.is_none() {
            return self.fail(at, format!("{} needs a number, such as 80, 1.5, 90% or 4GiB", sign.text()));
        }
        let states = ["online", "offline", "stopped"];
        if field == Field::State && matches!(sign, Sign::Is | Sign::IsNot) && !states.contains(&text.as_str()) {
            return self.fail(at, "a state is online, offline or stopped");
        }
        let pattern = WildMatch::new(&text.to_lowercase());
        Ok(Node::Test(Test { field, sign, text, number, pattern }))
    }
}

/// Units of numbers. A percentage is what figures are in already.
const UNITS: [(&str, f64); 9] = [
    ("%", 1.0),
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("TiB", 1_099_511_627_776.0),
    ("kB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
];

/// What is known, as a number.
fn finite(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// A number, maybe with a unit.
fn number(text: &str) -> Option<f64> {
    let unit = UNITS.into_iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    let (digits, factor) = unit.unwrap_or((text, 1.0));
    let is_plain = digits.starts_with(|char: char| char.is_ascii_digit() || char == '-');
    let number = digits.parse::<f64>().ok().filter(|number| is_plain && number.is_finite())?;
    Some(number * factor)
}

#[cfg(test)]
mod tests;
