//! A frame in the making: puts pieces in their places, message by message.

use bytes::Bytes;

use crate::layout::Extent;

/// The buffer that a piece is a part of. A number and no enum: with one, a frame of 69 pieces takes a third more time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin(usize);

impl Origin {
    /// The data column.
    pub(crate) const DATA: Self = Self(0);
    /// The copy of remembered openings.
    pub(crate) const OPENINGS: Self = Self(1);
    const SENT: usize = 2;

    /// A part of what this end itself sent, by its number among those of the frame.
    pub(crate) fn sent(part: usize) -> Self {
        Self(Self::SENT + part)
    }
}

/// What pieces are parts of.
#[derive(Clone)]
pub(crate) struct Buffers {
    pub(crate) data: Bytes,
    pub(crate) openings: Bytes,
    pub(crate) sent: Vec<Bytes>,
    /// What `sent` keeps alive.
    pub(crate) sent_alive: usize,
}

impl Buffers {
    #[inline]
    pub(crate) fn get(&self, origin: Origin) -> &Bytes {
        match origin {
            Origin::DATA => &self.data,
            Origin::OPENINGS => &self.openings,
            Origin(sent) => &self.sent[sent - Origin::SENT],
        }
    }
}

/// A part of a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) origin: Origin,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Which pieces are a message's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    /// Bytes of the message.
    pub(crate) len: usize,
    /// Where the first of its pieces is among those of the frame, and how many there are so far.
    pub(crate) first: usize,
    pub(crate) pieces: usize,
}

/// The pieces so far, and the buffers that they are parts of.
pub(crate) struct Rebuilder {
    pub(crate) buffers: Buffers,
    pub(crate) messages: Vec<Message>,
    pub(crate) pieces: Vec<Piece>,
}

impl Rebuilder {
    /// Room for as many pieces as the records make of messages of these extents.
    pub(crate) fn new(extents: Vec<Extent>, buffers: Buffers) -> Self {
        let mut room = 0;
        let message = |extent: Extent| {
            let first = room;
            room += extent.pieces;
            Message { len: extent.len, first, pieces: 0 }
        };
        // In the memory of the extents, which are as long: `tests/allocations.rs` counts.
        let messages = extents.into_iter().map(message).collect();
        let pieces = vec![Piece { origin: Origin::DATA, start: 0, end: 0 }; room];
        Self { buffers, messages, pieces }
    }

    /// Appends a piece to a message; neighbours in a buffer become one.
    #[inline]
    pub(crate) fn put(&mut self, message: usize, piece: Piece) {
        let message = &mut self.messages[message];
        let next = message.first + message.pieces;
        if let Some(last) = self.pieces[message.first..next].last_mut()
            && last.end == piece.start
            && last.origin == piece.origin
        {
            last.end = piece.end;
            return;
        }
        self.pieces[next] = piece;
        message.pieces += 1;
    }
}
