//! One frame in, messages out, as slices of the received buffer.

use bytes::Bytes;

use crate::encode::{FLAG_CONCAT, MAGIC, VERSION};
use crate::error::{DecodeError, LimitName};
use crate::limits::{DESTINATIONS_MAX, Limits};
use crate::varint::Reader;

/// A checked frame. Every message in it can be read without a further error.
#[derive(Clone, Debug)]
pub struct Frame {
    data: Bytes,
    /// Pieces of message `i` are `pieces[starts[i]..starts[i + 1]]`.
    starts: Vec<usize>,
    pieces: Vec<(usize, usize)>,
    lens: Vec<usize>,
}

/// The pieces of one message in order; each is a slice of the received buffer.
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    data: &'a Bytes,
    pieces: std::slice::Iter<'a, (usize, usize)>,
}

impl Iterator for Pieces<'_> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let &(start, end) = self.pieces.next()?;
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
    /// # Errors
    ///
    /// [`DecodeError`] when the bytes are not exactly one canonical frame within `limits`.
    pub fn parse(bytes: Bytes, limits: &Limits) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(&bytes, 0, bytes.len());
        let found = reader.byte()?;
        if found != MAGIC {
            return Err(DecodeError::Magic { found });
        }
        let found = reader.byte()?;
        if found != VERSION {
            return Err(DecodeError::Version { found });
        }
        let found = reader.byte()?;
        if found != FLAG_CONCAT {
            return Err(DecodeError::Flags { found });
        }
        if reader.remaining() < 4 {
            return Err(DecodeError::Truncated { offset: bytes.len() });
        }
        let end = bytes.len() - 4;
        let carried = u32::from_le_bytes([bytes[end], bytes[end + 1], bytes[end + 2], bytes[end + 3]]);
        let computed = crc32c::crc32c(&bytes[..end]);
        if carried != computed {
            return Err(DecodeError::Checksum { computed, carried });
        }
        let mut reader = Reader::new(&bytes, 3, end);
        let offset = reader.at();
        let count = reader.varint()?;
        if count == 0 {
            return Err(DecodeError::Length { offset });
        }
        let maximum = limits.destinations.min(DESTINATIONS_MAX);
        if count > maximum {
            return Err(DecodeError::Limit { offset, limit: LimitName::Destinations, maximum });
        }
        let mut lens = Vec::with_capacity(count);
        let mut total = 0usize;
        for _ in 0..count {
            let offset = reader.at();
            let len = reader.varint()?;
            if len > limits.message_bytes {
                let maximum = limits.message_bytes;
                return Err(DecodeError::Limit { offset, limit: LimitName::MessageBytes, maximum });
            }
            total = total.checked_add(len).ok_or(DecodeError::Length { offset })?;
            let maximum = limits.output_bytes.min(limits.data_bytes);
            if total > maximum {
                return Err(DecodeError::Limit { offset, limit: LimitName::OutputBytes, maximum });
            }
            lens.push(len);
        }
        if total > reader.remaining() {
            return Err(DecodeError::Truncated { offset: end });
        }
        if total < reader.remaining() {
            return Err(DecodeError::Trailing { offset: reader.at() + total });
        }
        let mut at = reader.at();
        let mut starts = Vec::with_capacity(count + 1);
        let mut pieces = Vec::with_capacity(count);
        for &len in &lens {
            starts.push(pieces.len());
            if len > 0 {
                pieces.push((at, at + len));
            }
            at += len;
        }
        starts.push(pieces.len());
        Ok(Self { data: bytes, starts, pieces, lens })
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
        let pieces = self.pieces[self.starts[index]..self.starts[index + 1]].iter();
        Pieces { data: &self.data, pieces }
    }

    /// Message `index` in one piece. Copies every byte.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`message_count`](Self::message_count).
    #[must_use]
    pub fn to_vec(&self, index: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.lens[index]);
        for &(start, end) in &self.pieces[self.starts[index]..self.starts[index + 1]] {
            out.extend_from_slice(&self.data[start..end]);
        }
        out
    }
}
