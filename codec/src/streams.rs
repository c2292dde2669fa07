//! What one direction of a connection remembers of earlier messages: per stream, the heads of its latest ones.
//!
//! A stream is what one destination hears: the messages with the same number of stream, in order. Fields that change
//! slowly or never stand at the beginning of a message, so only its head is remembered; what follows is seldom said
//! twice. Both ends run this code over the same messages and so remember the same bytes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::bytes_equal::equal_count;
use crate::work::Work;

/// Bytes of a message that are remembered, from its first one on.
pub(crate) const HEAD_BYTES: usize = 256;
/// Bytes remembered per stream; the oldest are forgotten first.
pub(crate) const STREAM_BYTES: usize = 4 << 10;
/// Bytes that a stream takes, with those that it has forgotten but not given back.
const KEPT_BYTES_MAX: usize = 2 * STREAM_BYTES;
/// Earlier messages that are looked at for one that is like the next, the latest first.
const TRIED: usize = 8;
/// Bytes of each that are looked at.
const LOOK_BYTES: usize = 64;
/// What an equal length is worth in equal bytes.
const SAME_LENGTH: usize = 16;
/// Messages of which it is remembered where they begin.
const HEADS_MAX: usize = 16;
/// Streams remembered; the one unused for longest is forgotten first.
pub(crate) const STREAMS_MAX: usize = 1024;

/// Heads of the latest messages of one stream.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// The heads one after another, the latest last. Those before `begin` are forgotten.
    kept: Vec<u8>,
    begin: usize,
    /// Their lengths. The first one may be cut at its beginning.
    heads: VecDeque<usize>,
    used: u64,
}

impl Stream {
    /// Everything remembered, the latest bytes last.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.kept[self.begin..]
    }

    /// Where each whole head begins in [`bytes`](Self::bytes), and how long it is, the latest first.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut end = self.bytes().len();
        self.heads.iter().rev().map_while(move |&len| {
            end = end.checked_sub(len)?;
            Some((end, len))
        })
    }

    /// The whole head that is most like that of the next message, which has these first bytes and this length. Of equals the
    /// latest, and the first one that is as good as equal.
    pub(crate) fn most_alike(&self, begin: &[u8], len: usize, work: &mut Work) -> Option<Alike> {
        let mut best: Option<(usize, Alike)> = None;
        for (start, past_len) in self.heads().take(TRIED) {
            work.compared_bytes += LOOK_BYTES;
            let equal = usize::from(equal_count(&self.bytes()[start..start + past_len], begin));
            let score = equal + if past_len == len { SAME_LENGTH } else { 0 };
            if best.as_ref().is_none_or(|(most, _)| score > *most) {
                best = Some((score, Alike { start, len: past_len, equal }));
            }
            if past_len == len && equal * 4 >= begin.len().min(LOOK_BYTES) * 3 {
                break;
            }
        }
        best.map(|(_, alike)| alike)
    }

    fn enter(&mut self, parts: impl Iterator<Item: AsRef<[u8]>>) {
        // Not at every message, for then each of them would move all the others.
        if self.kept.len() + HEAD_BYTES > KEPT_BYTES_MAX {
            self.kept.drain(..self.begin);
            self.begin = 0;
        }
        let wanted = (self.kept.len() + HEAD_BYTES).next_power_of_two();
        self.kept.reserve_exact(wanted.min(KEPT_BYTES_MAX) - self.kept.len());
        let mut room = HEAD_BYTES;
        for part in parts {
            let part = part.as_ref();
            let taken = part.len().min(room);
            self.kept.extend_from_slice(&part[..taken]);
            room -= taken;
            if room == 0 {
                break;
            }
        }
        if room < HEAD_BYTES {
            self.heads.push_back(HEAD_BYTES - room);
        }
        self.begin = self.begin.max(self.kept.len().saturating_sub(STREAM_BYTES));
        // More heads than anybody looks at, or more than there are bytes.
        while self.heads.len() > HEADS_MAX {
            self.heads.pop_front();
        }
    }
}

/// An earlier message of a stream that is like the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alike {
    /// Where its head begins in [`Stream::bytes`], and how long that is.
    pub(crate) start: usize,
    pub(crate) len: usize,
    /// Of the bytes that were looked at so many are equal.
    pub(crate) equal: usize,
}

/// The streams of one direction.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    by_number: BTreeMap<u32, Stream>,
    /// The same in the order of use, as it was when each was last looked at: an entry may be too early, never too late.
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
        if let Some(stream) = self.by_number.get_mut(&number) {
            stream.used = self.frames;
            return stream.enter(parts);
        }
        if self.by_number.len() == STREAMS_MAX {
            self.forget_one();
        }
        self.by_use.insert((self.frames, number));
        let stream = self.by_number.entry(number).or_default();
        stream.used = self.frames;
        stream.enter(parts);
    }

    /// Forgets the stream unused for longest. Entries that turn out to be too early are put right on the way, each once
    /// per use at most.
    fn forget_one(&mut self) {
        while let Some((used, number)) = self.by_use.pop_first() {
            match self.by_number.get(&number).map(|stream| stream.used) {
                Some(later) if later > used => self.by_use.insert((later, number)),
                _ => {
                    self.by_number.remove(&number);
                    return;
                }
            };
        }
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
        for round in 0..100 {
            streams.enter(7, [[round; 250]].into_iter());
            let stream = streams.get(7).unwrap();
            let (bytes, kept) = (stream.bytes().len(), stream.kept.len());
            assert!(
                bytes <= STREAM_BYTES && kept < 2 * STREAM_BYTES && (round < 20 || bytes == STREAM_BYTES)
            );
            assert!(stream.bytes().ends_with(&[round; 250]));
        }
        let heads: Vec<_> = streams.get(7).unwrap().heads().collect();
        assert_eq!((heads.len(), heads[15]), (16, (96, 250)), "before it 96 bytes of a head that is cut");
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
