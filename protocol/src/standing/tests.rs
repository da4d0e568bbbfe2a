use proptest::prelude::*;

use super::*;
use crate::{
    action::Argument,
    rollout::{Plan, Waves},
    targets::Targets,
};

/// The first noon behind the moment at which the order is issued.
const NOON: Millis = 1_790_000_000_000 - 1_790_000_000_000 % 86_400_000 + 129_600_000;

pub(crate) fn order() -> StandingOrder {
    StandingOrder {
        name: "tidy".parse().unwrap(),
        action: "exec".into(),
        arguments: Arguments::from([("argv".into(), Argument::List(vec!["uname".into(), "-a".into()]))]),
        operator: "ann@desk".into(),
        salt: Salt::new([7; 16]),
        issued_at_ms: 1_790_000_000_000,
        valid_until_ms: 1_790_000_000_000 + 90 * 86_400_000,
        start_within_ms: 600_000,
        timeout_ms: 60_000,
        retention_ms: 604_800_000,
        keep_output: None,
        namespace: None,
        selector: Selector {
            hosts: vec!["web*".into()],
            except: vec!["web9".into()],
            labels: [("env".into(), "prod".into())].into(),
        },
        schedule: Schedule::Cron { expression: "0 12 * * *".into(), zone: "UTC".into(), tzif: Vec::new() },
        conduct: Conduct { overlap: Overlap::Skip, late: true, jitter_ms: 0, pause_after: 3, retries: 1 },
    }
}

fn standing(order: &StandingOrder) -> Standing {
    Standing::open(Signed::unsigned(order).with_signature(b"SSHSIG".to_vec())).unwrap()
}

fn root() -> TargetRoot {
    Targets::new(["web1".parse().unwrap()]).root()
}

/// Why the order does not found a run, which was changed, at some instant.
fn unfounded(order: &StandingOrder, instant: Millis, change: impl Fn(&mut Manifest)) -> Option<String> {
    let standing = standing(order);
    let mut run = standing.run(instant, 0, root());
    change(&mut run);
    standing.founds(&run).err().map(|error| error.to_string())
}

/// The bytes of the first release, frozen: every later version must read them, and make the same runs of them.
#[test]
fn version_1_fixture_is_read() {
    let bytes = include_bytes!("../../fixtures/standing-order-v1.msgpack").to_vec();
    assert_eq!(bytes, Signed::unsigned(&order()).bytes);
    let fixture = Standing::open(Signed::of_bytes(bytes, Vec::new())).unwrap();
    assert_eq!(*fixture.order(), order());
    let run = include_bytes!("../../fixtures/standing-run-v1.msgpack");
    assert_eq!(Signed::unsigned(&fixture.run(NOON, 1, root())).bytes, run);
}

#[test]
fn a_run_follows_from_order_and_instant() {
    let standing = standing(&order());
    let run = |attempt| standing.run(NOON, attempt, root());
    assert!(run(0) == run(0) && run(0).has_its_own_id() && run(1).has_its_own_id());
    assert_ne!(run(0).job, run(1).job);
    assert_ne!(run(0).job, standing.run(NOON + 86_400_000, 0, root()).job);
    let other = StandingOrder { salt: Salt::new([8; 16]), ..order() };
    assert_ne!(run(0).job, self::standing(&other).run(NOON, 0, root()).job);
    assert_eq!((run(0).issued_at_ms, run(0).start_by_ms), (NOON, NOON + 600_000));
}

