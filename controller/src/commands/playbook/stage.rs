//! Where the steps of a playbook are carried out: the fleet, and who asks it.

use std::{thread, time::Duration};

use anyhow::ensure;
use protocol::name::{HostName, JobId};
use tokio::{signal::unix::Signal, sync::oneshot};

use super::{
    super::{
        delivery::{Delivery, request},
        deploy::source::Offer,
        proposal,
        resume::is_driven,
        rolling::{End, Ran, Rolling, foretell, longest},
        secrets,
        selected::agreed,
        watch::Live,
    },
    file::{Call, Step},
    values::Results,
};
use crate::{
    cli::{deploys::Source, settings::Settings, waves::Waves},
    client::{Chain, Fleet, Host, Origin, Outlook, Request, Rollout, Run, Signer, Standings, Understood, understand},
    output::{Advice, Printer, events, style},
};

/// What every step needs.
pub struct Stage<'a> {
    /// The fleet.
    pub fleet: &'a mut Fleet,
    /// Signs all that is sent.
    pub signer: &'a Signer,
    /// Of the operator.
    pub settings: &'a Settings,
    /// Prints what happens.
    pub printer: &'a Printer,
    /// Ctrl-C.
    pub interrupt: Signal,
    /// Nothing is asked.
    pub is_sure: bool,
}

