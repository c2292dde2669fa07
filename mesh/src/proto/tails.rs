//! The ends of messages that came over a connection: what is to be sent is held against them, and where it ends as one of
//! them does, that one's bytes take its place. What is in front may be as different as it likes.
//!
//! They lie in the order of their bytes, read from the end. The one that has most in common with anything stands beside where
//! that would stand, however many end alike: values that are filled up with zeros, or end as their template does, are told
//! apart by what is in front of that.

use std::cmp::{Ordering, Reverse};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use trunkline_codec::{Frame, Payload};

use super::run::split_run;
use super::wire::Run;

/// Shorter ends of messages are sent again: naming them costs a record, and looking for them more than they are worth.
pub const TAIL_BYTES_MIN: usize = 256;

/// What the frames that the tails are slices of have together, and what is kept of each tail: as much as the codec can refer to.
/// And what the tails of one frame have together, though they may lie over each other: each is compared with some others, which
/// takes as long as it is if they end alike.
const TAILS_BYTES_MAX: usize = 1 << 20;

/// What the tails of one frame have together for each of its own bytes. Of what is compressed or shared to less than that, sending
/// it again costs next to nothing, and looking at it would cost the receiver much more than it cost the sender.
const TAILS_BYTES_PER_BYTE: usize = 64;

/// Messages of one frame that are cut out of their runs, as many as the largest run has, and not more than the frame has bytes: each
/// costs as much as some hundred bytes, even where it has none. So do four pieces.
const MESSAGES_MAX: usize = 16_384;
const PIECES_PER_MESSAGE: usize = 4;

/// A message comes in pieces where it shared something with others of its frame. Of more than these the last ones are a tail.
const PIECES_MAX: usize = 16;

/// What is kept of a tail besides its bytes and pieces: its place in the map, whose nodes are half full, and in the row of frames.
const PLACE_BYTES: usize = 160;

/// The end of a message, ordered by its bytes from the last one on.
#[derive(Clone, Debug)]
struct Tail {
    /// The last eight, the last one first: few have to be looked at any further.
    last: u64,
    pieces: Arc<[Bytes]>,
}

/// The ends of messages that came.
#[derive(Debug, Default)]
pub struct Tails {
    /// With the number of the frame that they came in, the newest of those that had these bytes.
    frame_of: BTreeMap<Tail, u64>,
    /// What each frame has, and which tails came in it, the oldest first.
    frames: VecDeque<(usize, Box<[Tail]>)>,
    /// The number of the oldest frame.
    oldest: u64,
    bytes: usize,
    /// Messages that were cut out of runs so far: what entering costs.
    cut: usize,
}

