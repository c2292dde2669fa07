//! Takes numbers, names and frames out of a fuzzer's bytes. When they are used up, everything is 0.

use bytes::Bytes;
use trunkline_codec::Payload;
use trunkline_mesh::id::{Incarnation, Lane};
use trunkline_mesh::proto::run::message_head;
use trunkline_mesh::proto::window::WINDOW_SEQS;
use trunkline_mesh::proto::wire::{AckFlow, Flow, Run};

use super::shell::{entry, flow, refused, run};

/// Bytes that are taken from front to back.
pub(crate) struct Hand<'a> {
    bytes: &'a [u8],
}

impl<'a> Hand<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        byte
    }

    /// A number below `end`, which is at most 256.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end.max(1)
    }

    /// True once in so many values.
    pub(crate) fn one_in(&mut self, values: u8) -> bool {
        self.byte() % values == values - 1
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    /// So many bytes, or what is left.
    pub(crate) fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(count.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    /// Up to 63 bytes as they come.
    pub(crate) fn noise(&mut self) -> &'a [u8] {
        let count = self.below(64);
        self.take(count)
    }

    /// Mostly small; sometimes an edge of something, sometimes anything.
    pub(crate) fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..200 => u64::from(small),
            200..216 => u64::MAX - u64::from(self.byte()),
            216..228 => WINDOW_SEQS - 2 + u64::from(self.byte() % 4),
            228..236 => u64::from(u32::MAX) - 1 + u64::from(self.byte() % 3),
            _ => self.take(8).iter().fold(0, |value, byte| value << 8 | u64::from(*byte)),
        }
    }

    /// As [`Hand::number`], cut to its low half.
    pub(crate) fn number32(&mut self) -> u32 {
        u32::try_from(self.number() & u64::from(u32::MAX)).expect("cut")
    }

    /// A life near those that the test's nodes have, or any.
    pub(crate) fn life(&mut self) -> u64 {
        match self.byte() {
            0..160 => 100,
            160..180 => 0,
            near @ 180..220 => 80 + u64::from(near - 180),
            220..240 => 50,
            _ => self.number(),
        }
    }

    pub(crate) fn lane(&mut self) -> Lane {
        Lane::ALL[self.below(2)]
    }

    /// A row from some of these names to any node of the test's topology, or to none.
    pub(crate) fn flow(&mut self, origins: &[&str]) -> Flow {
        let (origin, life) = (self.pick(origins), self.life());
        let destination = self.pick(&["m", "m", "m", "m2", "um", "p", "o2", "nobody"]);
        let destination_incarnation =
            if self.one_in(4) { Incarnation(self.life()) } else { Incarnation::UNKNOWN };
        Flow { destination_incarnation, ..flow(origin, life, destination) }
    }

    /// A run of one of the first rows, or of any.
    pub(crate) fn run(&mut self) -> Run {
        let row = if self.one_in(24) { self.number32() } else { u32::from(self.byte() % 4) };
        let count = if self.one_in(12) { self.number32() } else { u32::from(self.byte() % 6) };
        let deadline_ms = if self.one_in(6) { self.number32() } else { 60_000 };
        let (first, back) = (self.number(), self.number());
        // A floor that can be, more often than not.
        let floor_back = if self.one_in(4) { back } else { back % first.max(1) };
        Run { deadline_ms, ..run(row, first, count, floor_back) }
    }

    /// What a run carries: as many messages as it says, or anything.
    pub(crate) fn payload(&mut self, run: &Run) -> Payload {
        if self.one_in(8) {
            return Payload::from(self.noise().to_vec());
        }
        let (kind, fill, shape) = (self.byte(), self.byte(), self.byte());
        let length = if shape < 224 { usize::from(shape % 32) } else { usize::from(shape - 223) * 60 };
        let message = Bytes::from(vec![fill; length]);
        let messages = (0..run.count.min(16)).flat_map(|_| [message_head(kind, length), message.clone()]);
        messages.collect()
    }

    /// What an ack says of one of the first rows, or of any.
    pub(crate) fn entry(&mut self) -> AckFlow {
        let row = if self.one_in(16) { self.number32() } else { u32::from(self.byte() % 4) };
        let lane = if self.one_in(16) { self.byte() } else { u8::from(!self.one_in(4)) };
        let (life, decided) = (self.life(), self.number());
        let held = (0..self.below(4)).map(|_| self.number()).collect();
        let ranges = self.below(4);
        let refused =
            (0..ranges).map(|_| refused(self.number(), self.number32(), self.byte() % 14)).collect();
        AckFlow { lane, held, refused, ..entry(row, life, decided) }
    }
}
