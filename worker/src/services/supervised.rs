//! Services that the worker supervises itself, each by a supervisor of its own: see [`crate::supervisor`].

use std::{path::PathBuf, pin::pin, time::Duration};

use protocol::time::show_duration;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    Driver, Places, ServiceError, Standing, State, Tools, Up, Verb, check::Check, release, tools::logged,
    up::until_passed,
};
use crate::{
    detached,
    supervisor::{
        self,
        client::{Connection, SupervisorError, ensure},
        launch::{Launch, Listen},
        requests::{Place, Process, Request, Status},
    },
};

/// How often a supervisor is asked while a process comes up.
const EVERY: Duration = Duration::from_millis(20);

/// Why a check says nothing yet.
const OLD_ACCEPTS: &str =
    "the process before has its listening sockets still open, so that nobody knows which one a check would ask";

/// A service with a supervisor of its own.
#[derive(Clone)]
pub(crate) struct Supervised {
    pub(super) launch: Launch,
    pub(super) directory: PathBuf,
    pub(super) program: Option<PathBuf>,
    /// The directory of the application whose releases it runs.
    pub(super) app: Option<PathBuf>,
}

/// A candidate that has been up for the settling time. It is ended if there is no switch to it.
pub(crate) struct Takeover {
    connection: Connection,
    /// Its check has passed where nobody else could answer.
    checked: bool,
    /// It has passed at private sockets before: so it does not matter who answers now.
    proven: bool,
}

impl Takeover {
    /// Makes it the running process, and waits until the check passes that could not be made before.
    pub(crate) async fn switch(mut self, up: &Up, tools: &Tools<'_>) -> Result<(), ServiceError> {
        self.connection.ask(&Request::Switch).await?;
        let Some(check) = up.check.as_ref().filter(|_| !self.checked) else { return Ok(()) };
        if !self.proven {
            self.until_alone(tools).await?;
        }
        until_passed(check, tools).await
    }

    /// Waits until the process before accepts no connections: it could pass the check in the place of the new one. That is
    /// when it has closed its listening sockets, mostly at once; it may drain for as long as it likes.
    async fn until_alone(&mut self, tools: &Tools<'_>) -> Result<(), ServiceError> {
        while self.connection.ask(&Request::Status).await?.old_accepts {
            tokio::select! {
                () = sleep(EVERY) => {}
                () = tools.stop.cancelled() => return Err(ServiceError::NotInTime(OLD_ACCEPTS.into())),
            }
        }
        Ok(())
    }
}

impl Supervised {
    pub(super) fn new(name: &str, launch: Launch, places: &Places, app: Option<&PathBuf>) -> Self {
        let (directory, program) = (places.directory.join(name), places.supervisor.clone());
        Self { launch, directory, program, app: app.cloned() }
    }

    /// The same service, with this release of its application.
    pub(crate) fn of_release(&self, version: &str) -> Self {
        let app = self.app.as_deref();
        let launch = app.map_or_else(|| self.launch.clone(), |app| release::resolve(&self.launch, app, version));
        Self { launch, app: None, ..self.clone() }
    }

    /// The same service, with the release to which `current` leads.
    async fn of_current(&self) -> Result<Self, ServiceError> {
        let Some(app) = self.app.clone() else { return Ok(self.clone()) };
        let read = detached::call(move || release::current(&app)).await.flatten();
        Ok(read.map_err(ServiceError::Link)?.map_or_else(|| self.clone(), |version| self.of_release(&version)))
    }

    /// What runs and which release that is, if it was started as one.
    pub(crate) async fn running(&self) -> Result<Option<Process>, ServiceError> {
        Ok(self.status().await?.and_then(|status| status.running))
    }

    /// How all stands; `None` where there is no supervisor.
    async fn status(&self) -> Result<Option<Status>, ServiceError> {
        // One that just ends may still take the connection.
        while let Some(mut connection) = Connection::open(&self.directory).await? {
            match connection.ask(&Request::Status).await {
                Err(SupervisorError::Ended(_)) => sleep(EVERY).await,
                status => return Ok(Some(status?)),
            }
        }
        Ok(None)
    }

    /// Connects to the supervisor, and starts it where there is none. A new one starts nothing by itself.
    async fn supervisor(&self, tools: &Tools<'_>) -> Result<(Connection, Status), ServiceError> {
        let program = self.program.as_deref().ok_or(ServiceError::NoSupervisor)?;
        loop {
            let mut connection = ensure(program, &self.directory, true, tools.stop).await?;
            match connection.ask(&Request::Status).await {
                // One that just ends may still take the connection.
                Err(SupervisorError::Ended(_)) if !tools.stop.is_cancelled() => sleep(EVERY).await,
                status => return Ok((connection, status?)),
            }
        }
    }

