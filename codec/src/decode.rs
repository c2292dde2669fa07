//! One frame in, messages out, as slices of the received buffer.
//!
//! Everything that can be wrong with a frame is found by [`Frame::parse`]; reading messages afterwards cannot fail.

use std::fmt;

use bytes::Bytes;

use crate::echo::Sent;
use crate::echoes::Echoes;
use crate::error::DecodeError;
use crate::head::Source;
use crate::layout::{Extent, Layout, Room};
use crate::limits::Limits;
use crate::rebuilder::{Buffers, DATA, Piece, Rebuilder, SENT};
use crate::remembered::RememberedOpenings;
use crate::stage;
use crate::streams::Streams;
use crate::wire;

/// A checked frame. Every message in it can be read without a further error.
///
/// Messages are slices of the buffer that was parsed (or, after a second stage, of the expanded data): as long as one
/// of them lives, the whole buffer does.
#[derive(Clone)]
pub struct Frame {
    buffers: Buffers,
    no_reference: bool,
    messages: Vec<Extent>,
    pieces: Vec<Piece>,
}

/// The pieces of one message in order; each is a slice of the received buffer, or of what it refers to.
#[derive(Clone)]
pub struct Pieces<'a> {
    frame: &'a Frame,
    pieces: std::slice::Iter<'a, Piece>,
}

/// What a frame of a connection may refer to.
pub(crate) struct Referents<'a> {
    /// The checksum of the frame before.
    pub(crate) before: u32,
    /// The number of every message's stream.
    pub(crate) numbers: &'a [u32],
    pub(crate) streams: &'a Streams,
    pub(crate) sent: Option<&'a mut Sent>,
    pub(crate) room: &'a mut Room,
}