impl Tails {
    /// So many are there.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frame_of.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frame_of.is_empty()
    }

    /// The messages of a frame came, which was so long.
    pub fn enter(&mut self, frame: &Frame, frame_bytes: usize, runs: &[Run]) {
        let bytes = frame.buffer_bytes().max(frame_bytes);
        if bytes > TAILS_BYTES_MAX {
            return;
        }
        let number = self.oldest + self.frames.len() as u64;
        // A run that is none is refused by whom it is for.
        let has_tails = |(index, run): &(usize, &Run)| {
            frame.message_len(*index) >= TAIL_BYTES_MIN && run.count > 0 && run.is_sound()
        };
        let mut promising: Vec<(usize, &Run)> = runs.iter().enumerate().filter(has_tails).collect();
        // Those with the longest messages first, for not all may be cut.
        promising.sort_by_key(|(index, run)| Reverse(frame.message_len(*index) / run.count as usize));
        // What several runs share is noted once.
        let (mut known_runs, mut known) = (BTreeSet::new(), BTreeSet::new());
        let mut unseen = TAILS_BYTES_MAX.min(frame_bytes.saturating_mul(TAILS_BYTES_PER_BYTE));
        let mut uncut = MESSAGES_MAX.min(frame_bytes);
        let mut tails = Vec::new();
        for (index, run) in promising {
            let Some(left) = uncut.checked_sub(frame.message(index).len() / PIECES_PER_MESSAGE) else {
                continue;
            };
            uncut = left;
            if !known_runs.insert((places(frame.slices(index)), run.count)) {
                continue;
            }
            let Some(left) = uncut.checked_sub(run.count as usize) else { continue };
            uncut = left;
            self.cut += run.count as usize;
            for message in split_run(frame.message(index), run.count).unwrap_or_default() {
                let pieces = message.payload.segments();
                let pieces = &pieces[pieces.len().saturating_sub(PIECES_MAX)..];
                let tail_bytes = bytes_of(pieces);
                if tail_bytes < TAIL_BYTES_MIN || !known.insert(places(pieces.iter().map(Bytes::as_ref))) {
                    continue;
                }
                let Some(left) = unseen.checked_sub(tail_bytes) else { continue };
                unseen = left;
                let tail = Tail::of(pieces);
                match self.frame_of.entry(tail.clone()) {
                    Entry::Vacant(free) => drop(free.insert(number)),
                    Entry::Occupied(same) if *same.get() == number => continue,
                    Entry::Occupied(older) => {
                        // It has equal bytes elsewhere: its frame is not to be kept for that.
                        older.remove();
                        self.frame_of.insert(tail.clone(), number);
                    }
                }
                tails.push(tail);
            }
        }
        if tails.is_empty() {
            return;
        }
        let kept = |tail: &Tail| PLACE_BYTES + size_of_val(&*tail.pieces);
        let bytes = bytes + tails.iter().map(kept).sum::<usize>();
        self.bytes += bytes;
        self.frames.push_back((bytes, tails.into()));
        self.forget_oldest();
    }

    fn forget_oldest(&mut self) {
        while self.bytes > TAILS_BYTES_MAX
            && let Some((bytes, tails)) = self.frames.pop_front()
        {
            self.bytes -= bytes;
            for tail in &tails {
                // The same bytes may have come again since.
                if self.frame_of.get(tail) == Some(&self.oldest) {
                    self.frame_of.remove(tail);
                }
            }
            self.oldest += 1;
        }
    }

    /// The same payloads, with what came in place of what equals it; `None` where nothing does.
    #[must_use]
    pub fn find_all(&self, payloads: &[Payload]) -> Option<Vec<Payload>> {
        if self.is_empty() {
            return None;
        }
        // What several messages share is looked for once.
        let mut known: BTreeMap<(usize, usize), Vec<Bytes>> = BTreeMap::new();
        for segment in payloads.iter().flat_map(Payload::segments) {
            if segment.len() >= TAIL_BYTES_MIN {
                known.entry(place(segment)).or_insert_with(|| self.find(segment));
            }
        }
        known.values().any(|tail| !tail.is_empty()).then(|| {
            let cut = |segment: &Bytes| {
                let tail = known.get(&place(segment)).map_or(&[][..], Vec::as_slice);
                let rest = segment.slice(..segment.len() - bytes_of(tail));
                [rest].into_iter().chain(tail.iter().cloned())
            };
            let whole = |payload: &Payload| {
                payload.segments().iter().flat_map(cut).filter(|part| !part.is_empty()).collect()
            };
            payloads.iter().map(whole).collect()
        })
    }

    /// What came and ends as this does, as far as it does, in its pieces: of all that came, the one that does so for longest.
    /// Nothing where none does.
    fn find(&self, segment: &Bytes) -> Vec<Bytes> {
        let sought = Tail::of(std::slice::from_ref(segment));
        // What ends it stands before, and what it ends itself behind.
        let before = self.frame_of.range(..=&sought).next_back();
        let behind = self.frame_of.range(&sought..).next();
        let common =
            |(tail, frame): (&'_ Tail, &u64)| (sought.common(tail), *frame, Arc::clone(&tail.pieces));
        let alike = before.into_iter().chain(behind).map(common);
        let longest = alike.max_by_key(|(common, frame, _)| (*common, *frame));
        match longest.filter(|(common, ..)| *common >= TAIL_BYTES_MIN) {
            Some((common, _, pieces)) => end_of(&pieces, common),
            None => Vec::new(),
        }
    }
}

