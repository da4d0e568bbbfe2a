//! Texts of `--help` that are longer than a line, and how help looks.

use clap::{
    Args, Command,
    builder::styling::{AnsiColor, Styles},
};

use super::settings::Global;
use crate::output::Exit;

/// Columns of help at most.
pub const WIDTH: usize = 100;

/// Colours of help and usage errors.
pub const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Arranges the help: the global options are listed by `ctl help` alone, and a line of all others names it.
pub fn arrange(command: Command) -> Command {
    let hide = |arg: clap::Arg| if arg.is_global_set() { arg.hide(true) } else { arg };
    let command = command.mut_args(hide).mut_subcommands(name_globals);
    command.after_help(top(false)).after_long_help(top(true))
}

fn name_globals(command: Command) -> Command {
    let own = command.get_after_help().map(|text| format!("{}\n\n", text.ansi())).unwrap_or_default();
    command.after_help(format!("{own}{GLOBAL}")).mut_subcommands(name_globals)
}

/// In place of the global options.
const GLOBAL: &str = "Global options (--redis, --output, --quiet and others): ctl help";

/// After the list of commands.
fn top(long: bool) -> String {
    let command = Global::augment_args(Command::new("ctl")).disable_help_flag(true).styles(STYLES);
    let mut command = command.max_term_width(WIDTH).help_template("{all-args}");
    let options = if long { command.render_long_help() } else { command.render_help() };
    let codes = Exit::ALL.map(|(exit, meaning)| format!("  {:<3}  {meaning}\n", exit as u8));
    let hint = "Nothing set up yet? `ctl up` starts all that is needed on this machine.";
    format!("{}\n\nExit codes:\n{}\n{hint}", options.ansi().to_string().trim_end(), codes.concat())
}

/// After the options of `run`.
pub const RUN: &str = "\
Examples:
  ctl run --host web1 collect-cpu
      The CPU use of one host.
  ctl run --host 'web*' collect-memory
      A pattern; quote it, or the shell may expand it.
  ctl run --host web1,db1 collect-processes by=memory top=5
      Two hosts, with arguments.
  ctl run --all collect-cpu -o json | jq '.hosts[].data.usage'
      Every host, for another program.
  ctl run --host web1 exec -- uname -a
      A program and its arguments; no shell is involved.
  ctl run --host web1 exec cwd=/tmp env.LANG=C -- ls -l
      With a working directory and a variable.
  ctl run --host web1 exec secret.TOKEN=@token.txt -- deploy
      With a secret variable, read from a file (@- is standard input).
  ctl run --host web1 --timeout 10m --detach exec -- apt-get update
      Without waiting; `ctl job wait last` gives the result.";

/// After the options of `host list`.
pub const TARGETING: &str = "\
What --where asks for: host, state (online, offline, stopped), version, running, slots; facts such as os, kernel, cores and \
memory_bytes; label.NAME; figures such as cpu.usage, memory.usage and load.load1; custom.ACTION.NAME of actions of your \
own. Comparisons: = != < <= > >=, and ~ !~ for patterns, in which case does not count; not, and, or (in this order), and \
parentheses. Only figures are compared as numbers by = and !=. A label that is not set is empty. Where a figure is missing, \
older than 5m (those of own actions: 1h), or its host is offline, nobody knows: the host is named and left out.
Groups (ctl group --help): --group NAME is --host @NAME. Hosts that are named and those of groups are added up; --label, \
--where, --exclude and --limit then narrow the whole. @NAME may stand in --exclude and in --where, too.
Examples:
  ctl host list --where 'cpu.usage > 80 and label.env = prod and os ~ \"debian*\"'
  ctl host list --host 'web[1-20]' --exclude web7 --where 'state != online'
  ctl host list -l role=db -l env=prod --limit 10%
  ctl host list --host web1,@db --exclude @old --where 'not @canary or state = online'";

/// After the options of `host watch`.
pub const WATCH: &str = "\
Without options all hosts are watched. Hosts that join later are watched, too, if they are meant; groups are taken for what \
they are at the beginning. While Redis is away, it is tried again.
Examples:
  ctl host watch -l role=db
  ctl host watch -o jsonl | jq 'select(.event == \"offline\").host'";

/// After the options of `host label`.
pub const LABEL: &str = "\
Examples:
  ctl host label web1 tier=gold rack-
  ctl host label 'web*' maintenance=today --exclude web7
  ctl run -l maintenance=today exec -- apt-get -y upgrade";

/// After the options of `group` and `group set`.
pub const GROUP: &str = "\
A group stands for the hosts that its words name (all if there are none), without those of --exclude, for which --label \
and --where hold. It is meant as --group NAME, or as @NAME wherever hosts are named, in --exclude and in --where, also of \
other groups. Redis keeps the text, so whoever can write there can change it: at a terminal ctl asks before several hosts \
are changed that were not named one by one.
Examples:
  ctl group set web --host 'web[1-20]' --exclude web7
  ctl group set hot --group web --where 'cpu.usage > 80 and not @canary'
  ctl run --group hot collect-processes";

