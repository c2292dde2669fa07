//! Messages in, one frame out: head and slices, ready for a vectored write.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use bytes::{BufMut, BytesMut};

use crate::data::{Chunk, DataColumn};
use crate::destination_set::{NARROW_MAX, WORDS_MAX};
use crate::draft::{Draft, Input, Memory, Outcome};
use crate::echo;
use crate::encoded::{Assembly, EncodedFrame, Stats};
use crate::error::{EncodeError, LimitName};
use crate::limits::{DESTINATIONS_MAX, Limits};
use crate::payload::Payload;
use crate::stage::{Compressor, Stage};
use crate::texts::{Borders, Span, Texts};
use crate::varint;
use crate::wire;
use crate::work::Work;

/// Where messages share nothing and have no more bytes than this together, their bytes are copied into one slice: that takes
/// less time than to list and to count each segment and to begin a checksum for it.
const WRITTEN_OUT_BYTES_MAX: usize = 4 << 10;

/// How an [`Encoder`] works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The second stage. Default [`Stage::None`].
    pub stage: Stage,
    /// Seed of the hash that finds repeated blocks. It may change where messages are cut, never what they say. `None`
    /// (default) draws one per encoder, which nobody outside can know; a fixed one makes the output a function of the
    /// input, for tests and measurements.
    pub seed: Option<u64>,
    /// The limits of the receivers. No frame is built that they would refuse.
    pub limits: Limits,
}

/// Turns messages into frames. What it writes does not depend on what it has written before.
///
/// Keeps its working memory between calls, but no handle to any message's segments. It takes what its largest frame needed,
/// at most 24 bytes per byte of the messages, 96 per segment, 600 per message, and 64 KiB. [`release`](Self::release) gives it
/// back.
pub struct Encoder {
    options: Options,
    seed: u64,
    /// For frames with few destinations, which is most, and for all others.
    narrow: Draft<1>,
    wide: Draft<WORDS_MAX>,
    data: DataColumn,
    borders: Borders,
    /// The messages that are not empty.
    spans: Vec<Span>,
    compressor: Compressor,
    /// The data column in one piece, for the second stage.
    gathered: Vec<u8>,
    out: BytesMut,
}