impl Tail {
    fn of(pieces: &[Bytes]) -> Self {
        let mut last = [0; 8];
        let bytes = pieces.iter().rev().flat_map(|piece| piece.iter().rev());
        last.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
        Self { last: u64::from_be_bytes(last), pieces: pieces.into() }
    }

    /// How many bytes are equal at the ends of both.
    fn common(&self, other: &Self) -> usize {
        let (mut pieces, mut others) = (self.pieces.iter().rev(), other.pieces.iter().rev());
        let (mut one, mut two): (&[u8], &[u8]) = (&[], &[]);
        let mut common = 0;
        loop {
            // Pieces have different lengths on both sides.
            while one.is_empty() {
                let Some(piece) = pieces.next() else { return common };
                one = piece;
            }
            while two.is_empty() {
                let Some(piece) = others.next() else { return common };
                two = piece;
            }
            let equal = common_suffix(one, two);
            common += equal;
            if equal < one.len().min(two.len()) {
                return common;
            }
            (one, two) = (&one[..one.len() - equal], &two[..two.len() - equal]);
        }
    }

    /// The byte in front of so many at the end, if there is one.
    fn byte_before(&self, mut at: usize) -> Option<u8> {
        for piece in self.pieces.iter().rev() {
            match piece.len().checked_sub(at + 1) {
                Some(index) => return Some(piece[index]),
                None => at -= piece.len(),
            }
        }
        None
    }
}

impl Ord for Tail {
    fn cmp(&self, other: &Self) -> Ordering {
        self.last.cmp(&other.last).then_with(|| {
            let common = self.common(other);
            self.byte_before(common).cmp(&other.byte_before(common))
        })
    }
}

impl PartialOrd for Tail {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Tail {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Tail {}

/// Tells pieces from others by where they lie. If it once does not, something is sent again.
fn places<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> u64 {
    let mut hasher = DefaultHasher::new();
    pieces.for_each(|piece| (piece.as_ptr().addr(), piece.len()).hash(&mut hasher));
    hasher.finish()
}

/// Where bytes lie.
fn place(bytes: &Bytes) -> (usize, usize) {
    (bytes.as_ptr().addr(), bytes.len())
}

fn bytes_of(pieces: &[Bytes]) -> usize {
    pieces.iter().map(Bytes::len).sum()
}

/// So many bytes at the end of what some pieces are together.
fn end_of(pieces: &[Bytes], bytes: usize) -> Vec<Bytes> {
    let mut left = bytes;
    let mut taken = Vec::new();
    for piece in pieces.iter().rev() {
        let some = left.min(piece.len());
        if some == 0 {
            continue;
        }
        taken.push(piece.slice(piece.len() - some..));
        left -= some;
    }
    taken.reverse();
    taken
}

/// How many bytes are equal at the ends of both.
fn common_suffix(one: &[u8], other: &[u8]) -> usize {
    const STEP: usize = 64;
    let (mut parts, mut others) = (one.rchunks_exact(STEP), other.rchunks_exact(STEP));
    let mut common = 0;
    while let (Some(part), Some(of_other)) = (parts.next(), others.next())
        && part == of_other
    {
        common += STEP;
    }
    let rest = one[..one.len() - common].iter().rev().zip(other[..other.len() - common].iter().rev());
    common + rest.take_while(|(byte, of_other)| byte == of_other).count()
}

#[cfg(test)]
mod tests {
    use super::super::run::message_head;
    use super::*;
    use crate::id::Seq;

    const RUN: Run = Run { flow: 0, first: Seq(1), count: 1, floor_back: 0, deadline_ms: 1 };

    fn random(seed: u64, len: usize) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(seed);
        std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
    }

    fn run_of(message: &Bytes) -> Payload {
        [message_head(0, message.len()), message.clone()].into_iter().collect()
    }

