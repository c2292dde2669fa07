//! The first bytes of a caller of an API within TLS: TLS sees them once they are a whole record, and it is that caller's turn. Who
//! speaks plain HTTP is told so in words that it understands. Its handshake fails all the same, and is counted and logged as such.

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

/// Of a first record so much is waited for: honest ones have less than half of it.
const FIRST_BYTES_MAX: usize = 4 * 1024;
/// The first byte of a record of a handshake.
const HANDSHAKE: u8 = 22;

/// A connection that just came in.
pub(super) struct Front {
    stream: TcpStream,
    /// What it began with, until TLS takes it.
    first: Vec<u8>,
    /// What is waited for behind a first record.
    turn: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Its caller was answered in plaintext: what TLS has to say to it goes nowhere.
    answered: bool,
}

impl Front {
    /// `turn` is not begun before there is something that a handshake can begin with.
    pub(super) fn new(stream: TcpStream, turn: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { stream, first: Vec::new(), turn: Some(Box::pin(turn)), answered: false }
    }

    /// What is no handshake costs TLS next to nothing, and so it waits for no turn. Whoever begins with the name of a method is
    /// answered, if the socket takes it at once.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(turn) = &mut self.turn {
            if is_whole(&self.first) {
                ready!(turn.as_mut().poll(cx));
                self.turn = None;
                break;
            }
            let mut bytes = [0; FIRST_BYTES_MAX];
            let mut room = ReadBuf::new(&mut bytes[self.first.len()..]);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room))?;
            self.first.extend_from_slice(room.filled());
            if room.filled().is_empty() || self.first[0] != HANDSHAKE {
                self.turn = None;
            }
        }
        if self.first.first().is_some_and(u8::is_ascii_uppercase) && !self.answered {
            self.answered = true;
            let _ = self.stream.try_write(ANSWER);
        }
        Poll::Ready(Ok(()))
    }
}

/// A record is there, or as much of it as is waited for.
fn is_whole(first: &[u8]) -> bool {
    match first {
        [_, _, _, high, low, body @ ..] => {
            body.len() >= u16::from_be_bytes([*high, *low]).into() || first.len() >= FIRST_BYTES_MAX
        }
        _ => false,
    }
}

impl AsyncRead for Front {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_turn(cx))?;
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let count = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first[..count]);
        self.first = self.first.split_off(count);
        Poll::Ready(Ok(()))
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
    fn a_record_is_whole_with_its_last_byte_and_nobody_is_waited_for_with_a_long_one() {
        let record = [HANDSHAKE, 3, 1, 1, 2];
        for (bytes, whole) in [(0, false), (4, false), (5, false), (5 + 257, false), (5 + 258, true)] {
            let mut first = record.to_vec();
            first.resize(bytes, 0);
            assert_eq!(is_whole(&first), whole, "{bytes}");
        }
        let mut long = vec![255; FIRST_BYTES_MAX];
        assert!(is_whole(&long));
        long.pop();
        assert!(!is_whole(&long));
    }

    #[test]
    fn the_answer_is_as_long_as_it_says() {
        let text = std::str::from_utf8(ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        assert!(body.starts_with(WITHIN_TLS));
    }
}
