//! What one direction of a connection remembers of earlier messages: per stream, the openings of its latest ones.
//!
//! A stream is what one destination hears: the messages with the same number of stream, in order. Fields that change
//! slowly or never stand at the beginning of a message, so only that is remembered; what follows is seldom said twice.
//! Both ends run this code over the same messages and so remember the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::bytes_equal::equal_count;
use crate::openings::Opening;
use crate::wire::{OPENING_BYTES, STREAM_BYTES, STREAMS_MAX};
use crate::work::Work;

/// Bytes that a stream takes, with those that it has forgotten but not given back: each is moved at most once that way.
const KEPT_BYTES_MAX: usize = 2 * STREAM_BYTES;
/// Earlier messages that are looked at for one that is like the next, the latest first. Matters where a stream hears several
/// kinds in turn: with 1, five such messages of three kinds take 323 bytes instead of 116, with 4 198, with 16 92; every one
/// is work for all.
const TRIED: usize = 8;
/// Bytes of each that are looked at. 16 and 64 choose the same in all traffic tried; 64 are half as much work again.
pub(crate) const LOOK_BYTES: usize = 32;
/// What an equal length is worth in equal bytes. With 8, five messages with a field that grows and shrinks take 275 bytes
/// instead of 132, because they are laid beside ones in which everything behind the field has moved; with 32 as many.
const SAME_LENGTH: usize = 16;
/// An older message has to be more alike by so many bytes: a few are equal by chance, and streams that choose by chance
/// are not in step. With 16 an equal length alone is no longer enough: 275 bytes instead of 132, as above.
const OLDER_BYTES: usize = 8;
/// Messages of which it is remembered where they begin: as many as a stream remembers of the longest.
const OPENINGS_MAX: usize = STREAM_BYTES / OPENING_BYTES;

const _: () =
    assert!(TRIED <= OPENINGS_MAX && LOOK_BYTES <= OPENING_BYTES && OPENING_BYTES <= u16::MAX as usize);

/// Gives the opening of a message that is given in parts to `put`, in parts; returns its length.
pub(crate) fn put_opening(parts: impl Iterator<Item: AsRef<[u8]>>, mut put: impl FnMut(&[u8])) -> usize {
    let mut room = OPENING_BYTES;
    for part in parts {
        let part = part.as_ref();
        let taken = part.len().min(room);
        put(&part[..taken]);
        room -= taken;
        if room == 0 {
            break;
        }
    }
    OPENING_BYTES - room
}

/// As `copy_from_slice`, but without a call for the lengths that most openings have, and their parts.
#[inline]
pub(crate) fn copy(to: &mut [u8], from: &[u8]) {
    match from.len() {
        1 => to[0] = from[0],
        2..4 => copy_ends::<2>(to, from),
        4..8 => copy_ends::<4>(to, from),
        8..16 => copy_ends::<8>(to, from),
        16..32 => copy_ends::<16>(to, from),
        32..64 => copy_ends::<32>(to, from),
        _ => to.copy_from_slice(from),
    }
}

/// As [`copy`], for `N` to `2 * N` bytes: the first and the last `N`, which may overlap.
#[inline]
fn copy_ends<const N: usize>(to: &mut [u8], from: &[u8]) {
    if let (Some(to), Some(from)) = (to.first_chunk_mut::<N>(), from.first_chunk()) {
        *to = *from;
    }
    if let (Some(to), Some(from)) = (to.last_chunk_mut::<N>(), from.last_chunk()) {
        *to = *from;
    }
}

/// Whether a message is half equal to an opening as long from which it differs in no other places than those where `changes`
/// is not zero.
pub(crate) fn half_alike(changes: &[u8]) -> bool {
    let look = &changes[..changes.len().min(LOOK_BYTES)];
    usize::from(equal_count(look, &[0; LOOK_BYTES])) * 2 >= look.len()
}

/// Openings of the latest messages of one stream.
#[derive(Default)]
pub(crate) struct Stream {
    number: u32,
    used: u64,
    /// The openings one after another up to `end`, the latest last. Behind that is room.
    kept: Vec<u8>,
    end: usize,
    /// The lengths of the latest openings, the latest first, then zeros. The last one may be cut at its beginning.
    lens: [u16; OPENINGS_MAX],
}

