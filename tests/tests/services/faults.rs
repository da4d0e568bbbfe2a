//! Death of the worker, of a supervisor, or of both, at bad moments.

use std::fs;

use tests::{Load, eventually, get, is_alive, kill9, supervisor};

use super::Host;

impl Host {
    /// Starts another worker in the place of the one that has ended.
    #[track_caller]
    fn next_worker(&mut self) {
        self.worker = self.worker.options().start();
        self.worker.wait_online();
    }

    /// The supervisor.
    #[track_caller]
    fn supervisor(&self) -> u32 {
        supervisor(&self.directory()).expect("a supervisor")
    }

    /// Waits until exactly one process of the service is there, and it is the one that answers.
    #[track_caller]
    fn wait_single(&self) -> u32 {
        eventually("one process, which answers", || {
            let all = self.served.processes();
            let (_, body) = get(self.served.address, "/").ok()?;
            let pid: u32 = body.trim().rsplit(' ').next()?.parse().ok()?;
            (all == [pid]).then_some(pid)
        })
    }
}

#[test]
fn a_restart_of_the_worker_does_not_touch_the_service() {
    let mut host = Host::supervising("settle = '100ms'");
    let pid = host.run("start").good().pid();
    let supervisor = host.supervisor();
    let load = Load::start(host.served.address, "/", 2);
    assert!(host.worker.terminate().success());
    host.next_worker();
    host.worker.kill9();
    host.next_worker();
    let status = host.run("status").good();
    assert_eq!((status.is(), status.pid(), host.supervisor()), ("up", pid, supervisor));
    let (counts, _) = load.finish();
    assert_eq!((counts.refused, counts.broken, counts.other.as_slice()), (0, 0, &[][..]), "{counts:?}");
    // It is still the worker's to restart.
    assert_ne!(host.run("restart").good().pid(), pid);
}

#[test]
fn a_supervisor_that_is_killed_is_replaced_and_no_process_is_left_twice() {
    let host = Host::supervising("settle = '100ms'");
    host.served.behave("parent");
    let pid = host.run("start").good().pid();
    for _ in 0..3 {
        let (dead, before) = (host.supervisor(), host.served.pid());
        kill9(dead);
        let next = eventually("another supervisor", || supervisor(&host.directory()).filter(|pid| *pid != dead));
        assert_ne!(next, dead);
        eventually("the processes of the dead one to be gone", || (!is_alive(before)).then_some(()));
        host.served.wait_pid();
    }
    let status = host.run("status").good();
    assert!(status.is() == "up" && status.pid() != pid, "{status:?}");
    let log = fs::read_to_string(host.directory().join("log")).expect("a log");
    assert!(log.contains("the supervisor before this one died; ended "), "{log}");
    host.run("stop").good();
    assert!(host.served.processes().is_empty());
}

#[test]
fn where_worker_and_supervisor_are_dead_the_service_goes_on_until_a_worker_is_back() {
    let mut host = Host::supervising("settle = '100ms'");
    let pid = host.run("start").good().pid();
    let dead = host.supervisor();
    host.worker.kill9();
    kill9(dead);
    assert_eq!(host.served.pid(), pid, "nobody has ended it");
    host.next_worker();
    eventually("the process of the dead supervisor to be replaced", || (!is_alive(pid)).then_some(()));
    assert_ne!(host.wait_single(), pid);
    assert_eq!(host.run("status").good().is(), "up");
}

#[test]
fn a_service_is_up_again_after_all_has_ended() {
    let mut host = Host::supervising("settle = '100ms'");
    let pid = host.run("start").good().pid();
    // As when the machine goes down.
    host.worker.kill9();
    let supervisor = host.supervisor();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor.cast_signed()), nix::sys::signal::SIGTERM)
        .expect("it lives");
    eventually("all to end", || (!is_alive(supervisor) && !is_alive(pid)).then_some(()));
    host.next_worker();
    host.wait_single();
    // What was stopped stays down.
    host.run("stop").good();
    host.worker.terminate();
    host.next_worker();
    assert_eq!(host.run("status").good().is(), "down");
    assert!(host.served.processes().is_empty());
}

