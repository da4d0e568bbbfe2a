//! Passphrases are asked on the terminal.

use tests::Ctl;

use crate::{PASSPHRASE, fingerprint, keygen, refused};

#[test]
fn a_passphrase_is_asked_on_the_terminal_and_shown_nowhere() {
    let ctl = Ctl::keyless().env("REDFLEET_KEY", "key");
    let key = keygen(&ctl, "key", &["-N", PASSPHRASE]);
    let shown = ctl.run(["key", "show", "-o", "json"]).expect(0).json();
    assert_eq!(shown["private"], "in the file, with a passphrase");
    let nowhere = refused(&ctl);
    assert!(nowhere.stderr.contains("no terminal to ask at") && nowhere.stderr.contains("hint: "), "{nowhere}");

    let mut terminal = ctl.start_at_terminal(["key", "show", "--check"]);
    terminal.answer("passphrase of key: ", "wrong\n");
    terminal.answer("passphrase of key (attempt 2 of 3): ", &format!("{PASSPHRASE}!\x7f\n"));
    let (code, shown) = terminal.wait();
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains(&fingerprint(&key)) && shown.contains("it has signed a test document"), "{shown}");
    assert!(!shown.contains("wrong") && !shown.contains("horse"), "{shown}");

    let mut terminal = ctl.start_at_terminal(["key", "show", "--check"]);
    for asked in ["key: ", "(attempt 2 of 3): ", "(attempt 3 of 3): "] {
        terminal.answer(asked, "wrong\n");
    }
    let (code, shown) = terminal.wait();
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("its passphrase is another one"), "{shown}");
}

#[test]
fn who_gives_up_at_the_passphrase_has_an_echoing_terminal() {
    let ctl = Ctl::keyless().env("REDFLEET_KEY", "key");
    keygen(&ctl, "key", &["-N", PASSPHRASE]);
    let mut terminal = ctl.start_at_terminal(["key", "show", "--check"]);
    terminal.answer("passphrase of key: ", "half");
    assert!(!terminal.echoes());
    terminal.answer("passphrase of key: ", "\x03");
    let (code, shown) = terminal.wait();
    assert!(terminal.echoes());
    assert_eq!(code, None, "a signal ends it: {shown}");
    assert!(!shown.contains("half"), "{shown}");
}
