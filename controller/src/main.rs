//! `ctl`: see [`controller`].

use std::process::ExitCode;

fn main() -> ExitCode {
    controller::main()
}
