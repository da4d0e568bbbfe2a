//! Texts of `--help` that are longer than a line, and how help looks.

use clap::builder::styling::{AnsiColor, Styles};

use crate::exit::Exit;

/// Colours of help and usage errors.
pub const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// After the list of commands.
pub fn top() -> String {
    let codes = Exit::ALL.map(|(exit, meaning)| format!("  {:<2}  {meaning}\n", exit.code()));
    format!("Exit codes:\n{}\nNothing set up yet? `ctl up` starts all that is needed on this machine.", codes.concat())
}

/// After the options of `run`.
pub const RUN: &str = "\
Examples:
  ctl run --host web1 collect-cpu
      The CPU use of one host.
  ctl run --host 'web*' collect-memory
      A pattern; quote it, or the shell may expand it.
  ctl run --host web1,db1 collect-processes by=memory top=5
      Two hosts, with arguments.
  ctl run --all collect-cpu -o json | jq '.hosts[].data.usage'
      Every host, for another program.
  ctl run --host web1 exec -- uname -a
      A program and its arguments; no shell is involved.
  ctl run --host web1 exec cwd=/tmp env.LANG=C -- ls -l
      With a working directory and a variable.
  ctl run --host web1 --timeout 10m --detach exec -- apt-get update
      Without waiting; `ctl job wait last` gives the result.";

/// After the commands of `job`.
pub const JOB: &str = "\
A job is named by its id, by the beginning of its id as long as that is unambiguous, or by `last`.";

/// After the options of `up`.
pub const UP: &str = "\
It listens on a Unix socket in the state directory only, keeps its data there, and needs no
settings: `ctl` finds it by itself. `ctl down` stops it.";

/// After the options of `doctor`.
pub const DOCTOR: &str = "\
Exits 0 when there is no problem (warnings are allowed), 2 when there is one, 1 when Redis cannot be
reached.";

/// After the argument of `completions`.
pub const COMPLETIONS: &str = "\
Add one of these lines to your shell's start-up file:
  bash  source <(ctl completions bash)
  zsh   source <(ctl completions zsh)
  fish  ctl completions fish | source";