/// After the options of `schedule add`.
pub const SCHEDULE: &str = "\
The order carries the rules of its time zone. A fixed time of the day runs once on each day, also where clocks are changed: a \
time that they skip at the end of the gap. What is due at intervals (* or / in hours or minutes) runs in real time.
The order ends with the key that signed it, and with a certificate under which it was signed.
Examples:
  ctl schedule add tidy --cron '30 2 * * *' --tz Europe/Berlin --host 'web*' exec -- /usr/local/bin/tidy
      Each night, on what is called web… then: hosts may come and go.
  ctl schedule add look --every 10m -l role=db collect-all
      By a label of the hosts' own settings; labels of `ctl host label` do not count.
  ctl schedule add once --at 2026-12-01T14:00 --host db1 --late exec -- reboot
      Once, and late, if nothing could run it in time.";

/// After the options of `alert add`.
pub const ALERT_ADD: &str = "\
A rule of a file:
  [[rule]]
  name = \"cpu-high\"
  when = \"cpu.usage > 90\"            # all that --where asks for
  for = \"10m\"
  clear = \"cpu.usage < 80\"           # without it: that `when` does not hold
  clear_for = \"2m\"
  severity = \"critical\"              # info, warning
  text = \"{host} has used {cpu.usage} % of its CPU\"
  labels = { team = \"{label.team}\" }
  hosts = \"web[1-20],@db\"            # except, where
  depends_on = [\"host-offline\"]
  receivers = [\"ops\"]
  group_by = [\"rule\"]                # host, severity, names of labels
  group_wait = \"30s\"
  repeat = \"4h\"
  unknown_for = \"5m\"                 # then nobody knowing is an alert of its own; never
What is not known holds an alert as it is. A host that is offline mutes all rules but those about `state`.
Examples:
  ctl alert add --name cpu-high --when 'cpu.usage > 90' --for 10m --clear 'cpu.usage < 80'
  ctl alert add --name many-clients --on-redis --when 'redis.connected_clients > 5000'
  ctl alert add rules.toml";

/// After the options of `serve`.
pub const SERVE: &str = "\
FILE (all of it may be left out; contrib/serve.toml has each section):
  name = \"one\"         what others know it by; by default host and process
  interval = \"1s\"      between two looks at the schedules, at most; 100ms to 4s
  [http]
  listen = \"127.0.0.1:9321\"   figures for Prometheus (/metrics), its list of hosts (/sd), /healthz and /readyz; or \"off\"
  tokens = \"/etc/redfleet/tokens\"   a file with one token a line: only who sends one may ask (Authorization: Bearer)
  tls = { cert = \"…\", key = \"…\", client_ca = \"…\" }   HTTPS; with client_ca only for those who have a certificate of it
  [alerts]
  enabled = true         whether alerts are evaluated
  interval = \"10s\"     between two evaluations
  rules = [\"own.toml\"]  files with rules beside this one (ctl alert add --help)
  defaults = true        whether the rules that come along count
  receivers = [\"ops\"]  who is told where a rule names nobody; by default all
  [[receivers]]          where alerts go: kind = \"webhook\", \"smtp\", \"command\", \"alertmanager\" or \"action\"
  [dead_man]             an address that is asked as long as everything works
  [remote_write]         where figures are sent, for Prometheus
  [redis_status]         how often Redis itself is looked at
Beyond this machine it listens only with tokens or client_ca.";

/// After the options of `top`.
pub const TOP: &str = "\
Keys: c m d l r n o sort by CPU, memory, disk, load, running commands, name or state; s takes the next of these, R reverses. \
Arrows, PgUp, PgDn, Home and End scroll. / types a filter in the language of --where, which holds as soon as it can be read. \
? lists the keys, q quits. A figure that is not published is -, an old one is ?.
Examples:
  ctl top --where 'cpu.usage > 80'
  ctl top -l role=web --every 10s
  ctl top --once -o json | jq '.hosts[] | select(.state != \"online\") | .host'";

/// After the options of `acl print`.
pub const ACL_PRINT: &str = "\
Examples:
  ctl acl print --host web1 --password-file web1.password --setuser | redis-cli
      Makes the user worker-web1, or replaces its rules. On web1, the worker's settings are then
      redis = \"redis://worker-web1@HOST\" and redis_password_file = \"FILE\".
  ctl acl print --controller --password-file ctl.password >> /etc/redis/users.acl
  ctl acl print --reader --explain
      What a reader may do, and what for.";

/// After the options of `key trust`, `revoke` and `send`.
pub const KEY_TRUST: &str = "\
Your copy changes once a host has taken the new version. Hosts that have another file than a prior version of your \
copy are not overwritten: they may trust others.
Examples:
  ctl key trust bob@desk bob.pub --valid-before 20301231Z --all
  ctl key revoke bob@desk --all
  ctl key list --all
      Whom the fleet trusts, and which hosts know that.
  ctl key send --host web7";

/// After the options of `host enroll`.
pub const ENROLL: &str = "\
Examples:
  ctl host enroll web7 --out web7.sh | redis-cli
      The script goes to the file, the commands that make and save its Redis user to redis-cli.
  scp web7.sh worker root@web7: && ssh root@web7 sh web7.sh
      A program `worker` beside the script is installed with the rest.";

/// After the options of `exec`.
pub const EXEC: &str = "\
Examples:
  ctl exec web1 -- uname -a
  ctl exec web1 -p cwd=/srv -p user=www -- git pull
  ctl exec db1 -- psql -f - < report.sql
  ctl exec db1 --stdin dump.tar -- tar -C /srv -xf -
  ctl exec web1 --script check.sh -p user=www -- --verbose
Several hosts: ctl run --host 'web*' exec -- uname -a";

/// After the options of `file put`.
pub const FILE_PUT: &str = "\
Examples:
  ctl file put app.conf web1:/srv/app/app.conf
  ctl file put app.conf 'web*:/srv/app/' --mode 0640 --owner root:app --backup
      On each host that matches, under its own name.
  ctl file put app.conf web1:/srv/app/ db1:/srv/db/ --dry-run
      What would be changed.";

/// After the options of `file get`.
pub const FILE_GET: &str = "\
Examples:
  ctl file get 'web*:/var/log/syslog' logs
      Makes logs/web1/syslog, logs/web2/syslog and so on.";

/// After the options of `deploy`.
pub const DEPLOY: &str = "\
Examples:
  ctl deploy web --version 2.1.0 --from web-2.1.0.tar.gz 'web*'
      An archive: tar.gz, tar.zst or tar.
  ctl deploy web --version 2.1.0 --from dist/ 'web*' --dry-run
      A directory is packed; the same files are the same release. Nothing is changed yet.
  ctl deploy web --version 2.1.0 --from https://releases.example/web.tgz --sha256 … --size … 'web*'
      The hosts fetch it themselves.
  ctl deploy status web 'web*'
      What runs there.
  ctl deploy rollback web 'web*'
      Back to the release before.";

/// After the options of `sh`.
pub const SH: &str = "\
Examples:
  ctl sh web1 'df -h | tail -1'
  ctl sh web1 'cat > /etc/motd' < motd";

/// After the commands of `job`.
pub const JOB: &str = "\
A job is named by its id, by the last eight digits of it (as `ctl job list` shows them), by the beginning \
of either as long as that is unambiguous, or by `last`: the last job that you have run yourself.";

/// After the options of `job show`.
pub const JOB_SHOW: &str = "\
A job can be checked without ctl, against the file in which hosts keep whom they trust:
  ctl job show last --raw DIR
  ssh-keygen -Y verify -f allowed_signers -I ann@desk -n redfleet-job@v1 \\
      -s DIR/manifest.sig < DIR/manifest";

/// After the options of `job resume`.
pub const RESUME: &str = "\
Examples:
  ctl job resume last
      Go on with the last run: with what failed, expired, or was not reached.
  ctl job resume 3f2a --only failed --batch 1
      The hosts on which it failed, one after another.
Exits as `ctl run` does, and with 4 where hosts are left out.";

/// After the options of `playbook run`.
pub const PLAYBOOK: &str = "\
A playbook:
  values = { version = \"2.1\" }                # --set version=2.2
  hosts = { label = \"role=web\" }              # host, group, all, label, where, exclude, limit

  [[step]]
  name = \"look\"
  action = \"deploy-status\"
  arguments = { app = \"web\" }

  [[step]]
  name = \"deploy\"
  action = \"deploy\"
  from = \"dist/web\"                           # beside this file
  arguments = { app = \"web\", version = \"${version}\" }
  when = \"result.look.running != ${version}\"  # also all that --where asks for
  canary = 1                                  # batch, batch_wait, max_fail, abort_if, timeout
  batch = \"20%\"
  on_failure = \"rollback\"                     # stop (as without it), continue
  rollback = { action = \"deploy-rollback\", arguments = { app = \"web\" } }

  [[step]]
  name = \"calm\"
  check = \"cpu.usage < 80\"
  within = \"2m\"
Arguments may have ${result.STEP.NAME} in them, if it is the same on all hosts of that step: state, exit_code, reason,
stdout, stderr, or a name of its data.";

/// After the options of `up`.
pub const UP: &str = "\
It listens on a Unix socket in the state directory only, keeps its data there, and needs no
settings: `ctl` finds it by itself. `ctl down` stops it.";

/// After the options of `doctor`.
pub const DOCTOR: &str = "\
Exits 0 when there is no problem (warnings are allowed), 2 when there is one, 1 when Redis cannot be
reached.";

/// After the argument of `completions`.
pub const COMPLETIONS: &str = "\
Add one of these lines to your shell's start-up file:
  bash  source <(ctl completions bash)
  zsh   source <(ctl completions zsh)
  fish  ctl completions fish | source";
