//! Which hosts are meant, and whether they can do what is asked.

use std::{rc::Rc, time::Duration};

use anyhow::{anyhow, bail};
use protocol::{
    action::{ActionSpec, Arguments},
    name::HostName,
    outcome::State,
    time::Millis,
};
use wildmatch::WildMatch;

use crate::{
    absence::Absent,
    arguments,
    error::{Advice, closest},
    fleet::{Fleet, Host},
};

/// Names of hosts in a message at most; more are counted.
pub const NAMED: usize = 5;

/// The hosts of these names and patterns, or all.
///
/// # Errors
/// A name that nobody knows, a pattern that matches nothing, a fleet without hosts.
pub async fn hosts(fleet: &mut Fleet, patterns: &[String], all: bool) -> anyhow::Result<Vec<Host>> {
    let is_pattern = |text: &String| text.contains(['*', '?']);
    if !all && !patterns.iter().any(is_pattern) {
        // Names alone need no list of all hosts: one round trip less.
        let mut names = patterns.iter().map(|name| name.parse()).collect::<Result<Vec<HostName>, _>>()?;
        names.sort();
        names.dedup();
        let hosts = fleet.hosts(&names).await?;
        let unknown = hosts.iter().find(|host| !host.is_known()).map(|host| host.name.clone());
        return match unknown {
            None => Ok(hosts),
            Some(name) => Err(unknown_host(fleet, &name).await?.into()),
        };
    }
    let known: Vec<_> = fleet.names().await?.into_iter().map(|(name, _)| name).collect();
    if known.is_empty() {
        return Err(no_hosts(fleet).into());
    }
    let mut chosen = if all { known.clone() } else { Vec::new() };
    for pattern in patterns {
        let matcher = WildMatch::new(pattern);
        let before = chosen.len();
        chosen.extend(known.iter().filter(|name| matcher.matches(name.as_str())).cloned());
        if chosen.len() == before {
            let error = Advice::new(format!("no host matches '{pattern}'"));
            return Err(error.hint(format!("known: {}", list(&known))).into());
        }
    }
    chosen.sort();
    chosen.dedup();
    fleet.hosts(&chosen).await
}

/// One host by its name.
///
/// # Errors
/// Where nobody knows it.
pub async fn host(fleet: &mut Fleet, name: &str) -> anyhow::Result<Host> {
    let hosts = hosts(fleet, &[name.to_owned()], false).await?;
    match <[Host; 1]>::try_from(hosts) {
        Ok([host]) => Ok(host),
        Err(several) => bail!("'{name}' names {} hosts: name one", several.len()),
    }
}

async fn unknown_host(fleet: &mut Fleet, name: &HostName) -> anyhow::Result<Advice> {
    let known: Vec<_> = fleet.names().await?.into_iter().map(|(name, _)| name).collect();
    if known.is_empty() {
        return Ok(no_hosts(fleet));
    }
    let error = Advice::new(format!("no host is called {name}"));
    Ok(match closest(name.as_str(), known.iter().map(HostName::as_str)) {
        Some(meant) => error.hint(format!("did you mean {meant}?")),
        None => error.hint(format!("known: {}", list(&known))),
    })
}

fn no_hosts(fleet: &Fleet) -> Advice {
    Advice::new(format!("no worker has reported to Redis at {} yet", fleet.address))
        .hint(format!("start one on each host: worker --redis {} --host NAME", fleet.address))
}

fn list(names: &[HostName]) -> String {
    let mut names: Vec<_> = names.iter().map(HostName::as_str).collect();
    names.sort_unstable();
    shorten(&names)
}

/// `a, b, c` or, of many, `a, b, c, d, e and 7 more`.
pub fn shorten(names: &[&str]) -> String {
    match names.len().checked_sub(NAMED) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..NAMED].join(", ")),
    }
}

/// What is asked, understood by every host alike.
#[derive(Debug)]
pub struct Understood {
    /// The arguments.
    pub arguments: Arguments,
    /// How long the action may run where nobody says otherwise.
    pub timeout: Duration,
}

/// Checks the action and its arguments against what each host offers.
///
/// # Errors
/// An action that some host does not offer, arguments that do not fit, or that hosts read differently.
pub fn understand(hosts: &[Host], action: &str, typed: &[String], words: &[String]) -> anyhow::Result<Understood> {
    offered(hosts, action)?;
    let mut checked: Vec<&Rc<Vec<ActionSpec>>> = Vec::new();
    let mut understood: Option<Understood> = None;
    for (host, actions) in hosts.iter().filter_map(|host| Some((host, host.actions.as_ref()?))) {
        // Equal catalogues are shared: each is checked once.
        if checked.iter().any(|known| Rc::ptr_eq(known, actions)) {
            continue;
        }
        checked.push(actions);
        let Some(spec) = host.action(action) else { continue };
        let arguments = arguments::read(spec, typed, words).map_err(|error| {
            if hosts.len() == 1 { anyhow!(error) } else { anyhow!(error).context(format!("on {}", host.name)) }
        })?;
        let timeout = Duration::from_millis(spec.timeout_ms);
        match &mut understood {
            None => understood = Some(Understood { arguments, timeout }),
            Some(before) if before.arguments == arguments => before.timeout = before.timeout.max(timeout),
            Some(_) => {
                bail!("{} reads these arguments differently: its release is another one; ask it alone", host.name)
            }
        }
    }
    understood.ok_or_else(|| anyhow!("no host was given"))
}

