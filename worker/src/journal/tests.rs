//! The journal as its callers see it.

use std::time::Duration;

use protocol::{
    clock::millis,
    outcome::{Captured, State},
    secret::digest,
};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const NOW: Millis = 1_790_000_000_000;

/// A moment at which all records of [`NOW`] are too old.
const LATER: Millis = NOW + limits::JOURNAL_KEEP.as_secs() * 1000 + 1;

fn outcome(state: State) -> Box<Outcome> {
    Box::new(Outcome::bare(state, None, NOW))
}

fn delivery(job: JobId) -> Delivery {
    Delivery { job, manifest: Some(digest(b"manifest")), entry: "1-1".into(), retention: HOUR, asker: None }
}

fn start(job: JobId) -> BeginRequest {
    BeginRequest { delivery: delivery(job), now: NOW, allowed: true, prior: Prior::None }
}

fn path(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("web1.journal")
}

/// A journal that has been read.
async fn bounded(directory: &tempfile::TempDir, bounds: Bounds) -> Journal {
    let journal = Journal::bounded(path(directory), bounds);
    journal.reconcile(NOW).await.unwrap();
    journal
}

async fn journal(directory: &tempfile::TempDir) -> Journal {
    bounded(directory, Bounds::default()).await
}

/// The journal and what it finds, once the thread of an earlier one has let go of the file.
async fn reopen(directory: &tempfile::TempDir) -> (Journal, Found) {
    loop {
        let journal = Journal::open(path(directory));
        match journal.reconcile(NOW).await {
            Ok(found) => return (journal, found),
            Err(reason) => assert!(reason.is_locked(), "{reason}"),
        }
    }
}

/// A command that ran and whose outcome is recorded.
async fn done(journal: &Journal, outcome: Box<Outcome>) -> JobId {
    let job = JobId::new();
    assert!(matches!(journal.begin(start(job)).await, Begin::Go));
    journal.finish(delivery(job), outcome).await;
    job
}

/// The same, and published.
async fn published(journal: &Journal, outcome: Box<Outcome>) -> JobId {
    let job = done(journal, outcome).await;
    journal.published(job);
    job
}

/// What the journal knows of a command that ran.
async fn known(journal: &Journal, job: JobId) -> Box<Outcome> {
    match journal.begin(start(job)).await {
        Begin::Known(Some(outcome)) => outcome,
        begin => panic!("{begin:?}"),
    }
}

#[tokio::test]
async fn a_command_begins_once() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, job) = (journal(&directory).await, JobId::new());
    assert!(matches!(journal.begin(start(job)).await, Begin::Go));
    assert!(matches!(journal.begin(start(job)).await, Begin::Known(None)));
    journal.finish(delivery(job), outcome(State::Succeeded)).await;
    assert_eq!(known(&journal, job).await.state, State::Succeeded);
    assert_eq!(journal.cancel(job, NOW).await, Some(false));
    let late = BeginRequest { allowed: false, ..start(JobId::new()) };
    assert!(matches!(journal.begin(late).await, Begin::NotAllowed));
}

#[tokio::test]
async fn an_end_that_is_known_stands() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(&directory).await;
    let told = published(&journal, outcome(State::Succeeded)).await;
    let done = done(&journal, outcome(State::Succeeded)).await;
    for job in [told, done] {
        journal.finish(delivery(job), outcome(State::Interrupted)).await;
        assert_eq!(known(&journal, job).await.state, State::Succeeded);
    }
}

#[tokio::test]
async fn a_cancelled_command_never_begins() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, job) = (journal(&directory).await, JobId::new());
    assert_eq!(journal.cancel(job, NOW).await, Some(true));
    assert!(matches!(journal.begin(start(job)).await, Begin::Cancelled));
}

#[tokio::test]
async fn nothing_begins_before_it_has_been_read() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(path(&directory));
    let Begin::Unavailable(reason) = journal.begin(start(JobId::new())).await else { panic!("it was not read") };
    assert!(with_sources(&reason).contains("not been read"), "{reason}");
    assert!(journal.trouble().is_none());
}

