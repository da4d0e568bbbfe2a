//! TCP ports for servers that bind later.

use std::{
    net::{Ipv4Addr, TcpListener},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// The ports to choose from. They lie below those that Linux gives to clients (`ip_local_port_range`, 32768 to
/// 60999): a port that `bind` to port 0 chose can be the port of another test's connection a moment later.
const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

/// A port of the loopback address at which nothing listens. No other call in this process gets it; calls in other
/// processes begin elsewhere.
///
/// # Panics
/// Something listens at every port.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test programs that run at the same time have neighbouring process ids.
    let begin = process::id().wrapping_mul(7_919) % COUNT;
    let mut candidates = (0..COUNT).map(|_| FIRST + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT);
    let free = candidates.find_map(|port| {
        let port = u16::try_from(port).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok().then_some(port)
    });
    free.expect("a free port")
}
