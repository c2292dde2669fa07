//! Frames of one connection: what was said before need not be said again.
//!
//! Each direction of a connection has a history of its own. Its two ends must see the same frames in the same order,
//! which a transport like TCP guarantees: every encoded frame is sent, in the order of encoding, and parsed in that
//! order. A frame's checksum covers the one before it and the numbers of its streams, so whatever goes wrong is noticed at the
//! next frame. Then the
//! connection is over; a new one begins with empty histories.

use bytes::Bytes;

use crate::decode::{self, Frame};
use crate::draft::Memory;
use crate::echo::EchoWindow;
use crate::encode::{Encoder, Options};
use crate::encoded::EncodedFrame;
use crate::epochs::beginning;
use crate::error::{DecodeError, EncodeError};
use crate::layout::{Begins, Layout, Room};
use crate::limits::Limits;
use crate::named::{self, Named};
use crate::openings::JoinedOpenings;
use crate::past::PastRuns;
use crate::payload::Payload;
use crate::stage::Stage;
use crate::streams::Streams;
use crate::wire;

/// The sending end of one direction.
///
/// Messages carry the number of their **stream**: what one destination hears on this connection. Messages of one stream
/// are compared with each other; the receiver names the same numbers, or refuses the frame. A number is any `u32`; at most
/// 1,024 streams are remembered, 4 KiB each in up to 9 KiB of memory. Besides it takes what an [`Encoder`] takes, and 3,000
/// bytes per message of its largest frame.
#[derive(Debug)]
pub struct SessionEncoder {
    encoder: Encoder,
    /// The checksum of the frame before.
    before: u32,
    named: Named,
    streams: Streams,
    joined: JoinedOpenings,
    runs: PastRuns,
}

/// The receiving end of one direction.
#[derive(Debug)]
pub struct SessionDecoder {
    limits: Limits,
    /// The checksum of the frame before.
    before: u32,
    named: Named,
    streams: Streams,
    room: Room,
    failed: Option<DecodeError>,
}

impl SessionEncoder {
    /// The beginning of a direction. `epoch` tells connections apart: both ends draw it from their handshake.
    #[must_use]
    pub fn new(options: Options, epoch: u64) -> Self {
        Self {
            encoder: Encoder::new(options),
            before: beginning(epoch),
            named: Named::default(),
            streams: Streams::default(),
            joined: JoinedOpenings::default(),
            runs: PastRuns::default(),
        }
    }

    /// Builds the next frame; payload `i` is for destination `i` and belongs to stream `streams[i]`. Several messages of a
    /// frame may belong to one stream. The frame must be sent before the next one, or the connection closed.
    ///
    /// # Errors
    ///
    /// Those of [`Encoder::encode`], and [`EncodeError::Streams`]. The history is as it was.
    pub fn encode(&mut self, streams: &[u32], payloads: &[Payload]) -> Result<EncodedFrame, EncodeError> {
        self.encode_with(streams, payloads, true, None)
    }

    /// As [`encode`](Self::encode), for messages that no later frame may refer to, and that refer to no earlier one: secrets,
    /// or what will never come again. The frame's length tells nothing of what was said before; it does tell what the
    /// messages of this frame have in common, so put nothing beside a secret that somebody else chooses.
    ///
    /// # Errors
    ///
    /// Those of [`encode`](Self::encode).
    pub fn encode_unremembered(
        &mut self,
        streams: &[u32],
        payloads: &[Payload],
    ) -> Result<EncodedFrame, EncodeError> {
        self.encode_with(streams, payloads, false, None)
    }

    /// As [`encode`](Self::encode) or [`encode_unremembered`](Self::encode_unremembered), beside the other direction if there is
    /// a window.
    pub(crate) fn encode_with(
        &mut self,
        streams: &[u32],
        payloads: &[Payload],
        remember: bool,
        window: Option<&mut EchoWindow>,
    ) -> Result<EncodedFrame, EncodeError> {
        if streams.len() != payloads.len() {
            return Err(EncodeError::Streams { messages: payloads.len(), streams: streams.len() });
        }
        let (mut sent, received) =
            window.map_or((None, None), |window| (window.sent.as_mut(), window.received.as_mut()));
        let openings = self.joined.reset(payloads);
        let memory = Memory {
            begins: self.named.begin(self.before, streams),
            numbers: streams,
            streams: &self.streams,
            openings: &openings,
            runs: &mut self.runs,
            received: received.as_deref(),
            sent: sent.as_deref_mut(),
            remember,
        };
        // Not taken out of its result: frames are large enough for a move to count.
        let encoded = self.encoder.encode_with(payloads, Some(memory));
        if let Ok(frame) = &encoded {
            if let (Some(received), Some(_)) = (received, frame.arrived) {
                received.was_said();
            }
            self.before = frame.checksum;
            if frame.flags & wire::FLAG_NOREF == 0 {
                self.streams.enter_all(streams, openings.all());
                if let Some(sent) = sent {
                    sent.ended(frame.checksum);
                }
            }
            self.streams.next_frame();
        }
        let list = openings.into_list();
        self.joined.keep(list);
        encoded
    }

