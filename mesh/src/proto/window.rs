//! What a member keeps of one (origin, lane): the next seq and the messages that wait for a gap.

use std::collections::{BTreeMap, BTreeSet};

use super::floors::{By, Floors};
use super::links::{LinkId, PeerIx};
use super::run::{RunMessage, compact};
use super::wire::{AckFlow, PASSED, Refused, room_kib};
use crate::id::{Incarnation, Lane, Seq};
pub use crate::settings::MESSAGE_OVERHEAD_BYTES;

/// Seqs above the next one that a member looks at: the bitmap of an ack stays below 2 KiB, and a sender keeps to it.
pub const WINDOW_SEQS: u64 = 16_384;

/// Messages of one frame that a member cuts out: four windows. What an origin sends a member once is within one, so more come in a
/// frame only of several origins, with messages of hardly a byte; they have to come again.
pub const FRAME_MESSAGES_MAX: u64 = 65_536;

/// Where the latest word of this flow came from, and so where acks go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Upstream {
    /// Its link.
    pub link: LinkId,
    /// Row of the roster of its connection of the lane.
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
    floors: Floors,
    held: BTreeMap<u64, RunMessage>,
    held_bytes: usize,
    bits: Bits,
    /// What was passed because the floor said so, and nobody was told yet: first, and how many.
    passed: Vec<(u64, u64)>,
}

/// Ranges that are told of in one ack; further ones are not.
const PASSED_RANGES_MAX: usize = 64;

/// Which seqs are held, as acks tell it: an ack goes out for every run and every message that finds room, and must not
/// look at thousands of messages for it. What is held never spans more than [`WINDOW_SEQS`], so one bit per seq modulo
/// that is enough; none until there is a gap.
#[derive(Debug, Default)]
struct Bits(Box<[u64]>);

impl Bits {
    fn word(&self, seq: u64) -> u64 {
        self.0.get(Self::index(seq)).copied().unwrap_or_default()
    }

    fn index(seq: u64) -> usize {
        usize::try_from(seq % WINDOW_SEQS / 64).expect("below WINDOW_SEQS")
    }

    fn flip(&mut self, seq: u64) {
        if self.0.is_empty() {
            self.0 = (0..WINDOW_SEQS / 64).map(|_| 0).collect();
        }
        self.0[Self::index(seq)] ^= 1 << (seq % 64);
    }

    /// The bits of the 64 seqs from `first` on.
    fn from(&self, first: u64) -> u64 {
        let shift = first % 64;
        let low = self.word(first) >> shift;
        // Shifted in two steps, because there is no shift by 64.
        low | self.word(first.wrapping_add(64)) << 1 << (63 - shift)
    }
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
    pub fn new(origin_incarnation: Incarnation, floor: Seq, upstream: Upstream, by: By) -> Self {
        Self {
            origin_incarnation,
            upstream,
            next: floor.0,
            floor: floor.0,
            floors: Floors::new(floor.0, by),
            held: BTreeMap::new(),
            held_bytes: 0,
            bits: Bits::default(),
            passed: Vec::new(),
        }
    }

    /// What was passed and never had, as an ack says it. Once: whoever knows that it delivered some of it knows who lied.
    pub fn take_passed(&mut self) -> Vec<Refused> {
        let range = |(first, count): (u64, u64)| Refused {
            first: Seq(first),
            count: u32::try_from(count).unwrap_or(u32::MAX),
            reason: PASSED,
        };
        std::mem::take(&mut self.passed).into_iter().map(range).collect()
    }

    /// The sender has nothing alive below `floor`, or so says who brings it. What was passed over by word of proxies alone, and is
    /// above what the sender says itself, is waited for again. Gives the proxies that lied, and whether the sender has to say it
    /// over another link.
    pub fn raise_floor(&mut self, floor: Seq, by: By) -> (BTreeSet<PeerIx>, bool) {
        let found = match by {
            By::Proxy(proxy, since) => {
                if floor.0 > self.next.max(self.floor) {
                    self.floors.claim(proxy, floor.0, since);
                }
                (BTreeSet::new(), false)
            }
            By::Itself(link) => {
                let said = self.floors.say(floor.0, link);
                if self.next.max(self.floor) > said.least {
                    self.go_back(said.least);
                }
                (said.liars, said.asks_anew)
            }
        };
        self.floor = self.floor.max(floor.0);
        found
    }

