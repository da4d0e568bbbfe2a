//! A worker's actions: the contract of an action, and the catalogue of all actions.

mod collect;
mod deploy;
mod ended;
mod exec;
mod file_get;
mod file_put;
mod own;
mod ping;
mod service;
mod set_trust;
mod subjects;
mod would;

use std::{collections::BTreeMap, error::Error, path::PathBuf, pin::Pin, sync::Arc};

use protocol::{
    action::{ActionSpec, Arguments},
    outcome::Captured,
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;

use self::own::OwnAction;
pub use self::{
    own::{ActionsDir, DirectoryError, OwnActions, Problem},
    subjects::Subjects,
};
use crate::{
    apps::Apps,
    artifacts::Artifacts,
    files,
    live::Live,
    metrics::{Collector, Figures, MetricGroup, Topic},
    policy::Policy,
    program::{self, Ended, Owner, Program, ProgramError},
    services::{Registry, Verb},
    trust::Changes,
};

/// All actions. `subjects` tell which commands are about the same thing. To add one, write its file, and
/// name it here.
fn all(subjects: &Arc<Subjects>) -> Vec<Registered> {
    let mut all = vec![
        register(ping::Ping),
        register(exec::Exec),
        register(file_put::FilePut),
        register(file_get::FileGet),
        register(deploy::Deploy(Arc::clone(subjects))),
        register(deploy::Rollback(Arc::clone(subjects))),
        register(deploy::Status),
        register(set_trust::SetTrust),
        register(collect::CollectProcesses),
        register(collect::CollectFacts),
        register(collect::CollectAll),
    ];
    let change = |verb| register(service::Change { verb, subjects: Arc::clone(subjects) });
    all.extend([Verb::Start, Verb::Stop, Verb::Restart, Verb::Reload].map(change));
    all.push(register(service::Status));
    all.extend(MetricGroup::ALL.into_iter().map(|group| register(collect::Collect(group))));
    all
}

/// Something a worker can do.
pub trait Action: Send + Sync + 'static {
    /// The arguments. Fields are named like the parameters of [`Self::spec`], which also has the defaults.
    type Arguments: DeserializeOwned + Send + Sync + 'static;

    /// Name, parameters, repeatability.
    fn spec(&self) -> ActionSpec;

    /// Commands with the same key run one after another in arrival order: those of the same service,
    /// or of the same application.
    fn exclusion(&self, _: &Self::Arguments) -> Option<String> {
        None
    }

    /// Executes the action. It must end soon after `context.stop` is cancelled, and should still report what happened
    /// until then.
    fn run(&self, arguments: Self::Arguments, context: Context)
    -> impl Future<Output = Result<Output, Failure>> + Send;
}

/// The arguments of an action that takes none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoArguments {}

/// What a worker offers to its actions.
pub struct Services {
    /// Where the worker keeps the data that must outlive it.
    pub state_dir: PathBuf,
    /// Reads the host's figures.
    pub collector: Collector,
    /// The services of the host.
    pub(crate) registry: Registry,
    /// The applications of the host.
    pub(crate) apps: Apps,
    /// Brings content to this host and away from it.
    pub artifacts: Artifacts,
    /// Where operators may put and get files.
    pub files: files::Allowed,
    /// Changes whom this host trusts.
    pub(crate) trust: Changes,
}

/// Who asks for a command.
#[derive(Clone, Debug)]
pub struct Requester {
    /// The principal whose signature was verified.
    pub principal: String,
    /// The key or certificate that signed, in the SSH encoding.
    pub signer: Vec<u8>,
}

/// One call of an action.
pub struct Context {
    /// The command.
    pub owner: Owner,
    /// Who asks for it.
    pub requester: Requester,
    /// Cancelled when the command must end: timeout, cancel, shutdown.
    pub stop: CancellationToken,
    /// How many bytes of each output stream the result keeps.
    pub keep_output: usize,
    /// Takes output and progress while the action runs.
    pub live: Live,
    /// What the worker offers.
    pub services: Arc<Services>,
}

impl Context {
    /// Runs a program to its end; it is ended with the command.
    pub async fn run_program(&self, program: Program) -> Result<Ended, ProgramError> {
        program::run(program, self.owner.clone(), self.keep_output, &self.stop, &self.live).await
    }