    /// Changes the second stage for the frames that follow.
    pub fn set_stage(&mut self, stage: Stage) {
        self.encoder.set_stage(stage);
    }

    /// Gives back working memory that large frames have made grow; what is remembered stays.
    pub fn release(&mut self) {
        self.encoder.release();
        self.joined = JoinedOpenings::default();
        self.runs = PastRuns::default();
    }
}

/// For benches, the receiving end of one direction that makes no messages: no reader does less.
#[derive(Debug)]
#[doc(hidden)]
pub struct HeadReader {
    limits: Limits,
    before: u32,
    named: Named,
    room: Room,
}

impl HeadReader {
    /// The beginning of a direction, as that of a [`SessionDecoder`].
    #[must_use]
    pub fn new(limits: Limits, epoch: u64) -> Self {
        Self { limits, before: beginning(epoch), named: Named::default(), room: Room::default() }
    }

    /// Checks the next frame but for its data and what it refers to; says how many records it has.
    ///
    /// # Errors
    ///
    /// Those of [`SessionDecoder::parse`], but for references and for the number of streams.
    pub fn check(&mut self, bytes: &[u8], streams: &[u32]) -> Result<usize, DecodeError> {
        let before = self.named.begin(self.before, streams);
        let mut layout = Layout::new(std::mem::take(&mut self.room));
        layout.read(bytes, &self.limits, Some(Begins { before, streams: streams.len(), sent: None }))?;
        let records = layout.records.len();
        self.before = layout.checksum;
        self.room = layout.into_room();
        Ok(records)
    }
}

impl SessionDecoder {
    /// The beginning of a direction, with the epoch of its sending end.
    #[must_use]
    pub fn new(limits: Limits, epoch: u64) -> Self {
        Self {
            limits,
            before: beginning(epoch),
            named: Named::default(),
            streams: Streams::default(),
            room: Room::default(),
            failed: None,
        }
    }

    /// Checks the next frame and finds every message in it; message `i` belongs to stream `streams[i]`.
    ///
    /// The numbers are not in the frame: transport them beside it, as the sender named them and in the same order. They are
    /// under its checksum, so other ones are [`DecodeError::History`].
    ///
    /// # Errors
    ///
    /// [`DecodeError`], and from then on [`DecodeError::Ended`] for every frame: the connection is over.
    pub fn parse(&mut self, bytes: Bytes, streams: &[u32]) -> Result<Frame, DecodeError> {
        self.parse_with(bytes, streams, None)
    }

    /// As [`parse`](Self::parse), beside the other direction if there is a window.
    pub(crate) fn parse_with(
        &mut self,
        bytes: Bytes,
        streams: &[u32],
        window: Option<&mut EchoWindow>,
    ) -> Result<Frame, DecodeError> {
        self.check_open()?;
        let frame_bytes = bytes.len();
        let (sent, received) =
            window.map_or((None, None), |window| (window.sent.as_mut(), window.received.as_mut()));
        let room = &mut self.room;
        let before = self.named.begin(self.before, streams);
        let referents = decode::Referents {
            before,
            numbers: streams,
            streams: &self.streams,
            sent,
            kept: received.is_some(),
            room,
        };
        let (frame, checksum, column) = Frame::parse_with(bytes, &self.limits, referents)
            .inspect_err(|error| self.failed = Some(error.clone()))?;
        self.before = checksum;
        if !frame.is_unremembered() {
            for (index, number) in streams.iter().enumerate() {
                self.streams.enter(*number, frame.slices(index));
            }
            if let Some(received) = received {
                received.enter(column, frame_bytes, checksum);
            }
        }
        self.streams.next_frame();
        Ok(frame)
    }

    /// Reads what may be the next frame into its records and writes those again, without a second stage. For tests, as
    /// [`crate::reserialise`]: what the records refer to is not looked at, and nothing is remembered.
    ///
    /// # Errors
    ///
    /// Those of [`parse`](Self::parse), but for references.
    #[doc(hidden)]
    pub fn reserialise(&self, bytes: Bytes, streams: &[u32]) -> Result<Vec<u8>, DecodeError> {
        self.reserialise_with(bytes, streams, None)
    }

    /// The same, beside the other direction if there is a window.
    pub(crate) fn reserialise_with(
        &self,
        bytes: Bytes,
        streams: &[u32],
        window: Option<&EchoWindow>,
    ) -> Result<Vec<u8>, DecodeError> {
        self.check_open()?;
        decode::reserialise_after(bytes, &self.limits, Some(self.begins(streams, window)))
    }

    fn check_open(&self) -> Result<(), DecodeError> {
        let ended = |error: &DecodeError| Err(DecodeError::Ended { by: Box::new(error.clone()) });
        self.failed.as_ref().map_or(Ok(()), ended)
    }

    /// What the checksum of the next frame goes on from, where that is of these streams.
    pub(crate) fn begins<'a>(&self, streams: &[u32], window: Option<&'a EchoWindow>) -> Begins<'a> {
        let before = self.before ^ named::checksum_of(streams);
        Begins { before, streams: streams.len(), sent: window.and_then(|window| window.sent.as_ref()) }
    }
}
