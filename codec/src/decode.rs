//! One frame in, messages out, as slices of the received buffer.
//!
//! Everything that can be wrong with a frame is found by [`Frame::parse`]; reading messages afterwards cannot fail.

use std::fmt;

use bytes::Bytes;

use crate::error::DecodeError;
use crate::head::Layout;
use crate::limits::Limits;
use crate::stage;
use crate::wire;

/// A checked frame. Every message in it can be read without a further error.
///
/// Messages are slices of the buffer that was parsed (or, after a second stage, of the expanded data): as long as one
/// of them lives, the whole buffer does.
#[derive(Clone)]
pub struct Frame {
    data: Bytes,
    no_reference: bool,
    lens: Vec<usize>,
    /// Pieces of message `i` are `pieces[starts[i]..starts[i + 1]]`.
    starts: Vec<usize>,
    pieces: Vec<Piece>,
}

/// A part of the data column.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: usize,
    end: usize,
}

/// The pieces of one message in order; each is a slice of the received buffer.
#[derive(Clone)]
pub struct Pieces<'a> {
    data: &'a Bytes,
    pieces: std::slice::Iter<'a, Piece>,
}

impl Iterator for Pieces<'_> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let &Piece { start, end } = self.pieces.next()?;
        Some(self.data.slice(start..end))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.pieces.size_hint()
    }
}

impl ExactSizeIterator for Pieces<'_> {}

impl Frame {
    /// Checks `bytes` completely and finds every message in them.
    ///
    /// Costs one checksum pass over the bytes, the second stage if there is one, and a few nanoseconds per piece.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when the bytes are not exactly one canonical frame within `limits`.
    pub fn parse(bytes: Bytes, limits: &Limits) -> Result<Self, DecodeError> {
        let layout = Layout::read(&bytes, limits)?;
        let (data, base) = data_of(bytes, &layout)?;
        // `starts[i + 1]` is where the next piece of message `i` goes; it ends up as where message `i + 1` starts.
        let mut starts = vec![0; layout.count() + 1];
        let mut free = 0;
        for (start, &count) in starts[1..].iter_mut().zip(&layout.counts) {
            *start = free;
            free += count as usize;
        }
        let mut pieces = vec![Piece { start: 0, end: 0 }; free];
        let mut at = base;
        let mut members = layout.members.iter();
        for record in &layout.records {
            let step = if record.each { record.len } else { 0 };
            for (index, &member) in members.by_ref().take(record.members).enumerate() {
                let start = at + index * step;
                let next = &mut starts[usize::from(member) + 1];
                pieces[*next] = Piece { start, end: start + record.len };
                *next += 1;
            }
            at += record.data_bytes();
        }
        let no_reference = layout.flags & wire::FLAG_NOREF != 0;
        Ok(Self { data, no_reference, lens: layout.lens, starts, pieces })
    }

    /// Number of messages; message `i` is for destination `i`.
    #[must_use]
    pub fn message_count(&self) -> usize {
        self.lens.len()
    }

    /// Length of message `index` in bytes.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`message_count`](Self::message_count).
    #[must_use]
    pub fn message_len(&self, index: usize) -> usize {
        self.lens[index]
    }

    /// The pieces of message `index`, in order, without copying.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`message_count`](Self::message_count).
    #[must_use]
    pub fn message(&self, index: usize) -> Pieces<'_> {
        Pieces { data: &self.data, pieces: self.pieces_of(index).iter() }
    }

    /// Message `index` in one piece. Copies every byte.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`message_count`](Self::message_count).
    #[must_use]
    pub fn to_vec(&self, index: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.lens[index]);
        for &Piece { start, end } in self.pieces_of(index) {
            out.extend_from_slice(&self.data[start..end]);
        }
        out
    }

    /// Whether the sender forbids to enter this frame into any history.
    #[must_use]
    pub fn no_reference(&self) -> bool {
        self.no_reference
    }

    fn pieces_of(&self, index: usize) -> &[Piece] {
        &self.pieces[self.starts[index]..self.starts[index + 1]]
    }
}

/// Shows sizes only: messages may be secret.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("messages", &self.lens.len())
            .field("pieces", &self.pieces.len())
            .field("data_bytes", &self.data.len())
            .finish()
    }
}

impl fmt::Debug for Pieces<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces").field("left", &self.pieces.len()).finish()
    }
}

/// The data column before the second stage, and where in the returned buffer it begins.
fn data_of(bytes: Bytes, layout: &Layout) -> Result<(Bytes, usize), DecodeError> {
    if layout.flags & wire::FLAG_LZ4 == 0 {
        return Ok((bytes, layout.data.start));
    }
    let offset = layout.data.start;
    let expanded = stage::expand(&bytes[layout.data.clone()], layout.data_bytes);
    Ok((Bytes::from(expanded.ok_or(DecodeError::Stage { offset })?), 0))
}

/// Reads a frame into its records and writes those again, without a second stage.
///
/// For tests: a frame without a second stage comes back as it was, any other as its one canonical spelling.
///
/// # Errors
///
/// Those of [`Frame::parse`].
#[doc(hidden)]
pub fn reserialise(bytes: Bytes, limits: &Limits) -> Result<Vec<u8>, DecodeError> {
    let layout = Layout::read(&bytes, limits)?;
    let (data, base) = data_of(bytes, &layout)?;
    Ok(layout.write(&data[base..base + layout.data_bytes]))
}
