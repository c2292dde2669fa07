//! Why an encoding or a decoding did not happen: what was wrong, where, and which limit was passed.

use std::error::Error;
use std::fmt;

use crate::limits::DESTINATIONS_MAX;

/// Names one field of [`Limits`](crate::Limits) in an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LimitName {
    /// [`Limits::destinations`](crate::Limits::destinations)
    Destinations,
    /// [`Limits::message_bytes`](crate::Limits::message_bytes)
    MessageBytes,
    /// [`Limits::output_bytes`](crate::Limits::output_bytes)
    OutputBytes,
    /// [`Limits::pieces`](crate::Limits::pieces)
    Pieces,
    /// [`Limits::records`](crate::Limits::records)
    Records,
    /// [`Limits::data_bytes`](crate::Limits::data_bytes)
    DataBytes,
    /// [`Limits::set_bytes`](crate::Limits::set_bytes)
    SetBytes,
}

impl fmt::Display for LimitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Destinations => "destinations",
            Self::MessageBytes => "message_bytes",
            Self::OutputBytes => "output_bytes",
            Self::Pieces => "pieces",
            Self::Records => "records",
            Self::DataBytes => "data_bytes",
            Self::SetBytes => "set_bytes",
        })
    }
}

/// Why messages could not become a frame. Nothing was produced and the encoder is as good as before.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// No message was given; a frame has at least one destination.
    NoDestinations,
    /// The receiver could refuse the frame. Send less at once, or raise the limit on both sides.
    Limit {
        /// The limit that was passed.
        limit: LimitName,
        /// Its value.
        maximum: usize,
        /// What the messages need, or the one that is named; as a whole they may need more.
        needed: usize,
        /// The first message that passes it, where one alone does.
        message: Option<usize>,
    },
    /// The second stage zstd was asked of a build without the cargo feature `zstd`.
    StageUnsupported,
    /// A session needs the number of one stream for every message: name as many as there are messages.
    Streams {
        /// Messages given.
        messages: usize,
        /// Numbers given.
        streams: usize,
    },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDestinations => f.write_str("a frame needs at least one destination"),
            Self::Limit { limit: LimitName::Destinations, maximum, needed, .. }
                if *needed > DESTINATIONS_MAX =>
            {
                let border = (*maximum).min(DESTINATIONS_MAX);
                let (messages, of) = (Count(*needed, "message"), Count(border, "destination"));
                write!(f, "a frame has at most {of}, there are {messages}: send several frames")?;
                match border {
                    DESTINATIONS_MAX => Ok(()),
                    _ => {
                        write!(f, ", or fewer with the limit destinations at {DESTINATIONS_MAX} at both ends")
                    }
                }
            }
            Self::Limit { limit, maximum, needed, message: Some(message) } => write!(
                f,
                "limit {limit} is {maximum}, message {message} needs {needed}: send it in parts, or raise the limit at both ends"
            ),
            Self::Limit { limit, maximum, needed, message: None } => {
                let counted = match limit {
                    LimitName::Records | LimitName::DataBytes => ", counted before anything common is found",
                    _ => "",
                };
                write!(
                    f,
                    "limit {limit} is {maximum}, the messages need {needed}{counted}: send fewer at once, or raise the limit \
                     at both ends"
                )
            }
            Self::StageUnsupported => {
                f.write_str("the second stage zstd needs the cargo feature `zstd` of trunkline-codec")
            }
            Self::Streams { messages, streams } => {
                write!(
                    f,
                    "{} given, and {} named: name one for each message",
                    Count(*messages, "message"),
                    Count(*streams, "stream")
                )
            }
        }
    }
}

impl Error for EncodeError {}

/// So many of something.
struct Count(usize, &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, what) = self;
        write!(f, "{count} {what}{}", if *count == 1 { "" } else { "s" })
    }
}

