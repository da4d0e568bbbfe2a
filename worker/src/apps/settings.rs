//! The part of the worker's settings that is about applications.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, PathBuf},
    sync::Arc,
    time::Duration,
};

use protocol::time::read_duration;
use serde::{Deserialize, Deserializer, de::Error as _};

use super::unpack::Bounds;
use crate::{
    log::{self, excerpt},
    services::{self, Check, CheckInput, Registry, release::is_name},
    spelling::did_you_mean,
};

/// How many releases are kept besides those that are needed.
const KEEP: usize = 5;

/// The most that may be kept.
const KEEP_MOST: usize = 100;

/// How long a release may fail its check until it passes for the first time.
const WITHIN: Duration = Duration::from_secs(30);

/// What stands in place of an application on a command line.
const TAKEN: [&str; 3] = ["status", "history", "rollback"];

/// `[apps.NAME]` in the settings file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Input {
    directory: Option<PathBuf>,
    service: Option<String>,
    keep: Option<usize>,
    before: Vec<String>,
    after: Vec<String>,
    user: Option<String>,
    rollback: Rollback,
    #[serde(deserialize_with = "duration")]
    settle: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    within: Option<Duration>,
    check: Option<CheckInput>,
    urls: Vec<String>,
    max_bytes: Option<u64>,
    max_files: Option<u64>,
}

/// What becomes of a release that fails after the switch to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Rollback {
    /// The last proven one runs again.
    #[default]
    Automatic,
    /// It stays, as it may have changed data that the one before cannot read.
    Forbidden,
}

fn duration<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    read_duration(&String::deserialize(input)?).map(Some).map_err(D::Error::custom)
}

/// Why the settings of an application cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("[apps.{0}]: {1}")]
pub struct SettingsError(String, String);

/// An application.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(super) name: String,
    /// Has `releases` and `current`.
    pub(super) directory: PathBuf,
    /// The service that runs it.
    pub(super) service: Option<String>,
    pub(super) keep: usize,
    pub(super) before: Vec<String>,
    pub(super) after: Vec<String>,
    pub(super) user: Option<String>,
    pub(super) rollback: Rollback,
    /// How long its check must keep passing after the switch; that of its service where absent.
    pub(super) settle: Option<Duration>,
    /// How long the check may fail until it passes for the first time.
    pub(super) within: Duration,
    /// In place of its service's.
    pub(super) check: Option<Check>,
    /// Beginnings of URLs from which it may be fetched.
    pub(super) urls: Vec<String>,
    pub(super) bounds: Bounds,
}

/// What the settings say about applications.
#[derive(Clone, Debug, Default)]
pub struct Settings(BTreeMap<String, Arc<App>>);

impl Settings {
    /// Checks what the settings file says.
    ///
    /// # Errors
    /// The first application whose settings cannot be used.
    pub(crate) fn read(input: BTreeMap<String, Input>, services: &services::Settings) -> Result<Self, SettingsError> {
        let (mut apps, mut taken, mut homes) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        for (name, input) in input {
            let failed = |problem| SettingsError(excerpt(&name, log::NAME), problem);
            let app = app(&name, input, services).map_err(failed)?;
            if app.service.as_ref().is_some_and(|service| !taken.insert(service.clone())) {
                return Err(failed("service names one that another application has".into()));
            }
            if !homes.insert(app.directory.clone()) {
                return Err(failed("directory is that of another application".into()));
            }
            apps.insert(name, Arc::new(app));
        }
        Ok(Self(apps))
    }

    /// Each application with its directory, for people.
    pub(crate) fn describe(&self) -> Vec<String> {
        self.0.values().map(|app| format!("{} ({})", app.name, app.directory.display())).collect()
    }

    /// The services that run releases, and the directories of these.
    pub(crate) fn services(&self) -> BTreeMap<String, PathBuf> {
        let of = |app: &Arc<App>| Some((app.service.clone()?, app.directory.clone()));
        self.0.values().filter_map(of).collect()
    }

