//! Takes messages, frames and numbers out of a fuzzer's bytes. When they are used up, everything is 0.

use bytes::Bytes;
use fastrand::Rng;
use trunkline_codec::{Limits, Payload, Stage};

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

    /// A number below `end`, which is at most 65,536.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let mut value = usize::from(self.byte());
        if end > 256 {
            value = value << 8 | usize::from(self.byte());
        }
        value % end.max(1)
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(count.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    pub(crate) fn stage(&mut self) -> Stage {
        match self.byte() & 3 {
            0 | 1 => Stage::None,
            2 if cfg!(feature = "zstd") => Stage::Zstd,
            _ => Stage::Lz4,
        }
    }

    /// Limits of which some are tiny.
    pub(crate) fn limits(&mut self) -> Limits {
        let mut limits = super::LIMITS;
        let fields = self.byte();
        for (bit, field) in [
            &mut limits.destinations,
            &mut limits.message_bytes,
            &mut limits.output_bytes,
            &mut limits.pieces,
            &mut limits.records,
            &mut limits.data_bytes,
            &mut limits.set_bytes,
        ]
        .into_iter()
        .enumerate()
        {
            if fields >> bit & 1 != 0 {
                *field = match self.byte() {
                    low @ 0..128 => usize::from(low),
                    high => usize::from(high - 127) * 37,
                };
            }
        }
        limits
    }

    /// Up to about 2,000 bytes: as they come, of one kind, of two letters, random, or repeated.
    pub(crate) fn text(&mut self) -> Vec<u8> {
        let kind = self.below(6);
        let len = match self.byte() {
            short @ 0..128 => usize::from(short),
            long => usize::from(long - 127) * 16,
        };
        match kind {
            0 | 1 => self.take(len).to_vec(),
            2 => vec![self.byte(); len],
            3 => {
                let mut rng = Rng::with_seed(self.byte().into());
                (0..len).map(|_| rng.u8(..2)).collect()
            }
            4 => {
                let mut rng = Rng::with_seed(self.byte().into());
                (0..len).map(|_| rng.u8(..)).collect()
            }
            _ => {
                let period = 1 + self.below(80);
                let block = self.take(period).to_vec();
                block.iter().cycle().take(if block.is_empty() { 0 } else { len }).copied().collect()
            }
        }
    }

    /// Messages that are edits of a few texts, in segments; what is not edited may be the same memory.
    pub(crate) fn messages(&mut self) -> Vec<Payload> {
        let count = match self.byte() {
            few @ 0..200 => 1 + usize::from(few) % 9,
            many => 10 + usize::from(many - 200) * 18,
        };
        let texts: Vec<Bytes> = (0..1 + self.below(3)).map(|_| self.text().into()).collect();
        let mut messages: Vec<Payload> = Vec::new();
        for _ in 0..count {
            // With nothing left to say, all further messages are the first text.
            let shape = self.byte();
            if shape & 0xC0 == 0xC0 && !messages.is_empty() {
                messages.push(messages[usize::from(shape & 0x3F) % messages.len()].clone());
            } else {
                let text = texts[usize::from(shape) % texts.len()].clone();
                messages.push(self.message(text, shape >> 2));
            }
        }
        messages
    }

    /// `text` with edits. The shape says how many, and whether memory is shared.
    fn message(&mut self, text: Bytes, shape: u8) -> Payload {
        let mut segments = vec![text];
        for _ in 0..shape & 3 {
            // Cut at a place, and change what follows.
            let index = self.below(segments.len());
            let segment = segments[index].clone();
            let at = self.below(segment.len() + 1);
            let mut tail = segment.slice(at..);
            let edit = self.byte();
            let len = usize::from(edit >> 3);
            let new = match edit & 7 {
                0 | 1 => Bytes::copy_from_slice(self.take(len)),
                2 | 3 => {
                    let new = Bytes::copy_from_slice(self.take(len));
                    tail = tail.slice(new.len().min(tail.len())..);
                    new
                }
                4 => {
                    tail = tail.slice((len * 8).min(tail.len())..);
                    Bytes::new()
                }
                5 => std::mem::take(&mut tail),
                6 => tail.clone(),
                _ => {
                    tail = Bytes::new();
                    Bytes::new()
                }
            };
            let parts = [segment.slice(..at), new, tail];
            segments.splice(index..=index, parts.into_iter().filter(|part| !part.is_empty()));
            if segments.is_empty() {
                segments.push(Bytes::new());
            }
        }
        match shape >> 2 & 3 {
            // The same memory where the texts are the same.
            0 | 1 => segments.into_iter().collect(),
            // The same bytes elsewhere, in as many segments.
            2 => segments.iter().map(|segment| Bytes::copy_from_slice(segment)).collect(),
            // In one.
            _ => Payload::from(segments.concat()),
        }
    }

    /// The head of a frame for `count` destinations: likely bytes in a likely order. On a connection some records take
    /// their bytes from earlier messages, or from what went the other way.
    pub(crate) fn head(&mut self, count: usize, flags: u8) -> Vec<u8> {
        let (on_a_connection, echoes) = (flags & 0x08 != 0, flags & 0x20 != 0);
        let mut head = Vec::new();
        // One wrong record is enough, so most heads are short.
        let records = [1, 3, 3, 40][self.below(4)];
        let mut back = 1;
        for _ in 0..1 + self.below(records) {
            let shape = self.byte();
            let prefix = match shape & 7 {
                0 => Some(0xD0),
                1 | 2 if on_a_connection => Some(0xD1),
                3 if on_a_connection => Some(0xD4),
                4 if echoes => Some(0xD2),
                _ => None,
            };
            head.extend(prefix);
            match shape >> 3 & 7 {
                0 => head.push(0x00),
                1 => head.push(0xC0),
                2 => {
                    let any = self.byte();
                    head.push([0x40, 0x41, 0x80, 0x81, 0x01, any][self.below(6)]);
                }
                3 => {
                    head.push(0xC1 + self.byte() % 3);
                    put_varint(&mut head, self.below(count));
                }
                4 => {
                    head.push(0xC4);
                    let mut bits: Vec<u8> = (0..count.div_ceil(8)).map(|_| self.byte()).collect();
                    if let Some(last) = bits.last_mut().filter(|_| !count.is_multiple_of(8)) {
                        *last &= (1 << (count % 8)) - 1;
                    }
                    head.extend(bits);
                }
                _ => {
                    head.push(0xC5 + self.byte() % 3);
                    let members = 1 + self.below(6);
                    put_varint(&mut head, members);
                    for _ in 0..members {
                        put_varint(&mut head, self.below(count / members + 1));
                    }
                }
            }
            put_varint(&mut head, 1 + self.below(70));
            if prefix == Some(0xD2) {
                let most = [70, 300, 5000][self.below(3)];
                put_varint(&mut head, 1 + self.below(most));
            }
            if prefix == Some(0xD1) {
                // Sometimes that of the last one, which is spelled otherwise.
                let most = [0, 70, 600][self.below(3)];
                back = if most == 0 { back } else { 1 + self.below(most) };
                put_varint(&mut head, back);
            }
        }
        head
    }

    /// Changes a few bytes: other ones, gone ones, new ones.
    pub(crate) fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.below(4) {
            // The front is where the head is.
            let near = if self.byte() & 1 == 0 { 24 } else { 4096 };
            let at = self.below(bytes.len().min(near));
            match self.byte() {
                flip @ 0..160 => bytes[at] ^= flip,
                set @ 160..224 => bytes[at] = set.wrapping_add(self.byte()),
                224..240 => drop(bytes.remove(at)),
                _ => bytes.insert(at, self.byte()),
            }
            if bytes.len() < 5 {
                bytes.resize(5, 0);
            }
        }
    }
}

/// `frame` with the checksum that its other bytes call for, where that goes on from `begins`.
pub(crate) fn seal(mut frame: Vec<u8>, begins: u32) -> Bytes {
    let body = frame.len() - 4;
    let crc = crc32c::crc32c_append(begins, &frame[..body]);
    frame[body..].copy_from_slice(&crc.to_le_bytes());
    frame.into()
}

pub(crate) fn put_varint(out: &mut Vec<u8>, value: usize) {
    trunkline_codec::varint::put(out, value);
}
