//! Who may run what on this host. What no rule allows is denied.
//!
//! The rules come from the worker's own settings, so nothing that arrives through Redis changes them. They only add up:
//! a command may run if one rule grants all of it, and no rule takes away what another one grants.

mod read;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use protocol::{
    action::{ActionSpec, Argument, Arguments, Repeat},
    pattern::Pattern,
};

pub use self::read::{Input, Origin, PolicyError};
use self::values::Allowed;
use crate::{
    fault::{self, Bug},
    log::{self, excerpt},
};

/// The right to cancel the jobs of others. A rule grants it like an action, by its literal name.
pub const CANCEL: &str = "cancel";

/// The right to give standing orders: to run, whenever a scheduler says so, what other rules let the principal run.
pub const STANDING_ORDER: &str = "standing-order";

/// Rights that are no actions.
pub const RIGHTS: [&str; 2] = [CANCEL, STANDING_ORDER];

/// The rules of one host.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug)]
struct Rule {
    /// How messages name it.
    title: String,
    who: Vec<Signer>,
    /// Whose approval counts, besides those in `who`.
    approvers: Vec<Signer>,
    actions: Vec<Pattern>,
    /// By parameter. `None`: any arguments.
    arguments: Option<BTreeMap<String, Allowed>>,
    /// How many distinct principals must have signed, the requester included.
    approvals: usize,
    /// Actions for which the requester's signature is enough.
    pre_approved: BTreeSet<String>,
}

/// Whom a rule means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Signer {
    /// Everybody whose signature the trust file accepts.
    Known,
    /// Principals that a pattern matches.
    Named(Pattern),
}

impl Signer {
    fn is(&self, principal: &str) -> bool {
        match self {
            // A name that could deceive a terminal is nobody's.
            Self::Known => !principal.is_empty() && !principal.chars().any(char::is_control),
            Self::Named(pattern) => pattern.matches(principal),
        }
    }
}

/// What the policy says about a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may run.
    Granted {
        /// The rule that grants it.
        rule: String,
    },
    /// It must not run.
    Denied {
        /// What is missing.
        reason: String,
        /// The rule that came nearest to granting it, if one came near.
        nearest: Option<String>,
    },
}

impl Decision {
    /// Whether it may run.
    pub const fn is_granted(&self) -> bool {
        matches!(self, Self::Granted { .. })
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Granted { rule } => write!(out, "granted by {rule}"),
            Self::Denied { reason, .. } => write!(out, "denied: {reason}"),
        }
    }
}

/// Why a rule does not grant a command, the farthest from it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    Action,
    Literal,
    Who,
    Arguments,
    Approvals,
}

impl Policy {
    /// Decides about a command. `principals` are those whose signatures over it were verified, each once, the requester
    /// first. `arguments` must hold all that was given, secret ones too: their values are not looked at, but a rule may
    /// forbid that they are given.
    pub fn decide(&self, principals: &[&str], spec: &ActionSpec, arguments: &Arguments) -> Decision {
        let action = excerpt(&spec.name, log::NAME);
        let Some(requester) = principals.first() else {
            return Decision::Denied {
                reason: format!("nobody has signed the request to run {action}"),
                nearest: None,
            };
        };
        let mut nearest: Option<(Gap, String, &Rule)> = None;
        for rule in &self.rules {
            match rule.judge(principals, spec, arguments) {
                Ok(()) => return Decision::Granted { rule: rule.title.clone() },
                Err((gap, _)) if nearest.as_ref().is_some_and(|(found, ..)| *found >= gap) => {}
                Err((gap, reason)) => nearest = Some((gap, reason, rule)),
            }
        }

        let requester = excerpt(requester, log::NAME);
        match nearest {
            Some((gap, reason, rule)) if gap >= Gap::Arguments || gap == Gap::Literal => {
                let reason = format!("{} {reason}", rule.title);
                Decision::Denied { reason, nearest: Some(rule.title.clone()) }
            }
            nearest => Decision::Denied {
                reason: format!("no rule lets '{requester}' run {action}"),
                nearest: nearest.filter(|(gap, ..)| *gap == Gap::Who).map(|(.., rule)| rule.title.clone()),
            },
        }
    }

    /// Whether `principal` may cancel the jobs of others.
    pub fn may_cancel(&self, principal: &str) -> bool {
        self.has_right(principal, CANCEL)
    }

    /// Whether `principal` may give standing orders.
    pub fn may_stand(&self, principal: &str) -> bool {
        self.has_right(principal, STANDING_ORDER)
    }

    /// Whether some rule gives `principal` a right that is no action.
    pub fn has_right(&self, principal: &str, right: &str) -> bool {
        self.rules.iter().any(|rule| rule.grants_right(right) && rule.who.iter().any(|who| who.is(principal)))
    }

    /// Whether some rule lets `principal` ask for this action, with whatever arguments and approvals.
    pub fn may_ask(&self, principal: &str, spec: &ActionSpec) -> bool {
        self.rules.iter().any(|rule| rule.covers(spec) && rule.who.iter().any(|who| who.is(principal)))
    }

    /// Whether anybody may run this action.
    pub fn allows_at_all(&self, spec: &ActionSpec) -> bool {
        self.rules.iter().any(|rule| rule.covers(spec))
    }

