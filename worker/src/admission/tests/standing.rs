//! Runs of standing orders.

use protocol::standing::{Conduct, Overlap, Standing, StandingOrder, schedule::Schedule, selector::Selector};

use super::*;

const MINUTE: u64 = 60_000;

/// An order of ann that runs every minute.
fn order() -> StandingOrder {
    StandingOrder {
        name: "tidy".parse().unwrap(),
        action: "exec".into(),
        arguments: manifest("exec").arguments,
        operator: "ann@desk".into(),
        salt: JobId::salt(),
        issued_at_ms: NOW - 10 * MINUTE,
        valid_until_ms: NOW + 10 * MINUTE,
        start_within_ms: MINUTE,
        timeout_ms: 1000,
        retention_ms: 1000,
        keep_output: None,
        namespace: None,
        selector: Selector { hosts: vec!["web[1-3]".into()], ..Selector::default() },
        schedule: Schedule::Every { period_ms: MINUTE, anchor_ms: NOW - 10 * MINUTE },
        conduct: Conduct { overlap: Overlap::Skip, late: false, jitter_ms: 0, pause_after: 0, retries: 0 },
    }
}

fn sign_for(namespace: &str, order: &StandingOrder, seed: u8) -> Standing {
    let signed = Signed::unsigned(order);
    let signature = sshsig::sign(&key(seed), namespace, &signed.bytes).unwrap().to_bytes();
    Standing::open(signed.with_signature(signature)).unwrap()
}

fn stand(order: &StandingOrder) -> Standing {
    sign_for(sshsig::STANDING, order, 7)
}

/// The entry of a run.
fn entry(standing: &Standing, run: &Manifest) -> Fields {
    fields_of(Signed::unsigned(run).with_signature(standing.voucher()), None)
}

fn run(standing: &Standing, instant: Millis) -> Manifest {
    standing.run(instant, 0, Targets::new(["web1".parse().unwrap()]).root())
}

/// Ann may run programs and give standing orders.
fn setting() -> Setting {
    let rules = "[[policy]]\nwho = ['ann@desk']\nactions = ['exec']\n[[policy]]\nwho = ['ann@desk']\nactions = ['standing-order']";
    Setting::allowing(policy::tests::policy(rules))
}

fn reason(order: &StandingOrder, instant: Millis) -> String {
    let standing = stand(order);
    setting().refusal_of(entry(&standing, &run(&standing, instant))).reason
}

#[test]
fn a_run_is_admitted_on_behalf_of_who_gave_the_order() {
    let standing = stand(&order());
    let fields = entry(&standing, &run(&standing, NOW));
    let opened = open(fields.clone(), &identity(None), &trusted()).unwrap();
    assert_eq!(opened.asker.standing_order.as_deref(), Some("tidy"));
    assert_eq!((opened.asker.principal.as_deref(), opened.asker.purpose()), (Some("ann@desk"), sshsig::STANDING));
    assert!(matches!(setting().admit_fields(fields), Admission::Admitted(..)));
}

#[test]
fn nothing_but_what_was_signed_runs() {
    assert!(reason(&order(), NOW + 1).contains("'tidy' has no run at"));
    assert!(reason(&order(), NOW - 11 * MINUTE).contains("was issued later"));
    assert!(reason(&order(), NOW + 11 * MINUTE).contains("ended at"));
    let db = StandingOrder { selector: Selector { hosts: vec!["db*".into()], ..Selector::default() }, ..order() };
    assert!(reason(&db, NOW).contains("is not for this host"));
    let labels = |value: &str| Selector { labels: [("env".into(), value.into())].into(), ..Selector::default() };
    assert!(reason(&StandingOrder { selector: labels("test"), ..order() }, NOW).contains("is not for this host"));
    let standing = stand(&StandingOrder { selector: labels("prod"), ..order() });
    assert!(matches!(setting().admit_fields(entry(&standing, &run(&standing, NOW))), Admission::Admitted(..)));

    // Names are not spelled out where there is no run, nor where no host can be called that.
    let long = Selector { hosts: vec![format!("{}[1-10000]", "x".repeat(150_000))], ..Selector::default() };
    let long = StandingOrder { selector: long, ..order() };
    assert!(reason(&long, NOW + 1).contains("'tidy' has no run at"));
    assert!(reason(&long, NOW).contains("does not say which hosts are meant"));

    let standing = stand(&order());
    let other = Manifest { action: "ping".into(), ..run(&standing, NOW) };
    assert!(setting().refusal_of(entry(&standing, &other)).reason.contains("is not what the standing order 'tidy'"));
    let another = stand(&order());
    let refusal = setting().refusal_of(entry(&another, &run(&standing, NOW)));
    assert!(refusal.reason.contains("is not what the standing order 'tidy'"), "each order has runs of its own");
}

