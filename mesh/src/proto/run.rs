//! The payload of a run: (kind, length, message)*, kind and length as canonical LEB128. What a proxy passes on unread.

use bytes::Bytes;
use trunkline_codec::{Frame, Payload, varint};

use super::frame::FrameError;

/// The bytes in front of one message.
#[must_use]
pub fn message_head(kind: u8, length: usize) -> Bytes {
    let mut head = [0; 2 * varint::BYTES_MAX];
    let kind_bytes = varint::write(&mut head, usize::from(kind));
    let length_bytes = varint::write(&mut head[kind_bytes..], length);
    Bytes::copy_from_slice(&head[..kind_bytes + length_bytes])
}

/// One message of a run.
#[derive(Clone, Debug)]
pub struct RunMessage {
    /// The sender's number.
    pub kind: u8,
    /// Its bytes, slices of the received buffer.
    pub payload: Payload,
}

/// Cuts a run into its messages. `pieces` are the slices the codec handed out.
///
/// # Errors
/// What is wrong; nothing of the run may be used.
pub fn split_run(pieces: impl Iterator<Item = Bytes>, count: u32) -> Result<Vec<RunMessage>, FrameError> {
    let malformed = |what: &str| FrameError::Codec(format!("run: {what}"));
    let mut cursor = Cursor { pieces, current: Bytes::new() };
    let mut messages = Vec::with_capacity(usize::try_from(count).unwrap_or(0).min(1024));
    for _ in 0..count {
        let kind = cursor.varint().ok_or_else(|| malformed("ends within a kind, or overlong"))?;
        let kind = u8::try_from(kind).map_err(|_| malformed("kind above 255"))?;
        let length = cursor.varint().ok_or_else(|| malformed("ends within a length, or overlong"))?;
        let length = usize::try_from(length).map_err(|_| malformed("length"))?;
        let payload = cursor.take(length).ok_or_else(|| malformed("shorter than its messages"))?;
        messages.push(RunMessage { kind, payload });
    }
    if cursor.byte().is_some() {
        return Err(malformed("longer than its messages"));
    }
    Ok(messages)
}

/// Pieces up to this number are worth a reference each, however short they are.
const FEW_PIECES: usize = 16;

/// To copy a piece shorter than this takes less time than to count a reference to it, now and when it is let go.
const SHORT_PIECE_BYTES: usize = 64;

/// Message `index` of a frame, as slices of it. One in many short pieces, of which a short frame can have a million, is copied.
#[must_use]
pub fn payload_of(frame: &Frame, index: usize) -> Payload {
    let pieces = frame.slices(index).len();
    let short = pieces > FEW_PIECES && frame.message_len(index) < pieces * SHORT_PIECE_BYTES;
    if short { frame.to_vec(index).into() } else { frame.message(index).collect() }
}

/// What a queue keeps of a payload besides its bytes: a handle per piece.
const PIECE_BYTES: usize = size_of::<Bytes>();

/// A copy of a payload that is less than half of the buffers it is a slice of, or of its handles: what a queue charges is
/// then about what it keeps alive.
#[must_use]
pub fn compact(payload: Payload, buffer_bytes: usize) -> Payload {
    let few_bytes =
        payload.len() * 2 < buffer_bytes || payload.len() < payload.segments().len() * PIECE_BYTES;
    if !few_bytes || payload.is_empty() {
        return payload;
    }
    #[cfg(test)]
    COPIED_BYTES.set(COPIED_BYTES.get() + payload.len());
    Payload::from(payload.to_vec())
}

