//! The `worker` binary; all it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    worker::cli::main()
}