/// Checks that every host offers the action.
fn offered(hosts: &[Host], action: &str) -> anyhow::Result<()> {
    let lacking: Vec<_> = hosts.iter().filter(|host| host.action(action).is_none()).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let names = |hosts: &[&Host]| shorten(&hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>());
    let silent: Vec<_> = lacking.iter().copied().filter(|host| host.actions.is_none()).collect();
    if !silent.is_empty() {
        let error = Advice::new(format!("{} has not published its actions yet", names(&silent)));
        return Err(error.hint("is its worker running? ctl host list").into());
    }
    let elsewhere = lacking.len() < hosts.len();
    let known = lacking.iter().flat_map(|host| host.actions.iter()).flat_map(|actions| actions.iter());
    let known: Vec<_> = known.map(|action| action.name.as_str()).collect();
    let error = Advice::new(if elsewhere || hosts.len() == 1 {
        format!("{} does not offer the action '{action}'", names(&lacking))
    } else {
        format!("none of these hosts offers the action '{action}'")
    });
    let error = match closest(action, known.iter().copied()) {
        Some(meant) if !elsewhere => error.hint(format!("did you mean {meant}?")),
        _ if action == "exec" => error.hint("a worker's configuration must allow it: actions.allow = [\"exec\"]"),
        _ if elsewhere => error.hint(format!("which hosts do: ctl action show {action}")),
        _ => error.hint("what there is: ctl action list"),
    };
    Err(error.into())
}

/// Those that are not there.
pub fn absent(hosts: &[Host], now: Millis) -> Vec<Absent> {
    let absent = hosts.iter().filter(|host| !host.is_online(now));
    absent.map(|host| Absent { host: host.name.clone(), seen_ms: host.last_seen_ms(), state: State::Queued }).collect()
}

#[cfg(test)]
mod tests {
    use protocol::{
        action::{Kind, Parameter},
        clock::millis,
        status::Status,
    };

    use super::*;
    use crate::error;

    fn host(name: &str, actions: &Rc<Vec<ActionSpec>>) -> Host {
        Host {
            name: name.parse().unwrap(),
            seen_ms: Some(0),
            status: Some(Status::default()),
            actions: Some(actions.clone()),
        }
    }

    fn catalogue(kind: Kind) -> Rc<Vec<ActionSpec>> {
        let parameters = vec![Parameter::optional("top", kind, "how many")];
        Rc::new(vec![ActionSpec { parameters, ..ActionSpec::repeatable("look", "looks") }])
    }

    #[test]
    fn hosts_that_agree_are_asked_together() {
        let (one, other) = (catalogue(Kind::Integer { min: 1, max: 5 }), catalogue(Kind::Integer { min: 1, max: 9 }));
        let hosts = [host("a", &one), host("b", &one), host("c", &other)];
        let typed = ["top=3".to_owned()];
        assert_eq!(understand(&hosts, "look", &typed, &[]).unwrap().arguments["top"].integer(), Some(3));
        // What only one of them refuses is refused for all.
        let error = understand(&hosts, "look", &["top=7".to_owned()], &[]).unwrap_err();
        assert_eq!(error.to_string(), "on a");
        let hosts = [host("a", &one), host("b", &catalogue(Kind::Text))];
        assert!(understand(&hosts, "look", &typed, &[]).unwrap_err().to_string().contains("differently"));
    }

    #[test]
    fn an_action_that_is_not_there_is_named_with_what_is() {
        let (some, none) = (catalogue(Kind::Text), Rc::new(Vec::new()));
        let refused = |hosts: &[Host], action: &str| {
            let error = offered(hosts, action).unwrap_err();
            (error.to_string(), error::hints(&error).join("|"))
        };
        let (message, hint) = refused(&[host("a", &some)], "lok");
        assert_eq!((message.as_str(), hint.as_str()), ("a does not offer the action 'lok'", "did you mean look?"));
        let (message, hint) = refused(&[host("a", &some), host("b", &none)], "look");
        assert_eq!(message, "b does not offer the action 'look'");
        assert_eq!(hint, "which hosts do: ctl action show look");
        let silent = Host { actions: None, ..host("a", &some) };
        assert!(refused(&[silent], "look").0.contains("not published"));
    }

    #[test]
    fn long_lists_are_shortened() {
        assert_eq!(shorten(&["a", "b"]), "a, b");
        assert_eq!(shorten(&["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
    }

    #[test]
    fn a_stale_host_is_offline() {
        let now = millis(protocol::limits::OFFLINE_AFTER);
        assert!(!host("a", &catalogue(Kind::Text)).is_online(now));
    }
}
