use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::actions::specs;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct File {
    groups: toml::Table,
    policy: Vec<toml::Spanned<toml::Table>>,
}

fn read(text: &str) -> Result<Policy, PolicyError> {
    read_with(&[], text)
}

fn read_with(allow: &[&str], text: &str) -> Result<Policy, PolicyError> {
    let File { groups, policy: rules } = toml::from_str(text).unwrap();
    let origin = Origin { name: "worker.toml".into(), text: text.into() };
    let allow: Vec<_> = allow.iter().map(|name| (*name).to_owned()).collect();
    Policy::new(&Input { origin, groups, rules, broken: Vec::new() }, &allow, &specs())
}

pub(crate) fn policy(text: &str) -> Policy {
    read(text).unwrap()
}

fn problem(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

fn spec(action: &str) -> ActionSpec {
    specs().into_iter().find(|spec| spec.name == action).unwrap()
}

fn argv(words: &[&str]) -> Arguments {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    Arguments::from([("argv".into(), Argument::List(words))])
}

fn decide(policy: &Policy, principals: &[&str], action: &str, arguments: &Arguments) -> Decision {
    policy.decide(principals, &spec(action), arguments)
}

fn granted(policy: &Policy, principals: &[&str], action: &str, arguments: &Arguments) -> bool {
    decide(policy, principals, action, arguments).is_granted()
}

fn reason(policy: &Policy, principals: &[&str], action: &str, arguments: &Arguments) -> String {
    match decide(policy, principals, action, arguments) {
        Decision::Denied { reason, .. } => reason,
        Decision::Granted { rule } => panic!("granted by {rule}"),
    }
}

const RESTART: &str = r#"
[groups]
web = ["bob", "*@ops.example"]

[[policy]]
who = ["@web"]
actions = ["exec", "collect-*"]

[[policy]]
who = ["alice"]
actions = ["exec"]
arguments.argv = [["systemctl", "restart", "web*"], ["uptime"], ["journalctl", "-u", "web?", "…"]]
arguments.user = ["www", "deploy"]
"#;

#[test]
fn out_of_the_box_signers_may_look_and_strangers_nothing() {
    let policy = Policy::default_of(&specs(), &[]);
    let none = Arguments::new();
    for spec in specs() {
        let looks = spec.name == "ping" || spec.name.starts_with("collect-");
        assert_eq!(policy.decide(&["alice"], &spec, &none).is_granted(), looks, "{}", spec.name);
        assert!(!policy.decide(&[], &spec, &none).is_granted());
        assert!(!policy.decide(&[""], &spec, &none).is_granted());
    }
    assert_eq!(reason(&policy, &["bob"], "exec", &argv(&["id"])), "no rule lets 'bob' run exec");
    assert!(!policy.may_cancel("alice"));

    let policy = Policy::default_of(&specs(), &["exec".into()]);
    assert!(granted(&policy, &["alice"], "exec", &argv(&["id"])) && granted(&policy, &["alice"], "ping", &none));
}

#[test]
fn a_written_policy_takes_the_place_of_the_default() {
    let policy = policy("[[policy]]\nwho = ['alice']\nactions = ['exec']");
    assert!(!granted(&policy, &["alice"], "ping", &Arguments::new()));
    assert!(policy.allows_at_all(&spec("exec")) && !policy.allows_at_all(&spec("ping")));
    assert_eq!((policy.approvals_needed(&spec("exec")), policy.approvals_needed(&spec("ping"))), (1, 0));
}

#[test]
fn denials_name_what_is_missing_and_the_rule() {
    let policy = policy(RESTART);
    assert!(granted(&policy, &["carol@ops.example"], "exec", &argv(&["id"])));
    assert_eq!(reason(&policy, &["eve"], "exec", &argv(&["id"])), "no rule lets 'eve' run exec");
    let missing = reason(&policy, &["alice"], "exec", &argv(&["uptime"]));
    let wanted = "rule 2 (worker.toml, line 9) needs the argument 'user' to be 'www' or 'deploy', and it is missing";
    assert_eq!(missing, wanted);
    let mut wrong = argv(&["rm"]);
    wrong.insert("user".into(), Argument::Text("www".into()));
    let reason = reason(&policy, &["alice"], "exec", &wrong);
    assert!(reason.starts_with("rule 2 (worker.toml, line 9) wants argv to be ['systemctl', 'restart', 'web*'] or "));
    assert!(reason.ends_with("not [\"rm\"]"), "{reason}");
}

#[test]
fn arguments_must_be_as_the_rule_says_and_no_others() {
    let policy = policy(RESTART);
    let run = |words: &[&str], more: &[(&str, Argument)]| {
        let mut arguments = argv(words);
        arguments.insert("user".into(), Argument::Text("www".into()));
        arguments.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        granted(&policy, &["alice"], "exec", &arguments)
    };
    assert!(run(&["uptime"], &[]));
    assert!(run(&["systemctl", "restart", "web1"], &[]));
    assert!(run(&["journalctl", "-u", "web1", "-n", "50"], &[]) && run(&["journalctl", "-u", "web1"], &[]));
    assert!(!run(&["uptime", "-p"], &[]) && !run(&["systemctl", "restart"], &[]) && !run(&[], &[]));
    let env = Argument::Map([("LD_PRELOAD".to_owned(), "x".to_owned())].into());
    for more in [
        ("env", env.clone()),
        ("secret", env),
        ("stdin", Argument::Text("***".into())),
        ("cwd", Argument::Text("/".into())),
        ("user", Argument::Text("root".into())),
        ("user", Argument::List(vec!["www".into()])),
        ("unheard-of", Argument::Boolean(true)),
    ] {
        assert!(!run(&["uptime"], std::slice::from_ref(&more)), "{more:?}");
    }
}

#[test]
fn a_default_is_judged_like_what_was_given() {
    let rule = |arguments: &str| policy(&format!("[[policy]]\nwho=['a']\nactions=['collect-processes']\n{arguments}"));
    let (bare, cpu) = (Arguments::new(), Arguments::from([("by".into(), Argument::Text("cpu".into()))]));
    for (policy, wanted) in [
        (rule("arguments = {}"), true),
        (rule("arguments.by = ['cpu', 'memory']"), true),
        (rule("arguments.by = 'memory'"), false),
        (rule("arguments.top = [5, 10]"), true),
        (rule("arguments.top = 5"), false),
    ] {
        assert_eq!(granted(&policy, &["a"], "collect-processes", &bare), wanted);
        assert_eq!(granted(&policy, &["a"], "collect-processes", &cpu), wanted);
    }
    let memory = Arguments::from([("by".into(), Argument::Text("memory".into()))]);
    assert!(!granted(&rule("arguments = {}"), &["a"], "collect-processes", &memory));
    assert!(granted(&rule("arguments.by = '…'"), &["a"], "collect-processes", &memory));
}

#[test]
fn environment_variables_are_named_one_by_one() {
    let policy = policy("[[policy]]\nwho=['a']\nactions=['exec']\narguments = { argv = ['x'], env = { LANG = 'C*' } }");
    let run = |pairs: &[(&str, &str)]| {
        let map = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut arguments = argv(&["x"]);
        arguments.insert("env".into(), Argument::Map(map));
        granted(&policy, &["a"], "exec", &arguments)
    };
    assert!(run(&[("LANG", "C.UTF-8")]));
    assert!(!run(&[]) && !run(&[("LANG", "de")]) && !run(&[("LANG", "C"), ("LD_PRELOAD", "x")]));
}

#[test]
fn what_changes_the_host_must_be_named_literally() {
    let policy = policy("[[policy]]\nwho = ['*']\nactions = ['*']");
    assert!(granted(&policy, &["alice"], "ping", &Arguments::new()));
    let wanted = "rule 1 (worker.toml, line 1) has the pattern '*', but exec must be named literally";
    assert_eq!(reason(&policy, &["alice"], "exec", &argv(&["id"])), wanted);
    assert!(!policy.allows_at_all(&spec("exec")) && !policy.may_cancel("alice"));
    assert!(problem("[[policy]]\nwho=['*']\nactions=['ex*']").contains("must be named literally, not as 'ex*'"));
}

#[test]
fn cancel_is_a_right_of_its_own() {
    let policy =
        policy("[[policy]]\nwho = ['alice']\nactions = ['cancel', 'ping']\n[[policy]]\nwho=['bob']\nactions=['exec']");
    assert!(policy.may_cancel("alice") && !policy.may_cancel("bob"));
    let both = "[[policy]]\nwho=['a','b']\nactions=['cancel']\napprovals=2";
    assert!(problem(both).contains("give it a rule of its own"));
}

const TWO: &str = "
[[policy]]
who = ['alice', 'bob']
actions = ['exec', 'ping']
approvals = 2
approvers = ['carol', '*@audit']
pre_approved = ['ping']
";

#[test]
fn approvals_are_counted_by_distinct_names_that_may_give_them() {
    let policy = policy(TWO);
    let id = argv(&["id"]);
    let count = |principals: &[&str]| granted(&policy, principals, "exec", &id);
    assert!(count(&["alice", "bob"]) && count(&["alice", "carol"]) && count(&["bob", "x@audit", "eve"]));
    assert!(
        !count(&["alice"]) && !count(&["alice", "alice"]) && !count(&["alice", "eve"]) && !count(&["alice", "Alice"])
    );
    assert!(!count(&["carol", "alice"]), "an approver may not request");
    let wanted = "rule 1 (worker.toml, line 2) needs 2 approvals, it has 1";
    assert_eq!(reason(&policy, &["alice", "eve"], "exec", &id), wanted);
    assert!(granted(&policy, &["alice"], "ping", &Arguments::new()), "pre-approved");
    assert_eq!((policy.approvals_needed(&spec("exec")), policy.approvals_needed(&spec("ping"))), (2, 1));
}

#[test]
fn an_approval_that_is_asked_for_in_vain_is_warned_of() {
    let open = format!("{TWO}[[policy]]\nwho=['*']\nactions=['exec']");
    assert_eq!(policy(TWO).warnings(&specs()), [""; 0]);
    assert!(policy(&open).warnings(&specs())[0].contains("asks for 2 approvals of exec in vain"));
}

#[test]
fn what_is_not_understood_is_an_error_that_names_the_rule() {
    for (rule, wanted) in [
        ("actions=['ping']", "does not say who"),
        ("who=[]\nactions=['ping']", "who: it is empty"),
        ("who='a'\nactions=['ping']", "who: it must be an array"),
        ("who=['']\nactions=['ping']", "names nobody: it is empty"),
        ("who=['!a']\nactions=['ping']", "nobody can be left out"),
        ("who=['@opz']\nactions=['ping']", "no group 'opz' in [groups] (did you mean 'ops'?)"),
        ("who=['a']", "names no actions"),
        ("who=['a']\nactions=[]", "actions: it is empty"),
        ("who=['a']\nactions=['pong']", "there is no action 'pong' (did you mean 'ping'?)"),
        ("who=['a']\nactions=['x*']", "there is no action 'x*'"),
        ("who=['a']\nactions=['exec']\nargument.argv='x'", "unknown key 'argument' (did you mean 'arguments'?)"),
        ("who=['a']\nactions=['exec']\narguments.argvs=['x']", "no parameter 'argvs' (did you mean 'argv'?)"),
        ("who=['a']\nactions=['exec','ping']\narguments.argv=['x']", "ping has no parameter 'argv'"),
        ("who=['a']\nactions=['exec']\narguments.user='x'", "exec cannot run without 'argv'"),
        ("who=['a']\nactions=['exec']\narguments.argv='x'", "an array with a pattern for each word"),
        ("who=['a']\nactions=['exec']\narguments.argv=[]", "it names no word"),
        ("who=['a']\nactions=['exec']\narguments.argv=['…', 'x']", "stands only at the end"),
        ("who=['a']\nactions=['exec']\narguments={argv=['x'],stdin='y'}", "a secret cannot be compared"),
        ("who=['a']\nactions=['exec']\narguments={argv=['x'],user=[]}", "the set is empty"),
        ("who=['a']\nactions=['exec']\narguments={argv=['/**']}", "it has '**'"),
        ("who=['a']\nactions=['collect-processes']\narguments.top='1'", "must be a whole number"),
        ("who=['a']\nactions=['ping']\napprovals=0", "a number from 1 to 16"),
        ("who=['a']\nactions=['ping']\napprovals='2'", "a number from 1 to 16"),
        ("who=['a']\nactions=['ping']\napprovals=2", "only 1 could give them"),
        ("who=['a']\nactions=['ping']\napprovers=['b']", "asks for no approvals"),
        ("who=['*']\nactions=['exec']\napprovals=2\npre_approved=['ping']", "'ping' is no name of an action that"),
    ] {
        let problem = problem(&format!("[groups]\nops = ['ann']\n[[policy]]\n{rule}"));
        assert!(problem.starts_with("rule 1 (worker.toml, line 3): ") && problem.contains(wanted), "{rule}: {problem}");
    }
    assert!(problem("[groups]\na = ['@b']").contains("group 'a': '@b': a group cannot hold a group"));
    assert!(problem("[groups]\na = []").starts_with("group 'a': it is empty"));
}

/// Words that attackers put where a value belongs.
const INJECTIONS: [&str; 22] = [
    "web1; rm -rf /",
    "web1;rm",
    "; rm",
    "web1 && id",
    "web1|id",
    "$(id)",
    "web$(id)",
    "${IFS}",
    "`id`",
    "web1\nid",
    "web1\r\nid",
    "web1\0",
    "web\u{1b}[2J",
    "-rf",
    "--help",
    "--config=/tmp/evil",
    "../../etc/passwd",
    "web/../../etc/passwd",
    "web..",
    "..",
    "/etc/passwd",
    "web1 x",
];

/// Injection into every parameter of every action: a pattern of plain characters and wildcards takes none of them.
#[test]
fn attack_argument_injection_into_every_parameter_of_every_action() {
    use protocol::action::Kind;
    let mut parameters = 0;
    for spec in specs() {
        for parameter in &spec.parameters {
            let name = &parameter.name;
            let pattern = match &parameter.kind {
                _ if parameter.secret => continue,
                Kind::Text | Kind::Pattern { .. } | Kind::Choice { .. } | Kind::Duration => "['web*', '*', '?*']",
                Kind::Path | Kind::PathUnder { .. } => "['/srv/*', '*']",
                Kind::List => "[['run', '*'], ['*'], ['run', 'web*', '?*']]",
                Kind::Map => "{ NAME = ['web*', '*'] }",
                Kind::Integer { .. } => "10",
                Kind::Boolean => "true",
                Kind::Unknown => "'…'",
            };
            let needed = spec.parameters.iter().filter(|needed| needed.required && needed.name != *name);
            let needed: Vec<_> = needed.map(|needed| format!("{} = '…'", needed.name)).collect();
            let needed = needed.join("\n");
            let action = &spec.name;
            let policy = policy(&format!(
                "[[policy]]\nwho=['a']\nactions=['{action}']\n[policy.arguments]\n{name} = {pattern}\n{needed}"
            ));
            parameters += 1;
            for word in INJECTIONS {
                let text = |text: &str| text.to_owned();
                let values = match &parameter.kind {
                    Kind::List => vec![
                        Argument::List(vec![text(word)]),
                        Argument::List(vec![text("run"), text(word)]),
                        Argument::List(vec![text("run"), text("web1"), text(word)]),
                        Argument::Text(text(word)),
                    ],
                    Kind::Map => vec![
                        Argument::Map([(text("NAME"), text(word))].into()),
                        Argument::Map([(text(word), text("web1"))].into()),
                        Argument::Map([(text("NAME"), text("web1")), (text(word), text("web1"))].into()),
                    ],
                    // Behind a directory, a dash begins no option.
                    Kind::Path if word.starts_with('-') => vec![Argument::Text(text(word))],
                    Kind::Path => vec![
                        Argument::Text(text(word)),
                        Argument::Text(format!("/srv/{word}")),
                        Argument::Text(format!("/srv/x/{word}")),
                    ],
                    _ => vec![Argument::Text(text(word)), Argument::List(vec![text(word)])],
                };
                for value in values {
                    let mut arguments = argv(&["x"]);
                    arguments.retain(|_, _| spec.name == "exec");
                    arguments.insert(name.clone(), value.clone());
                    assert!(!policy.decide(&["a"], &spec, &arguments).is_granted(), "{action} {name} {value:?}");
                }
            }
        }
    }
    assert!(parameters >= 7, "the parameters of exec and collect-processes");
}

/// Injection into the action's name and the principal's.
#[test]
fn attack_names_with_injections_are_nobodys() {
    let policy = policy("[[policy]]\nwho=['alice', '?*@ops.example']\nactions=['ping', 'exec']");
    for word in INJECTIONS {
        for name in [format!("alice{word}"), format!("{word}alice"), format!("{word}@ops.example{word}")] {
            assert!(!granted(&policy, &[&name], "ping", &Arguments::new()), "{name:?}");
        }
        assert!(!granted(&policy, &[&format!("{word}@ops.example")], "ping", &Arguments::new()), "{word:?}");
        for name in [format!("exec{word}"), format!("{word}exec")] {
            let forged = ActionSpec { name, ..spec("exec") };
            assert!(!policy.decide(&["alice"], &forged, &argv(&["id"])).is_granted());
        }
    }
}

#[test]
fn a_rule_names_the_secrets_that_may_be_given() {
    let policy = policy("[[policy]]\nwho=['a']\nactions=['exec']\narguments={argv=['x'],secret={TOKEN='…'}}");
    let secrets = |names: &[&str]| {
        let secrets = names.iter().map(|name| ((*name).to_owned(), "hush".to_owned())).collect();
        argv(&["x"]).into_iter().chain([("secret".to_owned(), Argument::Map(secrets))]).collect()
    };
    assert!(granted(&policy, &["a"], "exec", &secrets(&["TOKEN"])));
    for other in [&["LD_PRELOAD"][..], &["TOKEN", "LD_PRELOAD"], &[]] {
        assert!(!granted(&policy, &["a"], "exec", &secrets(other)), "{other:?}");
    }
    assert!(!granted(&policy, &["a"], "exec", &argv(&["x"])));
    let compared = "[[policy]]\nwho=['a']\nactions=['exec']\narguments={argv=['x'],secret={TOKEN='x'}}";
    assert!(problem(compared).contains("name those that may be given"), "{}", problem(compared));
}

#[test]
fn what_is_open_to_everybody_voids_no_rule() {
    let rule = "[[policy]]\nwho=['a']\nactions=['exec']\narguments={argv=['uptime']}";
    assert_eq!(
        read_with(&["exec"], rule).unwrap_err().to_string(),
        "actions.allow: it lets every known signer run exec and so voids rule 1 (worker.toml, line 1): remove exec from it"
    );
    let cancel = "[[policy]]\nwho=['a']\nactions=['cancel']";
    assert!(read_with(&["cancel"], cancel).is_err());
    assert!(read_with(&["exec"], cancel).is_ok() && read_with(&["exec"], "").is_ok());
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![Just("alice".to_owned()), Just("bob".to_owned()), Just("x@ops".to_owned()), ".{0,6}"]
}

fn rules() -> impl Strategy<Value = String> {
    let who = prop::sample::select(vec!["'alice'", "'bob', 'alice'", "'*@ops'", "'*'", "'a*'"]);
    let what = prop::sample::select(vec![
        "'ping'",
        "'exec'",
        "'exec', 'ping'",
        "'*'",
        "'collect-*'",
        "'cancel'",
        "'collect-processes'",
    ]);
    let arguments = prop::sample::select(vec![
        "",
        "arguments = {}",
        "arguments.argv = '…'",
        "arguments.argv = ['a*', '…']",
        "arguments.top = 10",
    ]);
    let approvals = prop::sample::select(vec!["", "approvals = 2", "approvals = 2\napprovers = ['*@ops']"]);
    (who, what, arguments, approvals).prop_map(|(who, what, arguments, approvals)| {
        format!("[[policy]]\nwho = [{who}]\nactions = [{what}]\n{arguments}\n{approvals}\n")
    })
}

fn some_arguments() -> impl Strategy<Value = Arguments> {
    let argument = prop_oneof![
        any::<bool>().prop_map(Argument::Boolean),
        any::<i64>().prop_map(Argument::Integer),
        Just(Argument::Integer(10)),
        ".{0,8}".prop_map(Argument::Text),
        prop::collection::vec("a.{0,4}", 0..4).prop_map(Argument::List),
        prop::collection::btree_map(".{0,4}", ".{0,4}", 0..3).prop_map(Argument::Map),
    ];
    let name =
        prop_oneof![prop::sample::select(vec!["argv", "top", "user", "secret"]).prop_map(str::to_owned), ".{0,4}"];
    prop::collection::btree_map(name, argument, 0..3)
}

fn an_action() -> impl Strategy<Value = ActionSpec> {
    prop::sample::select(specs())
}

proptest! {
    /// Rules add up: one more takes nothing away.
    #[test]
    fn one_more_rule_takes_nothing_away(
        first in rules(), second in rules(), principals in prop::collection::vec(names(), 0..4),
        spec in an_action(), arguments in some_arguments(),
    ) {
        let principals: Vec<_> = principals.iter().map(String::as_str).collect();
        if let (Ok(one), Ok(both)) = (read(&first), read(&format!("{first}{second}"))) {
            let was = one.decide(&principals, &spec, &arguments).is_granted();
            prop_assert!(!was || both.decide(&principals, &spec, &arguments).is_granted());
        }
    }

    /// Who else has signed never harms, and nobody gains by a second signature of the same name.
    #[test]
    fn signatures_count_by_name(
        rule in rules(), principals in prop::collection::vec(names(), 1..4), more in names(),
        spec in an_action(), arguments in some_arguments(),
    ) {
        let Ok(policy) = read(&rule) else { return Ok(()) };
        let principals: Vec<_> = principals.iter().map(String::as_str).collect();
        let was = policy.decide(&principals, &spec, &arguments).is_granted();
        let with: Vec<_> = principals.iter().copied().chain([more.as_str()]).collect();
        prop_assert!(!was || policy.decide(&with, &spec, &arguments).is_granted());
        let twice: Vec<_> = principals.iter().copied().chain(principals.iter().copied()).collect();
        prop_assert_eq!(was, policy.decide(&twice, &spec, &arguments).is_granted());
    }

    /// What is granted was granted by a rule that names the action, literally where it changes the host.
    #[test]
    fn what_is_granted_is_named(
        rule in rules(), principals in prop::collection::vec(names(), 0..4),
        spec in an_action(), arguments in some_arguments(),
    ) {
        let Ok(policy) = read(&rule) else { return Ok(()) };
        let principals: Vec<_> = principals.iter().map(String::as_str).collect();
        if policy.decide(&principals, &spec, &arguments).is_granted() {
            prop_assert!(policy.allows_at_all(&spec) && !principals.is_empty());
            prop_assert!(spec.name != "exec" || rule.contains("'exec'"));
            let distinct = principals.iter().collect::<BTreeSet<_>>().len();
            prop_assert!(distinct >= policy.approvals_needed(&spec));
        }
    }

    /// No pattern takes control characters, an option, or a way out of a path.
    #[test]
    fn no_wildcard_takes_what_is_dangerous(
        pattern in "[a-z*?]{1,6}", word in "[a-z.\\-/;$\n\u{7f}\u{202e} ]{0,8}",
    ) {
        let Ok(pattern) = Pattern::new(&pattern) else { return Ok(()) };
        if pattern.matches(&word) {
            prop_assert!(word.chars().all(|c| c.is_ascii_lowercase() || ".-".contains(c)), "{pattern} {word:?}");
            prop_assert!(!word.starts_with('-') && !word.contains(".."), "{pattern} {word:?}");
        }
    }

    /// The matcher agrees with the definition.
    #[test]
    fn the_matcher_agrees_with_the_definition(pattern in "[ab/*?]{1,8}", word in "[ab/]{0,10}") {
        fn defined(pattern: &[char], word: &[char]) -> bool {
            match (pattern, word) {
                ([], []) => true,
                (['*', rest @ ..], word) => {
                    defined(rest, word) || word.first().is_some_and(|c| *c != '/') && defined(pattern, &word[1..])
                }
                (['?', rest @ ..], [c, word @ ..]) => *c != '/' && defined(rest, word),
                ([p, rest @ ..], [c, word @ ..]) => p == c && defined(rest, word),
                _ => false,
            }
        }
        if let Ok(read) = Pattern::new(&pattern) {
            let (pattern, chars): (Vec<_>, Vec<_>) = (pattern.chars().collect(), word.chars().collect());
            prop_assert_eq!(read.matches(&word), defined(&pattern, &chars));
        }
    }

    /// Whatever stands in the settings, reading them and deciding ends without a panic.
    #[test]
    fn strange_settings_do_no_harm(who in ".{0,8}", action in ".{0,8}", word in ".{0,8}", arguments in some_arguments()) {
        let [who, action, word] = [who, action, word].map(toml::Value::String);
        let mut rule = toml::Table::new();
        rule.insert("who".into(), vec![who].into());
        rule.insert("actions".into(), vec![action, "exec".into()].into());
        rule.insert("arguments".into(), toml::Table::from_iter([("argv".to_owned(), vec![word].into())]).into());
        let rules = vec![toml::Spanned::new(0..0, rule)];
        let input = Input { rules, ..Input::default() };
        if let Ok(policy) = Policy::new(&input, &[], &specs()) {
            for spec in &specs() {
                let _ = policy.decide(&["alice"], spec, &arguments);
            }
            let _ = policy.describe();
        }
    }
}