impl Stage<'_> {
    /// A request to do this on hosts, and what is sent to them with it.
    async fn request(
        &mut self,
        call: &Call,
        names: &[HostName],
        timeout: Option<Duration>,
        results: &Results,
    ) -> anyhow::Result<(Request, Option<Offer>)> {
        let mut words = call.words.iter().map(|word| results.fill_argument(word)).collect::<Result<Vec<_>, _>>()?;
        let offer = call.from.clone().map(|from| Offer::of(&Source::Here(from), None, None)).transpose()?;
        words.extend(offer.iter().flat_map(Offer::arguments));
        let found: Vec<Host> = self.fleet.hosts(names).await?.into_iter().filter(Host::is_known).collect();
        let understood = understand(&found, &call.action, &words, &[])?;
        proposal::refuse_alone(&call.action, understood.approvals)?;
        let timeout = timeout.or(self.settings.timeout).unwrap_or(understood.timeout);
        let known = Understood { secrets: secrets::read(understood.secrets)?, ..understood };
        let request = request(&call.action, known, timeout, &found, self.settings);
        Ok((request.to(names.iter().cloned()), offer))
    }

    /// Checks that a step that was begun before is still the same.
    ///
    /// # Errors
    /// Its action or its arguments are others now.
    pub async fn check_same(
        &mut self,
        step: &Step,
        call: &Call,
        begun: &Rollout,
        results: &Results,
    ) -> anyhow::Result<()> {
        let names: Vec<HostName> = begun.targets().hosts().cloned().collect();
        let (request, _) = self.request(call, &names, step.timeout, results).await?;
        let plan = begun.plan();
        let is_same = plan.action == request.action
            && plan.arguments == request.arguments
            && plan.secrets.iter().eq(request.secrets.keys());
        ensure!(
            is_same,
            Advice::new(format!("step {} was begun with another action or other arguments than it has now", step.name))
                .hint("restore the file and its values, or begin another run: without --resume")
        );
        Ok(())
    }

    /// Runs an action on these hosts in waves.
    pub async fn run(
        &mut self,
        call: &Call,
        names: &[HostName],
        waves: &Waves,
        timeout: Option<Duration>,
        origin: Origin,
        results: &Results,
    ) -> anyhow::Result<Ran> {
        let (request, mut offer) = self.request(call, names, timeout, results).await?;
        let is_rolling = waves.is_rolling();
        let waves = waves.of(names.len());
        let outlook = Outlook::of(names.len(), &waves);
        if is_rolling {
            self.printer.note(&foretell(&outlook, &waves));
        }
        let content = offer.as_mut().and_then(Offer::content);
        let longest = longest(&outlook, &waves, request.timeout);
        let mut delivery = Delivery::begin(content, longest, self.fleet, self.settings, self.printer).await?;
        // From here on the run itself listens.
        if self.is_interrupted().await {
            delivery.end(self.fleet, self.printer).await;
            return Ok(Ran { results: Vec::new(), offline: Vec::new(), end: End::Broken, is_open: false });
        }
        let rolling = Rolling {
            request: &request,
            waves: &waves,
            origin,
            live: Live::Results,
            is_part: true,
            signer: self.signer,
        };
        let ran = delivery.roll(&rolling, self.fleet, self.settings, self.printer).await?;
        delivery.end(self.fleet, self.printer).await;
        Ok(ran)
    }

    /// Runs an action that undoes a step: on each host, whatever happens on others.
    pub async fn undo(
        &mut self,
        call: &Call,
        names: &[HostName],
        timeout: Option<Duration>,
        origin: Origin,
        results: &Results,
    ) -> anyhow::Result<Ran> {
        let waves = Waves { max_fail: "100%".parse().ok(), ..Waves::default() };
        self.run(call, names, &waves, timeout, origin, results).await
    }

    /// A step that was begun before, with all runs that have gone on with it.
    ///
    /// # Errors
    /// Another key has signed one of them, or a living `ctl` drives the newest; unless nothing is to be asked.
    pub async fn chain(&mut self, step: &str, rollout: &Rollout) -> anyhow::Result<Chain> {
        let chain = self.fleet.chain(Run::Rollout(Box::new(rollout.clone()))).await?;
        if self.is_sure {
            return Ok(chain);
        }
        if let Some(run) = chain.runs().iter().find(|run| !run.is_signed_by(self.signer)) {
            let by = style::plain(&run.request().operator);
            let other = Advice::new(format!("step {step} was begun by {by}, with another key than yours"));
            return Err(other.hint("to go on in your name: --yes").into());
        }
        if is_driven(chain.newest(), self.fleet.now()) {
            let alive = Advice::new(format!("a ctl has driven step {step} within the last seconds"));
            return Err(alive.hint("to take it over from there: --yes").into());
        }
        Ok(chain)
    }

    /// How a step stands that was begun before, and the newest of the runs that have gone on with it; none where Ctrl-C was
    /// pressed meanwhile.
    ///
    /// # Errors
    /// As of [`Self::chain`].
    pub async fn look_back(&mut self, step: &str, rollout: &Rollout) -> anyhow::Result<Option<(JobId, Standings)>> {
        let mut chain = self.chain(step, rollout).await?;
        if let Run::Rollout(newest) = chain.newest() {
            let closed = self.fleet.close_rollout(newest, &self.settings.operator).await?;
            chain.renew(closed);
        }
        let printer = self.printer;
        let report = |job: &_, event, fleet: &Fleet| events::note(&event, job, fleet.now(), printer);
        tokio::select! {
            biased;
            Some(()) = self.interrupt.recv() => Ok(None),
            standings = self.fleet.standings(&chain, report) => Ok(Some((chain.newest().id(), standings?))),
        }
    }

    /// Asks at the terminal, where there is one, and waits for the answer or Ctrl-C.
    ///
    /// # Errors
    /// The reply was no.
    pub async fn confirm(&mut self, question: String) -> anyhow::Result<()> {
        let (answer, answered) = oneshot::channel();
        // A thread of its own, which nobody waits for: it reads until a line is typed.
        thread::spawn(move || answer.send(Printer::confirm(&question)));
        tokio::select! {
            biased;
            Some(()) = self.interrupt.recv() => agreed(Some(false)),
            answer = answered => agreed(answer?),
        }
    }

    /// Whether Ctrl-C was pressed meanwhile.
    pub async fn is_interrupted(&mut self) -> bool {
        tokio::select! {
            biased;
            Some(()) = self.interrupt.recv() => true,
            () = std::future::ready(()) => false,
        }
    }
}
