//! The first bytes of every message of a frame, each in one piece: what is compared with earlier messages, and remembered.

use std::fmt;

use bytes::Bytes;

use crate::payload::Payload;
use crate::streams::put_opening;
use crate::wire::OPENING_BYTES;

/// Room for the openings that lie in several segments.
#[derive(Default)]
pub(crate) struct JoinedOpenings {
    bytes: Vec<u8>,
    /// Where in `bytes` that of each message ends; one that lies in one segment takes no room.
    ends: Vec<usize>,
}

/// The openings of one frame's messages.
#[derive(Clone, Copy)]
pub(crate) struct Openings<'a> {
    payloads: &'a [Payload],
    joined: &'a JoinedOpenings,
}

/// The opening of a message, if it lies in one segment.
fn contiguous(payload: &Payload) -> Option<&[u8]> {
    match payload.segments() {
        [first] => Some(&first[..first.len().min(OPENING_BYTES)]),
        [first, ..] => first.get(..OPENING_BYTES),
        [] => Some(&[]),
    }
}

impl JoinedOpenings {
    /// Takes in the messages of a new frame.
    pub(crate) fn reset<'a>(&'a mut self, payloads: &'a [Payload]) -> Openings<'a> {
        self.bytes.clear();
        self.ends.clear();
        for payload in payloads {
            if contiguous(payload).is_none() {
                put_opening(&mut self.bytes, payload.segments().iter());
            }
            self.ends.push(self.bytes.len());
        }
        Openings { payloads, joined: self }
    }
}

impl<'a> Openings<'a> {
    /// The opening of one message.
    pub(crate) fn of(self, message: usize) -> &'a [u8] {
        contiguous(&self.payloads[message]).unwrap_or_else(|| {
            let begin = message.checked_sub(1).map_or(0, |before| self.joined.ends[before]);
            &self.joined.bytes[begin..self.joined.ends[message]]
        })
    }

    /// Where the first segment of a message ends.
    pub(crate) fn border(self, message: usize) -> usize {
        self.payloads[message].segments().first().map_or(0, Bytes::len)
    }

    /// All openings in order.
    pub(crate) fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        let mut begin = 0;
        self.payloads.iter().zip(&self.joined.ends).map(move |(payload, &end)| {
            let joined = begin..end;
            begin = end;
            contiguous(payload).unwrap_or_else(|| &self.joined.bytes[joined])
        })
    }
}

/// Shows sizes only: messages may be secret.
impl fmt::Debug for JoinedOpenings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinedOpenings")
            .field("openings", &self.ends.len())
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings_are_the_first_bytes_however_messages_are_cut() {
        let long: Vec<u8> = (0..=255).cycle().take(700).collect();
        let cut = |at: &[usize]| -> Payload {
            let mut rest = Bytes::from(long.clone());
            at.iter().map(|&len| rest.split_to(len)).collect()
        };
        let payloads = [
            cut(&[700]),
            Payload::default(),
            cut(&[1, 254, 1, 444]),
            cut(&[100, 57]),
            cut(&[255, 2]),
            Payload::default(),
        ];
        let mut joined = JoinedOpenings::default();
        for _ in 0..2 {
            let openings = joined.reset(&payloads);
            let found: Vec<&[u8]> = openings.iter().collect();
            let opening = |bytes: usize| &long[..bytes];
            assert_eq!(found, [opening(256), b"", opening(256), opening(157), opening(256), b""]);
            assert!((0..payloads.len()).all(|message| openings.of(message) == found[message]));
        }
    }
}
