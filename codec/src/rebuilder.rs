//! A frame in the making: puts pieces in their places, message by message.

use bytes::Bytes;

use crate::layout::Extent;

/// The pieces so far, and the buffers that they are parts of.
pub(crate) struct Rebuilder {
    pub(crate) buffers: Buffers,
    pub(crate) messages: Vec<Extent>,
    pub(crate) pieces: Vec<Piece>,
}

impl Rebuilder {
    /// Room for as many pieces as the records of `messages` make, of which there are none yet.
    pub(crate) fn new(mut messages: Vec<Extent>, data: Bytes) -> Self {
        let mut pieces = 0;
        for message in &mut messages {
            message.first = pieces;
            pieces += std::mem::take(&mut message.pieces);
        }
        let pieces = vec![Piece { of: DATA, start: 0, end: 0 }; pieces];
        Self { buffers: Buffers { data, openings: Bytes::new(), sent: Vec::new() }, messages, pieces }
    }

    /// Appends a piece to a message; neighbours in a buffer become one.
    pub(crate) fn put(&mut self, message: usize, piece: Piece) {
        let message = &mut self.messages[message];
        let next = message.first + message.pieces;
        if let Some(last) = self.pieces[message.first..next].last_mut()
            && last.end == piece.start
            && last.of == piece.of
        {
            last.end = piece.end;
            return;
        }
        self.pieces[next] = piece;
        message.pieces += 1;
    }
}

/// What pieces are parts of: the data column, the remembered openings, and then what this end itself sent.
#[derive(Clone)]
pub(crate) struct Buffers {
    pub(crate) data: Bytes,
    pub(crate) openings: Bytes,
    pub(crate) sent: Vec<Bytes>,
}

/// A part of a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) of: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Numbers of buffers; those sent come behind.
pub(crate) const DATA: usize = 0;
pub(crate) const OPENINGS: usize = 1;
pub(crate) const SENT: usize = 2;

impl Buffers {
    pub(crate) fn get(&self, of: usize) -> &Bytes {
        match of {
            DATA => &self.data,
            OPENINGS => &self.openings,
            sent => &self.sent[sent - SENT],
        }
    }
}
