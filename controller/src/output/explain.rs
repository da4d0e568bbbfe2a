//! Errors as people read them: what went wrong, and what to do about it.

use protocol::{
    connection::Address,
    diagnosis::Mistake,
    job::JobHeadline,
    name::{HostName, JobId, NameError, ScheduleName},
};
use redis::RedisError;

use super::{moments, style, summary::command};
use crate::client::{ArgumentsError, Error, ProposalError, WrongType, closest, shorten};

/// An error with hints.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Advice {
    message: String,
    hints: Vec<String>,
}

impl Advice {
    /// An error with the text `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hints: Vec::new() }
    }

    /// Adds a line of advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// What to do, a line each.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }
}

/// The whole text of an error, with the hints that belong to it or to one of its causes.
pub fn explain(error: &anyhow::Error) -> Advice {
    let (mut parts, mut hints) = (Vec::new(), Vec::new());
    for cause in error.chain() {
        parts.push(cause.to_string());
        if let Some(advice) = cause.downcast_ref::<Advice>() {
            hints.clone_from(&advice.hints);
        }
        // The text of such an error is complete without its sources.
        if let Some(error) = cause.downcast_ref::<Error>() {
            hints = hints_of(error);
            break;
        }
    }
    Advice { message: parts.join(": "), hints }
}

fn hint_of_schedule(name: &ScheduleName, known: &[String]) -> String {
    let meant = closest(name.as_str(), known.iter().map(String::as_str));
    meant.map_or_else(|| "see which there are: ctl schedule list".to_owned(), |meant| format!("did you mean: {meant}"))
}

