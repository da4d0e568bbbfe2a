//! The actions that hosts offer, and the arguments of a request as each host reads them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use protocol::{
    action::{ActionSpec, Arguments, DRY_RUN},
    name::HostName,
};

use super::{arguments, error::Error, hosts::Host};

/// An action, and which hosts offer it.
pub struct Offer {
    /// Its description, as the first of these hosts publishes it, but with the approvals that the strictest asks for.
    pub action: ActionSpec,
    /// The hosts that offer it, sorted.
    pub hosts: Vec<HostName>,
    /// Those whose configuration allows it.
    pub allowed_on: Vec<HostName>,
    /// Those that describe it differently: they run other releases.
    pub differs_on: Vec<HostName>,
}

/// All actions that any of these hosts offers, by name.
pub fn offers(hosts: &[Host]) -> Vec<Offer> {
    let mut sorted: Vec<_> = hosts.iter().collect();
    sorted.sort_by(|one, other| one.name.cmp(&other.name));

    let mut offers: BTreeMap<&str, Offer> = BTreeMap::new();
    for host in sorted {
        for action in host.actions.iter().flat_map(|actions| actions.iter()) {
            let new = || Offer { action: action.clone(), hosts: vec![], allowed_on: vec![], differs_on: vec![] };
            let offer = offers.entry(&action.name).or_insert_with(new);
            offer.hosts.push(host.name.clone());
            if action.allowed {
                offer.allowed_on.push(host.name.clone());
            }
            // What a host's configuration says is no difference of releases.
            let ActionSpec { allowed, approvals, .. } = offer.action;
            if (ActionSpec { allowed, approvals, ..action.clone() }) != offer.action {
                offer.differs_on.push(host.name.clone());
            }
            // As for a request to all of them, the strictest counts.
            offer.action.approvals = offer.action.approvals.max(action.approvals);
        }
    }
    offers.into_values().collect()
}

/// Arguments that all hosts read alike. They cannot be printed, as they hold secrets.
pub struct Understood {
    /// The arguments that are no secrets.
    pub arguments: Arguments,
    /// The secret arguments, in clear.
    pub secrets: Arguments,
    /// How long the action may run, unless the operator sets a timeout: the longest of the hosts' defaults.
    pub timeout: Duration,
    /// How many must sign the job: as many as the strictest of the hosts asks for.
    pub approvals: usize,
}

/// Reads `NAME=VALUE` words in `typed`, and the words behind `--`, as the arguments of `action`, and checks
/// them against the catalogue of each host.
///
/// # Errors
/// Some host does not offer or not allow the action, the arguments do not fit, or hosts read them
/// differently.
pub fn understand(hosts: &[Host], action: &str, typed: &[String], words: &[String]) -> Result<Understood, Error> {
    check_offered(hosts, action)?;
    let mut checked: Vec<&Arc<Vec<ActionSpec>>> = Vec::new();
    let mut understood: Option<Understood> = None;
    for (host, actions) in hosts.iter().filter_map(|host| Some((host, host.actions.as_ref()?))) {
        // Equal catalogues are shared: each is checked once.
        if checked.iter().any(|known| Arc::ptr_eq(known, actions)) {
            continue;
        }
        checked.push(actions);
        let Some(spec) = host.action(action) else { continue };
        let all = arguments::read(spec, typed, words).map_err(|source| {
            let host = (hosts.len() > 1).then(|| host.name.clone());
            Error::Arguments { action: action.to_owned(), host, source: Box::new(source) }
        })?;
        let is_secret = |name: &str| spec.parameter(name).is_some_and(|parameter| parameter.secret);
        let (secrets, arguments) = all.into_iter().partition(|(name, _)| is_secret(name));
        let timeout = Duration::from_millis(spec.timeout_ms);
        match &mut understood {
            None => understood = Some(Understood { arguments, secrets, timeout, approvals: spec.approvals }),
            Some(before) if before.arguments == arguments && before.secrets == secrets => {
                before.timeout = before.timeout.max(timeout);
                before.approvals = before.approvals.max(spec.approvals);
            }
            Some(_) => return Err(Error::Disagreement(host.name.clone())),
        }
    }
    understood.ok_or(Error::NoTargets)
}

