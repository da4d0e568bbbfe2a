//! `collect-*`: fresh figures of the host, in the result and in the metrics hashes.

use std::sync::Arc;

use protocol::action::{ActionSpec, Argument, Kind, Parameter};
use serde_json::Value;

use super::{Action, Failure, Invocation, Report, Running};
use crate::metrics::{Collector, Figures, Group, ProcessOrder};

/// What a collect reads.
enum Subject {
    Group(Group),
    Processes,
    Facts,
    All,
}

struct Collect {
    spec: ActionSpec,
    subject: Subject,
    collector: Arc<Collector>,
}

/// All `collect-*` actions.
pub(super) fn all(collector: &Arc<Collector>) -> Vec<Arc<dyn Action>> {
    let action = |name: &str, summary: &str, subject, parameters| -> Arc<dyn Action> {
        let spec = ActionSpec { parameters, ..ActionSpec::repeatable(name, summary) };
        Arc::new(Collect { spec, subject, collector: Arc::clone(collector) })
    };
    let group = |name, summary, group| action(name, summary, Subject::Group(group), vec![]);
    let by = Kind::Choice { values: vec!["cpu".into(), "memory".into()] };
    let processes = vec![
        Parameter { default: Some(Argument::Text("cpu".into())), ..Parameter::optional("by", by, "what to order by") },
        Parameter {
            default: Some(Argument::Integer(10)),
            ..Parameter::optional("top", Kind::Integer { min: 1, max: 100 }, "how many to show")
        },
    ];
    vec![
        group("collect-cpu", "CPU use in percent, by two readings", Group::Cpu),
        group("collect-memory", "Memory and swap", Group::Memory),
        group("collect-load", "Load averages, tasks, uptime", Group::Load),
        group("collect-disk", "Space and inodes of every mounted disk", Group::Disk),
        group("collect-network", "Traffic of every network interface", Group::Network),
        action("collect-processes", "The processes that use most CPU or memory", Subject::Processes, processes),
        action("collect-facts", "Operating system, kernel, cores, memory, addresses", Subject::Facts, vec![]),
        action("collect-all", "All of cpu, memory, load, disk, network", Subject::All, vec![]),
    ]
}

impl Action for Collect {
    fn spec(&self) -> &ActionSpec {
        &self.spec
    }

    fn run(&self, invocation: Invocation) -> Running<'_> {
        Box::pin(async move {
            let (data, metrics) = match self.subject {
                Subject::Group(group) => {
                    let figures = self.collector.collect(group).await?;
                    (figures.clone(), vec![(group, figures)])
                }
                Subject::Processes => (self.processes(&invocation).await?, vec![]),
                Subject::Facts => (self.collector.facts(), vec![]),
                Subject::All => self.everything().await?,
            };
            Ok(Report { data: Some(data), metrics, ..Report::default() })
        })
    }
}

impl Collect {
    async fn processes(&self, invocation: &Invocation) -> Result<Figures, Failure> {
        let argument = |name: &str| invocation.arguments.get(name);
        let by = match argument("by").and_then(Argument::text) {
            Some("memory") => ProcessOrder::Memory,
            _ => ProcessOrder::Cpu,
        };
        let top = argument("top").and_then(Argument::integer).and_then(|top| top.try_into().ok()).unwrap_or(10);
        Ok(self.collector.processes(by, top).await?)
    }

    /// Every group's figures; a group that fails is named in the data and does not spoil the others.
    async fn everything(&self) -> Result<(Figures, Vec<(Group, Figures)>), Failure> {
        let (mut data, mut metrics) = (Figures::new(), Vec::new());
        for group in Group::ALL {
            match self.collector.collect(group).await {
                Ok(figures) => {
                    data.insert(group.name().into(), Value::Object(figures.clone()));
                    metrics.push((group, figures));
                }
                Err(error) => drop(data.insert(format!("{}_error", group.name()), error.to_string().into())),
            }
        }
        if metrics.is_empty() { Err(Failure("no group could be read".into())) } else { Ok((data, metrics)) }
    }
}
