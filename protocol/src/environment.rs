//! Every environment variable of `ctl` and `worker`, defined once; the reference documentation is
//! printed from here.

macro_rules! variables {
    ($($(#[doc = $doc:literal])+ $name:ident = $value:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: &str = $value;)+

        /// Names and meanings of all variables, in the order of this file.
        pub const ALL: &[(&str, &str)] = &[$(($value, concat!($($doc),+))),+];
    };
}

variables! {
    /// URL of the Redis server: `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`, `rediss://…` for TLS, or `unix:///PATH`.
    REDIS = "REDFLEET_REDIS";
    /// File whose first line is the password for the Redis server, so that the URL needs none.
    REDIS_PASSWORD_FILE = "REDFLEET_REDIS_PASSWORD_FILE";
    /// File with the certificates of the CAs to trust (PEM), for `rediss://`; without it, the machine's public ones.
    REDIS_CA = "REDFLEET_REDIS_CA";
    /// File with the client's certificate for the Redis server (PEM), where the server wants one.
    REDIS_CERT = "REDFLEET_REDIS_CERT";
    /// File with the private key of that certificate (PEM).
    REDIS_KEY = "REDFLEET_REDIS_KEY";
    /// Prefix of all keys, so that several fleets can share a Redis.
    NAMESPACE = "REDFLEET_NAMESPACE";
    /// Settings file (TOML) of `ctl` or `worker`.
    CONFIG = "REDFLEET_CONFIG";
    /// The keys of hosts that `ctl` trusts (default: `~/.config/redfleet/known_hosts`; for a `ctl up`, in its state directory).
    KNOWN_HOSTS = "REDFLEET_KNOWN_HOSTS";
    /// State directory of `ctl up`.
    DIR = "REDFLEET_DIR";
    /// The worker's directory for what must outlive it (its journal).
    STATE_DIR = "REDFLEET_STATE_DIR";
    /// Whom the worker obeys: a file in OpenSSH's format `allowed_signers`.
    TRUST = "REDFLEET_TRUST";
    /// Keys and certificates that the worker trusts no more.
    REVOKED = "REDFLEET_REVOKED";
    /// The worker's host name in the fleet.
    HOST = "REDFLEET_HOST";
    /// What the worker logs: `error`, `warn`, `info`, `debug` or `trace`.
    LOG = "REDFLEET_LOG";
    /// How the worker logs: `text` or `json`.
    LOG_FORMAT = "REDFLEET_LOG_FORMAT";
    /// How `ctl` prints results: `table`, `json` or `jsonl`.
    OUTPUT = "REDFLEET_OUTPUT";
    /// The operator's name as recorded in jobs and trusted by hosts (default: `USER@HOSTNAME`).
    OPERATOR = "REDFLEET_OPERATOR";
    /// File of the key with which `ctl` signs what it sends (default: that of a `ctl up`, `~/.config/redfleet/key`,
    /// `~/.ssh/id_ed25519`, ssh-agent).
    KEY = "REDFLEET_KEY";
    /// The trace that `ctl run` is a part of (W3C Trace Context); it goes into the job's manifest.
    TRACE = "TRACEPARENT";
}

/// The warning where a password was typed on the command line.
pub const PASSWORD_SEEN: &str = "other users of this machine can see the password in --redis (`ps`): put it into a file \
                                 (--redis-password-file FILE), or the URL into REDFLEET_REDIS or the settings file";
