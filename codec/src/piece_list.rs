//! The pieces of a frame: which parts of which buffers are whose, message by message.

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
    /// Of a frame that refers to nothing.
    #[inline]
    pub(crate) fn data_only(data: Bytes) -> Self {
        Self { data, openings: Bytes::new(), sent: Vec::new(), sent_alive: 0 }
    }

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

/// A piece of a message, or what is said of a message itself: three numbers each.
type Entry = [usize; 3];

/// The messages of a frame and the pieces that they are made of. One list, for to allocate another takes a tenth of what a
/// short frame takes besides its checksum.
#[derive(Clone)]
pub(crate) struct PieceList {
    messages: usize,
    /// Of every message its bytes, where the first of its pieces is in this list, and how many there are so far. Behind
    /// these the pieces, one message after the other.
    entries: Vec<Entry>,
}

impl PieceList {
    /// Room for as many pieces as the records make of messages of these extents.
    pub(crate) fn new(extents: &[Extent]) -> Self {
        let pieces: usize = extents.iter().map(|extent| extent.pieces).sum();
        let mut entries = Vec::with_capacity(extents.len() + pieces);
        let mut first = extents.len();
        entries.extend(extents.iter().map(|extent| {
            let entry = [extent.len, first, 0];
            first += extent.pieces;
            entry
        }));
        entries.resize(first, [0; 3]);
        Self { messages: extents.len(), entries }
    }

    /// Appends a piece to a message; neighbours in a buffer become one.
    #[inline]
    pub(crate) fn put(&mut self, message: usize, piece: Piece) {
        let Piece { origin: Origin(origin), start, end } = piece;
        let [_, first, pieces] = self.entries[message];
        let next = first + pieces;
        if pieces > 0 {
            let [last_origin, _, last_end] = &mut self.entries[next - 1];
            if *last_end == start && *last_origin == origin {
                *last_end = end;
                return;
            }
        }
        self.entries[next] = [origin, start, end];
        self.entries[message][2] += 1;
    }

    /// Number of messages.
    #[inline]
    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    /// Number of pieces of all messages.
    pub(crate) fn pieces(&self) -> usize {
        self.entries[..self.messages].iter().map(|[_, _, pieces]| pieces).sum()
    }

    /// Bytes of a message.
    #[inline]
    #[track_caller]
    pub(crate) fn len_of(&self, message: usize) -> usize {
        self.entries[..self.messages][message][0]
    }

    /// The pieces of a message.
    #[inline]
    #[track_caller]
    pub(crate) fn of(&self, message: usize) -> PiecesOf<'_> {
        let [_, first, pieces] = self.entries[..self.messages][message];
        PiecesOf(self.entries[first..first + pieces].iter())
    }
}

/// See [`PieceList::of`].
#[derive(Clone)]
pub(crate) struct PiecesOf<'a>(std::slice::Iter<'a, Entry>);

impl Iterator for PiecesOf<'_> {
    type Item = Piece;

    #[inline]
    fn next(&mut self) -> Option<Piece> {
        let &[origin, start, end] = self.0.next()?;
        Some(Piece { origin: Origin(origin), start, end })
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for PiecesOf<'_> {}
