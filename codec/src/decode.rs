//! One frame in, messages out, as slices of the received buffer.
//!
//! Everything that can be wrong with a frame is found by [`Frame::parse`]; reading messages afterwards cannot fail.

use std::cell::Cell;
use std::fmt;

use bytes::Bytes;

use crate::echo::{self, Sent};
use crate::echoes::Echoes;
use crate::error::DecodeError;
use crate::head::Source;
use crate::layout::{Begins, Layout, Room};
use crate::limits::Limits;
use crate::piece_list::{Buffers, Origin, Piece, PieceList, PiecesOf};
use crate::remembered::RememberedOpenings;
use crate::stage;
use crate::streams::Streams;
use crate::wire;

thread_local! {
    /// The lists that the last frame of no connection was read with: a short frame would take half as long again if it
    /// allocated all three. No more than 54 KiB stay.
    static ROOM: Cell<Room> = const { Cell::new(Room::EMPTY) };
}

/// A checked frame. Every message in it can be read without a further error.
///
/// Messages are slices of the buffer that was parsed, or of the expanded data after a second stage; in a frame of a
/// connection also of one copy of all openings that refer to earlier ones, of a copy of a short data column, or of what this
/// end sent. As long as one of them lives, its whole buffer does.
#[derive(Clone)]
pub struct Frame {
    buffers: Buffers,
    unremembered: bool,
    pieces: PieceList,
}

/// The pieces of one message in order; each is a slice of the received buffer, or of what it refers to.
#[derive(Clone)]
pub struct Pieces<'a> {
    frame: &'a Frame,
    pieces: PiecesOf<'a>,
}

/// What a frame of a connection may refer to.
pub(crate) struct Referents<'a> {
    /// What the frame's checksum goes on from, but for what came the other way.
    pub(crate) before: u32,
    /// The number of every message's stream.
    pub(crate) numbers: &'a [u32],
    pub(crate) streams: &'a Streams,
    pub(crate) sent: Option<&'a mut Sent>,
    /// This frame's data is kept, for frames to its sender to refer to.
    pub(crate) kept: bool,
    pub(crate) room: &'a mut Room,
}

impl Iterator for Pieces<'_> {
    type Item = Bytes;

    #[inline]
    fn next(&mut self) -> Option<Bytes> {
        let Piece { origin, start, end } = self.pieces.next()?;
        Some(self.frame.buffers.get(origin).slice(start..end))
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.pieces.size_hint()
    }
}

impl ExactSizeIterator for Pieces<'_> {}

impl Frame {
    /// Checks `bytes` completely and finds every message in them.
    ///
    /// Costs one checksum pass over the bytes, the second stage if there is one, and about 100 ns and 10 ns per
    /// piece.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when the bytes are not exactly one canonical frame within `limits`.
    pub fn parse(bytes: Bytes, limits: &Limits) -> Result<Self, DecodeError> {
        let room = ROOM.try_with(Cell::take).unwrap_or_default();
        let mut layout = Layout::new(room);
        layout.read(&bytes, limits, None)?;
        let (data, base) = data_of(bytes, &layout)?;
        // Records of a frame of no connection refer to nothing.
        let (mut openings, echoes) = (RememberedOpenings::default(), Echoes::default());
        let mut pieces = PieceList::new(&layout.extents);
        rebuild::<false>(&layout, &data, base, &mut pieces, &mut openings, &echoes)?;
        let unremembered = layout.flags & wire::FLAG_NOREF != 0;
        // Where the thread ends there is no room to keep.
        let _ = ROOM.try_with(|kept| kept.set(layout.into_room()));
        Ok(Self { buffers: Buffers::data_only(data), unremembered, pieces })
    }