fn hints_of(error: &Error) -> Vec<String> {
    let hint = match error {
        Error::Redis { address, source } => return hints_of_redis(address, source),
        Error::NotRedis { mistake, .. } => {
            let restart = (*mistake == Mistake::Missing).then_some(RESTART);
            return [mistake.remedy()].into_iter().chain(restart).map(str::to_owned).collect();
        }
        Error::UnknownSchedule { name, known } => return vec![hint_of_schedule(name, known)],
        Error::UnknownRule { name, known } => {
            did_you_mean(name, known.iter().map(String::as_str), "see which there are: ctl alert list --rules".into())
        }
        Error::DamagedSchedule(name, _) => return vec![format!("remove it: ctl schedule rm {name}")],
        Error::Dispatch { job, hosts, asked, unclear, recorded, source } => {
            let job = job.short();
            let how_far = match asked {
                0 if *unclear => format!("the commands may have been sent all the same: ctl job show {job}"),
                0 => "nothing was sent".into(),
                _ if *unclear => format!("at least {asked} of {hosts} hosts got it: ctl job show {job}"),
                _ if !recorded => format!("{asked} of {hosts} hosts got it, but job {job} may have no record"),
                _ => format!("{asked} of {hosts} hosts got it all the same: ctl job wait {job}"),
            };
            return [hints_of(source), vec![how_far]].concat();
        }
        Error::AmbiguousJob { newest, now, .. } => {
            let line = |(id, job): &(JobId, JobHeadline)| {
                let command = style::plain(&command(&job.action, &job.arguments));
                format!("{}  {}  {command}", id.short(), moments::ago(job.issued_at_ms, *now))
            };
            return newest.iter().map(line).collect();
        }
        Error::WrongType(WrongType(key)) => how_to_delete(key),
        Error::NoHosts(address) => format!("start one on each host: worker --redis {address} --host NAME"),
        Error::UnknownHost { name, known } => {
            did_you_mean(name.as_str(), known.iter().map(HostName::as_str), format!("known: {}", shorten(known)))
        }
        Error::OwnLabel { .. } => "change it in the settings of the worker: [labels]".into(),
        Error::ManyLabels(host) => {
            format!("which it has: ctl host show {host}; remove one: ctl host label {host} NAME-")
        }
        Error::UnknownGroup { name, known } => {
            let otherwise = if known.is_empty() {
                "there is none yet: ctl group set NAME …".into()
            } else {
                format!("known: {}", shorten(known))
            };
            did_you_mean(name.as_str(), known.iter().map(String::as_str), otherwise)
        }
        Error::DamagedGroup(name, _) => format!("say anew what it stands for: ctl group set {name} …"),
        Error::GroupCircle(path) => {
            let name = path.first().map_or("NAME", |name| name.as_str());
            format!("say anew what one of them stands for: ctl group set {name} …")
        }
        Error::DeepGroup(..) => "name what it stands for itself: ctl group list".into(),
        Error::GroupStranger { group, .. } => {
            format!("if it is gone for good, take it out: ctl group show {group}; ctl group set {group} …")
        }
        Error::GroupInUse(_, others) => {
            let name = others.first().map_or("NAME", |name| name.as_str());
            format!("change these first: ctl group set {name} …")
        }
        Error::ManyGroups => "remove some: ctl group list; ctl group rm NAME".into(),
        Error::HostOnline(_) => "stop its worker first; nothing was removed".into(),
        Error::NoneMeant { filter: Some(_), .. } => "what is known of a host: ctl host show NAME".into(),
        Error::NoMatch { known, .. } => format!("known: {}", shorten(known)),
        Error::NotPublished(_) => "is its worker running? ctl host list".into(),
        Error::NotOffered { action, elsewhere: true, .. } => format!("which hosts do: ctl action show {action}"),
        Error::NotOffered { action, known, .. } => {
            did_you_mean(action, known.iter().map(String::as_str), "list them: ctl action list".into())
        }
        Error::NotAllowed { action, .. } => how_to_allow(action),
        Error::NoDryRun { elsewhere: true, .. } => "nothing was sent; name the other hosts alone".into(),
        Error::NoDryRun { able, .. } if able.is_empty() => "nothing was sent".into(),
        Error::NoDryRun { able, .. } => format!("nothing was sent; actions with a dry run: {}", able.join(", ")),
        Error::Arguments { action, source, .. } => match &**source {
            ArgumentsError::NoPair { text, trailing: Some(_) } => {
                format!("put it after --: ctl run … {action} -- {text} …")
            }
            ArgumentsError::Unknown { name, known, .. } => {
                did_you_mean(name, known.iter().map(String::as_str), what_it_takes(action))
            }
            _ => what_it_takes(action),
        },
        Error::Disagreement(_) => "run it on that host alone".into(),
        Error::Name(NameError::JobId(_)) => "list the jobs: ctl job list; your last one: last".into(),
        Error::TooLarge { .. } => "put large input into a file on the host".into(),
        Error::UnknownJob(_) => "its results may have expired; list the jobs: ctl job list".into(),
        Error::Clocks { .. } => return CLOCKS.map(str::to_owned).into(),
        Error::ForeignJob { theirs: Some(theirs), .. } => {
            format!("somebody has copied its record; look for the job itself with: --namespace {theirs}")
        }
        Error::ForeignJob { theirs: None, .. } => {
            "somebody has copied its record; look for the job itself without --namespace".into()
        }
        Error::Proposal(job, error) => return hint_of_proposal(*job, error).into_iter().collect(),
        Error::NotATarget(_, job) => format!("its hosts: ctl job show {}", job.short()),
        Error::NoJobs(_) => "the jobs of all operators: ctl job list".into(),
        _ => return Vec::new(),
    };
    vec![hint]
}

fn hint_of_proposal(job: JobId, error: &ProposalError) -> Option<String> {
    Some(match error {
        ProposalError::Over => format!("how it stands: ctl job show {}", job.short()),
        ProposalError::Late => "propose it anew: ctl run --propose --start-by DURATION …".into(),
        ProposalError::Replaced => "find out who writes to Redis; then propose it anew: ctl run --propose …".into(),
        ProposalError::Own(_) => format!("withdraw it: ctl job cancel {}", job.short()),
        ProposalError::SameKey => "somebody else, with a key of their own, must approve it".into(),
        _ => return None,
    })
}

fn what_it_takes(action: &str) -> String {
    format!("what {action} takes: ctl action show {action}")
}

/// A damaged key, and what to do about it.
pub fn how_to_mend(damage: &WrongType) -> String {
    format!("{damage}; {}", how_to_delete(&damage.0))
}

