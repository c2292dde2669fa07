//! What a member keeps of one (origin, lane): the next seq and the messages that wait for a gap.

use std::collections::BTreeMap;

use super::links::{ConnId, LinkId};
use super::run::RunMessage;
use super::wire::AckFlow;
use crate::id::{Incarnation, Lane, Seq};

/// Seqs above the next one that a member looks at: the bitmap of an ack stays below 2 KiB, and a sender keeps to it.
pub const WINDOW_SEQS: u64 = 16_384;

/// Bytes charged for a message beyond its payload: what it costs to keep it in a queue.
pub const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// Where the latest word of this flow came from, and so where acks go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Upstream {
    /// Its link.
    pub link: LinkId,
    /// Its connection, hence its roster.
    pub conn: ConnId,
    /// Row of that roster.
    pub row: u32,
}

/// One (origin, lane) at a member.
#[derive(Debug)]
pub struct Window {
    /// The life of the origin that this window belongs to.
    pub origin_incarnation: Incarnation,
    /// Where acks go.
    pub upstream: Upstream,
    next: u64,
    floor: u64,
    held: BTreeMap<u64, RunMessage>,
    held_bytes: usize,
}

/// What became of a message at the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admitted {
    /// It is kept until it is its turn.
    Held,
    /// It was decided, or is held, already.
    Duplicate,
    /// There is no room to hold it.
    Full,
}

impl Window {
    /// A window that begins at the floor of the first attempt seen.
    #[must_use]
    pub fn new(origin_incarnation: Incarnation, floor: Seq, upstream: Upstream) -> Self {
        Self {
            origin_incarnation,
            upstream,
            next: floor.0,
            floor: floor.0,
            held: BTreeMap::new(),
            held_bytes: 0,
        }
    }

    /// The sender has nothing alive below `floor`.
    pub fn raise_floor(&mut self, floor: Seq) {
        self.floor = self.floor.max(floor.0);
    }

    /// Takes a message in, if it is new and there is room. The next one in turn is always held: whoever calls hands it
    /// over at once, or the reorder buffer stays within one message of its limit.
    pub fn admit(&mut self, seq: Seq, message: RunMessage, bytes_max: usize) -> Admitted {
        if seq.0 < self.next.max(self.floor) || self.held.contains_key(&seq.0) {
            return Admitted::Duplicate;
        }
        let charge = charge(&message);
        let within = seq.0 - self.next < WINDOW_SEQS && self.held_bytes.saturating_add(charge) <= bytes_max;
        if !(within || seq.0 == self.next) {
            return Admitted::Full;
        }
        self.held_bytes += charge;
        self.held.insert(seq.0, message);
        Admitted::Held
    }

    /// The message whose turn it is, once everything below is decided. Skips what the sender gave up.
    pub fn pop(&mut self, skipped: &mut u64) -> Option<(Seq, RunMessage)> {
        let (&first, _) = self.head_after_skipping(skipped)?;
        let message = self.held.remove(&first)?;
        self.held_bytes -= charge(&message);
        self.next = first.saturating_add(1);
        Some((Seq(first), message))
    }

    /// Payload bytes of the message whose turn it is.
    pub fn peek_bytes(&mut self, skipped: &mut u64) -> Option<usize> {
        self.head_after_skipping(skipped).map(|(_, message)| message.payload.len())
    }

    fn head_after_skipping(&mut self, skipped: &mut u64) -> Option<(&u64, &RunMessage)> {
        let first = self.held.keys().next().copied();
        if self.next < self.floor {
            let to = first.map_or(self.floor, |first| first.min(self.floor));
            *skipped = skipped.saturating_add(to - self.next);
            self.next = to;
        }
        self.held.first_key_value().filter(|(seq, _)| **seq == self.next)
    }

    /// Bytes that wait for a gap.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// The whole state, as an ack entry.
    #[must_use]
    pub fn ack(&self, lane: Lane, incarnation: Incarnation) -> AckFlow {
        let mut held = Vec::new();
        for seq in self.held.keys().filter(|seq| **seq >= self.next) {
            let bit = seq - self.next;
            let Ok(word) = usize::try_from(bit / 64) else { break };
            if held.len() <= word {
                held.resize(word + 1, 0_u64);
            }
            held[word] |= 1 << (bit % 64);
        }
        AckFlow {
            lane: u8::try_from(lane.index()).unwrap_or(0),
            flow: self.upstream.row,
            incarnation,
            decided: self.next - 1,
            held,
            refused: Vec::new(),
        }
    }
}

