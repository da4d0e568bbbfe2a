//! The actions in `contrib`: each of them runs for real.

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader, Write},
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use nix::unistd::{Uid, chown, geteuid};
use serde_json::{Value, json};
use tests::{Authority, Ctl, Raw, Redis, Worker, eventually, skipped};

use super::host;

fn contrib() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib").canonicalize().expect("contrib")
}

/// A file of `contrib/actions.d`, with its programs where they are, and a directory in place of each of its own.
fn file(name: &str, roots: &[(&str, &Path)]) -> String {
    let text = fs::read_to_string(contrib().join(format!("actions.d/{name}.toml"))).expect("a file");
    let text = text.replace("/usr/local/lib/redfleet", contrib().to_str().expect("text"));
    roots.iter().fold(text, |text, (root, instead)| {
        assert!(text.contains(root), "{root} in {text}");
        text.replace(root, instead.to_str().expect("text"))
    })
}

/// A worker with one action of `contrib`.
fn with(name: &str, roots: &[(&str, &Path)]) -> (Redis, Worker, Ctl) {
    host("", &[(name, &file(name, roots))])
}

/// The result of an action on web1 that ended with this exit code of `ctl`.
#[track_caller]
fn result(ctl: &Ctl, words: &[&str], code: i32) -> Value {
    let words = [&["run", "--host", "web1", "-o", "json"], words].concat();
    ctl.run(words).expect(code).json()["hosts"][0].clone()
}

#[test]
fn all_of_them_are_understood() {
    let directory = contrib().join("actions.d");
    let mut count = 0;
    for entry in fs::read_dir(&directory).expect("a directory").flatten() {
        let name = entry.path().file_stem().expect("a name").to_str().expect("text").to_owned();
        let (_redis, worker, ctl) = with(&name, &[]);
        assert!(!worker.log().contains("is broken"), "{}", worker.log());
        ctl.run(["action", "show", &name]).expect(0);
        count += 1;
    }
    assert_eq!(count, 5);
}

#[test]
fn a_log_is_rotated() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().canonicalize().expect("a path");
    let (_redis, _worker, ctl) = with("rotate-log", &[("/var/log", &root)]);
    let log = root.join("a b\"c\\.log");
    let at = |number: u32| PathBuf::from(format!("{}.{number}", log.display()));
    let named = format!("file={}", log.display());
    for (round, method) in ["copy", "move", "copy", "move"].iter().enumerate() {
        fs::write(&log, format!("round {round}\n")).expect("a log");
        let dry = result(&ctl, &["rotate-log", &named, "keep=2", "dry_run=true", &format!("method={method}")], 0);
        assert_eq!(dry["data"]["changed"], false);
        assert!(dry["data"]["would"].as_array().is_some_and(|steps| steps.len() >= 2), "{dry}");
        assert_eq!(fs::read_to_string(&log).expect("a log"), format!("round {round}\n"));
        let done = result(&ctl, &["rotate-log", &named, "keep=2", &format!("method={method}")], 0);
        let expected = json!({ "changed": true, "rotated_bytes": 8, "rotated_to": at(1).display().to_string() });
        assert_eq!(done["data"], expected);
        assert_eq!(fs::read_to_string(&log).expect("a new log"), "");
        assert_eq!(fs::read_to_string(at(1)).expect("an old log"), format!("round {round}\n"));
    }
    assert_eq!(fs::read_to_string(at(2)).expect("an old log"), "round 2\n");
    assert!(!at(3).exists());
    let idle = result(&ctl, &["rotate-log", &named], 0);
    assert_eq!(
        (&idle["data"]["changed"], fs::read_to_string(at(1)).expect("a log")),
        (&json!(false), "round 3\n".into())
    );
    // A link in the place of the old log is not followed.
    fs::write(&log, "new\n").expect("a log");
    fs::write(root.join("victim"), "safe\n").expect("a file");
    fs::remove_file(at(1)).expect("a file");
    symlink(root.join("victim"), at(1)).expect("a link");
    result(&ctl, &["rotate-log", &named, "keep=1"], 0);
    assert_eq!(fs::read_to_string(root.join("victim")).expect("a file"), "safe\n");
    // Nor is one to a directory entered.
    let elsewhere = root.join("elsewhere");
    fs::create_dir(&elsewhere).expect("a directory");
    fs::write(&log, "newer\n").expect("a log");
    fs::remove_file(at(2)).expect("a file");
    symlink(&elsewhere, at(2)).expect("a link");
    result(&ctl, &["rotate-log", &named, "keep=2"], 0);
    assert_eq!(fs::read_dir(&elsewhere).expect("a directory").count(), 0);
    assert_eq!(fs::read_to_string(at(2)).expect("an old log"), "new\n");
    let missing = result(&ctl, &["rotate-log", &format!("file={}/none", root.display())], 2);
    assert!(missing["stderr"].as_str().is_some_and(|said| said.contains("is no file")), "{missing}");
}

