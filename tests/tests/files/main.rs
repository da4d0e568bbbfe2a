//! Files that are put on hosts and got from them, and content that goes to programs.

mod programs;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use protocol::limits;
use tests::{Ctl, Output, Raw, Redis, Worker, WorkerOptions, eventually, fill, optimised};

const PIECE: usize = limits::ARTIFACT_PIECE_BYTES;

/// Bytes without a pattern.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut content = Vec::with_capacity(bytes + 8);
    while content.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    content.truncate(bytes);
    content
}

/// Lets files be put and got within this directory.
fn allowing(options: WorkerOptions, directory: &Path) -> WorkerOptions {
    let directory = directory.to_str().expect("text");
    let actions = "[actions]\nallow = [\"exec\", \"file-put\", \"file-get\", \"deploy\"]";
    options.config(&format!("[files]\nput = [{directory:?}]\nget = [{directory:?}]\n{actions}"))
}

/// A server, its worker `web1`, `ctl`, and the directory in which files may be.
fn fleet() -> (Redis, Worker, Ctl, PathBuf) {
    let redis = Redis::start();
    let srv = redis.directory().join("srv");
    fs::create_dir(&srv).expect("a directory");
    let worker = allowing(Worker::on(&redis), &srv).start();
    worker.wait_online();
    let ctl = Ctl::on(&redis).knowing_web1();
    (redis, worker, ctl, srv)
}

fn target(host: &str, path: &Path) -> String {
    format!("{host}:{}", path.display())
}

/// Writes a file in the home of `ctl` and puts it.
#[track_caller]
fn put(ctl: &Ctl, content: &[u8], path: &Path, more: &[&str]) -> Output {
    let local = ctl.home().join("local");
    fs::write(&local, content).expect("a file");
    let target = target("web1", path);
    ctl.run([&["file", "put", local.to_str().expect("text"), &target, "-o", "json"], more].concat())
}

/// The data of the only host.
fn data(output: &Output) -> serde_json::Value {
    output.json()["hosts"][0]["data"].clone()
}

