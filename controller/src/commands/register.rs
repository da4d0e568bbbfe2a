//! Whether those whose names stand beside signatures have made them: by the operator's copy of the fleet's trust file.

use protocol::{
    time::Millis,
    trust::sshsig::{self, Signature},
};

use crate::{
    cli::{fleet_trust::FleetTrust, settings::Settings},
    client::Job,
    output::{Printer, style},
};

/// What stands behind a name that nobody vouches for.
const MARK: &str = " (not verified)";

/// Whose keys are whose.
pub struct Register {
    trust: Option<FleetTrust>,
    /// The moment that counts, in Unix seconds.
    at: u64,
}

/// A name beside a signature.
pub struct Signed {
    name: String,
    /// Why it may be wrong.
    doubt: Option<String>,
}

impl Register {
    /// Reads the copy. Without one no name is verified. `at`: when the keys must be valid.
    pub fn read(settings: &Settings, at: Millis, printer: &Printer) -> Self {
        let read = if settings.fleet.is_some() { FleetTrust::read(settings) } else { Ok(None) };
        let trust = read.unwrap_or_else(|error| {
            printer.warn(&format!("names are not verified: {error:#}"));
            None
        });
        Self { trust, at: at / 1000 }
    }

    /// Who asks for the job.
    pub fn operator(&self, job: &Job) -> Signed {
        let name = &job.manifest().operator;
        match job.standing() {
            None => self.judge_job(job, name, &job.signed().signature),
            Some(Ok(standing)) => {
                let order = standing.signed();
                self.judge(name, sshsig::STANDING, (&order.bytes, &order.signature))
            }
            Some(Err(unfounded)) => Signed { name: name.clone(), doubt: Some(unfounded.to_string()) },
        }
    }

    /// Those who have approved it.
    pub fn approvers(&self, job: &Job) -> Vec<Signed> {
        job.approvals().0.iter().map(|approval| self.judge_job(job, &approval.principal, &approval.signature)).collect()
    }

    fn judge_job(&self, job: &Job, name: &str, signature: &[u8]) -> Signed {
        self.judge(name, sshsig::JOB, (&job.signed().bytes, signature))
    }

    /// Whether the signature over these bytes, made for this purpose, is that of the principal.
    pub fn judge(&self, name: &str, namespace: &str, (bytes, signature): (&[u8], &[u8])) -> Signed {
        let doubt = match &self.trust {
            None => Some("there is no copy of the fleet's trust file here (ctl key list)".to_owned()),
            Some(own) => Signature::from_bytes(signature)
                .map_err(|error| error.to_string())
                .and_then(|signature| {
                    let verified = own.trust.verify(namespace, name, bytes, &signature, self.at);
                    verified.map_err(|error| error.to_string())
                })
                .err(),
        };
        Signed { name: name.to_owned(), doubt }
    }
}

impl Signed {
    /// The name as it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the signature is known to be theirs.
    pub const fn is_verified(&self) -> bool {
        self.doubt.is_none()
    }

    /// The name, fit for a line, with a mark where nobody vouches for it.
    pub fn shown(&self) -> String {
        style::plain(&self.name) + if self.is_verified() { "" } else { MARK }
    }

    /// Why nobody vouches for it.
    pub fn remark(&self) -> Option<String> {
        Some(format!("{}{MARK}: {}", style::plain(&self.name), style::plain(self.doubt.as_ref()?)))
    }
}
