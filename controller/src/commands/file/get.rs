//! `ctl file get`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use anyhow::{Context, bail};
use protocol::{
    artifact::{Artifact, ContentKey, Digester},
    name::HostName,
    outcome::State,
    targets::Targets,
};
use tempfile::NamedTempFile;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    super::{connect, proposal, watch},
    Place, select,
};
use crate::{
    cli::{keys, settings::Settings, transfers::Get},
    client::{Download, Event, Fleet, Follower, Host, HostResult, Job, Piece, Request, Signer, shorten, understand},
    output::{
        Advice, Exit, Format, Printer, Table, events, figures,
        results::{Results, View},
        summary::{Summary, is_good, troubles},
    },
};

/// The action.
const ACTION: &str = "file-get";

/// How long the rest of a file whose host has ended may take to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait before a lost connection is made again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Gets a file from hosts.
pub async fn run(options: Get, fleet: &mut Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    let (mut selected, mut left_out) = select(&options.targets, None, fleet, printer).await?;
    for place in &mut selected {
        left_out |= leave_out_offline(&mut place.hosts, fleet.now(), printer);
    }
    selected.retain(|place| !place.hosts.is_empty());
    let mut requests = Vec::new();
    for Place { path, hosts, .. } in &selected {
        let key = ContentKey::generate();
        let words = [format!("path={path}"), format!("content_key={}", key.to_text())];
        let known = understand(hosts, ACTION, &words, &[])?;
        proposal::refuse_alone(ACTION, known.approvals)?;
        let request = Request {
            action: ACTION.into(),
            arguments: known.arguments,
            secrets: known.secrets,
            targets: Targets::new(hosts.iter().map(|host| host.name.clone())),
            timeout: options.timeout.or(settings.timeout).unwrap_or(known.timeout),
            start_by: settings.start_by,
            retention: settings.retention,
            keep_output: None,
            operator: settings.operator.clone(),
            trace: settings.trace.clone(),
        };
        requests.push((path, key, request));
    }
    check_names(&selected, &options.directory)?;
    if requests.is_empty() {
        bail!(Advice::new("nothing was sent: no host is online"));
    }

    let signer = keys::open(settings).await?;
    // Pieces are taken over a connection of its own, while the job is followed.
    let mut link = connect(settings).await?;
    let mut states = Vec::new();
    for (path, key, request) in requests {
        let job = fleet.dispatch(request, &signer, &mut |event| events::note_dispatch(&event, printer)).await?;
        let mut files = Files::new(&options.directory, Path::new(path));
        let mut follower = Follower::of_new(&job);
        let mut download = Download::new(&job, &key);
        printer.start_progress(follower.results().count());
        let ended = loop {
            match follow(&job, &mut follower, &mut download, &mut files, (&mut *fleet, &mut link), printer).await {
                // The host would wait in vain for somebody to take the rest.
                Ok(Pause::Failed(hosts)) => drop(fleet.cancel(&job, &hosts, &settings.operator, &signer).await?),
                ended => break ended,
            }
        };
        printer.stop_progress();
        // What stays would expire soon.
        let _ = download.clear(&mut link).await;
        if let Pause::Interrupted = ended? {
            return cancel(&job, fleet, &signer, settings, printer).await;
        }
        let results: Vec<_> = follower.results().collect();
        files.print(&job, &results, fleet.now(), printer)?;
        states.extend(results.iter().map(|result| files.state(result)));
    }
    Ok(Exit::of(states).with_left_out(left_out))
}

/// Nobody would take what a host hands over later. Returns whether there were any.
fn leave_out_offline(hosts: &mut Vec<Host>, now: u64, printer: &Printer) -> bool {
    let offline: Vec<_> = hosts.extract_if(.., |host| !host.is_online(now)).map(|host| host.name).collect();
    if !offline.is_empty() {
        let are = if offline.len() == 1 { "is" } else { "are" };
        printer.trouble(&format!("left out: {} {are} offline", shorten(&offline)));
    }
    !offline.is_empty()
}

/// Two files of a host must not get the same name here.
fn check_names(selected: &[Place], directory: &Path) -> anyhow::Result<()> {
    let mut names = BTreeSet::new();
    for Place { path, hosts, .. } in selected {
        for host in hosts {
            let name = (host.name.clone(), file_name(Path::new(path))?);
            if let (false, (host, name)) = (names.insert(name.clone()), name) {
                let both = directory.join(host.as_str()).join(name);
                bail!(
                    Advice::new(format!("two files would become {}", both.display()))
                        .hint("get them one after another")
                );
            }
        }
    }
    Ok(())
}

