//! The listening sockets of a service: the supervisor holds them, so that none of them is closed between two processes.

use std::{
    fs::{self, Permissions},
    io,
    net::TcpListener,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::sys::{
    socket::{Backlog, listen},
    stat::fstat,
};

use super::launch::{Address, Launch, Listen};

/// A listening socket. It is closed when nobody holds it any more.
pub(super) struct Socket {
    pub(super) listen: Listen,
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
    fn bind(socket: Listen, directory: Option<&Path>) -> Result<Self, CannotListen> {
        let bound = match (&socket.address, directory) {
            (Address::Tcp(address), None) => TcpListener::bind(address).and_then(tcp),
            (Address::Tcp(address), Some(_)) => TcpListener::bind(Address::private(address)).and_then(tcp),
            (Address::Unix(path), None) => unix(path),
            (Address::Unix(path), Some(directory)) => {
                unix(&directory.join(path.file_name().unwrap_or_default()).with_extension("private"))
            }
        };
        let wide = bound.and_then(|(fd, address, path)| {
            // As many connections may wait as the kernel permits (`net.core.somaxconn`).
            listen(&fd.as_fd(), Backlog::MAXALLOWABLE)?;
            let inode = fstat(&fd)?.st_ino;
            Ok((fd, address, path, inode))
        });
        let (fd, address, path, inode) = wide.map_err(|error| CannotListen(socket.address.clone(), error))?;
        Ok(Self { listen: socket, fd, inode, address, path })
    }
}

impl Drop for Socket {
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
    let listener = UnixListener::bind(path)?;
    // As systemd does: who may connect is decided by the directory.
    fs::set_permissions(path, Permissions::from_mode(0o666))?;
    Ok((listener.into(), format!("unix:{}", path.display()), Some(path.to_owned())))
}

/// The sockets that `launch` names: those of `held` that are among them, and new ones for the others.
pub(super) fn shared(launch: &Launch, held: &[Arc<Socket>]) -> Result<Vec<Arc<Socket>>, CannotListen> {
    let find = |wanted: &Listen| {
        let known = held.iter().find(|held| held.listen == *wanted).cloned();
        known.map_or_else(|| Socket::bind(wanted.clone(), None).map(Arc::new), Ok)
    };
    launch.listen.iter().map(find).collect()
}

/// As many sockets as `launch` names, of the same kinds, which nobody else knows: at ports of this machine alone, and in
/// this directory.
pub(super) fn private(launch: &Launch, directory: &Path) -> Result<Vec<Arc<Socket>>, CannotListen> {
    launch.listen.iter().map(|wanted| Socket::bind(wanted.clone(), Some(directory)).map(Arc::new)).collect()
}
