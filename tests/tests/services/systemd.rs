//! A unit of systemd. Where Docker runs, a real one, in a container that boots it; always a stand-in for `systemctl` that
//! keeps real state: it starts real processes and knows them by files.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tests::{Ctl, Redis, Served, Worker, eventually};

use super::{ALLOW, Done, Host};

/// What stands in for `systemctl` and `journalctl`.
const STAND_IN: &str = r#"#!/bin/sh
# Units are files of shell variables (exec, reload) in DIR/units; state is in DIR/state.
dir=DIR
while [ "$1" != -- ]; do
    case $1 in start|stop|restart|reload|show) verb=$1 ;; esac
    shift
done
unit=$2 state=$dir/state/$2
mkdir -p "$state"
echo "$verb $unit" >>$dir/calls
if ! [ -f "$dir/units/$unit" ]; then
    [ "$verb" = show ] && { echo LoadState=not-found; echo ActiveState=inactive; echo SubState=dead; exit 0; }
    echo "Failed to $verb $unit: Unit $unit not found." >&2
    exit 5
fi
. "$dir/units/$unit"
pid() { cat "$state/pid" 2>/dev/null || echo 0; }
is_up() { [ "$(pid)" != 0 ] && kill -0 "$(pid)" 2>/dev/null; }
start() {
    is_up && return
    setsid sh -c "$exec" >>"$dir/journal" 2>&1 </dev/null & echo $! >"$state/pid"
    touch "$state/wanted"
}
stop() {
    rm -f "$state/wanted"
    is_up && kill "$(pid)"
    while is_up; do sleep 0.02; done
    rm -f "$state/pid"
}
case $verb in
start) start ;;
stop) stop ;;
restart) stop; start ;;
reload) [ -n "$reload" ] || { echo "Failed to reload $unit: Job type reload is not applicable for unit $unit." >&2; exit 1; }
    kill -HUP "$(pid)" ;;
show)
    echo Type=simple; echo LoadState=loaded; echo NRestarts=0
    if is_up; then echo ActiveState=active; echo SubState=running; echo Result=success; echo "MainPID=$(pid)"
    elif [ -f "$state/wanted" ]; then echo ActiveState=failed; echo SubState=failed; echo Result=exit-code; echo MainPID=0
    else echo ActiveState=inactive; echo SubState=dead; echo Result=success; echo MainPID=0; fi ;;
esac
"#;

const JOURNAL: &str = "#!/bin/sh\nexec tail -n 20 DIR/journal\n";

/// Puts the stand-ins into a directory, and returns that.
fn stand_in(served: &Served) -> PathBuf {
    let (directory, programs) = (served.directory().display().to_string(), served.directory().join("bin"));
    fs::create_dir_all(served.directory().join("units")).expect("a directory");
    fs::create_dir_all(&programs).expect("a directory");
    for (name, text) in [("systemctl", STAND_IN), ("journalctl", JOURNAL)] {
        let path = programs.join(name);
        fs::write(&path, text.replace("DIR", &directory)).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
    }
    let (program, address) = (Served::program().display().to_string(), served.address);
    let unit =
        format!("exec='exec env ADDRESS={address} VERSION=v1 BEHAVIOUR={directory}/behaviour {program}'\nreload=HUP\n");
    fs::write(served.directory().join("units/web.service"), unit).expect("a unit");
    programs
}

fn host() -> Host {
    println!("systemd: a stand-in for systemctl, with real processes");
    let served = Served::new("web");
    let path = format!("{}:{}", stand_in(&served).display(), std::env::var("PATH").unwrap_or_default());
    let check = format!("check = {{ http = 'http://{}/health' }}", served.address);
    let settings = format!(
        "[services.web]\ndriver = 'systemd'\nsettle = '300ms'\n{check}\n[services.gone]\nunit = 'no-such-unit'\n"
    );
    Host::with(served, |worker| worker.config(&settings).env("PATH", &path))
}

