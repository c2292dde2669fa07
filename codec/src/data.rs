//! The data column: long parts by reference, short ones copied together.

use std::ops::Range;

use bytes::Bytes;

use crate::texts::{Span, Texts};

/// Parts of a segment from this length on are sent from where they are. Below it, one more slice in the vectored write
/// and one more reference count cost more than the copy.
pub(crate) const SHARED_BYTES_MIN: usize = 512;

/// A part of the data column.
#[derive(Clone, Copy)]
pub(crate) enum Chunk {
    /// The next so many bytes of [`DataColumn::own`].
    Own(usize),
    /// A part of a segment. Only its place: a handle is counted when the frame is put together, which most plans of messages
    /// that share nothing never come to.
    Shared { message: usize, segment: usize, start: usize, end: usize },
}

/// The data column of one frame.
#[derive(Default)]
pub(crate) struct DataColumn {
    pub(crate) chunks: Vec<Chunk>,
    /// Short parts, one after another.
    pub(crate) own: Vec<u8>,
    pub(crate) bytes: usize,
}

impl DataColumn {
    /// Starts over.
    pub(crate) fn reset(&mut self) {
        self.chunks.clear();
        self.own.clear();
        self.bytes = 0;
    }

    /// Appends the bytes of `span`.
    pub(crate) fn push(&mut self, texts: Texts<'_>, span: Span) {
        let mut parts = texts.parts(span);
        loop {
            let number = parts.number();
            let Some((segment, start, end)) = parts.next() else { return };
            if end - start >= SHARED_BYTES_MIN {
                self.bytes += end - start;
                self.chunks.push(Chunk::Shared { message: span.message, segment: number, start, end });
                continue;
            }
            self.own.extend_from_slice(&segment[start..end]);
            self.copied(end - start);
        }
    }

    /// Appends copies of the same `columns` of short texts.
    pub(crate) fn copy_columns<'b>(
        &mut self,
        texts: impl ExactSizeIterator<Item = &'b [u8]>,
        columns: Range<usize>,
    ) {
        let Range { start, end } = columns;
        self.copied(texts.len() * (end - start));
        // Fields of messages: the call that copies a slice would take longer than the copy.
        match end - start {
            1 => self.own.extend(texts.map(|text| text[start])),
            2 => texts.for_each(|text| self.own.extend_from_slice(&[text[start], text[start + 1]])),
            _ => texts.for_each(|text| self.own.extend_from_slice(&text[start..end])),
        }
    }

    /// So many bytes of the column are new in `own`.
    fn copied(&mut self, bytes: usize) {
        self.bytes += bytes;
        match self.chunks.last_mut() {
            Some(Chunk::Own(own)) => *own += bytes,
            _ => self.chunks.push(Chunk::Own(bytes)),
        }
    }

    /// The column in order, to be kept: parts of up to `copied_bytes_max` bytes are copied.
    pub(crate) fn to_bytes<'a>(
        &'a self,
        texts: Texts<'a>,
        copied_bytes_max: usize,
    ) -> impl Iterator<Item = Bytes> {
        self.chunks.iter().zip(self.iter(texts)).map(move |(chunk, bytes)| match *chunk {
            Chunk::Shared { message, segment, start, end } if end - start > copied_bytes_max => {
                texts.segment(message, segment).slice(start..end)
            }
            _ => Bytes::copy_from_slice(bytes),
        })
    }

    /// The column in order.
    pub(crate) fn iter<'a>(&'a self, texts: Texts<'a>) -> impl Iterator<Item = &'a [u8]> + Clone {
        let mut own = self.own.as_slice();
        self.chunks.iter().map(move |chunk| match *chunk {
            Chunk::Own(bytes) => {
                let (taken, rest) = own.split_at(bytes);
                own = rest;
                taken
            }
            Chunk::Shared { message, segment, start, end } => &texts.segment(message, segment)[start..end],
        })
    }
}