fn file_name(path: &Path) -> anyhow::Result<PathBuf> {
    path.file_name().map(PathBuf::from).with_context(|| format!("'{}' names no file", path.display()))
}

async fn cancel(
    job: &Job,
    fleet: &mut Fleet,
    signer: &Signer,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    printer.leave_line();
    fleet.cancel(job, &[], &settings.operator, signer).await?;
    printer.note("cancelled: files that were not complete were removed");
    Ok(Exit::Incomplete)
}

/// Why files are not taken any more.
enum Pause {
    /// All hosts have ended, and their files are complete.
    Complete,
    /// What these hosts send is of no use. They are still at it.
    Failed(Vec<HostName>),
    /// By Ctrl-C.
    Interrupted,
}

/// Takes the files of a job.
async fn follow(
    job: &Job,
    follower: &mut Follower<'_>,
    download: &mut Download,
    files: &mut Files<'_>,
    (fleet, link): (&mut Fleet, &mut Fleet),
    printer: &Printer,
) -> anyhow::Result<Pause> {
    let mut interrupt = pin!(tokio::signal::ctrl_c());
    let (mut ended, mut heard) = (false, Instant::now());
    while !ended || !files.expected.is_empty() {
        tokio::select! {
            Ok(()) = &mut interrupt => return Ok(Pause::Interrupted),
            () = sleep_until(heard + PATIENCE), if ended => files.give_up(),
            event = follower.next(fleet), if !ended => match event.map_err(|error| watch::goes_on(job, error))? {
                None => (ended, heard) = (true, Instant::now()),
                Some(Event::Finished(result)) => {
                    if !files.end(&result) {
                        download.close(&result.host);
                    }
                    printer.progress(follower.results());
                }
                Some(event) => events::note(&event, job, fleet.now(), printer),
            },
            pieces = download.next(link) => match pieces {
                Ok(pieces) => {
                    heard = Instant::now();
                    let mut failed = Vec::new();
                    for Piece { host, bytes } in pieces {
                        if !files.take(&host, bytes) {
                            download.close(&host);
                            failed.extend(files.failed.contains_key(&host).then_some(host));
                        }
                    }
                    if !failed.is_empty() {
                        return Ok(Pause::Failed(failed));
                    }
                }
                Err(error) if error.is_transient() => {
                    sleep(AGAIN_AFTER).await;
                    // Where there is no connection, the next attempt fails with the dead one.
                    let _ = link.reconnect().await;
                }
                Err(error) => return Err(watch::goes_on(job, error).into()),
            },
        }
    }
    Ok(Pause::Complete)
}

/// The files of one path, one for each host.
struct Files<'a> {
    directory: &'a Path,
    name: PathBuf,
    /// What has come so far.
    begun: BTreeMap<HostName, Begun>,
    /// What the hosts say that it is, of those whose files are not complete.
    expected: BTreeMap<HostName, Artifact>,
    /// Complete files.
    complete: BTreeMap<HostName, (PathBuf, u64)>,
    /// Why there is none.
    failed: BTreeMap<HostName, String>,
}

/// A file that is not complete. It is removed when it is dropped.
struct Begun {
    file: NamedTempFile,
    content: Digester,
}

impl<'a> Files<'a> {
    fn new(directory: &'a Path, path: &Path) -> Self {
        let name = path.file_name().map(PathBuf::from).unwrap_or_default();
        let (begun, expected) = (BTreeMap::new(), BTreeMap::new());
        Self { directory, name, begun, expected, complete: BTreeMap::new(), failed: BTreeMap::new() }
    }

    /// Adds a piece. Returns whether more may come.
    fn take(&mut self, host: &HostName, bytes: Option<Vec<u8>>) -> bool {
        let added = match bytes {
            Some(bytes) => self.add(host, &bytes),
            None => Err(anyhow::anyhow!("what Redis has of the file is not what the host has sent: it was altered")),
        };
        match added {
            Ok(()) => self.complete(host),
            Err(error) => self.fail(host, &error),
        }
    }

    fn add(&mut self, host: &HostName, bytes: &[u8]) -> anyhow::Result<()> {
        if !self.begun.contains_key(host) {
            self.begin(host)?;
        }
        let Some(begun) = self.begun.get_mut(host) else { return Ok(()) };
        begun.content.update(bytes);
        begun.file.write_all(bytes).with_context(|| format!("cannot write {}", begun.file.path().display()))
    }

