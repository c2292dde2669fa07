//! What messages of a frame take of what their streams remember, copied into one buffer.

use crate::echo::ECHO_BYTES_MIN;
use crate::layout::{Extent, Layout};
use crate::piece_list::{Origin, Piece};
use crate::streams::{Stream, Streams};

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
    stream: &'a [u8],
    /// Where it begins in all openings. Short, as the next two are: how much is kept of a message is promised, and
    /// `decode.rs` counts it.
    begin: u32,
    /// Its length, and how much of it is copied.
    len: u16,
    at: u16,
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
    pub(crate) fn new(layout: &Layout, numbers: &[u32], streams: &'a Streams) -> Self {
        let bytes = layout.extents.iter().map(opening_bytes).sum();
        if bytes == 0 {
            return Self::default();
        }
        let mut finder = streams.finder();
        let mut place = 0;
        let cursors = layout.extents.iter().zip(numbers).map(|(extent, number)| {
            let stream = finder.find(*number).map_or(&[][..], Stream::bytes);
            let len =
                u16::try_from(opening_bytes(extent)).expect("openings have a few hundred bytes at most");
            let begin = place;
            place += u32::from(len);
            Cursor { stream, begin, len, at: 0 }
        });
        let cursors = cursors.collect();
        Self { bytes: vec![0; bytes], cursors }
    }

    /// Copies what follows in a message from its stream. `None` if that does not remember it.
    pub(crate) fn recall(&mut self, message: usize, len: usize, back: usize) -> Option<Piece> {
        let cursor = self.cursors.get(message)?;
        let start = (cursor.stream.len() + usize::from(cursor.at)).checked_sub(back)?;
        let remembered = cursor.stream.get(start..start + len)?;
        self.copy(message, remembered)
    }

    /// Copies what follows in a message, if that is part of its opening.
    pub(crate) fn copy(&mut self, message: usize, bytes: &[u8]) -> Option<Piece> {
        let cursor = self.cursors.get_mut(message)?;
        // A record ends where the opening does, or before, or begins behind it.
        let at = u16::try_from(usize::from(cursor.at) + bytes.len()).ok().filter(|at| *at <= cursor.len)?;
        let start = cursor.begin as usize + usize::from(cursor.at);
        let end = start + bytes.len();
        self.bytes[start..end].copy_from_slice(bytes);
        cursor.at = at;
        Some(Piece { origin: Origin::OPENINGS, start, end })
    }
}
