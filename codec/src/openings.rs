//! The first bytes of every message of a frame, each in one piece: what is compared with earlier messages, and remembered.

use std::fmt;

use bytes::Bytes;

use crate::payload::Payload;
use crate::streams::put_opening;
use crate::wire::OPENING_BYTES;

/// Room for the openings that lie in several segments, and for the list of all.
#[derive(Default)]
pub(crate) struct JoinedOpenings {
    bytes: Vec<u8>,
    /// Empty, kept for its memory.
    list: Vec<Opening<'static>>,
}

/// The openings of one frame's messages.
pub(crate) struct Openings<'a> {
    list: Vec<Opening<'a>>,
}

/// The opening of one message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening<'a> {
    pub(crate) bytes: &'a [u8],
    /// Where the first segment of the message ends.
    pub(crate) border: usize,
}

/// The opening of a message, if it lies in one segment.
#[inline]
fn contiguous(payload: &Payload) -> Option<Opening<'_>> {
    let (first, several) = match payload.segments() {
        [first] => (first, false),
        [first, ..] => (first, true),
        [] => return Some(Opening { bytes: &[], border: 0 }),
    };
    let (bytes, border) = (&first[..first.len().min(OPENING_BYTES)], first.len());
    (!several || border >= OPENING_BYTES).then_some(Opening { bytes, border })
}

impl JoinedOpenings {
    /// Takes in the messages of a new frame.
    pub(crate) fn reset<'a>(&'a mut self, payloads: &'a [Payload]) -> Openings<'a> {
        self.bytes.clear();
        let mut list: Vec<Opening<'a>> = std::mem::take(&mut self.list);
        let mut several = false;
        list.extend(payloads.iter().map(|payload| {
            contiguous(payload).unwrap_or_else(|| {
                several = true;
                Opening { bytes: &[], border: payload.segments().first().map_or(0, Bytes::len) }
            })
        }));
        if several {
            self.join(payloads, &mut list);
        }
        Openings { list }
    }

    /// Adds those openings that lie in several segments.
    #[inline(never)]
    fn join<'a>(&'a mut self, payloads: &'a [Payload], list: &mut [Opening<'a>]) {
        let len = |payload: &Payload| payload.len().min(OPENING_BYTES);
        for (opening, payload) in list.iter().zip(payloads) {
            if opening.bytes.len() < len(payload) {
                put_opening(payload.segments().iter(), |part| self.bytes.extend_from_slice(part));
            }
        }
        let mut joined = self.bytes.as_slice();
        for (opening, payload) in list.iter_mut().zip(payloads) {
            if opening.bytes.len() < len(payload) {
                (opening.bytes, joined) = joined.split_at(len(payload));
            }
        }
    }

    /// Takes back the memory of a list.
    pub(crate) fn keep(&mut self, list: Vec<Opening<'static>>) {
        self.list = list;
    }
}

impl<'a> Openings<'a> {
    /// All of them in order, with their borders.
    pub(crate) fn all(&self) -> &[Opening<'a>] {
        &self.list
    }

    /// Their bytes in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        self.list.iter().map(|opening| opening.bytes)
    }

    /// The memory of the list, for [`JoinedOpenings::keep`].
    pub(crate) fn into_list(mut self) -> Vec<Opening<'static>> {
        self.list.clear();
        // Collecting in place keeps the memory.
        self.list.into_iter().map(|Opening { border, .. }| Opening { bytes: &[], border }).collect()
    }
}

/// Shows sizes only: messages may be secret.
impl fmt::Debug for JoinedOpenings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinedOpenings").field("bytes", &self.bytes.len()).finish_non_exhaustive()
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
            let borders: Vec<usize> = openings.all().iter().map(|opening| opening.border).collect();
            assert_eq!(borders, [700, 0, 1, 100, 255, 0]);
            let list = openings.into_list();
            joined.keep(list);
        }
    }
}
