//! The kinds of writes, and their Redis commands. Each transaction touches the keys of one owner: this host, one job,
//! or the index of hosts. In a Redis Cluster these are in different slots.

use std::{slice, sync::Arc, time::Duration};

use protocol::{
    control::Control,
    event::{Decision, Event, EventKind, Piece},
    history, limits,
    name::JobId,
    outcome::{Outcome, State},
    scripts::{APPEND_OUTPUT, PUBLISH_STATE},
    secret::Digest,
    statement::{self, Subject},
    status::Status,
};
use redis::{Cmd, Pipeline, cmd, pipe, streams::StreamMaxlen};
use serde_json::Value;

use crate::{
    delivery::{Asker, ControlEntry, Delivery},
    fault::{self, Bug},
    identity::Identity,
    live::Unsent,
    metrics::{Figures, Topic, history::Step},
};

/// Something to write.
pub(crate) enum Write {
    /// A command's state changed, but it has not ended.
    State { delivery: Delivery, state: State },
    /// A command is delivered, and waits for this.
    Waits { delivery: Delivery, what: String },
    /// A command ended: publish, then acknowledge and delete its entry.
    Outcome { delivery: Delivery, outcome: Box<Outcome>, metrics: Vec<(Topic, Figures)> },
    /// A command was cancelled before it was read: publish, unless Redis does not know the job.
    Cancelled { job: JobId, manifest: Digest, outcome: Box<Outcome>, asker: Arc<Asker> },
    /// A command that runs or waits was ordered to be cancelled.
    CancelOrdered { delivery: Delivery, asker: Arc<Asker> },
    /// An order to cancel the job is not obeyed, for this reason.
    CancelRefused { job: JobId, asker: Arc<Asker>, reason: String },
    /// A running command reports progress.
    Event { delivery: Delivery, kind: EventKind },
    /// The program of a running command has written something.
    Output { delivery: Delivery, unsent: Unsent },
    /// A command has ended a while ago: no reader lags behind its output any more.
    TrimOutput { delivery: Delivery },
    /// Entries of the inbox get no outcome: acknowledge and delete them.
    Acknowledge { entries: Vec<String> },
    /// An entry of the control stream has been handled: acknowledge and delete it.
    AcknowledgeControl(ControlEntry),
    /// Wake this worker's reader.
    Wake,
    /// Fresh figures.
    Metrics(Vec<(Topic, Figures)>),
    /// Steps of the history.
    History(Vec<Step>),
    /// The heartbeat.
    Status(Box<Status>),
    /// Inventory, catalogue and labels.
    Facts { facts: Vec<(String, String)>, labels: Vec<(String, String)> },
}

impl Write {
    /// Whether the write must not be lost, however long it waits.
    pub(super) const fn must(&self) -> bool {
        !matches!(self, Self::Metrics(_) | Self::History(_) | Self::Status(_) | Self::Facts { .. })
    }

    /// The entries to acknowledge once the write is done, and whether they are of the control stream.
    pub(super) fn entries(&self) -> Option<(&[String], bool)> {
        match self {
            Self::Outcome { delivery, .. } => Some((slice::from_ref(&delivery.entry), false)),
            Self::Acknowledge { entries } => Some((entries, false)),
            Self::AcknowledgeControl(entry) => Some((slice::from_ref(&entry.id), true)),
            _ => None,
        }
    }

    /// Its transactions on keys of this host and of the index of hosts.
    pub(super) fn host_transactions(&self, identity: &Identity) -> Vec<Pipeline> {
        let Identity { host, keys, .. } = identity;
        match self {
            Self::Metrics(metrics) | Self::Outcome { metrics, .. } => metrics_of(identity, metrics).collect(),
            Self::History(steps) => {
                let mut pipe = pipe();
                for Step { begins, length, means } in steps {
                    pipe.add_command(history::append(&keys.history(host), *begins, *length, means.iter().copied()));
                }
                vec![pipe]
            }
            Self::Wake => vec![single(Control::Wake.write(keys, host))],
            Self::Status(status) => vec![status_of(identity, status), seen(identity, status)],
            Self::Facts { facts, labels } => {
                let mut pipe = pipe();
                for (key, fields) in [(keys.facts(host), facts), (keys.labels(host), labels)] {
                    replace(&mut pipe, &key, fields, limits::HOST_RETENTION);
                }
                // What others write for this host lives as long as it does.
                for key in [keys.commands(host), keys.control(host), keys.set_labels(host)] {
                    expire(&mut pipe, &key, limits::HOST_RETENTION);
                }
                let mut trim = cmd("ZREMRANGEBYRANK");
                trim.arg(keys.servers()).arg(0).arg(-limits::HOSTS.cast_signed() - 1);
                vec![pipe, single(trim)]
            }
            _ => Vec::new(),
        }
    }

