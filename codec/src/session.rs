//! Frames of one connection: what was said before need not be said again.
//!
//! Each direction of a connection has a history of its own. Its two ends must see the same frames in the same order,
//! which a transport like TCP guarantees: every encoded frame is sent, in the order of encoding, and parsed in that
//! order. A frame's checksum covers the one before it and the numbers of its streams, so whatever goes wrong is noticed at the
//! next frame. Then the
//! connection is over; a new one begins with empty histories.

use bytes::Bytes;

use crate::checksum;
use crate::decode::{self, Frame};
use crate::draft::Memory;
use crate::echo::EchoWindow;
use crate::encode::{Encoder, Options};
use crate::encoded::EncodedFrame;
use crate::error::{DecodeError, EncodeError};
use crate::layout::Room;
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

/// One end of a connection, both directions: besides its streams it remembers what the peer sent, and does not send
/// that back.
///
/// Bytes are recognised by where they lie in memory: pass on the slices that [`parse`](Self::parse) gave out, not
/// copies of them. One MiB of what came is kept for that: data columns of up to 16 KiB as copies, whose slices are what
/// [`parse`](Self::parse) gives out; of longer ones, of which there are at most 64, the buffers that were parsed, with
/// everything else that these hold. Of what this end sent it keeps up to 4 MiB that the peer has not
/// yet said to have got, and the MiB before that, in whole segments; once 4 MiB are open, frames are sent unremembered
/// until the peer says more ([`Frame::is_unremembered`]). Segments of more than 16 KiB are kept by reference, and with them
/// the buffers that they are slices of.
/// Both ends have to send now and then, and both use a `Session`: a half refuses frames that refer to what it sent. Where
/// only one end sends, use the halves at both.
///
/// ```
/// use bytes::Bytes;
/// use trunkline_codec::{Epochs, Options, Payload, Session};
///
/// // What one end sends the other one gets: the epochs are the other way round.
/// let epochs = Epochs { outgoing: 1, incoming: 2 };
/// let mut proxy = Session::new(Options::default(), epochs);
/// let mut leader = Session::new(Options::default(), epochs.reversed());
///
/// // A proposal goes up, and is taken in pieces as they come out of the frame.
/// let proposal: Vec<u8> = (0..10_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
/// let up = proxy.encode(&[9], &[Payload::from(proposal.clone())])?;
/// let got = leader.parse(up.to_bytes(), &[9])?;
///
/// // It comes down in an entry for three followers: by reference, not as 40,000 bytes.
/// let entry = |to| -> Payload { std::iter::once(Bytes::from(vec![to])).chain(got.message(0)).collect() };
/// let down = leader.encode(&[1, 2, 3], &[entry(1), entry(2), entry(3)])?;
/// assert!(down.len() < 40);
/// let frame = proxy.parse(down.to_bytes(), &[1, 2, 3])?;
/// assert_eq!(frame.to_vec(2), [&[3], &proposal[..]].concat());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Session {
    encoder: SessionEncoder,
    decoder: SessionDecoder,
    window: EchoWindow,
}

/// What tells a connection from every other one, as one end sees it: a number per direction. Both ends draw the two from
/// their handshake; they need not be secret, but no other connection should have them, and the directions should differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epochs {
    /// Of what comes in.
    pub incoming: u64,
    /// Of what goes out.
    pub outgoing: u64,
}

impl Epochs {
    /// As the other end sees them.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { incoming: self.outgoing, outgoing: self.incoming }
    }
}

