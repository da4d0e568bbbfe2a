//! An own action at work.

use std::collections::BTreeMap;

use protocol::{
    action::{ActionSpec, Argument, Arguments, CHANGED, DRY_RUN, Kind, Repeat, WOULD},
    limits,
    outcome::Captured,
};
use serde_json::{Value, json};

use super::{
    super::{Context, Failure, Output, ended, exec, would},
    confined::{self, PathError},
    definition::Definition,
    draft::Reading,
};
use crate::{
    detached,
    log::{self, excerpt},
    metrics::{Figures, Topic, stamped},
    program::{self, Program},
};

/// Lines that a rehearsing program may print.
const WOULD_LINES: usize = 1000;

/// An own action.
#[derive(Debug)]
pub(in crate::actions) struct OwnAction {
    definition: Definition,
}

/// Why an own action did not succeed.
#[derive(Debug, thiserror::Error)]
enum OwnError {
    #[error("the parameter '{0}' cannot be used")]
    Path(String, #[source] PathError),
    #[error("its standard output is no JSON object")]
    NoObject(#[source] serde_json::Error),
    #[error("its standard output has more than {} bytes", limits::DATA_BYTES)]
    Long,
    #[error("its standard output says '{CHANGED}', which must be true or false")]
    Unclear,
}

impl OwnAction {
    pub(super) fn new(definition: Definition) -> Self {
        Self { definition }
    }

    pub(in crate::actions) fn spec(&self) -> &ActionSpec {
        &self.definition.spec
    }

    /// Commands with the same lock run one after another, as those of `exec` do.
    pub(in crate::actions) fn exclusion(&self, arguments: &Arguments) -> Option<String> {
        Some(exec::lock(&self.definition.lock.as_ref()?.fill(arguments)?))
    }

    /// Runs the program. `arguments` fit the description, and have its defaults.
    pub(in crate::actions) async fn run(&self, mut arguments: Arguments, context: Context) -> Result<Output, Failure> {
        self.confine(&mut arguments).await?;
        let rehearses = arguments.get(DRY_RUN) == Some(&Argument::Boolean(true));
        if rehearses && !self.definition.rehearses {
            return Ok(Output::of(self.would(&arguments)));
        }
        let name = excerpt(self.argv(&arguments).first().map_or("", String::as_str), log::NAME);
        let program = self.program(&arguments);
        let is_json = self.definition.reading == Reading::Json;
        let Context { owner, stop, live, keep_output, .. } = context;
        // What becomes data is no output.
        let live = if is_json { live.without_stdout() } else { live };
        let keep = if is_json { keep_output.max(limits::DATA_BYTES) } else { keep_output };
        let program = program::run(program, owner, keep, &stop, &live).await;
        let (mut output, error) = ended::report(program.map_err(ended::not_started(&name))?, &stop);

        let read = if is_json {
            self.read(&mut output, rehearses)
        } else {
            self.tell(&mut output, rehearses);
            Ok(())
        };
        match (error, read) {
            (Some(error), _) => Err(Failure::new(error).with(output)),
            // Whoever ended it knows why there is no result.
            (None, Err(_)) if stop.is_cancelled() => Ok(output),
            (None, Err(error)) => Err(Failure::new(error).with(output)),
            (None, Ok(())) => Ok(output),
        }
    }

    /// Replaces paths by what they lead to, which must lie below their roots.
    async fn confine(&self, arguments: &mut Arguments) -> Result<(), Failure> {
        for parameter in &self.definition.spec.parameters {
            let Kind::PathUnder { roots } = &parameter.kind else { continue };
            let Some(Argument::Text(path)) = arguments.get(&parameter.name) else { continue };
            let (path, roots) = (path.clone(), roots.clone());
            // A mount may hang.
            let resolved = detached::call(move || confined::resolve(&path, &roots)).await?;
            let resolved = resolved.map_err(|error| OwnError::Path(parameter.name.clone(), error))?;
            arguments.insert(parameter.name.clone(), Argument::Text(resolved));
        }
        Ok(())
    }

    fn argv(&self, arguments: &Arguments) -> Vec<String> {
        let groups = self.definition.argv.iter();
        groups
            .filter_map(|group| group.iter().map(|word| word.fill(arguments)).collect::<Option<Vec<_>>>())
            .flatten()
            .collect()
    }

    fn env(&self, arguments: &Arguments) -> BTreeMap<String, String> {
        let env = self.definition.env.iter();
        env.filter_map(|(name, value)| Some((name.clone(), value.fill(arguments)?))).collect()
    }

    fn program(&self, arguments: &Arguments) -> Program {
        let Definition { user, cwd, stdin, .. } = &self.definition;
        let stdin = stdin.then(|| serde_json::to_vec(arguments).expect("plain data always encodes"));
        Program {
            argv: self.argv(arguments),
            env: self.env(arguments),
            cwd: cwd.clone(),
            user: user.clone(),
            stdin,
            ..Program::default()
        }
    }

    /// What would be run. No secret is in it: none stands in an argument.
    fn would(&self, arguments: &Arguments) -> Figures {
        let program = self.program(arguments);
        let mut steps = would::steps(&program);
        steps.extend(program.stdin.map(|_| "with its parameters as JSON on standard input".to_owned()));
        would::data(&steps)
    }

    fn changes(&self) -> bool {
        self.definition.spec.repeat == Repeat::Once
    }

    /// The result of a program that has no other one than its exit code.
    fn tell(&self, output: &mut Output, rehearses: bool) {
        if !self.changes() {
            return;
        }
        let mut data = Figures::from_iter([(CHANGED.to_owned(), json!(!rehearses))]);
        if rehearses {
            let text = String::from_utf8_lossy(&output.stdout.kept).into_owned();
            let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).take(WOULD_LINES).collect();
            data.insert(WOULD.to_owned(), json!(lines));
            output.stdout = Captured::default();
        }
        output.data = Some(data);
    }

    /// Reads the result from standard output. What cannot be read stays there.
    fn read(&self, output: &mut Output, rehearses: bool) -> Result<(), OwnError> {
        if output.stdout.cut_bytes > 0 || output.stdout.kept.len() > limits::DATA_BYTES {
            return Err(OwnError::Long);
        }
        let mut data: Figures = serde_json::from_slice(&output.stdout.kept).map_err(OwnError::NoObject)?;
        if self.changes() && !data.get(CHANGED).unwrap_or(&Value::Bool(false)).is_boolean() {
            return Err(OwnError::Unclear);
        }
        if self.changes() {
            data.entry(CHANGED).or_insert(json!(!rehearses));
        }
        if self.definition.spec.metrics && !rehearses {
            let is_figure =
                |(_, value): &(&String, &Value)| !value.is_array() && !value.is_object() && !value.is_null();
            let figures = data.iter().filter(is_figure).map(|(name, value)| (name.clone(), value.clone())).collect();
            output.metrics = vec![(Topic::Own(self.definition.spec.name.clone()), stamped(figures))];
        }
        output.stdout = Captured::default();
        output.data = Some(data);
        Ok(())
    }
}
