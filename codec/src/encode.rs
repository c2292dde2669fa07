//! Messages in, one frame out.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::{EncodeError, LimitName};
use crate::limits::{DESTINATIONS_MAX, Limits};
use crate::payload::Payload;
use crate::varint;

pub(crate) const MAGIC: u8 = 0xF5;
pub(crate) const VERSION: u8 = 1;
pub(crate) const FLAG_CONCAT: u8 = 0x01;

/// The second stage: a general compressor over the data column, used only where it makes the frame smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// No second stage.
    #[default]
    None,
    /// LZ4 block format.
    Lz4,
    /// Reserved in the format; not available yet.
    Zstd,
}

/// How an [`Encoder`] works.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The second stage. Default [`Stage::None`].
    pub stage: Stage,
    /// Seed of the hash that finds repeats; `None` draws one per encoder.
    pub seed: Option<u64>,
    /// The limits of the receivers.
    pub limits: Limits,
}

/// What one encoding did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes of all messages together.
    pub input_bytes: usize,
    /// Length of the frame before the second stage.
    pub diff_bytes: usize,
    /// Length of the frame as sent.
    pub frame_bytes: usize,
}

/// Turns messages into frames. Keeps its working memory between calls.
#[derive(Debug)]
pub struct Encoder {
    options: Options,
}

/// One frame, ready for a vectored write.
#[derive(Clone, Debug)]
pub struct EncodedFrame {
    slices: Vec<Bytes>,
    stats: Stats,
}

impl Encoder {
    /// An encoder with empty working memory.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    /// Changes the second stage for the frames that follow.
    pub fn set_stage(&mut self, stage: Stage) {
        self.options.stage = stage;
    }

    /// Builds the frame for `payloads`; payload `i` is for destination `i`.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] when there is no payload, or a limit of the receivers would be passed.
    pub fn encode(&mut self, payloads: &[Payload]) -> Result<EncodedFrame, EncodeError> {
        let limits = &self.options.limits;
        if payloads.is_empty() {
            return Err(EncodeError::NoDestinations);
        }
        if self.options.stage == Stage::Zstd {
            return Err(EncodeError::StageUnsupported);
        }
        let within = |limit, maximum, needed| {
            if needed > maximum { Err(EncodeError::Limit { limit, maximum, needed }) } else { Ok(()) }
        };
        within(LimitName::Destinations, limits.destinations.min(DESTINATIONS_MAX), payloads.len())?;
        let mut input_bytes = 0;
        for payload in payloads {
            within(LimitName::MessageBytes, limits.message_bytes, payload.len())?;
            input_bytes += payload.len();
        }
        within(LimitName::OutputBytes, limits.output_bytes, input_bytes)?;
        within(LimitName::DataBytes, limits.data_bytes, input_bytes)?;
        let mut head = vec![MAGIC, VERSION, FLAG_CONCAT];
        varint::put(&mut head, payloads.len());
        for payload in payloads {
            varint::put(&mut head, payload.len());
        }
        let mut crc = crc32c::crc32c(&head);
        let mut slices = vec![Bytes::from(head)];
        for segment in payloads.iter().flat_map(Payload::segments) {
            crc = crc32c::crc32c_append(crc, segment);
            slices.push(segment.clone());
        }
        slices.push(Bytes::copy_from_slice(&crc.to_le_bytes()));
        let frame_bytes = slices.iter().map(Bytes::len).sum();
        Ok(EncodedFrame { slices, stats: Stats { input_bytes, diff_bytes: frame_bytes, frame_bytes } })
    }
}

impl EncodedFrame {
    /// Length in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> usize {
        self.stats.frame_bytes
    }

    /// The frame's bytes in wire order, for a vectored write.
    #[must_use]
    pub fn slices(&self) -> &[Bytes] {
        &self.slices
    }

    /// The frame in one piece; copies unless it is one piece already.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        if let [one] = self.slices.as_slice() {
            return one.clone();
        }
        let mut out = BytesMut::with_capacity(self.len());
        for slice in &self.slices {
            out.put_slice(slice);
        }
        out.freeze()
    }

    /// What the encoding did.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }
}
