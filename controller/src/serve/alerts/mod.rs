//! The services of alerts: one evaluates the rules, the other delivers what there is to tell.
//!
//! Any number of instances may run. One evaluates at a time, and what it writes counts only if nobody else has written since.
//! A notification is taken by one instance for a minute; if it dies, another one takes it.

pub mod settings;

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use tokio::{sync::Notify, task::JoinSet, time::timeout};

pub use self::settings::{Section, Settings};
use super::{Life, counters::Counters, receivers::Receivers};
use crate::{
    client::{
        Error, Fleet,
        alerts::{Attempt, Evaluated, Fate, Notification, Taken},
    },
    output::style,
};

/// How long one attempt may take: shorter than a notification belongs to its instance.
const ATTEMPT: Duration = Duration::from_secs(50);
/// Attempts for one receiver at a time.
const AT_ONCE: usize = 4;
/// Between two looks into the outbox.
const LOOK: Duration = Duration::from_secs(1);

/// Whether somebody was told; else why not, and whether another attempt may succeed.
pub type Told = Result<(), (String, bool)>;

/// Whoever can be told.
pub trait Receive: Send + Sync + 'static {
    /// The names of those that it knows.
    fn names(&self) -> Vec<String>;

    /// Tells the one that the notification is for. An error says why not, and whether it is worth another attempt.
    fn tell(&self, notification: &Notification) -> impl Future<Output = Told> + Send;
}

impl Receive for Receivers {
    fn names(&self) -> Vec<String> {
        Self::names(self).map(str::to_owned).collect()
    }

    async fn tell(&self, notification: &Notification) -> Told {
        self.send(notification).await.map_err(|failure| (failure.reason, failure.again))
    }
}

/// What the services say.
#[derive(Clone, Debug)]
pub enum Said {
    /// What has happened.
    Note(String),
    /// What somebody should look into.
    Trouble(String),
}

/// What both services share.
#[derive(Clone)]
pub struct Desk {
    /// What other instances know this one by.
    pub name: String,
    /// Wakes whoever delivers.
    pub wake: Arc<Notify>,
    /// What is counted for the exporter.
    pub counters: Arc<Counters>,
    /// What they say.
    pub say: Arc<dyn Fn(Said) + Send + Sync>,
}

impl Desk {
    /// Nobody listens any more only where all ends.
    fn note(&self, text: String) {
        (self.say)(Said::Note(text));
    }

    fn trouble(&self, text: String) {
        (self.say)(Said::Trouble(text));
    }

    /// Says once that Redis is away, and once that it is back.
    async fn hear<T>(&self, result: Result<T, Error>, is_away: &mut bool, fleet: &mut Fleet) -> Option<T> {
        match result {
            Ok(value) => {
                *is_away = false;
                Some(value)
            }
            Err(error) => {
                if !std::mem::replace(is_away, true) {
                    self.trouble(format!("alerts: it is tried again: {}", style::plain(&error.to_string())));
                }
                // Where there is no connection, the next attempt fails with the dead one.
                let _ = fleet.reconnect().await;
                None
            }
        }
    }
}

/// Evaluates the rules again and again. `receivers`: those that get the alerts of rules that name none; `known`: those that
/// this instance knows.
///
/// # Errors
/// None: it is tried again until it is told to stop.
pub async fn evaluate(
    life: Life,
    mut fleet: Fleet,
    settings: Settings,
    receivers: Vec<String>,
    known: Vec<String>,
    desk: Desk,
) -> anyhow::Result<()> {
    let (mut is_away, mut is_published) = (false, false);
    let (mut firing, mut doubts) = (0, Vec::new());
    while !life.is_stopped() {
        let round = async {
            if !is_published {
                fleet.publish_rules(&settings.rules).await?;
                is_published = true;
            }
            fleet.evaluate_alerts(&desk.name, &receivers, &settings.rules, settings.interval).await
        };
        let round = round.await;
        if let Some(evaluated) = desk.hear(round, &mut is_away, &mut fleet).await {
            life.worked();
            if let Some(mut evaluated) = evaluated {
                let unknown = evaluated.named.iter().filter(|(receiver, _)| !known.contains(receiver));
                let doubt = |(receiver, rule)| {
                    format!(
                        "rule {rule}: this instance knows no receiver '{receiver}': write [[receivers]] of that name"
                    )
                };
                evaluated.doubts.extend(unknown.map(doubt));
                say(&evaluated, &mut firing, &mut doubts, &desk);
            }
        }
        tokio::select! {
            () = life.stopped() => {}
            () = tokio::time::sleep(settings.interval) => {}
        }
    }
    Ok(())
}

