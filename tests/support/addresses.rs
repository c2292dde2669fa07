//! Addresses on loopback that are a test's own: nothing is drawn that somebody else could be given before it is used.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below what kernels give out by themselves, to listeners and to whoever dials.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// Addresses that nobody listens on, each for one test of one process: the network is this process's, the port is never given twice.
pub(crate) fn own(count: usize) -> Vec<SocketAddr> {
    (0..count).map(|_| own_address()).collect()
}

fn own_address() -> SocketAddr {
    let port = own_port();
    let [low, high, ..] = std::process::id().to_le_bytes();
    let [node, _] = port.to_le_bytes();
    // 127.0.0.1 is where everybody dials from.
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, high.max(1), low, node.clamp(1, 254))), port)
}

/// A port for every address of the machine. Processes that run at once begin far apart.
pub(crate) fn own_port() -> u16 {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let room = u32::from(PORTS.end - PORTS.start);
    let given = GIVEN.fetch_add(1, Ordering::Relaxed);
    assert!(u32::from(given) < room, "no test needs that many");
    let at = std::process::id().wrapping_mul(97).wrapping_add(given.into()) % room;
    PORTS.start + u16::try_from(at).expect("it is less than the room")
}