#[test]
fn nothing_but_what_was_signed_is_founded() {
    assert_eq!(unfounded(&order(), NOON, |_| ()), None);
    let first = order().issued_at_ms;
    for (instant, reason) in [
        (NOON + 1, "has no run at"),
        (NOON + 3_600_000, "has no run at"),
        (NOON - 86_400_000, "was issued later"),
        (NOON + 91 * 86_400_000, "ended at 2026-12-20"),
    ] {
        let told = unfounded(&order(), instant, |_| ()).unwrap();
        assert!(told.contains(reason), "{instant}: {told}");
    }
    let changes: [&dyn Fn(&mut Manifest); 8] = [
        &|run| run.action = "ping".into(),
        &|run| drop(run.arguments.insert("user".into(), Argument::Text("root".into()))),
        &|run| run.start_by_ms += 1,
        &|run| run.timeout_ms += 1,
        &|run| run.keep_output = Some(1),
        &|run| run.namespace = Some("prod".parse().unwrap()),
        &|run| run.trace = Some("x".into()),
        &|run| run.salt = standing(&order()).salt(2),
    ];
    for (at, change) in changes.iter().enumerate() {
        assert!(unfounded(&order(), NOON, change).unwrap().contains("is not what"), "{at}");
    }
    let long = StandingOrder { valid_until_ms: first + 367 * 86_400_000, ..order() };
    assert!(unfounded(&long, NOON, |_| ()).unwrap().contains("valid for more than"));
}

#[test]
fn it_selects_by_names_and_own_labels() {
    let standing = standing(&order());
    let prod = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
    let selects = |host: &str, labels: &_| standing.selects(&host.parse().unwrap(), labels).is_ok();
    assert!(selects("web1", &prod));
    assert!(!selects("web9", &prod) && !selects("db1", &prod) && !selects("web1", &BTreeMap::new()));
}

#[test]
fn a_voucher_reads_back_and_is_no_signature() {
    let standing = standing(&order());
    let voucher = standing.voucher();
    assert!(signed::is_voucher(&voucher) && !signed::is_voucher(b"SSHSIG") && !signed::is_voucher(b""));
    let read = Standing::of_voucher(&voucher).unwrap();
    assert_eq!(read.signed().bytes, standing.signed().bytes);
    assert_eq!(read.signed().signature, b"SSHSIG");
    let trailing = [&voucher[..], &[0]].concat();
    assert!(Standing::of_voucher(&trailing).is_err());
    let large = Standing::open(Signed::unsigned(&order()).with_signature(vec![0; limits::SIGNATURE_BYTES + 1]));
    assert!(matches!(Standing::of_voucher(&large.unwrap().voucher()), Err(DocumentError::Oversize("signature", _))));
}

#[test]
fn no_document_opens_as_another() {
    let manifest = standing(&order()).run(NOON, 0, root());
    let plan = Plan {
        rollout: manifest.job,
        salt: Salt::new([7; 16]),
        from: None,
        action: "ping".into(),
        arguments: Arguments::new(),
        secrets: Vec::new(),
        operator: "ann@desk".into(),
        issued_at_ms: NOON,
        start_by_ms: 1,
        timeout_ms: 1,
        retention_ms: 1,
        keep_output: None,
        targets: root(),
        namespace: None,
        waves: Waves { canary: 1, batch: 1, wait_ms: 0, max_fail: 0, abort_if: None },
    };
    let opens = |bytes: Vec<u8>| Standing::open(Signed::of_bytes(bytes, Vec::new())).is_ok();
    assert!(opens(signed::encode(&order())));
    assert!(!opens(signed::encode(&manifest)) && !opens(signed::encode(&plan)));
    let bytes = signed::encode(&order());
    assert!(Signed::<Manifest>::of_bytes(bytes.clone(), Vec::new()).open().is_err());
    assert!(Signed::<Plan>::of_bytes(bytes, Vec::new()).open().is_err());
}

#[test]
fn what_an_older_host_does_not_understand_is_refused() {
    #[derive(Serialize)]
    struct Newer {
        #[serde(flatten)]
        order: StandingOrder,
        unless: &'static str,
    }
    let bytes = signed::encode(&Newer { order: order(), unless: "it is Sunday" });
    assert!(Standing::open(Signed::of_bytes(bytes, Vec::new())).is_err());
}

proptest! {
    #[test]
    fn garbage_never_panics(at: usize, flip: u8, instant: u64) {
        let mut bytes = signed::encode(&order());
        let at = at % bytes.len();
        bytes[at] ^= flip;
        if let Ok(standing) = Standing::open(Signed::of_bytes(bytes, Vec::new())) {
            let run = standing.run(instant, 0, root());
            let _ = standing.founds(&run).map_err(|error| error.to_string());
            let _ = standing.selects(&"web1".parse().unwrap(), &BTreeMap::new());
        }
    }
}