    /// A frame of runs of one message each, which came.
    fn enter(tails: &mut Tails, runs: &[Payload]) {
        let mut encoder = trunkline_codec::Encoder::new(trunkline_codec::Options::default());
        let bytes = encoder.encode(runs).unwrap().to_bytes();
        enter_frame(tails, &bytes, runs.len());
    }

    fn enter_frame(tails: &mut Tails, bytes: &Bytes, runs: usize) {
        let frame = Frame::parse(bytes.clone(), &trunkline_codec::Limits::default()).unwrap();
        tails.enter(&frame, bytes.len(), &vec![RUN; runs]);
        let charged: usize = tails.frames.iter().map(|(bytes, _)| bytes).sum();
        let kept: Vec<&Tail> = tails.frames.iter().flat_map(|(_, tails)| tails).collect();
        assert!(charged == tails.bytes && charged <= TAILS_BYTES_MAX && kept.len() * PLACE_BYTES <= charged);
        // Nothing else is kept alive.
        let kept: BTreeSet<usize> = kept.iter().map(|tail| tail.pieces.as_ptr().addr()).collect();
        assert!(tails.frame_of.keys().all(|tail| kept.contains(&tail.pieces.as_ptr().addr())));
    }

    fn found(tails: &Tails, segment: &[u8]) -> Vec<u8> {
        tails.find(&Bytes::copy_from_slice(segment)).concat()
    }

    #[test]
    fn equal_ends_are_counted_byte_by_byte() {
        let text = random(1, 400);
        for (from, changed) in
            [(0, None), (1, None), (0, Some(399)), (0, Some(17)), (130, Some(200)), (0, Some(0))]
        {
            let mut other = text[from..].to_vec();
            if let Some(at) = changed {
                other[at - from] ^= 1;
            }
            let expected = changed.map_or(other.len(), |at| 399 - at);
            assert_eq!(common_suffix(&text, &other), expected, "{from} {changed:?}");
            assert_eq!(common_suffix(&other, &text), expected, "{from} {changed:?}");
        }
        assert_eq!(common_suffix(&text, &[]), 0);
    }

    #[test]
    fn what_ends_as_a_message_that_came_takes_its_bytes_however_it_begins() {
        let mut tails = Tails::default();
        let came = Bytes::from(random(2, 5000));
        tails.frame_of.insert(Tail::of(std::slice::from_ref(&came)), 0);
        let stamped = Bytes::from([&random(3, 40)[..], &came[32..]].concat());
        let other = Bytes::from(random(4, 5000));
        let payload = |to: u8| -> Payload {
            [Bytes::from(vec![to]), stamped.clone(), other.clone(), came.slice(4990..)].into_iter().collect()
        };
        let payloads = [payload(1), payload(2)];
        let found = tails.find_all(&payloads).unwrap();
        for (found, payload) in found.iter().zip(&payloads) {
            assert_eq!(found.to_vec(), payload.to_vec());
            let tail = &found.segments()[2];
            assert_eq!((tail.as_ptr(), tail.len()), (came[32..].as_ptr(), came.len() - 32));
        }
        assert!(tails.find_all(&[Payload::from(other)]).is_none());
        // An end that is equal for less than is worth naming.
        let mut short = came.to_vec();
        let at = short.len() - TAIL_BYTES_MIN + 20;
        short[at] ^= 1;
        assert!(tails.find_all(&[Payload::from(short)]).is_none());
    }