/// Why bytes are not an acceptable frame. Nothing of the frame may be used. Offsets count from the frame's first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// Something ends before what it has to hold does.
    Truncated {
        /// Where its next byte was expected.
        offset: usize,
        /// What is too short.
        what: &'static str,
    },
    /// The first byte is not a frame's.
    Magic {
        /// The byte found.
        found: u8,
    },
    /// A version this build does not know.
    Version {
        /// The version found.
        found: u8,
    },
    /// A flag that is unknown, or a combination that has no meaning.
    Flags {
        /// The flags found.
        found: u8,
    },
    /// The frame belongs to no connection, and this decoder is a connection's, whose frames all have the flag HISTORY. The
    /// two ends did not agree: [`Frame::parse`](crate::Frame::parse) reads it, and the connection is over.
    NoHistory {
        /// The flags found.
        found: u8,
    },
    /// The frame needs something this decoder does not have.
    Unsupported {
        /// Where the need shows.
        offset: usize,
        /// What is needed.
        what: &'static str,
    },
    /// The checksum over everything before it differs.
    Checksum {
        /// Computed from the bytes.
        computed: u32,
        /// Carried by the frame.
        carried: u32,
        /// Where it carries it.
        offset: usize,
    },
    /// The checksum over everything before it, the numbers of its streams, and what came earlier on this connection differs.
    /// The two ends do not remember the same, other streams were named, or bytes were damaged: nothing that follows can be
    /// read. Begin a new connection.
    History {
        /// Computed from the bytes, the numbers given, and this end's history.
        computed: u32,
        /// Carried by the frame.
        carried: u32,
        /// Where it carries it.
        offset: usize,
        /// Numbers of streams given.
        streams: usize,
    },
    /// A record refers to bytes that are not there.
    Reference {
        /// First byte of the record.
        offset: usize,
        /// Which rule is broken.
        rule: &'static str,
    },
    /// No frame that this end sent ends where what is said to have arrived does, so there is no checksum that this one could go
    /// on from. The two ends do not remember the same, or bytes were damaged: begin a new connection.
    Arrived {
        /// Where it is said.
        offset: usize,
        /// Bytes that are said to have arrived since this was said last.
        announced: usize,
        /// Bytes that were sent and are not known to have arrived.
        unknown: usize,
    },
    /// The frame has another number of messages than of streams that its sender named, and this end with it: their numbers are
    /// under its checksum, which is right. No encoder of this crate makes such a frame. The connection is over.
    Streams {
        /// Messages in the frame.
        messages: usize,
        /// Numbers given.
        streams: usize,
    },
    /// An integer is spelled longer than needed or does not fit.
    Varint {
        /// Its first byte.
        offset: usize,
    },
    /// What is said to be a set of destinations is none.
    Set {
        /// Where the set begins, or the part of its spelling that shows it.
        offset: usize,
        /// Which rule is broken.
        rule: &'static str,
    },
    /// The bytes have a meaning, but are not the one spelling of it.
    NotCanonical {
        /// Where the other spelling begins.
        offset: usize,
        /// Which rule is broken.
        rule: &'static str,
    },
    /// A record code without a meaning, or without one in a frame that has not the flag for it: PAST and AGAIN need HISTORY, ECHO
    /// needs ECHO.
    Record {
        /// Its offset.
        offset: usize,
        /// The code found.
        code: u8,
    },
    /// A number is 0 and may not be.
    Length {
        /// Where it stands.
        offset: usize,
        /// Which rule is broken.
        rule: &'static str,
    },
    /// Bytes follow after the frame's end.
    Trailing {
        /// The first byte too many.
        offset: usize,
    },
    /// The second stage's block does not expand to the length that the records announce, or no block so short could.
    Stage {
        /// First byte of the block.
        offset: usize,
        /// Bytes of the block.
        carried: usize,
        /// Bytes announced.
        announced: usize,
    },
    /// The connection ended with an earlier frame, and nothing is read on it any more: begin a new one. What was wrong with
    /// that frame is the [`source`](Error::source).
    Ended {
        /// What was wrong with that frame.
        by: Box<DecodeError>,
    },
    /// A limit of the receiver would be passed: the sender keeps to a higher one, or to none. In a session the connection is
    /// over.
    Limit {
        /// Where it would be passed.
        offset: usize,
        /// Which one.
        limit: LimitName,
        /// Its value.
        maximum: usize,
        /// What the frame needs up to there; as a whole it may need more.
        needed: usize,
    },
}