#[test]
fn a_worker_that_is_killed_during_a_restart_leaves_the_old_process_and_reports_it() {
    let mut host = Host::supervising("settle = '100ms'");
    let pid = host.run("start").good().pid();
    let options = host.worker.options();
    host.worker.terminate();
    host.worker = options.replace_config("settle = '100ms'", "settle = '600s'").start();
    host.worker.wait_online();
    let running = host.ctl.spawn(Host::words("--timeout 1h restart"));
    eventually("a candidate", || (host.served.processes().len() == 2).then_some(()));
    host.worker.kill9();
    eventually("the candidate to be ended, as nobody waits for it", || {
        (host.served.processes() == [pid]).then_some(())
    });
    host.next_worker();
    let done: super::Done = running.wait().try_into().expect("a result");
    assert_eq!(done.state, "interrupted", "{done:?}");
    let status = host.run("status").good();
    assert_eq!((status.is(), status.pid()), ("up", pid));
}

#[test]
fn a_supervisor_that_is_killed_during_a_restart_is_reported_and_the_service_comes_back() {
    let mut host = Host::supervising("settle = '100ms'");
    let pid = host.run("start").good().pid();
    let options = host.worker.options();
    host.worker.terminate();
    host.worker = options.replace_config("settle = '100ms'", "settle = '600s'").start();
    host.worker.wait_online();
    let running = host.ctl.spawn(Host::words("--timeout 1h restart"));
    eventually("a candidate", || (host.served.processes().len() == 2).then_some(()));
    kill9(host.supervisor());
    let done: super::Done = running.wait().try_into().expect("a result");
    done.bad("its supervisor has ended");
    eventually("the service to be up", || (host.run("status").good().is() == "up").then_some(()));
    assert_ne!(host.wait_single(), pid, "what was wanted is started anew");
}

#[test]
fn a_stop_ends_what_a_dead_supervisor_has_left() {
    let mut host = Host::supervising("settle = '100ms'");
    let pid = host.run("start").good().pid();
    let dead = host.supervisor();
    host.worker.kill9();
    kill9(dead);
    assert!(is_alive(pid));
    host.next_worker();
    assert_eq!(host.run("stop").good().is(), "down");
    assert!(host.served.processes().is_empty() && supervisor(&host.directory()).is_none());
}

#[test]
fn a_cancelled_restart_leaves_the_old_process() {
    let mut host = Host::supervising("settle = '100ms'");
    let pid = host.run("start").good().pid();
    let options = host.worker.options();
    host.worker.terminate();
    host.worker = options.replace_config("settle = '100ms'", "settle = '600s'").start();
    host.worker.wait_online();
    let running = host.ctl.spawn(Host::words("--timeout 1h restart"));
    eventually("a candidate", || (host.served.processes().len() == 2).then_some(()));
    host.ctl.run(["job", "cancel", "last"]).expect(0);
    let done: super::Done = running.wait().try_into().expect("a result");
    assert_eq!((done.state.as_str(), done.changed(), done.pid()), ("cancelled", Some(false), pid), "{done:?}");
    eventually("the candidate to be gone", || (host.served.processes() == [pid]).then_some(()));
}

#[test]
fn what_the_settings_name_no_more_is_told_and_can_be_stopped() {
    let served = tests::Served::new("web");
    let settings = served.settings("settle = '100ms'");
    let mut host = Host::with(served, |worker| worker.config(&settings));
    let pid = host.run("start").good().pid();
    let options = host.worker.options();
    host.worker.terminate();
    host.worker = options.replace_config(&settings, "").start();
    host.worker.wait_online();
    eventually("a warning", || {
        host.worker.log().contains("service web is supervised, but not by the settings").then_some(())
    });
    let status = host.run("status").good();
    assert_eq!((status.is(), status.pid()), ("up", pid));
    assert_eq!(host.run("stop").good().is(), "down");
    assert!(host.served.processes().is_empty());
    host.ctl.run(["run", "--host", "web1", "status", "service=web"]).expect(2);
}
