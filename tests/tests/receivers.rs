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

use tests::{Ctl, Redis, eventually};

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
    let config = ctl.write("serve.toml", &format!("interval = '200ms'\n[dead_man]\nurl = '{url}'\nevery = '1s'\n"));
    let serve = ctl.spawn(["serve", "--config", config.to_str().expect("text")]);
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
        ctl.run(["serve", "--check-config", "--config", file.to_str().expect("text")])
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
