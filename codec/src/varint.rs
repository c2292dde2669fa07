//! Unsigned LEB128 with exactly one encoding per value. For whoever frames messages with the same integers; no other use
//! is promised anything.
//!
//! An encoding longer than needed is an error, because two spellings of one frame would be two frames to everything
//! that hashes, compares or deduplicates them.

use crate::error::DecodeError;

/// Longest encoding of a `u64`.
pub const BYTES_MAX: usize = 10;

/// Encoded length of `value` in bytes.
pub(crate) fn len(value: usize) -> usize {
    let bits = (usize::BITS - (value | 1).leading_zeros()) as usize;
    // A seventh, rounded up: for up to 64 bits nine sixty-fourths come to the same.
    (bits * 9 + 64) / 64
}

/// Appends `value`.
#[inline]
pub fn put(out: &mut Vec<u8>, value: usize) {
    match u8::try_from(value) {
        Ok(low @ ..0x80) => out.push(low),
        _ => put_long(out, value),
    }
}

#[inline(never)]
fn put_long(out: &mut Vec<u8>, value: usize) {
    let mut bytes = [0; BYTES_MAX];
    let len = write(&mut bytes, value);
    out.extend_from_slice(&bytes[..len]);
}

/// Writes `value` to the front of `out`; returns its length, at most [`BYTES_MAX`].
///
/// # Panics
/// When `out` has no room for it.
pub fn write(out: &mut [u8], value: usize) -> usize {
    let mut rest = value;
    let mut len = 0;
    loop {
        let low = rest.to_le_bytes()[0] & 0x7F;
        rest >>= 7;
        out[len] = if rest == 0 { low } else { low | 0x80 };
        len += 1;
        if rest == 0 {
            return len;
        }
    }
}

/// Reads a value from bytes that come one by one. `None` when it is spelled longer than needed, or is above a `u64`.
///
/// # Errors
/// Whatever `byte` says when it has no byte.
pub fn read<E>(mut byte: impl FnMut() -> Result<u8, E>) -> Result<Option<u64>, E> {
    let mut value: u64 = 0;
    for index in 0..BYTES_MAX {
        let byte = byte()?;
        if index == BYTES_MAX - 1 && byte > 1 {
            return Ok(None);
        }
        value |= u64::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((byte != 0 || index == 0).then_some(value));
        }
    }
    Ok(None)
}

/// What a [`Reader`] reads, by the name it has in errors.
const READ: &str = "an integer or a set";

/// Reads bytes of a frame from front to back and knows where it is.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    /// A reader of `bytes[at..end]`; offsets in errors count from the start of `bytes`.
    pub(crate) fn new(bytes: &'a [u8], at: usize, end: usize) -> Self {
        assert!(at <= end && end <= bytes.len(), "reader outside its buffer");
        Self { bytes, at, end }
    }

    /// Offset of the next byte.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Bytes not yet read.
    pub(crate) fn remaining(&self) -> usize {
        self.end - self.at
    }

    /// The next byte, left where it is.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes[self.at..self.end].first().copied()
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        if self.at == self.end {
            return Err(DecodeError::Truncated { offset: self.at, what: READ });
        }
        let byte = self.bytes[self.at];
        self.at += 1;
        Ok(byte)
    }

    /// The next variable-length integer.
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<usize, DecodeError> {
        // Most have one byte to three.
        match self.bytes[self.at..self.end] {
            [low @ ..0x80, ..] => {
                self.at += 1;
                Ok(usize::from(low))
            }
            [low, high @ 1..0x80, ..] => {
                self.at += 2;
                Ok(usize::from(low & 0x7F) | usize::from(high) << 7)
            }
            [low, middle @ 0x80..=0xFF, high @ 1..0x80, ..] => {
                self.at += 3;
                Ok(usize::from(low & 0x7F) | usize::from(middle & 0x7F) << 7 | usize::from(high) << 14)
            }
            _ => self.long_varint(),
        }
    }

    #[inline(never)]
    fn long_varint(&mut self) -> Result<usize, DecodeError> {
        let start = self.at;
        let value = read(|| self.byte())?.and_then(|value| usize::try_from(value).ok());
        value.ok_or(DecodeError::Varint { offset: start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_border_round_trips() {
        for shift in 0..usize::BITS {
            for value in [(1usize << shift) - 1, 1usize << shift, (1usize << shift) + 1, usize::MAX >> shift]
            {
                let mut out = Vec::new();
                put(&mut out, value);
                assert_eq!(out.len(), len(value));
                let mut reader = Reader::new(&out, 0, out.len());
                assert_eq!(reader.varint().unwrap(), value);
                assert_eq!(reader.remaining(), 0);
            }
        }
    }

    #[test]
    fn overlong_and_oversized_are_refused() {
        let cases: [&[u8]; 7] = [
            &[0x80, 0x00],
            &[0x80, 0x00, 0x01],
            &[0x80, 0x80, 0x00],
            &[0xFF, 0x80, 0x00],
            &[0xFF; 10],
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02],
            &[0xFF; 11],
        ];
        for bytes in cases {
            assert_eq!(Reader::new(bytes, 0, bytes.len()).varint(), Err(DecodeError::Varint { offset: 0 }));
        }
        for cut in [&[0x80][..], &[0x80, 0x80], &[0x80, 0x80, 0x80]] {
            let offset = cut.len();
            assert_eq!(
                Reader::new(cut, 0, offset).varint(),
                Err(DecodeError::Truncated { offset, what: READ })
            );
        }
    }
}