/// What the checksums of a direction begin with.
fn beginning(epoch: u64) -> u32 {
    checksum::crc32c(&epoch.to_le_bytes())
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

    /// As [`encode`](Self::encode), beside the other direction: what the peer sent is not sent back, or what is sent is kept
    /// for the peer to refer to, as the window says. The window is one and the same for all frames of the connection.
    ///
    /// # Errors
    ///
    /// Those of [`encode`](Self::encode).
    pub fn encode_beside(
        &mut self,
        window: &mut EchoWindow,
        streams: &[u32],
        payloads: &[Payload],
    ) -> Result<EncodedFrame, EncodeError> {
        self.encode_with(streams, payloads, true, Some(window))
    }

    fn encode_with(
        &mut self,
        streams: &[u32],
        payloads: &[Payload],
        remember: bool,
        window: Option<&mut EchoWindow>,
    ) -> Result<EncodedFrame, EncodeError> {
        if streams.len() != payloads.len() {
            return Err(EncodeError::Streams { messages: payloads.len(), streams: streams.len() });
        }
        let (sent, received) =
            window.map_or((None, None), |window| (window.sent.as_mut(), window.received.as_mut()));
        let openings = self.joined.reset(payloads);
        let memory = Memory {
            begins: self.named.begin(self.before, streams),
            numbers: streams,
            streams: &self.streams,
            openings: &openings,
            runs: &mut self.runs,
            received: received.as_deref(),
            sent,
            remember,
        };
        // Not taken out of its result: frames are large enough for a move to count.
        let encoded = self.encoder.encode_with(payloads, Some(memory));
        if let Ok(frame) = &encoded {
            if let (Some(received), Some(arrived)) = (received, frame.arrived) {
                received.was_said(arrived);
            }
            self.before = frame.checksum;
            if frame.flags & wire::FLAG_NOREF == 0 {
                self.streams.enter_all(streams, openings.all());
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
    /// [`DecodeError`], and from then on the same one for every frame: the connection is over.
    pub fn parse(&mut self, bytes: Bytes, streams: &[u32]) -> Result<Frame, DecodeError> {
        self.parse_with(bytes, streams, None)
    }

    /// As [`parse`](Self::parse), of frames that [`SessionEncoder::encode_beside`] made. The window is the one that the frames
    /// of this end are encoded beside.
    ///
    /// # Errors
    ///
    /// Those of [`parse`](Self::parse).
    pub fn parse_beside(
        &mut self,
        window: &mut EchoWindow,
        bytes: Bytes,
        streams: &[u32],
    ) -> Result<Frame, DecodeError> {
        self.parse_with(bytes, streams, Some(window))
    }

    fn parse_with(
        &mut self,
        bytes: Bytes,
        streams: &[u32],
        window: Option<&mut EchoWindow>,
    ) -> Result<Frame, DecodeError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let frame_bytes = bytes.len();
        let (sent, received) =
            window.map_or((None, None), |window| (window.sent.as_mut(), window.received.as_mut()));
        let room = &mut self.room;
        let begins = self.named.begin(self.before, streams);
        let referents = decode::Referents {
            begins,
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
                received.enter(column, frame_bytes);
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
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => {
                let begins = self.before ^ named::checksum_of(streams);
                decode::reserialise_after(bytes, &self.limits, Some(begins))
            }
        }
    }
}

impl Session {
    /// The beginning of a connection, as one end sees it. [`Options::limits`] holds for both directions: what the peer takes,
    /// and what this end does.
    #[must_use]
    pub fn new(options: Options, epochs: Epochs) -> Self {
        Self::with_limits(options, options.limits, epochs)
    }

    /// The same, where this end takes other frames than the peer.
    #[must_use]
    pub fn with_limits(options: Options, incoming: Limits, epochs: Epochs) -> Self {
        Self {
            encoder: SessionEncoder::new(options, epochs.outgoing),
            decoder: SessionDecoder::new(incoming, epochs.incoming),
            window: EchoWindow::of_both(),
        }
    }

    /// As [`SessionEncoder::encode`].
    ///
    /// # Errors
    ///
    /// Those of [`SessionEncoder::encode`].
    pub fn encode(&mut self, streams: &[u32], payloads: &[Payload]) -> Result<EncodedFrame, EncodeError> {
        self.encoder.encode_beside(&mut self.window, streams, payloads)
    }

    /// As [`SessionEncoder::encode_unremembered`].
    ///
    /// # Errors
    ///
    /// Those of [`SessionEncoder::encode`].
    pub fn encode_unremembered(
        &mut self,
        streams: &[u32],
        payloads: &[Payload],
    ) -> Result<EncodedFrame, EncodeError> {
        self.encoder.encode_with(streams, payloads, false, Some(&mut self.window))
    }

    /// As [`SessionEncoder::set_stage`].
    pub fn set_stage(&mut self, stage: Stage) {
        self.encoder.set_stage(stage);
    }

    /// Whether a quarter of a MiB has arrived since this end said so last. An end that has nothing to send for long sends an
    /// empty message then: its peer keeps what it does not know to have arrived, 4 MiB at most, and after these sends all
    /// frames unremembered.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.window.has_news()
    }

    /// As [`SessionEncoder::release`].
    pub fn release(&mut self) {
        self.encoder.release();
    }

    /// As [`SessionDecoder::parse`]. A frame with a data column of more than 16 KiB is kept, and with it the whole buffer that
    /// `bytes` is a slice of, until a MiB more has come: do not cut frames from buffers that are far longer than they.
    ///
    /// # Errors
    ///
    /// Those of [`SessionDecoder::parse`].
    pub fn parse(&mut self, bytes: Bytes, streams: &[u32]) -> Result<Frame, DecodeError> {
        self.decoder.parse_beside(&mut self.window, bytes, streams)
    }

    /// As [`SessionDecoder::reserialise`].
    ///
    /// # Errors
    ///
    /// Those of [`SessionDecoder::reserialise`].
    #[doc(hidden)]
    pub fn reserialise(&self, bytes: Bytes, streams: &[u32]) -> Result<Vec<u8>, DecodeError> {
        self.decoder.reserialise(bytes, streams)
    }
}
