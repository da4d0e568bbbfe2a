//! Content that goes to programs: standard input of any size, and scripts.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
};

use super::{PIECE, content_directory, fleet, left_in_redis, names, noise};
use tests::{Ctl, Redis, Worker, eventually};

/// Runs `ctl` with this standard input.
fn fed(ctl: &Ctl, words: &[&str], input: &[u8]) -> (i32, Vec<u8>, String) {
    use std::{io::Write, process::Stdio, thread};
    let mut child = ctl.command(words).stdin(Stdio::piped()).spawn().expect("ctl starts");
    let mut pipe = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let writer = thread::spawn(move || drop(pipe.write_all(&input)));
    let output = child.wait_with_output().expect("its output");
    writer.join().expect("written");
    (output.status.code().expect("a code"), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn any_standard_input_reaches_a_program() {
    let (redis, worker, ctl, _srv) = fleet();
    let large = noise(3 * PIECE + 9, 4);
    fs::write(ctl.home().join("dump"), &large).expect("a file");
    let sum = "wc -c; cat > /dev/null";
    for words in [vec!["sh", "web1", sum], vec!["sh", "web1", "--stdin", "-", sum]] {
        let (code, stdout, stderr) = fed(&ctl, &words, &large);
        assert_eq!((code, String::from_utf8_lossy(&stdout).trim()), (0, &*large.len().to_string()), "{stderr}");
    }
    let (code, stdout, _) = fed(&ctl, &["exec", "web1", "--", "cat"], b"\xff\x00binary");
    assert_eq!((code, stdout.as_slice()), (0, &b"\xff\x00binary"[..]));
    let output = ctl.run(["exec", "web1", "--stdin", "dump", "--", "sha256sum"]).expect(0);
    let local = std::process::Command::new("sha256sum").arg(ctl.home().join("dump")).output().expect("sha256sum");
    assert_eq!(output.stdout.as_bytes()[..64], local.stdout[..64]);
    fs::write(ctl.home().join("small"), "@not a file\n").expect("a file");
    let output = ctl.run(["exec", "web1", "--stdin", "small", "--", "cat"]).expect(0);
    assert_eq!(output.stdout, "@not a file\n");
    let refused = ctl.run(["exec", "web1", "--stdin", "nothing", "--", "cat"]).expect(255);
    assert!(refused.stderr.contains("cannot read nothing"), "{refused}");
    assert_eq!((left_in_redis(&redis), names(&content_directory(&worker))), (vec![], vec![]));
}

#[test]
fn a_script_runs_by_its_first_line_as_a_private_copy_that_goes_away() {
    let (redis, worker, ctl, _srv) = fleet();
    let script = "#!/bin/sh -e\necho \"$(basename $0) $# $2\"; id -u; stat -c '%a %u' \"$0\" \"$(dirname $0)\"; dirname $0; cat\n";
    ctl.write("tools/check.sh", &format!("{script}# {}\n", "x".repeat(100_000)));
    let words = ["exec", "web1", "--stdin", "tools/check.sh", "--script", "tools/check.sh", "--", "one", "two words"];
    let output = ctl.run(words).expect(0);
    let lines: Vec<_> = output.stdout.lines().collect();
    let own = fs::metadata("/proc/self").expect("/proc").uid();
    assert_eq!(lines[..4], ["check.sh 2 two words", &own.to_string(), &format!("700 {own}"), &format!("700 {own}")]);
    assert!(output.stdout.contains(script), "its standard input is another one");
    let copy = PathBuf::from(lines[4]);
    eventually("the copy to be removed", || (!copy.exists()).then_some(()));
    eventually("the note to be removed", || names(&content_directory(&worker)).is_empty().then_some(()));
    assert_eq!(left_in_redis(&redis), [""; 0]);

    if own == 0 {
        let output = ctl.run(["exec", "web1", "-p", "user=nobody", "--script", "tools/check.sh", "-n"]).expect(0);
        let nobody: Vec<_> = output.stdout.lines().skip(1).take(3).collect();
        assert_eq!(nobody[1], format!("700 {}", nobody[0]), "{output}");
        assert_ne!(nobody[0], "0");
    } else {
        eprintln!("SKIPPED: a script as another user (needs root)");
    }
    let output = ctl.run(["exec", "web1", "-p", "user=no-such-user", "--script", "tools/check.sh", "-n"]).expect(255);
    assert!(output.stderr.contains("there is no user 'no-such-user'"), "{output}");
    ctl.write("plain", "echo hello\n");
    let refused = ctl.run(["exec", "web1", "--script", "plain"]).expect(255);
    assert!(refused.stderr.contains("hint: it must begin with a line such as #!/bin/sh"), "{refused}");
    ctl.write("odd", "#!/no/such/interpreter\n");
    let failed = ctl.run(["exec", "web1", "-n", "--script", "odd"]).expect(255);
    assert!(failed.stderr.contains("cannot run 'odd'"), "{failed}");
    ctl.write("fails", "#!/bin/sh\nexit 7\n");
    ctl.run(["exec", "web1", "-n", "--script", "fails"]).expect(7);
}

#[test]
fn the_copy_of_a_script_whose_worker_was_killed_is_removed_by_the_next_one() {
    let (_redis, mut worker, ctl, _srv) = fleet();
    ctl.write("long.sh", "#!/bin/sh\necho $0\nsleep 1000\n");
    let running = ctl.spawn(["exec", "web1", "-n", "--script", "long.sh"]);
    let copy = PathBuf::from(running.wait_stdout("long.sh").trim());
    assert!(copy.exists());
    worker.kill9();
    let worker = worker.options().start();
    eventually("the copy to be removed", || (!copy.parent().expect("its directory").exists()).then_some(()));
    running.wait().expect(255);
    worker.wait_online();
}

#[test]
fn sudo_is_asked_for_by_an_argument_and_never_for_a_password() {
    let redis = Redis::start();
    let tools = redis.directory().join("bin");
    fs::create_dir(&tools).expect("a directory");
    // A stand-in that shows how it was called, and runs the rest as itself.
    let sudo = "#!/bin/sh\necho \"sudo $1 $2\" >&2\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n";
    fs::write(tools.join("sudo"), sudo).expect("a file");
    fs::set_permissions(tools.join("sudo"), fs::Permissions::from_mode(0o755)).expect("its mode");
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default());
    let rules = "[[policy]]\nwho = [\"*\"]\nactions = [\"exec\"]\narguments = { argv = [\"echo\", \"…\"], sudo = true, user = \"…\" }";
    let worker = Worker::on(&redis).env("PATH", &path).config(rules).start();
    worker.wait_online();
    let ctl = Ctl::on(&redis).knowing_web1();
    let output = ctl.run(["exec", "web1", "-n", "-p", "sudo=true", "--", "echo", "a b"]).expect(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("a b\n", "sudo -n --\n"));
    let output = ctl.run(["exec", "web1", "-n", "-p", "sudo=true", "-p", "user=www", "--", "echo", "x"]).expect(0);
    assert_eq!(output.stderr, "sudo -n -u\n");
    // The rule is for sudo, and for nothing else.
    let output = ctl.run(["exec", "web1", "-n", "--", "echo", "x"]).expect(255);
    assert!(output.stderr.contains("wants sudo to be true"), "{output}");
    let output = ctl.run(["exec", "web1", "-n", "-p", "sudo=true", "-p", "env.A=b", "--", "echo", "x"]).expect(255);
    assert!(output.stderr.contains("does not allow the argument 'env'"), "{output}");
}