    /// Against a look at all of them: values that end alike, in zeros or as others do, for very different lengths.
    #[test]
    fn of_all_that_end_alike_the_one_that_does_for_longest_is_found() {
        let mut rng = fastrand::Rng::with_seed(5);
        let mut told_apart = 0;
        for _ in 0..50 {
            let mut tails = Tails::default();
            let template = random(6, 600);
            let mut came: Vec<Bytes> = Vec::new();
            for _ in 0..100 {
                let from = came.get(rng.usize(0..came.len().max(1)));
                let text = match rng.u8(0..4) {
                    0 => [random(rng.u64(..), 300), vec![0; 900]].concat(),
                    1 => [random(rng.u64(..), rng.usize(0..300)), template.clone()].concat(),
                    // Another one's end, and then something else, which may be nothing.
                    2 => from.map_or(template.clone(), |one| {
                        let end = &one[rng.usize(0..one.len())..];
                        [&random(rng.u64(..), rng.usize(0..4))[..], end].concat()
                    }),
                    _ => random(rng.u64(..), 300),
                };
                came.push(text.into());
            }
            enter(&mut tails, &came.iter().map(run_of).collect::<Vec<_>>());
            came.retain(|one| one.len() >= TAIL_BYTES_MIN);
            for one in &came {
                let mut sought = one[rng.usize(0..one.len())..].to_vec();
                sought.splice(..0, random(rng.u64(..), rng.usize(0..9)));
                let longest = came.iter().map(|other| common_suffix(&sought, other)).max().unwrap();
                let alike =
                    came.iter().filter(|other| common_suffix(&sought, other) >= TAIL_BYTES_MIN).count();
                told_apart += usize::from(longest >= TAIL_BYTES_MIN && alike > 10);
                let expected = if longest < TAIL_BYTES_MIN { 0 } else { longest };
                assert_eq!(found(&tails, &sought), &sought[sought.len() - expected..]);
            }
        }
        assert!(told_apart > 1000, "{told_apart}");
    }

    #[test]
    fn what_came_again_is_that_of_the_newer_frame() {
        let mut tails = Tails::default();
        let message = Bytes::from(random(1, 60 << 10));
        for seed in 2..40 {
            enter(&mut tails, &[run_of(&message)]);
            let newest = &tails.frames.back().unwrap().1[0].pieces;
            assert_eq!(tails.find(&message).first().map(place), newest.first().map(place));
            assert_eq!(
                tails.frame_of.get(&Tail::of(std::slice::from_ref(&message))),
                Some(&(tails.oldest + tails.frames.len() as u64 - 1))
            );
            enter(&mut tails, &[run_of(&random(seed, 60 << 10).into())]);
        }
        assert_eq!(tails.len(), tails.frames.len().div_ceil(2) + 1);
    }

    #[test]
    fn no_more_is_kept_than_can_be_referred_to() {
        let mut tails = Tails::default();
        for seed in 0..60 {
            enter(&mut tails, &[run_of(&random(seed, 64 << 10).into())]);
            assert_eq!(tails.len(), tails.frames.len());
        }
        assert_eq!(tails.frames.len(), 15);
        // A peer that has one message for many, in many short frames.
        let mut encoder = trunkline_codec::Encoder::new(trunkline_codec::Options::default());
        let message = run_of(&random(7, TAIL_BYTES_MIN).into());
        let frame = encoder.encode(&vec![message; 1024]).unwrap().to_bytes();
        (0..10_000).for_each(|_| enter_frame(&mut tails, &frame, 1024));
        assert_eq!(tails.len(), 1);
        for seed in 50..60 {
            enter(&mut tails, &[run_of(&random(seed, 64 << 10).into())]);
        }
        assert_eq!(found(&tails, &random(59, 64 << 10)).len(), 64 << 10);
        assert!(found(&tails, &random(3, 64 << 10)).is_empty());
    }

