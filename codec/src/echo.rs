//! What went the other way on the same connection: bytes that a peer sent need not be sent back to it.
//!
//! Both ends keep the data columns of that direction for a while: the one that sent them, [`Sent`], and the one that got
//! them, [`Received`]. A place in them is counted back from the end of what has arrived, which the receiver of those
//! bytes says from time to time. That end is one of a frame, and the checksum of that frame is under the checksum of the frame
//! that says so: whoever has counted otherwise finds out before a byte is taken.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use bytes::Bytes;

use crate::epochs::{Epochs, beginning};
use crate::wire::WINDOW_BYTES;

/// Shorter parts of what the receiver sent are sent back: a record for them takes up to nine bytes, and cuts the one around
/// it in two, for some more.
pub(crate) const ECHO_BYTES_MIN: usize = 16;
/// Bytes that have not, as far as is known. What would go beyond is not entered. It bounds what a peer that never says what
/// has arrived makes this end keep: four windows, for it says so four times in each.
const UNKNOWN_BYTES_MAX: usize = 4 << 20;
/// Frames with such bytes that have not: 128 KiB of ends. What is under way and a quarter that is not said yet fit where 30,000
/// are sent in a second over 200 ms.
const UNKNOWN_FRAMES_MAX: usize = 8 << 10;
/// Neighbours that have no more together are kept as one, so that memory is bounded by bytes and not by frames: at most two
/// chunks per KiB. Joining copies so many bytes per frame at most.
const JOINED_BYTES_MAX: usize = 1 << 10;
/// Shorter parts of what is sent are copied: each may be a slice of a buffer that is far longer, which nothing here can
/// know, and which would be kept with it. Of longer ones there are at most 64 per MiB.
pub(crate) const COPIED_BYTES_MAX: usize = 16 << 10;
/// What a chunk that was received takes besides its bytes: two entries, and the rest of a buffer that it holds.
const CHUNK_BYTES: usize = 256;
/// So much has to arrive before it is said: three bytes per 256 KiB, and three quarters of the window may be referred to by
/// whoever hears nothing else.
const SAY_AFTER_BYTES: usize = WINDOW_BYTES / 4;
/// The same in frames, which may be short: of each that is not known to have arrived the other end keeps 16 bytes.
const SAY_AFTER_FRAMES: usize = UNKNOWN_FRAMES_MAX / 4;

/// What this end sent.
pub(crate) struct Sent {
    /// Chunks with the place of their first byte.
    chunks: VecDeque<(u64, Bytes)>,
    /// The place of the next byte.
    end: u64,
    /// Bytes of all chunks.
    kept: usize,
    /// The latest of them, which may not have arrived yet.
    unknown: usize,
    /// Where the frames of these end, and their checksums.
    ends: VecDeque<(u64, u32)>,
    /// The checksum of the frame that ends where what has arrived does.
    known: u32,
}

impl Sent {
    /// Of a connection that begins. `beginning` is what the checksums of what this end sends go on from.
    fn new(beginning: u32) -> Self {
        Self { chunks: VecDeque::new(), end: 0, kept: 0, unknown: 0, ends: VecDeque::new(), known: beginning }
    }