fn charge(message: &RunMessage) -> usize {
    message.payload.len() + MESSAGE_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn window(floor: u64) -> Window {
        let upstream = Upstream { link: LinkId(1), conn: ConnId(1), row: 0 };
        Window::new(Incarnation(1), Seq(floor), upstream)
    }

    fn message(byte: u8) -> RunMessage {
        RunMessage { kind: byte, payload: Bytes::from(vec![byte; 10]).into() }
    }

    fn drain(window: &mut Window) -> Vec<u64> {
        std::iter::from_fn(|| window.pop(&mut 0)).map(|(seq, _)| seq.0).collect()
    }

    #[test]
    fn order_is_kept_and_duplicates_are_told() {
        let mut window = window(1);
        assert_eq!(window.admit(Seq(3), message(3), 4096), Admitted::Held);
        assert_eq!(window.admit(Seq(2), message(2), 4096), Admitted::Held);
        assert_eq!(drain(&mut window), Vec::<u64>::new());
        let ack = window.ack(Lane::Bulk, Incarnation(9));
        assert_eq!((ack.decided, ack.held), (0, vec![0b110]), "bit k is decided + 1 + k");
        assert_eq!(window.admit(Seq(3), message(3), 4096), Admitted::Duplicate);
        assert_eq!(window.admit(Seq(1), message(1), 4096), Admitted::Held);
        assert_eq!(drain(&mut window), [1, 2, 3]);
        assert_eq!(window.admit(Seq(2), message(2), 4096), Admitted::Duplicate);
        assert_eq!((window.ack(Lane::Bulk, Incarnation(9)).decided, window.held_bytes()), (3, 0));
    }

    #[test]
    fn what_the_sender_gave_up_is_skipped_and_what_came_is_kept() {
        let mut window = window(1);
        window.admit(Seq(3), message(3), 4096);
        window.admit(Seq(6), message(6), 4096);
        window.raise_floor(Seq(5));
        let mut skipped = 0;
        let order: Vec<u64> = std::iter::from_fn(|| window.pop(&mut skipped)).map(|(seq, _)| seq.0).collect();
        assert_eq!((order, skipped), (vec![3], 3), "1, 2 and 4 were given up");
        assert_eq!(window.admit(Seq(4), message(4), 4096), Admitted::Duplicate, "late below the floor");
        assert_eq!(window.admit(Seq(5), message(5), 4096), Admitted::Held);
        assert_eq!(drain(&mut window), [5, 6]);
    }

    #[test]
    fn room_is_limited_in_bytes_and_seqs_but_never_for_the_next() {
        let mut window = window(1);
        assert_eq!(window.admit(Seq(2), message(2), 300), Admitted::Held);
        assert_eq!(window.admit(Seq(3), message(3), 300), Admitted::Full);
        assert_eq!(window.admit(Seq(1), message(1), 300), Admitted::Held);
        assert_eq!(drain(&mut window), [1, 2]);
        assert_eq!(window.admit(Seq(3 + WINDOW_SEQS), message(0), 1 << 30), Admitted::Full);
        assert_eq!(window.admit(Seq(2 + WINDOW_SEQS), message(0), 1 << 30), Admitted::Held);
        assert_eq!(window.ack(Lane::Bulk, Incarnation(1)).held.len(), 256);
    }

    #[test]
    fn a_floor_at_the_end_of_numbers_is_no_trap() {
        let mut window = window(1);
        window.raise_floor(Seq(u64::MAX));
        assert_eq!(window.pop(&mut 0).map(|(seq, _)| seq), None);
        assert_eq!(window.admit(Seq(u64::MAX), message(1), 4096), Admitted::Held);
        assert_eq!(drain(&mut window), [u64::MAX]);
        assert_eq!(window.ack(Lane::Bulk, Incarnation(1)).decided, u64::MAX - 1);
    }
}
