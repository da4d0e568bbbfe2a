//! What is said about an alert: a text with placeholders.

use protocol::name::HostName;

use crate::client::targeting::Field;

/// Characters of a value that is filled in.
const VALUE: usize = 200;
/// Characters of a whole text.
const TEXT: usize = 1_000;

/// A text with placeholders.
#[derive(Clone, Debug)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Host,
    Found,
    Field(Field),
}

/// A value from elsewhere: of bounded length, and without control characters.
pub(super) fn clean(text: &str) -> String {
    text.chars().take(VALUE).map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

impl Template {
    /// Reads it: `{host}`, `{found}`, and fields such as `{cpu.usage}`. All other braces are as they are.
    ///
    /// # Errors
    /// There is no such field.
    pub(super) fn read(text: &str, is_about_hosts: bool) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, (name, after))) =
            rest.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
        {
            parts.push(Part::Text(before.to_owned()));
            parts.push(match name {
                "found" => Part::Found,
                "host" if is_about_hosts => Part::Host,
                name => match name.parse::<Field>().map_err(|error| error.to_string())? {
                    Field::Result(..) => return Err(format!("there is no '{name}' here")),
                    field if matches!(field, Field::Redis(_)) == is_about_hosts => {
                        return Err(format!("there is no '{name}' of what this rule is about"));
                    }
                    field => Part::Field(field),
                },
            });
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self(parts))
    }

    /// What must be known.
    pub(super) fn fields(&self) -> impl Iterator<Item = &Field> {
        self.0.iter().filter_map(|part| if let Part::Field(field) = part { Some(field) } else { None })
    }

    /// The text.
    pub(super) fn fill(
        &self,
        host: Option<&HostName>,
        found: &str,
        known: &impl Fn(&Field) -> Result<String, String>,
    ) -> String {
        let parts = self.0.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Host => host.map(ToString::to_string).unwrap_or_default(),
            Part::Found => found.to_owned(),
            Part::Field(field) => known(field).map_or_else(|_| "?".to_owned(), |value| clean(&value)),
        });
        parts.collect::<String>().chars().take(TEXT).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_filled_in_and_cleaned() {
        let template = Template::read("{host} in {label.rack}: {cpu.usage} % {os} {", true).unwrap();
        let known = |field: &Field| match field.to_string().as_str() {
            "label.rack" => Ok("a\x1b[2Jb\r\nX: y".to_owned()),
            "cpu.usage" => Ok("9".repeat(1000)),
            _ => Err(String::new()),
        };
        let text = template.fill(Some(&"web1".parse().unwrap()), "", &known);
        assert_eq!(text, format!("web1 in a\u{fffd}[2Jb\u{fffd}\u{fffd}X: y: {} % ? {{", "9".repeat(200)));
        assert!(Template::read("{redis.used_memory}", true).is_err());
        assert!(Template::read("{cpu.usage}", false).is_err());
    }
}
