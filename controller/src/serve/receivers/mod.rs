//! Where notifications go: each receiver is a section `[[receivers]]` of the settings, with a name that rules refer to.
//!
//! A receiver may get a notification twice, where `ctl serve` ends between delivery and its record. It recognises the second by the
//! notification's id, which is in every form of the message.

mod action;
mod alertmanager;
mod command;
mod message;
mod smtp;
mod webhook;

use std::{collections::BTreeMap, fmt};

use anyhow::{Context, bail};
use protocol::{connection::Address, name::Namespace};
use serde::Deserialize;

use super::web::Endpoint;
pub use super::web::Failure;
use crate::{client::alerts::Notification, output::style};

/// The most receivers.
const MOST: usize = 100;

/// A receiver as it stands in the settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Setting {
    /// A web address.
    Webhook(webhook::Setting),
    /// Mail.
    Smtp(smtp::Setting),
    /// A program on this machine.
    Command(command::Setting),
    /// Prometheus' Alertmanager.
    Alertmanager(alertmanager::Setting),
    /// An action on the hosts, by a standing order.
    Action(action::Setting),
}

#[derive(Clone, Debug)]
enum Receiver {
    Webhook(Endpoint),
    Smtp(Box<smtp::Smtp>),
    Command(command::Command),
    Alertmanager(alertmanager::Alertmanager),
    Action(action::Action),
}

/// The receivers that there are, by their names.
#[derive(Clone, Debug, Default)]
pub struct Receivers(BTreeMap<String, Receiver>);

impl Receivers {
    /// Judges the settings. Their files are looked at.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn of(settings: Vec<Setting>) -> anyhow::Result<Self> {
        if settings.len() > MOST {
            bail!("{} receivers: {MOST} are the most", settings.len());
        }
        let mut receivers = BTreeMap::new();
        for setting in settings {
            let name = setting.name().to_owned();
            if name.is_empty() || name.len() > 64 || name.contains(char::is_control) {
                bail!("receivers: '{}' is no name: 1 to 64 characters", style::plain(&name));
            }
            let receiver = Receiver::of(setting).with_context(|| format!("receiver '{name}'"))?;
            if receivers.insert(name.clone(), receiver).is_some() {
                bail!("receivers: two are called '{name}'");
            }
        }
        Ok(Self(receivers))
    }

    /// Those that act on hosts find them in this fleet.
    #[must_use]
    pub fn acting_in(mut self, address: &Address, namespace: Option<&Namespace>) -> Self {
        for receiver in self.0.values_mut() {
            if let Receiver::Action(action) = receiver {
                action.fleet = Some((address.clone(), namespace.cloned()));
            }
        }
        self
    }

    /// Their names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What each is, without secrets: name and `webhook https://example.com`.
    pub fn shown(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.iter().map(|(name, receiver)| (name.as_str(), receiver.to_string()))
    }

    /// Sends a notification to its receiver. It takes at most as long as that receiver may: 30 s, or a command's `timeout`.
    ///
    /// # Errors
    /// It was not delivered.
    pub async fn send(&self, notification: &Notification) -> Result<(), Failure> {
        let name = &notification.receiver;
        match self.0.get(name) {
            Some(Receiver::Webhook(endpoint)) => webhook::send(endpoint, notification).await,
            Some(Receiver::Smtp(smtp)) => smtp.send(notification).await,
            Some(Receiver::Command(command)) => command.send(notification).await,
            Some(Receiver::Alertmanager(alertmanager)) => alertmanager.send(notification).await,
            Some(Receiver::Action(action)) => action.send(notification).await,
            None => Err(Failure::lasting(format!("the settings have no receiver '{name}' ([[receivers]])"))),
        }
    }
}

impl Setting {
    fn name(&self) -> &str {
        match self {
            Self::Webhook(setting) => &setting.name,
            Self::Smtp(setting) => &setting.name,
            Self::Command(setting) => &setting.name,
            Self::Alertmanager(setting) => &setting.name,
            Self::Action(setting) => &setting.name,
        }
    }
}

impl Receiver {
    fn of(setting: Setting) -> anyhow::Result<Self> {
        Ok(match setting {
            Setting::Webhook(setting) => Self::Webhook(setting.judge()?),
            Setting::Smtp(setting) => Self::Smtp(Box::new(setting.judge()?)),
            Setting::Command(setting) => Self::Command(setting.judge()?),
            Setting::Alertmanager(setting) => Self::Alertmanager(setting.judge()?),
            Setting::Action(setting) => Self::Action(setting.judge()),
        })
    }
}

impl fmt::Display for Receiver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Webhook(endpoint) => write!(formatter, "webhook {}", endpoint.origin()),
            Self::Smtp(smtp) => write!(formatter, "smtp {}", smtp.shown()),
            Self::Command(command) => write!(formatter, "command {}", command.shown()),
            Self::Alertmanager(alertmanager) => write!(formatter, "alertmanager {}", alertmanager.endpoint.origin()),
            Self::Action(action) => write!(formatter, "action of the schedule {}", action.schedule),
        }
    }
}

#[cfg(test)]
mod tests;
