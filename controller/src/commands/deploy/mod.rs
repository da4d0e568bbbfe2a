//! `ctl deploy`: releases of apps, and what runs.

mod look;
mod pack;
mod release;
mod rollback;
pub(super) mod source;

use crate::{
    cli::{
        deploys::{Deploy, Look},
        settings::Settings,
    },
    client::Fleet,
    output::{Advice, Exit, Printer, results::View},
};

/// Runs a command on an app.
pub async fn run(command: Deploy, fleet: &mut Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    match (command.look, command.release) {
        (Some(Look::Status(whose)), _) => look::run(whose, View::Releases, fleet, settings, printer).await,
        (Some(Look::History(whose)), _) => look::run(whose, View::History, fleet, settings, printer).await,
        (Some(Look::Rollback(options)), _) => rollback::run(options, fleet, settings, printer).await,
        (None, Some(release)) => {
            let selection = command.narrowing.of(&[&release.hosts[..], &command.besides.groups].concat());
            release::run(release, &selection, &command.waves, fleet, settings, printer).await
        }
        // The grammar asks for one of them.
        (None, None) => Err(Advice::new("name an app").hint("ctl deploy --help").into()),
    }
}