#[test]
fn an_order_must_be_signed_as_one_by_whom_it_names() {
    let refused = |standing: &Standing| setting().refusal_of(entry(standing, &run(standing, NOW))).reason;
    assert!(refused(&sign_for(sshsig::JOB, &order(), 7)).contains("made for another purpose ('redfleet-job@v1')"));
    assert!(refused(&sign_for(sshsig::STANDING, &order(), 9)).contains("is not trusted as 'ann@desk'"));
    let unsigned = Standing::open(Signed::unsigned(&order())).unwrap();
    assert_eq!(refused(&unsigned), "it is not signed");
    let signature = stand(&order()).signed().signature.clone();
    let longer = StandingOrder { valid_until_ms: NOW + 1000 * MINUTE, ..order() };
    let altered = Standing::open(Signed::unsigned(&longer).with_signature(signature)).unwrap();
    assert!(refused(&altered).contains("it was altered"));
    // A signature over the manifest is none over an order, and the other way round.
    let standing = stand(&order());
    let run = run(&standing, NOW);
    let bare = Signed::unsigned(&run).with_signature(standing.signed().signature.clone());
    assert!(setting().refusal_of(fields_of(bare, None)).reason.contains("made for another purpose"));
    let garbage = Signed::unsigned(&run).with_signature(vec![0x82, 0xc1]);
    assert!(setting().refusal_of(fields_of(garbage, None)).reason.contains("cannot be read"));
}

#[test]
fn giving_standing_orders_is_a_right_besides_that_to_run_the_action() {
    let standing = stand(&order());
    let refused = |rules: &str| {
        let setting = Setting::allowing(policy::tests::policy(rules));
        setting.refusal_of(entry(&standing, &run(&standing, NOW))).reason
    };
    let told = refused("[[policy]]\nwho = ['ann@desk']\nactions = ['exec']");
    assert_eq!(told, "denied: no rule lets 'ann@desk' give standing orders (the right 'standing-order')");
    let others = "[[policy]]\nwho = ['bob']\nactions = ['exec']\n";
    let told = refused(&format!("{others}[[policy]]\nwho = ['ann@desk']\nactions = ['standing-order']"));
    assert_eq!(told, "denied: no rule lets 'ann@desk' run exec");
    // Bob approves the run, which nobody can do beforehand.
    let two = "[[policy]]\nwho = ['*']\nactions = ['exec']\napprovals = 2\n[[policy]]\nwho = ['*']\nactions = ['standing-order']";
    let mut fields = entry(&standing, &run(&standing, NOW));
    let approved = approved(&run(&standing, NOW), &[("bob", 8, true)]).remove("approvals").unwrap();
    fields.insert("approvals".into(), approved);
    let told = Setting::allowing(policy::tests::policy(two)).refusal_of(fields).reason;
    assert!(told.contains("needs 2 approvals, it has 1"), "{told}");
}

#[test]
fn a_run_before_its_time_is_dropped_and_runs_when_it_is_due() {
    let standing = stand(&order());
    let run = run(&standing, NOW + 2 * MINUTE);
    let at = |now| Setting { now, ..setting() }.admit_fields(entry(&standing, &run));
    let Admission::Dropped(early) = at(NOW) else { panic!("it is not dropped") };
    assert_eq!(early.reason(), Some("early"));
    assert!(early.to_string().contains("'tidy' runs it at"), "{early}");
    for now in [NOW + MINUTE, NOW + 2 * MINUTE] {
        assert!(matches!(at(now), Admission::Admitted(..)), "{now}");
    }
}

#[test]
fn an_order_of_another_fleet_runs_nothing() {
    let prod = StandingOrder { namespace: Some("prod".parse().unwrap()), ..order() };
    let standing = stand(&prod);
    let theirs = entry(&standing, &run(&standing, NOW));
    assert_eq!(open(theirs, &identity(None), &trusted()).unwrap_err().reason(), "not_for_this_host");
    let ours = Manifest { namespace: None, ..run(&standing, NOW) };
    assert!(setting().refusal_of(entry(&standing, &ours)).reason.contains("is not what the standing order"));
}
