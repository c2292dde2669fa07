//! A socket that gives little until its peer is authenticated. TLS would take 64 KiB of one handshake message, and keep
//! several copies of it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is read of a peer before it is authenticated, bytes: the longest chain that a node shows, what else is said, and no more. A
/// read that passes it is the last one. A dialler holds a chain until whoever showed it has signed for it, and an empty certificate is 5
/// bytes of it and more than 48 of memory: twice as many bytes would be four times as much.
pub(super) const HANDSHAKE_INPUT_BYTES_MAX: usize = 10 * 1024;

/// The longest chain that a node shows, bytes of its certificates: five with keys of 4,096 bits. The rest is for what else a handshake
/// says.
pub(super) const CHAIN_BYTES_MAX: usize = 8 * 1024;

/// More was sent than an honest peer has to say.
#[derive(Debug, thiserror::Error)]
#[error("more than {HANDSHAKE_INPUT_BYTES_MAX} bytes before the TLS handshake was complete")]
pub(super) struct TooLong;

/// A socket with what may still be read from it.
#[derive(Debug)]
pub(in super::super) struct Gate<S> {
    stream: S,
    /// `None` once the peer is authenticated.
    left: Option<usize>,
}

impl<S> Gate<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, left: Some(HANDSHAKE_INPUT_BYTES_MAX) }
    }

    /// The peer is authenticated: what it sends is limited by its frames from now on.
    pub(super) fn open(&mut self) {
        self.left = None;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        let before = room.filled().len();
        ready!(Pin::new(&mut gate.stream).poll_read(cx, room))?;
        let count = room.filled().len() - before;
        match gate.left.as_mut().map(|left| (left.checked_sub(count), left)) {
            None => {}
            Some((Some(rest), left)) => *left = rest,
            Some((None, _)) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, TooLong))),
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