    /// Reads the host's figures.
    pub fn collector(&self) -> &Collector {
        &self.services.collector
    }
}

/// What an action reports at its end, whether or not it succeeded.
#[derive(Debug, Default)]
pub struct Output {
    /// The program's exit code, where it ran one that exited by itself.
    pub exit_code: Option<i32>,
    /// The signal that ended the program, where one did.
    pub signal: Option<i32>,
    /// A remark that becomes part of the outcome's reason.
    pub remark: Option<String>,
    /// Standard output.
    pub stdout: Captured,
    /// Standard error.
    pub stderr: Captured,
    /// Structured data.
    pub data: Option<Figures>,
    /// Figures to bring up to date with the result.
    pub metrics: Vec<(Topic, Figures)>,
}

impl Output {
    /// An output with structured data only.
    pub fn of(data: Figures) -> Self {
        Self { data: Some(data), ..Self::default() }
    }
}

/// Why an action did not succeed, and what it reports all the same.
#[derive(Debug)]
pub struct Failure {
    /// Becomes the outcome's reason, with its sources.
    pub error: Box<dyn Error + Send + Sync>,
    /// The output until then.
    pub output: Box<Output>,
}

impl Failure {
    /// A failure without output.
    pub fn new(error: impl Error + Send + Sync + 'static) -> Self {
        Self { error: Box::new(error), output: Box::default() }
    }