impl Encoder {
    /// An encoder with empty working memory.
    #[must_use]
    pub fn new(options: Options) -> Self {
        // RandomState carries the process's randomness; hashing a constant with it draws a seed.
        let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one(0u8));
        Self {
            options,
            seed,
            narrow: Draft::new(seed),
            wide: Draft::new(seed),
            data: DataColumn::default(),
            borders: Borders::default(),
            spans: Vec::new(),
            compressor: Compressor::default(),
            gathered: Vec::new(),
            out: BytesMut::new(),
        }
    }

    /// Changes the second stage for the frames that follow.
    pub fn set_stage(&mut self, stage: Stage) {
        self.options.stage = stage;
    }

    /// Gives back the working memory that large frames have made grow.
    pub fn release(&mut self) {
        // The seed stays: what is written must not depend on when memory was given back.
        *self = Self::new(Options { seed: Some(self.seed), ..self.options });
    }

    /// Builds the frame for `payloads`; payload `i` is for destination `i`.
    ///
    /// Shared memory is looked up by its address, once per segment and reference; other bytes are compared a bounded
    /// number of times; every byte of the frame passes one checksum.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] when there is no payload, the stage is not available, or the receivers' limits would be passed.
    pub fn encode(&mut self, payloads: &[Payload]) -> Result<EncodedFrame, EncodeError> {
        self.encode_with(payloads, None)
    }

    /// As [`encode`](Self::encode), for a frame of a connection.
    pub(crate) fn encode_with(
        &mut self,
        payloads: &[Payload],
        mut memory: Option<Memory<'_>>,
    ) -> Result<EncodedFrame, EncodeError> {
        if !self.options.stage.available() {
            return Err(EncodeError::StageUnsupported);
        }
        let count = payloads.len();
        let totals = self.take_in(payloads)?;
        let Totals { input_bytes, lens_bytes, filled } = totals;
        let texts = Texts::new(payloads, &self.borders);
        let limits = &self.options.limits;
        let mut input = Input { texts, spans: &[], count, bytes: input_bytes, lens_bytes, limits };
        let mut work = Work::default();
        let steady = count <= NARROW_MAX
            && memory
                .as_ref()
                .is_some_and(|memory| self.narrow.plan_steady(input, &mut self.data, memory, &mut work));
        let Outcome { split, echoed_bytes, work } = if steady {
            Outcome { split: true, echoed_bytes: 0, work }
        } else {
            let whole =
                |(message, payload): (usize, &Payload)| Span { message, start: 0, end: payload.len() };
            self.spans.extend(payloads.iter().enumerate().map(whole));
            if filled < count {
                self.spans.retain(|span| span.len() > 0);
            }
            input.spans = &self.spans;
            if count <= NARROW_MAX {
                self.narrow.plan(input, &mut self.data, memory.as_mut(), work)
            } else {
                self.wide.plan(input, &mut self.data, memory.as_mut(), work)
            }
        };
        if !split {
            self.data.reset();
            if input_bytes > WRITTEN_OUT_BYTES_MAX || memory.is_some() {
                for &span in &self.spans {
                    self.data.push(texts, span);
                }
            }
        }
        let mut envelope = Envelope { flags: 0, arrived: None, begins: 0, echoed_bytes };
        if let Some(memory) = memory {
            envelope.begins = memory.begins;
            envelope.flags = wire::FLAG_HISTORY;
            // What need not be remembered says nothing of what came before, not even that.
            envelope.arrived = memory.received.filter(|_| memory.remember).and_then(|received| {
                let arrived = if echoed_bytes > 0 { Some(received.news()) } else { received.to_say() };
                arrived.inspect(|_| envelope.begins ^= received.checksum())
            });
            let sent_bytes = self.data.bytes;
            let remembers =
                memory.remember && memory.sent.as_ref().is_none_or(|sent| sent.has_room(sent_bytes));
            if !remembers {
                envelope.flags |= wire::FLAG_NOREF;
            } else if let Some(sent) = memory.sent {
                sent.enter(self.data.to_bytes(texts, echo::COPIED_BYTES_MAX));
            }
        }
        Ok(self.assemble(payloads, totals, split, envelope, work))
    }

    /// Takes in the messages of a new frame, and checks what is known before anything is planned.
    fn take_in(&mut self, payloads: &[Payload]) -> Result<Totals, EncodeError> {
        let limits = &self.options.limits;
        let within = |limit, maximum, needed| {
            if needed <= maximum {
                return Ok(());
            }
            // Of what is counted in bytes, one message may be too much alone.
            let bytes =
                matches!(limit, LimitName::MessageBytes | LimitName::OutputBytes | LimitName::DataBytes);
            let alone = |payload: &Payload| bytes && payload.len() > maximum;
            let message = payloads.iter().position(alone);
            let needed = message.map_or(needed, |message| payloads[message].len());
            Err(EncodeError::Limit { limit, maximum, needed, message })
        };
        if payloads.is_empty() {
            return Err(EncodeError::NoDestinations);
        }
        within(LimitName::Destinations, limits.destinations.min(DESTINATIONS_MAX), payloads.len())?;
        self.spans.clear();
        let (mut input_bytes, mut lens_bytes, mut longest) = (0usize, 0, 0);
        let (mut filled, mut several) = (0, false);
        for payload in payloads {
            let len = payload.len();
            input_bytes = input_bytes.saturating_add(len);
            lens_bytes += varint::len(len);
            longest = len.max(longest);
            filled += usize::from(len > 0);
            several |= payload.segments().len() > 1;
        }
        within(LimitName::MessageBytes, limits.message_bytes, longest)?;
        self.borders.reset(if several { payloads } else { &[] });
        // A concatenation is always possible within these; a split needs less data and is tried against the rest.
        within(LimitName::OutputBytes, limits.output_bytes, input_bytes)?;
        within(LimitName::DataBytes, limits.data_bytes, input_bytes)?;
        within(LimitName::Pieces, limits.pieces, filled)?;
        within(LimitName::Records, limits.records, filled)?;
        Ok(Totals { input_bytes, lens_bytes, filled })
    }

    /// Puts prefix, head, data and checksum together. In one piece: as three functions a frame of heartbeats takes 6 % more
    /// time.
    fn assemble(
        &mut self,
        payloads: &[Payload],
        totals: Totals,
        split: bool,
        envelope: Envelope,
        work: Work,
    ) -> EncodedFrame {
        let texts = Texts::new(payloads, &self.borders);
        let mut prefix = [0; 3 + 3 * varint::BYTES_MAX];
        let mut prefix_bytes = 3;
        prefix[0] = wire::MAGIC;
        prefix[1] = wire::VERSION;
        prefix[2] = envelope.flags;
        prefix_bytes += varint::write(&mut prefix[prefix_bytes..], payloads.len());
        if let Some(arrived) = envelope.arrived {
            prefix[2] |= wire::FLAG_ECHO;
            prefix_bytes += varint::write(&mut prefix[prefix_bytes..], arrived);
        }
        let head = if payloads.len() <= NARROW_MAX { self.narrow.head() } else { self.wide.head() };
        let head_bytes = if split {
            prefix_bytes += varint::write(&mut prefix[prefix_bytes..], head.len());
            head.len()
        } else {
            prefix[2] |= wire::FLAG_CONCAT;
            totals.lens_bytes
        };
        let stage = self.options.stage;
        let written_out = !split && totals.input_bytes <= WRITTEN_OUT_BYTES_MAX;
        let column_bytes = if split { self.data.bytes } else { totals.input_bytes };
        let staged = if !written_out
            && stage != Stage::None
            && self.compressor.promising(self.data.iter(texts), self.data.bytes)
        {
            self.gathered.clear();
            self.gathered.reserve(self.data.bytes);
            for part in self.data.iter(texts) {
                self.gathered.extend_from_slice(part);
            }
            self.compressor.compress(stage, &self.gathered)
        } else {
            None
        };
        if staged.is_some() {
            prefix[2] |= stage.flag();
        }

        let around = prefix_bytes + head_bytes + wire::CRC_BYTES;
        let own_bytes = if written_out { column_bytes } else { self.data.own.len() };
        let own = staged.map_or(own_bytes, <[u8]>::len);
        self.out.reserve(around + own);
        self.out.put_slice(&prefix[..prefix_bytes]);
        if split {
            self.out.put_slice(head);
        } else {
            for payload in payloads {
                let mut len = [0; varint::BYTES_MAX];
                let len_bytes = varint::write(&mut len, payload.len());
                self.out.put_slice(&len[..len_bytes]);
            }
        }
        // What is written in one go makes one slice at the end.
        let shares = staged.is_none() && own_bytes < column_bytes;
        let slices = Vec::with_capacity(if shares { self.data.chunks.len() + 2 } else { 0 });
        let mut assembly = Assembly { out: &mut self.out, slices, crc: envelope.begins, bytes: 0 };
        if written_out {
            let out = &mut *assembly.out;
            let begin = out.len();
            payloads.iter().flat_map(Payload::segments).for_each(|segment| out.put_slice(segment));
            let column = &out[begin..];
            if stage != Stage::None
                && self.compressor.promising(std::iter::once(column), column_bytes)
                && let Some(staged) = self.compressor.compress(stage, column)
            {
                out.truncate(begin);
                out.put_slice(staged);
                prefix[2] |= stage.flag();
                out[2] = prefix[2];
            }
        } else if let Some(staged) = staged {
            assembly.out.put_slice(staged);
        } else {
            let mut own = self.data.own.as_slice();
            for &chunk in &self.data.chunks {
                match chunk {
                    Chunk::Own(bytes) => {
                        let (taken, rest) = own.split_at(bytes);
                        own = rest;
                        assembly.out.put_slice(taken);
                    }
                    Chunk::Shared { message, segment, start, end } => {
                        assembly.cut();
                        assembly.slice(texts.segment(message, segment).slice(start..end));
                    }
                }
            }
        }
        let (slices, frame_bytes, checksum) = assembly.seal();
        let diff_bytes = around + column_bytes;
        let stats = Stats {
            input_bytes: totals.input_bytes,
            diff_bytes,
            frame_bytes,
            echoed_bytes: envelope.echoed_bytes,
            concatenated: !split,
            work,
        };
        EncodedFrame { slices, stats, arrived: envelope.arrived, flags: prefix[2], checksum }
    }
}

