//! The users of a server: each program of the fleet logs in as its own, with no more rights than it needs.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use protocol::{acl::Role, name::Namespace};
use redis::Client;

/// The password of them all.
const PASSWORD: &str = "tests";

/// How long a server may take to make a user.
const PATIENCE: Duration = Duration::from_secs(2);

/// Makes users, each once.
#[derive(Clone, Debug)]
pub(crate) struct Users {
    /// The server's directory; none where the server has a password of its own, so that there are no users.
    directory: Option<PathBuf>,
    made: Arc<Mutex<BTreeSet<String>>>,
}

impl Users {
    /// Those of the server in this directory. Its default user may do everything, without a password.
    pub(crate) fn of(directory: Option<&Path>) -> Self {
        let users = Self { directory: directory.map(Path::to_owned), made: Arc::default() };
        if let Some(file) = users.file().filter(|file| !file.exists()) {
            fs::write(&file, "user default on nopass ~* &* +@all\n").expect("a file");
            users.make(&Role::Controller, None);
            users.make(&Role::Reader, None);
        }
        users
    }

    /// The file with the users, for the server's configuration.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join("users.acl"))
    }

    /// The URL with the login of this role. A URL that has a login is left as it is.
    pub(crate) fn log_in(&self, url: &str, role: &Role, namespace: Option<&Namespace>) -> String {
        if self.directory.is_none() || url.contains('@') || url.contains("pass=") {
            return url.to_owned();
        }
        self.make(role, namespace);
        let user = role.user(namespace);
        match url.split_once("://") {
            Some(("unix", path)) => format!("unix://{path}?user={user}&pass={PASSWORD}"),
            Some((scheme, rest)) => format!("{scheme}://{user}:{PASSWORD}@{rest}"),
            None => url.to_owned(),
        }
    }

    /// Makes the user, unless that was done before. A server that is away has it when it starts.
    pub(crate) fn make(&self, role: &Role, namespace: Option<&Namespace>) {
        let (Some(directory), Some(file)) = (&self.directory, self.file()) else { return };
        let line = role.user_line(namespace, Some(PASSWORD), false);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if !made.insert(line.clone()) {
            return;
        }
        let url = format!("unix://{}", directory.join("redis.sock").display());
        let connection = Client::open(url).and_then(|client| client.get_connection_with_timeout(PATIENCE));
        let Ok(mut connection) = connection else {
            let prior = fs::read_to_string(&file).unwrap_or_default();
            let other = |old: &&str| !old.starts_with(&format!("user {} ", role.user(namespace)));
            let own = format!("user {line}");
            let lines: Vec<_> = prior.lines().filter(other).chain([own.as_str()]).collect();
            fs::write(&file, lines.join("\n") + "\n").expect("a file");
            return;
        };
        connection.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut set = redis::cmd("ACL");
        set.arg("SETUSER").arg(line.split(' ').collect::<Vec<_>>());
        set.query::<()>(&mut connection).unwrap_or_else(|error| panic!("ACL SETUSER {line}: {error}"));
        redis::cmd("ACL").arg("SAVE").query::<()>(&mut connection).expect("the users are saved");
    }
}
