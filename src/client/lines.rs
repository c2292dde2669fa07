//! Bytes as they come, cut into lines.

use bytes::{Buf, Bytes, BytesMut};

/// The longest line, B: an operation of 1 MiB in base64, and what is around it.
const LINE_BYTES_MAX: usize = 4 << 20;

/// What came and is no whole line yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: BytesMut,
    /// So much of it has no end of a line.
    searched: usize,
}

impl Lines {
    /// More bytes came.
    ///
    /// # Errors
    ///
    /// Where a line is longer than any may be.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.searched == self.buffer.len() && self.buffer.len() > LINE_BYTES_MAX {
            return Err(format!("it tells a line of more than {LINE_BYTES_MAX} B"));
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole line, without its end.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        match self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                let line = self.buffer.split_to(self.searched + at).freeze();
                self.buffer.advance(1);
                self.searched = 0;
                Some(line)
            }
            None => {
                self.searched = self.buffer.len();
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_came_in() {
        let text = b"one\n\ntwo and more\nthree\nrest";
        for size in 1..=text.len() {
            let (mut lines, mut out) = (Lines::default(), Vec::new());
            for part in text.chunks(size) {
                lines.push(part).unwrap();
                while let Some(line) = lines.pop() {
                    out.push(line);
                }
            }
            assert_eq!(out, [&b"one"[..], b"", b"two and more", b"three"], "{size}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        let part = vec![b'x'; 1 << 20];
        let refused = (0..8).find(|_| lines.push(&part).is_err() || lines.pop().is_some());
        assert!((4..=6).contains(&refused.unwrap()), "{refused:?}");
    }
}