    /// Nothing from `least` on is decided. What is held beyond the reach of acks from there its sender cannot have sent.
    fn go_back(&mut self, least: u64) {
        (self.next, self.floor) = (self.next.min(least), least);
        for (seq, message) in self.held.split_off(&self.next.saturating_add(WINDOW_SEQS)) {
            self.bits.flip(seq);
            self.held_bytes -= charge(&message);
        }
        self.passed.retain(|(first, _)| *first < least);
    }

    /// Takes a message in, if it is new and there is room. The next one in turn is always held: whoever calls hands it
    /// over at once, or the reorder buffer stays within one message of its limit. What is held does not keep a much larger frame
    /// of `buffer_bytes` alive; what is not is not copied for that, or a short frame of many long messages would cost much.
    pub fn admit(
        &mut self,
        seq: Seq,
        message: RunMessage,
        by: By,
        buffer_bytes: usize,
        bytes_max: usize,
    ) -> Admitted {
        if seq.0 < self.next.max(self.floor) || self.held.contains_key(&seq.0) {
            return Admitted::Duplicate;
        }
        let charge = charge(&message);
        let within = seq.0 - self.next < WINDOW_SEQS && self.held_bytes.saturating_add(charge) <= bytes_max;
        if !(within || seq.0 == self.next) {
            return Admitted::Full;
        }
        self.held_bytes += charge;
        let payload = compact(message.payload, buffer_bytes);
        self.held.insert(seq.0, RunMessage { payload, ..message });
        self.bits.flip(seq.0);
        self.floors.brought(seq.0, by);
        Admitted::Held
    }

