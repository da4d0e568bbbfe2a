//! `set-trust`: replaces the files that say whom this host trusts.

use protocol::{
    action::{ActionSpec, Argument, Kind, Parameter, Repeat},
    trust::{revocation, sshsig::Signer},
};
use serde::Deserialize;
use serde_json::json;

use super::{Action, Context, Failure, Output};
use crate::trust::{Change, InForce};

pub(super) struct SetTrust;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    signers: String,
    revoked: Option<String>,
    #[serde(default)]
    force: bool,
}

/// Why nothing was looked at.
#[derive(Debug, thiserror::Error)]
#[error("nobody's key was verified for this command")]
struct Nobody;

impl Action for SetTrust {
    type Arguments = Arguments;

    fn spec(&self) -> ActionSpec {
        let signers = "the whole new file, as OpenSSH's allowed_signers, with a higher '# version: N'";
        let revoked =
            "the whole new list of revoked keys: lines of public keys, or what ssh-keygen -k writes in base64";
        let force = "take it even if it locks out whoever sends it";
        let parameters = vec![
            Parameter { required: true, ..Parameter::optional("signers", Kind::Text, signers) },
            Parameter::optional("revoked", Kind::Text, revoked),
            Parameter { default: Some(Argument::Boolean(false)), ..Parameter::optional("force", Kind::Boolean, force) },
        ];
        let summary = "Replace the file that says whom this host trusts (ctl key trust, ctl key revoke)";
        ActionSpec { repeat: Repeat::Once, parameters, ..ActionSpec::repeatable("set-trust", summary) }
    }

    fn exclusion(&self, _: &Arguments) -> Option<String> {
        Some("the trust files".to_owned())
    }

    async fn run(&self, arguments: Arguments, context: Context) -> Result<Output, Failure> {
        let Arguments { signers, revoked, force } = arguments;
        let revoked = revoked.map(|list| revocation::from_text(&list));
        let signer = Signer::from_bytes(&context.requester.signer).map_err(|_| Nobody)?;
        let change = Change { signers, revoked, principal: context.requester.principal.clone(), signer, force };
        let InForce { version, lines, digest } = context.services.trust.make(change).await?;
        let data = [("version", json!(version)), ("lines", json!(lines)), ("digest", json!(digest))];
        Ok(Output::of(data.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()))
    }
}
