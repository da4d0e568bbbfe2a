//! The part of the worker's settings that is about services, and the services of a host by name.

use std::{
    collections::{BTreeMap, HashSet},
    fmt, fs,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use protocol::time::read_duration;
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{
    Driven, Places, ServiceError, Up, check, check::Check, commands::Commands, supervised::Supervised, systemd::Systemd,
};
use crate::{
    log::{self, excerpt},
    supervisor::{
        self,
        launch::{Launch, Listen, MOST_SOCKETS},
    },
};

/// How long a service must stay up before it counts as up.
const SETTLE: Duration = Duration::from_secs(2);

/// How long a process may take to end after TERM.
const DRAIN: Duration = Duration::from_secs(30);

/// `[services.NAME]` in the settings file.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Input {
    driver: Option<DriverName>,
    #[serde(deserialize_with = "duration")]
    settle: Option<Duration>,
    check: Option<check::Input>,
    unit: Option<String>,
    program: Option<Vec<String>>,
    directory: Option<PathBuf>,
    user: Option<String>,
    env: Option<BTreeMap<String, String>>,
    listen: Option<Vec<String>>,
    overlap: Option<bool>,
    #[serde(deserialize_with = "duration")]
    drain: Option<Duration>,
    start: Option<Vec<String>>,
    stop: Option<Vec<String>>,
    status: Option<Vec<String>>,
    restart: Option<Vec<String>>,
    reload: Option<Vec<String>>,
}

impl fmt::Debug for Input {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The environment may hold secrets.
        out.debug_struct("Input").field("driver", &self.driver).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DriverName {
    Systemd,
    Supervised,
    Commands,
}

fn duration<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    read_duration(&String::deserialize(input)?).map(Some).map_err(D::Error::custom)
}

/// Why the settings of a service cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("[services.{0}]: {1}")]
pub struct SettingsError(String, String);

/// What the settings say about services.
#[derive(Clone, Default)]
pub struct Settings(BTreeMap<String, Arc<Setting>>);

impl fmt::Debug for Settings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.0.keys()).finish()
    }
}

/// What they say about one.
struct Setting {
    up: Up,
    driven: DrivenBy,
}

enum DrivenBy {
    Systemd(String),
    Supervised(Launch),
    Commands(Commands),
}

impl Settings {
    /// Checks what the settings file says.
    ///
    /// # Errors
    /// The first service whose settings cannot be used.
    pub(crate) fn read(input: BTreeMap<String, Input>) -> Result<Self, SettingsError> {
        let read = |(name, input): (String, Input)| {
            let setting = check_name(&name).map_err(|error| error.to_string()).and_then(|()| setting(&name, input));
            let setting = setting.map_err(|problem| SettingsError(excerpt(&name, log::NAME), problem))?;
            Ok((name, Arc::new(setting)))
        };
        Ok(Self(input.into_iter().map(read).collect::<Result<_, _>>()?))
    }

    /// The key under which commands about a service run one after another, by whatever name they call it. What runs as a
    /// unit has the unit's. Only systemd knows that a unit has yet another name (`Alias=`).
    pub(crate) fn exclusion_key(&self, name: &str) -> String {
        let unit = match self.0.get(name).map(|setting| &setting.driven) {
            Some(DrivenBy::Systemd(unit)) => unit_of(unit),
            Some(DrivenBy::Supervised(_) | DrivenBy::Commands(_)) => {
                return format!("service '{}'", excerpt(name, log::NAME));
            }
            None => unit_of(name),
        };
        format!("unit '{}'", excerpt(&unit, log::NAME))
    }

    /// Each service with its driver, for people.
    pub(crate) fn describe(&self) -> Vec<String> {
        let driver = |setting: &Setting| match &setting.driven {
            DrivenBy::Systemd(_) => "systemd",
            DrivenBy::Supervised(_) => "supervised",
            DrivenBy::Commands(_) => "commands",
        };
        self.0.iter().map(|(name, setting)| format!("{name} ({})", driver(setting))).collect()
    }
}

