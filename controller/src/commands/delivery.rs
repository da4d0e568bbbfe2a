//! Jobs whose hosts fetch content: it is put into Redis before the first one is sent, and taken back once nobody needs it.

use std::time::Duration;

use protocol::{outcome::State, targets::Targets};

use super::{
    content::{self, Content},
    last,
    rolling::{Ran, Rolling, roll},
    watch::{self, Live},
};
use crate::{
    cli::settings::Settings,
    client::{Fleet, Host, HostResult, Request, Signer, Understood, Upload},
    output::{Printer, events, moments},
};

/// Content that is within the reach of hosts while jobs need it.
pub struct Delivery {
    upload: Option<Upload>,
    /// A host may still fetch it.
    open: bool,
}

impl Delivery {
    /// Puts content into Redis, for jobs that are sent now and have this timeout. `None`: their hosts need nothing.
    ///
    /// # Errors
    /// It cannot be sent. Nothing of it is left then.
    pub async fn begin(
        content: Option<&mut Content>,
        timeout: Duration,
        fleet: &mut Fleet,
        settings: &Settings,
        printer: &Printer,
    ) -> anyhow::Result<Self> {
        let upload = match content {
            Some(content) => Some(content.upload(settings.start_by, timeout, fleet, printer).await?),
            None => None,
        };
        Ok(Self { upload, open: false })
    }

    /// Sends a job, and prints its results as they come. Returns its state on each host.
    ///
    /// # Errors
    /// It cannot be sent. The content is taken back then, unless a host may need it.
    pub async fn send(
        &mut self,
        request: Request,
        signer: &Signer,
        live: Live,
        fleet: &mut Fleet,
        printer: &Printer,
    ) -> anyhow::Result<Vec<State>> {
        let sent = fleet.dispatch(request, signer, &mut |event| events::note_dispatch(&event, printer)).await;
        let job = match sent.map_err(anyhow::Error::from) {
            Ok(job) => job,
            Err(error) => {
                if let Some(upload) = self.upload.as_ref().filter(|_| !self.open && last::is_unsent(&error)) {
                    content::release(upload, fleet, printer).await;
                }
                return Err(error);
            }
        };
        // To send the content may have taken long: who is online now?
        let names: Vec<_> = job.targets().hosts().cloned().collect();
        let hosts = fleet.hosts(&names).await?;
        let mut follower = watch::follower(&job, &hosts, false, fleet.now(), printer);
        watch::watch(fleet, &job, &mut follower, printer, live).await?;
        if follower.results().any(|result| !has_ended(result)) && self.upload.is_some() {
            self.open = true;
            let until = moments::local(job.manifest().start_by_ms, fleet.now());
            printer.note(&format!(
                "the content stays in Redis for the hosts that have not ended; they may begin until {until}"
            ));
        }
        Ok(follower.results().map(|result| result.state).collect())
    }

    /// Sends a request in waves, and prints their results.
    ///
    /// # Errors
    /// Nothing was sent. The content is taken back then.
    pub async fn roll(
        &mut self,
        rolling: &Rolling<'_>,
        fleet: &mut Fleet,
        settings: &Settings,
        printer: &Printer,
    ) -> anyhow::Result<Ran> {
        let ran = roll(rolling, fleet, settings, printer).await;
        match &ran {
            Ok(ran) => self.open |= ran.is_open,
            Err(_) => {
                if let Some(upload) = self.upload.as_ref().filter(|_| !self.open) {
                    content::release(upload, fleet, printer).await;
                }
            }
        }
        ran
    }

    /// Takes the content back, unless a host may still fetch it. Then it expires.
    pub async fn end(self, fleet: &mut Fleet, printer: &Printer) {
        if let Some(upload) = self.upload.filter(|_| !self.open) {
            content::release(&upload, fleet, printer).await;
        }
    }
}

/// Whether the host needs the content no more.
fn has_ended(result: &HostResult) -> bool {
    result.has_ended() || result.state == State::Expired
}

/// A request with the operator's usual settings.
pub fn request(action: &str, known: Understood, timeout: Duration, hosts: &[Host], settings: &Settings) -> Request {
    Request {
        action: action.into(),
        arguments: known.arguments,
        secrets: known.secrets,
        targets: Targets::new(hosts.iter().map(|host| host.name.clone())),
        timeout,
        start_by: settings.start_by,
        retention: settings.retention,
        keep_output: None,
        operator: settings.operator.clone(),
        trace: settings.trace.clone(),
    }
}
