//! Secret values that are typed as `@FILE`, so that they do not stand in `ps` and the shell's history.

use std::{
    fs::File,
    io::{self, Read},
};

use anyhow::{Context, ensure};
use protocol::{
    action::{Argument, Arguments},
    limits,
};

use crate::output::Advice;

/// Replaces every `@FILE` by what the file holds, without its last newline; `@-` is standard input.
///
/// # Errors
/// A file cannot be read, is no text or is too large. The error does not show what it holds.
pub fn read(mut secrets: Arguments) -> anyhow::Result<Arguments> {
    let mut stdin = Some(io::stdin());
    for argument in secrets.values_mut() {
        let texts: Vec<&mut String> = match argument {
            Argument::Text(text) => vec![text],
            Argument::List(list) => list.iter_mut().collect(),
            Argument::Map(map) => map.values_mut().collect(),
            Argument::Boolean(_) | Argument::Integer(_) => Vec::new(),
        };
        for text in texts {
            if let Some(name) = text.strip_prefix('@') {
                *text = read_file(name, &mut stdin).with_context(|| format!("cannot read the secret value @{name}"))?;
            }
        }
    }
    Ok(secrets)
}

fn read_file(name: &str, stdin: &mut Option<io::Stdin>) -> anyhow::Result<String> {
    let source: Box<dyn Read> = if name == "-" {
        let twice = || Advice::new("standard input is used twice").hint("put one of the values into a file");
        Box::new(stdin.take().ok_or_else(twice)?)
    } else {
        Box::new(File::open(name)?)
    };
    let mut bytes = Vec::new();
    source.take(limits::SECRETS_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() <= limits::SECRETS_BYTES, "it is larger than {} KiB", limits::SECRETS_BYTES / 1024);
    let mut text = String::from_utf8(bytes).ok().context("it is not text (UTF-8)")?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_map(value: &str) -> anyhow::Result<Arguments> {
        read(Arguments::from([("secret".into(), Argument::Map([("TOKEN".to_owned(), value.to_owned())].into()))]))
    }

    #[test]
    fn a_value_is_read_from_its_file_without_the_last_newline() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "@hunter2\n\n").unwrap();
        let secrets = read_map(&format!("@{}", path.display())).unwrap();
        assert_eq!(secrets["secret"], Argument::Map([("TOKEN".to_owned(), "@hunter2\n".to_owned())].into()));
        assert_eq!(
            read_map("plain").unwrap()["secret"],
            Argument::Map([("TOKEN".to_owned(), "plain".to_owned())].into())
        );
    }

    #[test]
    fn errors_name_the_file_and_not_what_it_holds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let refused = || format!("{:#}", read_map(&format!("@{}", path.display())).unwrap_err());
        assert!(refused().contains("cannot read the secret value @/"));
        std::fs::write(&path, b"hunter2\xff").unwrap();
        assert!(refused().ends_with("it is not text (UTF-8)"));
        std::fs::write(&path, "x".repeat(limits::SECRETS_BYTES + 1)).unwrap();
        assert!(refused().ends_with("it is larger than 64 KiB"));
    }
}
