//! What rules about Redis ask for: the fields of its status.

use std::collections::HashMap;

use protocol::{
    history,
    time::{Millis, read_moment},
};

use crate::client::targeting::Field;

/// How old the status may be to count as known, besides three of its steps.
const FRESH_MS: Millis = 60_000;

/// The step where the status does not tell it, and the longest that is believed, in seconds.
const STEP: Millis = 60;
const STEP_MAX: Millis = 3600;

/// The value of a field, or why it is not known.
pub(super) fn value(status: &HashMap<String, String>, field: &Field, now: Millis) -> Result<String, String> {
    let Field::Redis(name) = field else { return Err(format!("{field} is nothing of Redis")) };
    let checked = status.get("checked_at").and_then(|at| read_moment(at));
    let step = status.get(history::STEP).and_then(|step| step.parse().ok()).unwrap_or(STEP).min(STEP_MAX);
    let fresh = FRESH_MS + 3000 * step;
    match checked {
        None => return Err("nobody has looked at the state of Redis".into()),
        Some(at) if now.saturating_sub(at) > fresh => {
            return Err(format!("the state of Redis was looked at more than {} min ago", fresh / 60_000));
        }
        Some(_) => {}
    }
    status.get(name).cloned().ok_or_else(|| format!("its state has no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_or_missing_is_not_known() {
        let at = "2026-11-22T12:00:00.000Z";
        let now = read_moment(at).unwrap();
        let status = [("checked_at", at), ("memory_usage", "90"), ("role", "master")];
        let status: HashMap<_, _> = status.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let value = |name: &str, now| value(&status, &Field::Redis(name.into()), now);
        assert_eq!(value("memory_usage", now).unwrap(), "90");
        assert_eq!(value("role", now).unwrap(), "master");
        assert!(value("role", now + 240_001).unwrap_err().contains("4 min"));
        assert!(value("nothing", now).is_err());
        assert!(super::value(&HashMap::new(), &Field::Redis("role".into()), now).is_err());
    }
}
