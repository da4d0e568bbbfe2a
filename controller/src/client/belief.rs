//! Results that are believed: those that their hosts have signed.

use std::collections::HashMap;

use protocol::{
    keys::Keys,
    name::{HostName, JobId},
    outcome::State,
    signed::Fields,
    statement::{OutcomeError, Report, Subject},
};
use redis::Cmd;

use super::{
    error::Error,
    events::{Damage, Event},
    fleet::{Fleet, RawHash, text_fields},
    jobs::RecentJob,
    witness::{Names, Notice, Strangers, Testimony},
};

/// The fields of a result that its state is in.
const FIELDS: [&str; 2] = ["statement", "signature"];

/// A field of a hash, if it is there.
type RawField = Option<Vec<u8>>;

/// That a command has ended, as Redis says.
struct Claim {
    job: JobId,
    names: Names,
    host: HostName,
    claimed: State,
}

impl Fleet {
    /// Makes of each result that is signed by its host what `read` does, in order.
    pub(super) fn believe<T>(
        &mut self,
        testimonies: Vec<Testimony<'_>>,
        strangers: Strangers,
        read: impl Fn(Report, &Subject<'_>) -> Result<T, OutcomeError>,
    ) -> Vec<Result<T, Damage>> {
        let namespace = self.namespace.as_ref();
        let said: Vec<_> = testimonies.iter().map(Testimony::said).collect();
        let verdicts = self.witness.judge(namespace, &said, strangers);
        let believed = testimonies.into_iter().zip(verdicts).map(|(testimony, verdict)| {
            verdict?;
            let Testimony { host, job, names: Names { manifest, unverified }, report } = testimony;
            let (manifest, unverified) = (Some(manifest), Some(unverified));
            Ok(read(report, &Subject { namespace, job, host, manifest, unverified })?)
        });
        believed.collect()
    }

    /// Replaces the ends that Redis names by those that the hosts have signed. Whoever can write to Redis decides which
    /// hosts these are: their keys are not recorded. What was verified for the same jobs before is not read again.
    pub(super) async fn verify_states(&mut self, jobs: &mut [RecentJob]) -> Result<(), Error> {
        let claims = self.claimed_ends(jobs).await?;
        let mut ends = std::mem::take(&mut self.ends);
        ends.retain(|id, _| jobs.iter().any(|job| job.id == *id));
        let is_new = |claim: &&Claim| ends.get(&claim.job).is_none_or(|hosts| !hosts.contains_key(&claim.host));
        let new: Vec<_> = claims.iter().filter(is_new).collect();
        let ask = |keys: &Keys, claim: &&Claim| [Cmd::hmget(keys.job_result(claim.job, &claim.host), &FIELDS)];
        let read = |_: &&Claim, (values,): (Vec<Option<Vec<u8>>>,), _| {
            let fields = FIELDS.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value?)));
            Report::take(fields.collect::<Fields>()).ok()
        };
        let reports = self.query_each(&new, ask, read).await?;
        let signed = new.into_iter().zip(reports).filter_map(|(claim, report)| {
            let Claim { job, host, names, .. } = claim;
            Some((claim, Testimony { host, job: *job, names: *names, report: report? }))
        });
        let (signed, testimonies): (Vec<_>, Vec<_>) = signed.unzip();
        let believed = self.believe(testimonies, Strangers::Overlook, |report, about| report.state(about));
        for (claim, state) in signed.into_iter().zip(believed) {
            if let Ok(state) = state {
                ends.entry(claim.job).or_default().insert(claim.host.clone(), state);
            }
        }

        let mut jobs: HashMap<JobId, &mut RecentJob> = jobs.iter_mut().map(|job| (job.id, job)).collect();
        for Claim { job, host, claimed, .. } in &claims {
            let Some(states) = jobs.get_mut(job).map(|job| &mut job.states) else { continue };
            if let Some(count) = states.remove(claimed).filter(|count| *count > 1) {
                states.insert(*claimed, count - 1);
            }
            let end = ends.get(job).and_then(|hosts| hosts.get(host)).copied();
            *states.entry(end.unwrap_or(State::Unverified)).or_default() += 1;
        }
        self.ends = ends;
        Ok(())
    }

    /// The ends that Redis names.
    async fn claimed_ends(&mut self, jobs: &[RecentJob]) -> Result<Vec<Claim>, Error> {
        let ended: Vec<_> = jobs.iter().filter(|job| job.states.keys().any(|state| state.is_terminal())).collect();
        let ask = |keys: &Keys, job: &&RecentJob| {
            let record = |field| Cmd::hget(keys.job(job.id), field);
            [record("manifest"), record("signature"), Cmd::hgetall(keys.job_hosts(job.id))]
        };
        let read = |job: &&RecentJob, (manifest, signature, states): (RawField, RawField, RawHash), _| {
            let (manifest, signature) = (manifest.unwrap_or_default(), signature.unwrap_or_default());
            let (job, names) = (job.id, Names::of(&manifest, &signature));
            let claim = |(host, state): (String, String)| {
                let claimed = state.parse().ok().filter(|state: &State| state.is_terminal())?;
                Some(Claim { job, names, host: host.parse().ok()?, claimed })
            };
            text_fields(states).into_iter().filter_map(claim).collect::<Vec<_>>()
        };
        Ok(self.query_each(&ended, ask, read).await?.into_iter().flatten().collect())
    }

    /// What has become known about keys of hosts since the last call: [`Event::NewHostKeys`] and
    /// [`Event::HostKeyChanged`]. A [`Follower`](super::Follower) delivers these events by itself.
    pub fn take_notices(&mut self) -> Vec<Event> {
        let event = |notice| match notice {
            Notice::New(keys) => Event::NewHostKeys(keys),
            Notice::Changed(key) => Event::HostKeyChanged(key),
        };
        std::mem::take(&mut self.witness.notices).into_iter().map(event).collect()
    }
}
