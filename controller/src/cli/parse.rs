//! Parses the command line, and helps where it cannot be understood.

use clap::{CommandFactory, FromArgMatches};

use super::{grammar::Cli, help};
use crate::output::style;

/// The action, and the command, whose words stand after `--`.
const EXEC: &str = "exec";
/// The command that takes a line of shell.
const SH: &str = "sh";

/// What was typed, or clap's error or help.
pub fn parse() -> Result<Cli, clap::Error> {
    let matches = help::arrange(Cli::command()).try_get_matches()?;
    Cli::from_arg_matches(&matches)
}

/// What was probably meant by a `ctl run`, `exec` or `sh` that cannot be understood. `words` are those after `ctl`.
pub fn meant(words: &[String]) -> Option<String> {
    let at = words.iter().position(|word| ["run", EXEC, SH].contains(&word.as_str()))?;
    let (before, typed) = words.split_at(at + 1);
    let meant = if words[at] == "run" { meant_by_run(typed)? } else { meant_on_host(&words[at], typed)? };
    let meant = [before, &meant].concat();
    let shown: Vec<_> = meant.iter().map(|word| style::quoted(word)).collect();
    (meant != words).then(|| format!("ctl {}", shown.join(" ")))
}

/// The words behind `ctl exec HOST` lack their `--`; those behind `ctl sh HOST` are one line.
fn meant_on_host(command: &str, typed: &[String]) -> Option<Vec<String>> {
    let (host, line) = typed.split_first()?;
    if host.starts_with('-') || line.first()?.starts_with('-') || line.iter().any(|word| word == "--") {
        return None;
    }
    let line = if command == SH { vec![line.join(" ")] } else { [&["--".to_owned()], line].concat() };
    Some([std::slice::from_ref(host), &line].concat())
}

/// Most often the hosts of `ctl run` lack `--host`, or the words of the action `exec` their `--`.
fn meant_by_run(typed: &[String]) -> Option<Vec<String>> {
    let (mut front, mut behind) = match typed.iter().position(|word| word == "--") {
        Some(dashes) => (typed[..dashes].to_vec(), typed[dashes..].to_vec()),
        None => (typed.to_vec(), Vec::new()),
    };

    let exec = front.iter().position(|word| word == EXEC);
    if let Some(exec) = exec.filter(|_| behind.is_empty()) {
        let arguments =
            front[exec + 1..].iter().take_while(|word| word.contains('=') && !word.starts_with('-')).count();
        let program = front.split_off(exec + 1 + arguments);
        if !program.is_empty() {
            behind = [vec!["--".to_owned()], program].concat();
        }
    }
    let (has_hosts, positions) = positionals(&front)?;
    if !has_hosts {
        let first = *positions.first()?;
        let is_action = |position: &usize| !front[*position].contains('=');
        if front[first] != EXEC && positions.get(1).is_some_and(is_action) {
            front.insert(first, "--host".into());
        } else {
            front.splice(first..first, ["--host".to_owned(), "NAME".to_owned()]);
        }
    }

    Some([front, behind].concat())
}

/// Whether hosts are selected, and where the words are that are neither flags nor their values. `None` where a flag is
/// not known: the rest cannot be interpreted.
fn positionals(words: &[String]) -> Option<(bool, Vec<usize>)> {
    let command = Cli::command();
    let run = command.find_subcommand("run")?;
    // Whether the flag's value is the next word.
    let takes_word = |word: &str| {
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        let is_named = |argument: &&clap::Arg| match name.strip_prefix("--") {
            Some(long) => argument.get_long() == Some(long),
            None => argument.get_short().is_some_and(|short| name == format!("-{short}")),
        };
        let argument = [run, &command].into_iter().flat_map(clap::Command::get_arguments).find(is_named)?;
        Some(value.is_none() && argument.get_action().takes_values())
    };
    let (mut has_hosts, mut positions, mut is_value) = (false, Vec::new(), false);
    for (position, word) in words.iter().enumerate() {
        if std::mem::take(&mut is_value) {
            continue;
        }
        let flags = ["--host", "-H", "--group", "--label", "-l", "--where"];
        has_hosts |= word == "--all" || flags.iter().any(|flag| word.starts_with(flag));
        if word.starts_with('-') {
            is_value = takes_word(word)?;
        } else {
            positions.push(position);
        }
    }
    Some((has_hosts, positions))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str) -> String {
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        meant(&words).unwrap_or_default()
    }

    #[test]
    fn hosts_and_programs_find_their_place() {
        for (typed, line) in [
            ("run web1 ping", "ctl run --host web1 ping"),
            ("run web*,db1 collect-processes top=5", "ctl run --host 'web*,db1' collect-processes top=5"),
            ("run --timeout 5m web1 ping", "ctl run --timeout 5m --host web1 ping"),
            ("--namespace prod run web1 ping", "ctl --namespace prod run --host web1 ping"),
            ("run ping", "ctl run --host NAME ping"),
            ("run collect-processes top=5", "ctl run --host NAME collect-processes top=5"),
            ("run exec uname -a", "ctl run --host NAME exec -- uname -a"),
            ("run web1 exec uname -a", "ctl run --host web1 exec -- uname -a"),
            ("run --host web1 exec uname -a", "ctl run --host web1 exec -- uname -a"),
            ("run --all exec cwd=/srv ls --all", "ctl run --all exec cwd=/srv -- ls --all"),
            ("run web1 exec -- uname -a", "ctl run --host web1 exec -- uname -a"),
            ("run --start-by=5m web1 ping", "ctl run --start-by=5m --host web1 ping"),
            ("run --host web1 ping --loud", ""),
            ("run --hots web1 ping", ""),
            ("run", ""),
            ("exec web1 uname -a", "ctl exec web1 -- uname -a"),
            ("sh web1 ls /", "ctl sh web1 'ls /'"),
            ("exec web1", ""),
            ("sh web1 -x ls", ""),
            ("job list --loud", ""),
        ] {
            assert_eq!(shown(typed), line, "{typed}");
        }
    }
}
