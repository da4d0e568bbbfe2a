//! What each program of a fleet may do in Redis, and no more: the rules of its users, as Redis' access control lists
//! (ACL) write them.
//!
//! Redis permits a command where one grant permits it on all of its keys. So the rights of a user are several grants
//! (*selectors*, which need Redis 7.0). What a script does is checked command by command, as if its user had sent it.

use std::fmt::{self, Write};

use sha2::{Digest, Sha256};

use crate::{
    keys::{Any, Keys},
    metrics::MetricGroup,
    name::{HostName, Namespace},
};

/// Who logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The worker of a host.
    Worker(HostName),
    /// `ctl`, with everything that it can do.
    Controller,
    /// A dashboard, or `ctl` where it only looks.
    Reader,
    /// `ctl serve`.
    Serve,
}

/// What begins the name of a worker's user; the host's name follows.
const WORKER: &str = "worker-";

/// Which part of a key's content a grant opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It can be read.
    Read,
    /// It can be changed, but not read.
    Write,
    /// Both.
    Both,
}

/// The right to send some commands, on keys of these patterns.
#[derive(Clone, Debug)]
pub struct Grant {
    /// How the keys may be used.
    pub access: Access,
    /// The patterns. Without any, the commands have no keys.
    pub keys: Vec<String>,
    /// The commands, a subcommand after a bar.
    pub commands: &'static [&'static str],
    /// What for.
    pub why: &'static str,
}

impl Role {
    /// The name of the user, such as `worker-web1`, `controller`, `serve` or `reader`; within a namespace `prod-worker-web1`.
    pub fn user(&self, namespace: Option<&Namespace>) -> String {
        let prefix = prefix(namespace);
        match self {
            Self::Worker(host) => format!("{prefix}{WORKER}{host}"),
            Self::Controller => format!("{prefix}controller"),
            Self::Reader => format!("{prefix}reader"),
            Self::Serve => format!("{prefix}serve"),
        }
    }

    /// The host whose worker has a user of this name.
    pub fn host_of(user: &str, namespace: Option<&Namespace>) -> Option<HostName> {
        user.strip_prefix(&prefix(namespace))?.strip_prefix(WORKER)?.parse().ok()
    }

    /// What the role may do with the keys of its fleet.
    pub fn grants(&self, keys: &Keys) -> Vec<Grant> {
        match self {
            Self::Worker(host) => of_worker(keys, host),
            Self::Controller => of_controller(keys),
            Self::Reader => of_reader(keys),
            Self::Serve => of_serve(keys),
        }
    }

    /// The user as a line of an ACL file, or behind `ACL SETUSER`: its name and its rules, with which any prior ones are
    /// replaced. Without a password nobody can log in. `selects`: the fleet's keys are in another database than the first.
    pub fn user_line(&self, namespace: Option<&Namespace>, password: Option<&str>, selects: bool) -> String {
        // Until Redis 7, new users had every channel.
        let mut line = format!("{} reset on resetchannels", self.user(namespace));
        let mut add = |word: fmt::Arguments| write!(line, " {word}").expect("a text takes any more text");
        if let Some(password) = password {
            add(format_args!("#{}", hash(password)));
        }
        if selects {
            add(format_args!("+select"));
        }
        for grant in self.grants(&Keys::new(namespace)) {
            add(format_args!("{grant}"));
        }
        line
    }
}

impl Access {
    /// What comes before a pattern.
    const fn sign(self) -> &'static str {
        match self {
            Self::Read => "%R~",
            Self::Write => "%W~",
            Self::Both => "~",
        }
    }
}

impl fmt::Display for Grant {
    /// The grant as rules of a user.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.iter().map(|key| format!("{}{key}", self.access.sign()));
        let words: Vec<_> = keys.chain(self.commands.iter().map(|command| format!("+{command}"))).collect();
        let words = words.join(" ");
        if self.keys.is_empty() { out.write_str(&words) } else { write!(out, "({words})") }
    }
}

fn prefix(namespace: Option<&Namespace>) -> String {
    namespace.map(|name| format!("{name}-")).unwrap_or_default()
}

