//! Both directions of one connection: what the peer sent need not be sent back to it.

use bytes::Bytes;

use crate::decode::Frame;
use crate::echo::EchoWindow;
use crate::encode::Options;
use crate::encoded::EncodedFrame;
use crate::epochs::Epochs;
use crate::error::{DecodeError, EncodeError};
use crate::limits::Limits;
use crate::payload::Payload;
use crate::session::{SessionDecoder, SessionEncoder};
use crate::stage::Stage;

/// One end of a connection, both directions: besides its streams it remembers what the peer sent, and does not send
/// that back.
///
/// Bytes are recognised by where they lie in memory: pass on the slices that [`parse`](Self::parse) gave out, not
/// copies of them. One MiB of what came is kept for that: data columns of up to 16 KiB as copies, whose slices are what
/// [`parse`](Self::parse) gives out; of longer ones, of which there are at most 64, the buffers that were parsed, with
/// everything else that these hold. Of what this end sent it keeps up to 4 MiB that the peer has not yet said to have
/// got, and the MiB before that, in whole segments. A frame that would make more than that open, or more than 8,192
/// frames, is sent unremembered ([`Frame::is_unremembered`]), as one is that has more than 4 MiB alone. Segments of
/// more than 16 KiB are kept by reference, and with them the buffers that they are slices of. Both ends have to send
/// now and then ([`ack_due`](Self::ack_due)), and both use a `Session` or its halves, [`EchoEncoder`] and
/// [`EchoDecoder`]: a [`SessionDecoder`] refuses frames that refer to what its end sent. Where only one end sends, use
/// that and a [`SessionEncoder`].
///
/// The first error of [`parse`](Self::parse) ends the connection: nothing more can be read, and what this end still encodes
/// is for a peer that cannot be heard. Close it and begin a new one, at both ends.
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
    encoder: EchoEncoder,
    decoder: EchoDecoder,
    window: EchoWindow,
}

/// The sending end of one direction, beside the other one: what the peer sent is not sent back, or what is sent is kept
/// for the peer to refer to, as the window says. Where the two halves of an end are used apart, such as by a reader and
/// a writer, both take the one window of their connection. Where it is of what this end received, that of the peer is of
/// what it sent, or of both; and the other way round.
///
/// With the window of another connection the peer refuses the first frame that says what of it arrived: as
/// [`DecodeError::History`] if a frame that it sent itself ends there, else as [`DecodeError::Arrived`]; and as
/// [`DecodeError::Unsupported`] where it keeps nothing of what it sent. Where both halves of an end have a window of
/// their own, that end refuses what the peer says, as [`DecodeError::Arrived`], and never says itself what arrived; nor
/// does anybody where both ends have a window of what they sent. What nobody says to have arrived is remembered up to 4
/// MiB or 8,192 frames, and then nothing more is.
///
/// ```
/// use trunkline_codec::{EchoDecoder, EchoEncoder, EchoWindow, Epochs, Limits, Options, Payload};
///
/// // The leader names what the proxy sent; nobody names what the leader sent. Threads share a window behind a lock, which is held
/// // while a frame is encoded or parsed.
/// let epochs = Epochs { outgoing: 1, incoming: 2 };
/// let (options, limits) = (Options::default(), Limits::default());
/// let mut proxy = EchoWindow::of_sent(epochs);
/// let (mut up, mut from_leader) = (EchoEncoder::new(options, epochs), EchoDecoder::new(limits, epochs));
/// let epochs = epochs.reversed();
/// let mut leader = EchoWindow::of_received(epochs);
/// let (mut down, mut from_proxy) = (EchoEncoder::new(options, epochs), EchoDecoder::new(limits, epochs));
///
/// let proposal: Vec<u8> = (0..10_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
/// let frame = up.encode(&mut proxy, &[9], &[Payload::from(proposal.clone())])?;
/// let got = from_proxy.parse(&mut leader, frame.to_bytes(), &[9])?;
/// let entry: Payload = got.message(0).collect();
/// let frame = down.encode(&mut leader, &[1, 2], &[entry.clone(), entry])?;
/// assert!(frame.len() < 40);
/// assert_eq!(from_leader.parse(&mut proxy, frame.to_bytes(), &[1, 2])?.to_vec(1), proposal);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct EchoEncoder(SessionEncoder);

/// The receiving end of one direction, beside the other one. It reads what an [`EchoEncoder`] made.
#[derive(Debug)]
pub struct EchoDecoder(SessionDecoder);

impl EchoEncoder {
    /// As [`SessionEncoder::new`], with [`Epochs::outgoing`].
    #[must_use]
    pub fn new(options: Options, epochs: Epochs) -> Self {
        Self(SessionEncoder::new(options, epochs.outgoing))
    }