    /// The service that runs this application, if there is one.
    pub(crate) fn service_of(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.service.as_deref()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<App>> {
        self.0.values()
    }

    /// The application of that name.
    pub(super) fn find(&self, name: &str) -> Result<Arc<App>, Unknown> {
        self.0.get(name).cloned().ok_or_else(|| {
            let known: Vec<_> = self.0.keys().map(String::as_str).collect();
            let meant = did_you_mean(name, &known);
            let all = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Unknown { name: excerpt(name, log::NAME), all, meant }
        })
    }
}

/// There is no such application.
#[derive(Debug, thiserror::Error)]
#[error("this host's settings have no [apps.{name}]; they name {all}{meant}")]
pub(crate) struct Unknown {
    name: String,
    all: String,
    meant: String,
}

fn app(name: &str, input: Input, services: &services::Settings) -> Result<App, String> {
    if !is_name(name) || TAKEN.contains(&name) {
        let taken = TAKEN.join(", ");
        return Err(format!(
            "'{}' is no name of an application: letters, digits and ._+- are, beginning with a letter or digit, but not {taken}",
            excerpt(name, log::NAME)
        ));
    }
    let directory = input.directory.ok_or("directory = \"/PATH\" is missing")?;
    let is_plain = directory.is_absolute() && !directory.components().any(|part| part == Component::ParentDir);
    if !is_plain || directory.to_str().is_none() {
        return Err(format!("directory: '{}' is no absolute path without '..'", directory.display()));
    }
    if let Some(service) = &input.service {
        Registry::may_know(services, service).map_err(|error| format!("service: {error}"))?;
    }
    let keep = input.keep.unwrap_or(KEEP);
    if !(1..=KEEP_MOST).contains(&keep) {
        return Err(format!("keep must be from 1 to {KEEP_MOST}, not {keep}"));
    }
    let is_prefix = |url: &&String| {
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        !rest.is_some_and(|rest| rest.split_once('/').is_some_and(|(host, _)| !host.is_empty()) && rest.ends_with('/'))
    };
    if let Some(url) = input.urls.iter().find(is_prefix) {
        return Err(format!("urls: '{url}' is not http(s)://HOST/…/, with a slash at its end"));
    }
    let default = Bounds::default();
    let bounds =
        Bounds { bytes: input.max_bytes.unwrap_or(default.bytes), files: input.max_files.unwrap_or(default.files) };
    Ok(App {
        name: name.to_owned(),
        // Without what means nothing in it.
        directory: directory.components().collect(),
        service: input.service,
        keep,
        before: input.before,
        after: input.after,
        user: input.user,
        rollback: input.rollback,
        settle: input.settle,
        within: input.within.unwrap_or(WITHIN),
        check: input.check.map(Check::read).transpose()?,
        urls: input.urls,
        bounds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Result<Settings, String> {
        let input = toml::from_str::<BTreeMap<String, Input>>(toml).map_err(|error| error.message().to_owned())?;
        let services: BTreeMap<String, services::Input> = toml::from_str("[web]\nprogram = ['/bin/web']").unwrap();
        Settings::read(input, &services::Settings::read(services).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_application_needs_only_its_directory() {
        let settings =
            read("[web]\ndirectory = '/srv/./web/'\nservice = 'web'\n['a-2.b+c']\ndirectory = '/a'").unwrap();
        let app = settings.find("web").unwrap();
        assert_eq!((app.directory.to_str(), app.keep, app.rollback), (Some("/srv/web"), 5, Rollback::Automatic));
        assert_eq!(settings.describe(), ["a-2.b+c (/a)", "web (/srv/web)"]);
        assert_eq!(settings.services(), [("web".into(), "/srv/web".into())].into());
        let unknown = settings.find("wbe").unwrap_err().to_string();
        assert!(unknown.ends_with("they name a-2.b+c, web (did you mean 'web'?)"), "{unknown}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (toml, problem) in [
            ("[web]", "[apps.web]: directory = \"/PATH\" is missing"),
            ("[status]\ndirectory = '/a'", "'status' is no name of an application"),
            ("['a/b']\ndirectory = '/a'", "'a/b' is no name of an application"),
            ("[web]\ndirectory = 'a'", "'a' is no absolute path"),
            ("[web]\ndirectory = '/a/../b'", "is no absolute path without '..'"),
            ("[web]\ndirectory = '/a'\nservice = '--now'", "service: '--now' is no name"),
            ("[web]\ndirectory = '/a'\nkeep = 0", "keep must be from 1 to 100, not 0"),
            ("[web]\ndirectory = '/a'\nrollback = 'never'", "unknown variant"),
            ("[web]\ndirectory = '/a'\nurls = ['https://a.example']", "with a slash at its end"),
            ("[web]\ndirectory = '/a'\nurls = ['ftp://a/']", "is not http(s)://"),
            ("[web]\ndirectory = '/a'\n[api]\ndirectory = '/a/'", "is that of another application"),
            (
                "[web]\ndirectory = '/a'\nservice = 'web'\n[w2]\ndirectory = '/b'\nservice = 'web'",
                "another application",
            ),
            ("[web]\ndirectory = '/a'\ncheck = { tcp = 'a' }", "is not HOST:PORT"),
        ] {
            let refused = read(toml).expect_err(toml);
            assert!(refused.contains(problem), "{toml}: {refused}");
        }
    }
}
