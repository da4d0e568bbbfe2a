//! A fleet of hosts as a library: ask hosts to run actions, and follow the jobs.
//!
//! `ctl` is built on this module. It prints nothing, reads no flag and no environment variable, and never
//! ends the process: it returns values, typed [`Error`]s and a stream of [`Event`]s.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use controller::client::{Event, Fleet, Follower, KnownHosts, Request, Selection, Signer, understand};
//! use protocol::{limits, targets::Targets};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let signer = Signer::from_openssh(&std::fs::read_to_string("key")?)?;
//! let known_hosts = KnownHosts::open("known_hosts".as_ref())?;
//! let mut fleet = Fleet::connect(&"redis://127.0.0.1".parse()?, None).await?.knowing(known_hosts);
//! let hosts = fleet.select(&Selection::of(["web*"])?).await?.hosts;
//! let understood = understand(&hosts, "collect-cpu", &[], &[])?;
//! let request = Request {
//!     action: "collect-cpu".into(),
//!     arguments: understood.arguments,
//!     secrets: understood.secrets,
//!     targets: Targets::new(hosts.into_iter().map(|host| host.name)),
//!     timeout: understood.timeout,
//!     start_by: Duration::from_secs(30),
//!     retention: limits::RETENTION_DEFAULT,
//!     keep_output: None,
//!     operator: "ann@desk".into(),
//!     trace: None,
//! };
//! let job = fleet.dispatch(request, &signer, &mut |_| {}).await?;
//! let mut follower = Follower::of_new(&job);
//! while let Some(event) = follower.next(&mut fleet).await? {
//!     if let Event::Finished(result) = event {
//!         println!("{}: {}", result.host, result.state);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Theory of operation
//!
//! A command travels through Redis: [`Fleet::dispatch`] writes the job and adds a command to the inbox (a
//! stream) of each host. The host's worker executes it and publishes state changes, output and the result
//! under the job's keys. A [`Follower`] blocks on the job's event stream and reads the results from the
//! job's hashes. These are the truth: they are read again every two seconds and after every reconnect, so a
//! lost event delays a result but never hides it.
//!
//! Workers know a job by its id, so to send it twice is harmless. `dispatch` does so when a reply is lost,
//! and a follower does so when Redis has lost the job or a command (flushed, restarted without persistence,
//! failed over).
//!
//! Secret arguments are encrypted in the manifest, under a key of the job's own that is sealed to each host. So Redis has
//! no secret in clear, and none is needed to send a job again.
//!
//! Content that is too large for a command goes through Redis in encrypted pieces: [`Fleet::begin_upload`] for what hosts
//! shall fetch, and a [`Download`] for what they hand over.
//!
//! Where hosts ask for the signatures of several, [`Fleet::propose`] keeps the signed job, and [`Fleet::approve`] adds
//! signatures; whoever completes the number sends it. A follower never sends what is only proposed.
//!
//! A host that is offline executes its command when it returns, unless the job's start-by has passed by
//! then. A follower waits for it, unless [`Follower::leave_offline`] is called. Where a host stays silent, the follower derives its end from the job's deadlines; such a result
//! has no outcome, and a real one that arrives later replaces it.
//!
//! A result counts only if the host has signed it: whoever can write to Redis could forge one. [`KnownHosts`] has the keys
//! of hosts, which are recorded when they are met for the first time. A result that is not signed by the key of its host
//! has the state [`Unverified`](protocol::outcome::State::Unverified) and no outcome. Everything else that comes from
//! Redis is not signed: states of commands that have not ended, live output, status, facts and figures.
//!
//! All moments are by Redis' clock ([`Fleet::now`]), in milliseconds since the Unix epoch.
//!
//! # Blocking and cancellation
//!
//! No call blocks the thread. A round trip takes at most 12 seconds; then it is an error. [`Follower::next`]
//! waits for as long as the job may take, also while Redis is away; [`Fleet::dispatch`] tries again for 30
//! seconds. All other calls end with the first error.
//!
//! All calls that only read are cancel-safe, and so is [`Follower::next`]: their futures may be dropped, and
//! nothing is lost. What `next` has read is delivered by the next call. If it is dropped while Redis blocks, the
//! next call on the [`Fleet`] opens a new connection. [`Fleet::dispatch`] and [`Fleet::cancel`] are not
//! cancel-safe: some hosts may have been sent the command or the order. So is [`Download::next`], but no upload.
//!
//! All futures are [`Send`]. A [`Fleet`] does one thing at a time; connect another one for each job that is followed.

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::exit)]

mod agent;
pub mod alerts;
mod approve;
mod arguments;
mod belief;
mod cancel;
mod catalogue;
mod claim;
mod dispatch;
mod downloads;
mod error;
mod events;
mod fleet;
mod follow;
mod forget;
mod groups;
mod history;
mod hosts;
mod inbox;
mod jobs;
mod known_hosts;
mod labels;
mod ordered;
mod outputs;
mod overview;
mod presence;
mod proposal;
pub mod redis_info;
mod redis_status;
mod rollout;
mod running;
mod scheduler;
mod schedules;
mod sealing;
mod select;
mod serving;
mod signer;
mod spelling;
mod targeting;
mod undoing;
mod uploads;
mod verdict;
mod witness;

#[doc(hidden)]
pub use self::agent::Reply;
pub use self::{
    agent::{Agent, AgentError, Identity},
    approve::Approved,
    arguments::ArgumentsError,
    cancel::Cancellation,
    catalogue::{Offer, Understood, as_dry_run, offers, secrets_of, understand},
    downloads::{Download, Piece},
    error::{Error, WrongType, shorten},
    events::{Absent, Damage, Event, HostResult},
    fleet::Fleet,
    follow::Follower,
    forget::Forgotten,
    groups::Groups,
    history::{History, Point},
    hosts::{Catalogue, Host, HostDetails, Labels},
    jobs::{Job, JobFilter, RecentJob, Request},
    known_hosts::{KnownHosts, KnownHostsError, known_name},
    labels::{LabelChange, LabelError, Relabelled},
    ordered::Ordered,
    overview::{Figure, Figures, Overview, Vitals},
    presence::{Change, Happening, Presence},
    proposal::{Proposal, ProposalError},
    redis_status::{RedisStatus, RedisWatch},
    rollout::{Budget, BudgetError, Chain, Course, Origin, Outlook, Rollout, Run, Standing, Standings},
    running::Running,
    scheduler::{Scheduler, Scheduling},
    schedules::{ends_soon, in_words, next_times, silent_until},
    select::{Known, SAMPLED, Selected, Selection, is_fresh},
    serving::serves,
    signer::{Signer, SignerError},
    spelling::closest,
    targeting::{
        Field, Filter, FilterError, Group, GroupError, Limit, LimitError, Truth, Unknown, Word, WordError, by_reason,
        split_words,
    },
    uploads::Upload,
    witness::{ChangedKey, NewKey, Unsealable, Unverified},
};