    /// The keys of this host that exist once it is written, until Redis loses them; and when they expire.
    pub(super) fn kept_keys(&self, Identity { host, keys, .. }: &Identity) -> Vec<(String, Duration)> {
        match self {
            Self::Facts { labels, .. } => {
                let labels = (!labels.is_empty()).then(|| keys.labels(host));
                [keys.facts(host)].into_iter().chain(labels).map(|key| (key, limits::HOST_RETENTION)).collect()
            }
            Self::Metrics(metrics) | Self::Outcome { metrics, .. } => metrics
                .iter()
                // Those of the host's own actions are not sampled: nothing would bring them back.
                .filter(|(topic, figures)| !figures.is_empty() && matches!(topic, Topic::Group(_)))
                .map(|(topic, _)| (topic.key(keys, host), limits::METRICS_RETENTION))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The job that it is about.
    pub(super) const fn job(&self) -> Option<JobId> {
        match self {
            Self::State { delivery, .. }
            | Self::Waits { delivery, .. }
            | Self::Outcome { delivery, .. }
            | Self::CancelOrdered { delivery, .. }
            | Self::Event { delivery, .. }
            | Self::Output { delivery, .. }
            | Self::TrimOutput { delivery } => Some(delivery.job),
            Self::Cancelled { job, .. } | Self::CancelRefused { job, .. } => Some(*job),
            _ => None,
        }
    }

    /// Adds its commands on keys of its job to that job's transaction.
    pub(super) fn job_commands(&self, identity: &Identity, pipe: &mut Pipeline) {
        let Identity { host, keys, .. } = identity;
        match self {
            Self::State { delivery, state } => {
                pipe.add_command(Change::of(delivery, *state).publish(identity));
            }
            Self::Waits { delivery, what } => {
                let change = Change { waits_for: what, ..Change::of(delivery, State::Delivered) };
                pipe.add_command(change.publish(identity));
            }
            Self::Outcome { delivery, outcome, .. } => {
                pipe.add_command(Change::end(delivery, outcome, identity).publish(identity));
            }
            Self::Cancelled { job, manifest, outcome, asker } => {
                let (state, retention) = (outcome.state, limits::RETENTION_DEFAULT);
                let result = signed(identity, *job, Some(*manifest), outcome);
                let change = Change { job: *job, state, retention, jobs: KNOWN, waits_for: "", decision: None, result };
                pipe.add_command(change.publish(identity));
                pipe.add_command(cancel_ordered(identity, *job, asker.decided(true, None)));
            }
            Self::CancelOrdered { delivery, asker } => {
                pipe.add_command(cancel_ordered(identity, delivery.job, asker.decided(true, None)));
            }
            Self::CancelRefused { job, asker, reason } => {
                pipe.add_command(cancel_ordered(identity, *job, asker.decided(false, Some(reason))));
            }
            Self::Event { delivery: Delivery { job, retention, .. }, kind } => {
                let events = keys.job_events(*job);
                let event = Event { host: host.clone(), kind: kind.clone(), decision: None };
                pipe.xadd_maxlen(&events, StreamMaxlen::Approx(limits::EVENTS), "*", &event.fields());
                // A state that was published before has set the time to live already.
                pipe.cmd("EXPIRE").arg(&events).arg(retention.as_secs().max(1)).arg("NX");
            }
            Self::Output { delivery, unsent } => {
                let most = limits::LIVE_BYTES + limits::LIVE_LAG_BYTES;
                pipe.add_command(append_output(identity, delivery, Some(&unsent.piece), most));
            }
            Self::TrimOutput { delivery } => {
                pipe.add_command(append_output(identity, delivery, None, limits::LIVE_BYTES));
            }
            _ => {}
        }
    }
}

/// For the script: the command was delivered, so the job existed, whether or not Redis still knows it.
const ANY: &str = "any";
/// For the script: nothing is published unless Redis knows the job.
const KNOWN: &str = "known";

/// The fields of a result, which states how the command of this manifest ended.
fn signed(
    Identity { host, namespace, key, .. }: &Identity,
    job: JobId,
    manifest: Option<Digest>,
    outcome: &Outcome,
) -> Vec<(&'static str, Vec<u8>)> {
    statement::fields(outcome, &Subject { namespace: namespace.as_ref(), job, host, manifest, unverified: None }, key)
}

/// A change of a command's state.
struct Change<'a> {
    job: JobId,
    state: State,
    retention: Duration,
    jobs: &'static str,
    waits_for: &'a str,
    decision: Option<Decision>,
    result: Vec<(&'static str, Vec<u8>)>,
}

impl<'a> Change<'a> {
    /// A command that was accepted is in this state now.
    fn of(Delivery { job, retention, asker, .. }: &'a Delivery, state: State) -> Self {
        let decision = asker.as_ref().map(|asker| asker.decided(true, None));
        Self { job: *job, state, retention: *retention, jobs: ANY, waits_for: "", decision, result: Vec::new() }
    }

    /// A command ended, or never starts.
    fn end(delivery: &'a Delivery, outcome: &Outcome, identity: &Identity) -> Self {
        let started = outcome.started_at_ms.is_some();
        let reason = outcome.reason.as_deref().filter(|_| !started);
        let decision = delivery.asker.as_ref().map(|asker| asker.decided(started, reason));
        let result = signed(identity, delivery.job, delivery.manifest, outcome);
        Self { decision, result, ..Self::of(delivery, outcome.state) }
    }

    fn publish(&self, Identity { host, keys, .. }: &Identity) -> Cmd {
        let Self { job, state, .. } = *self;
        let mut publish = cmd("EVAL");
        publish.arg(PUBLISH_STATE).arg(4);
        publish.arg(keys.job_hosts(job)).arg(keys.job_events(job)).arg(keys.job_result(job, host)).arg(keys.job(job));
        publish.arg(host.as_str()).arg(state.as_str()).arg(self.retention.as_secs().max(1)).arg(limits::EVENTS);
        publish.arg(self.jobs).arg(self.waits_for);
        let decision: Vec<_> = self.decision.iter().flat_map(Decision::fields).collect();
        publish.arg(2 * decision.len());
        for (name, value) in decision.iter().chain(&self.result) {
            publish.arg(name).arg(value);
        }
        publish
    }
}

/// Adds the event to the job's stream, if there is one: the command's own states make it, and bound its life.
fn cancel_ordered(Identity { host, keys, .. }: &Identity, job: JobId, decision: Decision) -> Cmd {
    let event = Event { host: host.clone(), kind: EventKind::CancelOrdered, decision: Some(decision) };
    let mut add = cmd("XADD");
    add.arg(keys.job_events(job)).arg("NOMKSTREAM").arg("MAXLEN").arg("~").arg(limits::EVENTS).arg("*");
    add.arg(event.fields());
    add
}

/// Adds a piece to the live output, of which `most` bytes are kept in all.
fn append_output(
    Identity { host, keys, .. }: &Identity,
    Delivery { job, retention, .. }: &Delivery,
    piece: Option<&Piece>,
    most: usize,
) -> Cmd {
    let (stream, offset, data) =
        piece.map_or(("", 0, [].as_slice()), |piece| (piece.stream.as_str(), piece.offset, &piece.data));
    let beginning = limits::LIVE_BYTES / 2;
    let mut append = cmd("EVAL");
    append.arg(APPEND_OUTPUT).arg(2).arg(keys.job_output(*job, host)).arg(keys.job(*job));
    append.arg(stream).arg(offset).arg(data).arg(beginning).arg(most - beginning).arg(retention.as_secs().max(1));
    append
}

fn status_of(Identity { host, keys, .. }: &Identity, status: &Status) -> Pipeline {
    let (mut pipe, key) = (pipe(), keys.status(host));
    pipe.cmd("HSET").arg(&key).arg(status.fields());
    expire(&mut pipe, &key, limits::HOST_RETENTION);
    if fault::planted(Bug::TrimLive) {
        pipe.cmd("XTRIM").arg(keys.commands(host)).arg("MAXLEN").arg(0);
    }
    pipe
}

/// The heartbeat in the index of hosts.
fn seen(Identity { host, keys, .. }: &Identity, status: &Status) -> Pipeline {
    let mut add = cmd("ZADD");
    add.arg(keys.servers()).arg(status.last_seen_ms).arg(host.as_str());
    single(add)
}

/// Replaces each hash, so that a mount or interface that is gone leaves no old figures.
fn metrics_of(identity: &Identity, metrics: &[(Topic, Figures)]) -> impl Iterator<Item = Pipeline> {
    let mut pipe = pipe();
    for (topic, figures) in metrics {
        let fields: Vec<(&String, String)> = figures.iter().map(|(name, value)| (name, plain(value))).collect();
        replace(&mut pipe, &topic.key(&identity.keys, &identity.host), &fields, limits::METRICS_RETENTION);
    }
    (!pipe.is_empty()).then_some(pipe).into_iter()
}

fn replace<N: redis::ToRedisArgs, V: redis::ToRedisArgs>(
    pipe: &mut Pipeline,
    key: &str,
    fields: &[(N, V)],
    keep: Duration,
) {
    pipe.del(key);
    if !fields.is_empty() {
        pipe.cmd("HSET").arg(key).arg(fields);
        expire(pipe, key, keep);
    }
}

fn expire(pipe: &mut Pipeline, key: &str, after: Duration) {
    pipe.cmd("EXPIRE").arg(key).arg(after.as_secs());
}

fn single(command: Cmd) -> Pipeline {
    let mut pipe = pipe();
    pipe.add_command(command);
    pipe
}

/// A figure as a hash field: text without quotes, everything else as JSON.
pub(crate) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