/// A password as Redis keeps it.
fn hash(password: &str) -> String {
    Sha256::digest(password).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn grant<const N: usize>(
    access: Access,
    keys: [String; N],
    commands: &'static [&'static str],
    why: &'static str,
) -> Grant {
    Grant { access, keys: keys.into(), commands, why }
}

/// Of a job, its worker writes what it reports, and learns when the job expires.
fn of_worker(keys: &Keys, host: &HostName) -> Vec<Grant> {
    use Access::{Both, Read, Write};
    let (result, output) = (keys.job_result(Any, host), keys.job_output(Any, host));
    vec![
        grant(Both, [], &["multi", "exec", "time"], "transactions; Redis' clock"),
        grant(
            Both,
            [keys.commands(host), keys.control(host)],
            &["xgroup|create", "xreadgroup", "xack", "xdel", "xadd", "xpending", "xtrim", "expire", "eval"],
            "take commands and orders from its own streams; wake itself; trim what is handled",
        ),
        grant(
            Both,
            [keys.pattern_of_host(host)],
            &["hset", "del", "expire", "exists"],
            "publish its own facts, labels, status and figures; keep what controllers set for as long",
        ),
        grant(Both, [keys.history(host)], &["eval", "xadd", "xrevrange"], "keep the history of its own figures"),
        grant(Write, [keys.servers()], &["zadd", "zremrangebyrank"], "its heartbeat in the index of hosts"),
        grant(Read, [keys.serving()], &["zrevrange"], "see whether a ctl serve lives"),
        grant(
            Both,
            [keys.job(Any), keys.job_hosts(Any), keys.job_events(Any), result.clone(), output.clone()],
            &["eval"],
            "name these keys to its scripts, whose commands need the grants below",
        ),
        grant(Read, [keys.job(Any)], &["pexpiretime"], "let what it publishes expire with the job"),
        grant(
            Both,
            [keys.job_hosts(Any)],
            &["hget", "hset", "hdel", "expire", "pexpireat"],
            "publish a state, unless a final one is published",
        ),
        grant(Write, [keys.job_events(Any)], &["xadd", "expire", "pexpireat"], "report what happens"),
        grant(
            Both,
            [result],
            &["hexists", "hget", "exists", "del", "hset", "expire", "pexpireat"],
            "publish its own results, and see which it has published",
        ),
        grant(
            Both,
            [keys.job_file(Any, host, Any)],
            &["set", "exists"],
            "hand over files that are asked for, piece by piece, encrypted",
        ),
        grant(
            Read,
            [keys.artifact(&Any, Any)],
            &["getrange"],
            "fetch the content of files that are sent to it, which is encrypted",
        ),
        grant(
            Both,
            [output],
            &["xadd", "xrange", "xrevrange", "xdel", "expire", "pexpireat"],
            "publish its own live output",
        ),
    ]
}

