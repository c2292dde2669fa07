//! One frame in, messages out, as slices of the received buffer.
//!
//! Everything that can be wrong with a frame is found by [`Frame::parse`]; reading messages afterwards cannot fail.

use std::fmt;

use bytes::{Bytes, BytesMut};

use crate::echo::Sent;
use crate::error::DecodeError;
use crate::head::{Layout, Source};
use crate::limits::Limits;
use crate::stage;
use crate::streams::{Stream, Streams};
use crate::wire;

/// A checked frame. Every message in it can be read without a further error.
///
/// Messages are slices of the buffer that was parsed (or, after a second stage, of the expanded data): as long as one
/// of them lives, the whole buffer does.
#[derive(Clone)]
pub struct Frame {
    data: Bytes,
    /// What is referred to outside of the frame: first the bytes that streams remember, then those that this end sent.
    referred: Vec<Bytes>,
    no_reference: bool,
    lens: Vec<usize>,
    /// Pieces of message `i` are `pieces[starts[i]..starts[i + 1]]`.
    starts: Vec<usize>,
    pieces: Vec<Piece>,
}

/// A part of the data column or of what is referred to.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// 0 is the data column, further ones are in `referred`.
    of: usize,
    start: usize,
    end: usize,
}

/// The pieces of one message in order; each is a slice of the received buffer, or of what it refers to.
#[derive(Clone)]
pub struct Pieces<'a> {
    frame: &'a Frame,
    pieces: std::slice::Iter<'a, Piece>,
}

/// What a frame of a connection may refer to.
pub(crate) struct Memory<'a> {
    /// The checksum of what came earlier on the connection.
    pub(crate) history: u32,
    /// The number of every message's stream.
    pub(crate) numbers: &'a [u32],
    pub(crate) streams: &'a Streams,
    pub(crate) sent: Option<&'a mut Sent>,
}

