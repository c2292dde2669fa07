//! Link frames: header, control body, and for batches a codec frame behind it. Bytes in PROTOCOL.md, "Frames".

use bytes::{Buf, Bytes, BytesMut};
use trunkline_codec::{DecodeError, EncodeError, Epochs, Frame, Limits, Payload, Stage, checksum};

use super::coder::{BatchDecoder, BatchEncoder};
use super::echo::SharedEcho;
use super::wire::{
    Ack, CONTROL_BYTES_MAX, Close, Confirm, Envelope, Hello, PREAMBLE, Ping, Pong, Refuse, Roster, Welcome,
    WireError, decode, encode,
};
use crate::id::Lane;

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 16;

/// Longest control body before the handshake is complete. All a stranger can make this node keep.
pub const HANDSHAKE_BYTES_MAX: usize = 4096;

/// Most runs in one frame: the messages of one codec frame.
pub const FRAME_RUNS_MAX: usize = 1024;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameType {
    /// [`Hello`]
    Hello = 1,
    /// [`Welcome`]
    Welcome = 2,
    /// [`Refuse`]
    Refuse = 3,
    /// [`Confirm`]
    Confirm = 4,
    /// [`Close`]
    Close = 5,
    /// [`Ping`]
    Ping = 6,
    /// [`Pong`]
    Pong = 7,
    /// [`Roster`]
    Roster = 8,
    /// [`Envelope`] and a codec frame.
    Batch = 9,
    /// [`Ack`]
    Ack = 10,
}

impl FrameType {
    const ALL: [Self; 10] = [
        Self::Hello,
        Self::Welcome,
        Self::Refuse,
        Self::Confirm,
        Self::Close,
        Self::Ping,
        Self::Pong,
        Self::Roster,
        Self::Batch,
        Self::Ack,
    ];

    fn from_wire(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|known| *known as u8 == byte)
    }
}

/// Bytes that break PROTOCOL.md, or would. The connection is closed; nothing that was acknowledged is lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The first bytes are not ours: the peer speaks another protocol.
    #[error("{}", preamble(.0))]
    Preamble([u8; 8]),
    /// A type number of no meaning.
    #[error("unknown frame type {0}")]
    UnknownType(u8),
    /// A lane byte other than 0 and 1, or the lane of another connection.
    #[error("wrong lane byte {0}")]
    Lane(u8),
    /// Bytes that must be zero are not.
    #[error("reserved header bytes are not zero")]
    Reserved,
    /// Longer than allowed at this point.
    #[error("{what} of {bytes} bytes is over the limit of {max}")]
    TooLong {
        /// `control body` or `payload`.
        what: &'static str,
        /// As announced.
        bytes: u32,
        /// The limit.
        max: usize,
    },
    /// The header or control body was damaged on the way.
    #[error("checksum mismatch: header says {stated:08x}, bytes say {actual:08x}")]
    Checksum {
        /// From the header.
        stated: u32,
        /// Computed.
        actual: u32,
    },
    /// A control body that does not decode.
    #[error("malformed {0:?}: {1}")]
    Body(FrameType, WireError),
    /// A codec frame that does not decode.
    #[error("malformed batch: {0}")]
    Codec(String),
    /// A codec frame that does not follow on those before it, or that was damaged on the way.
    #[error("batch out of step: {0}")]
    History(String),
    /// Not as many runs as messages.
    #[error("an envelope of {runs} runs in front of {messages} messages")]
    RunCount {
        /// In the envelope.
        runs: usize,
        /// In the codec frame.
        messages: usize,
    },
    /// What was to be sent fits no frame: a defect of this node, not of the peer.
    #[error("a batch that no frame holds: {0}")]
    Encode(EncodeError),
}

