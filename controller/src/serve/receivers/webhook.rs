//! A web address that is sent notifications as JSON.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

use super::message;
use crate::{
    client::alerts::Notification,
    serve::{
        secret_file::SecretFile,
        web::{Endpoint, Failure, Setting as Web},
    },
};

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
}

impl Setting {
    /// Judges the settings.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn judge(self) -> anyhow::Result<Endpoint> {
        let Self { url, url_file, bearer_token_file, headers, ca, .. } = self;
        Endpoint::new(Web { url, url_file, bearer_token_file, headers, ca })
    }
}

/// Sends it.
///
/// # Errors
/// It was not delivered.
pub async fn send(endpoint: &Endpoint, notification: &Notification) -> Result<(), Failure> {
    endpoint.post(&message::id(notification), message::document(notification)).await
}