    /// Whether a frame more, with so many bytes, can be kept until it has arrived.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        bytes == 0
            || self.ends.len() < UNKNOWN_FRAMES_MAX && self.unknown.saturating_add(bytes) <= UNKNOWN_BYTES_MAX
    }

    /// These bytes are sent next; [`ended`](Self::ended) follows.
    pub(crate) fn enter(&mut self, chunks: impl Iterator<Item = Bytes>) {
        for chunk in chunks.filter(|chunk| !chunk.is_empty()) {
            self.kept += chunk.len();
            self.unknown += chunk.len();
            let place = self.end;
            self.end += chunk.len() as u64;
            match self.chunks.back_mut() {
                Some((_, last)) if last.len() + chunk.len() <= JOINED_BYTES_MAX => {
                    *last = [&last[..], &chunk[..]].concat().into();
                }
                _ => self.chunks.push_back((place, chunk)),
            }
        }
    }

    /// The frame that the bytes entered last belong to has this checksum. One without bytes has no end of its own: nothing
    /// that may be referred to tells whether it has arrived.
    pub(crate) fn ended(&mut self, checksum: u32) {
        if self.ends.back().map_or(self.end - self.unknown as u64, |(end, _)| *end) < self.end {
            self.ends.push_back((self.end, checksum));
        }
    }

    /// The checksum of the frame with which so many bytes more have arrived, if one ends there.
    pub(crate) fn checksum_at(&self, arrived: usize) -> Option<u32> {
        if arrived == 0 {
            return Some(self.known);
        }
        let place = self.end - (self.unknown.checked_sub(arrived)?) as u64;
        let found = self.ends.binary_search_by_key(&place, |(end, _)| *end).ok()?;
        Some(self.ends[found].1)
    }

    /// So many bytes more have arrived, as [`checksum_at`](Self::checksum_at) has a checksum for.
    pub(crate) fn arrived(&mut self, bytes: usize) {
        let unknown = self.unknown.saturating_sub(bytes);
        self.unknown = unknown;
        let known_end = self.end - unknown as u64;
        while let Some((_, checksum)) = self.ends.pop_front_if(|(end, _)| *end <= known_end) {
            self.known = checksum;
        }
        let needed = WINDOW_BYTES + unknown;
        while let Some((_, oldest)) =
            self.chunks.front().filter(|(_, oldest)| self.kept - oldest.len() >= needed)
        {
            self.kept -= oldest.len();
            self.chunks.pop_front();
        }
    }

    /// Appends the `len` bytes that begin `distance` before the end of what has arrived, in parts, and says in how many;
    /// `None` if they are not kept. Finding the first part is a binary search. What the parts keep alive is counted.
    pub(crate) fn find(
        &self,
        distance: usize,
        len: usize,
        out: &mut Vec<Bytes>,
        alive: &mut Alive,
    ) -> Option<usize> {
        let known = self.kept - self.unknown;
        let skip = known.checked_sub(distance)?;
        let mut rest = Some(len).filter(|len| *len <= distance && distance <= WINDOW_BYTES)?;
        let (oldest, _) = self.chunks.front()?;
        let begin = oldest + skip as u64;
        let first = self.chunks.partition_point(|(place, _)| *place <= begin).checked_sub(1)?;
        let mut skip = usize::try_from(begin - self.chunks[first].0).ok()?;
        let before = out.len();
        for (place, chunk) in self.chunks.range(first..) {
            alive.count(*place, chunk);
            let taken = rest.min(chunk.len() - skip);
            out.push(chunk.slice(skip..skip + taken));
            (skip, rest) = (0, rest - taken);
            if rest == 0 {
                break;
            }
        }
        Some(out.len() - before)
    }

    /// All that may be referred to, in one piece: it ends where what has arrived does.
    pub(crate) fn window(&self) -> Bytes {
        let known = (self.kept - self.unknown).min(WINDOW_BYTES);
        let mut parts = Vec::new();
        self.find(known, known, &mut parts, &mut Alive::default());
        parts.concat().into()
    }

    /// Bytes of all chunks, which parts of them keep alive at most.
    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    /// Bytes that are not known to have arrived.
    pub(crate) fn unknown(&self) -> usize {
        self.unknown
    }
}

/// What parts of chunks keep alive: the chunks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Alive {
    pub(crate) bytes: usize,
    /// The place of the chunk that was counted last: mostly the next part is of it too, and if not it counts again. All that
    /// is [kept](Sent::kept) is the most.
    last: Option<u64>,
}

impl Alive {
    fn count(&mut self, place: u64, chunk: &Bytes) {
        if self.last.replace(place) != Some(place) {
            self.bytes = self.bytes.saturating_add(chunk.len());
        }
    }
}

/// What this end got. Where it lies in memory is how it is recognised: whoever passes on the very slices that a frame
/// gave out has them found without a byte being read.
pub(crate) struct Received {
    /// Chunks by address, with the place of their first byte.
    by_address: BTreeMap<usize, (u64, Bytes)>,
    order: VecDeque<usize>,
    /// Bytes of all chunks, and what they take besides.
    kept: usize,
    /// Bytes that have arrived so far.
    end: u64,
    /// As was said last.
    said: u64,
    /// Frames since then that have such bytes.
    frames: usize,
    /// The checksum of the last one that has.
    checksum: u32,
}

impl Received {
    /// Of a connection that begins. `beginning` is what the checksums of what this end gets go on from.
    pub(crate) fn new(beginning: u32) -> Self {
        Self {
            by_address: BTreeMap::new(),
            order: VecDeque::new(),
            kept: 0,
            end: 0,
            said: 0,
            frames: 0,
            checksum: beginning,
        }
    }

