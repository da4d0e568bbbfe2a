//! The state directory of `ctl up`: its path and the files in it.

use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, ensure};
use protocol::connection::Address;
use url::Url;

/// The longest path of a Unix socket (man 7 unix: `sun_path` without the closing zero).
const SOCKET_PATH_BYTES: usize = 107;

/// The name of the operator's key beside the socket.
pub const KEY: &str = "ctl-up.key";

/// A state directory, which may not exist, and the files that it may hold.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Its absolute path.
    pub path: PathBuf,
    /// Its lock gives the right to start and end processes here; other directories have no such file.
    pub lock: PathBuf,
    /// The Unix socket of Redis.
    pub socket: PathBuf,
    /// The URL of that socket.
    pub url: String,
    /// The address of that socket.
    pub address: Address,
    /// The directory of Redis' append-only file.
    pub redis_data: PathBuf,
    /// The log of Redis.
    pub redis_log: PathBuf,
    /// The identity of the Redis process.
    pub redis_pid: PathBuf,
    /// The operator's key, which this worker trusts.
    pub key: PathBuf,
    /// The worker's trust file.
    pub trust: PathBuf,
    /// The keys of its hosts.
    pub known_hosts: PathBuf,
    /// The worker's settings file.
    pub worker_config: PathBuf,
    /// The worker's own state directory.
    pub worker_state: PathBuf,
    /// The worker's log.
    pub worker_log: PathBuf,
    /// The identity of the worker process.
    pub worker_pid: PathBuf,
}

impl Directory {
    /// The directory at `path`, which is made absolute.
    ///
    /// # Errors
    /// The path is too long for a socket, or not plain text, though a URL and a settings file must name it;
    /// or it is relative to a working directory that is gone.
    pub fn at(path: &Path) -> anyhow::Result<Self> {
        let path = absolute(path).with_context(|| format!("cannot use '{}'", path.display()))?;
        let is_plain = path.to_str().is_some_and(|text| !text.contains(char::is_control));
        ensure!(is_plain, "the path '{}' is not plain text", path.to_string_lossy().escape_debug());
        let socket = path.join("redis.sock");
        let (shown, length) = (socket.display(), socket.as_os_str().len());
        ensure!(
            length <= SOCKET_PATH_BYTES,
            "the path {shown} is too long: a socket's path may have {SOCKET_PATH_BYTES} bytes, this has {length}"
        );

        let escaped = Url::from_file_path(&socket).ok().with_context(|| format!("no URL can name {shown}"))?;
        let url = format!("unix://{}", escaped.path());
        Ok(Self {
            lock: path.join("ctl-up.lock"),
            address: url.parse()?,
            url,
            socket,
            redis_data: path.join("data"),
            redis_log: path.join("redis.log"),
            redis_pid: path.join("redis.pid"),
            key: path.join(KEY),
            trust: path.join("allowed_signers"),
            known_hosts: path.join("known_hosts"),
            worker_config: path.join("worker.toml"),
            worker_state: path.join("worker"),
            worker_log: path.join("worker.log"),
            worker_pid: path.join("worker.pid"),
            path,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_to_the_socket_whatever_its_name() {
        for name in ["plain", "with space", "100%25", "a?b#c", r"back\slash", "ü", "a:b@c", "[x]^|`'\""] {
            let directory = Directory::at(&Path::new("/tmp").join(name)).unwrap();
            assert_eq!(directory.address.socket(), Some(directory.socket.as_path()), "{name}");
        }
    }

    #[test]
    fn paths_that_no_socket_or_settings_file_can_have_are_refused() {
        let refusal = |path: &str| Directory::at(Path::new(path)).unwrap_err().to_string();
        assert_eq!(refusal("/a\nb"), r"the path '/a\nb' is not plain text");
        let longest = format!("/{}", "x".repeat(95));
        assert!(Directory::at(Path::new(&longest)).is_ok());
        assert!(refusal(&format!("{longest}x")).ends_with("may have 107 bytes, this has 108"));
    }
}
