//! The first bytes of every message of a frame, each in one piece: what is compared with earlier messages, and remembered.

use std::fmt;

use crate::payload::Payload;
use crate::streams::put_opening;

/// The openings of one frame's messages.
#[derive(Default)]
pub(crate) struct Openings {
    bytes: Vec<u8>,
    /// Where in `bytes` that of each message ends.
    ends: Vec<usize>,
}

impl Openings {
    /// Takes in the messages of a new frame.
    pub(crate) fn reset(&mut self, payloads: &[Payload]) {
        self.bytes.clear();
        self.ends.clear();
        for payload in payloads {
            put_opening(&mut self.bytes, payload.segments().iter());
            self.ends.push(self.bytes.len());
        }
    }

    /// The opening of one message.
    pub(crate) fn of(&self, message: usize) -> &[u8] {
        let begin = message.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[begin..self.ends[message]]
    }

    /// All openings in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.ends.len()).map(|message| self.of(message))
    }
}

/// Shows sizes only: messages may be secret.
impl fmt::Debug for Openings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Openings")
            .field("openings", &self.ends.len())
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

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
        let mut openings = Openings::default();
        for _ in 0..2 {
            openings.reset(&payloads);
            let found: Vec<&[u8]> = openings.iter().collect();
            let opening = |bytes: usize| &long[..bytes];
            assert_eq!(found, [opening(256), b"", opening(256), opening(157), opening(256), b""]);
            assert!((0..payloads.len()).all(|message| openings.of(message) == found[message]));
        }
    }
}
