//! Alerts: rules over what is known of hosts, their states, and what is sent when these change.

mod notification;

pub use self::notification::{Alert, Notification, Phase, Severity};
