//! What receivers are sent, as JSON and as text. What a host says of itself is in it, so nothing of it is trusted.

use std::fmt::Write;

use protocol::time::show_moment;
use serde::Serialize;

use crate::{
    client::alerts::{Alert, Notification, Phase, Severity},
    output::style,
};

/// So many alerts are written out in a text.
const WRITTEN: usize = 100;

/// The longest subject, in characters.
const SUBJECT: usize = 200;

/// The document that webhooks and commands are given. Fields may be added to it; `version` says that others have changed.
#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    /// Its subject in one line, for chats and pagers.
    summary: String,
    #[serde(flatten)]
    notification: &'a Notification,
}

/// The notification as JSON.
pub fn document(notification: &Notification) -> Vec<u8> {
    let document = Document { version: 1, summary: subject(notification), notification };
    serde_json::to_vec(&document).unwrap_or_default()
}

/// The id, of which nothing can end a header or a line.
pub fn id(notification: &Notification) -> String {
    let safe = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    notification.id.chars().take(128).map(|letter| if safe(letter) { letter } else { '_' }).collect()
}

/// The word for a severity.
pub const fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    }
}

/// The word for a phase.
pub const fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Firing => "firing",
        Phase::Resolved => "resolved",
    }
}

/// The worst of its severities: of the alerts that go on, where there are any.
pub fn worst(notification: &Notification) -> Severity {
    let of = |firing: bool| {
        let alerts = notification.alerts.iter().filter(|alert| !firing || alert.phase == Phase::Firing);
        alerts.map(|alert| alert.severity).max()
    };
    of(true).or_else(|| of(false)).unwrap_or(Severity::Info)
}

/// The whole in one line: `critical: disk-full on web1 (and 2 more)`, `resolved: disk-full on web1`.
pub fn subject(notification: &Notification) -> String {
    let first = notification.alerts.iter().find(|alert| alert.phase == notification.phase);
    let first = first.or_else(|| notification.alerts.first());
    let about = first.map_or_else(|| "no alerts".to_owned(), about);
    let more = match notification.alerts.len().saturating_sub(1) {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let how = match notification.phase {
        Phase::Firing => severity(worst(notification)),
        Phase::Resolved => phase(Phase::Resolved),
    };
    style::plain(&format!("{how}: {about}{more}")).chars().take(SUBJECT).collect()
}

fn about(alert: &Alert) -> String {
    match &alert.host {
        Some(host) => format!("{} on {host}", alert.rule),
        None => alert.rule.clone(),
    }
}

/// The whole as a text with a paragraph for each alert.
pub fn text(notification: &Notification) -> String {
    let mut text = format!("{}\n", subject(notification));
    for alert in notification.alerts.iter().take(WRITTEN) {
        paragraph(&mut text, alert);
    }
    if let Some(more @ 1..) = notification.alerts.len().checked_sub(WRITTEN) {
        let _ = write!(text, "\nand {more} more\n");
    }
    let _ = write!(text, "\n--\nredfleet: notification {}\n", id(notification));
    text
}

fn paragraph(text: &mut String, alert: &Alert) {
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{name}{}", style::plain(value));
        }
    };
    line("\n", &format!("{}: {} ({})", phase(alert.phase), about(alert), severity(alert.severity)));
    line("  ", &alert.text);
    line("  found:  ", &alert.found);
    line("  since:  ", &show_moment(alert.begins_ms));
    line("  until:  ", &alert.ends_ms.map(show_moment).unwrap_or_default());
    let labels: Vec<String> = alert.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    line("  labels: ", &labels.join(", "));
}
