//! The first bytes of every message of a frame, each in one piece: what is compared with earlier messages, and remembered.

use crate::payload::Payload;
use crate::streams::OPENING_BYTES;

/// The openings of one frame's messages.
#[derive(Debug, Default)]
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
            let mut room = OPENING_BYTES;
            for segment in payload.segments() {
                let taken = segment.len().min(room);
                self.bytes.extend_from_slice(&segment[..taken]);
                room -= taken;
                if room == 0 {
                    break;
                }
            }
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
