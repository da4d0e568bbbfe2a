//! Rolling runs: waves, budgets, and going on from anywhere. What ran is known by evidence on the hosts.

mod kills;
mod resumed;
mod waves;

use std::{collections::BTreeMap, fs, path::PathBuf};

use tests::{Ctl, Redis, Running, Worker};

/// Hosts `web1`, `web2` and so on, whose programs leave evidence, and fail where the test wants that.
struct Hosts {
    redis: Redis,
    workers: Vec<Worker>,
    ctl: Ctl,
}

impl Hosts {
    fn start(count: usize) -> Self {
        Self::with(count, Redis::start())
    }

    fn with(count: usize, redis: Redis) -> Self {
        let start = |number: usize| Worker::on(&redis).host(&format!("web{number}")).allow_exec().start();
        let workers: Vec<_> = (1..=count).map(start).collect();
        workers.iter().for_each(Worker::wait_online);
        let ctl = Ctl::on(&redis);
        let hosts = Self { redis, workers, ctl };
        for name in ["ran", "fails"] {
            fs::create_dir(hosts.directory(name)).expect("a directory");
        }
        hosts
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.redis.directory().join(name)
    }

    /// A line of shell that leaves evidence, and fails where the host is to fail.
    fn script(&self) -> String {
        let (ran, fails) = (self.directory("ran"), self.directory("fails"));
        let (ran, fails) = (ran.display(), fails.display());
        format!("echo ran >> {ran}/$REDFLEET_HOST; test ! -e {fails}/$REDFLEET_HOST")
    }

    /// From now on the script fails on this host.
    fn fail(&self, host: &str) {
        fs::write(self.directory("fails").join(host), "").expect("a file");
    }

    fn mend(&self, host: &str) {
        fs::remove_file(self.directory("fails").join(host)).expect("a file");
    }

    /// The words that run the script on all hosts, with these flags.
    fn words(&self, flags: &str) -> Vec<String> {
        let flags = flags.split_whitespace().map(str::to_owned);
        let words = ["exec", "--", "sh", "-c", &self.script()].map(str::to_owned);
        ["run".to_owned(), "--all".to_owned()].into_iter().chain(flags).chain(words).collect()
    }

    fn run(&self, flags: &str) -> tests::Output {
        self.ctl.run(self.words(flags))
    }

    /// As [`Self::run`], on these hosts alone.
    fn run_on(&self, names: &str, flags: &str) -> tests::Output {
        let hosts = format!("--host={names}");
        self.ctl.run(self.words(flags).iter().map(|word| if word == "--all" { &hosts } else { word }))
    }

    fn spawn(&self, flags: &str) -> Running {
        self.ctl.spawn(self.words(flags))
    }

    /// Another machine of the same operator: nothing but the key is the same.
    fn elsewhere(&self) -> Ctl {
        Ctl::on(&self.redis)
    }

    /// How often the script has run on each host on which it has.
    fn ran(&self) -> BTreeMap<String, usize> {
        let entries = fs::read_dir(self.directory("ran")).expect("a directory").flatten();
        let count = |path: PathBuf| fs::read_to_string(path).expect("a file").lines().count();
        entries.map(|entry| (entry.file_name().into_string().expect("text"), count(entry.path()))).collect()
    }

    /// It has run once on each of these hosts, and nowhere else.
    #[track_caller]
    fn expect_once(&self, numbers: impl IntoIterator<Item = usize>) {
        let expected: BTreeMap<_, _> = numbers.into_iter().map(|number| (format!("web{number}"), 1)).collect();
        assert_eq!(self.ran(), expected);
    }
}
