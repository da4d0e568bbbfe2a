//! Documents that are written by the program itself: manual pages, and the reference.

use std::{fs, path::Path};

use anyhow::Context;
use clap::CommandFactory;
use protocol::{environment, limits};

use crate::{cli::Cli, exit::Exit, printer::Printer, settings};

/// Writes a manual page for every command.
pub fn man(dir: &Path, printer: &Printer) -> anyhow::Result<Exit> {
    let write = || {
        fs::create_dir_all(dir)?;
        clap_mangen::generate_to(Cli::command(), dir)
    };
    write().with_context(|| format!("cannot write manual pages to {}", dir.display()))?;
    printer.note(&format!("written; try: man {}", dir.join("ctl.1").display()));
    Ok(Exit::Success)
}

/// Prints the reference.
pub fn print_reference(printer: &Printer) -> anyhow::Result<Exit> {
    printer.raw(reference().as_bytes())?;
    Ok(Exit::Success)
}

/// Environment variables, settings, exit codes and limits, from where they are defined.
fn reference() -> String {
    let text = "# Reference\n\n\
        Printed by `ctl reference` from the definitions in the source; a test keeps this file up to date.\n";
    let code = |name: &str| format!("`{name}`");
    let variables = environment::ALL.iter().map(|(name, meaning)| [code(name), meaning.trim().into()]);
    let settings = settings::KEYS.iter().map(|(name, meaning)| [code(name), (*meaning).into()]);
    let exits = Exit::ALL.iter().map(|(exit, meaning)| [exit.code().to_string(), (*meaning).into()]);
    let limits = limits::all().into_iter().map(|limit| [code(limit.name), limit.value, limit.summary.into()]);
    [
        text.to_owned(),
        section("Environment variables", ["Variable", "Meaning"], variables),
        section("Settings file of `ctl` (TOML)", ["Setting", "Meaning"], settings),
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
        let dir = std::env::temp_dir().join(format!("ctl-man-{}", std::process::id()));
        man(&dir, &Printer::new(crate::settings::Format::Table, true, anstream::ColorChoice::Never)).unwrap();
        let page = fs::read_to_string(dir.join("ctl-job-wait.1"));
        fs::remove_dir_all(&dir).unwrap();
        assert!(page.unwrap().contains("ctl"));
    }
}
