//! In place of `socket.rs` where whole processes are simulated: turmoil's connections and clock. There are no options to set.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

pub(super) use turmoil::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
pub(super) use turmoil::net::{TcpListener, TcpStream};

use crate::stats::connection::SocketStatus;

/// The wall clock of the simulation.
pub(super) fn since_epoch() -> Duration {
    turmoil::since_epoch().unwrap_or_default()
}

/// A host has one address, and turmoil binds to all there are.
pub(super) async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
}

pub(super) async fn connect(address: SocketAddr, _silence_timeout: Duration) -> io::Result<TcpStream> {
    TcpStream::connect(address).await
}

pub(super) fn tune_accepted(_stream: &TcpStream, _silence_timeout: Duration) {}

pub(super) fn took(_stream: &TcpStream) -> SocketStatus {
    SocketStatus::default()
}
