//! The first bytes of a caller of an API within TLS: who speaks plain HTTP is told so in words that it understands. Its handshake
//! fails all the same, and is counted and logged as such.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What it begins with: by that a command knows it.
pub(crate) const WITHIN_TLS: &str = "this address is within TLS";

/// What a caller without TLS reads. The connection ends behind it.
const ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 85\r\nconnection: close\r\n\r\n\
    this address is within TLS: ask with https://, and show a certificate of the cluster\n";

/// A connection that just came in.
pub(super) struct Front {
    stream: TcpStream,
    looked: bool,
    /// Its caller was answered in plaintext: what TLS has to say to it goes nowhere.
    answered: bool,
}

impl Front {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, looked: false, answered: false }
    }

    /// Answers, if the socket takes it at once, whoever begins with the name of a method: a handshake begins with another byte.
    fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut first = [0];
        ready!(self.stream.poll_peek(cx, &mut ReadBuf::new(&mut first)))?;
        self.looked = true;
        if first[0].is_ascii_uppercase() {
            self.answered = true;
            let _ = self.stream.try_write(ANSWER);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Front {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.looked {
            ready!(self.poll_look(cx))?;
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Front {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.answered {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.answered {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_as_long_as_it_says() {
        let text = std::str::from_utf8(ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        assert!(body.starts_with(WITHIN_TLS));
    }
}
