//! The grammar of `ctl file`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use protocol::limits;

use super::{
    durations::up_to,
    help,
    targeting::{Words, words},
};

/// `ctl file`.
#[derive(Debug, Subcommand)]
pub enum File {
    Put(Put),
    Get(Get),
}

/// Put a file on hosts, whole or not at all
///
/// The file travels through Redis, encrypted to the hosts, and each checks its digest before it gets its name. It must
/// be within [files] put of the host's settings, and the host's policy must allow file-put. A host that has the file
/// already, with this content, mode and owner, changes nothing.
#[derive(Args, Debug)]
#[command(after_help = help::FILE_PUT)]
pub struct Put {
    /// The file here; - is standard input
    #[arg(value_name = "LOCAL", value_hint = clap::ValueHint::FilePath)]
    pub local: PathBuf,
    /// Where: a host, a pattern, @GROUP or several with commas, and a path; a path that ends with / gets the file's own name
    #[arg(value_name = "HOSTS:/PATH", required = true, value_parser = target)]
    pub targets: Vec<Target>,
    /// Its mode there [default: that of the file that is there, or 0644]
    #[arg(long, value_name = "MODE")]
    pub mode: Option<String>,
    /// Its owner there, by name or number [default: that of the file that is there, or the worker's user]
    #[arg(long, value_name = "USER[:GROUP]")]
    pub owner: Option<String>,
    /// Keep a file with other content that is there, as NAME.MOMENT.bak
    #[arg(long)]
    pub backup: bool,
    /// Change nothing, and say what would be changed
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask before it changes several hosts that were not named
    #[arg(short, long)]
    pub yes: bool,
    /// How long it may take [default: 1h]
    #[arg(short, long, value_name = "DURATION", value_parser = up_to(limits::TIMEOUT_MAX))]
    pub timeout: Option<Duration>,
}

/// Get a file from hosts, into a directory for each
///
/// The file travels through Redis, encrypted, and gets its name in DIR/HOST once its digest is what the host has
/// signed. It must be within [files] get of the host's settings, and the host's policy must allow file-get. Hosts that
/// are offline are left out. Ctrl-C cancels it.
#[derive(Args, Debug)]
#[command(after_help = help::FILE_GET)]
pub struct Get {
    /// What: a host, a pattern, @GROUP or several with commas, and a path
    #[arg(value_name = "HOSTS:/PATH", required = true, value_parser = target)]
    pub targets: Vec<Target>,
    /// Where to put the files; a directory for each host is made
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub directory: PathBuf,
    /// How long it may take [default: 1h]
    #[arg(short, long, value_name = "DURATION", value_parser = up_to(limits::TIMEOUT_MAX))]
    pub timeout: Option<Duration>,
}

/// Hosts, and a path there.
#[derive(Clone, Debug)]
pub struct Target {
    /// The hosts.
    pub hosts: Words,
    /// The path.
    pub path: String,
}

/// Reads `web1,web2:/etc/motd`.
fn target(text: &str) -> Result<Target, String> {
    let (hosts, path) = text.split_once(':').ok_or("write HOST:/PATH, such as web1:/srv/app.conf")?;
    if hosts.split(',').any(str::is_empty) {
        return Err("no host is named before the colon; all hosts are '*'".into());
    }
    if path.starts_with('/') {
        Ok(Target { hosts: words(hosts)?, path: path.into() })
    } else {
        Err(format!("the path '{path}' is not absolute: it begins with /"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_stand_before_the_path() {
        let read = |text: &str| {
            let Target { hosts, path } = target(text).unwrap();
            (hosts.iter().map(|word| word.text().to_owned()).collect::<Vec<_>>().join(" "), path)
        };
        assert_eq!(read("web1:/a:b"), ("web1".into(), "/a:b".into()));
        assert_eq!(read("web*,db[1,3]:/x/"), ("web* db[1,3]".into(), "/x/".into()));
        for (wrong, reason) in [
            ("web1", "HOST:/PATH"),
            ("/a", "HOST:/PATH"),
            (":/a", "no host"),
            ("a,:/a", "no host"),
            ("web1:a", "not absolute"),
        ] {
            assert!(target(wrong).unwrap_err().contains(reason), "{wrong}");
        }
    }
}
