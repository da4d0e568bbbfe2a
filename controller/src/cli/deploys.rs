//! The grammar of `ctl deploy`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use protocol::limits;
use url::Url;

use super::{
    completers,
    durations::up_to,
    help,
    targeting::{Besides, Narrowing, Words, words},
    waves::Waves,
};
use crate::client::Selection;

/// Characters of a name of an app or a version at most.
const NAME: usize = 100;

/// Deploy a release of an app, and see what runs
///
/// Each host fetches the archive, checks its digest, unpacks it into a directory of its own, checks the new release where
/// nobody sees it, switches to it, and checks it again. If that fails, it rolls back by itself to the last release that
/// was proven healthy. The apps of a host are in its settings ([apps.NAME]), and its policy must allow deploy. A host on
/// which this release runs already changes nothing. Ctrl-C detaches: the job goes on.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, disable_help_subcommand = true)]
#[command(after_help = help::DEPLOY)]
pub struct Deploy {
    #[command(subcommand)]
    pub look: Option<Look>,
    #[command(flatten)]
    pub release: Option<Release>,
    #[command(flatten)]
    pub besides: Besides,
    #[command(flatten)]
    pub narrowing: Narrowing,
    #[command(flatten)]
    pub waves: Waves,
}

/// What else can be asked of an app.
#[derive(Debug, Subcommand)]
pub enum Look {
    /// Show which release runs on hosts, and which one is proven
    Status(Whose),
    /// Show what was deployed on hosts before, the newest first
    History(Whose),
    Rollback(Rollback),
}

/// A release that is deployed.
#[derive(Args, Debug)]
pub struct Release {
    /// The app, as the settings of the hosts name it
    #[arg(value_name = "APP", value_parser = name)]
    pub app: String,
    /// What this release is called: letters, digits and . _ + -
    #[arg(long, value_name = "V", value_parser = name)]
    pub version: String,
    /// The release: an archive (tar.gz, tar.zst or tar), a directory, or a URL from which the hosts fetch an archive
    #[arg(long, value_name = "FILE|DIR|URL", value_parser = source, value_hint = clap::ValueHint::AnyPath)]
    pub from: Source,
    /// Hosts, patterns with `*` and `?`, ranges such as web[1-20], or @GROUPs; several may be separated by commas
    #[arg(
        value_name = "HOSTS",
        required_unless_present = "groups",
        value_parser = words,
        add = ArgValueCompleter::new(completers::hosts)
    )]
    pub hosts: Vec<Words>,
    /// The SHA-256 that the archive must have; a URL needs it
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    pub sha256: Option<String>,
    /// The bytes that the archive must have; a URL needs it
    #[arg(long, value_name = "BYTES")]
    pub size: Option<u64>,
    /// Change nothing, and say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask before it changes several hosts that were not named
    #[arg(short, long)]
    pub yes: bool,
    /// How long it may take [default: 1h]
    #[arg(short, long, value_name = "DURATION", value_parser = up_to(limits::TIMEOUT_MAX))]
    pub timeout: Option<Duration>,
}

/// Go back to an earlier release, which the hosts still have
///
/// Without --to it is the last one before the running one that was proven healthy. Nothing is fetched. It is checked as a
/// new release is.
#[derive(Args, Debug)]
pub struct Rollback {
    #[command(flatten)]
    pub whose: Whose,
    /// The version [default: the last one before the running one that was proven healthy]
    #[arg(long, value_name = "V", value_parser = name)]
    pub to: Option<String>,
    /// Change nothing, and say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask before it changes several hosts that were not named
    #[arg(short, long)]
    pub yes: bool,
    /// How long it may take [default: 1h]
    #[arg(short, long, value_name = "DURATION", value_parser = up_to(limits::TIMEOUT_MAX))]
    pub timeout: Option<Duration>,
}

