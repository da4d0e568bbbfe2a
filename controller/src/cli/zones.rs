//! Time zones as standing orders carry them: the name, and the file of this machine's database.

use std::{env, fs, path::PathBuf};

use jiff::tz::{self, TimeZone};

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
/// There is none of this name, or this machine has no database.
pub fn find(name: Option<&str>) -> anyhow::Result<Zone> {
    let own = || TimeZone::system().iana_name().map(str::to_owned);
    let name = name.map(str::to_owned).or_else(own).unwrap_or_else(|| "UTC".to_owned());
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
