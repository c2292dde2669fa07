//! How the batches of one connection become codec frames and the other way round: each alone, or, where both ends keep
//! histories, as a session that sends only what was not said before.
//!
//! A session needs every frame that was encoded to be written, and in that order; the writer of a connection does that, or
//! closes it. A stream of the session is a row of the connection's roster: one flow.

use bytes::Bytes;
use trunkline_codec::{
    DecodeError, EchoDecoder, EchoEncoder, EncodeError, EncodedFrame, Encoder, Epochs, Frame, Options,
    SessionDecoder, SessionEncoder, Stage,
};

use super::echo::SharedEcho;
use super::frame::{Opened, SealedBatch, codec_limits};
use super::wire::{FEATURE_ZSTD, Run};
use crate::id::Lane;

/// What the histories of a connection begin with. Both ends have the transcript of their handshake in common, and no other
/// connection has.
#[must_use]
pub fn epochs_of(transcript: u32, dialled: bool) -> Epochs {
    let (from_dialler, from_acceptor) = (u64::from(transcript) << 1, u64::from(transcript) << 1 | 1);
    let epochs = Epochs { incoming: from_acceptor, outgoing: from_dialler };
    if dialled { epochs } else { epochs.reversed() }
}

/// The second stage of a batch to another datacenter. It pays where bytes are dear, and never in front of something urgent;
/// zstd only where both ends have it.
#[must_use]
pub fn second_stage(wanted: Stage, lane: Lane, features: u64) -> Stage {
    match wanted {
        _ if lane != Lane::Bulk => Stage::None,
        Stage::Zstd if features & FEATURE_ZSTD == 0 => Stage::Lz4,
        stage => stage,
    }
}

/// The sending end of a connection's batches.
#[derive(Debug)]
pub enum BatchEncoder {
    /// Every frame stands alone.
    Alone(Box<Encoder>),
    /// Frames refer to earlier ones.
    Session(Box<SessionEncoder>),
    /// And to what came the other way, or what they bring is kept for frames that come the other way.
    Echo(Box<EchoEncoder>, SharedEcho),
}

impl BatchEncoder {
    /// The encoder of a connection; of none, every frame stands alone.
    #[must_use]
    pub fn new(options: Options, opened: Option<&Opened>) -> Self {
        let histories = opened.and_then(|opened| Some((opened.epochs?, opened.echo.clone())));
        match histories {
            None => Self::Alone(Box::new(Encoder::new(options))),
            Some((epochs, None)) => Self::Session(Box::new(SessionEncoder::new(options, epochs.outgoing))),
            Some((epochs, Some(echo))) => Self::Echo(Box::new(EchoEncoder::new(options, epochs)), echo),
        }
    }

    /// The next codec frame.
    ///
    /// # Errors
    /// [`EncodeError`] when no frame holds the batch.
    pub fn encode(&mut self, batch: &SealedBatch) -> Result<EncodedFrame, EncodeError> {
        match self {
            Self::Alone(encoder) => {
                encoder.set_stage(batch.stage);
                encoder.encode(&batch.payloads)
            }
            Self::Session(encoder) => {
                encoder.set_stage(batch.stage);
                encoder.encode(&rows_of(&batch.envelope.runs), &batch.payloads)
            }
            Self::Echo(encoder, echo) => {
                encoder.set_stage(batch.stage);
                echo.encode(encoder, &rows_beside(&batch.envelope.runs), &batch.payloads)
            }
        }
    }

    /// Gives back working memory. What a session remembers stays.
    pub fn release(&mut self) {
        match self {
            Self::Alone(encoder) => encoder.release(),
            Self::Session(encoder) => encoder.release(),
            Self::Echo(encoder, _) => encoder.release(),
        }
    }
}

/// The receiving end of a connection's batches.
#[derive(Debug)]
pub enum BatchDecoder {
    /// Every frame stands alone.
    Alone(trunkline_codec::Limits),
    /// Frames refer to earlier ones.
    Session(Box<SessionDecoder>),
    /// And to what went the other way, or what they bring is kept for frames that go the other way.
    Echo(Box<EchoDecoder>, SharedEcho),
}

impl BatchDecoder {
    /// The decoder of a connection.
    #[must_use]
    pub fn new(opened: &Opened) -> Self {
        let limits = codec_limits(opened.frame_bytes_max);
        match (opened.epochs, opened.echo.clone()) {
            (None, _) => Self::Alone(limits),
            (Some(epochs), None) => Self::Session(Box::new(SessionDecoder::new(limits, epochs.incoming))),
            (Some(epochs), Some(echo)) => Self::Echo(Box::new(EchoDecoder::new(limits, epochs)), echo),
        }
    }