fn setting(name: &str, mut input: Input) -> Result<Setting, String> {
    let guessed = match &input {
        Input { program: Some(_), .. } => DriverName::Supervised,
        Input { start: Some(_), .. } => DriverName::Commands,
        _ => DriverName::Systemd,
    };
    let check = input.check.take().map(Check::read).transpose()?;
    let up = Up { settle: input.settle.take().unwrap_or(SETTLE), check };
    let driven = match input.driver.take().unwrap_or(guessed) {
        DriverName::Systemd => {
            let unit = input.unit.take().unwrap_or_else(|| unit_of(name));
            check_name(&unit).map_err(|error| error.to_string())?;
            DrivenBy::Systemd(unit)
        }
        DriverName::Supervised => DrivenBy::Supervised(launch(&mut input)?),
        DriverName::Commands => {
            let words = |words: &mut Option<Vec<String>>, key: &str| {
                let words = words.take().filter(|words| !words.is_empty());
                words.ok_or_else(|| format!("{key} = [\"PROGRAM\", …] is missing"))
            };
            let optional = |words: &mut Option<Vec<String>>| words.take().filter(|words| !words.is_empty());
            DrivenBy::Commands(Commands {
                name: name.to_owned(),
                start: words(&mut input.start, "start")?,
                stop: words(&mut input.stop, "stop")?,
                status: words(&mut input.status, "status")?,
                restart: optional(&mut input.restart),
                reload: optional(&mut input.reload),
                user: input.user.take(),
                directory: PathBuf::new(),
            })
        }
    };
    match left(&input) {
        Some(key) => Err(format!(
            "{key} is not for a service with driver = \"{}\"",
            match driven {
                DrivenBy::Systemd(_) => "systemd",
                DrivenBy::Supervised(_) => "supervised",
                DrivenBy::Commands(_) => "commands",
            }
        )),
        None => Ok(Setting { up, driven }),
    }
}

fn launch(input: &mut Input) -> Result<Launch, String> {
    let argv = input.program.take().filter(|words| !words.is_empty());
    let argv = argv.ok_or("program = [\"/PATH\", …] is missing")?;
    let listen = input.listen.take().unwrap_or_default();
    let listen = listen.iter().map(|text| text.parse::<Listen>().map_err(|error| error.to_string()));
    let listen = listen.collect::<Result<Vec<_>, _>>()?;
    if listen.len() > MOST_SOCKETS {
        return Err(format!("listen has more than {MOST_SOCKETS} addresses"));
    }
    let addresses: HashSet<_> = listen.iter().map(|listen| &listen.address).collect();
    if addresses.len() < listen.len() {
        return Err("listen names an address twice".into());
    }
    let directory = input.directory.take();
    if directory.as_ref().is_some_and(|directory| !directory.is_absolute()) {
        return Err("directory must be an absolute path".into());
    }
    Ok(Launch {
        argv,
        directory,
        user: input.user.take(),
        env: input.env.take().unwrap_or_default(),
        overlap: input.overlap.take().unwrap_or(!listen.is_empty()),
        listen,
        drain_ms: protocol::clock::millis(input.drain.take().unwrap_or(DRAIN)),
        release: None,
    })
}

/// A key that was given, but that the driver has not taken.
fn left(input: &Input) -> Option<&'static str> {
    let left = [
        (input.unit.is_some(), "unit"),
        (input.program.is_some(), "program"),
        (input.directory.is_some(), "directory"),
        (input.user.is_some(), "user"),
        (input.env.is_some(), "env"),
        (input.listen.is_some(), "listen"),
        (input.overlap.is_some(), "overlap"),
        (input.drain.is_some(), "drain"),
        (input.start.is_some(), "start"),
        (input.stop.is_some(), "stop"),
        (input.status.is_some(), "status"),
        (input.restart.is_some(), "restart"),
        (input.reload.is_some(), "reload"),
    ];
    left.into_iter().find_map(|(given, key)| given.then_some(key))
}

/// How the names of units end (man 5 systemd.unit).
const UNITS: [&str; 11] =
    ["service", "socket", "device", "mount", "automount", "swap", "target", "path", "timer", "slice", "scope"];

/// The unit of a service: as for systemctl, a name without the ending of a unit is that of a service.
fn unit_of(name: &str) -> String {
    let is_unit = name.rsplit_once('.').is_some_and(|(_, ending)| UNITS.contains(&ending));
    if is_unit { name.to_owned() } else { format!("{name}.service") }
}

