//! Documents that the program generates: completion scripts, manual pages, and the reference.

use std::{env, fs, path::Path};

use anyhow::{Context, anyhow};
use clap::CommandFactory;
use clap_complete::env::Shells;
use protocol::{environment, limits};

use super::{grammar::Cli, settings};
use crate::{output::Exit, serve::exporter::samples::FAMILIES};

/// The script that makes a shell ask this program for completions.
pub fn completion(shell: &str) -> anyhow::Result<Vec<u8>> {
    let shells = Shells::builtins();
    let completer = shells.completer(shell).ok_or_else(|| anyhow!("no completion for {shell}"))?;
    // Found by name it stays up to date; called by a path it is not in PATH.
    let called = env::args().next().unwrap_or_default();
    let program = if called.contains('/') { env::current_exe()?.to_string_lossy().into_owned() } else { "ctl".into() };
    let mut script = Vec::new();
    // The variable is that of `CompleteEnv`.
    completer.write_registration("COMPLETE", "ctl", "ctl", &program, &mut script).context("cannot write the script")?;
    if shell == "bash" {
        script.extend_from_slice(REJOIN.as_bytes());
    }
    Ok(script)
}

/// Bash splits words at `=`, `:` and `@`, which nothing expects to be words of their own. They are joined again before the
/// completion, and what was typed up to the last of them is taken off its results, as bash keeps it.
const REJOIN: &str = r#"
_ctl_rejoin() {
    local words=() word current=0 position glued=
    for position in "${!COMP_WORDS[@]}"; do
        word=${COMP_WORDS[position]}
        if [[ ${#words[@]} -gt 1 && ( $glued || $word == [=:@]* ) ]]; then
            words[${#words[@]} - 1]+=$word
        else
            words+=("$word")
        fi
        glued=
        [[ $word == *[=:@] ]] && glued=1
        [[ $position -eq $COMP_CWORD ]] && current=$((${#words[@]} - 1))
    done
    local typed=${words[current]}
    local COMP_WORDS=("${words[@]}") COMP_CWORD=$current
    _clap_complete_ctl "$1" "$typed" "$3"
    local rest=${typed##*[=:]}
    local kept=${typed%"$rest"}
    # An @ begins the word that bash completes; what is before it stays.
    [[ $rest == *@* ]] && kept+=${rest%@*}
    COMPREPLY=("${COMPREPLY[@]#"$kept"}")
}
complete -o nospace -o bashdefault -o nosort -F _ctl_rejoin ctl 2> /dev/null ||
    complete -o nospace -o bashdefault -F _ctl_rejoin ctl
"#;

/// The worker's page. The worker keeps it up to date.
const WORKER_PAGE: &str = include_str!("../../../worker/worker.1");

/// Writes a manual page for every command, and for the worker.
pub fn write_manual(dir: &Path) -> anyhow::Result<()> {
    let write = || {
        fs::create_dir_all(dir)?;
        clap_mangen::generate_to(Cli::command(), dir)?;
        fs::write(dir.join("worker.1"), WORKER_PAGE)
    };
    write().with_context(|| format!("cannot write manual pages to {}", dir.display()))
}

/// The reference in Markdown: environment variables, settings, exit codes and limits, from where they are
/// defined.
pub fn reference() -> String {
    let text = "# Reference\n\n\
        Printed by `ctl reference` from the definitions in the source; a test keeps this file up to date.\n";
    let code = |name: &str| format!("`{name}`");
    let variables = environment::ALL.iter().map(|(name, meaning)| [code(name), meaning.trim().into()]);
    let settings = settings::KEYS.iter().map(|(name, meaning)| [code(name), (*meaning).into()]);
    let exits = Exit::ALL.iter().map(|(exit, meaning)| [(*exit as u8).to_string(), (*meaning).into()]);
    let figures = FAMILIES.iter().map(|family| [code(family.name), family.kind.word().into(), family.help.into()]);
    let limits = limits::all().into_iter().map(|(name, value, meaning)| [code(name), value, meaning.into()]);
    [
        text.to_owned(),
        section("Environment variables", ["Variable", "Meaning"], variables),
        section("Settings file of `ctl` (TOML)", ["Setting", "Meaning"], settings),
        section("Figures for Prometheus", ["Name", "Type", "Meaning"], figures),
        section("Exit codes of `ctl`", ["Code", "Meaning"], exits),
        section("Limits", ["Limit", "Value", "Meaning"], limits),
    ]
    .concat()
}

fn section<const N: usize>(title: &str, headings: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let line = |cells: [String; N]| format!("| {} |\n", cells.join(" | "));
    let rows: String = rows.map(line).collect();
    format!("\n## {title}\n\n{}{}{rows}", line(headings.map(str::to_owned)), line(["---"; N].map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/REFERENCE.md");
        let written = fs::read_to_string(path).unwrap_or_default();
        let hint = "write it anew: cargo run -p controller -- reference > docs/REFERENCE.md";
        assert!(written == reference(), "docs/REFERENCE.md is out of date; {hint}");
    }

    #[test]
    fn every_command_has_a_manual_page() {
        let dir = env::temp_dir().join(format!("ctl-man-{}", std::process::id()));
        write_manual(&dir).unwrap();
        let [wait, worker] = ["ctl-job-wait.1", "worker.1"].map(|page| fs::read_to_string(dir.join(page)));
        fs::remove_dir_all(&dir).unwrap();
        assert!(wait.unwrap().contains("\\-\\-redis"), "global options are on every page");
        assert!(worker.unwrap().contains("\\-\\-check\\-config"));
    }
}
