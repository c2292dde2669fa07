//! The two halves of a connection, plain or within TLS: readers and writers do not know which.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};
use tokio_rustls::TlsStream;

use super::socket::{OwnedReadHalf, OwnedWriteHalf, TcpStream};
use super::tls::Gate;

/// What comes from the peer.
pub(super) enum Input {
    Plain(OwnedReadHalf),
    /// Both halves share the state of TLS, each for the time of one call.
    Tls(ReadHalf<TlsStream<Gate<TcpStream>>>),
}

/// What goes to the peer.
pub(super) enum Output {
    Plain(OwnedWriteHalf),
    /// What was written may wait for the kernel here; a flush waits until it has taken it.
    Tls(WriteHalf<TlsStream<Gate<TcpStream>>>),
}

pub(super) fn plain(stream: TcpStream) -> (Input, Output) {
    let (input, output) = stream.into_split();
    (Input::Plain(input), Output::Plain(output))
}

pub(super) fn tls(stream: TlsStream<Gate<TcpStream>>) -> (Input, Output) {
    let (input, output) = tokio::io::split(stream);
    (Input::Tls(input), Output::Tls(output))
}

impl AsyncRead for Input {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(input) => Pin::new(input).poll_read(cx, room),
            Self::Tls(input) => Pin::new(input).poll_read(cx, room),
        }
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(output) => Pin::new(output).poll_write(cx, bytes),
            Self::Tls(output) => Pin::new(output).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(output) => Pin::new(output).poll_write_vectored(cx, slices),
            Self::Tls(output) => Pin::new(output).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(output) => output.is_write_vectored(),
            Self::Tls(output) => output.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(output) => Pin::new(output).poll_flush(cx),
            Self::Tls(output) => Pin::new(output).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(output) => Pin::new(output).poll_shutdown(cx),
            Self::Tls(output) => Pin::new(output).poll_shutdown(cx),
        }
    }
}
