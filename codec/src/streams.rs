//! What one direction of a connection remembers of earlier messages: per stream, the heads of its latest ones.
//!
//! A stream is what one destination hears: the messages with the same number of stream, in order. Fields that change
//! slowly or never stand at the beginning of a message, so only its head is remembered; what follows is seldom said
//! twice. Both ends run this code over the same messages and so remember the same bytes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Bytes of a message that are remembered, from its first one on.
pub(crate) const HEAD_BYTES: usize = 512;
/// Bytes remembered per stream; the oldest are forgotten first.
pub(crate) const STREAM_BYTES: usize = 4 << 10;
/// Streams remembered; the one unused for longest is forgotten first.
pub(crate) const STREAMS_MAX: usize = 1024;

/// Heads of the latest messages of one stream.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// The heads one after another, the latest last.
    bytes: Vec<u8>,
    /// Their lengths. The first one may be cut at its beginning.
    heads: VecDeque<usize>,
    used: u64,
}

impl Stream {
    /// Everything remembered, the latest bytes last.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where each whole head begins in [`bytes`](Self::bytes), and how long it is, the latest first.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut end = self.bytes.len();
        self.heads.iter().rev().map_while(move |&len| {
            end = end.checked_sub(len)?;
            Some((end, len))
        })
    }

    fn enter(&mut self, parts: impl Iterator<Item: AsRef<[u8]>>) {
        let mut room = HEAD_BYTES;
        for part in parts {
            let part = part.as_ref();
            let taken = part.len().min(room);
            self.bytes.extend_from_slice(&part[..taken]);
            room -= taken;
            if room == 0 {
                break;
            }
        }
        if room < HEAD_BYTES {
            self.heads.push_back(HEAD_BYTES - room);
        }
        let over = self.bytes.len().saturating_sub(STREAM_BYTES);
        if over > 0 {
            self.bytes.drain(..over);
            let mut kept: usize = self.heads.iter().sum();
            while let Some(oldest) = self.heads.front().filter(|oldest| kept - **oldest >= STREAM_BYTES) {
                kept -= oldest;
                self.heads.pop_front();
            }
        }
    }
}

/// The streams of one direction.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    by_number: BTreeMap<u32, Stream>,
    /// The same in the order of use.
    by_use: BTreeSet<(u64, u32)>,
    frames: u64,
}

impl Streams {
    /// What is remembered of a stream; nothing of one that was never heard, or is forgotten.
    pub(crate) fn get(&self, number: u32) -> Option<&Stream> {
        self.by_number.get(&number)
    }

    /// A frame is complete: what follows counts as used later.
    pub(crate) fn next_frame(&mut self) {
        self.frames += 1;
    }

    /// Remembers the head of a message, given in parts.
    pub(crate) fn enter(&mut self, number: u32, parts: impl Iterator<Item: AsRef<[u8]>>) {
        if !self.by_number.contains_key(&number)
            && self.by_number.len() == STREAMS_MAX
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.by_number.remove(&oldest);
        }
        let stream = self.by_number.entry(number).or_default();
        self.by_use.remove(&(stream.used, number));
        stream.used = self.frames;
        self.by_use.insert((stream.used, number));
        stream.enter(parts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_remembered_and_the_oldest_bytes_forgotten() {
        let mut streams = Streams::default();
        streams.enter(7, [&b"ab"[..], b"c"].into_iter());
        streams.enter(7, std::iter::empty::<&[u8]>());
        streams.enter(7, [[9; 700]].into_iter());
        let stream = streams.get(7).unwrap();
        assert_eq!(stream.heads().collect::<Vec<_>>(), [(3, HEAD_BYTES), (0, 3)]);
        assert_eq!(&stream.bytes()[..4], b"abc\x09");
        for fill in 0..8 {
            streams.enter(7, [[fill; 500]].into_iter());
        }
        let stream = streams.get(7).unwrap();
        assert_eq!(stream.bytes().len(), STREAM_BYTES);
        let heads: Vec<_> = stream.heads().collect();
        assert_eq!(heads.len(), 8, "{heads:?}");
        assert_eq!(heads[7], (96, 500), "before it 96 bytes of a head that is cut");
        assert_eq!(streams.get(8).map(Stream::bytes), None);
    }

    #[test]
    fn the_stream_unused_for_longest_is_forgotten() {
        let mut streams = Streams::default();
        for number in 0..u32::try_from(STREAMS_MAX).unwrap() {
            streams.enter(number, [[1]].into_iter());
            streams.next_frame();
        }
        streams.enter(0, [[2]].into_iter());
        streams.enter(5000, [[3]].into_iter());
        assert!(streams.get(1).is_none() && streams.get(0).is_some() && streams.get(5000).is_some());
    }
}
