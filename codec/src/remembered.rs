//! What messages of a frame take of what their streams remember, copied into one buffer.

use crate::echo::ECHO_BYTES_MIN;
use crate::layout::Extent;
use crate::piece_list::{Origin, Piece, PieceList};
use crate::streams::{self, Stream, Streams};

/// The beginnings of messages that refer to what their streams remember, up to the last such reference or a little longer.
/// They are copied, because streams forget; and copied whole, because each then is one piece.
#[derive(Default)]
pub(crate) struct RememberedOpenings<'a> {
    pub(crate) bytes: Vec<u8>,
    /// One per message. None at all where nothing refers to a stream.
    cursors: Vec<Cursor<'a>>,
}

/// Where in [`RememberedOpenings`] the opening of a message is.
pub(crate) struct Cursor<'a> {
    stream: Option<&'a Stream>,
    /// Where it begins in all openings. Short, as the next ones are: how much is kept of a message is promised, and
    /// `decode.rs` counts it.
    begin: u32,
    /// Its length, and how much of it is as it has to be.
    len: u16,
    at: u16,
    /// The length of the opening that its stream heard last. What follows where it stands is that one's, as far as it
    /// goes: mostly nothing else is asked for.
    latest: u16,
}

/// Bytes that are copied of a message. What follows the last reference is copied too where that is cheaper than a piece of
/// its own, and too short to be sent back by reference.
fn opening_bytes(extent: &Extent) -> usize {
    match extent.remembered {
        0 => 0,
        remembered if extent.len - remembered < ECHO_BYTES_MIN => extent.len,
        remembered => remembered,
    }
}

impl<'a> RememberedOpenings<'a> {
    /// For messages of these extents, of the streams with these numbers. Each opening is put into `pieces` as one, though
    /// what it consists of is not known yet.
    pub(crate) fn new(
        extents: &[Extent],
        numbers: &[u32],
        streams: &'a Streams,
        pieces: &mut PieceList,
    ) -> Self {
        let total = extents.iter().map(opening_bytes).sum();
        if total == 0 {
            return Self::default();
        }
        let mut finder = streams.finder();
        let mut bytes = Vec::with_capacity(total);
        let cursors = extents.iter().zip(numbers).enumerate().map(|(message, (extent, number))| {
            let stream = finder.find(*number);
            let latest = stream.map(Stream::latest).unwrap_or_default();
            let (begin, len) = (bytes.len(), opening_bytes(extent));
            let end = begin + len;
            bytes.extend_from_slice(&latest[..latest.len().min(len)]);
            bytes.resize(end, 0);
            if len > 0 {
                pieces.put(message, Piece { origin: Origin::OPENINGS, start: begin, end });
            }
            let short = |len| u16::try_from(len).expect("openings have a few hundred bytes at most");
            let begin = u32::try_from(begin).expect("1,024 openings have less than 4 GiB");
            Cursor { stream, begin, len: short(len), at: 0, latest: short(latest.len()) }
        });
        let cursors = cursors.collect();
        Self { bytes, cursors }
    }

    /// Copies what follows in a message from its stream. `None` if that does not remember it.
    #[inline]
    pub(crate) fn recall(&mut self, message: usize, len: usize, back: usize) -> Option<()> {
        let cursor = self.cursors.get_mut(message)?;
        let end = usize::from(cursor.at) + len;
        if back == usize::from(cursor.latest) && end <= back && end <= usize::from(cursor.len) {
            // It is there already.
            cursor.at = u16::try_from(end).ok()?;
            return Some(());
        }
        let stream = cursor.stream?.bytes();
        let start = (stream.len() + usize::from(cursor.at)).checked_sub(back)?;
        let remembered = stream.get(start..start + len)?;
        self.copy(message, remembered).then_some(())
    }

    /// Copies what follows in a message, and says so, if that is part of its opening.
    #[inline]
    pub(crate) fn copy(&mut self, message: usize, bytes: &[u8]) -> bool {
        let Some(cursor) = self.cursors.get_mut(message) else { return false };
        // A record ends where the opening does, or before, or begins behind it.
        let end = usize::from(cursor.at) + bytes.len();
        let Some(at) = u16::try_from(end).ok().filter(|at| *at <= cursor.len) else { return false };
        let start = cursor.begin as usize + usize::from(cursor.at);
        streams::copy(&mut self.bytes[start..start + bytes.len()], bytes);
        cursor.at = at;
        true
    }
}