    /// The check that a candidate at private sockets can pass, if there is one.
    fn private_check<'a>(&self, up: &'a Up) -> Option<&'a Check> {
        up.check.as_ref().filter(|check| self.launch.overlap && check.concerns(&self.launch.listen))
    }

    /// Starts a candidate at private sockets and checks it there, if something runs that could answer in its place. It is
    /// ended then. Returns whether it surely was the candidate that passed.
    pub(crate) async fn try_out(&self, up: &Up, tools: &Tools<'_>) -> Result<bool, ServiceError> {
        let Some(check) = self.private_check(up) else { return Ok(false) };
        if self.running().await?.is_none() {
            return Ok(false);
        }
        let (mut connection, _) = self.supervisor(tools).await?;
        let prepare = Request::Prepare { launch: Box::new(self.launch.clone()), place: Place::Private };
        let status = connection.ask(&prepare).await?;
        let addresses = status.candidate.map(|candidate| candidate.addresses).unwrap_or_default();
        let sockets: Vec<(Listen, String)> = self.launch.listen.iter().cloned().zip(addresses).collect();
        let mut tried = Ok(false);
        if let Some(check) = check.at(&sockets) {
            tools.live.progress("checks a new process at a private port");
            tried = self.passed(&check, tools, &mut connection).await.map(|()| check.is_bound());
        }
        // Whoever prepares the next one must not find it still there.
        connection.ask(&Request::Discard).await?;
        tried
    }

    /// Starts a candidate beside the running process, or in its place, and waits until it has been up for the settling
    /// time. Where nobody else could answer, its check has passed, too.
    pub(crate) async fn take_over(&self, up: &Up, tools: &Tools<'_>) -> Result<Takeover, ServiceError> {
        let (mut connection, status) = self.supervisor(tools).await?;
        let beside = self.launch.overlap && status.running.is_some();
        let place = if self.launch.overlap { Place::Beside } else { Place::Instead };
        connection.ask(&Request::Prepare { launch: Box::new(self.launch.clone()), place }).await?;
        let check = up.check.as_ref().filter(|_| !beside);
        let mut came = self.settle(up.settle, tools, &mut connection).await;
        if let (Ok(()), Some(check)) = (&came, check) {
            came = self.passed(check, tools, &mut connection).await;
        }
        match came {
            Ok(()) => Ok(Takeover { connection, checked: check.is_some(), proven: false }),
            Err(error) => {
                let _ = connection.ask(&Request::Discard).await;
                Err(error)
            }
        }
    }

    /// Checks the candidate until it passes. The socket of one that has ended is still open, so that a check alone might
    /// wait for nobody.
    async fn passed(&self, check: &Check, tools: &Tools<'_>, connection: &mut Connection) -> Result<(), ServiceError> {
        let mut problem = "it was not checked yet".to_owned();
        loop {
            let mut checking = pin!(check.run(tools));
            let found = loop {
                tokio::select! {
                    found = &mut checking => break found,
                    () = sleep(EVERY) => {}
                }
                self.candidate(connection).await?;
            };
            match found {
                Ok(()) => return Ok(()),
                Err(found) if !tools.stop.is_cancelled() => problem = found,
                Err(_) => {}
            }
            self.candidate(connection).await?;
            tokio::select! {
                () = sleep(EVERY) => {}
                () = tools.stop.cancelled() => return Err(ServiceError::NotInTime(problem)),
            }
        }
    }

    /// The candidate, which must not have ended.
    async fn candidate(&self, connection: &mut Connection) -> Result<Process, ServiceError> {
        let candidate = connection.ask(&Request::Status).await?.candidate;
        let candidate = candidate.ok_or_else(|| ServiceError::NotUp("its process is gone".into()))?;
        match candidate.ended {
            Some(how) => Err(ServiceError::NotUp(how)),
            None => Ok(candidate),
        }
    }

    /// Waits until the candidate has been up for the settling time.
    async fn settle(
        &self,
        settle: Duration,
        tools: &Tools<'_>,
        connection: &mut Connection,
    ) -> Result<(), ServiceError> {
        let mut since = None;
        loop {
            let candidate = self.candidate(connection).await?;
            if candidate.launched {
                let begin = *since.get_or_insert_with(Instant::now);
                if begin.elapsed() >= settle {
                    return Ok(());
                }
            }
            tokio::select! {
                () = sleep(EVERY) => {}
                () = tools.stop.cancelled() => {
                    return Err(ServiceError::NotInTime("its new process had not been up long enough".into()));
                }
            }
        }
    }
}

