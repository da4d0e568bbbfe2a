//! Two years of real time zones, which the tests bring along: what this machine knows of them does not matter.

use jiff::civil::date;

use super::*;

const BERLIN: &[u8] = include_bytes!("../../../fixtures/zones/Europe-Berlin");
const NEW_YORK: &[u8] = include_bytes!("../../../fixtures/zones/America-New_York");
const LORD_HOWE: &[u8] = include_bytes!("../../../fixtures/zones/Australia-Lord_Howe");
const KOLKATA: &[u8] = include_bytes!("../../../fixtures/zones/Asia-Kolkata");
const SANTIAGO: &[u8] = include_bytes!("../../../fixtures/zones/America-Santiago");

/// The zones, and the time at which their clocks are put forward.
const ZONES: [(&str, &[u8], (i8, i8)); 5] = [
    ("Europe/Berlin", BERLIN, (2, 30)),
    ("America/New_York", NEW_YORK, (2, 30)),
    // By half an hour.
    ("Australia/Lord_Howe", LORD_HOWE, (2, 15)),
    ("Asia/Kolkata", KOLKATA, (2, 30)),
    // At midnight, which that day does not have.
    ("America/Santiago", SANTIAGO, (0, 0)),
];

fn cron(expression: &str, zone: &str, tzif: &[u8]) -> Cron {
    Cron::new(expression, zone, tzif).unwrap()
}

/// From the beginning of 2027 to that of 2029, by the zone's clocks.
fn two_years(cron: &Cron) -> (Millis, Millis) {
    let begin = |year| date(year, 1, 1).at(0, 0, 0, 0).to_zoned(cron.zone.clone()).unwrap().timestamp();
    [begin(2027), begin(2029)].map(|at| Millis::try_from(at.as_millisecond()).unwrap()).into()
}

/// All times in the two years. Each is checked as a host checks it, and the seconds beside some of them.
fn times(cron: &Cron) -> Vec<Zoned> {
    let (from, until) = two_years(cron);
    let mut at = from - 1;
    let mut found = Vec::new();
    while let Some(next) = cron.next_after(at).filter(|next| *next < until) {
        assert!(next > at, "the order is strict");
        assert!(cron.is_instant(next), "{:?}", cron.zoned(next));
        let some = [next - 1000, next + 1000, next + 1, next - 1].into_iter().filter(|_| found.len() % 61 == 0);
        for beside in some {
            let is_next = cron.next_after(beside - 1) == Some(beside);
            assert_eq!(cron.is_instant(beside), is_next, "{:?}", cron.zoned(beside));
        }
        found.push(cron.zoned(next).unwrap());
        at = next;
    }
    found
}

#[test]
fn a_fixed_time_comes_once_on_each_day_whatever_the_clocks_do() {
    for (name, tzif, (hour, minute)) in ZONES {
        for expression in [format!("{minute} {hour} * * *"), "0 12 * * *".into(), "@daily".into(), "59 23 * * *".into()]
        {
            let found = times(&cron(&expression, name, tzif));
            let days: Vec<_> = found.iter().map(Zoned::date).collect();
            let mut day = date(2027, 1, 1);
            for found in &days {
                assert_eq!(*found, day, "{name} {expression}");
                day = day.tomorrow().unwrap();
            }
            assert_eq!(days.len(), 365 + 366, "{name} {expression}");
        }
    }
}

#[test]
fn a_list_of_fixed_times_has_each_of_them_once_on_each_day() {
    for (name, tzif, (hour, minute)) in ZONES {
        let found = times(&cron(&format!("{minute} {hour},9-10,14 * * *"), name, tzif));
        assert_eq!(found.len(), 4 * (365 + 366), "{name}");
    }
}

#[test]
fn intervals_are_of_real_time() {
    for (name, tzif, _) in ZONES {
        for (expression, seconds) in [("*/5 * * * *", 300), ("0 * * * *", 3600), ("*/30 * * * *", 1800)] {
            let found = times(&cron(expression, name, tzif));
            let mut odd = 0;
            for pair in found.windows(2) {
                let span = pair[1].timestamp().as_second() - pair[0].timestamp().as_second();
                odd += u32::from(span != seconds);
            }
            // Where clocks are changed by half an hour, full hours are half an hour nearer or farther, twice a year.
            let changes = if name == "Australia/Lord_Howe" && seconds == 3600 { 4 } else { 0 };
            assert_eq!(odd, changes, "{name} {expression}");
        }
    }
}

#[test]
fn the_hour_that_comes_twice_has_its_intervals_twice_and_the_one_that_is_skipped_none() {
    let berlin = cron("*/15 2 * * *", "Europe/Berlin", BERLIN);
    let found = times(&berlin);
    let on = |month, day| found.iter().filter(|at| at.date() == date(2027, month, day)).count();
    assert_eq!((on(3, 28), on(10, 31), on(6, 1)), (0, 8, 4));
}