impl Iterator for Pieces<'_> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let &Piece { of, start, end } = self.pieces.next()?;
        Some(self.frame.buffers.get(of).slice(start..end))
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
        let mut layout = Layout::read(&bytes, limits, None, Room::default())?;
        let (data, base) = data_of(bytes, &layout)?;
        let mut rebuilder = Rebuilder::new(std::mem::take(&mut layout.extents), data);
        let mut members = layout.members.iter().map(|member| usize::from(*member));
        let mut at = base;
        for record in &layout.records {
            // Records of a frame of no connection refer to nothing.
            for (index, member) in members.by_ref().take(record.members).enumerate() {
                let start = if record.source == Source::Each { at + index * record.len } else { at };
                rebuilder.put(member, Piece { of: DATA, start, end: start + record.len });
            }
            at += record.data_bytes();
        }
        Ok(Self::finish(rebuilder, layout.flags))
    }

    /// As [`parse`](Self::parse), for a frame of a connection. Gives the frame's checksum and its data column with it.
    pub(crate) fn parse_with(
        bytes: Bytes,
        limits: &Limits,
        referents: Referents<'_>,
    ) -> Result<(Self, u32, Bytes), DecodeError> {
        let Referents { before, numbers, streams, sent, room } = referents;
        let mut layout = Layout::read(&bytes, limits, Some(before), std::mem::take(room))?;
        let (messages, given) = (layout.count(), numbers.len());
        if messages != given {
            return Err(DecodeError::Streams { messages, streams: given });
        }
        let mut echoes = Echoes::default();
        if layout.flags & wire::FLAG_ECHO != 0 {
            let Some(sent) = sent else {
                return Err(DecodeError::Unsupported { offset: 2, what: "what this end has sent" });
            };
            if !sent.arrived(layout.arrived) {
                let Layout { arrived: announced, arrived_offset: offset, .. } = layout;
                return Err(DecodeError::Arrived { offset, announced });
            }
            echoes = Echoes::find(&mut layout, limits, sent)?;
        }
        let (data, base) = data_of(bytes, &layout)?;
        let column = data.slice(base..base + layout.data_bytes);
        let mut openings = RememberedOpenings::new(&layout, numbers, streams);
        let mut rebuilder = Rebuilder::new(std::mem::take(&mut layout.extents), data);
        let mut members = layout.members.iter().map(|member| usize::from(*member));
        rebuilder.buffers.sent = echoes.parts;
        let mut counts = echoes.counts.into_iter();
        let (mut at, mut part) = (base, SENT);
        for record in &layout.records {
            let missing = || DecodeError::Reference { offset: record.offset };
            let mut parts = part..part;
            if let Source::Echo(_) = record.source {
                parts.end += counts.next().ok_or_else(missing)?;
                part = parts.end;
            }
            for (index, member) in members.by_ref().take(record.members).enumerate() {
                let start = if record.source == Source::Each { at + index * record.len } else { at };
                let piece = Piece { of: DATA, start, end: start + record.len };
                match record.source {
                    Source::Past(back) => {
                        let piece = openings.recall(member, record.len, back).ok_or_else(missing)?;
                        rebuilder.put(member, piece);
                    }
                    Source::Echo(_) => {
                        for of in parts.clone() {
                            let bytes = rebuilder.buffers.get(of);
                            let piece = Piece { of, start: 0, end: bytes.len() };
                            let copied = openings.copy(member, bytes);
                            rebuilder.put(member, copied.unwrap_or(piece));
                        }
                    }
                    Source::Shared | Source::Each => {
                        let bytes = &rebuilder.buffers.data[start..piece.end];
                        let copied = openings.copy(member, bytes);
                        rebuilder.put(member, copied.unwrap_or(piece));
                    }
                }
            }
            at += record.data_bytes();
        }
        rebuilder.buffers.openings = openings.bytes.into();
        let frame = Self::finish(rebuilder, layout.flags);
        let checksum = layout.checksum;
        *room = layout.into_room();
        Ok((frame, checksum, column))
    }

    fn finish(rebuilder: Rebuilder, flags: u8) -> Self {
        let Rebuilder { buffers, messages, pieces } = rebuilder;
        Self { buffers, no_reference: flags & wire::FLAG_NOREF != 0, messages, pieces }
    }

    /// Number of messages; message `i` is for destination `i`.
    #[must_use]
    pub fn message_count(&self) -> usize {
        self.messages.len()
    }

    /// Length of message `index` in bytes.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`message_count`](Self::message_count).
    #[must_use]
    pub fn message_len(&self, index: usize) -> usize {
        self.messages[index].len
    }

    /// The pieces of message `index`, in order, without copying.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`message_count`](Self::message_count).
    #[must_use]
    pub fn message(&self, index: usize) -> Pieces<'_> {
        Pieces { frame: self, pieces: self.pieces_of(index).iter() }
    }

    /// The same without a reference count: what borrows the frame is cheaper to look at.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`message_count`](Self::message_count).
    pub fn slices(&self, index: usize) -> impl ExactSizeIterator<Item = &[u8]> {
        self.pieces_of(index).iter().map(|&Piece { of, start, end }| &self.buffers.get(of)[start..end])
    }

    /// Appends message `index` to `out`. Copies every byte.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`message_count`](Self::message_count).
    pub fn copy_to(&self, index: usize, out: &mut Vec<u8>) {
        out.reserve(self.messages[index].len);
        self.slices(index).for_each(|slice| out.extend_from_slice(slice));
    }

    /// Message `index` in one piece of its own.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`message_count`](Self::message_count).
    #[must_use]
    pub fn to_vec(&self, index: usize) -> Vec<u8> {
        let mut out = Vec::new();
        self.copy_to(index, &mut out);
        out
    }

    /// Whether the sender forbids to enter this frame into any history.
    #[must_use]
    pub fn no_reference(&self) -> bool {
        self.no_reference
    }

    /// Bytes of all buffers that the messages are slices of: what a message that is kept keeps alive, at most. With a second
    /// stage, or on a connection, that can be far more than the frame had on its way.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        let Buffers { data, openings, sent } = &self.buffers;
        data.len() + openings.len() + sent.iter().map(Bytes::len).sum::<usize>()
    }

    fn pieces_of(&self, index: usize) -> &[Piece] {
        let Extent { first, pieces, .. } = self.messages[index];
        &self.pieces[first..first + pieces]
    }
}

/// Shows sizes only: messages may be secret.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("messages", &self.messages.len())
            .field("pieces", &self.messages.iter().map(|message| message.pieces).sum::<usize>())
            .field("data_bytes", &self.buffers.data.len())
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
    if layout.flags & wire::FLAGS_STAGE == 0 {
        return Ok((bytes, layout.data.start));
    }
    let offset = layout.data.start;
    let expanded = stage::expand(layout.flags, &bytes[layout.data.clone()], layout.data_bytes);
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
    reserialise_after(bytes, limits, None)
}

/// The same for a frame of a connection, after one with the checksum `before`. What its records refer to is not looked at.
pub(crate) fn reserialise_after(
    bytes: Bytes,
    limits: &Limits,
    before: Option<u32>,
) -> Result<Vec<u8>, DecodeError> {
    let layout = Layout::read(&bytes, limits, before, Room::default())?;
    let (data, base) = data_of(bytes, &layout)?;
    Ok(layout.write(&data[base..base + layout.data_bytes], before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Record;
    use crate::remembered::Cursor;

    /// What FORMAT.md says under "Limits"; `tests/allocations.rs` measures it.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn pieces_records_and_messages_take_what_is_said() {
        assert_eq!((size_of::<Piece>(), size_of::<u16>()), (24, 2));
        assert_eq!((size_of::<Record>(), size_of::<Bytes>()), (40, 32));
        assert!(size_of::<Extent>() + size_of::<Cursor<'_>>() <= 80);
        let format = include_str!("../FORMAT.md");
        assert!(format.contains("a piece takes 24 bytes and its member 2: at most 32"));
        assert!(format.contains("record takes 40, at most 120"));
    }
}