#[tokio::test]
async fn what_was_running_is_interrupted_and_what_was_not_published_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let before = journal(&directory).await;
    let running = JobId::new();
    assert!(matches!(before.begin(start(running)).await, Begin::Go));
    let finished = done(&before, outcome(State::Failed)).await;
    published(&before, outcome(State::Failed)).await;
    assert_eq!(before.cancel(JobId::new(), NOW).await, Some(true));
    drop(before);
    let (journal, found) = reopen(&directory).await;
    let unpublished: Vec<_> =
        found.unpublished.iter().map(|one| (one.delivery.job, one.outcome.state, one.was_running)).collect();
    assert_eq!(unpublished.len(), 2);
    assert!(unpublished.contains(&(running, State::Interrupted, true)));
    assert!(unpublished.contains(&(finished, State::Failed, false)));
    assert_eq!(found.cancelled.len(), 1);
    assert!(matches!(journal.begin(start(running)).await, Begin::Known(None)), "reading changes nothing");
}

#[tokio::test]
async fn what_a_process_before_it_may_have_started_never_starts_if_it_is_too_young_to_know() {
    let directory = tempfile::tempdir().unwrap();
    let taken = |entry: &str| {
        let delivery = Delivery { entry: entry.into(), ..delivery(JobId::new()) };
        BeginRequest { delivery, prior: Prior::Delivered, ..start(JobId::new()) }
    };
    let (older, younger) = ("1-1", "9000000000000-0");
    let fresh = journal(&directory).await;
    for entry in [older, younger] {
        assert!(matches!(fresh.begin(taken(entry)).await, Begin::Lost), "another process had it before");
        let late = BeginRequest { allowed: false, ..taken(entry) };
        assert!(matches!(fresh.begin(late).await, Begin::Lost), "it may have run in time");
    }
    assert!(matches!(fresh.begin(start(JobId::new())).await, Begin::Go));
    drop(fresh);

    let (journal, _) = reopen(&directory).await;
    assert!(matches!(journal.begin(taken(younger)).await, Begin::Go), "the journal would know");
    assert!(matches!(journal.begin(taken(older)).await, Begin::Lost));
    let ran = BeginRequest { prior: Prior::Running, ..taken(younger) };
    assert!(matches!(journal.begin(ran).await, Begin::Lost));
    let lost = taken(older);
    assert_eq!(journal.cancel(lost.delivery.job, NOW).await, Some(true));
    assert!(matches!(journal.begin(lost).await, Begin::Lost), "that it never started is not known");
}

#[tokio::test]
async fn records_outlive_the_longest_wait_and_then_go() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(&directory).await;
    let job = done(&journal, outcome(State::Succeeded)).await;
    journal.prune(LATER);
    known(&journal, job).await; // It is not published yet.
    journal.published(job);
    journal.prune(NOW + millis(limits::START_BY_MAX));
    known(&journal, job).await;
    journal.prune(LATER);
    known_nothing(&journal, job).await;
    // Running ones are not forgotten, however long they run.
    let runs = JobId::derive("ann", job.issued_at_ms() + 1, &JobId::salt());
    assert!(matches!(journal.begin(start(runs)).await, Begin::Go));
    journal.prune(NOW + 2 * millis(limits::JOURNAL_KEEP));
    assert!(matches!(journal.begin(start(runs)).await, Begin::Known(None)));
}

#[tokio::test]
async fn they_go_piece_by_piece() {
    let directory = tempfile::tempdir().unwrap();
    let journal = bounded(&directory, Bounds { piece: 10, ..Bounds::default() }).await;
    let mut jobs = Vec::new();
    for _ in 0..35 {
        jobs.push(published(&journal, outcome(State::Succeeded)).await);
    }
    journal.prune(LATER);
    // A request waits for one piece at most, and at least one piece is done before its reply.
    for _ in 0..4 {
        known(&journal, done(&journal, outcome(State::Failed)).await).await;
    }
    for job in jobs {
        known_nothing(&journal, job).await;
    }
}