/// Checks what may stand for a unit, or for a directory, on a command line.
fn check_name(name: &str) -> Result<(), ServiceError> {
    let plain = |char: char| char.is_ascii_alphanumeric() || ":-_.@\\".contains(char);
    let begins_well = name.starts_with(|char: char| char.is_ascii_alphanumeric());
    if begins_well && name.len() <= 200 && name.chars().all(plain) {
        Ok(())
    } else {
        Err(ServiceError::Name(excerpt(name, log::NAME)))
    }
}

/// The services of a host.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    settings: Settings,
    places: Places,
    /// The applications whose releases services run: service → directory of the application.
    apps: BTreeMap<String, PathBuf>,
}

/// A service, and how it is looked after.
#[derive(Clone)]
pub(crate) struct Service {
    /// When it counts as up.
    pub(crate) up: Up,
    /// How it is looked after.
    pub(crate) driven: Driven,
}

impl Registry {
    /// The services of these settings. `apps`: see there.
    pub(crate) const fn new(settings: Settings, places: Places, apps: BTreeMap<String, PathBuf>) -> Self {
        Self { settings, places, apps }
    }

    /// Whether the settings name this service, or systemd may know it.
    pub(crate) fn may_know(settings: &Settings, name: &str) -> Result<(), ServiceError> {
        check_name(name)?;
        if settings.0.contains_key(name) || Systemd::is_here() {
            Ok(())
        } else {
            Err(ServiceError::Unknown(name.to_owned(), String::new()))
        }
    }

    /// The service of that name: one of the settings, or else, where systemd runs, a unit.
    ///
    /// # Errors
    /// There is none, or it cannot be a name.
    pub(crate) fn find(&self, name: &str) -> Result<Service, ServiceError> {
        check_name(name)?;
        let known: Vec<_> = self.settings.0.keys().map(String::as_str).collect();
        let known = if known.is_empty() { String::new() } else { format!("; the settings name {}", known.join(", ")) };
        let Some(setting) = self.settings.0.get(name) else {
            // Until it is stopped, its name is that of nothing else.
            if let Some(left) = self.unclaimed(name) {
                return Ok(Service { up: Up { settle: SETTLE, check: None }, driven: Driven::Supervised(left) });
            }
            if !Systemd::is_here() {
                return Err(ServiceError::Unknown(name.to_owned(), known));
            }
            let driven = Driven::Systemd(Systemd { unit: unit_of(name), known });
            return Ok(Service { up: Up { settle: SETTLE, check: None }, driven });
        };
        let driven = match &setting.driven {
            DrivenBy::Systemd(unit) => Driven::Systemd(Systemd { unit: unit.clone(), known: String::new() }),
            DrivenBy::Supervised(launch) => {
                Driven::Supervised(Supervised::new(name, launch.clone(), &self.places, self.apps.get(name)))
            }
            DrivenBy::Commands(commands) => {
                Driven::Commands(Commands { directory: self.places.directory.join(name), ..commands.clone() })
            }
        };
        Ok(Service { up: setting.up.clone(), driven })
    }

    /// A service that is supervised, though the settings do not name it any more: as it was started. Waits for the disk.
    fn unclaimed(&self, name: &str) -> Option<Supervised> {
        let launch = supervisor::wanted(&self.places.directory.join(name)).ok()??;
        Some(Supervised::new(name, launch, &self.places, None))
    }

    /// The services with supervisors: name, the program of the supervisor, directory. None where this process cannot
    /// start any.
    pub(super) fn supervised(&self) -> impl Iterator<Item = (String, PathBuf, PathBuf)> {
        let named = self.named(|driven| matches!(driven, DrivenBy::Supervised(_)));
        named.filter_map(|(name, directory)| Some((name.clone(), self.places.supervisor.clone()?, directory)))
    }

    /// The directories of the services with commands.
    pub(super) fn logged(&self) -> impl Iterator<Item = PathBuf> {
        self.named(|driven| matches!(driven, DrivenBy::Commands(_))).map(|(_, directory)| directory)
    }

    fn named(&self, wanted: impl Fn(&DrivenBy) -> bool) -> impl Iterator<Item = (&String, PathBuf)> {
        let found = self.settings.0.iter().filter(move |(_, setting)| wanted(&setting.driven));
        found.map(|(name, _)| (name, self.places.directory.join(name)))
    }

