//! What stands in Redis may be anybody's: whoever signs it anew is shown what it does, and asked.

use crate::output::{Advice, Printer, Table};

/// The doubt about what another key has signed.
pub fn not_yours(operator: &str) -> String {
    format!("it was not signed with your key, and you would sign it as {operator}")
}

/// Shows what is to be agreed to, and asks if there are doubts.
///
/// # Errors
/// The reply was no, or there is no terminal to ask at.
pub fn agree(
    what: impl IntoIterator<Item = Table>,
    doubts: &[String],
    is_sure: bool,
    printer: &Printer,
) -> anyhow::Result<()> {
    for line in what.into_iter().flat_map(|table| table.lines(None)) {
        if is_sure { printer.note(&line) } else { printer.trouble(&line) }
    }
    if is_sure || doubts.is_empty() {
        return Ok(());
    }
    for doubt in doubts {
        printer.trouble(doubt);
    }
    match Printer::confirm("Go on?") {
        Some(true) => Ok(()),
        Some(false) => Err(Advice::new("nothing was sent").into()),
        None => {
            let nobody = Advice::new("nothing was sent: there is no terminal to ask at");
            Err(nobody.hint("if you have seen what it does: --yes").into())
        }
    }
}
