//! Hosts that are not there: said at once, never waited for in silence.

use protocol::{name::HostName, outcome::State, time::Millis};

use crate::{moments, printer::Printer, select::NAMED};

/// A host that is not there.
pub struct Absent {
    /// Its name.
    pub host: HostName,
    /// When it was last heard of.
    pub seen_ms: Option<Millis>,
    /// How far its command is known to have come.
    pub state: State,
}

/// Says which hosts are not there, and how long their commands wait for them.
pub fn tell(absent: &[Absent], start_by_ms: Millis, now: Millis, printer: &Printer) {
    for absent in absent.iter().take(NAMED) {
        printer.note(&line(absent, &moments::local(start_by_ms, now), now));
    }
    if absent.len() > NAMED {
        printer.note(&format!("and {} more hosts are offline", absent.len() - NAMED));
    }
}

fn line(absent: &Absent, until: &str, now: Millis) -> String {
    let host = &absent.host;
    let seen =
        absent.seen_ms.map_or_else(|| "never seen".into(), |seen| format!("last seen {}", moments::ago(seen, now)));
    match absent.state {
        State::Queued => format!("{host}: offline, {seen}; queued until {until}"),
        state => format!("{host}: offline, {seen}; its command was {state}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absence_is_told_with_what_it_means_for_the_command() {
        let absent = |state| Absent { host: "web3".parse().unwrap(), seen_ms: Some(0), state };
        let told = |state| line(&absent(state), "14:05", 180_000);
        assert_eq!(told(State::Queued), "web3: offline, last seen 3 min ago; queued until 14:05");
        assert_eq!(told(State::Running), "web3: offline, last seen 3 min ago; its command was running");
    }
}
