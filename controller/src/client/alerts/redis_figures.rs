//! What rules about Redis ask for: the fields of its status.

use std::collections::HashMap;

use protocol::time::{Millis, read_moment};

use crate::client::targeting::Field;

/// How old the status may be to count as known.
const FRESH_MS: Millis = 300_000;

/// The value of a field, or why it is not known.
pub(super) fn value(status: &HashMap<String, String>, field: &Field, now: Millis) -> Result<String, String> {
    let Field::Redis(name) = field else { return Err(format!("{field} is nothing of Redis")) };
    let checked = status.get("checked_at").and_then(|at| read_moment(at));
    match checked {
        None => return Err("nobody has looked at the state of Redis".into()),
        Some(at) if now.saturating_sub(at) > FRESH_MS => {
            return Err("the state of Redis was looked at more than 5 min ago".into());
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
        assert!(value("role", now + 300_001).unwrap_err().contains("5 min"));
        assert!(value("nothing", now).is_err());
        assert!(super::value(&HashMap::new(), &Field::Redis("role".into()), now).is_err());
    }
}
