//! Prometheus' Alertmanager: it is told the alerts, and decides itself whom it tells.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use protocol::{
    clock::millis,
    time::{Millis, show_moment},
};
use serde::{Deserialize, Serialize};

use super::message;
use crate::{
    client::alerts::{Alert, Notification, Phase},
    serve::{
        secret_file::SecretFile,
        span::duration,
        web::{Endpoint, Failure, Setting as Web},
    },
};

/// Where alerts are told, below the address.
const PATH: &str = "api/v2/alerts";

/// So long an alert goes on for Alertmanager if nothing more is heard of it. It must be longer than the time after which
/// notifications are repeated.
const HOLD: Duration = Duration::from_secs(24 * 3600);
const HOLD_MIN: Duration = Duration::from_secs(60);
const HOLD_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Its settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// What rules call it.
    pub name: String,
    url: Option<String>,
    url_file: Option<SecretFile>,
    bearer_token_file: Option<SecretFile>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    ca: Option<PathBuf>,
    hold: Option<String>,
    link: Option<String>,
}

/// An Alertmanager.
#[derive(Clone, Debug)]
pub struct Alertmanager {
    /// Where it is.
    pub endpoint: Endpoint,
    hold: Duration,
    link: Option<String>,
}

/// An alert as Alertmanager reads it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<&'static str, &'a str>,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL", skip_serializing_if = "Option::is_none")]
    link: Option<&'a str>,
}

impl Setting {
    /// Judges the settings.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn judge(self) -> anyhow::Result<Alertmanager> {
        let Self { url, url_file, bearer_token_file, headers, ca, hold, link, .. } = self;
        let hold = duration("hold", hold.as_deref(), HOLD, HOLD_MIN..=HOLD_MAX)?;
        let endpoint = Endpoint::new(Web { url, url_file, bearer_token_file, headers, ca })?.below(PATH);
        Ok(Alertmanager { endpoint, hold, link })
    }
}

impl Alertmanager {
    /// Sends it.
    ///
    /// # Errors
    /// It was not delivered.
    pub async fn send(&self, notification: &Notification) -> Result<(), Failure> {
        let told: Vec<_> = notification.alerts.iter().map(|alert| self.told(alert, notification.at_ms)).collect();
        let document = serde_json::to_vec(&told).unwrap_or_default();
        self.endpoint.post(&message::id(notification), document).await
    }

    fn told<'a>(&'a self, alert: &'a Alert, now: Millis) -> Told<'a> {
        let mut labels: BTreeMap<String, String> =
            alert.labels.iter().map(|(name, value)| (label(name), value.clone())).collect();
        // What tells alerts apart is not left to a rule's labels.
        labels.insert("alertname".into(), alert.rule.clone());
        labels.insert("severity".into(), message::severity(alert.severity).into());
        if let Some(host) = &alert.host {
            labels.insert("instance".into(), host.to_string());
        }
        // An empty label is none, and Alertmanager takes no alert with one.
        labels.retain(|name, value| !name.is_empty() && !value.is_empty());
        let mut annotations = BTreeMap::from([("summary", alert.text.as_str()), ("description", alert.found.as_str())]);
        annotations.retain(|_, text| !text.is_empty());
        let until_ms = match alert.phase {
            Phase::Firing => now.saturating_add(millis(self.hold)),
            Phase::Resolved => alert.ends_ms.unwrap_or(now),
        };
        let link = self.link.as_deref();
        Told { labels, annotations, starts_at: show_moment(alert.begins_ms), ends_at: show_moment(until_ms), link }
    }
}

/// A name that all releases of Alertmanager take for a label: `disk.free` is `disk_free`.
fn label(name: &str) -> String {
    let safe = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
    let name: String = name.chars().map(safe).collect();
    if name.starts_with(|letter: char| letter.is_ascii_digit()) { format!("_{name}") } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_becomes_one_of_a_label() {
        let names = ["role", "disk.free", "9lives", "a\r\nb", "größe"].map(label);
        assert_eq!(names, ["role", "disk_free", "_9lives", "a__b", "gr__e"]);
    }
}