    /// The names of what is supervised, though no supervised service of the settings has that name; and whether another
    /// one has. Waits for the disk.
    pub(super) fn left(&self) -> Vec<(String, bool)> {
        let entries = fs::read_dir(&self.places.directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let left = names.filter(|name| check_name(name).is_ok() && self.unclaimed(name).is_some());
        let setting = |name: &String| self.settings.0.get(name).map(|setting| &setting.driven);
        let left = left.filter(|name| !matches!(setting(name), Some(DrivenBy::Supervised(_))));
        left.map(|name| (name.clone(), setting(&name).is_some())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Result<Settings, String> {
        let input = toml::from_str::<BTreeMap<String, Input>>(toml).map_err(|error| error.message().to_owned())?;
        Settings::read(input).map_err(|error| error.to_string())
    }

    #[test]
    fn the_driver_follows_from_what_is_given() {
        let settings = read(
            "[nginx]\n[db]\nunit = 'postgresql@15-main.service'\n[web]\nprogram = ['/bin/web']\nlisten = ['127.0.0.1:80']\n\
             [old]\nstart = ['a']\nstop = ['b']\nstatus = ['c']\ncheck = { tcp = '127.0.0.1:1' }\nsettle = '0s'",
        );
        let described = ["db (systemd)", "nginx (systemd)", "old (commands)", "web (supervised)"];
        assert_eq!(settings.unwrap().describe(), described);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (toml, problem) in [
            ("['a/b']", "'a/b' is no name of a service"),
            ("[-x]", "'-x' is no name of a service"),
            ("[web]\nunit = '--now'", "'--now' is no name of a service"),
            ("[web]\ndriver = 'supervised'", "program = [\"/PATH\", …] is missing"),
            ("[web]\nstart = ['a']", "stop = [\"PROGRAM\", …] is missing"),
            ("[web]\nlisten = ['127.0.0.1:80']", "listen is not for a service with driver = \"systemd\""),
            ("[web]\nprogram = ['a']\nlisten = ['80']", "'80' is no address to listen at"),
            ("[web]\nprogram = ['a']\nlisten = ['[::]:1', '[::]:2', 'a=[::]:1']", "listen names an address twice"),
            ("[web]\nprogram = ['a']\nstop = ['b']", "stop is not for a service with driver = \"supervised\""),
            ("[web]\nprogram = ['a']\ndirectory = 'b'", "directory must be an absolute path"),
            ("[web]\ncheck = { tcp = 'a:1', http = 'http://a' }", "exactly one of tcp, http and argv"),
            ("[web]\ndriver = 'openrc'", "unknown variant"),
        ] {
            let refused = read(toml).expect_err(toml);
            assert!(refused.contains(problem), "{toml}: {refused}");
        }
    }

    #[test]
    fn names_from_commands_are_checked() {
        let places = Places { directory: "/nowhere".into(), supervisor: None };
        let registry = Registry::new(read("[web]\nprogram = ['/bin/web']").unwrap(), places, BTreeMap::new());
        assert!(matches!(registry.find("web").unwrap().driven, Driven::Supervised(_)));
        for name in ["", "--now", "../web", "a b", ".web", "web;reboot"] {
            assert!(matches!(registry.find(name), Err(ServiceError::Name(_))), "{name}");
        }
        assert_eq!(unit_of("nginx"), "nginx.service");
        assert_eq!(unit_of("logrotate.timer"), "logrotate.timer");
        assert_eq!(unit_of("web.example.org"), "web.example.org.service");
    }

    #[test]
    fn a_service_has_one_exclusion_key_whatever_it_is_called() {
        let settings = read(
            "[db]\nunit = 'postgresql'\n[nginx]\n[web]\nprogram = ['/bin/web']\n\
             [old]\nstart = ['a']\nstop = ['b']\nstatus = ['c']",
        )
        .unwrap();
        let key = |name: &str| settings.exclusion_key(name);
        for name in ["postgresql", "postgresql.service"] {
            assert_eq!(key(name), key("db"));
        }
        assert_eq!(key("nginx"), key("nginx.service"));
        let all = ["db", "nginx", "web", "old", "web.service", "nginx.socket", "other"].map(key);
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len(), "{all:?}");
    }
}
