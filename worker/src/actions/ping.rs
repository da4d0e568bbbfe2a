//! `ping`: shows that the worker reads, executes and reports.

use protocol::action::ActionSpec;

use super::{Action, Context, Failure, NoArguments, Output};

pub(super) struct Ping;

impl Action for Ping {
    type Arguments = NoArguments;

    fn spec(&self) -> ActionSpec {
        ActionSpec::repeatable("ping", "Answer: the worker reads, executes and writes back")
    }

    async fn run(&self, _: NoArguments, _: Context) -> Result<Output, Failure> {
        Ok(Output::default())
    }
}
