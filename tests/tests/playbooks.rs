//! Playbooks: steps of a file, on real workers. What ran is known by evidence on the hosts.

use std::{fs, path::PathBuf};

use tests::{Ctl, Evidence, Gate, Output, Raw, Redis, Running, Worker, eventually};

struct Stage {
    redis: Redis,
    workers: Vec<Worker>,
    ctl: Ctl,
}

impl Stage {
    /// Hosts `web1`, `web2` and so on.
    fn new(count: usize) -> Self {
        let redis = Redis::start();
        let start = |number: usize| Worker::on(&redis).host(&format!("web{number}")).allow_exec().start();
        let workers: Vec<_> = (1..=count).map(start).collect();
        workers.iter().for_each(Worker::wait_online);
        let ctl = Ctl::on(&redis);
        Self { redis, workers, ctl }
    }

    fn write(&self, text: &str) -> PathBuf {
        self.ctl.write("book.toml", text)
    }

    fn run(&self, more: &[&str]) -> Output {
        self.ctl.run(words(more))
    }

    fn spawn(&self, more: &[&str]) -> Running {
        self.ctl.spawn(words(more))
    }

    fn evidence(&self, name: &str) -> Evidence {
        Evidence::new(&self.redis, name)
    }
}

fn words<'a>(more: &[&'a str]) -> Vec<&'a str> {
    ["playbook", "run", "book.toml"].iter().chain(more).copied().collect()
}

/// A file into which steps write a word and their host.
struct Trail(PathBuf);

impl Trail {
    fn new(stage: &Stage) -> Self {
        Self(stage.redis.directory().join("trail"))
    }

    /// A line of shell that writes this word.
    fn write(&self, word: &str) -> String {
        format!("echo {word}-$REDFLEET_HOST >> '{}'", self.0.display())
    }

    /// The line of a step that is undone by writing this word.
    fn undo(&self, word: &str) -> String {
        let script = self.write(word);
        format!("rollback = {{ action = 'exec', arguments = {{ argv = ['sh', '-c', \"\"\"{script}\"\"\"] }} }}")
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.0).expect("a file").lines().map(str::to_owned).collect()
    }
}

/// A step that runs a line of shell.
fn step(name: &str, script: &str, more: &str) -> String {
    let argv = format!("arguments = {{ argv = ['sh', '-c', \"\"\"{script}\"\"\"] }}");
    format!("[[step]]\nname = '{name}'\naction = 'exec'\n{argv}\n{more}\n")
}