    fn begin(&mut self, host: &HostName) -> anyhow::Result<()> {
        let directory = self.directory.join(host.as_str());
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let file =
            NamedTempFile::new_in(&directory).with_context(|| format!("cannot write in {}", directory.display()))?;
        self.begun.insert(host.clone(), Begun { file, content: Digester::default() });
        Ok(())
    }

    /// A host has ended. Returns whether more of its file may come.
    fn end(&mut self, result: &HostResult) -> bool {
        let host = &result.host;
        if self.failed.contains_key(host) {
            return false;
        }
        if !is_good(result) {
            self.begun.remove(host);
            return false;
        }
        match stated(result) {
            Some(artifact) => {
                let begun = if self.begun.contains_key(host) { Ok(()) } else { self.begin(host) };
                if let Err(error) = begun {
                    return self.fail(host, &error);
                }
                self.expected.insert(host.clone(), artifact);
                self.complete(host)
            }
            None => self.fail(host, &anyhow::anyhow!("the host does not say what the file is")),
        }
    }

    /// Gives the file its name if it is complete. Returns whether more may come.
    fn complete(&mut self, host: &HostName) -> bool {
        let (Some(artifact), Some(begun)) = (self.expected.get(host), self.begun.get(host)) else { return true };
        if begun.content.bytes() < artifact.bytes() {
            return true;
        }
        let artifact = *artifact;
        match self.name(host, &artifact) {
            Ok(path) => {
                self.expected.remove(host);
                self.complete.insert(host.clone(), (path, artifact.bytes()));
                false
            }
            Err(error) => self.fail(host, &error),
        }
    }

    fn name(&mut self, host: &HostName, artifact: &Artifact) -> anyhow::Result<PathBuf> {
        let Some(Begun { file, content }) = self.begun.remove(host) else { bail!("there is no file") };
        if content.artifact() != *artifact {
            bail!("what has come does not have the digest that the host has signed");
        }
        let directory = self.directory.join(host.as_str());
        let path = directory.join(&self.name);
        let failed = || format!("cannot write {}", path.display());
        file.as_file().sync_all().with_context(failed)?;
        file.persist(&path).with_context(failed)?;
        fs::File::open(&directory).and_then(|directory| directory.sync_all()).with_context(failed)?;
        Ok(path)
    }

    fn fail(&mut self, host: &HostName, error: &anyhow::Error) -> bool {
        self.begun.remove(host);
        self.expected.remove(host);
        self.failed.insert(host.clone(), format!("{error:#}"));
        false
    }

    /// The hosts have ended, and nothing more comes: Redis has lost it.
    fn give_up(&mut self) {
        let waiting: Vec<_> = self.expected.keys().cloned().collect();
        for host in waiting {
            self.fail(&host, &anyhow::anyhow!("the rest of the file is not in Redis any more: get it again"));
        }
    }

    /// How it went for a host: what the host has done may have been lost on the way.
    fn state(&self, result: &HostResult) -> State {
        if self.failed.contains_key(&result.host) { State::Failed } else { result.state }
    }

    fn print(&self, job: &Job, results: &[&HostResult], now: u64, printer: &Printer) -> anyhow::Result<()> {
        for (host, reason) in &self.failed {
            printer.trouble(&format!("{host}: failed: {reason}"));
        }
        if printer.format() != Format::Table {
            let mut output = Results::new(job, results.len(), false, View::Figures, printer);
            for result in results {
                output.one(result)?;
            }
            return output.all(results, now);
        }
        let mut table = Table::new(["HOST", "SIZE", "FILE"]);
        for (host, (path, bytes)) in &self.complete {
            table.row([host.as_str().into(), figures::bytes(*bytes as f64).into(), path.display().to_string().into()]);
        }
        if !self.complete.is_empty() {
            printer.table(&table)?;
        }
        let summary = Summary::of(job.manifest(), results, now).of_results(results);
        match results {
            [result] if !is_good(result) => printer.trouble(&summary),
            _ => {
                for line in troubles(results) {
                    printer.trouble(&line);
                }
                printer.note(&summary);
            }
        }
        Ok(())
    }
}

/// What the host has signed that the file is.
fn stated(result: &HostResult) -> Option<Artifact> {
    let data = result.outcome.as_ref()?.data.as_ref()?;
    format!("{}:{}", data.get("sha256")?.as_str()?, data.get("size_bytes")?.as_u64()?).parse().ok()
}