/// What the first bytes of a peer show of it. Only a node without TLS sees another's records.
fn preamble(bytes: &[u8; 8]) -> String {
    const REMEDY: &str = "give it certificate, key and ca in [security], or check the address";
    match bytes {
        // An alert, which is what a plaintext Hello is answered with.
        [0x15, 0x03, ..] => format!("the peer wants TLS, and this node has no certificates: {REMEDY}"),
        // A handshake.
        [0x16, 0x03, ..] => format!("the peer speaks TLS, and this node has no certificates: {REMEDY}"),
        _ => format!("the peer does not speak this protocol: it began with {bytes:02x?}"),
    }
}

impl FrameError {
    /// All label values, for metrics that exist before they are first counted.
    pub const LABELS: [&str; 11] = [
        "preamble",
        "unknown_type",
        "lane",
        "reserved",
        "too_long",
        "checksum",
        "body",
        "codec",
        "history",
        "run_count",
        "encode",
    ];

    /// A label value in snake case.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Preamble(_) => "preamble",
            Self::UnknownType(_) => "unknown_type",
            Self::Lane(_) => "lane",
            Self::Reserved => "reserved",
            Self::TooLong { .. } => "too_long",
            Self::Checksum { .. } => "checksum",
            Self::Body(..) => "body",
            Self::Codec(_) => "codec",
            Self::History(_) => "history",
            Self::RunCount { .. } => "run_count",
            Self::Encode(_) => "encode",
        }
    }
}

/// A frame, decoded and checked as far as it can be without knowing the link.
#[derive(Debug)]
pub enum Received {
    /// See [`Hello`]; the body as received, for the transcript.
    Hello(Hello, Bytes),
    /// See [`Welcome`]; the body as received, for the transcript.
    Welcome(Welcome, Bytes),
    /// See [`Refuse`].
    Refuse(Refuse),
    /// See [`Confirm`].
    Confirm(Confirm),
    /// See [`Close`].
    Close(Close),
    /// See [`Ping`].
    Ping(Ping),
    /// See [`Pong`].
    Pong(Pong),
    /// See [`Roster`].
    Roster(Roster),
    /// A batch.
    Batch(Envelope, Frame),
    /// See [`Ack`].
    Ack(Ack),
    /// No frame: so much has come by now that the other end has to be told.
    News,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    kind: FrameType,
    control_bytes: usize,
    payload_bytes: usize,
    checksum: u32,
    /// The twelve bytes that the checksum covers.
    covered: [u8; 12],
    /// The control body is there, and the checksum holds.
    checked: bool,
}

/// What the two ends of a connection agreed on in their handshake: call [`FrameReader::open`], and have what is written
/// encoded accordingly.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Lane of the connection.
    pub lane: Lane,
    /// Longest frame that either end may send, bytes.
    pub frame_bytes_max: usize,
    /// What their histories begin with, if both keep any.
    pub epochs: Option<Epochs>,
    /// What came the other way and is not sent back, if both know how; only where they keep histories.
    pub echo: Option<SharedEcho>,
}

/// Cuts a connection's bytes into frames.
#[derive(Debug)]
pub struct FrameReader {
    lane: Option<Lane>,
    preamble_seen: bool,
    header: Option<Header>,
    control_bytes_max: usize,
    payload_bytes_max: usize,
    codec: BatchDecoder,
    /// [`Received::News`] is next.
    news: bool,
}