/// An app on hosts.
#[derive(Args, Debug)]
pub struct Whose {
    /// The app, as the settings of the hosts name it
    #[arg(value_name = "APP", value_parser = name)]
    pub app: String,
    /// Hosts, patterns with `*` and `?`, ranges such as web[1-20], or @GROUPs; several may be separated by commas
    #[arg(
        value_name = "HOSTS",
        required_unless_present = "groups",
        value_parser = words,
        add = ArgValueCompleter::new(completers::hosts)
    )]
    pub hosts: Vec<Words>,
    #[command(flatten)]
    pub besides: Besides,
    #[command(flatten)]
    pub narrowing: Narrowing,
}

impl Whose {
    /// The hosts that are meant.
    pub fn selection(self) -> Selection {
        self.narrowing.of(&[self.hosts, self.besides.groups].concat())
    }
}

/// Where a release comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file or a directory here.
    Here(PathBuf),
    /// A URL from which the hosts fetch it.
    There(Url),
}

fn source(text: &str) -> Result<Source, String> {
    if !text.contains("://") {
        return Ok(Source::Here(text.into()));
    }
    let url = Url::parse(text).map_err(|error| format!("it is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("hosts fetch from https:// and http:// alone, not from {}://", url.scheme()));
    }
    if url.username().is_empty() && url.password().is_none() {
        Ok(Source::There(url))
    } else {
        Err("a URL with a password is written down with the job, where others read it: leave it out".into())
    }
}

fn name(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    if text.len() > NAME {
        return Err(format!("it is longer than {NAME} characters"));
    }
    if text.bytes().all(is_plain) && text.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        Ok(text.into())
    } else {
        Err("write letters, digits and . _ + -, a letter or digit first".into())
    }
}

fn sha256(text: &str) -> Result<String, String> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("it is not 64 hexadecimal digits, as sha256sum prints them".into())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{
        super::{grammar, targeting::texts},
        *,
    };

    fn read(line: &str) -> Deploy {
        let cli = grammar::Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{error}"));
        let grammar::Command::Deploy(deploy) = cli.command else { panic!("{line}") };
        *deploy
    }

    #[test]
    fn a_release_and_what_else_can_be_asked_are_told_apart() {
        let deploy = read("ctl deploy web --version 2 --from dist web1,web2 db* --dry-run");
        let release = deploy.release.unwrap();
        assert_eq!((release.app.as_str(), release.version.as_str(), release.dry_run), ("web", "2", true));
        assert_eq!((texts(&release.hosts).len(), release.from), (3, Source::Here("dist".into())));
        // A host may have the name of a command.
        let release = read("ctl deploy web --version 2 --from x status").release.unwrap();
        assert_eq!(texts(&release.hosts), ["status"]);

        let Some(Look::Status(whose)) = read("ctl deploy status web web1").look else { panic!() };
        assert_eq!((whose.app.as_str(), texts(&whose.hosts)), ("web", vec!["web1".to_owned()]));
        let Some(Look::Rollback(rollback)) = read("ctl deploy rollback web --to 1 web*").look else { panic!() };
        assert_eq!(rollback.to.as_deref(), Some("1"));
    }

    #[test]
    fn names_and_sources_are_checked() {
        for wrong in ["", "-x", ".x", "a/b", "a b", "ä", &"x".repeat(101)] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
        assert_eq!(name("1.0+b_2-rc").unwrap(), "1.0+b_2-rc");
        assert_eq!(source("https://a/x.tgz").unwrap(), Source::There("https://a/x.tgz".parse().unwrap()));
        for (wrong, reason) in [("ftp://a/x", "not from ftp://"), ("http://", "no URL"), ("https://a:b@c/", "password")]
        {
            assert!(source(wrong).unwrap_err().contains(reason), "{wrong}");
        }
        assert!(sha256("12").is_err());
        assert_eq!(sha256(&"AB".repeat(32)).unwrap(), "ab".repeat(32));
    }
}
