//! A job's results as JSON: the shape that scripts rely on.

use std::borrow::Cow;

use protocol::{
    event::Stream,
    name::{HostName, JobId},
    outcome::{Captured, Outcome},
    time::{Millis, show_moment},
};
use serde_json::{Value, json};

use super::summary::{Summary, reason};
use crate::client::{HostResult, Job};

/// A job with all its results.
pub fn of_job(job: &Job, results: &[&HostResult], summary: &Summary) -> Value {
    json!({
        "job": job.id(),
        "action": job.manifest().action,
        "hosts": results.iter().map(|result| of_host(result, job.manifest().issued_at_ms)).collect::<Vec<_>>(),
        "summary": summary,
    })
}

/// The kept parts of both output streams; empty where there is no outcome.
pub fn streams(outcome: Option<&Outcome>) -> [(Stream, &Captured); 2] {
    static NOTHING: Captured = Captured { kept: Vec::new(), written_bytes: 0, cut_bytes: 0 };
    let [stdout, stderr] = outcome.map_or([&NOTHING; 2], |outcome| [&outcome.stdout, &outcome.stderr]);
    [(Stream::Stdout, stdout), (Stream::Stderr, stderr)]
}

/// One host's result as a line of its own.
pub fn of_result(job: &Job, result: &HostResult) -> Value {
    with(json!({ "job": job.id(), "event": "result" }), of_host(result, job.manifest().issued_at_ms))
}

/// What a program has printed.
pub fn of_output(job: JobId, host: &HostName, stream: Stream, bytes: &[u8]) -> Value {
    let mut object = json!({ "job": job, "event": "output", "host": host, "stream": stream.as_str() });
    put_text(&mut object, "text", bytes);
    object
}

/// Something else that happened on a host: `what` is the event, and the field that describes it.
pub fn of_event(job: JobId, host: &HostName, what: &str, value: impl Into<Value>) -> Value {
    with(json!({ "job": job, "event": what, "host": host }), json!({ what: value.into() }))
}

/// Puts the output of a stream into a host's result. Fields that tell what is not exact are present only where that is so:
/// bytes that are no text were replaced, or some were cut out.
pub fn put_output(object: &mut Value, stream: Stream, bytes: &[u8], cut_bytes: u64) {
    let stream = stream.as_str();
    put_text(object, stream, bytes);
    if cut_bytes > 0 {
        object[format!("{stream}_cut_bytes")] = json!(cut_bytes);
    } else if let Some(fields) = object.as_object_mut() {
        fields.remove(&format!("{stream}_cut_bytes"));
    }
}

fn put_text(object: &mut Value, name: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    object[name] = json!(text);
    if matches!(text, Cow::Owned(_)) {
        object[format!("{name}_lossy")] = json!(true);
    }
}

/// An object with the fields of another.
fn with(mut object: Value, other: Value) -> Value {
    if let (Value::Object(fields), Value::Object(more)) = (&mut object, other) {
        fields.extend(more);
    }
    object
}

/// One host's result. Without an outcome, `state` is the last known state, and the rest is null.
pub fn of_host(result: &HostResult, issued_at_ms: Millis) -> Value {
    let outcome = result.outcome.as_ref();
    let moment = |moment: Option<u64>| moment.map(show_moment);
    let mut object = json!({
        "host": result.host,
        "state": result.state,
        "exit_code": outcome.and_then(|outcome| outcome.exit_code),
        "reason": outcome.and_then(|outcome| outcome.reason.clone()).or_else(|| derived(result)),
        "started_at": moment(outcome.and_then(|outcome| outcome.started_at_ms)),
        "finished_at": moment(outcome.map(|outcome| outcome.finished_at_ms)),
        "waited_ms": outcome.and_then(|outcome| Some(outcome.started_at_ms?.saturating_sub(issued_at_ms))),
        "duration_ms": outcome.and_then(Outcome::duration_ms),
    });
    if let Some(what) = &result.waits_for {
        object["waits_for"] = json!(what);
    }
    for (stream, captured) in streams(outcome) {
        put_output(&mut object, stream, &captured.kept, captured.cut_bytes);
    }
    // Present only where one was given.
    if let Some(ordered) = result.cancel_ordered_ms {
        object["cancel_ordered_at"] = json!(show_moment(ordered));
    }
    object["data"] = json!(outcome.and_then(|outcome| outcome.data.as_ref()));
    object
}

/// The reason of an end that no worker has reported.
fn derived(result: &HostResult) -> Option<String> {
    (result.outcome.is_none() && result.state.is_terminal()).then(|| reason(result)).flatten()
}

#[cfg(test)]
mod tests {
    use protocol::outcome::{Captured, State};

    use super::*;

    fn result(outcome: Option<Outcome>, state: State) -> HostResult {
        HostResult { state, outcome, ..HostResult::new("web1".parse().unwrap()) }
    }

    #[test]
    fn a_result_has_all_fields_and_says_when_output_is_not_exact() {
        let outcome = Outcome {
            exit_code: Some(3),
            reason: Some("exit code 3".into()),
            started_at_ms: Some(1_790_000_000_000),
            stdout: Captured { kept: b"a\xff".to_vec(), written_bytes: 9, cut_bytes: 7 },
            ..Outcome::bare(State::Failed, None, 1_790_000_000_042)
        };
        let expected = json!({
            "host": "web1", "state": "failed", "exit_code": 3, "reason": "exit code 3",
            "started_at": "2026-09-21T14:13:20.000Z", "finished_at": "2026-09-21T14:13:20.042Z", "waited_ms": 1000, "duration_ms": 42,
            "stdout": "a\u{fffd}", "stdout_lossy": true, "stdout_cut_bytes": 7, "stderr": "", "data": null,
        });
        assert_eq!(of_host(&result(Some(outcome), State::Failed), 1_789_999_999_000), expected);
    }

    #[test]
    fn no_outcome_is_null_in_every_field() {
        let value = of_host(&result(None, State::Queued), 0);
        assert_eq!(value["state"], "queued");
        assert_eq!((&value["exit_code"], &value["finished_at"]), (&Value::Null, &Value::Null));
        let expired = of_host(&result(None, State::Expired), 0);
        assert_eq!((&expired["state"], &expired["reason"]), (&json!("expired"), &json!("not started in time")));
    }
}