    /// As [`SessionEncoder::encode`].
    ///
    /// # Errors
    ///
    /// Those of [`SessionEncoder::encode`].
    pub fn encode(
        &mut self,
        window: &mut EchoWindow,
        streams: &[u32],
        payloads: &[Payload],
    ) -> Result<EncodedFrame, EncodeError> {
        self.0.encode_with(streams, payloads, true, Some(window))
    }

    /// As [`SessionEncoder::encode_unremembered`].
    ///
    /// # Errors
    ///
    /// Those of [`SessionEncoder::encode`].
    pub fn encode_unremembered(
        &mut self,
        window: &mut EchoWindow,
        streams: &[u32],
        payloads: &[Payload],
    ) -> Result<EncodedFrame, EncodeError> {
        self.0.encode_with(streams, payloads, false, Some(window))
    }

    /// As [`SessionEncoder::set_stage`].
    pub fn set_stage(&mut self, stage: Stage) {
        self.0.set_stage(stage);
    }

    /// As [`SessionEncoder::release`].
    pub fn release(&mut self) {
        self.0.release();
    }
}

impl EchoDecoder {
    /// As [`SessionDecoder::new`], with [`Epochs::incoming`].
    #[must_use]
    pub fn new(limits: Limits, epochs: Epochs) -> Self {
        Self(SessionDecoder::new(limits, epochs.incoming))
    }

    /// As [`SessionDecoder::parse`].
    ///
    /// # Errors
    ///
    /// Those of [`SessionDecoder::parse`]. Besides its own direction a frame proves that the peer counts as this end what came
    /// the other way, wherever it refers to that.
    pub fn parse(
        &mut self,
        window: &mut EchoWindow,
        bytes: Bytes,
        streams: &[u32],
    ) -> Result<Frame, DecodeError> {
        self.0.parse_with(bytes, streams, Some(window))
    }

    /// As [`SessionDecoder::reserialise`].
    ///
    /// # Errors
    ///
    /// Those of [`SessionDecoder::reserialise`].
    #[doc(hidden)]
    pub fn reserialise(
        &self,
        window: &EchoWindow,
        bytes: Bytes,
        streams: &[u32],
    ) -> Result<Vec<u8>, DecodeError> {
        self.0.reserialise_with(bytes, streams, Some(window))
    }

    /// What the checksum of this frame goes on from, whatever checksum it carries. For tests that make frames.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] where there is no such checksum.
    #[doc(hidden)]
    pub fn begins(&self, window: &EchoWindow, frame: &[u8], streams: &[u32]) -> Result<u32, DecodeError> {
        self.0.begins(streams, Some(window)).of(frame)
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
            encoder: EchoEncoder::new(options, epochs),
            decoder: EchoDecoder::new(incoming, epochs),
            window: EchoWindow::of_both(epochs),
        }
    }

    /// As [`SessionEncoder::encode`].
    ///
    /// # Errors
    ///
    /// Those of [`SessionEncoder::encode`].
    pub fn encode(&mut self, streams: &[u32], payloads: &[Payload]) -> Result<EncodedFrame, EncodeError> {
        self.encoder.encode(&mut self.window, streams, payloads)
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
        self.encoder.encode_unremembered(&mut self.window, streams, payloads)
    }

    /// As [`SessionEncoder::set_stage`].
    pub fn set_stage(&mut self, stage: Stage) {
        self.encoder.set_stage(stage);
    }

    /// Whether a quarter of a MiB, or 2,048 frames with bytes of their own, have arrived since this end said so last.
    /// An end that has nothing to send for long sends an empty message then, of a stream that is kept for it: its peer
    /// keeps what it does not know to have arrived, 4 MiB or 8,192 frames at most, and after these sends all frames
    /// unremembered.
    #[must_use]
    pub fn ack_due(&self) -> bool {
        self.window.ack_due()
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
        self.decoder.parse(&mut self.window, bytes, streams)
    }

    /// As if this end had sent a frame with this data column and checksum. For tests, which read what no encoder wrote.
    #[doc(hidden)]
    pub fn note_sent(&mut self, column: Bytes, checksum: u32) {
        if let Some(sent) = &mut self.window.sent {
            sent.enter(std::iter::once(column));
            sent.ended(checksum);
        }
    }

    /// As [`SessionDecoder::reserialise`].
    ///
    /// # Errors
    ///
    /// Those of [`SessionDecoder::reserialise`].
    #[doc(hidden)]
    pub fn reserialise(&self, bytes: Bytes, streams: &[u32]) -> Result<Vec<u8>, DecodeError> {
        self.decoder.reserialise(&self.window, bytes, streams)
    }
}