impl Stream {
    /// Everything remembered, the latest bytes last.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.kept[self.end.saturating_sub(STREAM_BYTES)..self.end]
    }

    /// Where each whole opening begins in [`bytes`](Self::bytes), and how long it is, the latest first.
    pub(crate) fn openings(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut end = self.bytes().len();
        self.lens.iter().take_while(|len| **len > 0).map_while(move |&len| {
            end = end.checked_sub(usize::from(len))?;
            Some((end, usize::from(len)))
        })
    }

    /// How long the latest opening is; 0 if there is none.
    fn latest_len(&self) -> usize {
        usize::from(self.lens[0])
    }

    /// The latest opening, if this is the stream of that number and the opening as long as said. For a message as long, of
    /// which half of the bytes that are looked at are equal, it is the one that [`most_alike`](Self::most_alike) finds.
    #[inline]
    pub(crate) fn latest_of(&self, number: u32, len: usize) -> Option<&[u8]> {
        (self.number == number && self.latest_len() == len).then(|| self.latest())
    }

    /// The latest opening; empty if there is none.
    pub(crate) fn latest(&self) -> &[u8] {
        &self.kept[self.end - self.latest_len()..self.end]
    }

    /// The whole opening that is most like that of the next message: the latest one, or an older one that is clearly more
    /// alike than all later ones. The first of these that is as long and half equal is the last to be looked
    /// at.
    pub(crate) fn most_alike(&self, opening: &[u8], work: &mut Work) -> Option<Alike> {
        let mut best: Option<(usize, Alike)> = None;
        let len = opening.len();
        let look = &opening[..len.min(LOOK_BYTES)];
        for (start, past_len) in self.openings().take(TRIED) {
            work.compared_bytes += LOOK_BYTES;
            let equal = usize::from(equal_count(&self.bytes()[start..start + past_len], look));
            let score = equal + if past_len == len { SAME_LENGTH } else { 0 };
            if best.as_ref().is_none_or(|(most, _)| score > *most + OLDER_BYTES) {
                best = Some((score, Alike { start, len: past_len, equal }));
                if past_len == len && equal * 2 >= look.len() {
                    break;
                }
            }
        }
        best.map(|(_, alike)| alike)
    }

    fn enter(&mut self, parts: impl Iterator<Item: AsRef<[u8]>>) {
        self.make_room();
        let mut end = self.end;
        put_opening(parts, |part| {
            self.kept[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        });
        self.note(end - self.end);
    }

    /// As [`enter`](Self::enter), for an opening in one piece.
    fn enter_opening(&mut self, opening: &[u8]) {
        self.make_room();
        copy(&mut self.kept[self.end..self.end + opening.len()], opening);
        self.note(opening.len());
    }

    /// So many bytes of a new opening were put behind the end.
    #[inline]
    fn note(&mut self, opening: usize) {
        if opening > 0 {
            self.end += opening;
            let lens = self.lens;
            self.lens[1..].copy_from_slice(&lens[..OPENINGS_MAX - 1]);
            self.lens[0] = u16::try_from(opening).expect("an opening has at most 256 bytes");
        }
    }

    /// Room for one more opening.
    #[inline]
    fn make_room(&mut self) {
        if self.kept.len() - self.end < OPENING_BYTES {
            self.grow();
        }
    }

    #[cold]
    fn grow(&mut self) {
        // Not at every message, for then each of them would move all the others.
        if self.end + OPENING_BYTES > KEPT_BYTES_MAX {
            let begin = self.end - STREAM_BYTES;
            self.kept.copy_within(begin..self.end, 0);
            self.end -= begin;
        }
        let wanted = (self.end + OPENING_BYTES).next_power_of_two().min(KEPT_BYTES_MAX);
        if wanted > self.kept.len() {
            self.kept.reserve_exact(wanted - self.kept.len());
            self.kept.resize(wanted, 0);
        }
    }
}

/// An earlier message of a stream that is like the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alike {
    /// Where its opening begins in [`Stream::bytes`], and how long that is.
    pub(crate) start: usize,
    pub(crate) len: usize,
    /// Of the bytes that were looked at so many are equal.
    pub(crate) equal: usize,
}

/// The streams of one direction.
#[derive(Default)]
pub(crate) struct Streams {
    streams: Vec<Stream>,
    /// Where in `streams` each is.
    by_number: BTreeMap<u32, usize>,
    /// The same in the order of use, as it was when each was last looked at: an entry may be too early, never too late.
    by_use: BTreeSet<(u64, u32)>,
    frames: u64,
    /// Where the stream is that is probably entered next.
    next: usize,
}

