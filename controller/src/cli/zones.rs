//! Time zones as standing orders carry them: the name, and the file of this machine's database.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::bail;
use jiff::{
    Timestamp,
    tz::{self, Offset, TimeZone},
};

use crate::{client::closest, output::Advice};

/// A time zone.
pub struct Zone {
    /// Its name.
    pub name: String,
    /// A `TZif` file. Empty for UTC.
    pub tzif: Vec<u8>,
    /// Its clocks.
    pub clocks: TimeZone,
}

/// The zone of this name, or that of this machine.
///
/// # Errors
/// There is none of this name, this machine has no database, or does not know the name of its zone.
pub fn find(name: Option<&str>) -> anyhow::Result<Zone> {
    // A link that leads nowhere is set, too.
    let is_set = || env::var_os("TZ").is_some() || Path::new("/etc/localtime").symlink_metadata().is_ok();
    let name = name.map_or_else(|| own(&TimeZone::system(), is_set()), |name| Ok(name.to_owned()))?;
    if name.eq_ignore_ascii_case("UTC") {
        return Ok(Zone { name: "UTC".to_owned(), tzif: Vec::new(), clocks: TimeZone::UTC });
    }
    let zone = tz::db().get(&name).map_err(|_| unknown(&name))?;
    // As the database spells it.
    let name = zone.iana_name().unwrap_or(&name).to_owned();
    let file = |directory: PathBuf| fs::read(directory.join(&name)).ok();
    let tzif = directories().into_iter().find_map(file).ok_or_else(|| {
        Advice::new(format!("this machine has no file of the time zone '{name}'"))
            .hint("install the package tzdata, or sign at another machine; --tz UTC needs none")
    })?;
    // The order has the file, so the file counts.
    let clocks = TimeZone::tzif(&name, &tzif)?;
    Ok(Zone { name, tzif, clocks })
}

/// The name of this machine's zone, which may be set, or not. An order has a zone by its name, so one without a name is of
/// use only if it is that of UTC.
fn own(system: &TimeZone, is_set: bool) -> anyhow::Result<String> {
    let now = Timestamp::now();
    let is_utc = || system.to_offset(now) == Offset::UTC && system.following(now).next().is_none();
    match system.iana_name().filter(|_| !system.is_unknown()) {
        Some(name) => Ok(name.to_owned()),
        None if system.is_unknown() && is_set => bail!(nameless("the time zone of this machine cannot be read")),
        None if is_utc() => Ok("UTC".to_owned()),
        None => bail!(nameless("the time zone of this machine has no name: /etc/localtime is no link")),
    }
}

fn nameless(problem: &str) -> Advice {
    Advice::new(problem).hint("say which: --tz Europe/Berlin, or --tz UTC")
}

/// Where systems keep the files.
fn directories() -> Vec<PathBuf> {
    let own = env::var_os("TZDIR").map(PathBuf::from);
    own.into_iter().chain(["/usr/share/zoneinfo", "/usr/lib/zoneinfo", "/etc/zoneinfo"].map(PathBuf::from)).collect()
}

fn unknown(name: &str) -> Advice {
    let known: Vec<String> = tz::db().available().map(|name| name.to_string()).collect();
    let advice = Advice::new(format!("there is no time zone '{name}'"));
    match closest(name, known.iter().map(String::as_str)) {
        Some(meant) => advice.hint(format!("did you mean: --tz {meant}")),
        None => advice.hint("names are such as Europe/Berlin, America/New_York or UTC"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_without_a_name_is_utc_only_if_its_clocks_are() {
        let posix = |rule| TimeZone::posix(rule).unwrap();
        assert_eq!(own(&posix("UTC0"), true).unwrap(), "UTC");
        // Its clocks show UTC in winter only.
        for rule in ["GMT0BST,M3.5.0/1,M10.5.0", "CET-1CEST,M3.5.0,M10.5.0/3", "IST-5:30"] {
            let told = own(&posix(rule), true).unwrap_err().to_string();
            assert!(told.contains("has no name"), "{rule}: {told}");
        }
        assert_eq!(own(&TimeZone::unknown(), false).unwrap(), "UTC", "nothing is set");
        assert!(own(&TimeZone::unknown(), true).is_err());
        assert_eq!(own(&TimeZone::get("Europe/Berlin").unwrap(), true).unwrap(), "Europe/Berlin");
    }
}