#[test]
fn what_is_skipped_comes_at_the_end_of_the_gap() {
    let shown = |expression: &str, name: &str, tzif: &[u8], day| {
        let found = times(&cron(expression, name, tzif)).into_iter().filter(|at| at.date() == day);
        found.map(|at| at.strftime("%H:%M %:z").to_string()).collect::<Vec<_>>()
    };
    let berlin = |expression, day| shown(expression, "Europe/Berlin", BERLIN, day);
    assert_eq!(berlin("30 2 * * *", date(2027, 3, 28)), ["03:00 +02:00"]);
    // Two times in one gap are one.
    assert_eq!(berlin("15,45 2 * * *", date(2027, 3, 28)), ["03:00 +02:00"]);
    assert_eq!(berlin("30 2 * * *", date(2027, 10, 31)), ["02:30 +02:00"]);
    assert_eq!(shown("0 0 * * *", "America/Santiago", SANTIAGO, date(2027, 9, 5)), ["01:00 -03:00"]);
    assert_eq!(shown("15 2 * * *", "Australia/Lord_Howe", LORD_HOWE, date(2027, 10, 3)), ["02:30 +11:00"]);
}

/// Each second around each change, as a host judges it, against the search.
#[test]
fn a_host_and_a_scheduler_agree_on_every_second_around_a_change() {
    for (name, tzif, (hour, minute)) in ZONES {
        let crons = [format!("{minute} {hour} * * *"), "*/7 * * * *".into(), format!("5,{minute} {hour}-4 * * *")];
        for cron in crons.iter().map(|expression| cron(expression, name, tzif)) {
            let (from, until) = two_years(&cron);
            let changes: Vec<_> = cron.zone.following(cron.zoned(from).unwrap().timestamp()).take(4).collect();
            for change in changes.iter().map(|change| Millis::try_from(change.timestamp().as_millisecond()).unwrap()) {
                assert!(change < until);
                let (begin, end) = (change - 7_200_000, change + 7_200_000);
                let mut next = cron.next_after(begin - 1).unwrap();
                for second in (begin..end).step_by(1000) {
                    assert_eq!(cron.is_instant(second), second == next, "{name} {:?}", cron.zoned(second));
                    if second == next {
                        next = cron.next_after(second).unwrap();
                    }
                }
            }
        }
    }
}

#[test]
fn seconds_years_names_and_nicknames_are_read() {
    let first = |expression: &str| {
        let cron = cron(expression, "UTC", &[]);
        let from = date(2027, 1, 1).at(0, 0, 0, 0).to_zoned(cron.zone.clone()).unwrap();
        let next = cron.next_after(Millis::try_from(from.timestamp().as_millisecond()).unwrap())?;
        Some(cron.zoned(next)?.strftime("%F %T").to_string())
    };
    assert_eq!(first("30 0 12 * * *").unwrap(), "2027-01-01 12:00:30");
    assert_eq!(first("0 12 * * MON").unwrap(), "2027-01-04 12:00:00");
    assert_eq!(first("0 0 12 1 1 * 2030").unwrap(), "2030-01-01 12:00:00");
    assert_eq!(first("0 12 L 2 *").unwrap(), "2027-02-28 12:00:00");
    assert_eq!(first("@yearly").unwrap(), "2028-01-01 00:00:00");
    assert_eq!(first("@hourly").unwrap(), "2027-01-01 01:00:00");
    // What never comes is not searched for without end.
    assert_eq!(first("0 12 30 2 *"), None);
    assert_eq!(first("0 0 12 1 1 * 2020"), None);
}

#[test]
fn what_is_no_expression_or_no_zone_is_refused() {
    for expression in
        ["", "* * * *", "0 2 * *", "0 2", "60 * * * *", "0 24 * * *", "soon", "@soon", "5-1 * * * *", "* * * * * * * *"]
    {
        assert!(matches!(Cron::new(expression, "UTC", &[]), Err(ScheduleError::Expression(..))), "{expression}");
    }
    // The library takes these for fixed times, and nobody else would.
    for expression in ["30, 2 * * *", "30 2, * * *", "30-30/1 2 * * *", "0, 30 2 * * *"] {
        let told = Cron::new(expression, "UTC", &[]).unwrap_err().to_string();
        assert!(told.contains("as a number"), "{expression}: {told}");
    }
    let long = "0,".repeat(limits::CRON_BYTES);
    assert_eq!(Cron::new(&long, "UTC", &[]).unwrap_err(), ScheduleError::Long);
    for tzif in [&b"TZif"[..], &[0; 100], &vec![0; limits::ZONE_BYTES + 1], &BERLIN[..BERLIN.len() / 2]] {
        assert!(matches!(Cron::new("0 0 * * *", "X", tzif), Err(ScheduleError::Zone(..))));
    }
}
