//! The listening sockets of a service: the supervisor holds them, so that none of them is closed between two processes.

use std::{
    fs, io,
    net::TcpListener,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::FileTypeExt, net::UnixListener},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::sys::{
    socket::{Backlog, listen},
    stat::{Mode, fstat, umask},
};

use super::launch::{Address, Launch, Listen};

/// What a file of a socket does not permit: as with systemd, who may connect is decided by its directory.
const UMASK: Mode = Mode::from_bits_truncate(0o111);

/// A listening socket under the name that a service knows it by.
#[derive(Clone)]
pub(super) struct Socket {
    pub(super) listen: Listen,
    pub(super) open: Arc<Open>,
}

/// A listening socket. It is closed when nobody holds it any more.
pub(super) struct Open {
    pub(super) fd: OwnedFd,
    /// Its inode, by which the processes that have it open can be found.
    pub(super) inode: u64,
    /// Where it listens in fact.
    pub(super) address: String,
    /// The file of a Unix socket, which goes with it.
    path: Option<PathBuf>,
}

/// Why a service cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {0}: {1}")]
pub(super) struct CannotListen(Address, #[source] io::Error);

impl Socket {
    /// `private`: the file of a Unix socket that takes the place of the one that is named; a TCP socket gets a port of
    /// its own.
    fn bind(socket: Listen, private: Option<&Path>) -> Result<Self, CannotListen> {
        let bound = match (&socket.address, private) {
            (Address::Tcp(address), None) => TcpListener::bind(address).and_then(tcp),
            (Address::Tcp(address), Some(_)) => TcpListener::bind(Address::private(address)).and_then(tcp),
            (Address::Unix(path), None) => unix(path),
            (Address::Unix(_), Some(path)) => unix(path),
        };
        let wide = bound.and_then(|(fd, address, path)| {
            // As many connections may wait as the kernel permits (`net.core.somaxconn`).
            listen(&fd.as_fd(), Backlog::MAXALLOWABLE)?;
            let inode = fstat(&fd)?.st_ino;
            Ok((fd, address, path, inode))
        });
        let (fd, address, path, inode) = wide.map_err(|error| CannotListen(socket.address.clone(), error))?;
        Ok(Self { listen: socket, open: Arc::new(Open { fd, inode, address, path }) })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

type Bound = (OwnedFd, String, Option<PathBuf>);

fn tcp(listener: TcpListener) -> io::Result<Bound> {
    let address = listener.local_addr()?.to_string();
    Ok((listener.into(), address, None))
}

fn unix(path: &Path) -> io::Result<Bound> {
    // The file of a socket that nobody listens at any more.
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        fs::remove_file(path)?;
    }
    // The file gets its mode as it is made. To change that later by its path could change another file: whoever owns the
    // directory can put a link there meanwhile. The other thread, the log's, makes files that no umask can widen.
    let before = umask(UMASK);
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound?;
    Ok((listener.into(), format!("unix:{}", path.display()), Some(path.to_owned())))
}

/// The sockets that `launch` names: those of `held` at the same addresses, whatever they were called, and new ones for the
/// others.
pub(super) fn shared(launch: &Launch, held: &[Socket]) -> Result<Vec<Socket>, CannotListen> {
    let find = |wanted: &Listen| {
        let known = held.iter().find(|held| held.listen.address == wanted.address);
        let renamed = known.map(|held| Socket { listen: wanted.clone(), open: Arc::clone(&held.open) });
        renamed.map_or_else(|| Socket::bind(wanted.clone(), None), Ok)
    };
    launch.listen.iter().map(find).collect()
}

/// As many sockets as `launch` names, of the same kinds, which nobody else knows: at ports of this machine alone, and in
/// this directory. `number`: that of the process that gets them; the one before may still end.
pub(super) fn private(launch: &Launch, directory: &Path, number: u64) -> Result<Vec<Socket>, CannotListen> {
    let bind = |(index, wanted): (usize, &Listen)| {
        Socket::bind(wanted.clone(), Some(&directory.join(format!("private-{number}-{index}"))))
    };
    launch.listen.iter().enumerate().map(bind).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        fs::Permissions,
        os::unix::{fs::PermissionsExt, fs::symlink, net::UnixStream},
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// How often an attacker gets a chance. Where the mode was set by path, far fewer were enough.
    const ROUNDS: usize = 2000;

    fn launch(listen: &[&str]) -> Launch {
        let launch = serde_json::json!({ "argv": ["x"], "listen": listen, "drain_ms": 0 });
        serde_json::from_value(launch).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_link_in_the_place_of_a_socket_widens_no_other_file() {
        // The umask belongs to the process, but other tests run in this one.
        if unshare(CloneFlags::CLONE_FS).is_err() {
            eprintln!("skipped: a_link_in_the_place_of_a_socket_widens_no_other_file (unshare is forbidden here)");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let [path, link, victim] = ["socket", "link", "victim"].map(|name| directory.path().join(name));
        fs::write(&victim, "secret").unwrap();
        fs::set_permissions(&victim, Permissions::from_mode(0o600)).unwrap();
        drop(unix(&path).unwrap());
        assert_eq!(mode(&path), 0o666);

        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _ = symlink(&victim, &link);
                    if fs::symlink_metadata(&path).is_ok_and(|found| found.file_type().is_socket()) {
                        let _ = fs::rename(&link, &path);
                    }
                }
            });
            for _ in 0..ROUNDS {
                let _ = fs::remove_file(&path);
                let _ = unix(&path);
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(mode(&victim), 0o600);
    }

    #[test]
    fn a_held_socket_goes_on_under_another_name() {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("unix:{}/x.sock", directory.path().display());
        let held = shared(&launch(&[&address]), &[]).unwrap();
        let named = shared(&launch(&[&format!("admin={address}")]), &held).unwrap();
        assert_eq!(named[0].open.inode, held[0].open.inode);
        assert_eq!((&held[0].listen.name, named[0].listen.name.as_deref()), (&None, Some("admin")));
    }

    #[test]
    fn private_sockets_do_not_share_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let launch = launch(&["unix:/a/x.sock", "unix:/b/x.sock"]);
        // The sockets of the candidate before may still be open.
        let all = [1, 2].map(|number| private(&launch, directory.path(), number).unwrap());
        for socket in all.iter().flatten() {
            UnixStream::connect(socket.open.address.strip_prefix("unix:").unwrap()).unwrap();
        }
    }
}