#[test]
fn a_log_in_a_directory_that_others_can_change_is_not_rotated() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().canonicalize().expect("a path");
    let (_redis, _worker, ctl) = with("rotate-log", &[("/var/log", &root)]);
    let (outer, inner) = (root.join("outer"), root.join("outer/inner"));
    let log = inner.join("log");
    fs::create_dir_all(&inner).expect("directories");
    fs::write(&log, "line\n").expect("a log");
    let named = format!("file={}", log.display());
    let set = |path: &Path, mode: u32| fs::set_permissions(path, Permissions::from_mode(mode)).expect("its mode");
    let refused = |path: &Path| {
        let refused = result(&ctl, &["rotate-log", &named], 2);
        let said = format!("can change '{}'", path.display());
        assert!(refused["stderr"].as_str().is_some_and(|stderr| stderr.contains(&said)), "{refused}");
        assert_eq!(fs::read_to_string(&log).expect("the log"), "line\n");
    };
    for path in [&inner, &outer] {
        set(path, 0o757);
        refused(path);
        set(path, 0o755);
    }
    // The sticky bit lets others replace nothing of root's, but make what is not there yet.
    set(&inner, 0o1777);
    refused(&inner);
    set(&inner, 0o755);
    if geteuid().is_root() {
        set(&inner, 0o775);
        refused(&inner);
        set(&inner, 0o755);
        chown(&outer, Some(Uid::from_raw(65_534)), None).expect("root may");
        refused(&outer);
        chown(&outer, Some(Uid::from_raw(0)), None).expect("root may");
    }
    set(&outer, 0o1777);
    result(&ctl, &["rotate-log", &named], 0);
}

/// What `HAProxy`'s admin socket does, as far as servers are concerned: one backend `shop` with the servers `web1` and
/// `web2`, and their administrative states in bits.
fn balancer(socket: &Path) -> Arc<Mutex<Vec<String>>> {
    let listener = UnixListener::bind(socket).expect("a socket");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    thread::spawn(move || {
        let mut flags = [("web1", 0), ("web2", 32)];
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut line = String::new();
            if BufReader::new(&stream).read_line(&mut line).is_err() {
                continue;
            }
            seen.lock().expect("a list").push(line.trim_end().to_owned());
            let words: Vec<_> = line.split_whitespace().collect();
            let reply = match &words[..] {
                ["show", "servers", "state", "shop"] => {
                    let rows = flags.iter().enumerate().map(|(id, (name, flags))| {
                        format!("3 shop {} {name} 10.0.0.{id} 2 {flags} 1 1 5 1 0 0 0 0 0 0 - 80 - 0 0 - - 0\n", id + 1)
                    });
                    let head = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight\n";
                    format!("{head}{}", rows.collect::<Vec<_>>().concat())
                }
                ["show", "servers", "state", _] => "Can't find backend.\n".to_owned(),
                ["set", "server", server, "state", state] => {
                    let found = flags.iter_mut().find(|(name, _)| *server == format!("shop/{name}"));
                    match (found, *state) {
                        (None, _) => "No such server.\n".to_owned(),
                        // A server that cannot be drained.
                        (Some(("web2", _)), "drain") => "Cannot drain it now.\n".to_owned(),
                        (Some((_, flags)), state) => {
                            *flags = (*flags & !9)
                                | match state {
                                    "drain" => 8,
                                    "maint" => 1,
                                    _ => 0,
                                };
                            String::new()
                        }
                    }
                }
                _ => "Unknown command.\n".to_owned(),
            };
            let _ = stream.write_all(format!("{reply}\n").as_bytes());
        }
    });
    asked
}

