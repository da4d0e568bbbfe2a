//! What a host's control stream carries. It is read even when every slot is busy.

use redis::{Cmd, streams::StreamMaxlen};
use serde::{Deserialize, Serialize};

use crate::{
    command::{Addressed, EntryError, Envelope, Manifest},
    keys::Keys,
    limits,
    name::{HostName, JobId, Salt},
    secret::{Digest, digest},
    signed::{self, Document, Fields, Signed},
    targets::TargetRoot,
    time::Millis,
};

/// An order to end a job's command, or never to start it. Unknown fields are refused: a manifest, whose fields
/// include these, must not open as an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelOrder {
    /// The job.
    pub job: JobId,
    /// The hosts that the order is meant for.
    pub targets: TargetRoot,
    /// The operator: the principal whose key signed the order.
    pub operator: String,
    /// When the order was issued.
    pub issued_at_ms: Millis,
    /// When the job was issued.
    pub job_issued_at_ms: Millis,
    /// The job's salt.
    pub salt: Salt,
    /// Of the job's manifest: a host that has not read the command reports with it which job never starts.
    pub manifest: Digest,
}

impl CancelOrder {
    /// An order of `operator`, which cancels this job on these hosts.
    pub fn new(
        manifest: &Manifest,
        signed: &Signed<Manifest>,
        targets: TargetRoot,
        operator: String,
        now: Millis,
    ) -> Self {
        Self {
            job: manifest.job,
            targets,
            operator,
            issued_at_ms: now,
            job_issued_at_ms: manifest.issued_at_ms,
            salt: manifest.salt,
            manifest: digest(&signed.bytes),
        }
    }

    /// Whether the job is the operator's own: nobody else could have given it this id.
    pub fn is_by_owner(&self) -> bool {
        self.job == JobId::derive(&self.operator, self.job_issued_at_ms, &self.salt)
    }
}

impl Document for CancelOrder {
    const FIELD: &'static str = "order";
    const MAX_BYTES: usize = limits::ORDER_BYTES;
}

impl Addressed for CancelOrder {
    fn targets(&self) -> &TargetRoot {
        &self.targets
    }
}

/// An entry of a host's control stream.
#[derive(Clone, Debug)]
pub enum Control {
    /// From the worker to itself: a slot is free again, so the inbox is read too. Nothing else can wake the blocked
    /// reader, and a second connection per worker would cost Redis more.
    Wake,
    /// See [`CancelOrder`].
    Cancel(Envelope<CancelOrder>),
}

impl Control {
    /// The stream entry's fields and values.
    pub fn fields(&self) -> Vec<(&'static str, Vec<u8>)> {
        let (kind, rest) = match self {
            Self::Wake => ("wake", Vec::new()),
            Self::Cancel(order) => ("cancel", order.fields()),
        };
        [("kind", kind.into())].into_iter().chain(rest).collect()
    }

    /// Adds the entry to a host's control stream.
    pub fn write(&self, keys: &Keys, host: &HostName) -> Cmd {
        Cmd::xadd_maxlen(keys.control(host), StreamMaxlen::Approx(limits::CONTROL_ENTRIES), "*", &self.fields())
    }

    /// Reads a stream entry.
    ///
    /// # Errors
    /// It is malformed, or of a kind or version that this program does not know.
    pub fn from_fields(mut fields: Fields) -> Result<Self, EntryError> {
        match signed::take(&mut fields, "kind", 16)?.as_slice() {
            b"wake" => Ok(Self::Wake),
            b"cancel" => Envelope::take(&mut fields).map(Self::Cancel),
            _ => Err(EntryError::Kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::Targets;

    fn order(targets: &Targets) -> CancelOrder {
        let (job_issued_at_ms, salt) = (1_790_000_000_000, Salt::new([7; 16]));
        CancelOrder {
            job: JobId::derive("ann@desk", job_issued_at_ms, &salt),
            targets: targets.root(),
            operator: "ann@desk".into(),
            issued_at_ms: 1_790_000_060_000,
            job_issued_at_ms,
            salt,
            manifest: digest(b"manifest"),
        }
    }

    #[test]
    fn only_its_operator_owns_a_job() {
        let order = order(&Targets::new(["web1".parse().unwrap()]));
        assert!(order.is_by_owner());
        assert!(!CancelOrder { operator: "mallory".into(), ..order.clone() }.is_by_owner());
        assert!(!CancelOrder { salt: JobId::salt(), ..order }.is_by_owner());
    }

    #[test]
    fn an_order_is_for_its_hosts_only() {
        let targets = Targets::new(["web1".parse().unwrap()]);
        let (_, proof) = targets.proofs().next().unwrap();
        let order = order(&targets);
        let envelope = Envelope { signed: Signed::unsigned(&order), proof };
        let fields = Control::Cancel(envelope).fields();
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let Control::Cancel(read) = Control::from_fields(fields).unwrap() else { panic!() };
        let [web1, web2] = ["web1", "web2"].map(|name| name.parse::<HostName>().unwrap());
        assert_eq!(read.open(&web1).unwrap(), order);
        assert!(matches!(read.open(&web2), Err(EntryError::NotForThisHost)));
    }

    /// The bytes of wire version 1, frozen: every later version must read them.
    #[test]
    fn wire_1_fixture_is_read() {
        let order = order(&Targets::new(["web1".parse().unwrap()]));
        let bytes = include_bytes!("../fixtures/order-v1.msgpack").to_vec();
        assert_eq!(bytes, Signed::unsigned(&order).bytes);
        assert_eq!(Signed::<CancelOrder>::of_bytes(bytes, Vec::new()).open().unwrap(), order);
    }

    #[test]
    fn strange_entries_are_refused() {
        let entry = |kind: &str| Control::from_fields(Fields::from([("kind".to_owned(), kind.into())]));
        assert!(matches!(entry("wake"), Ok(Control::Wake)));
        assert_eq!(entry("dance").unwrap_err().reason(), "malformed");
        assert_eq!(entry("cancel").unwrap_err().reason(), "malformed");
        assert_eq!(Control::from_fields(Fields::new()).unwrap_err().reason(), "malformed");
    }
}