#[test]
fn a_unit_is_started_restarted_and_stopped() {
    let host = host();
    let status = host.run("status").good();
    assert_eq!((status.is(), status.data["detail"].as_str()), ("down", Some("inactive (dead)")));
    assert_eq!(host.run("--dry-run start").good().would()[0], "run systemctl start web.service");
    assert!(host.served.processes().is_empty());
    let started = host.run("start").good();
    assert_eq!((started.is(), started.changed(), started.pid()), ("up", Some(true), host.served.pid()));
    assert_eq!(host.run("start").good().changed(), Some(false));
    let restarted = host.run("restart").good();
    assert_eq!((restarted.changed(), restarted.pid()), (Some(true), host.served.pid()));
    assert_ne!(restarted.pid(), started.pid());
    host.served.behave("sick");
    assert_eq!(host.run("reload").good().changed(), Some(true));
    host.run("--timeout 6s restart").bad("/health: status 500");
    host.served.behave("");
    assert_eq!(host.run("stop").good().changed(), Some(true));
    assert_eq!(host.run("stop").good().changed(), Some(false));
    assert!(host.served.processes().is_empty());
}

#[test]
fn a_unit_that_fails_is_reported_with_the_last_lines_of_its_journal() {
    let host = host();
    host.served.behave("crash");
    let failed = host.run("start").bad("it is not up: failed (failed), result exit-code");
    assert_eq!((failed.is(), failed.changed()), ("failed", Some(true)));
    assert!(failed.stderr.contains("told to crash"), "{failed:?}");
    let output = host.ctl.run(["run", "--host", "web1", "start", "service=gone"]).expect(2);
    assert!(output.stderr.contains("there is no service 'no-such-unit' on this host"), "{output}");
    let calls = fs::read_to_string(host.served.directory().join("calls")).expect("what was called");
    assert!(!calls.contains("start no-such-unit"), "{calls}");
}

/// A container that boots systemd, with this machine's own `/usr`. It is removed when dropped.
struct Container(String);

fn docker(words: &[&str]) -> Output {
    Command::new("docker").args(words).output().expect("docker runs")
}

impl Container {
    /// Boots one that sees `shared`.
    fn boot(shared: &[&Path], units: &Path) -> Self {
        let name = format!("redfleet-test-systemd-{}", std::process::id());
        let root = tempfile::tempdir().expect("a directory");
        for directory in ["etc/systemd/system", "run", "tmp", "var/log", "proc", "sys", "dev", "root", "usr"] {
            fs::create_dir_all(root.path().join(directory)).expect("a directory");
        }
        for (name, target) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
            std::os::unix::fs::symlink(target, root.path().join(name)).expect("a link");
        }
        for file in ["passwd", "group", "nsswitch.conf"] {
            fs::copy(Path::new("/etc").join(file), root.path().join("etc").join(file)).expect("a copy");
        }
        fs::write(root.path().join("etc/machine-id"), "").expect("a file");
        let target = root.path().join("etc/systemd/system/default.target");
        std::os::unix::fs::symlink("/usr/lib/systemd/system/basic.target", target).expect("a link");
        for unit in fs::read_dir(units).expect("units").flatten() {
            fs::copy(unit.path(), root.path().join("etc/systemd/system").join(unit.file_name())).expect("a copy");
        }
        let script = format!("tar -C {} -c . | docker import - {name}:test", root.path().display());
        let imported = Command::new("sh").args(["-c", &script]).output().expect("a shell");
        assert!(imported.status.success(), "{imported:?}");
        let volumes = shared.iter().map(|path| format!("--volume={0}:{0}", path.display())).collect::<Vec<_>>();
        let container = Self(name.clone());
        let init = "mount -o remount,rw /sys/fs/cgroup; exec /usr/lib/systemd/systemd --log-target=console";
        let fixed = ["run", "--detach", "--name", &name, "--cap-add=SYS_ADMIN", "--security-opt=seccomp=unconfined"];
        let more = ["--cgroupns=private", "--network=host", "--volume=/usr:/usr:ro", "--tmpfs=/run", "--tmpfs=/tmp"];
        let image = format!("{name}:test");
        let words = fixed.iter().chain(&more).copied().chain(volumes.iter().map(String::as_str));
        let words = words.chain([image.as_str(), "/bin/sh", "-c", init]).collect::<Vec<_>>();
        let run = docker(&words);
        assert!(run.status.success(), "{run:?}");
        eventually("systemd to have booted", || {
            let state = docker(&["exec", &name, "systemctl", "is-system-running"]);
            let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
            ["running", "degraded"].contains(&state.as_str()).then_some(())
        });
        container
    }

    fn exec(&self, words: &[&str]) -> String {
        let output = docker(&[&["exec", &self.0], words].concat());
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        docker(&["rm", "--force", &self.0]);
        docker(&["rmi", &format!("{}:test", self.0)]);
    }
}

