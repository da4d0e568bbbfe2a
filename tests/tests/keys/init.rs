//! `ctl key init`.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use tests::{Ctl, OnTerminal};

use crate::{PASSPHRASE, checked, fingerprint, ssh, text, verify};

/// Whether `ssh-keygen` takes `line` as trust in what `key` signs.
#[track_caller]
fn trusts(ctl: &Ctl, line: &str, key: &Path, operator: &str) {
    let document = ctl.write("document", "text\n");
    ssh("ssh-keygen", &["-q", "-Y", "sign", "-n", "redfleet-job@v1", "-f", text(key), text(&document)]);
    verify(ctl, line, operator, &document);
}

#[test]
fn key_init_makes_what_ssh_keygen_would() {
    let ctl = Ctl::keyless().env("REDFLEET_OPERATOR", "ann@desk");
    let refused = ctl.run(["key", "init"]).expect(1);
    assert!(refused.stderr.contains("hint: or make a key without one: ctl key init --no-passphrase"), "{refused}");
    let made = ctl.run(["key", "init", "--no-passphrase"]).expect(0);
    let key = ctl.home().join(".config/redfleet/key");
    trusts(&ctl, &made.stdout, &key, "ann@desk");
    let rights = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!((rights(&key), rights(key.parent().expect("a directory"))), (0o600, 0o700));
    let public = fs::read_to_string(key.with_extension("pub")).expect("a file");
    assert_eq!(ssh("ssh-keygen", &["-y", "-f", text(&key)]), public);
    assert!(public.ends_with(" ann@desk\n"), "{public}");
    let found = checked(&ctl);
    assert_eq!(found["allowed_signers"], made.stdout.trim_end());
    assert_eq!(found["fingerprint"], fingerprint(&key).as_str());

    let again = ctl.run(["key", "init", "--no-passphrase"]).expect(1);
    assert!(again.stderr.contains("exists, and a key is never replaced"), "{again}");
    fs::remove_file(&key).expect("a file");
    ctl.run(["key", "init", "--no-passphrase"]).expect(1);
    assert_eq!(fs::read_to_string(key.with_extension("pub")).expect("a file"), public);
    let odd = ctl.env("REDFLEET_OPERATOR", "ann,*").run(["key", "init", "--no-passphrase", "--file", "odd"]).expect(1);
    assert!(odd.stderr.contains("'ann,*' cannot be the name of an operator"), "{odd}");
}

#[test]
fn key_init_asks_for_a_passphrase_twice() {
    let ctl = Ctl::keyless();
    let key = ctl.home().join("key");
    let ask = |second: &str| {
        let mut terminal: OnTerminal = ctl.start_at_terminal(["key", "init", "--file", "key", "--comment", "mine"]);
        terminal.answer("new passphrase (empty for none): ", &format!("{PASSPHRASE}\n"));
        terminal.answer("the same again: ", second);
        terminal.wait()
    };
    let (code, shown) = ask("another\n");
    assert!(code == Some(1) && shown.contains("two different passphrases") && !key.exists(), "{shown}");
    let (code, shown) = ask(&format!("{PASSPHRASE}\n"));
    assert_eq!(code, Some(0), "{shown}");
    assert!(!shown.contains(PASSPHRASE), "{shown}");
    let public = ssh("ssh-keygen", &["-y", "-P", PASSPHRASE, "-f", text(&key)]);
    assert_eq!(public, fs::read_to_string(key.with_extension("pub")).expect("a file"));
    assert!(public.ends_with(" mine\n"), "{public}");
}