#[test]
fn a_server_is_drained_through_the_socket_of_its_balancer() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().canonicalize().expect("a path");
    let asked = balancer(&root.join("admin.sock"));
    let (_redis, _worker, ctl) = with("drain", &[("/run/haproxy", &root)]);
    let sets =
        || asked.lock().expect("a list").iter().filter(|line| line.starts_with("set")).cloned().collect::<Vec<_>>();
    let drain = ["drain", "backend=shop", "server=web1"];
    let dry = result(&ctl, &[&drain[..], &["dry_run=true"]].concat(), 0);
    let would = ["set server shop/web1 state drain"];
    let ready = json!({ "changed": false, "state": "ready", "before": "ready", "would": would });
    assert_eq!((&dry["data"], sets().len()), (&ready, 0));
    let done = result(&ctl, &drain, 0);
    assert_eq!(done["data"], json!({ "changed": true, "state": "drain", "before": "ready" }));
    let again = result(&ctl, &drain, 0);
    assert_eq!(again["data"], json!({ "changed": false, "state": "drain", "before": "drain" }));
    let back = result(&ctl, &[&drain[..], &["state=ready"]].concat(), 0);
    assert_eq!(back["data"], json!({ "changed": true, "state": "ready", "before": "drain" }));
    assert_eq!(sets(), ["set server shop/web1 state drain", "set server shop/web1 state ready"]);

    for (words, said) in [
        (["drain", "backend=shop", "server=web2"], "Cannot drain it now."),
        (["drain", "backend=shop", "server=web9"], "knows no server 'web9'"),
        (["drain", "backend=cart", "server=web1"], "Can't find backend."),
    ] {
        let failed = result(&ctl, &words, 2);
        assert!(failed["stderr"].as_str().is_some_and(|stderr| stderr.contains(said)), "{failed}");
    }
    // A semicolon would begin another command.
    let refused = ctl.run(["run", "--host", "web1", "drain", "backend=shop", "server=web1;shutdown"]).expect(1);
    assert!(refused.stderr.contains("server must be text like *"), "{refused}");
}

/// A process that is killed when it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_of_a_real_balancer_is_drained() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().canonicalize().expect("a path");
    let (socket, settings) = (root.join("admin.sock"), root.join("haproxy.cfg"));
    let text = format!(
        "global\n stats socket {} mode 600 level admin\n\
         defaults\n mode tcp\n timeout connect 1s\n timeout client 1s\n timeout server 1s\n\
         frontend shop-front\n bind unix@{}/front.sock\n default_backend shop\n\
         backend shop\n server web1 127.0.0.1:1\n server web2 127.0.0.1:2\n",
        socket.display(),
        root.display()
    );
    fs::write(&settings, text).expect("a file");
    let started = Command::new("haproxy").args(["-db", "-q", "-f"]).arg(&settings).stderr(Stdio::null()).spawn();
    let Ok(_balancer) = started.map(Killed) else {
        skipped("a_server_of_a_real_balancer_is_drained", "haproxy is not installed");
        return;
    };
    eventually("the balancer to come", || UnixStream::connect(&socket).ok());
    let (_redis, _worker, ctl) = with("drain", &[("/run/haproxy", &root)]);
    let drain = ["drain", "backend=shop", "server=web1"];
    let dry = result(&ctl, &[&drain[..], &["dry_run=true"]].concat(), 0);
    assert_eq!((&dry["data"]["changed"], &dry["data"]["state"]), (&json!(false), &json!("ready")));
    let mut before = "ready";
    for state in ["drain", "maint", "ready"] {
        let wanted = format!("state={state}");
        let words = [&drain[..], &[wanted.as_str()]].concat();
        let done = result(&ctl, &words, 0);
        assert_eq!(done["data"], json!({ "changed": true, "state": state, "before": before }));
        let again = result(&ctl, &words, 0);
        assert_eq!(again["data"], json!({ "changed": false, "state": state, "before": state }));
        before = state;
    }
    for words in [["drain", "backend=shop", "server=web9"], ["drain", "backend=cart", "server=web1"]] {
        let failed = result(&ctl, &words, 2);
        assert!(failed["stderr"].as_str().is_some_and(|stderr| stderr.contains("HAProxy knows no server")), "{failed}");
    }
}