/// The keys of all artifacts, and of files on their way.
fn left_in_redis(redis: &Redis) -> Vec<String> {
    let keys =
        redis.cli(["--scan", "--pattern", "artifact:*"]) + "\n" + &redis.cli(["--scan", "--pattern", "job:*:file:*"]);
    keys.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Everything in a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

/// Where a worker keeps what it has fetched.
fn content_directory(worker: &Worker) -> PathBuf {
    worker.options().directory().join("state/web1.content")
}

/// The size of what a worker has fetched so far of an artifact.
fn fetched(worker: &Worker) -> u64 {
    let directory = content_directory(worker);
    let sizes = names(&directory).into_iter().filter_map(|name| fs::metadata(directory.join(name)).ok());
    sizes.map(|about| about.len()).sum()
}

#[test]
fn a_file_goes_to_three_hosts_and_comes_back_from_each() {
    let redis = Redis::start();
    let place = redis.directory().join("srv");
    fs::create_dir(&place).expect("a directory");
    let own = |host: &str| {
        let options = allowing(Worker::on(&redis).host(host), &place);
        options.small_disk_at(&place, "true").map(|options| options.start())
    };
    let Some(workers) = ["web1", "web2", "web3"].map(own).into_iter().collect::<Option<Vec<_>>>() else { return };
    workers.iter().for_each(Worker::wait_online);
    let ctl = Ctl::on(&redis);
    let content = noise(2 * PIECE + 77, 1);
    let local = ctl.home().join("app.conf");
    fs::write(&local, &content).expect("a file");
    let target = format!("web*:{}/", place.display());
    let output = ctl.run(["file", "put", "app.conf", &target, "--mode", "0640", "-o", "json"]).expect(0);
    for host in output.json()["hosts"].as_array().expect("a list") {
        assert_eq!((&host["state"], &host["data"]["changed"]), (&"succeeded".into(), &true.into()), "{output}");
    }
    assert_eq!(left_in_redis(&redis), [""; 0]);
    for worker in &workers {
        let there = worker.on_its_disk("app.conf");
        assert!(fs::read(&there).expect("the file") == content);
        assert_eq!(fs::metadata(&there).expect("the file").permissions().mode() & 0o7777, 0o640);
        assert_eq!(names(&worker.on_its_disk("")), ["app.conf"]);
    }

    // Each has something else to give back.
    let logs: Vec<_> = (0..3).map(|seed| noise(9 * PIECE + 5, seed)).collect();
    for (worker, log) in workers.iter().zip(&logs) {
        fs::write(worker.on_its_disk("log"), log).expect("a file");
    }
    let target = format!("web*:{}/log", place.display());
    let output = ctl.run(["file", "get", &target, "got"]).expect(0);
    for (host, log) in ["web1", "web2", "web3"].iter().zip(&logs) {
        let got = ctl.home().join("got").join(host);
        assert!(fs::read(got.join("log")).expect("the file") == *log, "{host}");
        assert_eq!(names(&got), ["log"]);
        assert!(output.stdout.contains(&format!("got/{host}/log")), "{output}");
    }
    assert_eq!(left_in_redis(&redis), [""; 0]);
    for worker in &workers {
        fs::write(worker.on_its_disk("log"), b"").expect("a file");
    }
    ctl.run(["file", "get", &target, "got"]).expect(0);
    assert_eq!(
        fs::read(ctl.home().join("got/web2/log")).expect("the file"),
        b"",
        "an empty one, in place of the old one"
    );

    let missing = format!("web*:{}/nothing", place.display());
    let output = ctl.run(["file", "get", &missing, "got"]).expect(2);
    assert!(output.stderr.contains("web1, web2, web3: failed: there is no file"), "{output}");
    assert_eq!(names(&ctl.home().join("got/web1")), ["log"]);
}

#[test]
fn neither_content_nor_its_key_is_in_redis_or_a_log_in_clear() {
    let (redis, mut worker, ctl, srv) = fleet();
    worker.terminate();
    let content = "the password is hunter2\n".repeat(30_000);
    put(&ctl, content.as_bytes(), &srv.join("secret"), &[]).expect(4);
    let mut raw = Raw::on(&redis);
    let mut seen = 0;
    for key in redis.cli(["--scan"]).lines() {
        let dump: Vec<u8> = raw.query(&["DUMP", key]);
        assert!(!dump.windows(7).any(|part| part == b"hunter2"), "{key}");
        seen += usize::from(key.starts_with("artifact:"));
    }
    assert!(seen > 2, "the pieces of the content");
    let worker = worker.options().start();
    ctl.run(["job", "wait", "last"]).expect(0);
    assert_eq!(fs::read(srv.join("secret")).expect("the file"), content.as_bytes());
    ctl.run(["file", "get", &target("web1", &srv.join("secret")), "got"]).expect(0);
    assert_eq!(fs::read(ctl.home().join("got/web1/secret")).expect("the file"), content.as_bytes());
    let shown = ctl.run(["job", "show", "last"]).expect(0);
    assert!(shown.stdout.contains("content_key") && shown.stdout.contains("***"), "{shown}");
    assert!(!worker.log().contains("hunter2"));
}

#[test]
fn what_is_there_already_is_left_alone_and_changes_are_named() {
    let (redis, _worker, ctl, srv) = fleet();
    let path = srv.join("motd");
    let would = data(&put(&ctl, b"hello\n", &path, &["--dry-run", "--mode", "0600"]).expect(0));
    assert_eq!(would["changed"], false);
    assert!(would["would"][0].as_str().expect("text").starts_with("create it: 6 bytes"));
    assert!(would["would"][0].as_str().expect("text").contains("mode 0600"), "{would}");
    assert_eq!(names(&srv), [""; 0]);

    assert_eq!(data(&put(&ctl, b"hello\n", &path, &[]).expect(0))["changed"], true);
    let (inode, mode) = (fs::metadata(&path).expect("a file").ino(), fs::metadata(&path).expect("a file").mode());
    assert_eq!(mode & 0o7777, 0o644);
    let again = data(&put(&ctl, b"hello\n", &path, &["--backup"]).expect(0));
    assert_eq!(
        (&again["changed"], &again["note"]),
        (&false.into(), &"it has this content, mode and owner already".into())
    );

    // Another mode alone changes the mode of the same file.
    let changed = data(&put(&ctl, b"hello\n", &path, &["--mode", "600"]).expect(0));
    assert_eq!(changed["did"], serde_json::json!(["change its mode: 0644 to 0600"]));
    assert_eq!((fs::metadata(&path).expect("a file").ino(), names(&srv).len()), (inode, 1));

    // Other content is another file with the same mode; the prior one is kept.
    let would = data(&put(&ctl, b"hello, world\n", &path, &["--backup", "--dry-run"]).expect(0));
    assert_eq!(would["would"].as_array().expect("a list").len(), 2, "{would}");
    assert_eq!(fs::read(&path).expect("the file"), b"hello\n");
    let changed = data(&put(&ctl, b"hello, world\n", &path, &["--backup"]).expect(0));
    let about = fs::metadata(&path).expect("a file");
    assert_eq!((fs::read(&path).expect("the file").as_slice(), about.mode() & 0o7777), (&b"hello, world\n"[..], 0o600));
    assert_ne!(about.ino(), inode);
    let backup = names(&srv).into_iter().find(|name| name != "motd").expect("a backup");
    assert!(backup.starts_with("motd.2") && backup.ends_with("Z.bak"), "{backup}");
    assert_eq!(fs::metadata(srv.join(&backup)).expect("a file").ino(), inode, "it is the prior file itself");
    assert!(changed["did"][0].as_str().expect("text").contains("keep the prior file as"), "{changed}");

    put(&ctl, b"", &path, &[]).expect(0);
    assert_eq!(fs::read(&path).expect("the file"), b"");
    let wrong = put(&ctl, b"x", &path, &["--owner", "no-such-user"]).expect(2);
    assert!(wrong.json()["hosts"][0]["reason"].as_str().expect("text").contains("there is no user 'no-such-user'"));
    let wrong = put(&ctl, b"x", &path, &["--mode", "rw"]).expect(2);
    assert!(wrong.json()["hosts"][0]["reason"].as_str().expect("text").contains("write it in octal digits"));
    if nix_is_root() {
        let given = data(&put(&ctl, b"x", &path, &["--owner", "65534:65534"]).expect(0));
        assert_eq!(given["changed"], true);
        assert_eq!(fs::metadata(&path).expect("a file").uid(), 65534);
        put(&ctl, b"y", &path, &[]).expect(0);
        assert_eq!(fs::metadata(&path).expect("a file").uid(), 65534, "the owner stays");
    }
    assert_eq!(left_in_redis(&redis), [""; 0]);
}

#[test]
fn rights_of_the_owner_are_given_only_where_they_are_asked_for() {
    let (_redis, _worker, ctl, directory) = fleet();
    let path = directory.join("tool");
    let mode = || fs::metadata(&path).expect("a file").permissions().mode() & 0o7777;
    put(&ctl, b"one", &path, &["--mode", "4755"]).expect(0);
    assert_eq!(mode(), 0o4755);
    put(&ctl, b"one", &path, &[]).expect(0);
    assert_eq!(mode(), 0o4755, "nothing was to be done");
    // Whoever may write in the directory may have made it.
    put(&ctl, b"two", &path, &[]).expect(0);
    assert_eq!(mode(), 0o755);
    if nix_is_root() {
        put(&ctl, b"two", &path, &["--owner", "65534:65534", "--mode", "4755"]).expect(0);
        assert_eq!(mode(), 0o4755, "a change of the owner alone would cost it");
        put(&ctl, b"two", &path, &["--owner", "0:0"]).expect(0);
        assert_eq!(mode(), 0o755);
    }
}

fn nix_is_root() -> bool {
    fs::metadata("/proc/self").expect("/proc").uid() == 0
}

#[test]
fn attack_leading_out_of_what_the_settings_allow() {
    let (redis, mut worker, ctl, srv) = fleet();
    let outside = redis.directory().join("outside");
    fs::create_dir_all(outside.join("inner")).expect("a directory");
    fs::write(outside.join("file"), "untouched").expect("a file");
    symlink(&outside, srv.join("link")).expect("a link");
    symlink(outside.join("file"), srv.join("file")).expect("a link");
    symlink("/proc/self/root", srv.join("root")).expect("a link");
    fs::create_dir(srv.join("directory")).expect("a directory");
    let made = std::process::Command::new("mkfifo").arg(srv.join("pipe")).status().expect("mkfifo starts");
    assert!(made.success());
    let reason = |output: Output| output.json()["hosts"][0]["reason"].as_str().expect("text").to_owned();
    for (path, wanted) in [
        (outside.join("file"), "is not within a directory that this host's settings allow ([files] put)"),
        (srv.join("../outside/file"), "no absolute path without '..'"),
        (srv.join("link/file"), "is a symbolic link, and none is followed"),
        (srv.join("link/inner/new"), "is a symbolic link, and none is followed"),
        (srv.join("root/tmp/x"), "is a symbolic link, and none is followed"),
        (srv.join("file"), "is a symbolic link, and none is followed"),
        (srv.join("directory"), "is a directory"),
        (srv.join("pipe"), "is a named pipe"),
        (srv.join("nothing/x"), "there is no directory"),
        (srv.clone(), "is not within"),
    ] {
        let refused = reason(put(&ctl, b"owned", &path, &[]).expect(2));
        assert!(refused.contains(wanted), "put {}: {refused}", path.display());
        if wanted != "there is no directory" {
            let got = ctl.run(["file", "get", &target("web1", &path), "got", "-o", "json"]).expect(2);
            let refused = reason(got);
            assert!(refused.contains(&wanted.replace("put)", "get)")), "get {}: {refused}", path.display());
        }
    }
    assert_eq!(fs::read(outside.join("file")).expect("the file"), b"untouched");
    assert_eq!(names(&outside), ["file", "inner"]);
    assert_eq!(names(&srv), ["directory", "file", "link", "pipe", "root"]);
    assert!(!ctl.home().join("got/web1").exists() || names(&ctl.home().join("got/web1")).is_empty());

    let refused = ctl.run(["file", "put", ".", &target("web1", &srv.join("x"))]).expect(1);
    assert!(refused.stderr.contains("is a directory"), "{refused}");
    let refused = ctl.run(["file", "put", "local", "web1:x"]).expect(64);
    assert!(refused.stderr.contains("is not absolute"), "{refused}");

    // Without settings nothing is allowed, and without the right by name nothing is sent.
    worker.terminate();
    let bare = Worker::on(&redis).config("[actions]\nallow = [\"file-put\"]").start();
    bare.wait_online();
    let ctl = Ctl::on(&redis);
    ctl.run(["host", "key", "web1", "--pin", "--yes"]).expect(0);
    let refused = reason(put(&ctl, b"x", &srv.join("x"), &[]).expect(2));
    assert!(refused.ends_with("([files] put): none"), "{refused}");
    let refused = ctl.run(["file", "get", &target("web1", &srv.join("x")), "got"]).expect(1);
    assert!(refused.stderr.contains("does not allow the action 'file-get'"), "{refused}");
}

#[test]
fn a_policy_can_name_the_path_and_even_the_content() {
    let redis = Redis::start();
    let srv = redis.directory().join("srv");
    fs::create_dir_all(srv.join("app")).expect("a directory");
    let (files, app) = (format!("[files]\nput = [{srv:?}]"), srv.join("app/*").display().to_string());
    let rule = |path: &str, content: &str| {
        let arguments = format!("path = {path:?}, content = {content:?}, content_key = \"…\"");
        format!("[[policy]]\nwho = [\"*\"]\nactions = [\"file-put\"]\narguments = {{ {arguments} }}")
    };
    let hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824:5";
    let motd = srv.join("motd").display().to_string();
    let worker = Worker::on(&redis).config(&files).config(&rule(&app, "…")).config(&rule(&motd, hello)).start();
    worker.wait_online();
    let ctl = Ctl::on(&redis).knowing_web1();
    put(&ctl, b"any", &srv.join("app/conf"), &[]).expect(0);
    put(&ctl, b"hello", &srv.join("motd"), &[]).expect(0);
    for (content, path, more) in [
        (&b"any"[..], srv.join("motd"), &[][..]),
        (b"hello", srv.join("other"), &[]),
        (b"any", srv.join("app/../x"), &[]),
        (b"any", srv.join("app/conf"), &["--mode", "4755"]),
    ] {
        let refused = put(&ctl, content, &path, more).expect(2);
        assert_eq!(refused.json()["hosts"][0]["state"], "rejected", "{refused}");
    }
    assert_eq!(names(&srv), ["app", "motd"]);
}

/// What an attacker does with the second of three pieces. `other`: a piece of another artifact.
fn spoil(how: &str, raw: &mut Raw, key: &str, other: &str) {
    let first = format!("{}:0", key.rsplit_once(':').expect("a number").0);
    match how {
        "altered" => raw.query::<()>(&["SETRANGE", key, "1000", "\u{7f}\u{7f}"]),
        "swapped" => raw.query::<()>(&["COPY", &first, key, "REPLACE"]),
        "of another artifact" => raw.query::<()>(&["COPY", other, key, "REPLACE"]),
        "endless" => raw.query::<()>(&["SETRANGE", key, "209715200", "x"]),
        "longer" => raw.query::<()>(&["APPEND", key, "x"]),
        "cut" => raw.query::<()>(&["SET", key, "short"]),
        "of another type" => {
            raw.query::<()>(&["DEL", key]);
            raw.query::<()>(&["RPUSH", key, "x"]);
        }
        "removed" => raw.query::<()>(&["DEL", key]),
        other => panic!("{other} is no attack"),
    }
}

#[test]
fn attack_what_redis_says_about_content_is_not_believed() {
    let (redis, mut worker, ctl, srv) = fleet();
    let mut raw = Raw::on(&redis);
    let (content, path) = (noise(2 * PIECE + 5, 7), srv.join("target"));
    fs::write(&path, "untouched").expect("a file");
    let piece_of = |raw: &mut Raw, not: &str| {
        let keys: Vec<String> = raw.query(&["KEYS", "artifact:*:1"]);
        keys.into_iter().find(|key| key != not).expect("the second piece")
    };
    worker.terminate();
    put(&ctl, &noise(2 * PIECE + 5, 8), &srv.join("other"), &[]).expect(4);
    let other = piece_of(&mut raw, "");
    let mut running = worker.options().start();
    // Nobody waits for that job, so its content stays in Redis.
    eventually("the other file", || srv.join("other").exists().then_some(()));
    for (how, wanted) in [
        ("altered", "piece 2 of 3 of the content was altered in Redis"),
        ("swapped", "piece 2 of 3 of the content was altered in Redis"),
        ("of another artifact", "piece 2 of 3 of the content was altered in Redis"),
        ("endless", "piece 2 of 3 of the content was altered in Redis"),
        ("longer", "piece 2 of 3 of the content was altered in Redis"),
        ("cut", "piece 2 of 3 of the content was altered in Redis"),
        ("of another type", "piece 2 of 3 of the content was altered in Redis"),
        ("removed", "piece 2 of 3 of the content is not in Redis any more: send it again"),
    ] {
        running.wait_online();
        running.terminate();
        raw.query::<()>(&["COPY", &other, "kept", "REPLACE"]);
        put(&ctl, &content, &path, &[]).expect(4);
        let key = piece_of(&mut raw, &other);
        spoil(how, &mut raw, &key, "kept");
        running = worker.options().start();
        let output = ctl.run(["job", "wait", "last", "-o", "json"]).expect(2);
        let reason = output.json()["hosts"][0]["reason"].as_str().expect("text").to_owned();
        assert!(reason.contains(wanted), "{how}: {reason}");
        assert_eq!(fs::read(&path).expect("the file"), b"untouched", "{how}");
        assert!(running.peak_kb() < 100 * 1024, "{how}: {} kB", running.peak_kb());
        // The piece before it was right. It is not fetched again, and the whole is put once all is well.
        assert_eq!(fetched(&running), PIECE as u64, "{how}");
        raw.query::<()>(&["DEL", &key]);
    }
    let healed = data(&put(&ctl, &content, &path, &[]).expect(0));
    assert_eq!(healed["resumed_bytes"], PIECE, "{healed}");
    assert!(fs::read(&path).expect("the file") == content);
    assert_eq!(names(&srv), ["other", "target"]);
}

#[test]
fn attack_a_file_that_comes_back_altered_gets_no_name() {
    let (redis, worker, ctl, srv) = fleet();
    let path = srv.join("log");
    fs::write(&path, noise(40 * PIECE, 3)).expect("a file");
    let mut raw = Raw::on(&redis);
    let getting = ctl.spawn(["file", "get", &target("web1", &path), "got"]);
    let got = ctl.home().join("got/web1");
    // The attacker, who is faster than anybody could be: the host stands still while it looks for a piece that waits.
    let piece = eventually("a piece that waits", || {
        worker.stop();
        let keys: Vec<String> = raw.query(&["KEYS", "job:*:file:web1:*"]);
        let number = |key: &String| key.rsplit(':').next().and_then(|text| text.parse::<u64>().ok());
        let piece = keys.into_iter().max_by_key(number);
        let spoilt: bool = piece.as_ref().is_some_and(|key| {
            // Only where it is still there.
            raw.query::<Option<String>>(&["SET", key, "forged", "XX", "KEEPTTL"]).is_some()
        });
        worker.cont();
        piece.filter(|_| spoilt)
    });
    let output = getting.wait();
    // Either ctl had it already, and all is well, or it is refused.
    if output.code == 0 {
        assert!(fs::read(got.join("log")).expect("the file") == fs::read(&path).expect("the file"), "{piece}");
    } else {
        assert!(output.stderr.contains("not what the host has sent: it was altered"), "{output}");
        assert_eq!(names(&got), [""; 0], "{piece}");
    }
}

/// Halts a worker that has fetched a part of an artifact of so many bytes.
#[track_caller]
fn halt_midway(worker: &Worker, bytes: u64) {
    eventually("a part of the content", || {
        (fetched(worker) > 0).then_some(())?;
        worker.stop();
        Some(())
    });
    assert!(fetched(worker) < bytes, "all of it was there already");
}

#[test]
fn a_fetch_goes_on_where_a_killed_worker_was() {
    let (_redis, mut worker, ctl, srv) = fleet();
    let (content, path) = (noise(100 * PIECE + 1, 11), srv.join("large"));
    fs::write(ctl.home().join("local"), &content).expect("a file");
    let words = ["file", "put", "local", &target("web1", &path), "-o", "json"];
    let putting = ctl.spawn(words);
    halt_midway(&worker, content.len() as u64);
    worker.kill9();
    let had = fetched(&worker);
    let worker = worker.options().start();
    let output = putting.wait().expect(2);
    assert_eq!(output.json()["hosts"][0]["state"], "interrupted", "{output}");
    assert!(!path.exists());
    let again = data(&ctl.run(words).expect(0));
    let resumed = again["resumed_bytes"].as_u64().expect("a number");
    assert!(resumed > 0 && resumed <= had && resumed.is_multiple_of(PIECE as u64), "{resumed} of {had}");
    assert!(fs::read(&path).expect("the file") == content);
    assert_eq!(names(&content_directory(&worker)), [""; 0]);
}

#[test]
fn a_fetch_survives_a_restart_of_redis() {
    let (mut redis, worker, ctl, srv) = fleet();
    let (content, path) = (noise(100 * PIECE + 1, 12), srv.join("large"));
    fs::write(ctl.home().join("local"), &content).expect("a file");
    let putting = ctl.spawn(["file", "put", "local", &target("web1", &path), "-o", "json"]);
    halt_midway(&worker, content.len() as u64);
    redis.kill9();
    worker.cont();
    worker.wait_log("is away");
    redis.restart();
    let output = putting.wait().expect(0);
    assert_eq!(data(&output)["changed"], true, "{output}");
    assert!(data(&output).get("resumed_bytes").is_none(), "one command has fetched it: {output}");
    assert!(fs::read(&path).expect("the file") == content);
    eventually("no content in Redis", || left_in_redis(&redis).is_empty().then_some(()));
}

#[test]
fn on_a_full_disk_nothing_half_written_is_left() {
    // The disk of the files.
    let redis = Redis::start();
    let options = Worker::on(&redis);
    let srv = options.directory().join("srv");
    let Some(options) = allowing(options, &srv).small_disk("srv", "true") else { return };
    let worker = options.start();
    worker.wait_online();
    let ctl = Ctl::on(&redis).knowing_web1();
    fs::write(worker.on_its_disk("old"), "untouched").expect("a file");
    let content = noise(4 * PIECE, 5);
    fill(&worker.on_its_disk("filler"));
    let failed = put(&ctl, &content, &srv.join("old"), &["--backup"]).expect(2).json();
    let reason = failed["hosts"][0]["reason"].as_str().expect("text");
    assert!(reason.contains("it is as it was before") && reason.contains("No space left"), "{reason}");
    assert_eq!(names(&worker.on_its_disk("")), ["filler", "old"]);
    assert_eq!(fs::read(worker.on_its_disk("old")).expect("a file"), b"untouched");
    assert_eq!((left_in_redis(&redis), names(&content_directory(&worker))), (vec![], vec![]));
    fs::remove_file(worker.on_its_disk("filler")).expect("space");
    put(&ctl, &content, &srv.join("old"), &[]).expect(0);
    assert!(fs::read(worker.on_its_disk("old")).expect("a file") == content);

    // The disk of the worker's state.
    let redis = Redis::start();
    let srv = redis.directory().join("srv");
    fs::create_dir(&srv).expect("a directory");
    let options = allowing(Worker::on(&redis), &srv).small_disk("state", "true").expect("as before");
    let worker = options.start();
    worker.wait_online();
    let ctl = Ctl::on(&redis).knowing_web1();
    let failed = put(&ctl, &noise(20 * PIECE, 6), &srv.join("x"), &[]).expect(2).json();
    let reason = failed["hosts"][0]["reason"].as_str().expect("text");
    assert!(reason.contains("the content cannot be kept in") && reason.contains("No space left"), "{reason}");
    assert_eq!((names(&worker.on_its_disk("web1.content")), names(&srv)), (vec![], vec![]));
    put(&ctl, &content, &srv.join("x"), &[]).expect(0);
}

#[test]
fn content_is_there_as_long_as_somebody_needs_it() {
    let redis = Redis::start();
    let srv = redis.directory().join("srv");
    fs::create_dir(&srv).expect("a directory");
    let mut workers = ["web1", "web2"].map(|host| allowing(Worker::on(&redis).host(host), &srv).start());
    workers.iter().for_each(Worker::wait_online);
    let ctl = Ctl::on(&redis);
    let content = noise(PIECE + 1, 9);
    fs::write(ctl.home().join("local"), &content).expect("a file");
    workers[1].terminate();
    // web2 is offline: its command is queued, and the content waits for it, whoever else has needed the same.
    let put = |host: &str, code| {
        let target = target(host, &srv.join(host));
        ctl.run(["file", "put", "local", &target]).expect(code)
    };
    let queued = put("web2", 4);
    assert!(queued.stderr.contains("the content stays in Redis for the hosts that have not ended"), "{queued}");
    put("web1", 0);
    let left = left_in_redis(&redis);
    assert_eq!(left.len(), 3, "two pieces, and who needs them: {left:?}");
    let mut raw = Raw::on(&redis);
    for key in left {
        let left_ms: i64 = raw.query(&["PTTL", &key]);
        assert!(left_ms > 0 && left_ms <= 14 * 3600 * 1000, "{key}: {left_ms}");
    }
    let doctor = ctl.run(["doctor", "-o", "json"]);
    assert!(!doctor.stdout.contains("artifact:"), "{doctor}");
    let _web2 = workers[1].options().start();
    ctl.run(["job", "wait", "last"]);
    eventually("the file", || (fs::read(srv.join("web2")).ok()? == content).then_some(()));
}

/// Bytes that Redis uses for data.
fn used_memory(redis: &Redis) -> u64 {
    let info = redis.cli(["INFO", "memory"]);
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("a line of INFO");
    line.trim().parse().expect("a number")
}

#[test]
#[ignore = "measures memory: run it alone, with the optimised worker"]
fn of_200_mb_a_worker_has_little_in_memory_and_redis_nothing_afterwards() {
    let redis = Redis::start();
    let srv = redis.directory().join("srv");
    fs::create_dir(&srv).expect("a directory");
    let app = srv.join("app");
    fs::create_dir(&app).expect("a directory");
    let settings = format!("[apps.large]\ndirectory = {:?}", app.to_str().expect("text"));
    let worker = allowing(Worker::on(&redis).program(optimised("worker")), &srv).config(&settings).start();
    worker.wait_online();
    let ctl = Ctl::on(&redis).knowing_web1();
    let content = noise(200 * 1024 * 1024, 200);
    fs::write(ctl.home().join("large"), &content).expect("a file");
    put(&ctl, b"warm", &srv.join("warm"), &[]).expect(0);
    let before = used_memory(&redis);
    let put = ctl.command(["file", "put", "large", &target("web1", &srv.join("large"))]).output().expect("ctl runs");
    assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    assert!(fs::read(srv.join("large")).expect("the file") == content);
    let peak = worker.peak_kb();
    println!("200 MiB put: the worker had {peak} kB at most");
    assert!(peak < 16 * 1024, "{peak} kB");
    let most = before + 2 * 1024 * 1024;
    eventually("Redis to have its memory back", || (used_memory(&redis) < most).then_some(()));
    println!("Redis: {before} bytes before, {} after", used_memory(&redis));

    let got = ctl.command(["file", "get", &target("web1", &srv.join("large")), "got"]).output().expect("ctl runs");
    assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
    assert!(fs::read(ctl.home().join("got/web1/large")).expect("the file") == content);
    let peak = worker.peak_kb();
    println!("200 MiB got: the worker had {peak} kB at most");
    assert!(peak < 16 * 1024, "{peak} kB");

    let words = ["deploy", "large", "--version", "1", "--from", "large-release", "web1"];
    fs::create_dir(ctl.home().join("large-release")).expect("a directory");
    fs::rename(ctl.home().join("large"), ctl.home().join("large-release/content")).expect("a file can be moved");
    let deployed = ctl.command(words).output().expect("ctl runs");
    assert!(deployed.status.success(), "{}", String::from_utf8_lossy(&deployed.stderr));
    assert!(fs::read(app.join("current/content")).expect("the file") == content);
    let peak = worker.peak_kb();
    println!("200 MiB deployed: the worker had {peak} kB at most");
    assert!(peak < 16 * 1024, "{peak} kB");
}