impl FrameReader {
    /// For a new connection: handshake frames only, until [`FrameReader::open`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            lane: None,
            preamble_seen: false,
            header: None,
            control_bytes_max: HANDSHAKE_BYTES_MAX,
            payload_bytes_max: 0,
            codec: BatchDecoder::Alone(Limits::default()),
            news: false,
        }
    }

    /// The handshake is complete: frames of this lane, and so long, are legal.
    pub fn open(&mut self, opened: &Opened) {
        self.lane = Some(opened.lane);
        self.control_bytes_max = CONTROL_BYTES_MAX;
        self.payload_bytes_max = opened.frame_bytes_max;
        self.codec = BatchDecoder::new(opened);
    }

    /// Takes the next frame from the front of `buffer`, if it is there whole. Also says how long it was.
    ///
    /// # Errors
    /// [`FrameError`]: close the connection.
    pub fn read(&mut self, buffer: &mut BytesMut) -> Result<Option<(Received, usize)>, FrameError> {
        if std::mem::take(&mut self.news) {
            return Ok(Some((Received::News, 0)));
        }
        if !self.preamble_seen {
            let known = buffer.len().min(PREAMBLE.len());
            if buffer[..known] != PREAMBLE[..known] {
                let mut shown = [0; 8];
                shown[..known].copy_from_slice(&buffer[..known]);
                return Err(FrameError::Preamble(shown));
            }
            if known < PREAMBLE.len() {
                return Ok(None);
            }
            buffer.advance(PREAMBLE.len());
            self.preamble_seen = true;
        }
        let header = match self.header {
            Some(header) => header,
            None => {
                let Some(bytes) = buffer.first_chunk::<HEADER_BYTES>() else {
                    return Ok(None);
                };
                let header = self.parse_header(bytes)?;
                buffer.advance(HEADER_BYTES);
                self.header = Some(header);
                header
            }
        };
        // Before the payload is waited for: a damaged length would be waited for in vain, as long as the link lives.
        if !header.checked
            && let Some(control) = buffer.get(..header.control_bytes)
        {
            let actual = checksum(&header.covered, control);
            if actual != header.checksum {
                return Err(FrameError::Checksum { stated: header.checksum, actual });
            }
            self.header = Some(Header { checked: true, ..header });
        }
        if buffer.len() < header.control_bytes + header.payload_bytes {
            return Ok(None);
        }
        self.header = None;
        let control = buffer.split_to(header.control_bytes).freeze();
        let payload = buffer.split_to(header.payload_bytes).freeze();
        let bytes = HEADER_BYTES + header.control_bytes + header.payload_bytes;
        Ok(Some((self.parse_body(header.kind, control, payload)?, bytes)))
    }

    /// The length of the control body that is waited for, bytes, once its header was read. A damaged one may never come.
    #[must_use]
    pub fn awaits_control(&self) -> Option<usize> {
        self.header.filter(|header| !header.checked).map(|header| header.control_bytes)
    }

    /// Bytes still missing before [`FrameReader::read`] has another frame, at least 1. It may refuse the frame with fewer.
    #[must_use]
    pub fn missing(&self, buffer: &BytesMut) -> usize {
        let wanted = match self.header {
            Some(header) => header.control_bytes + header.payload_bytes,
            None if self.preamble_seen => HEADER_BYTES,
            None => PREAMBLE.len() + HEADER_BYTES,
        };
        wanted.saturating_sub(buffer.len()).max(1)
    }

    fn parse_header(&self, bytes: &[u8; HEADER_BYTES]) -> Result<Header, FrameError> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let kind = FrameType::from_wire(bytes[0]).ok_or(FrameError::UnknownType(bytes[0]))?;
        let lane = Lane::from_index(bytes[1]).ok_or(FrameError::Lane(bytes[1]))?;
        if self.lane.is_some_and(|expected| expected != lane) {
            return Err(FrameError::Lane(bytes[1]));
        }
        if bytes[2..4] != [0, 0] {
            return Err(FrameError::Reserved);
        }
        let payload_max = if kind == FrameType::Batch { self.payload_bytes_max } else { 0 };
        let length = |what, value: u32, max: usize| {
            usize::try_from(value).ok().filter(|bytes| *bytes <= max).ok_or(FrameError::TooLong {
                what,
                bytes: value,
                max,
            })
        };
        let mut covered = [0; 12];
        covered.copy_from_slice(&bytes[..12]);
        Ok(Header {
            kind,
            control_bytes: length("control body", word(4), self.control_bytes_max)?,
            payload_bytes: length("payload", word(8), payload_max)?,
            checksum: word(12),
            covered,
            checked: false,
        })
    }

    fn parse_body(
        &mut self,
        kind: FrameType,
        control: Bytes,
        payload: Bytes,
    ) -> Result<Received, FrameError> {
        fn body<T: serde::de::DeserializeOwned>(kind: FrameType, control: &[u8]) -> Result<T, FrameError> {
            decode(control).map_err(|error| FrameError::Body(kind, error))
        }
        Ok(match kind {
            FrameType::Hello => Received::Hello(body(kind, &control)?, control),
            FrameType::Welcome => Received::Welcome(body(kind, &control)?, control),
            FrameType::Refuse => Received::Refuse(body(kind, &control)?),
            FrameType::Confirm => Received::Confirm(body(kind, &control)?),
            FrameType::Close => Received::Close(body(kind, &control)?),
            FrameType::Ping => Received::Ping(body(kind, &control)?),
            FrameType::Pong => Received::Pong(body(kind, &control)?),
            FrameType::Roster => Received::Roster(body(kind, &control)?),
            FrameType::Ack => {
                let ack: Ack = body(kind, &control)?;
                ack.check().map_err(|error| FrameError::Body(kind, error))?;
                Received::Ack(ack)
            }
            FrameType::Batch => {
                let envelope: Envelope = body(kind, &control)?;
                let frame = self.codec.parse(payload, &envelope.runs).map_err(|error| match error {
                    DecodeError::Streams { messages, streams } => {
                        FrameError::RunCount { runs: streams, messages }
                    }
                    DecodeError::History { .. }
                    | DecodeError::Reference { .. }
                    | DecodeError::Arrived { .. } => FrameError::History(error.to_string()),
                    _ => FrameError::Codec(error.to_string()),
                })?;
                let tells = envelope.runs.is_empty()
                    && self.codec.takes_news()
                    && frame.message_count() == 1
                    && frame.message(0).next().is_none();
                if envelope.runs.len() != frame.message_count() && !tells {
                    return Err(FrameError::RunCount {
                        runs: envelope.runs.len(),
                        messages: frame.message_count(),
                    });
                }
                self.news = self.codec.ack_due();
                Received::Batch(envelope, frame)
            }
        })
    }
}

