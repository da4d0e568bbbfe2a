//! A busy service, of which every second deploy is broken on purpose.

use std::time::Duration;

use tests::{Load, Versions};

use super::{Done, One, release};

/// Clients that ask at the same time.
const CLIENTS: usize = 4;

/// Deploys so many releases under load, every second of which is broken in one of four ways, and prints what the clients
/// have noticed.
fn deploys_under_load(count: usize) {
    let one = One::start("keep = 2");
    one.try_release("v0", "").is("deployed");
    let port = one.host.served.address.port();
    let ways = ["sick".to_owned(), format!("turns {port}"), "crash".to_owned(), format!("leaves {port}")];
    let versions = Versions::default();
    versions.are(&["v0"]);
    let load = Load::of_versions(one.host.served.address, "/", CLIENTS, &versions);

    let mut running = "v0".to_owned();
    let (mut rolled_back, mut slowest) = (0, Duration::ZERO);
    for number in 1..=count {
        let version = format!("v{number}");
        let broken = (number % 2 == 0).then(|| ways[(number / 2 - 1) % ways.len()].as_str());
        let from = release(&one.ctl, &version, broken.unwrap_or_default());
        versions.are(&[&running, &version]);
        let done = Done::of(&one.deploy(&version, &from, &["-o", "json"]));
        match broken {
            None => {
                done.is("deployed");
                running = version;
            }
            Some("sick" | "crash") => drop(done.is("failed")),
            Some(_) => {
                let done = done.is("rolled_back");
                let millis = done.data["rollback_started_ms"].as_u64().expect("milliseconds");
                slowest = slowest.max(Duration::from_millis(millis));
                rolled_back += 1;
            }
        }
        versions.are(&[&running]);
        assert_eq!(one.host.answers(), running);
    }

    let (counts, time) = load.finish();
    let rate = counts.answered as f64 / time.as_secs_f64();
    println!(
        "{count} deploys in {:.0} s, {rolled_back} rolled back after the switch: {} answers, {rate:.0} a second; {} refused, \
         {} reset, {} of a wrong version, {} others; the slowest rollback began {slowest:?} after the failed check",
        time.as_secs_f64(),
        counts.answered,
        counts.refused,
        counts.broken,
        counts.wrong.len(),
        counts.other.len(),
    );
    let nothing: &[String] = &[];
    assert_eq!((counts.refused, counts.broken), (0, 0), "{counts:?}");
    assert_eq!((counts.wrong.as_slice(), counts.other.as_slice()), (nothing, nothing));
    assert!(counts.answered > 100 && rolled_back * 4 >= count - 3, "{rolled_back} of {count} rolled back");
}

#[test]
fn no_client_notices_ten_deploys_half_of_which_are_broken() {
    deploys_under_load(10);
}

#[test]
#[ignore = "takes minutes: `make test` runs it by itself"]
fn no_client_notices_a_hundred_deploys_half_of_which_are_broken() {
    deploys_under_load(100);
}
