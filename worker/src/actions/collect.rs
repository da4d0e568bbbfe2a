//! `collect-*`: fresh figures of the host, in the result and in the metrics hashes.

use protocol::action::{ActionSpec, Argument, Kind, Parameter};
use serde::Deserialize;
use serde_json::Value;

use super::{Action, Context, Failure, NoArguments, Output};
use crate::{
    log::with_sources,
    metrics::{Figures, MetricGroup, ProcessOrder, Topic},
};

/// `collect-cpu` and the like.
pub(super) struct Collect(pub(super) MetricGroup);

impl Action for Collect {
    type Arguments = NoArguments;

    fn spec(&self) -> ActionSpec {
        ActionSpec::repeatable(&format!("collect-{}", self.0.name()), self.0.summary())
    }

    async fn run(&self, _: NoArguments, context: Context) -> Result<Output, Failure> {
        let figures = context.collector().collect(self.0).await?;
        Ok(Output { metrics: vec![(Topic::Group(self.0), figures.clone())], ..Output::of(figures) })
    }
}

pub(super) struct CollectProcesses;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProcessArguments {
    by: ProcessOrder,
    top: usize,
}

impl Action for CollectProcesses {
    type Arguments = ProcessArguments;

    fn spec(&self) -> ActionSpec {
        let by = Kind::Choice { values: vec!["cpu".into(), "memory".into()] };
        let by = Parameter {
            default: Some(Argument::Text("cpu".into())),
            ..Parameter::optional("by", by, "what to order by")
        };
        let top = Parameter {
            default: Some(Argument::Integer(10)),
            ..Parameter::optional("top", Kind::Integer { min: 1, max: 100 }, "how many to show")
        };
        let spec = ActionSpec::repeatable("collect-processes", "The processes that use most CPU or memory");
        ActionSpec { parameters: vec![by, top], ..spec }
    }

    async fn run(&self, arguments: ProcessArguments, context: Context) -> Result<Output, Failure> {
        Ok(Output::of(context.collector().processes(arguments.by, arguments.top).await?))
    }
}

pub(super) struct CollectFacts;

impl Action for CollectFacts {
    type Arguments = NoArguments;

    fn spec(&self) -> ActionSpec {
        ActionSpec::repeatable("collect-facts", "Operating system, kernel, cores, memory, addresses")
    }

    async fn run(&self, _: NoArguments, context: Context) -> Result<Output, Failure> {
        Ok(Output::of(context.collector().facts()))
    }
}

pub(super) struct CollectAll;

#[derive(Debug, thiserror::Error)]
#[error("no group could be read")]
struct NoGroup;

impl Action for CollectAll {
    type Arguments = NoArguments;

    fn spec(&self) -> ActionSpec {
        let names = MetricGroup::ALL.map(MetricGroup::name).join(", ");
        ActionSpec::repeatable("collect-all", &format!("All of {names}"))
    }

    /// A group that fails is named in the data and does not spoil the others.
    async fn run(&self, _: NoArguments, context: Context) -> Result<Output, Failure> {
        let (mut data, mut metrics) = (Figures::new(), Vec::new());
        for group in MetricGroup::ALL {
            match context.collector().collect(group).await {
                Ok(figures) => {
                    data.insert(group.name().into(), Value::Object(figures.clone()));
                    metrics.push((Topic::Group(group), figures));
                }
                Err(error) => drop(data.insert(format!("{}_error", group.name()), with_sources(&error).into())),
            }
        }
        if metrics.is_empty() { Err(NoGroup.into()) } else { Ok(Output { metrics, ..Output::of(data) }) }
    }
}
