//! How the batches of one connection become codec frames and the other way round: each alone, or, where both ends keep
//! histories, as a session that sends only what was not said before.
//!
//! A session needs every frame that was encoded to be written, and in that order; the writer of a connection does that, or
//! closes it. A stream of the session is a row of the connection's roster: one flow.

use bytes::Bytes;
use trunkline_codec::{
    DecodeError, EncodeError, EncodedFrame, Encoder, Epochs, Frame, Options, SessionDecoder, SessionEncoder,
    Stage,
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
    /// Frames refer to earlier ones, and to what came the other way where that is kept.
    Session(Box<SessionEncoder>, Option<SharedEcho>),
}

impl BatchEncoder {
    /// The encoder of a connection; of none, every frame stands alone.
    #[must_use]
    pub fn new(options: Options, opened: Option<&Opened>) -> Self {
        let histories = opened.and_then(|opened| Some((opened.epochs?, opened.echo.clone())));
        match histories {
            None => Self::Alone(Box::new(Encoder::new(options))),
            Some((epochs, echo)) => {
                Self::Session(Box::new(SessionEncoder::new(options, epochs.outgoing)), echo)
            }
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
            Self::Session(encoder, echo) => {
                encoder.set_stage(batch.stage);
                let rows = rows_of(&batch.envelope.runs, echo.is_some());
                match echo {
                    None => encoder.encode(&rows, &batch.payloads),
                    Some(echo) => echo.encode(encoder, &rows, &batch.payloads),
                }
            }
        }
    }

    /// Gives back working memory. What a session remembers stays.
    pub fn release(&mut self) {
        match self {
            Self::Alone(encoder) => encoder.release(),
            Self::Session(encoder, _) => encoder.release(),
        }
    }
}

/// The receiving end of a connection's batches.
#[derive(Debug)]
pub enum BatchDecoder {
    /// Every frame stands alone.
    Alone(trunkline_codec::Limits),
    /// Frames refer to earlier ones, and to what came the other way where that is kept.
    Session(Box<SessionDecoder>, Option<SharedEcho>),
}

impl BatchDecoder {
    /// The decoder of a connection.
    #[must_use]
    pub fn new(opened: &Opened) -> Self {
        let limits = codec_limits(opened.frame_bytes_max);
        match opened.epochs {
            None => Self::Alone(limits),
            Some(epochs) => {
                Self::Session(Box::new(SessionDecoder::new(limits, epochs.incoming)), opened.echo.clone())
            }
        }
    }

    /// The messages of the next codec frame, which are those of these runs.
    ///
    /// # Errors
    /// [`DecodeError`]: close the connection.
    pub fn parse(&mut self, bytes: Bytes, runs: &[Run]) -> Result<Frame, DecodeError> {
        match self {
            Self::Alone(limits) => Frame::parse(bytes, limits),
            Self::Session(decoder, None) => decoder.parse(bytes, &rows_of(runs, false)),
            Self::Session(decoder, Some(echo)) => echo.parse(decoder, bytes, &rows_of(runs, true), runs),
        }
    }

    /// A batch may have no run: it says what has arrived.
    #[must_use]
    pub fn takes_news(&self) -> bool {
        matches!(self, Self::Session(_, Some(echo)) if !echo.refers())
    }

    /// The other end has to be told what has arrived, if nothing goes there that says so by itself.
    #[must_use]
    pub fn has_news(&self) -> bool {
        matches!(self, Self::Session(_, Some(echo)) if echo.has_news())
    }
}

/// The streams of a batch's messages. One without runs has one message, which is empty.
fn rows_of(runs: &[Run], echoes: bool) -> Vec<u32> {
    if runs.is_empty() && echoes { vec![0] } else { runs.iter().map(|run| run.flow).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_ends_agree_on_both_directions() {
        let (dialler, acceptor) = (epochs_of(7, true), epochs_of(7, false));
        assert_eq!(dialler, acceptor.reversed());
        assert_ne!(dialler.incoming, dialler.outgoing);
        assert_ne!(epochs_of(8, true).outgoing, dialler.outgoing);
    }
}