#[test]
fn a_redis_is_dumped() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().canonicalize().expect("a path");
    let database = Redis::start();
    database.cli(["SET", "treasure", "kept"]);
    let sockets = database.socket().parent().expect("a directory").canonicalize().expect("a path");
    let roots = [("/var/backups", root.as_path()), ("/run", &sockets)];
    let (redis, _worker, ctl) = with("redis-dump", &roots);
    let file = root.join("dump.rdb");
    let name = database.socket().file_name().expect("a name").to_str().expect("text").to_owned();
    let socket = format!("socket={}/{name}", sockets.display());
    let words = ["redis-dump", &format!("file={}", file.display()), &socket];
    let dry = result(&ctl, &[&words[..], &["dry_run=true"]].concat(), 0);
    assert!(dry["data"]["would"][0].as_str().is_some_and(|step| step.contains("--rdb")) && !file.exists(), "{dry}");
    assert_eq!(result(&ctl, &words, 0)["data"], json!({ "changed": true }));
    let dump = fs::read(&file).expect("a dump");
    assert!(dump.starts_with(b"REDIS") && dump.windows(8).any(|part| part == b"treasure"), "{dump:?}");

    // With a password, which no argument shows.
    database.cli(["CONFIG", "SET", "requirepass", "tin-opener"]);
    let _ = result(&ctl, &words, 2);
    let known = [&words[..], &["password=tin-opener"]].concat();
    result(&ctl, &known, 0);
    let mut raw = Raw::on(&redis);
    assert_eq!(raw.query::<u64>(&["EXISTS", "treasure"]), 0, "it was the other server");
}

#[test]
fn the_expiry_of_a_certificate_is_told_and_a_short_one_fails() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().canonicalize().expect("a path");
    let authority = Authority::new(&root, "authority");
    let good = authority.issue("good", &["web1.example"]).cert;
    let old = authority.issue_expired("old", &["web1.example"]).cert;
    let soon = authority.issue_for_days("soon", &["web1.example"], 10).cert;
    let (redis, _worker, ctl) = with("certificate-expiry", &[("/etc/ssl", &root)]);
    let of = |path: &Path| format!("file={}", path.display());

    let told = result(&ctl, &["certificate-expiry", &of(&good)], 0)["data"].clone();
    assert!(told["days_left"].as_i64() > Some(10_000) && told["subject"] == "CN=good", "{told}");
    let told = result(&ctl, &["certificate-expiry", &of(&soon), "days=5"], 0)["data"].clone();
    let left = told["days_left"].as_i64().expect("a number");
    assert_eq!(left, 10, "{told}");
    // As openssl itself counts.
    let lasts = |days: i64| {
        let seconds = (days * 86_400).to_string();
        let mut check = Command::new("openssl");
        check
            .args(["x509", "-noout", "-checkend", &seconds, "-in"])
            .arg(&soon)
            .output()
            .expect("openssl")
            .status
            .success()
    };
    assert!(lasts(left) && !lasts(left + 1), "{told}");
    let mut raw = Raw::on(&redis);
    let figure: Option<i64> = raw.query(&["HGET", "server:{web1}:custom:certificate-expiry", "days_left"]);
    assert_eq!(figure, Some(left));

    let short = result(&ctl, &["certificate-expiry", &of(&soon)], 2);
    assert_eq!((&short["data"]["days_left"], &short["reason"]), (&json!(left), &json!("exit code 1")));
    let expired = result(&ctl, &["certificate-expiry", &of(&old), "days=0"], 2);
    assert!(expired["data"]["days_left"].as_i64() < Some(-1000), "{expired}");
    assert_eq!(expired["data"]["not_after"], "2021-01-01T00:00:00Z");
    fs::write(root.join("none"), "no certificate").expect("a file");
    assert!(result(&ctl, &["certificate-expiry", &of(&root.join("none"))], 2)["data"].is_null());
}

#[test]
fn pending_updates_are_counted() {
    if Command::new("apt-get").arg("--version").output().is_err() {
        skipped("pending_updates_are_counted", "there is no apt-get");
        return;
    }
    let simulated = Command::new("apt-get").args(["-s", "-o", "Debug::NoLocking=true", "dist-upgrade"]).output();
    let simulated = String::from_utf8(simulated.expect("apt-get runs").stdout).expect("text");
    let expected = simulated.lines().filter(|line| line.starts_with("Inst ")).count();
    let (redis, _worker, ctl) = with("pending-updates", &[]);
    let told = result(&ctl, &["pending-updates"], 0)["data"].clone();
    assert_eq!(told["pending"], expected);
    assert_eq!(told["packages"].as_array().map(Vec::len), Some(expected));
    assert!(told["security"].as_u64() <= told["pending"].as_u64(), "{told}");
    let mut raw = Raw::on(&redis);
    let figures: Vec<String> = raw.query(&["HKEYS", "server:{web1}:custom:pending-updates"]);
    assert_eq!(figures, ["pending", "security", "sampled_at"]);
}
