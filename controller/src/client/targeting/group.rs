//! Groups: hosts that are meant again and again, as Redis keeps them for people to read.

use std::{fmt, str::FromStr};

use protocol::{limits, name::GroupName};

use super::{
    filter::{Filter, FilterError},
    word::{Word, WordError, split_words},
};

/// Which hosts a group stands for: `web[1-20],@db except web7 where label.env = prod`.
#[derive(Clone, Debug)]
pub struct Group {
    /// Those with these names.
    words: Vec<Word>,
    /// Without these.
    except: Vec<Word>,
    /// Of them, those for which this holds.
    filter: Option<Filter>,
}

/// Why a text is no group.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// It is too long.
    #[error("it has {0} bytes; {most} are allowed", most = limits::GROUP_BYTES)]
    Size(usize),
    /// Its words stand for too many hosts.
    #[error("it names more than {} hosts", limits::HOSTS)]
    Many,
    /// Its parts are not where they belong.
    #[error("it does not read: HOSTS [except HOSTS] [where EXPR]")]
    Form,
    /// A word names no hosts.
    #[error(transparent)]
    Word(#[from] WordError),
    /// What is behind `where` is no expression.
    #[error(transparent)]
    Filter(#[from] FilterError),
}

impl Group {
    /// The group of the hosts with these names (none: all), without some, for which this holds.
    ///
    /// # Errors
    /// Its text would be too long.
    pub fn new(words: Vec<Word>, except: Vec<Word>, filter: Option<Filter>) -> Result<Self, GroupError> {
        let words = if words.is_empty() { vec!["*".parse()?] } else { words };
        // What is saved is what was read back.
        Self { words, except, filter }.to_string().parse()
    }

    /// The words that name its hosts.
    pub fn words(&self) -> &[Word] {
        &self.words
    }

    /// The words that name hosts which are excluded.
    pub fn except(&self) -> &[Word] {
        &self.except
    }

    /// The groups that it refers to.
    pub fn groups(&self) -> Vec<&GroupName> {
        let words = self.words.iter().chain(&self.except).filter_map(Word::group);
        words.chain(self.filter.iter().flat_map(Filter::groups)).collect()
    }

    /// What holds for its hosts.
    pub(in crate::client) fn filter(&self) -> Filter {
        let except = (!self.except.is_empty()).then(|| Filter::of_words(&self.except).not());
        except.into_iter().chain(self.filter.clone()).fold(Filter::of_words(&self.words), Filter::and)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |words: &[Word]| words.iter().map(Word::text).collect::<Vec<_>>().join(",");
        out.write_str(&joined(&self.words))?;
        if !self.except.is_empty() {
            write!(out, " except {}", joined(&self.except))?;
        }
        self.filter.as_ref().map_or(Ok(()), |filter| write!(out, " where {}", filter.text()))
    }
}

/// The first word of a text, and what is behind it.
fn split(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}

impl FromStr for Group {
    type Err = GroupError;

    fn from_str(text: &str) -> Result<Self, GroupError> {
        if text.len() > limits::GROUP_BYTES {
            return Err(GroupError::Size(text.len()));
        }
        let mut room = limits::HOSTS;
        let mut words = |text: &str| {
            let read = |text: &str| {
                let word: Word = text.parse()?;
                room = room.checked_sub(word.exact().map_or(0, <[_]>::len)).ok_or(GroupError::Many)?;
                Ok::<_, GroupError>(word)
            };
            split_words(text).into_iter().map(read).collect::<Result<Vec<_>, _>>()
        };
        // No word has a blank in it, so the first one ends the words.
        let (named, rest) = split(text);
        let named = words(named)?;
        let (excluded, rest) = match rest.strip_prefix("except ") {
            Some(rest) => {
                let (excluded, rest) = split(rest);
                (words(excluded)?, rest)
            }
            None => (Vec::new(), rest),
        };
        let filter = match rest.strip_prefix("where ") {
            Some(filter) => Some(filter.parse()?),
            None if rest.is_empty() => None,
            None => return Err(GroupError::Form),
        };
        Ok(Self { words: named, except: excluded, filter })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prop_assert_eq, proptest, sample::select};

    use super::*;

    #[test]
    fn what_a_group_stands_for_reads_as_it_was_written() {
        for text in [
            "web1",
            "web[1,3-5]*,@db",
            "* except web7,@old",
            "where where os = x",
            "a except b where cpu.usage > 80 and @c",
        ] {
            assert_eq!(text.parse::<Group>().unwrap().to_string(), text);
        }
        let group: Group = "web*,@a except @b where @c or not @d".parse().unwrap();
        assert_eq!(group.groups().iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        for (text, problem) in [
            ("", "is not a valid name"),
            ("web1 web2", "it does not read: HOSTS"),
            ("web1 except", "it does not read: HOSTS"),
            ("web1 except ", "is not a valid name"),
            ("web1 where ", "a comparison such as"),
            ("web1 where cpuu.usage > 1", "did you mean cpu.usage?"),
            ("web1 where os = x where os = y", "'and' or 'or' is missing"),
            ("web1\n", "is not a valid name"),
            (&"x,".repeat(5000), "it has 10000 bytes; 8192 are allowed"),
            (&format!("x{}", ",y[1-9999]".repeat(11)), "it names more than 100000 hosts"),
        ] {
            let refused = text.parse::<Group>().unwrap_err().to_string();
            assert!(refused.contains(problem), "{text:?}: {refused}");
        }
        let none = Group::new(Vec::new(), Vec::new(), Some("os = x".parse().unwrap())).unwrap();
        assert_eq!(none.to_string(), "* where os = x");
    }

    #[test]
    fn whatever_values_labels_have_can_be_saved() {
        let filter = Filter::labels(r#"a=x y,b!="q" \,c,d="#).unwrap();
        let group = Group::new(Vec::new(), Vec::new(), Some(filter)).unwrap();
        assert_eq!(
            group.to_string(),
            r#"* where label.a = "x y" and label.b != "\"q\" \\" and label.c != "" and label.d = """#
        );
    }

    proptest! {
        #[test]
        fn any_text_is_a_group_that_reads_back_or_an_error(text in ".*") {
            // What nobody but a person writes, such as a blank at its end, is lost once.
            if let Ok(group) = text.parse::<Group>() {
                let shown = group.to_string();
                prop_assert_eq!(shown.parse::<Group>().map(|group| group.to_string()).ok(), Some(shown));
            }
        }

        #[test]
        fn any_parts_read_back(
            words in vec(select(vec!["where", "except", "a*", "@a", "b[1,2]"]), 1..4),
            except in vec(select(vec!["where", "except", "*", "@where"]), 0..3),
            filter in option::of(select(vec!["os = ' where '", "@a", "not @except"])),
        ) {
            let read = |words: &[&str]| words.iter().map(|word| word.parse::<Word>().unwrap()).collect::<Vec<_>>();
            let group = Group::new(read(&words), read(&except), filter.map(|text| text.parse().unwrap())).unwrap();
            let texts = |words: &[Word]| words.iter().map(|word| word.text().to_owned()).collect::<Vec<_>>();
            prop_assert_eq!((texts(group.words()), texts(group.except())), (words.into_iter().map(str::to_owned).collect(), except.into_iter().map(str::to_owned).collect()));
        }
    }
}
