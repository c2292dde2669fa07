//! A stream that fails once its other end has taken nothing for too long, and tells when it has taken everything.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::waiting::Waiter;

/// Writes wait so long and no longer. Reads are left as they are.
pub(super) struct Patient<S> {
    stream: S,
    patience: Duration,
    /// While a write waits.
    waits: Option<Pin<Box<Sleep>>>,
    /// Who is told of what was taken.
    waiter: Arc<Waiter>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, patience: Duration, waiter: Arc<Waiter>) -> Self {
        Self { stream, patience, waits: None, waiter }
    }

    /// What became of a write, or that it waited for too long.
    fn judge<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waits = None;
            return written;
        }
        let patience = self.patience;
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(patience)));
        waits.as_mut().poll(cx).map(|()| {
            let why = format!("the other end took nothing for {patience:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.waiter.taken();
        }
        self.judge(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judge(cx, ended)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::waiting::Waiting;
    use super::*;

    fn waiter() -> Arc<Waiter> {
        Arc::new(Waiting::default().begin(Ipv4Addr::LOCALHOST.into()))
    }

    #[tokio::test]
    async fn who_takes_nothing_is_waited_for_so_long() {
        let (here, there) = tokio::io::duplex(16);
        let mut here = Patient::new(here, Duration::from_millis(20), waiter());
        let error = here.write_all(&[7; 17]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(there);
    }

    #[tokio::test]
    async fn whoever_takes_a_little_at_a_time_is_waited_for_anew_each_time() {
        let (here, mut there) = tokio::io::duplex(16);
        let mut here = Patient::new(here, Duration::from_secs(3_600), waiter());
        here.write_all(&[7; 16]).await.unwrap();
        let mut write = Box::pin(here.write_all(&[8; 8]));
        assert!(futures_util::poll!(write.as_mut()).is_pending());
        there.read_exact(&mut [0; 8]).await.unwrap();
        write.await.unwrap();
        assert!(here.waits.is_none(), "the clock of that wait is gone");
    }
}