    /// The messages of the next codec frame, which are those of these runs.
    ///
    /// # Errors
    /// [`DecodeError`]: close the connection.
    pub fn parse(&mut self, bytes: Bytes, runs: &[Run]) -> Result<Frame, DecodeError> {
        match self {
            Self::Alone(limits) => Frame::parse(bytes, limits),
            Self::Session(decoder) => decoder.parse(bytes, &rows_of(runs)),
            Self::Echo(decoder, echo) => echo.parse(decoder, bytes, &rows_beside(runs), runs),
        }
    }

    /// A batch may have no run: it says what has arrived.
    #[must_use]
    pub fn takes_news(&self) -> bool {
        matches!(self, Self::Echo(_, echo) if !echo.refers())
    }

    /// The other end has to be told what has arrived, if nothing goes there that says so by itself.
    #[must_use]
    pub fn ack_due(&self) -> bool {
        matches!(self, Self::Echo(_, echo) if echo.ack_due())
    }
}

/// The streams of a batch's messages.
fn rows_of(runs: &[Run]) -> Vec<u32> {
    runs.iter().map(|run| run.flow).collect()
}

/// The same beside the other direction, where a batch without runs has one message, which is empty.
fn rows_beside(runs: &[Run]) -> Vec<u32> {
    if runs.is_empty() { vec![0] } else { rows_of(runs) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Seq;
    use crate::proto::frame::Token;
    use crate::proto::run::message_head;
    use crate::proto::wire::Envelope;

    #[test]
    fn the_two_ends_agree_on_both_directions() {
        let (dialler, acceptor) = (epochs_of(7, true), epochs_of(7, false));
        assert_eq!(dialler, acceptor.reversed());
        assert_ne!(dialler.incoming, dialler.outgoing);
        assert_ne!(epochs_of(8, true).outgoing, dialler.outgoing);
    }

    /// Both ends of a bulk connection that echoes, as the handshake makes them: who dialled it first.
    fn ends(transcript: u32) -> [Opened; 2] {
        [true, false].map(|dialled| {
            let epochs = epochs_of(transcript, dialled);
            let echo = Some(SharedEcho::new(dialled, epochs));
            Opened { lane: Lane::Bulk, frame_bytes_max: 1 << 20, epochs: Some(epochs), echo }
        })
    }

    const RUN: Run = Run { flow: 0, first: Seq(1), count: 1, floor_back: 0, deadline_ms: 1000 };

    fn batch(message: &[u8]) -> SealedBatch {
        let head = message_head(0, message.len());
        SealedBatch {
            lane: Lane::Bulk,
            envelope: Envelope { batch: 1, attempt: 1, runs: vec![RUN] },
            payloads: vec![[head, Bytes::copy_from_slice(message)].into_iter().collect()],
            stage: Stage::None,
            token: Token::Attempt(0),
        }
    }

    /// An origin that is silent makes its proxy send what need not be kept, which is said of every such frame.
    #[test]
    fn what_nobody_may_refer_to_is_told() {
        let [_, proxy] = ends(1);
        let mut up = BatchEncoder::new(Options::default(), Some(&proxy));
        let mut rng = fastrand::Rng::with_seed(2);
        let mut unremembered = |len: usize| {
            let message: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
            batch(&message).encode(&mut up, &mut Vec::new()).unremembered
        };
        assert!((0..9).all(|_| !unremembered(400_000)), "3.6 MB are open");
        assert!((0..5).any(|_| unremembered(400_000)) && !unremembered(100), "short ones have room");
    }

    /// Of two connections to one proxy an origin takes what came over the first for what came over the second, where as much
    /// went up: every place that it names is one that the proxy knows.
    #[test]
    fn what_came_over_another_connection_is_not_taken_from_this_one() {
        let mut rng = fastrand::Rng::with_seed(1);
        let values = [0, 1].map(|_| std::iter::repeat_with(|| rng.u8(..)).take(9000).collect::<Vec<u8>>());
        for stale in [false, true] {
            let connections = [ends(1), ends(2)];
            for ([origin, proxy], value) in connections.iter().zip(&values) {
                let up = BatchEncoder::new(Options::default(), Some(proxy)).encode(&batch(value)).unwrap();
                BatchDecoder::new(origin).parse(up.to_bytes(), &[RUN]).unwrap();
            }
            let [[first, _], [second, proxy]] = &connections;
            let (echo, value) = if stale { (&first.echo, &values[0]) } else { (&second.echo, &values[1]) };
            let origin = Opened { echo: echo.clone(), ..second.clone() };
            let down = BatchEncoder::new(Options::default(), Some(&origin)).encode(&batch(value)).unwrap();
            assert_eq!(down.stats().echoed_bytes, 9000);
            match BatchDecoder::new(proxy).parse(down.to_bytes(), &[RUN]) {
                Ok(frame) => assert!(!stale && frame.to_vec(0).ends_with(value)),
                Err(error) => assert!(stale && matches!(error, DecodeError::History { .. }), "{error}"),
            }
        }
    }
}