impl Iterator for Pieces<'_> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let &Piece { of, start, end } = self.pieces.next()?;
        Some(self.frame.buffer(of).slice(start..end))
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
        let layout = Layout::read(&bytes, limits, None)?;
        let (data, base) = data_of(bytes, &layout)?;
        Self::assemble(layout, data, base, Vec::new())
    }

    /// As [`parse`](Self::parse), for a frame of a connection. Gives the frame's checksum and its data column with it.
    pub(crate) fn parse_with(
        bytes: Bytes,
        limits: &Limits,
        memory: Memory<'_>,
    ) -> Result<(Self, u32, Bytes), DecodeError> {
        let Memory { history, numbers, streams, mut sent } = memory;
        let mut layout = Layout::read(&bytes, limits, Some(history))?;
        let (messages, given) = (layout.count(), numbers.len());
        if messages != given {
            return Err(DecodeError::Streams { messages, streams: given });
        }
        if layout.flags & wire::FLAG_ECHO != 0 {
            let Some(sent) = sent.as_deref_mut() else {
                return Err(DecodeError::Unsupported { offset: 2, what: "what this end has sent" });
            };
            if !sent.arrived(layout.arrived) {
                return Err(DecodeError::Reference { offset: 3 });
            }
        }
        let referred = refer(&mut layout, limits, numbers, streams, sent.as_deref())?;
        let (checksum, data_bytes) = (layout.checksum, layout.data_bytes);
        let (data, base) = data_of(bytes, &layout)?;
        let column = data.slice(base..base + data_bytes);
        Ok((Self::assemble(layout, data, base, referred)?, checksum, column))
    }

    /// Finds every message's pieces. What records refer to is in `referred`, in the order of the records.
    fn assemble(
        layout: Layout,
        data: Bytes,
        base: usize,
        referred: Vec<Referred>,
    ) -> Result<Self, DecodeError> {
        // `starts[i + 1]` is where the next piece of message `i` goes; it ends up as where message `i + 1` starts.
        let mut starts = vec![0; layout.count() + 1];
        let mut free = 0;
        for (start, &count) in starts[1..].iter_mut().zip(&layout.counts) {
            *start = free;
            free += count as usize;
        }
        let mut pieces = vec![Piece { of: 0, start: 0, end: 0 }; free];
        let mut at = base;
        let mut members = layout.members.iter();
        let mut put = |member: &u16, piece: Piece| {
            let next = &mut starts[usize::from(*member) + 1];
            pieces[*next] = piece;
            *next += 1;
        };
        let mut buffers = Vec::new();
        let mut referred = referred.into_iter();
        for record in &layout.records {
            let mut members = members.by_ref().take(record.members);
            match record.source {
                Source::Shared => {
                    members.for_each(|member| put(member, Piece { of: 0, start: at, end: at + record.len }));
                }
                Source::Each => {
                    for (index, member) in members.enumerate() {
                        let start = at + index * record.len;
                        put(member, Piece { of: 0, start, end: start + record.len });
                    }
                }
                Source::Past(_) | Source::Echo(_) => match referred.next() {
                    Some(Referred::Past(buffer)) => {
                        buffers.push(buffer);
                        for (index, member) in members.enumerate() {
                            let start = index * record.len;
                            put(member, Piece { of: buffers.len(), start, end: start + record.len });
                        }
                    }
                    Some(Referred::Echo(parts)) => {
                        let first = buffers.len() + 1;
                        for member in members.by_ref() {
                            for (of, part) in (first..).zip(&parts) {
                                put(member, Piece { of, start: 0, end: part.len() });
                            }
                        }
                        buffers.extend(parts);
                    }
                    None => return Err(DecodeError::Reference { offset: record.offset }),
                },
            }
            at += record.data_bytes();
        }
        let no_reference = layout.flags & wire::FLAG_NOREF != 0;
        Ok(Self { data, referred: buffers, no_reference, lens: layout.lens, starts, pieces })
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
        Pieces { frame: self, pieces: self.pieces_of(index).iter() }
    }

    /// Message `index` in one piece. Copies every byte.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`message_count`](Self::message_count).
    #[must_use]
    pub fn to_vec(&self, index: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.lens[index]);
        for &Piece { of, start, end } in self.pieces_of(index) {
            out.extend_from_slice(&self.buffer(of)[start..end]);
        }
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
        self.data.len() + self.referred.iter().map(Bytes::len).sum::<usize>()
    }

    fn buffer(&self, of: usize) -> &Bytes {
        of.checked_sub(1).map_or(&self.data, |index| &self.referred[index])
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

/// What a record refers to.
enum Referred {
    /// The bytes of every member, one after another: copied, because streams forget.
    Past(Bytes),
    /// The same for every member, in parts.
    Echo(Vec<Bytes>),
}

/// Looks up what the records refer to, and counts the pieces that come of it: no more than the limit.
fn refer(
    layout: &mut Layout,
    limits: &Limits,
    numbers: &[u32],
    streams: &Streams,
    sent: Option<&Sent>,
) -> Result<Vec<Referred>, DecodeError> {
    let past_bytes = layout.past.iter().sum();
    let mut copied = BytesMut::with_capacity(past_bytes);
    let mut referred = Vec::new();
    let mut pieces: usize = layout.counts.iter().map(|count| *count as usize).sum();
    // Bytes of every message in front of the record.
    let mut at = vec![0; layout.count()];
    let mut members = layout.members.iter();
    for record in &layout.records {
        let missing = || DecodeError::Reference { offset: record.offset };
        let members = members.by_ref().take(record.members);
        match record.source {
            Source::Shared | Source::Each => {
                members.for_each(|member| at[usize::from(*member)] += record.len);
            }
            Source::Past(back) => {
                for member in members {
                    let member = usize::from(*member);
                    let bytes = streams.get(numbers[member]).map_or(&[][..], Stream::bytes);
                    let start = (bytes.len() + at[member]).checked_sub(back).ok_or_else(missing)?;
                    copied.extend_from_slice(bytes.get(start..start + record.len).ok_or_else(missing)?);
                    at[member] += record.len;
                }
                referred.push(Referred::Past(copied.split().freeze()));
            }
            Source::Echo(distance) => {
                let mut parts = sent.and_then(|sent| sent.find(distance, record.len)).ok_or_else(missing)?;
                // In how many parts this end keeps the bytes is not known to the sender, who counted one piece for each
                // member. If more are too many, the bytes are copied; they are within the limit of the output.
                let more = (parts.len() - 1).saturating_mul(record.members);
                if pieces.saturating_add(more) > limits.pieces {
                    parts = vec![parts.concat().into()];
                } else {
                    pieces += more;
                }
                let more = u32::try_from(parts.len() - 1).unwrap_or(u32::MAX);
                for member in members {
                    layout.counts[usize::from(*member)] += more;
                    at[usize::from(*member)] += record.len;
                }
                referred.push(Referred::Echo(parts));
            }
        }
    }
    Ok(referred)
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
    let layout = Layout::read(&bytes, limits, None)?;
    let (data, base) = data_of(bytes, &layout)?;
    Ok(layout.write(&data[base..base + layout.data_bytes], None))
}