#[tokio::test]
async fn a_full_journal_starts_nothing_more_and_knows_what_it_knew() {
    let directory = tempfile::tempdir().unwrap();
    let journal = bounded(&directory, Bounds { commands: 2, ..Bounds::default() }).await;
    let first = published(&journal, outcome(State::Succeeded)).await;
    assert_eq!(journal.refusal(), None);
    let second = JobId::new();
    assert!(matches!(journal.begin(start(second)).await, Begin::Go));
    let Begin::Full(full) = journal.begin(start(JobId::new())).await else { panic!("it is full") };
    let reason = full.to_string();
    assert_eq!(journal.refusal().as_ref(), Some(&reason));
    assert!(reason.contains("8 days") && reason.len() < 250, "{reason}");
    assert!(journal.trouble().is_none());

    journal.finish(delivery(second), outcome(State::Failed)).await;
    assert_eq!(known(&journal, first).await.state, State::Succeeded);
    assert_eq!(known(&journal, second).await.state, State::Failed);
    let late = BeginRequest { allowed: false, ..start(JobId::new()) };
    assert!(
        matches!(journal.begin(late).await, Begin::NotAllowed),
        "the reason is that it may not, not that there is no room"
    );
    let taken = BeginRequest { prior: Prior::Delivered, ..start(JobId::new()) };
    assert!(matches!(journal.begin(taken).await, Begin::Lost));

    journal.prune(LATER);
    assert!(matches!(journal.begin(start(JobId::new())).await, Begin::Go));
    assert!(matches!(journal.begin(start(JobId::new())).await, Begin::Full(_)), "the unpublished one is not forgotten");
    journal.published(second);
    known(&journal, second).await;
    journal.prune(LATER);
    known_nothing(&journal, second).await;
    assert_eq!(journal.refusal(), None);
}

#[tokio::test]
async fn attack_replay_after_a_prune_does_not_run_twice() {
    let directory = tempfile::tempdir().unwrap();
    let journal = bounded(&directory, Bounds::default()).await;
    let cancelled = JobId::new();
    assert_eq!(journal.cancel(cancelled, NOW).await, Some(true));
    let ran = published(&journal, outcome(State::Succeeded)).await;
    known(&journal, ran).await;
    // Whoever owns Redis steps its clock ahead, and back again.
    journal.prune(LATER);
    for job in [ran, cancelled] {
        assert!(matches!(journal.begin(start(job)).await, Begin::Forgotten(until) if until >= ran.issued_at_ms()));
    }
    let later = JobId::derive("ann", ran.issued_at_ms() + 1, &JobId::salt());
    assert!(matches!(journal.begin(start(later)).await, Begin::Go));
}

/// That the journal knows nothing of a command, without starting it.
async fn known_nothing(journal: &Journal, job: JobId) {
    let ask = BeginRequest { allowed: false, ..start(job) };
    assert!(matches!(journal.begin(ask).await, Begin::NotAllowed));
}

#[tokio::test]
async fn orders_to_cancel_are_bounded_and_go_when_they_are_old() {
    let directory = tempfile::tempdir().unwrap();
    let journal = bounded(&directory, Bounds { cancelled: 2, ..Bounds::default() }).await;
    let [first, second, third] = [JobId::new(), JobId::new(), JobId::new()];
    for (job, recorded) in [(first, Some(true)), (second, Some(true)), (third, None), (second, Some(true))] {
        assert_eq!(journal.cancel(job, NOW).await, recorded);
    }
    let ran = done(&journal, outcome(State::Succeeded)).await;
    assert_eq!(journal.cancel(ran, NOW).await, Some(false), "that takes no room");
    assert!(matches!(journal.begin(start(first)).await, Begin::Cancelled));
    journal.prune(LATER);
    known_nothing(&journal, first).await;
    assert_eq!(journal.cancel(third, LATER).await, Some(true));
}

fn printed(bytes: usize, finished_at_ms: Millis) -> Box<Outcome> {
    let stdout = Captured { kept: vec![7; bytes], written_bytes: bytes as u64, cut_bytes: 0 };
    Box::new(Outcome { stdout, finished_at_ms, ..*outcome(State::Succeeded) })
}

#[tokio::test]
async fn the_output_of_the_oldest_published_ones_is_dropped_first() {
    let directory = tempfile::tempdir().unwrap();
    let journal = bounded(&directory, Bounds { outcome_bytes: 2500, ..Bounds::default() }).await;
    let unpublished = done(&journal, printed(1000, NOW)).await;
    // They need not be published in the order in which they ended.
    let newest = published(&journal, printed(1000, NOW + 3)).await;
    let oldest = published(&journal, printed(1000, NOW + 1)).await;
    assert_eq!(known(&journal, oldest).await, printed(1000, NOW + 1));
    let newer = published(&journal, printed(1000, NOW + 2)).await;
    for (job, at) in [(unpublished, NOW), (newest, NOW + 3), (newer, NOW + 2)] {
        assert_eq!(known(&journal, job).await, printed(1000, at));
    }
    let cut = Captured { kept: Vec::new(), written_bytes: 1000, cut_bytes: 1000 };
    assert_eq!(known(&journal, oldest).await, Box::new(Outcome { stdout: cut, ..*printed(0, NOW + 1) }));

    // Forgotten records make room for others.
    journal.prune(LATER + 10);
    let [one, other] =
        [published(&journal, printed(1000, LATER)).await, published(&journal, printed(1000, LATER)).await];
    for job in [one, other] {
        assert_eq!(known(&journal, job).await, printed(1000, LATER));
    }
}