    /// These bytes arrived next, in a frame of so many bytes with this checksum.
    pub(crate) fn enter(&mut self, chunk: Bytes, frame_bytes: usize, checksum: u32) {
        if chunk.is_empty() {
            return;
        }
        let (bytes, place, address) = (chunk.len(), self.end, chunk.as_ptr().addr());
        self.end += bytes as u64;
        self.frames += 1;
        self.checksum = checksum;
        // Kept whole or not at all, and never longer than can be referred to. It keeps its frame alive, whose head must not
        // be what most of that is.
        let worth = bytes <= WINDOW_BYTES && frame_bytes <= 2 * bytes + CHUNK_BYTES;
        if worth && !self.by_address.contains_key(&address) {
            self.by_address.insert(address, (place, chunk));
            self.order.push_back(address);
            self.kept += bytes + CHUNK_BYTES;
        }
        while self.kept > WINDOW_BYTES
            && let Some(oldest) = self.order.pop_front()
        {
            self.kept -= self.by_address.remove(&oldest).map_or(0, |(_, chunk)| chunk.len() + CHUNK_BYTES);
        }
    }

    /// Nothing of what arrived is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Bytes that have arrived since this was said.
    pub(crate) fn news(&self) -> usize {
        usize::try_from(self.end - self.said).unwrap_or(usize::MAX)
    }

    /// The same, once it is time to say so.
    pub(crate) fn to_say(&self) -> Option<usize> {
        Some(self.news()).filter(|news| *news >= SAY_AFTER_BYTES || self.frames >= SAY_AFTER_FRAMES)
    }

    /// All of it was said.
    pub(crate) fn was_said(&mut self) {
        (self.said, self.frames) = (self.end, 0);
    }

    /// The checksum of the last frame of which bytes have arrived.
    pub(crate) fn checksum(&self) -> u32 {
        self.checksum
    }

    /// How far before the end of what has arrived these very bytes in memory lie.
    pub(crate) fn distance(&self, slice: &[u8]) -> Option<usize> {
        let address = slice.as_ptr().addr();
        let (begin, (place, chunk)) = self.by_address.range(..=address).next_back()?;
        let inside = address - begin;
        (inside + slice.len() <= chunk.len()).then_some(())?;
        let distance = usize::try_from(self.end - place).ok()? - inside;
        (distance <= WINDOW_BYTES).then_some(distance)
    }
}

/// What one end of a connection keeps of both directions, for its [`EchoEncoder`](crate::EchoEncoder) and its
/// [`EchoDecoder`](crate::EchoDecoder). [`Session`](crate::Session) has one of both; where only one
/// end is to refer to what the other one sent, that end has one of what it received, and the other end one of what it sent.
/// The limits are those of a [`Session`](crate::Session).
#[derive(Debug)]
pub struct EchoWindow {
    pub(crate) sent: Option<Sent>,
    pub(crate) received: Option<Received>,
}

impl EchoWindow {
    /// For an end that refers to what its peer sent, as its peer does.
    #[must_use]
    pub fn of_both(epochs: Epochs) -> Self {
        Self { sent: Self::of_sent(epochs).sent, received: Self::of_received(epochs).received }
    }

    /// For the end whose peer refers to what this end sends.
    #[must_use]
    pub fn of_sent(epochs: Epochs) -> Self {
        Self { sent: Some(Sent::new(beginning(epochs.outgoing))), received: None }
    }

    /// For the end that refers to what its peer sent.
    #[must_use]
    pub fn of_received(epochs: Epochs) -> Self {
        Self { sent: None, received: Some(Received::new(beginning(epochs.incoming))) }
    }

    /// This end refers to what its peer sent.
    #[must_use]
    pub fn refers(&self) -> bool {
        self.received.is_some()
    }

    /// As [`Session::ack_due`](crate::Session::ack_due).
    #[must_use]
    pub fn ack_due(&self) -> bool {
        self.received.as_ref().is_some_and(|received| received.to_say().is_some())
    }
}

/// Shows sizes only: messages may be secret.
impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chunks, kept, unknown, .. } = self;
        let chunks = chunks.len();
        f.debug_struct("Sent").field("chunks", &chunks).field("kept", kept).field("unknown", unknown).finish()
    }
}