/// A supervisor's words as our own.
fn standing(status: &Status) -> Standing {
    let mut more = json!({ "crashes": status.crashes });
    let (state, detail) = match &status.running {
        _ if status.stopping => (State::Stopping, "being stopped".to_owned()),
        Some(process) => {
            more["up_since"] = json!(protocol::time::show_moment(process.since_ms));
            more["addresses"] = json!(process.addresses);
            if let Some(release) = &process.release {
                more["release"] = json!(release);
            }
            (State::Up, "running".to_owned())
        }
        None if status.candidate.is_some() => (State::Starting, "its process is being replaced".to_owned()),
        None => match (&status.last_end, status.next_start_ms) {
            (Some(end), Some(wait)) => {
                (State::Failed, format!("{end}; started again in {}", show_duration(Duration::from_millis(wait))))
            }
            (_, Some(_)) => (State::Starting, "about to be started".to_owned()),
            _ => (State::Down, "stopped".to_owned()),
        },
    };
    let main_pid = status.running.as_ref().map(|process| process.pid);
    Standing { state, detail, main_pid, more: more.as_object().cloned().unwrap_or_default() }
}

impl Driver for Supervised {
    const NAME: &'static str = "supervised";

    async fn standing(&self, _: &Tools<'_>) -> Result<Standing, ServiceError> {
        if let Some(status) = self.status().await? {
            return Ok(standing(&status));
        }
        let directory = self.directory.clone();
        let wanted = detached::call(move || supervisor::wanted(&directory)).await.and_then(|wanted| wanted);
        let (state, detail) = match wanted {
            Ok(None) => (State::Down, "stopped".to_owned()),
            Ok(Some(_)) => (State::Failed, "its supervisor has died; the worker starts another one".to_owned()),
            Err(error) => (State::Failed, format!("its directory cannot be read: {error}")),
        };
        Ok(Standing { state, detail, main_pid: None, more: serde_json::Map::new() })
    }

    async fn raise(&self, _: Verb, up: &Up, tools: &Tools<'_>) -> Result<(), ServiceError> {
        let service = self.of_current().await?;
        let proven = service.try_out(up, tools).await?;
        let takeover = service.take_over(up, tools).await?;
        Takeover { proven, ..takeover }.switch(up, tools).await
    }

    async fn stop(&self, tools: &Tools<'_>) -> Result<(), ServiceError> {
        let (mut connection, _) = self.supervisor(tools).await?;
        connection.ask(&Request::Stop).await?;
        tokio::select! {
            () = connection.closed() => Ok(()),
            () = tools.stop.cancelled() => Err(ServiceError::NotDown("its processes have not ended yet".into())),
        }
    }

    async fn reload(&self, tools: &Tools<'_>) -> Result<(), ServiceError> {
        self.supervisor(tools).await?.0.ask(&Request::Reload).await?;
        Ok(())
    }

    async fn last_lines(&self, lines: usize, _: &Tools<'_>) -> String {
        logged(&self.directory, lines).await
    }

    fn steps(&self, verb: Verb, standing: &Standing, up: &Up) -> Vec<String> {
        let pid = standing.main_pid.map_or("the running process".to_owned(), |pid| format!("process {pid}"));
        let drain = show_duration(Duration::from_millis(self.launch.drain_ms));
        let end = || format!("end {pid}: TERM, and KILL after {drain}");
        let start = format!("start {}", self.launch.argv.join(" "));
        let is_up = standing.state == State::Up;
        match verb {
            Verb::Stop => vec![end() + ", with all that it has started"],
            Verb::Reload => vec![format!("send HUP to {pid}")],
            Verb::Start | Verb::Restart => {
                let (settle, check) = up.steps();
                if !(is_up && self.launch.overlap) {
                    return is_up.then(end).into_iter().chain([start, settle]).chain(check).collect();
                }
                let private = self.private_check(up);
                let alone = check.is_some() && !private.is_some_and(Check::is_bound);
                let alone = alone.then(|| format!("wait until {pid} accepts no more connections"));
                let private = private.map(|check| format!("check a process at a private port: {}", check.describe()));
                let replace = [format!("{start}, beside {pid}"), settle, end()];
                private.into_iter().chain(replace).chain(alone).chain(check).collect()
            }
        }
    }
}
