//! What a dry run says of a program that it does not run.

use protocol::action::{CHANGED, WOULD};
use serde_json::{Value, json};

use crate::{metrics::Figures, program::Program};

/// The program, as whom it would run, and where. Values of its environment may be secrets: only their names are said.
pub(super) fn steps(program: &Program) -> Vec<String> {
    let Program { argv, env, cwd, user, .. } = program;
    let mut would = vec![format!("run {}", Value::from(argv.clone()))];
    would.extend(user.as_ref().map(|user| format!("as the user {user}")));
    would.extend(cwd.as_ref().map(|cwd| format!("in the directory {}", cwd.display())));
    if !env.is_empty() {
        let names: Vec<_> = env.keys().map(String::as_str).collect();
        would.push(format!("with {} in its environment", names.join(", ")));
    }
    would
}

/// The data of a dry run with these steps.
pub(super) fn data(would: &[String]) -> Figures {
    Figures::from_iter([(CHANGED.to_owned(), json!(false)), (WOULD.to_owned(), json!(would))])
}