#[cfg(test)]
thread_local! {
    /// Bytes that were copied out of frames by this thread.
    pub(super) static COPIED_BYTES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

struct Cursor<I> {
    pieces: I,
    current: Bytes,
}

impl<I: Iterator<Item = Bytes>> Cursor<I> {
    fn fill(&mut self) -> Option<()> {
        while self.current.is_empty() {
            self.current = self.pieces.next()?;
        }
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        self.fill()?;
        Some(self.current.split_to(1)[0])
    }

    fn varint(&mut self) -> Option<u64> {
        varint::read(|| self.byte().ok_or(())).ok().flatten()
    }

    fn take(&mut self, length: usize) -> Option<Payload> {
        let mut missing = length;
        let mut slices = Vec::new();
        while missing > 0 {
            self.fill()?;
            let slice = self.current.split_to(missing.min(self.current.len()));
            missing -= slice.len();
            slices.push(slice);
        }
        Some(slices.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use trunkline_codec::{Encoder, Limits, Options};

    use super::*;

    #[test]
    fn messages_come_back_whatever_the_pieces() {
        let long = Bytes::from(vec![9; 300]);
        let mut bytes = Vec::new();
        for (kind, message) in [(0, Bytes::from_static(b"ab")), (200, long.clone()), (1, Bytes::new())] {
            bytes.extend_from_slice(&message_head(kind, message.len()));
            bytes.extend_from_slice(&message);
        }
        for cut in 0..bytes.len() {
            let pieces = [Bytes::copy_from_slice(&bytes[..cut]), Bytes::copy_from_slice(&bytes[cut..])];
            let messages = split_run(pieces.into_iter(), 3).unwrap();
            assert_eq!(messages[0].payload.to_vec(), b"ab");
            assert_eq!((messages[1].kind, messages[1].payload.to_vec()), (200, long.to_vec()));
            assert!(messages[2].payload.is_empty());
        }
        let whole = || std::iter::once(Bytes::copy_from_slice(&bytes));
        assert!(split_run(whole(), 2).is_err(), "too long");
        assert!(split_run(whole(), 4).is_err(), "too short");
    }

    #[test]
    fn what_waits_is_copied_out_of_a_much_larger_frame() {
        let frame = Bytes::from(vec![1; 1000]);
        let small: Payload = frame.slice(..499).into();
        assert_ne!(compact(small, frame.len()).segments()[0].as_ptr(), frame.as_ptr());
        let large: Payload = frame.slice(..500).into();
        assert_eq!(compact(large, frame.len()).segments()[0].as_ptr(), frame.as_ptr());
    }

    #[test]
    fn what_waits_in_tiny_pieces_is_joined() {
        let frame = Bytes::from(vec![1; 1000]);
        let pieces =
            |len: usize| -> Payload { (0..10).map(|at| frame.slice(at * 60..at * 60 + len)).collect() };
        assert_eq!(compact(pieces(10), 100).segments().len(), 1);
        assert_eq!(compact(pieces(60), 600).segments().len(), 10);
    }

    #[test]
    fn what_comes_in_many_short_pieces_is_copied_and_what_is_in_longer_ones_is_not() {
        let text: Vec<u8> = (0..9000_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        let text = Bytes::from(text);
        // Every third part is missing, at each destination another one.
        let payload = |to: usize, len: usize| -> Payload {
            let parts = (0..90).filter(|at: &usize| !(at + to).is_multiple_of(3));
            parts.map(|at| text.slice(at * 100..at * 100 + len)).collect()
        };
        for (len, copied) in [(20, true), (90, false)] {
            let payloads: Vec<Payload> = (0..20).map(|to| payload(to, len)).collect();
            let encoded = Encoder::new(Options::default()).encode(&payloads).unwrap();
            let frame = Frame::parse(encoded.to_bytes(), &Limits::default()).unwrap();
            for (index, payload) in payloads.iter().enumerate() {
                let pieces = frame.message(index).len();
                assert!(pieces > FEW_PIECES, "{pieces} pieces");
                let taken = payload_of(&frame, index);
                assert_eq!(taken.segments().len(), if copied { 1 } else { pieces });
                assert!(taken.to_vec() == payload.to_vec());
            }
        }
    }

    #[test]
    fn overlong_numbers_and_huge_lengths_are_errors() {
        for bad in
            [&[0x80, 0x00, 0][..], &[0, 0x80, 0x00], &[0x80, 0x02, 0], &[0, 0xff, 0xff, 0xff, 0xff, 0x0f]]
        {
            assert!(split_run(std::iter::once(Bytes::copy_from_slice(bad)), 1).is_err(), "{bad:x?}");
        }
        let eleven = [&[0][..], &[0xff; 10][..], &[1]].concat();
        assert!(split_run(std::iter::once(Bytes::from(eleven)), 1).is_err());
        assert!(split_run(std::iter::empty(), u32::MAX).is_err(), "a count allocates nothing");
    }
}