fn say(evaluated: &Evaluated, firing: &mut usize, doubts: &mut Vec<String>, desk: &Desk) {
    desk.counters.set_alerts([("firing", evaluated.firing), ("pending", evaluated.pending)]);
    if !evaluated.notifications.is_empty() {
        desk.wake.notify_one();
    }
    if evaluated.firing != *firing {
        *firing = evaluated.firing;
        let alerts = if *firing == 1 { "1 alert fires".to_owned() } else { format!("{firing} alerts fire") };
        desk.note(format!("alerts: {alerts}, {} pending", evaluated.pending));
    }
    for doubt in evaluated.doubts.iter().filter(|doubt| !doubts.contains(doubt)) {
        desk.trouble(format!("alerts: {}", style::plain(doubt)));
    }
    doubts.clone_from(&evaluated.doubts);
}

/// Delivers what there is to tell.
///
/// # Errors
/// None: it is tried again until it is told to stop.
pub async fn deliver<R: Receive>(life: Life, mut fleet: Fleet, receivers: Arc<R>, desk: Desk) -> anyhow::Result<()> {
    let mut is_away = false;
    let mut attempts: JoinSet<(Taken, Told)> = JoinSet::new();
    let mut busy: HashMap<String, usize> = HashMap::new();
    loop {
        if !life.is_stopped() {
            let mut free = receivers.names();
            free.retain(|name| busy.get(name).copied().unwrap_or(0) < AT_ONCE);
            let taken = fleet.take_notifications(&desk.name, &free, AT_ONCE).await;
            if let Some(taken) = desk.hear(taken, &mut is_away, &mut fleet).await {
                life.worked();
                for taken in taken {
                    *busy.entry(taken.notification.receiver.clone()).or_default() += 1;
                    let receivers = Arc::clone(&receivers);
                    attempts.spawn(async move {
                        let told = timeout(ATTEMPT, receivers.tell(&taken.notification)).await;
                        let told = told.unwrap_or_else(|_| Err(("it did not answer in time".into(), true)));
                        (taken, told)
                    });
                }
            }
        } else if attempts.is_empty() {
            return Ok(());
        }
        tokio::select! {
            Some(ended) = attempts.join_next() => {
                // One that has broken down is tried again when it belongs to nobody any more.
                let Ok((taken, told)) = ended else {
                    busy.clear();
                    continue;
                };
                let receiver = taken.notification.receiver.clone();
                if let Some(count) = busy.get_mut(&receiver) {
                    *count = count.saturating_sub(1);
                }
                end(&mut fleet, &desk, &mut is_away, taken, told).await;
            }
            () = desk.wake.notified() => {}
            () = life.stopped(), if !life.is_stopped() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Writes down how an attempt has ended.
async fn end(fleet: &mut Fleet, desk: &Desk, is_away: &mut bool, taken: Taken, told: Told) {
    let (receiver, short) = (taken.notification.receiver.clone(), style::plain(&taken.notification.in_short()));
    let failed = told.err();
    let problem = failed.as_ref().map(|(problem, _)| style::plain(problem)).unwrap_or_default();
    let ended = fleet.end_attempt(taken, failed).await;
    match desk.hear(ended, is_away, fleet).await {
        Some(Attempt::Ended(Fate::Delivered)) => desk.note(format!("{receiver}: told: {short}")),
        Some(Attempt::Ended(Fate::GivenUp)) => desk.trouble(format!("{receiver}: given up: {problem}: {short}")),
        Some(Attempt::Again) => desk.trouble(format!("{receiver}: tried again later: {problem}")),
        // Another instance goes on with it: now, or when it belongs to nobody any more.
        Some(Attempt::Lost) | None => {}
    }
}