    /// A run says how many messages it has before anything is known to be true, and may be most of a frame's other runs too.
    #[test]
    fn a_short_frame_does_not_make_the_receiver_look_at_much() {
        let mut encoder = trunkline_codec::Encoder::new(trunkline_codec::Options {
            stage: trunkline_codec::Stage::Lz4,
            ..trunkline_codec::Options::default()
        });
        // Messages of no bytes, for many: a million heads, which are all zeros.
        let zeros = Bytes::from(vec![0; 1 << 19]);
        let shared = vec![Payload::from(zeros.clone()); 250];
        let own: Vec<Payload> = (0..250_u32)
            .map(|to| [Bytes::from(to.to_le_bytes().to_vec()), zeros.clone()].into_iter().collect())
            .collect();
        for payloads in [shared, own] {
            let bytes = encoder.encode(&payloads).unwrap().to_bytes();
            assert!(bytes.len() < 8 << 10, "{}", bytes.len());
            let frame = Frame::parse(bytes.clone(), &trunkline_codec::Limits::default()).unwrap();
            for count in [9, MESSAGES_MAX, MESSAGES_MAX + 1, usize::MAX] {
                let mut tails = Tails::default();
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                tails.enter(&frame, bytes.len(), &vec![Run { count, ..RUN }; 250]);
                let cut_at_most = if count as usize > MESSAGES_MAX { 0 } else { bytes.len() };
                assert!(tails.cut <= cut_at_most, "{count}: {}", tails.cut);
            }
        }
        // Tails that end alike, of a frame that is next to nothing.
        let runs: Vec<Payload> = (0..1000).map(|short| run_of(&zeros.slice(short..short + 1024))).collect();
        let bytes = encoder.encode(&runs).unwrap().to_bytes();
        let mut tails = Tails::default();
        enter_frame(&mut tails, &bytes, 1000);
        let all: usize = tails.frame_of.keys().map(|tail| bytes_of(&tail.pieces)).sum();
        assert!(all <= bytes.len() * TAILS_BYTES_PER_BYTE, "{all} of {}", bytes.len());
    }

    /// Runs whose first bytes are shared, and their last ones, and which are as long as each other.
    #[test]
    fn messages_that_begin_and_end_alike_are_all_noted() {
        let (head, end) = (random(1, 24), random(2, 24));
        let message = |seed| Bytes::from([&head[..], &random(seed, 600), &end].concat());
        let messages: Vec<Bytes> = (10..26).map(message).collect();
        let runs: Vec<Payload> = messages
            .chunks(2)
            .map(|two| {
                two.iter().flat_map(|one| [message_head(0, one.len()), one.clone()]).collect::<Payload>()
            })
            .collect();
        let mut encoder = trunkline_codec::Encoder::new(trunkline_codec::Options::default());
        let bytes = encoder.encode(&runs).unwrap().to_bytes();
        let frame = Frame::parse(bytes.clone(), &trunkline_codec::Limits::default()).unwrap();
        let mut tails = Tails::default();
        tails.enter(&frame, bytes.len(), &vec![Run { count: 2, ..RUN }; runs.len()]);
        assert_eq!(tails.len(), messages.len());
        assert!(messages.iter().all(|message| found(&tails, message).len() == message.len()));
    }

    #[test]
    fn many_short_messages_do_not_keep_long_ones_from_being_noted() {
        let run = |seed, count, len| -> Payload {
            let text = Bytes::from(random(seed, count * len));
            (0..count).flat_map(|at| [message_head(0, len), text.slice(at * len..(at + 1) * len)]).collect()
        };
        let (short, long) = (run(1, 15_900, 20), run(2, 600, 600));
        let mut encoder = trunkline_codec::Encoder::new(trunkline_codec::Options::default());
        let bytes = encoder.encode(&[short, long]).unwrap().to_bytes();
        let frame = Frame::parse(bytes.clone(), &trunkline_codec::Limits::default()).unwrap();
        let mut tails = Tails::default();
        tails.enter(&frame, bytes.len(), &[Run { count: 15_900, ..RUN }, Run { count: 600, ..RUN }]);
        assert_eq!(tails.len(), 600);
    }

    /// Each of them would be compared with others for all of its length.
    #[test]
    fn tails_that_overlap_are_not_all_looked_at() {
        let mut tails = Tails::default();
        let zeros = Bytes::from(vec![0; 100 << 10]);
        let runs: Vec<Payload> = (0..50).map(|short| run_of(&zeros.slice(short..))).collect();
        enter(&mut tails, &runs);
        let all: usize = tails.frame_of.keys().map(|tail| bytes_of(&tail.pieces)).sum();
        assert!((TAILS_BYTES_MAX / 2..=TAILS_BYTES_MAX).contains(&all), "{all}");
    }
}