/// What a frame says besides its messages.
#[derive(Clone, Copy)]
struct Envelope {
    flags: u8,
    arrived: Option<usize>,
    /// What the frame's checksum goes on from.
    begins: u32,
    echoed_bytes: usize,
}

/// Bytes of all messages, and of their lengths in a frame that is their concatenation.
#[derive(Clone, Copy)]
struct Totals {
    input_bytes: usize,
    lens_bytes: usize,
    /// Messages that are not empty.
    filled: usize,
}

/// Shows no working memory: it may hold parts of messages.
impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { stage, seed: _, limits } = &self.options;
        f.debug_struct("Encoder").field("stage", stage).field("limits", limits).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Frame;

    #[test]
    fn too_many_pieces_are_avoided_by_smaller_groups() {
        let mut rng = fastrand::Rng::with_seed(1);
        let base: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(4000).collect();
        let payloads: Vec<Payload> = (0..600)
            .map(|_| {
                let mut message = base.clone();
                for _ in 0..4 {
                    message[rng.usize(..4000)] ^= 0x55;
                }
                Payload::from(message)
            })
            .collect();
        let limits = Limits { pieces: 400_000, ..Limits::default() };
        let encoded =
            Encoder::new(Options { seed: Some(1), limits, ..Options::default() }).encode(&payloads).unwrap();
        let stats = encoded.stats();
        assert!(!stats.concatenated && stats.frame_bytes * 10 < stats.input_bytes, "{stats:?}");
        let frame = Frame::parse(encoded.to_bytes(), &limits).unwrap();
        for (index, payload) in payloads.iter().enumerate() {
            assert!(frame.to_vec(index) == payload.to_vec(), "message {index}");
        }
    }

    /// Records that go to one message each are put off, and left out where all are: then a concatenation is shorter, unless it
    /// has to say the lengths of empty messages too.
    #[test]
    fn messages_that_share_nothing_are_one_after_another_unless_many_are_empty() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut text = |len: usize| Payload::from((0..len).map(|_| rng.u8(..)).collect::<Vec<u8>>());
        let (one, two) = (text(700), text(90));
        for (empty, concatenated) in [(0, true), (3, true), (4, false), (60, false), (900, false)] {
            let mut payloads = vec![one.clone(), two.clone()];
            payloads.resize(2 + empty, Payload::default());
            let encoded =
                Encoder::new(Options { seed: Some(1), ..Options::default() }).encode(&payloads).unwrap();
            assert_eq!(encoded.stats().concatenated, concatenated, "{empty} empty ones: {encoded:?}");
            let frame = Frame::parse(encoded.to_bytes(), &Limits::default()).unwrap();
            assert!((0..payloads.len()).all(|index| frame.to_vec(index) == payloads[index].to_vec()));
        }
    }
}