/// The id of a run, as it was printed.
fn id(output: &Output) -> String {
    let line = output.stderr.lines().find_map(|line| line.strip_prefix("run ")).expect("an id");
    line.split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn steps_follow_one_another_with_values_and_results() {
    let stage = Stage::new(3);
    let (one, two) = (stage.evidence("one"), stage.evidence("two"));
    stage.write(&format!(
        "values = {{ word = 'file' }}\nhosts = {{ all = true }}\n{}{}{}{}",
        step("look", "echo v-${word}; test $REDFLEET_HOST != web3 || exit 3", "max_fail = 1"),
        step("some", &one.script(), "when = 'result.look.exit_code = 3'"),
        step("use", &format!("echo ${{result.some.state}}; {}", two.script()), "batch = 2"),
        "[[step]]\nname = 'sound'\ncheck = 'cores > 0 and result.use.stdout = succeeded'\nwithin = '10s'\n",
    ));
    // It has failed on one host, which was allowed.
    let output = stage.run(&["--set", "word=given"]).expect(2);
    assert!(output.stdout.contains("v-given"), "{output}");
    assert_eq!((one.count(), two.count()), (1, 3), "{output}");
    for line in
        ["step 2 of 4: some", "wave 2 of 2: web3", "holds for 3 hosts", "all 4 steps are done, but not on all hosts"]
    {
        assert!(output.stderr.contains(line), "{line}: {output}");
    }
}

#[test]
fn a_dry_run_prints_the_plan_of_each_host_and_does_nothing() {
    let stage = Stage::new(3);
    let evidence = stage.evidence("ran");
    let only = "hosts = { host = 'web3' }";
    let text = format!(
        "hosts = {{ host = 'web[1-2]' }}\n{}{}",
        step("a", &evidence.script(), "batch = 1"),
        step("b", "true", only)
    );
    stage.write(&text);
    let output = stage.run(&["--dry-run"]).expect(0);
    assert!(output.stdout.contains("web[1,2]  a"), "{output}");
    assert!(output.stdout.lines().any(|line| line.starts_with("web3") && line.ends_with(" b")), "{output}");
    assert!(output.stderr.contains("a: 2 hosts in 2 waves"), "{output}");
    let plan = stage.run(&["--dry-run", "-o", "json"]).expect(0).json();
    assert_eq!((&plan["hosts"]["web3"][0], &plan["steps"][0]["hosts"][1]), (&"b".into(), &"web2".into()), "{plan}");
    assert_eq!(evidence.count(), 0);
    assert_eq!(stage.ctl.run(["job", "list", "-o", "json"]).expect(0).json().as_array().map(Vec::len), Some(0));
}

#[test]
fn a_playbook_stops_at_a_failure_and_goes_on_from_there_elsewhere() {
    let stage = Stage::new(2);
    let (before, after) = (stage.evidence("before"), stage.evidence("after"));
    let good = stage.redis.directory().join("good");
    let text = format!(
        "hosts = {{ all = true }}\n{}{}{}",
        step("before", &before.script(), ""),
        step("shaky", &format!("test $REDFLEET_HOST = web1 || test -e '{}'", good.display()), ""),
        step("after", &after.script(), "")
    );
    stage.write(&text);
    let output = stage.run(&[]).expect(2);
    assert!(output.stderr.contains("ended at step 2 of 3: shaky"), "{output}");
    assert!(output.stderr.contains(&format!("ctl playbook run book.toml --resume {}", id(&output))), "{output}");
    assert_eq!((before.count(), after.count()), (2, 0));

    fs::write(good, "").expect("a file");
    let elsewhere = Ctl::on(&stage.redis);
    elsewhere.write("book.toml", &text);
    let resumed = elsewhere.run(["playbook", "run", "book.toml", "--resume", &id(&output), "-o", "json"]).expect(0);
    assert_eq!((before.count(), after.count()), (2, 2), "{resumed}");
    let whole = resumed.json();
    assert_eq!(whole["finished"], true, "{whole}");
    // Of the step that failed, only the host on which it had failed was reached again.
    assert_eq!(
        (&whole["steps"][1]["step"], &whole["steps"][1]["outcome"]),
        (&"shaky".into(), &"done".into()),
        "{whole}"
    );
    assert_eq!(whole["steps"][1]["runs"][0]["waves"][0]["hosts"].as_array().map(Vec::len), Some(1), "{whole}");
    elsewhere.run(["playbook", "run", "book.toml", "--resume", &id(&output)]).expect(0);
    assert_eq!((before.count(), after.count()), (2, 2), "what is done is done");
}

#[test]
fn a_playbook_that_was_killed_repeats_nothing() {
    let stage = Stage::new(3);
    let (first, last) = (stage.evidence("first"), stage.evidence("last"));
    let mut gate = Gate::new(&stage.redis, "gate");
    let held = format!("{}; test $REDFLEET_HOST != web2 || {}", first.script(), gate.script());
    stage.write(&format!(
        "hosts = {{ all = true }}\n{}{}",
        step("a", &held, "batch = 1"),
        step("b", &last.script(), "")
    ));
    let mut running = stage.spawn(&[]);
    let line = running.wait_stderr("run ");
    let id = line.split(' ').nth(1).expect("an id").to_owned();
    gate.reached();
    running.kill9();
    gate.open();
    // It may live: it was seen a moment ago.
    stage.run(&["--resume", &id, "--yes"]).expect(0);
    assert_eq!((first.count(), last.count()), (3, 3));
}

#[test]
fn what_was_done_is_undone_in_the_reverse_order() {
    let stage = Stage::new(2);
    let trail = Trail::new(&stage);
    let broken = format!("{}; test $REDFLEET_HOST = web1", trail.write("b"));
    stage.write(&format!(
        "hosts = {{ all = true }}\n{}{}{}",
        step("a", &trail.write("a"), &trail.undo("undo-a")),
        step("b", &broken, &format!("on_failure = 'rollback'\n{}", trail.undo("undo-b"))),
        step("c", &trail.write("c"), "")
    ));
    let output = stage.run(&[]).expect(2);
    let lines = trail.lines();
    let words: Vec<_> = lines.iter().map(|line| line.rsplit_once('-').expect("a host").0).collect();
    assert_eq!(words, ["a", "a", "b", "b", "undo-b", "undo-b", "undo-a", "undo-a"], "{output}");
    assert!(output.stderr.contains("what was done is undone"), "{output}");
    let again = stage.run(&["--resume", &id(&output), "--yes"]).expect(2);
    assert_eq!(trail.lines(), lines, "{again}");
}

#[test]
fn what_never_ran_on_a_host_is_not_undone_there() {
    let mut stage = Stage::new(2);
    let trail = Trail::new(&stage);
    stage.ctl.write(".config/redfleet/ctl.toml", "start_by = '20s'");
    let more = format!("on_failure = 'rollback'\n{}", trail.undo("undo"));
    stage.write(&format!("hosts = {{ all = true }}\n{}", step("a", &trail.write("a"), &more)));
    // It is sent the command, and goes offline. The command could still start then, so it is to be undone.
    stage.workers[1].stop();
    let output = stage.run(&[]).expect(4);
    assert!(output.stderr.contains("not all that was done is undone"), "{output}");
    stage.workers[1].kill9();
    // It comes back too late for the command: nothing has happened there.
    let mut raw = Raw::on(&stage.redis);
    let start_by = raw.now() + 20_000;
    eventually("the start-by to have passed", || (raw.now() > start_by).then_some(()));
    let back = stage.workers[1].options().start();
    back.wait_online();
    raw.wait_settled("web2");
    let again = stage.run(&["--resume", &id(&output), "--yes"]).expect(2);
    assert!(again.stderr.contains("what was done is undone"), "{again}");
    let mut lines = trail.lines();
    lines.sort();
    assert_eq!(lines, ["a-web1", "undo-web1"], "{again}");
}

#[test]
fn a_playbook_that_is_being_undone_never_goes_forward_again() {
    let stage = Stage::new(2);
    let trail = Trail::new(&stage);
    let differs = "rollback = { action = 'exec', arguments = { argv = ['echo', '${result.look.stdout}'] } }";
    stage.write(&format!(
        "hosts = {{ all = true }}\n{}{}{}",
        step("look", "echo $REDFLEET_HOST", ""),
        step("b", &trail.write("b"), differs),
        "[[step]]\nname = 'gold'\ncheck = 'label.tier = gold'\non_failure = 'rollback'\n"
    ));
    // What undoes it cannot be asked for: its hosts have different results.
    let output = stage.run(&[]).expect(2);
    assert!(output.stderr.contains("to go on with undoing it: "), "{output}");
    let before = trail.lines();
    assert_eq!(before.len(), 2, "{output}");
    let again = stage.run(&["--resume", &id(&output), "--yes"]).expect(2);
    assert!(again.stderr.contains("failed: step gold"), "{again}");
    assert!(again.stderr.contains("not all that was done is undone"), "{again}");
    assert_eq!(trail.lines(), before);
}

#[test]
fn hosts_that_were_not_shown_are_asked_about() {
    let stage = Stage::new(2);
    let (first, second) = (stage.evidence("first"), stage.evidence("second"));
    let good = stage.redis.directory().join("good");
    let shaky = format!("{}; test -e '{}'", first.script(), good.display());
    stage.write(&format!(
        "{}{}",
        step("a", &shaky, "hosts = { host = 'web1' }"),
        step("b", &second.script(), "hosts = { all = true }")
    ));
    let output = stage.run(&[]).expect(2);
    fs::write(good, "").expect("a file");
    let (code, shown) = stage.ctl.at_terminal(words(&["--resume", &id(&output)]), "n\n");
    assert!(shown.contains("step b on 2 hosts: web[1,2]. Go on?"), "{shown}");
    assert_eq!((code, first.count(), second.count()), (4, 2, 0), "{shown}");
}

#[test]
fn who_waits_for_a_step_that_was_begun_before_can_stop_waiting() {
    let stage = Stage::new(2);
    let evidence = stage.evidence("ran");
    let mut gate = Gate::new(&stage.redis, "gate");
    let script = format!("{}; test $REDFLEET_HOST != web1 || {}", evidence.script(), gate.script());
    stage.write(&format!("hosts = {{ all = true }}\n{}", step("a", &script, "batch = 1")));
    let mut running = stage.spawn(&[]);
    let line = running.wait_stderr("run ");
    let id = line.split(' ').nth(1).expect("an id").to_owned();
    gate.reached();
    running.kill9();
    let resumed = stage.spawn(&["--resume", &id, "--yes"]);
    // The old wave is closed before it is awaited.
    let record = stage.redis.cli(["--scan", "--pattern", "job:*:rollout"]);
    eventually("it to be taken over", || (stage.redis.cli(["HEXISTS", &record, "closed"]) == "1").then_some(()));
    resumed.interrupt();
    let output = resumed.wait();
    assert!(output.code != 0 && output.stderr.contains("ended at step 1 of 1: a"), "{output}");
    gate.open();
    assert_eq!(evidence.count(), 1, "the next wave was not begun");
    stage.run(&["--resume", &id, "--yes"]).expect(0);
    assert_eq!(evidence.count(), 2);
}

#[test]
fn a_playbook_may_go_on_after_a_failure() {
    let stage = Stage::new(1);
    let evidence = stage.evidence("after");
    stage.write(&format!(
        "hosts = {{ all = true }}\n{}{}",
        step("a", "false", "on_failure = 'continue'"),
        step("b", &evidence.script(), "")
    ));
    let output = stage.run(&[]).expect(2);
    assert_eq!(evidence.count(), 1, "{output}");
    assert!(output.stderr.contains("failed: step a"), "{output}");
    // That it failed is not forgotten.
    let again = stage.run(&["--resume", &id(&output)]).expect(2);
    assert!(again.stderr.contains("failed: step a") && evidence.count() == 1, "{again}");
}

#[test]
fn a_check_that_does_not_hold_stops_the_playbook() {
    let stage = Stage::new(1);
    let evidence = stage.evidence("after");
    let check = "[[step]]\nname = 'gold'\ncheck = 'label.tier = gold'\n";
    stage.write(&format!("hosts = {{ all = true }}\n{check}{}", step("b", &evidence.script(), "")));
    let output = stage.run(&[]).expect(2);
    assert!(output.stderr.contains("web1: label.tier = gold does not hold"), "{output}");
    assert_eq!(evidence.count(), 0);
}

#[test]
fn all_of_a_playbook_is_checked_before_anything_is_done() {
    let stage = Stage::new(1);
    let evidence = stage.evidence("ran");
    let first = format!("hosts = {{ all = true }}\n{}", step("a", &evidence.script(), ""));
    for (second, reason) in [
        ("[[step]]\nname = 'b'\naction = 'pingg'\n", "does not offer the action 'pingg'"),
        ("[[step]]\nname = 'b'\naction = 'ping'\narguments = { x = 1 }\n", "no parameter 'x'"),
        ("[[step]]\nname = 'b'\naction = 'ping'\nbatsh = 1\n", "batsh"),
        ("[[step]]\nname = 'b'\naction = 'ping'\nhosts = { host = 'db1' }\n", "no host is called db1"),
        ("[[step]]\nname = 'b'\naction = 'ping'\nwhen = 'result.c.state = x'\n", "there is no earlier step 'c'"),
    ] {
        stage.write(&format!("{first}{second}"));
        let output = stage.run(&[]).expect(1);
        assert!(output.stderr.contains(reason), "{reason}: {output}");
    }
    let unknown = step("b", "echo ${result.c.stdout}", "");
    stage.write(&format!("{first}{unknown}"));
    assert!(stage.run(&["--dry-run"]).expect(1).stderr.contains("there is no earlier step 'c'"));
    assert_eq!(evidence.count(), 0);
}

#[test]
fn a_file_that_has_changed_since_is_not_gone_on_with() {
    let stage = Stage::new(2);
    let evidence = stage.evidence("ran");
    let text = |script: &str| format!("hosts = {{ all = true }}\n{}", step("a", script, "batch = 1"));
    stage.write(&text(&format!("{}; false", evidence.script())));
    let output = stage.run(&[]).expect(2);
    stage.write(&text(&evidence.script()));
    let again = stage.run(&["--resume", &id(&output)]).expect(1);
    assert!(again.stderr.contains("was begun with another action or other arguments"), "{again}");
    assert_eq!(evidence.count(), 1);
    // Nor is a run that is not this playbook's.
    let other = stage.run(&["--resume", "019a0000-0000-7000-8000-000000000000"]).expect(1);
    assert!(other.stderr.contains("no step of this playbook was begun in the run"), "{other}");
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_result_cannot_name_a_file_of_the_operator() {
    let stage = Stage::new(1);
    let file = stage.ctl.write("private", "hunter2");
    let print = format!("echo @{}", file.display());
    let secret = "[[step]]\nname = 'b'\naction = 'exec'\narguments = { argv = ['sh', '-c', 'echo $T'], secret = { T = '${result.a.stdout}' } }\n";
    stage.write(&format!("hosts = {{ all = true }}\n{}{secret}", step("a", &print, "")));
    let output = stage.run(&[]).expect(4);
    assert!(output.stderr.contains("a result that begins with @ cannot be a value"), "{output}");
    assert!(!output.stdout.contains("hunter2"), "{output}");
}

#[test]
fn what_a_shell_expands_is_left_to_it() {
    let stage = Stage::new(1);
    stage.write(&format!("hosts = {{ all = true }}\n{}", step("a", "echo $${REDFLEET_HOST}", "")));
    assert!(stage.run(&[]).expect(0).stdout.contains("web1"));
}