/// A controller writes commands and orders. It cannot write what hosts publish.
fn of_controller(keys: &Keys) -> Vec<Grant> {
    use Access::{Both, Read, Write};
    let mut grants = vec![
        grant(Both, [], &["multi", "exec", "time"], "transactions; Redis' clock"),
        grant(
            Both,
            [],
            &["ping", "info", "scan", "discard", "acl|whoami"],
            "ctl doctor: the state of the server, keys without bounds, its own rights",
        ),
        grant(
            Both,
            [keys.commands(&Any), keys.control(&Any)],
            &["xadd", "expire", "xrange", "xpending", "xlen", "exists", "xinfo|stream"],
            "send commands and orders, and see which are taken",
        ),
        grant(Both, [keys.set_labels(&Any)], &["hset", "hdel", "expire"], "set labels of hosts, beside their own"),
        grant(
            Both,
            [keys.groups()],
            &["eval", "hexists", "hlen", "hset", "hdel"],
            "save groups of hosts, in a bounded number",
        ),
        grant(Write, [keys.servers()], &["zrem"], "forget a host"),
        grant(Write, [keys.pattern_of_host(&Any)], &["del"], "forget a host"),
        grant(
            Both,
            [keys.job(Any)],
            &["hset", "hdel", "pexpire", "eval", "exists", "hexists", "hget"],
            "record a job, its approvals, and that it is sent",
        ),
        grant(Both, [keys.job_keys(Any)], &["hset", "pexpire"], "record the sealed keys of a job's secrets"),
        grant(Both, [keys.job_cancels(Any)], &["hset", "pexpireat"], "record an order to cancel"),
        grant(
            Both,
            [keys.job_rollout(Any)],
            &["exists", "hexists", "hset", "pexpire", "eval"],
            "record a rolling run and its waves",
        ),
        grant(Both, [keys.job_undo(Any)], &["set", "get"], "record that a playbook is being undone"),
        grant(
            Both,
            [keys.artifact(&Any, Any)],
            &["set", "pexpire", "del", "zadd", "zrem", "zremrangebyscore", "zcard", "eval"],
            "keep the content of files until their hosts have it",
        ),
        grant(Both, [keys.job_file(Any, &Any, Any)], &["getrange", "del"], "take the files that hosts hand over"),
        grant(Both, [keys.jobs()], &["zadd", "zremrangebyrank"], "list a job among the recent ones"),
        presence(keys),
        grant(
            Both,
            [keys.schedules()],
            &["eval", "hexists", "hlen", "hset", "hdel"],
            "list schedules, in a bounded number",
        ),
        grant(
            Both,
            [keys.schedule(&Any), keys.schedule_open(&Any), keys.schedule_runs(&Any)],
            &[
                "eval",
                "exists",
                "hexists",
                "hget",
                "hset",
                "hdel",
                "hlen",
                "hkeys",
                "hincrby",
                "pexpireat",
                "del",
                "pttl",
            ],
            "keep schedules, and account for their runs",
        ),
        grant(
            Read,
            [
                keys.pattern_of_host(&Any),
                keys.pattern_of_job(),
                keys.artifact(&Any, Any),
                keys.servers(),
                keys.jobs(),
                keys.serving(),
            ],
            &["pttl", "zcard"],
            "ctl doctor: keys without bounds",
        ),
    ];
    grants.extend(services(keys));
    grants.extend(looks(keys));
    grants
}

/// The heartbeat of `ctl serve`.
fn presence(keys: &Keys) -> Grant {
    let commands = &["zadd", "zrem", "zremrangebyscore", "zremrangebyrank", "expire"];
    grant(Access::Both, [keys.serving()], commands, "say that a ctl serve lives")
}

/// What runs at night sends runs, and accounts for schedules. It can neither add a schedule, nor cancel, nor change labels,
/// groups, or anything of a job but that it is sent.
fn of_serve(keys: &Keys) -> Vec<Grant> {
    use Access::Both;
    let mut grants = vec![
        grant(Both, [], &["multi", "exec", "time"], "transactions; Redis' clock"),
        grant(Both, [], &["ping", "info"], "how Redis itself is"),
        presence(keys),
        grant(
            Both,
            [keys.commands(&Any)],
            &["xadd", "expire", "xpending", "xrange"],
            "send runs, and see which are taken",
        ),
        grant(
            Both,
            [keys.job(Any)],
            &["hset", "pexpire", "eval", "exists", "hexists", "hget"],
            "record the job of a run, or that it was withdrawn",
        ),
        grant(Both, [keys.jobs()], &["zadd", "zremrangebyrank"], "list it among the recent ones"),
        grant(
            Both,
            [keys.schedule(&Any), keys.schedule_open(&Any), keys.schedule_runs(&Any)],
            &["eval", "exists", "hexists", "hget", "hset", "hdel", "hlen", "hkeys", "hincrby", "pexpireat"],
            "account for the runs of schedules",
        ),
    ];
    grants.extend(services(keys));
    grants.extend(looks(keys));
    grants
}

/// What the services of `ctl serve` keep, besides schedules. Whoever looks after a fleet may do that, too.
fn services(keys: &Keys) -> [Grant; 3] {
    use Access::Both;
    [
        grant(
            Both,
            [keys.redis_status(), keys.redis_history()],
            &["eval", "del", "hset", "xadd", "xrevrange", "expire", "pttl"],
            "ctl serve: keep how Redis itself is",
        ),
        grant(
            Both,
            [keys.remote_write()],
            &["eval", "hget", "hset", "pexpire", "del", "pttl"],
            "ctl serve: agree which instance sends figures to a remote receiver",
        ),
        grant(
            Both,
            alerts(keys),
            &["eval", "hexists", "hget", "hset", "hdel", "hlen", "xadd"],
            "ctl serve: evaluate alerts, and deliver what they say",
        ),
    ]
}