/// Shows sizes only: messages may be secret.
impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received").field("chunks", &self.order.len()).field("kept", &self.kept).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes in parts, if they are kept.
    fn find(sent: &Sent, distance: usize, len: usize) -> Option<Vec<Bytes>> {
        let mut parts = Vec::new();
        let count = sent.find(distance, len, &mut parts, &mut Alive::default())?;
        assert_eq!(count, parts.len());
        Some(parts)
    }

    #[test]
    fn small_frames_do_not_pile_up() {
        let (mut sent, mut received) = (Sent::new(7), Received::new(7));
        for byte in 0..2 * WINDOW_BYTES {
            let chunk = Bytes::from(vec![byte.to_le_bytes()[1]]);
            if !sent.has_room(1) {
                assert_eq!((sent.ends.len(), sent.ends.capacity()), (UNKNOWN_FRAMES_MAX, UNKNOWN_FRAMES_MAX));
                sent.arrived(UNKNOWN_FRAMES_MAX);
            }
            sent.enter(std::iter::once(chunk.clone()));
            sent.ended(1);
            let bytes = chunk.len();
            received.enter(chunk, bytes, 1);
        }
        sent.arrived(sent.unknown);
        assert!(sent.checksum_at(0) == Some(1) && sent.checksum_at(1).is_none() && sent.ends.is_empty());
        assert!(sent.kept < WINDOW_BYTES + JOINED_BYTES_MAX);
        assert!(sent.chunks.len() <= 2 * WINDOW_BYTES / JOINED_BYTES_MAX, "{}", sent.chunks.len());
        assert!(received.by_address.len() <= WINDOW_BYTES / CHUNK_BYTES, "{}", received.by_address.len());
        assert_eq!(received.by_address.len(), received.order.len());
        assert_eq!(received.news(), 2 * WINDOW_BYTES);
        for (distance, len) in [(WINDOW_BYTES, 3000), (WINDOW_BYTES, 1), (5000, 5000), (1, 1)] {
            let found = find(&sent, distance, len).unwrap().concat();
            let from = 2 * WINDOW_BYTES - distance;
            assert!(found == (from..from + len).map(|byte| byte.to_le_bytes()[1]).collect::<Vec<u8>>());
        }
        assert_eq!(find(&sent, WINDOW_BYTES + 1, 1), None);
        assert_eq!(find(&sent, 5, 6), None);
    }

    #[test]
    fn a_column_that_keeps_a_much_longer_frame_alive_is_not_kept() {
        let mut received = Received::new(7);
        let frame = Bytes::from(vec![1; 100_000]);
        for (column, kept) in [(..60_000, true), (..10_000, false)] {
            let column = frame.slice(column);
            received = Received { end: received.end, ..Received::new(7) };
            received.enter(column.clone(), frame.len(), 1);
            assert_eq!(received.distance(&column).is_some(), kept);
        }
        assert_eq!(received.news(), 70_000, "it counts all the same");
    }

    #[test]
    fn what_lies_inside_one_chunk_is_recognised() {
        let mut received = Received::new(7);
        // Two chunks of one buffer, with a hole between them, and one elsewhere.
        let buffer = Bytes::from(vec![7; 3000]);
        let elsewhere = Bytes::from(vec![7; 500]);
        for chunk in [buffer.slice(..1000), elsewhere.clone(), buffer.slice(1500..)] {
            let bytes = chunk.len();
            received.enter(chunk, bytes, 1);
        }
        for (from, to, distance) in [
            (0, 1000, Some(3000)),
            (1, 20, Some(2999)),
            (980, 1000, Some(2020)),
            (980, 1001, None),
            (1100, 1200, None),
            (1499, 1600, None),
            (1500, 3000, Some(1500)),
            (2999, 3000, Some(1)),
        ] {
            assert_eq!(received.distance(&buffer[from..to]), distance, "{from}..{to}");
        }
        assert_eq!(received.distance(&elsewhere), Some(2000));
        assert_eq!(received.distance(&[7; 500]), None, "the same bytes elsewhere");
    }

    #[test]
    fn both_ends_count_the_same_distance() {
        let (mut sent, mut received) = (Sent::new(7), Received::new(7));
        let chunks: Vec<Bytes> =
            (0..9).map(|kind| Bytes::from(vec![kind; 700 + usize::from(kind)])).collect();
        assert_eq!(sent.checksum_at(0), Some(received.checksum()), "what both begin with");
        for (chunk, checksum) in chunks.iter().zip(100..) {
            sent.enter(std::iter::once(chunk.clone()));
            sent.ended(checksum);
            // A frame without such bytes ends where nobody counts.
            sent.ended(checksum + 50);
        }
        // The last two have not arrived yet.
        for (chunk, checksum) in chunks[..7].iter().zip(100..) {
            received.enter(chunk.clone(), chunk.len(), checksum);
            received.enter(Bytes::new(), 20, checksum + 50);
        }
        assert_eq!(find(&sent, 1, 1), None, "nothing has arrived as far as is known");
        let news = received.news();
        assert_eq!((sent.checksum_at(news), received.checksum()), (Some(106), 106));
        for between in [news - 1, news + 1, 1, sent.unknown + 1, usize::MAX] {
            assert_eq!(sent.checksum_at(between), None, "{between}: no frame ends there");
        }
        sent.arrived(news);
        assert_eq!(
            (sent.checksum_at(0), sent.checksum_at(707), sent.checksum_at(707 + 708)),
            (Some(106), Some(107), Some(108))
        );
        for chunk in &chunks[..7] {
            let distance = received.distance(chunk).unwrap();
            assert_eq!(find(&sent, distance, chunk.len()).unwrap().concat(), chunk[..]);
        }
        let over = received.distance(&chunks[5][600..]).unwrap();
        let parts = find(&sent, over, 205).unwrap();
        assert_eq!(parts.concat(), [&chunks[5][600..], &chunks[6][..100]].concat());
    }

    #[test]
    fn it_is_said_what_has_arrived_after_a_quarter_of_the_window_or_of_the_frames() {
        let mut received = Received::new(7);
        received.enter(Bytes::from(vec![1; SAY_AFTER_BYTES - 1]), SAY_AFTER_BYTES, 1);
        assert_eq!((received.news(), received.to_say()), (SAY_AFTER_BYTES - 1, None));
        received.enter(Bytes::from(vec![1; 3]), 3, 1);
        assert_eq!(received.to_say(), Some(SAY_AFTER_BYTES + 2));
        received.was_said();
        assert_eq!((received.news(), received.to_say()), (0, None));
        for frames in 1..SAY_AFTER_FRAMES {
            received.enter(Bytes::from_static(b"x"), 20, 1);
            assert_eq!((received.news(), received.to_say()), (frames, None));
        }
        received.enter(Bytes::from_static(b"x"), 20, 1);
        assert_eq!(received.to_say(), Some(SAY_AFTER_FRAMES));
        received.was_said();
        assert_eq!(received.to_say(), None);
    }

    #[test]
    fn no_more_is_kept_than_may_be_unknown() {
        let mut sent = Sent::new(7);
        let chunk = Bytes::from(vec![1; WINDOW_BYTES]);
        for _ in 0..4 {
            assert!(sent.has_room(WINDOW_BYTES));
            sent.enter(std::iter::once(chunk.clone()));
            sent.ended(1);
        }
        assert!(sent.has_room(0) && !sent.has_room(1) && !sent.has_room(usize::MAX));
        // Two have arrived: the first can no longer be referred to, the second is the window.
        sent.arrived(2 * WINDOW_BYTES);
        assert!(sent.has_room(2 * WINDOW_BYTES));
        assert_eq!((sent.kept, sent.chunks.len()), (3 * WINDOW_BYTES, 3));
        assert!(
            find(&sent, WINDOW_BYTES, WINDOW_BYTES).is_some() && find(&sent, WINDOW_BYTES + 1, 1).is_none()
        );
    }

    #[test]
    fn what_was_received_longest_ago_is_forgotten_first() {
        let mut received = Received::new(7);
        let chunks: Vec<Bytes> = (0..5).map(|_| Bytes::from(vec![1; WINDOW_BYTES / 4])).collect();
        for chunk in &chunks {
            received.enter(chunk.clone(), chunk.len(), 1);
        }
        // What a chunk takes besides its bytes counts, so the fourth but last goes as well.
        let known: Vec<bool> = chunks.iter().map(|chunk| received.distance(chunk).is_some()).collect();
        assert_eq!(known, [false, false, true, true, true]);
        let long = Bytes::from(vec![1; WINDOW_BYTES + 1]);
        received.enter(long.clone(), long.len(), 1);
        assert_eq!(received.distance(&long[..20]), None, "longer than can be referred to");
        assert_eq!(received.distance(&chunks[4]), None, "too far back now");
        assert_eq!(received.news(), 5 * (WINDOW_BYTES / 4) + WINDOW_BYTES + 1);
    }
}
