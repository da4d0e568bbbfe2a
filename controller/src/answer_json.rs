//! A job's answers as JSON: the shape that scripts rely on.

use protocol::{
    outcome::{Captured, Outcome},
    time::show_moment,
};
use serde_json::{Map, Value, json};

use crate::{dispatch::Job, summary::Summary, verdict::Answer};

/// A job with all its answers.
pub fn whole(job: &Job, answers: &[Answer], summary: &Summary) -> Value {
    json!({
        "job": job.id(),
        "action": job.manifest.action,
        "hosts": answers.iter().map(of_host).collect::<Vec<_>>(),
        "summary": summary,
    })
}

/// One host's answer. Where there is none, `state` says how far it is known to have come, and the rest is null.
pub fn of_host(answer: &Answer) -> Value {
    let outcome = answer.outcome.as_ref();
    let moment = |moment: Option<u64>| moment.map(show_moment);
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| drop(object.insert(name.to_owned(), value));
    put("host", json!(answer.host));
    put("state", json!(answer.state));
    put("exit_code", json!(outcome.and_then(|outcome| outcome.exit_code)));
    put("reason", json!(outcome.and_then(|outcome| outcome.reason.as_deref())));
    put("started_at", json!(moment(outcome.and_then(|outcome| outcome.started_at_ms))));
    put("finished_at", json!(moment(outcome.map(|outcome| outcome.finished_at_ms))));
    put("duration_ms", json!(outcome.and_then(Outcome::duration_ms)));
    let nothing = Captured::default();
    for (stream, captured) in
        [("stdout", outcome.map(|outcome| &outcome.stdout)), ("stderr", outcome.map(|outcome| &outcome.stderr))]
    {
        let captured = captured.unwrap_or(&nothing);
        let text = String::from_utf8_lossy(&captured.kept);
        let lossy = matches!(text, std::borrow::Cow::Owned(_));
        put(stream, json!(text));
        // Said only where it is so: bytes that are no text were replaced, or some were cut out.
        if lossy {
            put(&format!("{stream}_lossy"), json!(true));
        }
        if captured.cut_bytes > 0 {
            put(&format!("{stream}_cut_bytes"), json!(captured.cut_bytes));
        }
    }
    put("data", json!(outcome.and_then(|outcome| outcome.data.as_ref())));
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use protocol::outcome::State;

    use super::*;

    fn answer(outcome: Option<Outcome>, state: State) -> Answer {
        Answer { host: "web1".parse().unwrap(), state, outcome }
    }

    #[test]
    fn an_answer_has_all_fields_and_says_when_output_is_not_exact() {
        let outcome = Outcome {
            exit_code: Some(3),
            reason: Some("exit code 3".into()),
            started_at_ms: Some(1_790_000_000_000),
            stdout: Captured { kept: b"a\xff".to_vec(), written_bytes: 9, cut_bytes: 7 },
            ..Outcome::bare(State::Failed, None, 1_790_000_000_042)
        };
        let expected = json!({
            "host": "web1", "state": "failed", "exit_code": 3, "reason": "exit code 3",
            "started_at": "2026-09-21T14:13:20.000Z", "finished_at": "2026-09-21T14:13:20.042Z", "duration_ms": 42,
            "stdout": "a\u{fffd}", "stdout_lossy": true, "stdout_cut_bytes": 7, "stderr": "", "data": null,
        });
        assert_eq!(of_host(&answer(Some(outcome), State::Failed)), expected);
    }

    #[test]
    fn no_answer_is_null_in_every_field() {
        let value = of_host(&answer(None, State::Queued));
        assert_eq!(value["state"], "queued");
        assert_eq!((&value["exit_code"], &value["finished_at"]), (&Value::Null, &Value::Null));
    }
}