/// What the codec may build and rebuild on a connection; both ends compute it from the frame length they agreed on.
///
/// A frame may rebuild to more than its own length: that is what it is for. What it rebuilds to is slices of this one
/// buffer; the pieces themselves are charged by the codec's own limit.
#[must_use]
pub fn codec_limits(frame_bytes_max: usize) -> Limits {
    Limits {
        message_bytes: frame_bytes_max,
        output_bytes: frame_bytes_max.saturating_mul(16),
        data_bytes: frame_bytes_max,
        ..Limits::default()
    }
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::new()
    }
}

fn checksum(covered: &[u8; 12], control: &[u8]) -> u32 {
    checksum::append(checksum::crc32c(covered), control)
}

fn header(kind: FrameType, lane: Lane, control: &[u8], payload_bytes: usize) -> [u8; HEADER_BYTES] {
    let length = |bytes: usize| u32::try_from(bytes).expect("frames are far below 4 GiB").to_le_bytes();
    let mut covered = [0; 12];
    covered[0] = kind as u8;
    covered[1] = u8::try_from(lane.index()).expect("two lanes");
    covered[4..8].copy_from_slice(&length(control.len()));
    covered[8..12].copy_from_slice(&length(payload_bytes));
    let mut bytes = [0; HEADER_BYTES];
    bytes[..12].copy_from_slice(&covered);
    bytes[12..].copy_from_slice(&checksum(&covered, control).to_le_bytes());
    bytes
}

/// A frame without payload as bytes.
#[must_use]
pub fn control_frame(kind: FrameType, lane: Lane, body: &impl serde::Serialize) -> Bytes {
    frame_around(kind, lane, &encode(body))
}

/// As [`control_frame`], the body being encoded already.
#[must_use]
pub fn frame_around(kind: FrameType, lane: Lane, control: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + control.len());
    bytes.extend_from_slice(&header(kind, lane, control, 0));
    bytes.extend_from_slice(control);
    bytes.freeze()
}

