//! Either network, with the names that `kernel.rs` has: within a simulation turmoil's connections and clock, which have no
//! options to set, and everywhere else the kernel's. So a build that has this feature for one test changes nothing for whoever
//! else is built with it.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net as simulated;

use super::kernel;
pub(super) use super::kernel::SocketOptions;
use crate::stats::connection::SocketStatus;

/// The same thing of one of the two networks.
pub(super) enum Either<K, S> {
    Kernel(K),
    Simulated(S),
}

use Either::{Kernel, Simulated};

pub(super) type TcpListener = Either<kernel::TcpListener, simulated::TcpListener>;
pub(super) type TcpStream = Either<kernel::TcpStream, simulated::TcpStream>;
pub(super) type OwnedReadHalf = Either<kernel::OwnedReadHalf, simulated::tcp::OwnedReadHalf>;
pub(super) type OwnedWriteHalf = Either<kernel::OwnedWriteHalf, simulated::tcp::OwnedWriteHalf>;

/// The wall clock, of the simulation where there is one.
pub(super) fn since_epoch() -> Duration {
    turmoil::since_epoch().unwrap_or_else(kernel::since_epoch)
}

pub(super) async fn listen(address: SocketAddr, options: &SocketOptions) -> io::Result<TcpListener> {
    if turmoil::in_simulation() {
        // A host has one address, and turmoil binds to all there are.
        let all = (Ipv4Addr::UNSPECIFIED, address.port());
        return simulated::TcpListener::bind(all).await.map(Simulated);
    }
    kernel::listen(address, options).await.map(Kernel)
}

pub(super) async fn connect(address: SocketAddr, options: &SocketOptions) -> io::Result<TcpStream> {
    if turmoil::in_simulation() {
        return simulated::TcpStream::connect(address).await.map(Simulated);
    }
    kernel::connect(address, options).await.map(Kernel)
}

pub(super) fn tune_accepted(stream: &TcpStream, options: &SocketOptions) {
    if let Kernel(stream) = stream {
        kernel::tune_accepted(stream, options);
    }
}

pub(super) fn took(stream: &TcpStream) -> SocketStatus {
    match stream {
        Kernel(stream) => kernel::took(stream),
        Simulated(_) => SocketStatus::default(),
    }
}

impl TcpListener {
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match self {
            Kernel(listener) => listener.accept().await.map(|(stream, from)| (Kernel(stream), from)),
            Simulated(listener) => listener.accept().await.map(|(stream, from)| (Simulated(stream), from)),
        }
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Kernel(listener) => listener.local_addr(),
            Simulated(listener) => listener.local_addr(),
        }
    }
}

impl TcpStream {
    pub(super) fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Kernel(stream) => stream.peer_addr(),
            Simulated(stream) => stream.peer_addr(),
        }
    }

    pub(super) fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        match self {
            Kernel(stream) => {
                let (input, output) = stream.into_split();
                (Kernel(input), Kernel(output))
            }
            Simulated(stream) => {
                let (input, output) = stream.into_split();
                (Simulated(input), Simulated(output))
            }
        }
    }
}

impl<K: AsyncRead + Unpin, S: AsyncRead + Unpin> AsyncRead for Either<K, S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Kernel(input) => Pin::new(input).poll_read(cx, room),
            Simulated(input) => Pin::new(input).poll_read(cx, room),
        }
    }
}

impl<K: AsyncWrite + Unpin, S: AsyncWrite + Unpin> AsyncWrite for Either<K, S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Kernel(output) => Pin::new(output).poll_write(cx, bytes),
            Simulated(output) => Pin::new(output).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Kernel(output) => Pin::new(output).poll_write_vectored(cx, slices),
            Simulated(output) => Pin::new(output).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Kernel(output) => output.is_write_vectored(),
            Simulated(output) => output.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Kernel(output) => Pin::new(output).poll_flush(cx),
            Simulated(output) => Pin::new(output).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Kernel(output) => Pin::new(output).poll_shutdown(cx),
            Simulated(output) => Pin::new(output).poll_shutdown(cx),
        }
    }
}