fn how_to_delete(key: &str) -> String {
    format!("if nobody needs that: redis-cli DEL '{key}'")
}

/// What to write into a worker's configuration, so that it allows an action.
pub fn how_to_allow(action: &str) -> String {
    format!(
        "to allow it there, write into the worker's configuration: [actions] allow = [\"{}\"]",
        style::plain(action)
    )
}

/// The hints where Redis and this machine disagree about the time.
const CLOCKS: [&str; 2] = [
    "compare `date` here and on the machine of Redis with another clock, and set the wrong one (timedatectl set-ntp true)",
    "if both are right, somebody between here and Redis alters what it says: use rediss:// (TLS)",
];

/// The hint where a Unix socket has no server.
const RESTART: &str = "if it is the one of `ctl up`, start it again: ctl up";

fn hints_of_redis(address: &Address, error: &RedisError) -> Vec<String> {
    let hint = match error.code() {
        Some("OOM") => "raise maxmemory, or find what fills it: ctl doctor",
        Some("NOAUTH") => {
            "put it into a file and name that: --redis-password-file FILE, or REDFLEET_REDIS_PASSWORD_FILE"
        }
        Some("MISCONF") => "look into the log of redis-server; the disk may be full",
        Some("READONLY") => "give the URL of its master",
        Some("LOADING") => "try again in a moment",
        _ if error.is_connection_refusal() => "is redis-server running, and is this its URL?",
        _ => return Vec::new(),
    };
    let embedded = error.is_connection_refusal() && address.socket().is_some();
    let restart = embedded.then_some(RESTART);
    [hint].into_iter().chain(restart).map(str::to_owned).collect()
}

/// The hint for a word that is not known: the known word that was probably meant, or else `otherwise`.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>, otherwise: String) -> String {
    closest(word, known).map_or(otherwise, |meant| format!("did you mean {meant}?"))
}

#[cfg(test)]
mod tests {
    use protocol::name::JobId;

    use super::*;

    #[test]
    fn hints_are_found_under_context() {
        let error = anyhow::Error::new(Advice::new("no").hint("yes")).context("outer");
        let advice = explain(&error);
        assert_eq!((advice.to_string().as_str(), advice.hints()), ("outer: no", &["yes".to_owned()][..]));
    }

    #[test]
    fn an_error_of_the_client_is_complete_without_its_sources() {
        let source = redis::make_extension_error("OOM".into(), None);
        let redis = Error::Redis { address: Box::new("redis://h".parse().unwrap()), source };
        let job = JobId::new();
        let dispatch = |asked, unclear, recorded| {
            let source = Box::new(Error::NoTargets);
            hints_of(&Error::Dispatch { job, hosts: 3, asked, unclear, recorded, source }).concat()
        };
        let advice = explain(&redis.into());
        assert!(advice.to_string().ends_with("drops nothing (noeviction)"), "{advice}");
        assert_eq!(advice.hints().len(), 1);
        assert_eq!(dispatch(0, false, false), "nothing was sent");
        assert!(dispatch(0, true, true).contains("may have been sent"));
        assert!(dispatch(2, true, true).starts_with("at least 2 of 3 hosts"));
        assert!(dispatch(2, false, false).contains("no record"));
        assert!(dispatch(2, false, true).ends_with(&format!("ctl job wait {}", job.short())));
    }

    #[test]
    fn hints_are_made_of_what_the_error_knows() {
        let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<HostName>>();
        let unknown = |name: &str| Error::UnknownHost { name: name.parse().unwrap(), known: names(&["db1", "web1"]) };
        assert_eq!(hints_of(&unknown("wbe1")), ["did you mean web1?"]);
        assert_eq!(hints_of(&unknown("zzz")), ["known: db1, web1"]);
        let lacking = |elsewhere| {
            let (action, known) = ("lok".to_owned(), vec!["look".to_owned()]);
            hints_of(&Error::NotOffered { action, hosts: names(&["a"]), elsewhere, known }).concat()
        };
        assert_eq!(lacking(false), "did you mean look?");
        assert_eq!(lacking(true), "which hosts do: ctl action show lok");
    }
}