/// A reader sees everything but the inboxes.
fn of_reader(keys: &Keys) -> Vec<Grant> {
    let mut grants = vec![grant(Access::Read, [], &["time"], "Redis' clock")];
    grants.extend(looks(keys));
    grants
}

/// The keys of alerts, which have one owner.
fn alerts(keys: &Keys) -> [String; 8] {
    [
        keys.alert_evaluation(),
        keys.alert_rules(),
        keys.alert_states(),
        keys.alert_groups(),
        keys.alert_silences(),
        keys.alert_outbox(),
        keys.alert_deliveries(),
        keys.alert_log(),
    ]
}

/// What both a controller and a reader look at.
fn looks(keys: &Keys) -> [Grant; 5] {
    let schedules = [keys.schedules(), keys.schedule(&Any), keys.schedule_open(&Any), keys.schedule_runs(&Any)];
    let own = [keys.facts(&Any), keys.labels(&Any), keys.set_labels(&Any), keys.status(&Any)];
    let metrics = MetricGroup::ALL.map(|group| keys.metrics(&Any, group));
    let hosts = own
        .into_iter()
        .chain(metrics)
        .chain([keys.custom(&Any, Any), keys.groups(), keys.redis_status()])
        .chain(schedules);
    let see_hosts = "see hosts, their facts and figures, groups of hosts, and schedules";
    [
        Grant {
            access: Access::Read,
            keys: hosts.collect(),
            commands: &["hgetall", "hget", "hmget", "hlen"],
            why: see_hosts,
        },
        grant(
            Access::Read,
            [keys.servers(), keys.jobs(), keys.serving()],
            &["zrevrange", "zscore"],
            "see which hosts, jobs and instances of ctl serve there are",
        ),
        grant(
            Access::Read,
            [keys.history(&Any), keys.redis_history()],
            &["xrevrange"],
            "see how hosts and Redis itself were",
        ),
        grant(Access::Read, alerts(keys), &["hgetall", "hget", "hmget", "hlen", "xrevrange"], "see alerts"),
        grant(
            Access::Read,
            [keys.pattern_of_job()],
            &["hgetall", "hget", "hmget", "hkeys", "hvals", "hlen", "exists", "pexpiretime", "xread", "xrange"],
            "see jobs, follow them, and read results and output",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_has_its_own_keys_and_of_jobs_what_it_reports() {
        let role = Role::Worker("web1".parse().unwrap());
        let line = role.user_line(Some(&"prod".parse().unwrap()), Some("secret"), true);
        let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        let begin = format!(
            "prod-worker-web1 reset on resetchannels #{hash} +select +multi +exec +time (~prod:server:{{web1}}:commands "
        );
        assert!(line.starts_with(&begin), "{line}");
        assert!(line.contains(" (%W~prod:servers +zadd +zremrangebyrank) "), "{line}");
        assert!(line.contains(" (%R~prod:job:{*} +pexpiretime) "), "{line}");
        for pattern in line.split(' ').filter_map(|word| word.split_once('~')).map(|(_, pattern)| pattern) {
            assert!(pattern.starts_with("prod:"), "{pattern}");
        }
    }

    #[test]
    fn without_a_password_there_is_none() {
        for role in [Role::Controller, Role::Reader, Role::Serve] {
            let line = role.user_line(None, None, false);
            assert!(!line.contains('#') && !line.contains("nopass") && !line.contains("+select"), "{line}");
        }
    }

    #[test]
    fn names_of_users_tell_the_host() {
        let (host, prod): (HostName, Namespace) = ("web-1".parse().unwrap(), "prod".parse().unwrap());
        for namespace in [None, Some(&prod)] {
            let user = Role::Worker(host.clone()).user(namespace);
            assert_eq!(Role::host_of(&user, namespace), Some(host.clone()));
        }
        assert_eq!(Role::host_of("prod-worker-web-1", None), None);
        assert_eq!(Role::host_of("controller", None), None);
    }
}