    /// As [`parse`](Self::parse), for a frame of a connection. Gives the frame's checksum and its data column with it.
    pub(crate) fn parse_with(
        bytes: Bytes,
        limits: &Limits,
        referents: Referents<'_>,
    ) -> Result<(Self, u32, Bytes), DecodeError> {
        let Referents { before, numbers, streams, sent, kept, room } = referents;
        let begins = Begins { before, streams: numbers.len(), sent: sent.as_deref() };
        let mut layout = Layout::new(std::mem::take(room));
        layout.read(&bytes, limits, Some(begins))?;
        if layout.count() != numbers.len() {
            return Err(DecodeError::Streams { messages: layout.count(), streams: numbers.len() });
        }
        let mut echoes = Echoes::find(&mut layout, limits, sent)?;
        // What this end may send back is kept. A short column may be a slice of a buffer that is far longer, which nothing
        // here can know: copied, it keeps alive no more than itself.
        let copied = kept && layout.flags & (wire::FLAGS_STAGE | wire::FLAG_NOREF) == 0;
        let (data, base) = if copied && layout.data_bytes <= echo::COPIED_BYTES_MAX {
            (Bytes::copy_from_slice(&bytes[layout.data.clone()]), 0)
        } else {
            data_of(bytes, &layout)?
        };
        let column = data.slice(base..base + layout.data_bytes);
        let mut pieces = PieceList::new(&layout.extents);
        let mut openings = RememberedOpenings::new(&layout.extents, numbers, streams, &mut pieces);
        rebuild::<true>(&layout, &data, base, &mut pieces, &mut openings, &echoes)?;
        let sent = std::mem::take(&mut echoes.parts);
        let buffers = Buffers { data, openings: openings.bytes.into(), sent, sent_alive: echoes.alive };
        let (checksum, unremembered) = (layout.checksum, layout.flags & wire::FLAG_NOREF != 0);
        *room = layout.into_room();
        Ok((Self { buffers, unremembered, pieces }, checksum, column))
    }

    /// Number of messages; message `i` is for destination `i`.
    #[inline]
    #[must_use]
    pub fn message_count(&self) -> usize {
        self.pieces.messages()
    }

    /// Length of message `index` in bytes.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`message_count`](Self::message_count).
    #[inline]
    #[must_use]
    #[track_caller]
    pub fn message_len(&self, index: usize) -> usize {
        self.pieces.len_of(index)
    }

    /// The pieces of message `index`, in order, without copying.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`message_count`](Self::message_count).
    #[inline]
    #[must_use]
    #[track_caller]
    pub fn message(&self, index: usize) -> Pieces<'_> {
        Pieces { frame: self, pieces: self.pieces.of(index) }
    }

    /// The pieces of message `index`, in order, borrowed: cheaper than [`message`](Self::message), which counts a reference
    /// for each.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`message_count`](Self::message_count).
    #[inline]
    #[track_caller]
    pub fn slices(&self, index: usize) -> impl ExactSizeIterator<Item = &[u8]> {
        self.pieces.of(index).map(|Piece { origin, start, end }| &self.buffers.get(origin)[start..end])
    }

    /// Appends message `index` to `out`. Copies every byte.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`message_count`](Self::message_count).
    #[track_caller]
    pub fn copy_to(&self, index: usize, out: &mut Vec<u8>) {
        out.reserve(self.message_len(index));
        self.slices(index).for_each(|slice| out.extend_from_slice(slice));
    }

    /// Message `index` in one piece of its own.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`message_count`](Self::message_count).
    #[must_use]
    #[track_caller]
    pub fn to_vec(&self, index: usize) -> Vec<u8> {
        let mut out = Vec::new();
        self.copy_to(index, &mut out);
        out
    }

    /// Message `index` in one piece that begins at an address divisible by `align`, as arrays of numbers are read in place.
    /// Where it lies so already it is a slice of one of the frame's buffers, and no byte is copied.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`message_count`](Self::message_count), `align` is 0, or there is no room for the message
    /// and as many bytes as that.
    #[must_use]
    #[track_caller]
    pub fn to_aligned(&self, index: usize, align: usize) -> Bytes {
        assert!(align > 0, "no address is divisible by 0");
        let mut pieces = self.message(index);
        if let (Some(only), 0) = (pieces.next(), pieces.len())
            && only.as_ptr().addr().is_multiple_of(align)
        {
            return only;
        }
        let len = self.message_len(index);
        // Room in front of it for as much as the address of what is allocated may be off.
        let mut out: Vec<u8> = Vec::with_capacity(len + align - 1);
        let before = out.as_ptr().addr().next_multiple_of(align) - out.as_ptr().addr();
        out.resize(before, 0);
        self.slices(index).for_each(|slice| out.extend_from_slice(slice));
        Bytes::from(out).slice(before..)
    }

    /// Whether the sender forbids to enter this frame into any history.
    #[must_use]
    pub fn is_unremembered(&self) -> bool {
        self.unremembered
    }

    /// Bytes of all buffers that the messages are slices of: what a message that is kept keeps alive, at most. With a second
    /// stage, or on a connection, that can be far more than the frame had on its way. What comes by reference to what this end
    /// sent counts as the whole segments of that; a segment of more than 16 KiB that is itself a slice keeps alive what it is one of.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        let Buffers { data, openings, sent_alive, .. } = &self.buffers;
        data.len() + openings.len() + sent_alive
    }
}

