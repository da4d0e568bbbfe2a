use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent},
};

use super::{super::sample, *};
use crate::client::{Unknown, Vitals};

/// A screen of this size, line by line without blanks at their ends.
fn drawn(width: u16, height: u16, screen: &mut Screen, view: &View) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, screen, view)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |row| (0..width).map(|column| buffer[(column, row)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

fn view(overview: &Overview) -> View<'_> {
    View { overview, address: "redis://db", filter: "", now: sample::NOW, trouble: None, colours: true }
}

fn type_text(screen: &mut Screen, text: &str) {
    for char in text.chars() {
        screen.press(KeyEvent::from(KeyCode::Char(char)));
    }
}

#[test]
fn a_screen_of_80_columns() {
    let overview = sample::overview();
    let lines = drawn(80, 16, &mut Screen::default(), &view(&overview));
    let time = moments::clock(sample::NOW);
    let short = overview.jobs[0].id.short();
    assert_eq!(lines[0], format!("5 hosts: 4 online, 1 offline, 0 unknown                     redis://db  {time}"));
    assert_eq!(
        lines[1..7].join("\n"),
        "\
HOST   STATE    CPU %▼   MEM %   DISK %    LOAD    RUNS  UP
web2   online     99.5    12.0        -   12.00     0/4  5 days
web1   online     45.1    30.0     91.0    0.50     2/4  5 days
db1    online      3.0    77.0     91.0    0.50     1/4  5 days
old1   refuses       ?       ?        -       -     1/4  -
dead1  offline       ?       -        -       -       ?  gone 3 min"
    );
    assert_eq!(lines[13], "1 job runs now");
    assert_eq!(
        lines[14],
        format!("{short}  12 s  ann@desk\u{fffd}]0;x\u{fffd}  1 succeeded, 1 queued, 3 running  exec: sleep '…")
    );
    assert_eq!(lines[15], "q quit  ? help  / filter  s sort  R reverse                      1-5 of 5 by CPU");
}

#[test]
fn wide_screens_show_more_and_tiny_ones_less() {
    let overview = sample::overview();
    let wide = drawn(200, 16, &mut Screen::default(), &view(&overview));
    assert!(wide[1].contains("VERSION") && wide[1].contains("15 MIN"), "{wide:?}");
    assert!(wide[3].contains("[||||||||          ]   45.1"), "{wide:?}");
    assert!(!wide.concat().contains('\u{1b}'), "{wide:?}");
    for (width, height) in [(1, 1), (10, 3), (30, 5), (80, 1), (200, 2)] {
        drawn(width, height, &mut Screen::default(), &view(&overview));
    }
    let small = drawn(40, 5, &mut Screen::default(), &view(&overview));
    assert!(small[1].starts_with("HOST ") && small[2].starts_with("web2 "), "{small:?}");
}

#[test]
fn a_filter_is_shown_with_what_it_leaves_out() {
    let unknown = vec![Unknown { host: "x".parse().unwrap(), reason: "it is offline".into() }];
    let overview =
        Overview { considered: 30, unknown, doubts: vec!["no host has the label 'x'".into()], ..sample::overview() };
    let lines = drawn(80, 16, &mut Screen::default(), &View { filter: "cpu.usage > 8", ..view(&overview) });
    assert_eq!(lines[1], "cpu.usage > 8: 5 of 30; 1 left out");
    assert_eq!(lines[2..4], ["no host has the label 'x'", "x: left out: it is offline"]);

    let mut screen = Screen::default();
    type_text(&mut screen, "/os = x and cpuu.usage > 8");
    let lines = drawn(80, 16, &mut screen, &view(&overview));
    assert_eq!(
        lines[13..],
        ["/os = x and cpuu.usage > 8", "            ^^^^^^^^^^", "there is no 'cpuu.usage': did you mean cpu.usage?"]
    );
    // A long text is shown by its end, and the carets stay below their place.
    type_text(&mut screen, &" ".repeat(70));
    type_text(&mut screen, "x");
    let lines = drawn(80, 16, &mut screen, &view(&overview));
    assert!(lines[13].ends_with('x'), "{lines:?}");
}

#[test]
fn while_redis_is_away_the_last_figures_are_marked_as_old() {
    let overview = sample::overview();
    let trouble = Trouble { is_away: true, error: "connection refused".into() };
    let view = View { now: sample::NOW + 42_000, trouble: Some(&trouble), ..view(&overview) };
    let lines = drawn(80, 16, &mut Screen::default(), &view);
    assert!(lines[0].ends_with(&format!("redis://db  as of {}", moments::clock(sample::NOW))), "{lines:?}");
    assert_eq!(lines[15], "Redis is away, figures are 42 s old, trying again: connection refused");
}

#[test]
fn many_jobs_are_counted_and_none_is_hidden_without_a_word() {
    let overview = Overview { jobs: vec![sample::overview().jobs.remove(0); 40], unread_jobs: 7, ..sample::overview() };
    let lines = drawn(80, 24, &mut Screen::default(), &view(&overview));
    let title = lines.iter().position(|line| line == "40 jobs run now (7 older ones are still looked at)").unwrap();
    assert!(lines[22].starts_with("and ") && lines[22].ends_with(" more: ctl job list --running"), "{lines:?}");
    assert!(title > 12, "the hosts have the most of the screen: {lines:?}");
}

#[test]
fn a_fleet_without_hosts_says_how_to_begin() {
    let overview = Overview::default();
    let lines = drawn(80, 10, &mut Screen::default(), &view(&overview));
    assert!(lines[2].starts_with("no worker has reported yet"), "{lines:?}");
    let hosts: Vec<Vitals> = Vec::new();
    let overview = Overview { considered: 3, hosts, ..Overview::default() };
    let lines = drawn(80, 10, &mut Screen::default(), &View { filter: "cpu.usage > 8", ..view(&overview) });
    assert_eq!(lines[3], "no such host");
}

#[test]
fn the_meaning_of_keys_is_shown_and_hidden() {
    let (overview, mut screen) = (sample::overview(), Screen::default());
    type_text(&mut screen, "?");
    assert!(drawn(80, 24, &mut screen, &view(&overview))[18].ends_with("n name  o state"));
    type_text(&mut screen, "?");
    assert!(drawn(80, 24, &mut screen, &view(&overview))[23].starts_with("q quit"));
}

#[test]
fn without_colours_offline_hosts_are_dimmed_all_the_same() {
    let overview = sample::overview();
    let mut terminal = Terminal::new(TestBackend::new(80, 16)).unwrap();
    let view = View { colours: false, ..view(&overview) };
    terminal.draw(|frame| draw(frame, &mut Screen::default(), &view)).unwrap();
    let buffer = terminal.backend().buffer();
    assert!(buffer.content().iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    assert!(buffer[(0, 6)].modifier.contains(Modifier::DIM) && !buffer[(0, 2)].modifier.contains(Modifier::DIM));
}
