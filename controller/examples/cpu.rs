//! The CPU use of all hosts, through the client library: `REDFLEET_REDIS=redis://… REDFLEET_KEY=FILE
//! REDFLEET_KNOWN_HOSTS=FILE cargo run --example cpu`.

use std::{env, error::Error, fs, time::Duration};

use controller::client::{Event, Fleet, Follower, HostResult, KnownHosts, Request, Selection, Signer, understand};
use protocol::{environment, targets::Targets};

const ACTION: &str = "collect-cpu";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::var(environment::REDIS)?.parse()?;
    let signer = Signer::from_openssh(&fs::read_to_string(env::var(environment::KEY)?)?)?;
    let known_hosts = KnownHosts::open(env::var(environment::KNOWN_HOSTS)?.as_ref())?;
    let mut fleet = Fleet::connect(&address, None).await?.knowing(known_hosts);
    let hosts = fleet.select(&Selection::all()).await?.hosts;
    let understood = understand(&hosts, ACTION, &[], &[])?;
    let request = Request {
        action: ACTION.into(),
        arguments: understood.arguments,
        secrets: understood.secrets,
        targets: Targets::new(hosts.into_iter().map(|host| host.name)),
        timeout: understood.timeout,
        start_by: Duration::from_secs(10),
        retention: Duration::from_secs(3600),
        keep_output: None,
        operator: "the example".into(),
        trace: None,
    };
    let job = fleet.dispatch(request, &signer, &mut |event| eprintln!("{event:?}")).await?;

    println!("{:<20} {:>6}", "HOST", "CPU %");
    let mut follower = Follower::of_new(&job);
    while let Some(event) = follower.next(&mut fleet).await? {
        match event {
            Event::Finished(result) => println!("{:<20} {:>6}", result.host, usage(&result)),
            Event::Absent(hosts) => eprintln!("{} hosts are offline", hosts.len()),
            _ => {}
        }
    }
    Ok(())
}

/// The figure, or the state where there is none.
fn usage(result: &HostResult) -> String {
    let data = result.outcome.as_ref().and_then(|outcome| outcome.data.as_ref());
    match data.and_then(|data| data.get("usage")?.as_f64()) {
        Some(percent) => format!("{percent:.1}"),
        None => result.state.to_string(),
    }
}