#[tokio::test]
async fn its_size_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(&directory).await;
    for round in 0..300 {
        published(&journal, printed(2 * limits::OUTPUT_BYTES, NOW + round)).await;
    }
    drop(journal);
    reopen(&directory).await;
    let (size, budget) = (path(&directory).metadata().unwrap().len(), Bounds::default().outcome_bytes);
    println!("{size} bytes");
    // The store rounds each value up to a power of two pages, writes anew before it frees, and
    // keeps freed pages for later: eight times the budget is what that may come to.
    assert!(size < 8 * budget, "{size}");
}

/// The size in bytes of a journal that knows so many commands without output, and forgets them again.
async fn size(commands: usize) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(&directory).await;
    for _ in 0..commands / 1000 {
        // Requests made at once share their syncs.
        let outcome = Box::new(Outcome { exit_code: Some(0), started_at_ms: Some(NOW), ..*outcome(State::Succeeded) });
        futures_util::future::join_all((0..1000).map(|_| published(&journal, outcome.clone()))).await;
    }
    drop(journal);
    let since = std::time::Instant::now();
    let (journal, _) = reopen(&directory).await;
    let size = || path(&directory).metadata().unwrap().len();
    let full = size();
    println!("{commands} commands: {full} bytes, {} each, read in {:?}", full / commands as u64, since.elapsed());
    for (now, done) in [(NOW, "looked through"), (LATER, "forgotten")] {
        let since = std::time::Instant::now();
        journal.prune(now);
        let (mut asked, mut longest) = (0, Duration::ZERO);
        // Each reply comes after a piece of the search.
        for _ in 0..=commands / Bounds::default().piece {
            let since = std::time::Instant::now();
            known_nothing(&journal, JobId::new()).await;
            (asked, longest) = (asked + 1, longest.max(since.elapsed()));
        }
        println!("  {done} in {:?}; each of {asked} who asked meanwhile waited {longest:?} at most", since.elapsed());
    }
    assert!(size() <= full, "forgetting needs no room");
    full
}

#[tokio::test]
async fn another_command_with_the_id_of_one_that_was_started_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(&directory).await;
    let job = JobId::new();
    assert!(matches!(journal.begin(start(job)).await, Begin::Go));
    let other = Delivery { manifest: Some(digest(b"another")), ..delivery(job) };
    let begin = || journal.begin(BeginRequest { delivery: other.clone(), ..start(job) });
    assert!(matches!(begin().await, Begin::Other));
    journal.finish(delivery(job), outcome(State::Succeeded)).await;
    assert!(matches!(begin().await, Begin::Other), "its outcome is not that of the other");
    assert!(matches!(journal.begin(start(job)).await, Begin::Known(Some(_))));
}

#[tokio::test]
async fn a_record_is_small() {
    assert!(size(20_000).await < 20_000 * 500);
}

#[tokio::test]
#[ignore = "writes as much as a journal may ever hold"]
async fn the_largest_journal() {
    for commands in [100_000, limits::JOURNAL_RECORDS] {
        assert!(size(commands).await < 300 * commands as u64);
    }
}

#[tokio::test]
async fn a_damaged_or_unwritable_journal_refuses_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(path(&directory), vec![0x5a; 10_000]).unwrap();
    let journal = Journal::open(path(&directory));
    for _ in 0..3 {
        journal.reconcile(NOW).await.unwrap_err();
        let Begin::Unavailable(reason) = journal.begin(start(JobId::new())).await else { panic!("it is damaged") };
        assert!(reason.to_string().len() < 250, "{reason}");
    }
    let trouble = with_sources(&journal.trouble().unwrap());
    assert!(trouble.contains("web1.journal"), "{trouble}");
    assert_eq!(journal.refusal(), Some(trouble));
    let journal = Journal::open("/proc/nowhere/web1.journal".into());
    assert!(matches!(journal.begin(start(JobId::new())).await, Begin::Unavailable(_)));
    assert_eq!(journal.cancel(JobId::new(), NOW).await, None);
    journal.finish(delivery(JobId::new()), outcome(State::Failed)).await;
}