/// Shows sizes only: messages may be secret.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("messages", &self.pieces.messages())
            .field("pieces", &self.pieces.pieces())
            .field("data_bytes", &self.buffers.data.len())
            .finish()
    }
}

impl fmt::Debug for Pieces<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces").field("left", &self.pieces.len()).finish()
    }
}

/// Gives every message its pieces, record by record. The data column begins at `base` of `data`.
///
/// Without a `CONNECTION` nothing is copied, which is known when this is compiled: asking for every piece would make a
/// small frame take a tenth more time.
#[inline]
fn rebuild<const CONNECTION: bool>(
    layout: &Layout,
    data: &Bytes,
    base: usize,
    pieces: &mut PieceList,
    openings: &mut RememberedOpenings<'_>,
    echoes: &Echoes,
) -> Result<(), DecodeError> {
    let mut members = layout.members.iter().map(|member| usize::from(*member));
    let mut ranges = echoes.ranges();
    let mut at = base;
    for record in &layout.records {
        let members = members.by_ref().take(record.members);
        match record.source {
            Source::Shared | Source::Each => {
                let step = if record.source == Source::Each { record.len } else { 0 };
                let mut start = at;
                for member in members {
                    let end = start + record.len;
                    if !CONNECTION || !openings.copy(member, &data[start..end]) {
                        pieces.put(member, Piece { origin: Origin::DATA, start, end });
                    }
                    start += step;
                }
                at += record.data_bytes();
            }
            Source::Past(back) => {
                for member in members {
                    if openings.recall(member, record.len, back).is_none() {
                        let rule = "PAST has to lie within what the streams of all its members remember";
                        return Err(DecodeError::Reference { offset: record.offset, rule });
                    }
                }
            }
            Source::Echo(_) => {
                let parts = ranges.next().expect("every ECHO record was looked up");
                for member in members {
                    for part in parts.clone() {
                        let bytes = &echoes.parts[part];
                        if !openings.copy(member, bytes) {
                            pieces.put(
                                member,
                                Piece { origin: Origin::sent(part), start: 0, end: bytes.len() },
                            );
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// The data column before the second stage, and where in the returned buffer it begins.
fn data_of(bytes: Bytes, layout: &Layout) -> Result<(Bytes, usize), DecodeError> {
    if layout.flags & wire::FLAGS_STAGE == 0 {
        return Ok((bytes, layout.data.start));
    }
    let (offset, carried, announced) = (layout.data.start, layout.data.len(), layout.data_bytes);
    let expanded = stage::expand(layout.flags, &bytes[layout.data.clone()], announced);
    Ok((Bytes::from(expanded.ok_or(DecodeError::Stage { offset, carried, announced })?), 0))
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

/// The same for a frame of a connection. What its records refer to is not looked at.
pub(crate) fn reserialise_after(
    bytes: Bytes,
    limits: &Limits,
    begins: Option<Begins<'_>>,
) -> Result<Vec<u8>, DecodeError> {
    let mut layout = Layout::new(Room::default());
    layout.read(&bytes, limits, begins)?;
    let (data, base) = data_of(bytes, &layout)?;
    Ok(layout.write(&data[base..base + layout.data_bytes]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Extent, Record, USUAL_PIECES};
    use crate::remembered::Cursor;

    /// What FORMAT.md says under "Limits"; `tests/allocations.rs` measures it.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn pieces_records_and_messages_take_what_is_said() {
        assert_eq!((size_of::<Piece>(), size_of::<u16>()), (24, 2));
        assert_eq!((size_of::<Record>(), size_of::<Bytes>()), (40, 32));
        // A message takes as much in the list of its pieces as one of these, beside its extent and room for usual members.
        let members = USUAL_PIECES * size_of::<u16>();
        assert!(size_of::<Extent>() + size_of::<Piece>() + size_of::<Cursor<'_>>() + members <= 80);
        let format = include_str!("../FORMAT.md");
        assert!(format.contains("a piece takes 24 bytes and its member 2: at most 32"));
        assert!(format.contains("record takes 40, at most 120"));
    }
}
