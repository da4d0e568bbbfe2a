//! What is due, by the calendar: once a day, at a time that the clocks of some zones skip or show twice.

use jiff::{
    SignedDuration, Timestamp,
    tz::{AmbiguousOffset, TimeZone},
};
use protocol::time::Millis;

/// A schedule that runs once a day.
#[derive(Clone, Copy, Debug)]
pub(super) struct Daily {
    pub(super) name: &'static str,
    pub(super) zone: &'static str,
    hour: i8,
    minute: i8,
    /// Whether its runs may be sent late.
    pub(super) late: bool,
}

const fn daily(name: &'static str, zone: &'static str, hour: i8, minute: i8) -> Daily {
    Daily { name, zone, hour, minute, late: true }
}

impl Daily {
    /// The same, whose runs are not sent late.
    pub(super) const fn never_late(self) -> Self {
        Self { late: false, ..self }
    }
}

/// All of them: in spring the clocks skip the first of each zone, in autumn they show the second one twice. In Berlin that is
/// the same time; Lord Howe Island changes by half an hour, Chile at midnight.
pub(super) const ALL: [Daily; 8] = [
    daily("berlin", "Europe/Berlin", 2, 30),
    daily("berlin-begin", "Europe/Berlin", 2, 0).never_late(),
    daily("york-skipped", "America/New_York", 2, 30),
    daily("york-twice", "America/New_York", 1, 30).never_late(),
    daily("howe-skipped", "Australia/Lord_Howe", 2, 15),
    daily("howe-twice", "Australia/Lord_Howe", 1, 45),
    daily("chile-skipped", "America/Santiago", 0, 30).never_late(),
    daily("chile-twice", "America/Santiago", 23, 30),
];

impl Daily {
    /// As a cron expression.
    pub(super) fn cron(&self) -> String {
        format!("{} {} * * *", self.minute, self.hour)
    }

    fn zone(&self) -> TimeZone {
        TimeZone::get(self.zone).expect("the machine has data of time zones")
    }

    /// The times that are due after one moment, and not after another one.
    pub(super) fn due(&self, after: Millis, until: Millis) -> Vec<Millis> {
        let zone = self.zone();
        let mut day = timestamp(after).to_zoned(zone.clone()).date().yesterday().expect("a day");
        let mut due = Vec::new();
        loop {
            let time = day.at(self.hour, self.minute, 0, 0);
            let told = zone.to_ambiguous_timestamp(time);
            let instant = match told.offset() {
                // The first moment behind the gap is that of the change.
                AmbiguousOffset::Gap { .. } => {
                    // At its beginning, that is the change itself.
                    let behind = told.later().expect("a moment") + SignedDuration::from_secs(1);
                    zone.preceding(behind).next().expect("the change").timestamp()
                }
                _ => told.earlier().expect("a moment"),
            };
            let instant = millis(instant);
            if instant > until {
                return due;
            }
            if instant > after {
                due.push(instant);
            }
            day = day.tomorrow().expect("a day");
        }
    }

    /// When the clocks of its zone are changed.
    pub(super) fn changes(&self, after: Millis, until: Millis) -> Vec<Millis> {
        let zone = self.zone();
        let changes = zone.following(timestamp(after)).map(|change| millis(change.timestamp()));
        changes.take_while(|change| *change <= until).collect()
    }
}

fn timestamp(moment: Millis) -> Timestamp {
    Timestamp::from_millisecond(moment.cast_signed()).expect("a moment")
}

fn millis(timestamp: Timestamp) -> Millis {
    timestamp.as_millisecond().cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Millis {
        millis(text.parse().unwrap())
    }

    #[test]
    fn the_calendar_knows_what_is_skipped_and_what_is_told_twice() {
        let due = |name: &str, from: &str, to: &str| {
            let daily = ALL.into_iter().find(|daily| daily.name == name).unwrap();
            daily.due(at(from), at(to))
        };
        // 2027: Berlin skips 02:00 to 03:00 on the 28th of March, and tells it twice on the 31st of October.
        let spring = due("berlin", "2027-03-27T12:00Z", "2027-03-29T12:00Z");
        assert_eq!(spring, [at("2027-03-28T01:00Z"), at("2027-03-29T00:30Z")]);
        assert_eq!(due("berlin-begin", "2027-03-27T12:00Z", "2027-03-28T12:00Z"), [at("2027-03-28T01:00Z")]);
        let autumn = due("berlin", "2027-10-30T12:00Z", "2027-11-01T12:00Z");
        assert_eq!(autumn, [at("2027-10-31T00:30Z"), at("2027-11-01T01:30Z")]);
        // Lord Howe skips 02:00 to 02:30 on the 3rd of October.
        let howe = due("howe-skipped", "2027-10-02T00:00Z", "2027-10-03T00:00Z");
        assert_eq!(howe, [at("2027-10-02T15:30Z")]);
    }
}