    /// Replaces the output.
    #[must_use]
    pub fn with(self, output: Output) -> Self {
        Self { output: Box::new(output), ..self }
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

/// An action with its arguments, to be run once.
pub struct Call {
    /// See [`Action::exclusion`].
    pub exclusion: Option<String>,
    run: Box<dyn FnOnce(Context) -> ActionFuture + Send + Sync>,
}

/// An action at work.
pub type ActionFuture = Pin<Box<dyn Future<Output = Result<Output, Failure>> + Send>>;

impl Call {
    /// Runs it.
    pub fn run(self, context: Context) -> ActionFuture {
        (self.run)(context)
    }
}

/// Makes a call of checked arguments.
type Prepare = Box<dyn Fn(Arguments) -> Result<Call, serde_json::Error> + Send + Sync>;

/// An action with its type erased.
struct Registered {
    spec: ActionSpec,
    prepare: Prepare,
}

fn register<A: Action>(action: A) -> Registered {
    let (spec, action) = (action.spec(), Arc::new(action));
    let prepare = move |arguments: Arguments| {
        let arguments: A::Arguments = serde_json::from_value(serde_json::to_value(arguments)?)?;
        let (exclusion, action) = (action.exclusion(&arguments), Arc::clone(&action));
        let run =
            move |context: Context| -> ActionFuture { Box::pin(async move { action.run(arguments, context).await }) };
        Ok(Call { exclusion, run: Box::new(run) })
    };
    Registered { spec, prepare: Box::new(prepare) }
}

fn register_own(action: &Arc<OwnAction>) -> Registered {
    let (spec, action) = (action.spec().clone(), Arc::clone(action));
    let prepare = move |arguments: Arguments| {
        let (exclusion, action) = (action.exclusion(&arguments), Arc::clone(&action));
        let run =
            move |context: Context| -> ActionFuture { Box::pin(async move { action.run(arguments, context).await }) };
        Ok(Call { exclusion, run: Box::new(run) })
    };
    Registered { spec, prepare: Box::new(prepare) }
}

/// The descriptions of all actions that every worker has.
pub fn specs() -> Vec<ActionSpec> {
    all(&Arc::default()).into_iter().map(|action| action.spec).collect()
}

/// The actions of one worker, by name.
pub struct Catalogue {
    actions: BTreeMap<String, Registered>,
}

impl Catalogue {
    /// All actions, with those of the host's own. One that the policy grants to nobody is published as not allowed.
    pub fn new(policy: &Policy, own: &OwnActions, subjects: &Arc<Subjects>) -> Self {
        let own = own.actions().map(register_own);
        let registered = own.chain(all(subjects)).map(|mut action| {
            action.spec.allowed = policy.allows_at_all(&action.spec);
            action.spec.approvals = policy.approvals_needed(&action.spec).max(1);
            (action.spec.name.clone(), action)
        });
        Self { actions: registered.collect() }
    }

    /// The description of the action of that name.
    pub fn spec(&self, name: &str) -> Option<&ActionSpec> {
        self.actions.get(name).map(|action| &action.spec)
    }

    /// An action with arguments that its description accepts, defaults included.
    ///
    /// # Errors
    /// The arguments do not fit: the description and the action disagree.
    pub fn prepare(&self, name: &str, arguments: Arguments) -> Option<Result<Call, serde_json::Error>> {
        self.actions.get(name).map(|action| (action.prepare)(arguments))
    }

    /// The descriptions of all actions, as the facts publish them.
    pub fn specs(&self) -> impl Iterator<Item = &ActionSpec> {
        self.actions.values().map(|action| &action.spec)
    }
}

#[cfg(test)]
mod tests {
    use protocol::action::{Argument, Kind, Parameter, Repeat};

    use super::*;

    #[test]
    fn what_may_change_the_host_is_off_until_allowed() {
        let allowed = |allow: &[String]| {
            let catalogue =
                Catalogue::new(&Policy::default_of(&specs(), allow), &OwnActions::default(), &Arc::default());
            let allowed = catalogue.specs().filter(|spec| spec.repeat == Repeat::Once && spec.allowed);
            allowed.map(|spec| spec.name.clone()).collect::<Vec<_>>()
        };
        assert!(allowed(&[]).is_empty());
        assert_eq!(allowed(&["exec".into()]), ["exec"]);
        assert!(
            Catalogue::new(&Policy::default_of(&specs(), &[]), &OwnActions::default(), &Arc::default())
                .spec("ping")
                .unwrap()
                .allowed
        );
    }

    #[test]
    fn the_promised_actions_are_there() {
        let catalogue = Catalogue::new(&Policy::default_of(&specs(), &[]), &OwnActions::default(), &Arc::default());
        let groups = MetricGroup::ALL.map(MetricGroup::name);
        let collects = groups.into_iter().chain(["all", "facts", "processes"]).map(|group| format!("collect-{group}"));
        let services = ["start", "stop", "restart", "reload", "status"];
        let others = ["exec", "file-get", "file-put", "ping", "deploy", "deploy-rollback", "deploy-status"];
        let others = others.into_iter().chain(services);
        for promised in collects.chain(others.map(str::to_owned)) {
            assert!(catalogue.spec(&promised).is_some(), "{promised}");
        }
    }

    /// An argument that the parameter accepts.
    fn sample(parameter: &Parameter) -> Argument {
        match &parameter.kind {
            Kind::Text | Kind::Unknown => Argument::Text("x".into()),
            Kind::Integer { min, .. } => Argument::Integer(*min),
            Kind::Boolean => Argument::Boolean(true),
            Kind::Choice { values } => Argument::Text(values[0].clone()),
            Kind::Duration => Argument::Text("1s".into()),
            Kind::Path => Argument::Text("/".into()),
            Kind::Pattern { patterns } => Argument::Text(patterns[0].clone()),
            Kind::PathUnder { roots } => Argument::Text(roots[0].clone()),
            Kind::List => Argument::List(vec!["x".into()]),
            Kind::Map => Argument::Map([("x".into(), "y".into())].into()),
        }
    }

    #[test]
    fn descriptions_and_argument_types_agree() {
        let catalogue = Catalogue::new(&Policy::default_of(&specs(), &[]), &OwnActions::default(), &Arc::default());
        for spec in catalogue.specs() {
            let with = |wanted: &dyn Fn(&&Parameter) -> bool| {
                let given = spec.parameters.iter().filter(wanted);
                let given = given.map(|parameter| (parameter.name.clone(), sample(parameter))).collect();
                catalogue.prepare(&spec.name, spec.check(given).unwrap()).unwrap()
            };
            assert!(with(&|_| true).is_ok(), "{}: every parameter is a field", spec.name);
            assert!(with(&|parameter| parameter.required).is_ok(), "{}: every other field is optional", spec.name);
        }
    }
}
