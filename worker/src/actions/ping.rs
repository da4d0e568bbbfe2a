//! `ping`: the worker reads, executes and answers.

use protocol::action::ActionSpec;

use super::{Action, Invocation, Report, Running};

pub(super) struct Ping(ActionSpec);

impl Ping {
    pub(super) fn new() -> Self {
        Self(ActionSpec::repeatable("ping", "Answer: the worker reads, executes and writes back"))
    }
}

impl Action for Ping {
    fn spec(&self) -> &ActionSpec {
        &self.0
    }

    fn run(&self, _: Invocation) -> Running<'_> {
        Box::pin(async { Ok(Report::default()) })
    }
}