/// Finds the streams of one frame's messages. Frames mostly name the same streams in the same order, so the one behind
/// the last is tried first.
#[derive(Clone)]
pub(crate) struct Finder<'a> {
    streams: &'a Streams,
    next: usize,
}

impl<'a> Finder<'a> {
    /// The streams that are probably next, in order.
    pub(crate) fn rest(&self) -> &'a [Stream] {
        self.streams.streams.get(self.next..).unwrap_or_default()
    }

    /// The next so many streams were found.
    pub(crate) fn skip(&mut self, count: usize) {
        self.next += count;
    }

    /// What is remembered of a stream; nothing of one that was never heard, or is forgotten.
    pub(crate) fn find(&mut self, number: u32) -> Option<&'a Stream> {
        if let Some(stream) = self.streams.streams.get(self.next).filter(|stream| stream.number == number) {
            self.next += 1;
            return Some(stream);
        }
        let place = *self.streams.by_number.get(&number)?;
        self.next = place + 1;
        Some(&self.streams.streams[place])
    }
}

impl Streams {
    /// For the messages of the next frame, in their order.
    pub(crate) fn finder(&self) -> Finder<'_> {
        Finder { streams: self, next: 0 }
    }

    /// Where a stream is, which is probably at `guess`.
    fn place(&self, number: u32, guess: usize) -> Option<usize> {
        match self.streams.get(guess) {
            Some(stream) if stream.number == number => Some(guess),
            _ => self.by_number.get(&number).copied(),
        }
    }

    /// A frame is complete: what follows counts as used later.
    pub(crate) fn next_frame(&mut self) {
        self.frames += 1;
        self.next = 0;
    }

    /// Remembers the opening of a message, given in parts.
    pub(crate) fn enter(&mut self, number: u32, parts: impl Iterator<Item: AsRef<[u8]>>) {
        let place = self.place(number, self.next).unwrap_or_else(|| self.begin(number));
        self.next = place + 1;
        let stream = &mut self.streams[place];
        stream.used = self.frames;
        stream.enter(parts);
    }

    /// Remembers the openings of all messages of a frame, whose first one this is.
    #[inline(never)]
    pub(crate) fn enter_all(&mut self, numbers: &[u32], openings: &[Opening<'_>]) {
        let mut entered = 0;
        // Mostly the streams are those of the frame before, and a loop that knows of nothing else is half as long.
        for ((stream, number), opening) in self.streams.iter_mut().zip(numbers).zip(openings) {
            if stream.number != *number {
                break;
            }
            stream.used = self.frames;
            stream.enter_opening(opening.bytes);
            entered += 1;
        }
        self.next = entered;
        if entered < numbers.len() {
            self.enter_others(&numbers[entered..], &openings[entered..]);
        }
    }

    /// The same, from the first one on whose stream is not the one behind the last.
    #[inline(never)]
    fn enter_others(&mut self, numbers: &[u32], openings: &[Opening<'_>]) {
        for (number, opening) in numbers.iter().zip(openings) {
            self.enter(*number, std::iter::once(opening.bytes));
        }
    }

    /// Makes room for a stream that is not remembered.
    fn begin(&mut self, number: u32) -> usize {
        let stream = Stream { number, ..Stream::default() };
        let place = if self.streams.len() < STREAMS_MAX {
            self.streams.push(stream);
            self.streams.len() - 1
        } else {
            let place = self.forget_one();
            self.streams[place] = stream;
            place
        };
        self.by_number.insert(number, place);
        self.by_use.insert((self.frames, number));
        place
    }

    /// Forgets the stream unused for longest, of several the one with the lowest number, and says where it was. Entries
    /// that turn out to be too early are put right on the way, each once per use at most.
    fn forget_one(&mut self) -> usize {
        loop {
            let (used, number) = self.by_use.pop_first().expect("every stream has its entry");
            let place = self.by_number[&number];
            let later = self.streams[place].used;
            if later == used {
                self.by_number.remove(&number);
                return place;
            }
            self.by_use.insert((later, number));
        }
    }
}

/// Shows sizes only: messages may be secret.
impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: usize = self.streams.iter().map(|stream| stream.bytes().len()).sum();
        f.debug_struct("Streams").field("streams", &self.streams.len()).field("bytes", &bytes).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings_are_remembered_and_the_oldest_bytes_forgotten() {
        let mut streams = Streams::default();
        streams.enter(7, [&b"ab"[..], b"c"].into_iter());
        streams.enter(7, std::iter::empty::<&[u8]>());
        streams.enter(7, [[9; 700]].into_iter());
        let stream = streams.finder().find(7).unwrap();
        assert_eq!(stream.openings().collect::<Vec<_>>(), [(3, OPENING_BYTES), (0, 3)]);
        assert_eq!(&stream.bytes()[..4], b"abc\x09");
        for round in 0..100 {
            streams.enter(7, [[round; 250]].into_iter());
            let stream = streams.finder().find(7).unwrap();
            let (bytes, kept) = (stream.bytes().len(), stream.kept.capacity());
            assert!(
                bytes <= STREAM_BYTES && kept <= 2 * STREAM_BYTES && (round < 20 || bytes == STREAM_BYTES)
            );
            assert!(stream.bytes().ends_with(&[round; 250]));
        }
        let openings: Vec<_> = streams.finder().find(7).unwrap().openings().collect();
        assert_eq!(
            (openings.len(), openings[15]),
            (16, (96, 250)),
            "before it 96 bytes of an opening that is cut"
        );
    }

    /// Which of the earlier messages, the latest is 0, is found to be most like one.
    fn most_alike(earlier: &[&[u8]], message: &[u8]) -> Option<usize> {
        let mut stream = Stream::default();
        for earlier in earlier {
            stream.enter(std::iter::once(earlier));
        }
        let alike = stream.most_alike(message, &mut Work::default())?;
        stream.openings().position(|opening| opening == (alike.start, alike.len))
    }

    /// Forty bytes that begin with so many equal ones.
    fn equal(count: usize) -> [u8; 40] {
        std::array::from_fn(|at| if at < count { 1 } else { 2 })
    }

    #[test]
    fn the_latest_message_that_is_half_alike_is_taken() {
        let message = [1; 40];
        assert_eq!(most_alike(&[], &message), None);
        assert_eq!(most_alike(&[&equal(0)], &message), Some(0), "however little that is");
        assert_eq!(most_alike(&[&equal(40), &equal(16)], &message), Some(0), "it is not looked further");
        assert_eq!(most_alike(&[&equal(40), &equal(15)], &message), Some(1));
        // The first 32 bytes are looked at only.
        let behind = std::array::from_fn::<u8, 40, _>(|at| if at < 32 { 2 } else { 1 });
        assert_eq!(most_alike(&[&equal(8), &behind], &message), Some(0));
        assert_eq!(most_alike(&[&equal(9), &behind], &message), Some(1));
        // One that is not taken does not end the search.
        let longer = [&equal(25)[..], b"x"].concat();
        assert_eq!(most_alike(&[&equal(40), &equal(16), &longer], &message), Some(2));
    }

    #[test]
    fn an_older_message_has_to_be_clearly_more_alike() {
        let message = [1; 40];
        for (older, taken) in [(8, 0), (9, 1), (15, 1)] {
            assert_eq!(most_alike(&[&equal(older), &equal(0)], &message), Some(taken), "{older}");
        }
        // An equal length counts as sixteen bytes.
        for (older, later, taken) in
            [(16, 8, 0), (16, 7, 1), (32, 23, 1), (32, 24, 0), (8, 15, 0), (8, 16, 0)]
        {
            let earlier: [&[u8]; 2] = [&equal(older), &[&equal(later)[..], b"x"].concat()];
            let with_length = older + 16 > later + 8;
            assert_eq!(most_alike(&earlier, &message), Some(usize::from(with_length)), "{older} {later}");
            let earlier: [&[u8]; 2] =
                [&[&equal(older)[..], b"x"].concat(), &[&equal(later)[..], b"x"].concat()];
            assert_eq!(most_alike(&earlier, &message), Some(taken), "{older} {later}");
        }
    }

    #[test]
    fn the_latest_eight_messages_are_looked_at() {
        let (message, other) = ([1; 40], equal(0));
        let earlier = |between: usize| {
            let mut earlier: Vec<&[u8]> = vec![&message];
            earlier.extend(std::iter::repeat_n(&other[..], between));
            most_alike(&earlier, &message)
        };
        assert_eq!((earlier(7), earlier(8)), (Some(7), Some(0)));
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
        let remembered = |number| streams.finder().find(number).is_some();
        assert!(!remembered(1) && remembered(0) && remembered(5000));
    }
}