    /// The message whose turn it is, once everything below is decided. Skips what the sender gave up.
    pub fn pop(&mut self, skipped: &mut u64) -> Option<(Seq, RunMessage)> {
        let (&first, _) = self.head_after_skipping(skipped)?;
        let message = self.held.remove(&first)?;
        self.bits.flip(first);
        self.held_bytes -= charge(&message);
        self.next = first.saturating_add(1);
        self.floors.handed_over(first);
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
            if to > self.next && self.passed.len() < PASSED_RANGES_MAX {
                self.passed.push((self.next, to - self.next));
            }
            self.next = to;
        }
        self.held.first_key_value().filter(|(seq, _)| **seq == self.next)
    }

    /// Lets go of what waits for a gap: nobody will fill it. The numbers stay, so that nothing is taken in twice.
    pub fn let_go(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
        self.bits = Bits::default();
    }

    /// Bytes that wait for a gap.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// The whole state, as an ack entry. `room` is what can be taken beside it, bytes.
    #[must_use]
    pub fn ack(&self, lane: Lane, incarnation: Incarnation, room: usize) -> AckFlow {
        let span = self.held.last_key_value().map_or(0, |(last, _)| (last - self.next) / 64 + 1);
        let held = (0..span).map(|word| self.bits.from(self.next.wrapping_add(64 * word))).collect();
        AckFlow {
            lane: u8::try_from(lane.index()).unwrap_or(0),
            flow: self.upstream.row,
            incarnation,
            decided: self.next - 1,
            room_kib: room_kib(room),
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
    use super::super::run::COPIED_BYTES;
    use super::*;
    use bytes::Bytes;

    /// A proxy, and the origin over a link from before and from after it brought anything.
    const P: By = By::Proxy(PeerIx(1), LinkId(5));
    const BEFORE: By = By::Itself(LinkId(4));
    const AFTER: By = By::Itself(LinkId(5));

    fn window(floor: u64) -> Window {
        let upstream = Upstream { link: LinkId(1), row: 0 };
        Window::new(Incarnation(1), Seq(floor), upstream, P)
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
        assert_eq!(window.admit(Seq(3), message(3), P, 0, 4096), Admitted::Held);
        assert_eq!(window.admit(Seq(2), message(2), P, 0, 4096), Admitted::Held);
        assert_eq!(drain(&mut window), Vec::<u64>::new());
        let ack = window.ack(Lane::Bulk, Incarnation(9), 0);
        assert_eq!((ack.decided, ack.held), (0, vec![0b110]), "bit k is decided + 1 + k");
        assert_eq!(window.admit(Seq(3), message(3), P, 0, 4096), Admitted::Duplicate);
        assert_eq!(window.admit(Seq(1), message(1), P, 0, 4096), Admitted::Held);
        assert_eq!(drain(&mut window), [1, 2, 3]);
        assert_eq!(window.admit(Seq(2), message(2), P, 0, 4096), Admitted::Duplicate);
        assert_eq!((window.ack(Lane::Bulk, Incarnation(9), 0).decided, window.held_bytes()), (3, 0));
    }

    #[test]
    fn what_the_sender_gave_up_is_skipped_and_what_came_is_kept() {
        let mut window = window(1);
        window.admit(Seq(3), message(3), P, 0, 4096);
        window.admit(Seq(6), message(6), P, 0, 4096);
        window.raise_floor(Seq(5), P);
        let mut skipped = 0;
        let order: Vec<u64> = std::iter::from_fn(|| window.pop(&mut skipped)).map(|(seq, _)| seq.0).collect();
        assert_eq!((order, skipped), (vec![3], 3), "1, 2 and 4 were given up");
        assert_eq!(window.admit(Seq(4), message(4), P, 0, 4096), Admitted::Duplicate, "late below the floor");
        assert_eq!(window.admit(Seq(5), message(5), P, 0, 4096), Admitted::Held);
        assert_eq!(drain(&mut window), [5, 6]);
    }

    #[test]
    fn room_is_limited_in_bytes_and_seqs_but_never_for_the_next() {
        let mut window = window(1);
        assert_eq!(window.admit(Seq(2), message(2), P, 0, 300), Admitted::Held);
        assert_eq!(window.admit(Seq(3), message(3), P, 0, 300), Admitted::Full);
        assert_eq!(window.admit(Seq(1), message(1), P, 0, 300), Admitted::Held);
        assert_eq!(drain(&mut window), [1, 2]);
        assert_eq!(window.admit(Seq(3 + WINDOW_SEQS), message(0), P, 0, 1 << 30), Admitted::Full);
        assert_eq!(window.admit(Seq(2 + WINDOW_SEQS), message(0), P, 0, 1 << 30), Admitted::Held);
        assert_eq!(window.ack(Lane::Bulk, Incarnation(1), 0).held.len(), 256);
    }

    /// A frame of a few bytes may have very many long messages that were there before, or for which there is no room.
    #[test]
    fn what_is_not_held_is_not_copied() {
        let mut window = window(5);
        let copied = |window: &mut Window, seq| {
            let before = COPIED_BYTES.get();
            let admitted = window.admit(Seq(seq), message(1), P, 1000, 300);
            (admitted, COPIED_BYTES.get() - before)
        };
        assert_eq!(copied(&mut window, 6), (Admitted::Held, 10));
        assert_eq!(copied(&mut window, 6), (Admitted::Duplicate, 0), "held");
        assert_eq!(copied(&mut window, 4), (Admitted::Duplicate, 0), "below the floor");
        assert_eq!(copied(&mut window, 7), (Admitted::Full, 0));
        assert_eq!(copied(&mut window, 5), (Admitted::Held, 10), "the next in turn");
    }

    #[test]
    fn a_floor_at_the_end_of_numbers_is_no_trap() {
        let mut window = window(1);
        window.raise_floor(Seq(u64::MAX), P);
        assert_eq!(window.pop(&mut 0).map(|(seq, _)| seq), None);
        assert_eq!(window.admit(Seq(u64::MAX), message(1), P, 0, 4096), Admitted::Held);
        assert_eq!(drain(&mut window), [u64::MAX]);
        assert_eq!(window.ack(Lane::Bulk, Incarnation(1), 0).decided, u64::MAX - 1);
    }

    #[test]
    fn the_bitmap_of_an_ack_is_what_is_held_wherever_the_window_stands() {
        let mut rng = fastrand::Rng::with_seed(1);
        for start in [1, 63, 64, WINDOW_SEQS - 1, u64::MAX - 3 * WINDOW_SEQS] {
            let mut window = window(start);
            for _ in 0..2_000 {
                let reach = if rng.bool() { 70 } else { WINDOW_SEQS };
                window.admit(Seq(window.next + rng.u64(0..reach)), message(0), P, 0, 1 << 30);
                if rng.u8(..) == 0 {
                    window.raise_floor(Seq(window.next + rng.u64(0..500)), P);
                }
                drain(&mut window);
                let mut expected = vec![0_u64; 256];
                for seq in window.held.keys().map(|seq| usize::try_from(seq - window.next).unwrap()) {
                    expected[seq / 64] |= 1 << (seq % 64);
                }
                while expected.pop_if(|word| *word == 0).is_some() {}
                assert_eq!(window.ack(Lane::Bulk, Incarnation(1), 0).held, expected, "from {start}");
            }
        }
    }

    const FAR_UP: u64 = 1 << 60;

    /// It has had 1 to 4, holds 6, and is told by a proxy to pass over all below a number that the origin never comes to.
    fn led_astray() -> Window {
        let mut window = window(1);
        for seq in [1, 2, 3, 4, 6] {
            window.admit(Seq(seq), message(1), P, 0, 1 << 20);
            drain(&mut window);
        }
        window.raise_floor(Seq(FAR_UP), P);
        assert_eq!(drain(&mut window), [6]);
        assert_eq!(window.ack(Lane::Bulk, Incarnation(1), 0).decided, FAR_UP - 1);
        window
    }

    #[test]
    fn what_was_passed_over_by_word_of_a_proxy_is_waited_for_again_when_the_origin_says_so() {
        for (by, liars) in [(BEFORE, vec![]), (AFTER, vec![PeerIx(1)])] {
            let mut window = led_astray();
            assert_eq!(window.admit(Seq(7), message(1), P, 0, 4096), Admitted::Duplicate);
            assert_eq!(window.raise_floor(Seq(5), by), (liars.into_iter().collect(), false));
            let ack = window.ack(Lane::Bulk, Incarnation(1), 0);
            assert_eq!((ack.decided, ack.held), (6, vec![]), "5 would come out of turn, and 6 twice");
            for (seq, admitted) in
                [(5, Admitted::Duplicate), (6, Admitted::Duplicate), (8, Admitted::Held), (7, Admitted::Held)]
            {
                assert_eq!(window.admit(Seq(seq), message(1), by, 0, 4096), admitted, "{seq}");
            }
            assert_eq!(drain(&mut window), [7, 8]);
            assert_eq!(window.held_bytes(), 0);
        }
    }

    /// A proxy tells of what was given up, and then comes an earlier word of the origin: its messages may have been delivered, it was told.
    #[test]
    fn a_late_word_of_the_origin_hands_nothing_over_twice_and_nothing_out_of_turn() {
        let mut window = window(1);
        for seq in 1..=3 {
            window.admit(Seq(seq), message(1), P, 0, 4096);
        }
        window.raise_floor(Seq(7), P);
        assert_eq!(drain(&mut window), [1, 2, 3]);
        window.admit(Seq(8), message(1), P, 0, 4096);
        assert_eq!(window.raise_floor(Seq(2), BEFORE), ([].into(), false));
        for seq in 2..=5 {
            window.admit(Seq(seq), message(1), BEFORE, 0, 4096);
        }
        assert_eq!(drain(&mut window), [4, 5]);
        assert_eq!(window.ack(Lane::Bulk, Incarnation(1), 0).held, [0b100], "8 is there still");
        // The same floor again, by whomever.
        window.raise_floor(Seq(7), P);
        window.admit(Seq(7), message(1), P, 0, 4096);
        assert_eq!(drain(&mut window), [7, 8]);
        // What was handed over since is out of its reach.
        assert_eq!(window.raise_floor(Seq(2), BEFORE), ([].into(), false));
        assert_eq!(window.ack(Lane::Bulk, Incarnation(1), 0).decided, 8);
    }

    /// Its numbers are no places in the bitmap of the window that goes back.
    #[test]
    fn what_is_held_far_up_is_let_go_when_a_window_goes_back() {
        let mut window = led_astray();
        for seq in [FAR_UP + 1, FAR_UP + 70, FAR_UP + WINDOW_SEQS - 1] {
            assert_eq!(window.admit(Seq(seq), message(1), P, 0, 4096), Admitted::Held);
        }
        window.raise_floor(Seq(7), AFTER);
        assert_eq!(window.held_bytes(), 0);
        assert_eq!(window.ack(Lane::Bulk, Incarnation(1), 0).held, []);
        for seq in (7..90).rev() {
            window.admit(Seq(seq), message(1), P, 0, 1 << 20);
        }
        assert_eq!(drain(&mut window), (7..90).collect::<Vec<_>>());
    }

    #[test]
    fn a_floor_that_waits_for_room_is_taken_back_as_well() {
        let mut window = window(1);
        window.admit(Seq(1), message(1), P, 0, 4096);
        window.raise_floor(Seq(FAR_UP), P);
        assert!(window.peek_bytes(&mut 0).is_some(), "no room for it");
        assert_eq!(window.raise_floor(Seq(1), AFTER), ([PeerIx(1)].into(), false));
        assert_eq!(window.admit(Seq(2), message(1), P, 0, 4096), Admitted::Held);
        assert_eq!(drain(&mut window), [1, 2]);
    }
}
