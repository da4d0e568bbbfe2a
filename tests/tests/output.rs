//! The output of a program is kept as it is, within bounds.

use protocol::{
    command::Manifest,
    limits,
    outcome::{Captured, State},
};
use tests::fleet;

/// What a worker must keep of `written`.
fn cut(written: &[u8]) -> Captured {
    let half = limits::OUTPUT_BYTES / 2;
    let cut = written.len().saturating_sub(limits::OUTPUT_BYTES);
    let kept = if cut == 0 {
        written.to_vec()
    } else {
        let note = format!("\n[... {cut} bytes cut ...]\n");
        [&written[..half], note.as_bytes(), &written[written.len() - half..]].concat()
    };
    Captured { kept, written_bytes: written.len() as u64, cut_bytes: cut as u64 }
}

/// What `seq FIRST LAST` prints.
fn numbers(first: u32, last: u32) -> Vec<u8> {
    (first..=last).flat_map(|number| format!("{number}\n").into_bytes()).collect()
}

#[test]
fn the_two_streams_are_kept_apart() {
    let (_redis, _worker, mut raw) = fleet();
    let manifest = raw.shell("web1", "echo out; echo err >&2; printf more; cat");
    let outcome = raw.run("web1", &manifest);
    assert_eq!((outcome.state, outcome.exit_code), (State::Succeeded, Some(0)));
    assert_eq!(outcome.stdout, cut(b"out\nmore"), "and nothing comes from standard input");
    assert_eq!(outcome.stderr, cut(b"err\n"));
}

#[test]
fn a_silent_program_has_empty_output() {
    let (_redis, _worker, mut raw) = fleet();
    let manifest = raw.shell("web1", "exit 0");
    let outcome = raw.run("web1", &manifest);
    assert_eq!((outcome.stdout, outcome.stderr), (Captured::default(), Captured::default()));
}

#[test]
fn every_byte_is_kept_as_it_is() {
    let (_redis, _worker, mut raw) = fleet();
    let every: Vec<String> = (0..=255).map(|byte| format!("\\{byte:03o}")).collect();
    let printf = format!("printf '{}'", every.concat());
    let manifest = raw.shell("web1", &format!("{printf}; {printf} >&2"));
    let outcome = raw.run("web1", &manifest);
    let every: Vec<u8> = (0..=255).collect();
    assert_eq!((outcome.stdout, outcome.stderr), (cut(&every), cut(&every)));
}

#[test]
fn long_output_keeps_its_head_and_tail_and_states_the_cut() {
    let (_redis, _worker, mut raw) = fleet();
    let manifest = raw.shell("web1", "seq 1 200000; seq 500001 600000 >&2");
    let outcome = raw.run("web1", &manifest);
    assert_eq!(outcome.state, State::Succeeded);
    assert_eq!(outcome.stdout, cut(&numbers(1, 200_000)));
    assert_eq!(outcome.stderr, cut(&numbers(500_001, 600_000)));
    // The plain field for readers with `redis-cli`.
    let shown: String = raw.query(&["HGET", &format!("job:{{{}}}:result:web1", manifest.job), "stdout_cut_bytes"]);
    assert_eq!(shown, outcome.stdout.cut_bytes.to_string());
}

#[test]
fn the_limit_is_exact() {
    let (_redis, _worker, mut raw) = fleet();
    for length in [limits::OUTPUT_BYTES - 1, limits::OUTPUT_BYTES, limits::OUTPUT_BYTES + 1] {
        let manifest = raw.shell("web1", &format!("seq 1 100000 | head -c {length}"));
        let outcome = raw.run("web1", &manifest);
        assert_eq!(outcome.stdout, cut(&numbers(1, 100_000)[..length]), "{length}");
    }
}

#[test]
fn endless_output_is_bounded_and_keeps_its_head_and_tail() {
    let (_redis, worker, mut raw) = fleet();
    let manifest = raw.shell("web1", "echo first; yes & yes >&2");
    let outcome = raw.run("web1", &Manifest { timeout_ms: 3000, ..manifest });
    assert_eq!(outcome.state, State::TimedOut);
    for (captured, head) in [(&outcome.stdout, "first\n"), (&outcome.stderr, "y\ny\n")] {
        assert!(captured.cut_bytes > 0 && captured.kept.starts_with(head.as_bytes()));
        assert!(captured.kept.len() < limits::OUTPUT_BYTES + 100, "{}", captured.kept.len());
        let kept = captured.written_bytes - captured.cut_bytes;
        assert_eq!(kept, limits::OUTPUT_BYTES as u64);
    }
    let rss = worker.rss_kb();
    assert!(rss < 64 * 1024, "{rss} kB resident");
    raw.ping("web1");
}