/// A batch ready for the wire but for the codec, which runs where it holds nobody up.
#[derive(Clone, Debug)]
pub struct SealedBatch {
    /// Its lane.
    pub lane: Lane,
    /// The envelope.
    pub envelope: Envelope,
    /// Payload i belongs to run i.
    pub payloads: Vec<Payload>,
    /// The codec's second stage on this connection.
    pub stage: Stage,
    /// Comes back when the batch was written.
    pub token: Token,
}

/// What the machines want to know again when a batch was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Token {
    /// The sender's attempt.
    Attempt(u64),
    /// A forwarded run; when it had come in.
    Forward {
        /// Arrival at the proxy.
        received_at: super::time::Micros,
    },
    /// Nothing: it says what has arrived.
    News,
}

/// What came of a sealed batch.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// From the [`SealedBatch`].
    pub token: Token,
    /// Codec frame before the second stage, bytes.
    pub diff_bytes: u64,
    /// Codec frame as sent, bytes.
    pub staged_bytes: u64,
    /// Bytes that were named and not sent, because the other end had sent them.
    pub echoed_bytes: u64,
    /// No later frame may refer to this one: the other end has not said for too long what arrived.
    pub unremembered: bool,
}

impl SealedBatch {
    /// A batch of no runs, by which the other end gets to know what has arrived.
    #[must_use]
    pub fn news(lane: Lane) -> Self {
        Self {
            lane,
            envelope: Envelope { batch: 0, attempt: 1, runs: Vec::new() },
            payloads: vec![Payload::default()],
            stage: Stage::None,
            token: Token::News,
        }
    }

    /// As [`SealedBatch::try_encode`], for tests and simulations, which want to see a defect where it happens.
    ///
    /// # Panics
    /// When the machines sealed more than one frame can hold.
    pub fn encode(&self, encoder: &mut BatchEncoder, wire: &mut Vec<Bytes>) -> Written {
        self.try_encode(encoder, wire).expect("sealed batches keep the codec's limits")
    }

    /// The frame as slices for one vectored write, appended to `wire`.
    ///
    /// # Errors
    /// [`FrameError::Encode`] when the machines sealed more than one frame can hold, a defect of this crate. Nothing was
    /// appended; close the connection, as what its books say was sent was not.
    pub fn try_encode(
        &self,
        encoder: &mut BatchEncoder,
        wire: &mut Vec<Bytes>,
    ) -> Result<Written, FrameError> {
        let frame = encoder.encode(self).map_err(FrameError::Encode)?;
        let control = encode(&self.envelope);
        let mut head = BytesMut::with_capacity(HEADER_BYTES + control.len());
        head.extend_from_slice(&header(FrameType::Batch, self.lane, &control, frame.len()));
        head.extend_from_slice(&control);
        wire.push(head.freeze());
        wire.extend(frame.slices().iter().cloned());
        let stats = frame.stats();
        Ok(Written {
            token: self.token,
            diff_bytes: u64::try_from(stats.diff_bytes).unwrap_or(u64::MAX),
            staged_bytes: u64::try_from(stats.frame_bytes).unwrap_or(u64::MAX),
            echoed_bytes: u64::try_from(stats.echoed_bytes).unwrap_or(u64::MAX),
            unremembered: frame.is_unremembered(),
        })
    }
}

/// What one run costs sent directly in a frame of its own: header, envelope of one run and plain codec framing, as
/// measured by a test below.
#[must_use]
pub fn direct_frame_bytes(run_bytes: usize) -> u64 {
    u64::try_from(run_bytes + DIRECT_OVERHEAD_BYTES).unwrap_or(u64::MAX)
}

/// Header 16, envelope of one run about 10, codec frame without its data about 11.
const DIRECT_OVERHEAD_BYTES: usize = 37;

#[cfg(test)]
mod tests;
