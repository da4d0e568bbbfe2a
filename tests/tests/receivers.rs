//! The dead man's switch of a real `ctl serve`, and what `--check-config` says of it and of receivers.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use protocol::acl::Role;
use tests::{Ctl, Redis, Worker, eventually};

/// An address that counts its pings.
fn pinged() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/ping/k3y", listener.local_addr().expect("an address"));
    let pings = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&pings);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut lines = BufReader::new(stream.try_clone().expect("a stream")).lines();
            if lines.next().and_then(Result::ok).is_some_and(|line| line.starts_with("GET /ping/k3y ")) {
                count.fetch_add(1, Ordering::SeqCst);
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    (url, pings)
}

#[test]
fn pings_go_out_as_long_as_everything_works() {
    let redis = Redis::start();
    let ctl = Ctl::keyless().through(&redis, &redis.url());
    let (url, pings) = pinged();
    let count = || pings.load(Ordering::SeqCst);
    // Each ping waits for an evaluation of the alerts.
    let alerts = "[alerts]\ninterval = '300ms'\n";
    let config = format!("interval = '200ms'\n{alerts}[dead_man]\nurl = '{url}'\nevery = '1s'\n");
    let config = ctl.write("serve.toml", &config);
    let serve = ctl.spawn(["serve", config.to_str().expect("text")]);
    eventually("pings", || (count() >= 2).then_some(()));
    redis.freeze();
    let before = count();
    serve.wait_stderr("no ping goes out");
    // One may have been on its way, and one may have been earned by what was done before.
    let withheld = count();
    assert!(withheld <= before + 2, "{before} {withheld}");
    redis.thaw();
    eventually("pings again", || (count() > withheld + 1).then_some(()));
    serve.wait_stderr("pings go out again");
}

#[test]
fn a_check_of_the_settings_names_receivers_without_their_secrets() {
    let ctl = Ctl::alone();
    let secret = ctl.write("secret", "s3cret\n");
    let check = |text: &str| {
        let file = ctl.write("serve.toml", text);
        ctl.run(["serve", "--check-config", file.to_str().expect("text")])
    };
    let text = format!(
        "[dead_man]\nurl = 'https://hc.example.com/k3y'\nca = '{ca}'\n\
         [[receivers]]\nname = 'chat'\nkind = 'webhook'\nurl = 'http://127.0.0.1:9/k3y'\nbearer_token_file = '{file}'\n\
         [[receivers]]\nname = 'mail'\nkind = 'smtp'\nserver = 'localhost'\ntls = 'none'\nfrom = 'a@b.c'\nto = ['d@e.f']\n\
         [[receivers]]\nname = 'page'\nkind = 'command'\ncommand = ['sh', '-c', 'k3y']\n",
        ca = "/nowhere.pem",
        file = secret.display(),
    );
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).expect("a mode");
    let open = check(&text);
    assert!(open.code != 0 && open.stderr.contains("receiver 'chat'") && open.stderr.contains("chmod 600"), "{open}");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("a mode");
    let missing = check(&text);
    assert!(missing.code != 0 && missing.stderr.contains("cannot read /nowhere.pem"), "{missing}");
    let good =
        check(&text.replace("https://hc.example.com", "http://hc.example.com").replace("ca = '/nowhere.pem'\n", ""));
    let good = good.expect(0);
    for shown in ["http://hc.example.com every 60 s", "webhook http://127.0.0.1:9", "smtp localhost:25 to d@e.f", "/sh"]
    {
        assert!(good.stdout.contains(shown), "{shown}: {good}");
    }
    for output in [open, missing, good] {
        let said = format!("{}{}", output.stdout, output.stderr);
        assert!(!said.contains("s3cret") && !said.contains("k3y"), "{output}");
    }
}

/// Nobody signs at night: what an alert asks for is run by what an operator has ordered before, on the alert's host alone.
#[test]
fn an_alert_runs_an_action_by_a_standing_order() {
    let redis = Redis::start();
    let allowed = "[actions]\nallow = ['exec', 'standing-order']";
    let workers = ["web1", "web2"].map(|host| Worker::on(&redis).host(host).config(allowed).start());
    workers.iter().for_each(Worker::wait_online);
    let ctl = Ctl::on(&redis);
    let evidence = redis.directory().join("ran");
    let script = format!("echo $REDFLEET_HOST >> {}", evidence.display());
    let ran = || std::fs::read_to_string(&evidence).unwrap_or_default();
    let words = ["schedule", "add", "mend", "--every", "1s", "--grace", "1m", "--late", "--all", "exec", "--"];
    ctl.run(words.into_iter().chain(["sh", "-c", &script])).expect(0);

    let rules = "[[rule]]\nname = 'sick'\nwhen = 'memory.total_bytes > 1'\nhosts = 'web1'\ngroup_wait = '0s'\n";
    let keyless = Ctl::keyless().env("REDFLEET_REDIS", &redis.url_of(&Role::Serve, None));
    keyless.write("rules.toml", rules);
    let settings = "name = 'one'\n[http]\nlisten = 'off'\n[alerts]\ninterval = '300ms'\ndefaults = false\n\
                    rules = ['rules.toml']\n[[receivers]]\nname = 'hands'\nkind = 'action'\nschedule = 'mend'\n";
    let file = keyless.write("serve.toml", settings);
    ctl.run(["schedule", "pause", "mend"]).expect(0);
    let serve = keyless.spawn(["serve", file.to_str().expect("text")]);

    serve.wait_stderr(": ready");
    let log = eventually("the action to be sent", || {
        let log = ctl.run(["alert", "log", "-o", "json"]).expect(0).json();
        log.as_array().filter(|log| !log.is_empty()).cloned()
    });
    assert_eq!((&log[0]["receiver"], &log[0]["state"]), (&"hands".into(), &"delivered".into()), "{log:#?}");
    eventually("the action", || (!ran().is_empty()).then_some(()));
    let job = ctl.run(["job", "list", "-o", "json"]).expect(0).json()[0]["job"].as_str().expect("an id").to_owned();
    assert!(ctl.run(["job", "show", &job]).expect(0).stdout.contains("the standing order 'mend'"));
    // What comes behind it in the inbox of both hosts is done after it.
    ctl.run(["run", "--all", "ping"]).expect(0);
    assert_eq!(ran(), "web1\n");
}
