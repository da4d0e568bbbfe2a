//! `worker policy test`: what the policy says about a command that nobody has sent.

use clap::{Args, Subcommand};
use protocol::action::{ActionSpec, Argument, Arguments, Kind};

use crate::{
    policy::{CANCEL, Decision, Policy, RIGHTS},
    spelling::did_you_mean,
};

/// What a worker does besides working.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Ask the policy of this host
    #[command(subcommand)]
    Policy(Question),
}

/// What can be asked.
#[derive(Clone, Debug, Subcommand)]
pub enum Question {
    /// Say whether somebody may run an action, and which rule says so [exit code: 0 granted, 1 denied]
    Test(Test),
}

/// A command that nobody has sent.
#[derive(Clone, Debug, Args)]
pub struct Test {
    /// Who requests it, as the trust file names the signer
    #[arg(long, value_name = "NAME")]
    principal: String,
    /// What is to run, or 'cancel' for the right to cancel the jobs of others
    #[arg(long, value_name = "ACTION")]
    action: String,
    /// An argument; a list has one for each word, a map is given as NAME.KEY=VALUE
    #[arg(long = "arg", value_name = "NAME=VALUE")]
    arguments: Vec<String>,
    /// Who else has signed; may be repeated
    #[arg(long, value_name = "NAME")]
    approved_by: Vec<String>,
    /// The words of a program
    #[arg(last = true, value_name = "WORDS")]
    words: Vec<String>,
}

/// The answer.
#[derive(Debug)]
pub struct Answer {
    /// Whether the command may run.
    pub granted: bool,
    /// The decision and the rules, in lines.
    pub text: String,
}

impl Test {
    /// Asks the policy. `specs`: all actions of the host.
    ///
    /// # Errors
    /// There is no such action, or the arguments do not fit it.
    pub fn ask(&self, policy: &Policy, specs: &[ActionSpec]) -> Result<Answer, String> {
        if let Some(right) = RIGHTS.into_iter().find(|right| self.action == *right) {
            return Ok(self.ask_right(right, policy));
        }
        let spec = specs.iter().find(|spec| spec.name == self.action).ok_or_else(|| {
            let names: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).chain(RIGHTS).collect();
            let (shown, meant) = (self.action.escape_debug(), did_you_mean(&self.action, &names));
            format!("there is no action '{shown}'{meant}; there are {}", names.join(", "))
        })?;
        let arguments = self.arguments(spec)?;
        let principals: Vec<_> = [&self.principal].into_iter().chain(&self.approved_by).map(String::as_str).collect();

        let decision = policy.decide(&principals, spec, &arguments);
        let (Decision::Granted { rule } | Decision::Denied { nearest: Some(rule), .. }) = &decision else {
            return Ok(Answer { granted: false, text: format!("{decision}\n{}", listed(policy)) });
        };
        let start = format!("{rule}: ");
        let rule = policy.describe().into_iter().find(|line| line.starts_with(&start)).unwrap_or_default();
        Ok(Answer { granted: decision.is_granted(), text: format!("{decision}\n  {rule}\n") })
    }

    fn ask_right(&self, right: &str, policy: &Policy) -> Answer {
        let granted = policy.has_right(&self.principal, right);
        let who = self.principal.escape_debug();
        let (can, without) = if right == CANCEL {
            ("cancel the jobs of others", "everybody may cancel their own jobs")
        } else {
            ("give standing orders", "what they run themselves is another question")
        };
        let text = if granted {
            format!("granted: '{who}' may {can}\n")
        } else {
            format!("denied: no rule gives '{who}' the right '{right}'; {without}\n")
        };
        Answer { granted, text: format!("{text}{}", listed(policy)) }
    }

    fn arguments(&self, spec: &ActionSpec) -> Result<Arguments, String> {
        let mut arguments = Arguments::new();
        for given in &self.arguments {
            let (name, text) = given.split_once('=').ok_or_else(|| format!("--arg {given}: write NAME=VALUE"))?;
            let (name, key) = name.split_once('.').map_or((name, None), |(name, key)| (name, Some(key)));
            let parameter = spec.parameter(name).ok_or_else(|| spec.unknown(name).to_string())?;
            match (&parameter.kind, key) {
                (Kind::List, None) => push(&mut arguments, name, text),
                (Kind::Map, Some(key)) => {
                    let map = arguments.entry(name.to_owned()).or_insert_with(|| Argument::Map([].into()));
                    if let Argument::Map(map) = map {
                        map.insert(key.to_owned(), text.to_owned());
                    }
                }
                (Kind::Map, None) => return Err(format!("--arg {name}: write {name}.KEY=VALUE")),
                (_, Some(_)) => return Err(format!("--arg {name}: it has no parts, write {name}=VALUE")),
                (_, None) => {
                    let argument = parameter.read(&spec.name, text).map_err(|error| error.to_string())?;
                    arguments.insert(name.to_owned(), argument);
                }
            }
        }
        if let (Some(parameter), false) =
            (spec.parameters.iter().find(|parameter| parameter.trailing), self.words.is_empty())
        {
            self.words.iter().for_each(|word| push(&mut arguments, &parameter.name, word));
        } else if !self.words.is_empty() {
            return Err(format!("{} takes no words behind --", spec.name));
        }
        spec.check(arguments).map_err(|error| error.to_string())
    }
}

fn push(arguments: &mut Arguments, name: &str, word: &str) {
    if let Argument::List(list) = arguments.entry(name.to_owned()).or_insert_with(|| Argument::List(Vec::new())) {
        list.push(word.to_owned());
    }
}

/// All rules, for a decision that none of them made.
fn listed(policy: &Policy) -> String {
    let rules: Vec<_> = policy.describe().into_iter().map(|rule| format!("  {rule}\n")).collect();
    rules.concat()
}
