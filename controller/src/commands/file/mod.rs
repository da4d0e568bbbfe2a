//! `ctl file`: files that are put on hosts, or got from them.

mod get;
mod put;

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;

use super::selected;
use crate::{
    cli::{
        settings::Settings,
        transfers::{File as Command, Target},
    },
    client::{Fleet, Host, Selection, Word},
    output::{Exit, Printer},
};

/// Runs a command on files.
pub async fn run(command: Command, fleet: &mut Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    match command {
        Command::Put(options) => put::run(options, fleet, settings, printer).await,
        Command::Get(options) => get::run(options, fleet, settings, printer).await,
    }
}

/// A path on hosts.
struct Place {
    path: String,
    selection: Selection,
    hosts: Vec<Host>,
}

/// The hosts of each path: a job has one path. `name`: of the file, for paths that end with a slash. Returns also whether
/// there are hosts of which it is not known whether they are meant.
async fn select(
    targets: &[Target],
    name: Option<&Path>,
    fleet: &mut Fleet,
    printer: &Printer,
) -> anyhow::Result<(Vec<Place>, bool)> {
    let mut paths: BTreeMap<String, Vec<Word>> = BTreeMap::new();
    for Target { hosts, path } in targets {
        let mut path = path.clone();
        if path.ends_with('/') {
            let name = name.and_then(Path::file_name).and_then(|name| name.to_str());
            path += name.with_context(|| format!("'{path}' is a directory: name the file in it"))?;
        }
        paths.entry(path).or_default().extend(hosts.iter().cloned());
    }
    let (mut selected, mut left_out) = (Vec::new(), false);
    for (path, words) in paths {
        let selection = Selection { words, ..Selection::all() };
        let (hosts, unknown) = selected::select(&selection, fleet, printer).await?;
        left_out |= unknown;
        selected.push(Place { path, selection, hosts });
    }
    Ok((selected, left_out))
}