#[test]
#[ignore = "needs a Docker engine, root, and systemd on this machine"]
fn a_real_systemd_is_obeyed_and_read_back() {
    println!("systemd: a real one, in a container");
    let shared = tempfile::Builder::new().prefix("rf-systemd-").tempdir_in("/var/tmp").expect("a directory");
    let served = Served::new("web");
    let programs = shared.path().join("bin");
    let units = shared.path().join("units");
    fs::create_dir_all(&programs).expect("a directory");
    fs::create_dir_all(&units).expect("a directory");
    fs::copy(Served::program(), programs.join("served")).expect("a copy");
    fs::copy(tests::binary("worker"), programs.join("worker")).expect("a copy");
    let behaviour = shared.path().join("behaviour");
    let unit = |restart: &str| {
        format!(
            "[Service]\nExecStart={}/served\nExecReload=/bin/kill -HUP $MAINPID\nEnvironment=ADDRESS={} VERSION=v1 BEHAVIOUR={}\n{restart}\n",
            programs.display(),
            served.address,
            behaviour.display()
        )
    };
    fs::write(units.join("web.service"), unit("")).expect("a unit");
    fs::write(units.join("again.service"), unit("Restart=always\nRestartSec=100ms\nStartLimitIntervalSec=0"))
        .expect("a unit");
    fs::write(units.join("once.service"), "[Service]\nType=oneshot\nExecStart=/bin/true\n").expect("a unit");

    let redis = Redis::options().tcp().start();
    let settings = "[services.web]\nsettle = '500ms'\n[services.again]\nsettle = '500ms'\n";
    let options = Worker::on(&redis).redis(&redis.tcp_url()).config(ALLOW).config(settings);
    let container = Container::boot(&[shared.path(), &options.directory()], &units);
    let through = ["docker", "exec", "--interactive", &container.0];
    let worker = options.through(&through).program(programs.join("worker")).start();
    worker.wait_log("ready");
    let ctl = Ctl::on(&redis);
    eventually("the worker to answer", || (ctl.run(["run", "--host", "web1", "ping"]).code == 0).then_some(()));
    let run = |action: &str, service: &str| -> Done {
        let service = format!("service={service}");
        ctl.run(["run", "--host", "web1", "--timeout", "20s", action, &service, "-o", "json"])
            .try_into()
            .expect("a result")
    };
    let show = |unit: &str, what: &str| container.exec(&["systemctl", "show", "--value", "-p", what, unit]);

    assert_eq!(run("status", "web").good().is(), "down");
    let started = run("start", "web").good();
    assert_eq!((started.is(), started.changed()), ("up", Some(true)));
    assert_eq!(started.pid().to_string(), show("web.service", "MainPID"));
    assert_eq!(run("start", "web").good().changed(), Some(false));
    let restarted = run("restart", "web").good();
    assert_ne!(restarted.pid(), started.pid());
    assert_eq!(restarted.pid().to_string(), show("web.service", "MainPID"));
    assert_eq!(run("reload", "web").good().changed(), Some(true));
    assert_eq!(run("stop", "web").good().is(), "down");
    assert_eq!(show("web.service", "ActiveState"), "inactive");

    fs::write(&behaviour, "crash").expect("a file");
    let failed = run("start", "web").bad("it is not up: failed (failed), result exit-code");
    assert!(failed.stderr.contains("told to crash"), "the journal: {failed:?}");
    let failed = run("start", "again");
    assert_eq!(failed.state, "failed", "a unit that systemd starts again and again does not count as up: {failed:?}");
    container.exec(&["systemctl", "stop", "again.service"]);
    // What systemd knows and the settings do not name.
    run("start", "once").good();
    let output = ctl.run(["run", "--host", "web1", "start", "service=no-such-unit"]).expect(2);
    assert!(output.stderr.contains("systemd knows no such unit"), "{output}");
}