/// Reads `NAME=VALUE` words as secret arguments of `action`, of which others are known already.
///
/// # Errors
/// Some host does not offer or not allow the action, or a word is no secret argument of it.
pub fn secrets_of(hosts: &[Host], action: &str, typed: &[String]) -> Result<Arguments, Error> {
    check_offered(hosts, action)?;
    let Some(spec) = hosts.iter().find_map(|host| host.action(action)) else { return Err(Error::NoTargets) };
    arguments::read_secrets(spec, typed).map_err(|source| {
        let source = Box::new(source);
        Error::Arguments { action: action.to_owned(), host: None, source }
    })
}

/// Turns the words that are typed for an action into those of its dry run.
///
/// # Errors
/// Some host does not offer the action, or offers one that cannot say what it would do.
pub fn as_dry_run(hosts: &[Host], action: &str, mut typed: Vec<String>) -> Result<Vec<String>, Error> {
    check_offered(hosts, action)?;
    let can = |host: &&Host| host.action(action).is_some_and(|spec| spec.parameter(DRY_RUN).is_some());
    let cannot: Vec<_> = hosts.iter().filter(|host| !can(host)).map(|host| host.name.clone()).collect();
    if !cannot.is_empty() {
        let elsewhere = cannot.len() < hosts.len();
        let able = offers(hosts).into_iter().filter(|offer| offer.action.parameter(DRY_RUN).is_some());
        let able = able.map(|offer| offer.action.name).collect();
        return Err(Error::NoDryRun { action: action.to_owned(), hosts: cannot, elsewhere, able });
    }
    let word = format!("{DRY_RUN}=true");
    if !typed.contains(&word) {
        typed.push(word);
    }
    Ok(typed)
}