impl DecodeError {
    /// The frame says what has arrived of what this end sent, which keeps nothing of that.
    pub(crate) const NOTHING_SENT: Self = Self::Unsupported {
        offset: 2,
        what: "a window of what this end sent (a Session has one, or EchoWindow::of_sent)",
    };
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { offset, what } => write!(f, "{what} is cut off at byte {offset}"),
            Self::Magic { found } => write!(f, "byte 0 is {found:#04x}, not a frame"),
            Self::Version { found } => write!(f, "frame version {found} at byte 1 is not known"),
            Self::Flags { found } => write!(f, "flags {found:#04x} at byte 2 have no meaning"),
            Self::NoHistory { found } => write!(
                f,
                "flags {found:#04x} at byte 2 are those of a frame that belongs to no connection, and only frames of this \
                 connection are read here: Frame::parse reads it; begin a new connection"
            ),
            Self::Unsupported { offset, what } => {
                write!(f, "byte {offset} needs what is not available here: {what}")
            }
            Self::Checksum { computed, carried, offset } => {
                write!(
                    f,
                    "checksum is {computed:#010x}, byte {offset} has {carried:#010x}: damaged, cut off, or not exactly one frame"
                )
            }
            Self::History { computed, carried, offset, streams } => write!(
                f,
                "checksum over this history and the streams named ({streams}) is {computed:#010x}, byte {offset} has \
                 {carried:#010x}: a frame was left out, came twice or out of order, the epochs or the streams are not those of \
                 the other end, bytes were damaged, or it is not exactly one frame; begin a new connection"
            ),
            Self::Reference { offset, rule } => {
                write!(f, "record at byte {offset} refers to what is not there: {rule}")
            }
            Self::Arrived { offset, announced, unknown } => write!(
                f,
                "byte {offset} says that {more} more arrived, where no frame ends; not known to have arrived: {unknown}; a \
                 frame was left out, came twice, or is one of another connection, an end uses two windows or \
                 that of another connection, or bytes were damaged; begin a new connection",
                more = Count(*announced, "byte")
            ),
            Self::Streams { messages, streams } => write!(
                f,
                "byte 3 says {}, and both ends name {} for them: the sender has to name one for each message, on a new \
                 connection",
                Count(*messages, "message"),
                Count(*streams, "stream")
            ),
            Self::Varint { offset } => write!(f, "integer at byte {offset} is overlong or too large"),
            Self::Set { offset, rule } => write!(f, "byte {offset} is no set of destinations: {rule}"),
            Self::NotCanonical { offset, rule } => write!(f, "byte {offset} is not canonical: {rule}"),
            Self::Record { offset, code } => {
                write!(f, "record code {code:#04x} at byte {offset} has no meaning in a frame of these flags")
            }
            Self::Length { offset, rule } => write!(f, "number at byte {offset} is 0: {rule}"),
            Self::Trailing { offset } => {
                write!(f, "bytes follow after the end of the frame at byte {offset}")
            }
            Self::Stage { offset, carried, announced } => write!(
                f,
                "second stage at byte {offset}: a block of {} that does not expand to the {announced} announced",
                Count(*carried, "byte")
            ),
            Self::Ended { .. } => f.write_str(
                "an earlier frame ended this connection and nothing more is read on it: begin a new one",
            ),
            Self::Limit { offset, limit: LimitName::Destinations, needed, .. }
                if *needed > DESTINATIONS_MAX =>
            {
                write!(
                    f,
                    "byte {offset} says {needed} destinations, and a frame has at most {DESTINATIONS_MAX}"
                )
            }
            Self::Limit { offset, limit: LimitName::MessageBytes, maximum, needed } => write!(
                f,
                "limit message_bytes is {maximum}, a message needs {needed} at byte {offset} already: raise the limit here, or \
                 give the sender this one, which then makes no such frame"
            ),
            Self::Limit { offset, limit, maximum, needed } => write!(
                f,
                "limit {limit} is {maximum}, the frame needs {needed} at byte {offset} already: raise the limit here, or give \
                 the sender this one, which then makes no such frame"
            ),
        }
    }
}

impl Error for DecodeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Ended { by } => Some(by.as_ref()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_its_caller_can_mend_says_how() {
        let limit = |limit, maximum, message| {
            EncodeError::Limit { limit, maximum, needed: maximum + 1, message }.to_string()
        };
        for (found, expected) in [
            (
                limit(LimitName::OutputBytes, 1, None),
                "limit output_bytes is 1, the messages need 2: send fewer at once, or raise the limit at both ends",
            ),
            (
                limit(LimitName::Records, 1, None),
                "limit records is 1, the messages need 2, counted before anything common is found: send fewer at once, or \
                 raise the limit at both ends",
            ),
            (
                limit(LimitName::MessageBytes, 10, Some(3)),
                "limit message_bytes is 10, message 3 needs 11: send it in parts, or raise the limit at both ends",
            ),
            (
                limit(LimitName::Destinations, DESTINATIONS_MAX, None),
                "a frame has at most 1024 destinations, there are 1025 messages: send several frames",
            ),
            (
                limit(LimitName::Destinations, 8, None),
                "limit destinations is 8, the messages need 9: send fewer at once, or raise the limit at both ends",
            ),
        ] {
            assert_eq!(found, expected);
        }
        let encode = EncodeError::Streams { messages: 1, streams: 2 }.to_string();
        assert_eq!(encode, "1 message given, and 2 streams named: name one for each message");
    }

    #[test]
    fn no_limit_is_to_be_raised_beyond_the_formats() {
        let limit = LimitName::Destinations;
        let raised = ", or fewer with the limit destinations at 1024 at both ends";
        for (maximum, advice) in [(8, raised), (DESTINATIONS_MAX, ""), (2 * DESTINATIONS_MAX, "")] {
            let decode = DecodeError::Limit { offset: 3, limit, maximum, needed: 1025 };
            assert_eq!(decode.to_string(), "byte 3 says 1025 destinations, and a frame has at most 1024");
            let encode = EncodeError::Limit { limit, maximum, needed: 1025, message: None };
            let border = maximum.min(DESTINATIONS_MAX);
            let text = format!(
                "a frame has at most {border} destinations, there are 1025 messages: send several frames"
            );
            assert_eq!(encode.to_string(), text + advice);
        }
        let decode = DecodeError::Limit { offset: 3, limit, maximum: 8, needed: 9 };
        assert!(decode.to_string().contains("raise the limit here"));
    }

    #[test]
    fn what_ended_a_connection_is_the_source_and_not_repeated() {
        let ended = DecodeError::Ended { by: Box::new(DecodeError::Magic { found: 1 }) };
        assert!(!ended.to_string().contains("byte 0"));
        let source = ended.source().unwrap().downcast_ref();
        assert_eq!(source, Some(&DecodeError::Magic { found: 1 }));
    }
}