    /// How many principals must sign the action, by the rule that asks for the fewest. 0: nobody may run it.
    pub fn approvals_needed(&self, spec: &ActionSpec) -> usize {
        let covering = self.rules.iter().filter(|rule| rule.covers(spec));
        covering.map(|rule| rule.approvals_of(spec)).min().unwrap_or(0)
    }

    /// The rules as lines for people.
    pub fn describe(&self) -> Vec<String> {
        self.rules.iter().map(ToString::to_string).collect()
    }
}

impl Rule {
    /// Whether it is about this action. What may change the host must be named literally.
    fn covers(&self, spec: &ActionSpec) -> bool {
        self.actions.iter().any(|action| {
            (spec.repeat == Repeat::Repeatable || action.literal().is_some()) && action.matches(&spec.name)
        })
    }

    fn grants_right(&self, right: &str) -> bool {
        self.actions.iter().any(|action| action.literal().as_deref() == Some(right))
    }

    fn approvals_of(&self, spec: &ActionSpec) -> usize {
        if self.pre_approved.contains(&spec.name) { 1 } else { self.approvals }
    }

    /// How many of the distinct principals count: the requester, and those whom it lets approve.
    fn count(&self, principals: &[&str]) -> usize {
        let approves = |principal: &&str| self.who.iter().chain(&self.approvers).any(|who| who.is(principal));
        let approve = principals.iter().copied().filter(approves);
        if fault::planted(Bug::NoDistinct) { approve.count() } else { approve.collect::<BTreeSet<_>>().len() }
    }

    /// Whether it grants a command, or how far it is from that.
    fn judge(&self, principals: &[&str], spec: &ActionSpec, arguments: &Arguments) -> Result<(), (Gap, String)> {
        if !self.covers(spec) {
            let action = excerpt(&spec.name, log::NAME);
            let pattern = self.actions.iter().find(|pattern| pattern.matches(&spec.name));
            let requested = principals.first().is_some_and(|requester| self.who.iter().any(|who| who.is(requester)));
            return Err(match pattern.filter(|_| requested) {
                Some(pattern) => {
                    let reason = format!("has the pattern '{pattern}', but {action} must be named literally");
                    (Gap::Literal, reason)
                }
                None => (Gap::Action, String::new()),
            });
        }
        if !principals.first().is_some_and(|requester| self.who.iter().any(|who| who.is(requester))) {
            return Err((Gap::Who, String::new()));
        }
        self.judge_arguments(spec, arguments).map_err(|reason| (Gap::Arguments, reason))?;

        let (needed, has) = (self.approvals_of(spec), self.count(principals));
        if has < needed {
            return Err((Gap::Approvals, format!("needs {needed} approvals, it has {has}")));
        }
        Ok(())
    }

    fn judge_arguments(&self, spec: &ActionSpec, arguments: &Arguments) -> Result<(), String> {
        let Some(allowed) = &self.arguments else { return Ok(()) };
        if let Some(name) = arguments.keys().find(|name| spec.parameter(name).is_none()) {
            return Err(format!("does not know the parameter '{}'", excerpt(name, log::NAME)));
        }
        for parameter in &spec.parameters {
            let name = &parameter.name;
            let given = arguments.get(name);
            // What was not given runs as the default says, so the default is judged.
            let effective = given.or(parameter.default.as_ref());
            let Some(rule) = allowed.get(name) else {
                if given.is_some() && given != parameter.default.as_ref() {
                    return Err(format!("does not allow the argument '{name}'"));
                }
                continue;
            };
            if !rule.admits(effective) {
                return Err(match effective {
                    None => format!("needs the argument '{name}' to be {rule}, and it is missing"),
                    Some(_) if parameter.secret => format!("does not allow the argument '{name}'"),
                    Some(argument) => format!("wants {name} to be {rule}, not {}", shown(argument)),
                });
            }
        }
        Ok(())
    }
}

/// An argument fit for a message.
fn shown(argument: &Argument) -> String {
    let text = match argument {
        Argument::Text(text) => format!("'{}'", text.escape_debug()),
        argument => argument.to_string(),
    };
    excerpt(&text, log::NAME)
}

impl fmt::Display for Signer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known => out.write_str("any known signer"),
            Self::Named(pattern) => pattern.fmt(out),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: &[Signer]| items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let actions: Vec<_> = self.actions.iter().map(ToString::to_string).collect();
        write!(out, "{}: {} may run {}", self.title, list(&self.who), actions.join(", "))?;
        for (name, allowed) in self.arguments.iter().flatten() {
            write!(out, ", {name} {allowed}")?;
        }
        if self.arguments.as_ref().is_some_and(BTreeMap::is_empty) {
            write!(out, " without arguments")?;
        }
        if self.approvals > 1 {
            write!(out, ", if {} have signed", self.approvals)?;
        }
        if !self.approvers.is_empty() {
            write!(out, ", also approved by {}", list(&self.approvers))?;
        }
        if !self.pre_approved.is_empty() {
            let actions: Vec<_> = self.pre_approved.iter().map(String::as_str).collect();
            write!(out, ", pre-approved: {}", actions.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