/// Checks that every host offers the action, and allows it.
fn check_offered(hosts: &[Host], action: &str) -> Result<(), Error> {
    let those = |meant: fn(&Host, &str) -> bool| {
        let those: Vec<_> = hosts.iter().filter(|host| meant(host, action)).map(|host| host.name.clone()).collect();
        (!those.is_empty()).then_some(those)
    };
    let mut damaged = hosts.iter().filter(|host| host.actions.is_none()).filter_map(|host| host.damage.clone());
    if let Some(damage) = damaged.next() {
        return Err(damage.into());
    }
    if let Some(hosts) = those(|host, _| host.actions.is_none()) {
        return Err(Error::NotPublished(hosts));
    }
    if let Some(lacking) = those(|host, action| host.action(action).is_none()) {
        let elsewhere = lacking.len() < hosts.len();
        let known = offers(hosts).into_iter().map(|offer| offer.action.name).collect();
        return Err(Error::NotOffered { action: action.to_owned(), hosts: lacking, elsewhere, known });
    }
    match those(|host, action| host.action(action).is_some_and(|action| !action.allowed)) {
        Some(hosts) => Err(Error::NotAllowed { action: action.to_owned(), hosts }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use protocol::{
        action::{Argument, Kind, Parameter},
        status::Status,
    };

    use super::*;

    fn host(name: &str, actions: &Arc<Vec<ActionSpec>>) -> Host {
        let actions = Some(Arc::clone(actions));
        Host { name: name.parse().unwrap(), seen_ms: Some(0), status: Some(Status::default()), actions, damage: None }
    }

    fn catalogue(kind: Kind) -> Arc<Vec<ActionSpec>> {
        let parameters = vec![Parameter::optional("top", kind, "how many")];
        Arc::new(vec![ActionSpec { parameters, ..ActionSpec::repeatable("look", "looks") }])
    }

    fn refused(hosts: &[Host], typed: &[&str]) -> Error {
        let typed: Vec<_> = typed.iter().map(|&word| word.to_owned()).collect();
        understand(hosts, "look", &typed, &[]).err().expect("an error")
    }

    #[test]
    fn hosts_that_agree_are_asked_together() {
        let (one, other) = (catalogue(Kind::Integer { min: 1, max: 5 }), catalogue(Kind::Integer { min: 1, max: 9 }));
        let hosts = [host("a", &one), host("b", &one), host("c", &other)];
        let understood = understand(&hosts, "look", &["top=3".to_owned()], &[]).ok().unwrap();
        assert_eq!(understood.arguments["top"], Argument::Integer(3));
        // Arguments that one host refuses are refused for all hosts.
        assert!(refused(&hosts, &["top=7"]).to_string().starts_with("on a: look: top must be"));
        let hosts = [host("a", &one), host("b", &catalogue(Kind::Text))];
        assert!(matches!(refused(&hosts, &["top=3"]), Error::Disagreement(host) if host.as_str() == "b"));
    }

    #[test]
    fn secrets_are_kept_apart() {
        let token = Parameter { secret: true, ..Parameter::optional("token", Kind::Text, "a secret") };
        let actions = Arc::new(vec![ActionSpec { parameters: vec![token], ..ActionSpec::repeatable("look", "looks") }]);
        let understood = understand(&[host("a", &actions)], "look", &["token=hunter2".to_owned()], &[]).ok().unwrap();
        assert!(understood.arguments.is_empty());
        assert_eq!(understood.secrets["token"], Argument::Text("hunter2".into()));
    }

    #[test]
    fn every_host_must_offer_and_allow_the_action() {
        let (some, none) = (catalogue(Kind::Text), Arc::new(Vec::new()));
        let names = |hosts: Vec<HostName>| hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let error = refused(&[host("a", &some), host("b", &none)], &[]);
        assert!(matches!(error, Error::NotOffered { hosts, elsewhere: true, .. } if names(hosts.clone()) == "b"));
        let silent = Host { actions: None, ..host("c", &some) };
        let error = refused(&[host("b", &none), silent], &[]);
        assert!(matches!(error, Error::NotPublished(hosts) if names(hosts.clone()) == "c"));
        let forbidden = Arc::new(vec![ActionSpec { allowed: false, ..some[0].clone() }]);
        let error = refused(&[host("a", &some), host("b", &forbidden)], &[]);
        assert!(matches!(error, Error::NotAllowed { hosts, .. } if names(hosts.clone()) == "b"));
        assert!(matches!(refused(&[], &[]), Error::NoTargets));
    }

    #[test]
    fn a_dry_run_is_refused_where_it_would_be_a_real_run() {
        let (without, with) = (
            catalogue(Kind::Text),
            Arc::new(vec![ActionSpec {
                parameters: vec![Parameter::dry_run()],
                ..ActionSpec::repeatable("look", "looks")
            }]),
        );
        let words = |hosts: &[Host], typed: &[&str]| {
            as_dry_run(hosts, "look", typed.iter().map(|&word| word.to_owned()).collect())
        };
        assert_eq!(words(&[host("a", &with)], &[]).unwrap(), ["dry_run=true"]);
        assert_eq!(words(&[host("a", &with)], &["dry_run=true"]).unwrap(), ["dry_run=true"]);
        // Both words reach the action's description, which refuses what is given twice.
        assert_eq!(words(&[host("a", &with)], &["dry_run=false"]).unwrap(), ["dry_run=false", "dry_run=true"]);
        let error = words(&[host("a", &with), host("b", &without)], &[]).unwrap_err();
        let Error::NoDryRun { action, hosts, elsewhere: true, able } = error else { panic!("{error}") };
        assert_eq!((action.as_str(), hosts[0].as_str(), able), ("look", "b", vec!["look".to_owned()]));
    }

    #[test]
    fn offers_are_gathered_over_hosts() {
        let offering = |name: &str, actions: &[&str], allowed: bool| {
            let spec = |name: &&str| ActionSpec { allowed, ..ActionSpec::repeatable(name, name) };
            host(name, &Arc::new(actions.iter().map(spec).collect()))
        };
        let offers = offers(&[offering("b", &["ping"], false), offering("a", &["ping", "exec"], true)]);
        let counted = |offer: &Offer| {
            (offer.action.name.clone(), offer.hosts.len(), offer.allowed_on.len(), offer.differs_on.len())
        };
        assert_eq!(
            offers.iter().map(counted).collect::<Vec<_>>(),
            [("exec".into(), 1, 1, 0), ("ping".into(), 2, 1, 0)]
        );
    }
}
