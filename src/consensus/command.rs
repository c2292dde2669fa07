//! What an entry of the log says, as bytes.
//!
//! ```text
//!  0  kind    1  0 nothing, 1 an operation, 2 the membership, 3 opens a session
//!  1  zeros   7
//!  8  client  8  of an operation: its session, 0 without one
//! 16  seq     8  of an operation: its number within the session
//! 24  time    8  cluster time at which the leader took it, µs
//! 32  body       an operation's bytes; the membership as JSON
//! ```
//!
//! Integers are little-endian. The head is 32 B whatever the kind, so that a body begins at a multiple of 8 in a record and
//! can be loaded without a copy.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

const HEAD_BYTES: usize = 32;
const NOTHING: u8 = 0;
const OPERATION: u8 = 1;
const MEMBERSHIP: u8 = 2;
const OPENS_SESSION: u8 = 3;

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Nothing: a new leader's first entry.
    Nothing,
    /// For the state machine.
    Operation {
        /// The session, and the number within it; without one it is applied as often as it is proposed.
        request: Option<Request>,
        /// Cluster time, µs.
        time: u64,
        /// For [`StateMachine::apply`](super::StateMachine::apply).
        body: Bytes,
    },
    /// Who is in the cluster from here on, as JSON.
    Membership(Bytes),
    /// A session begins, and is called by this entry's index.
    OpensSession {
        /// Cluster time, µs.
        time: u64,
    },
}

/// Which operation of which session: applied once, however often it is proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    /// The session: the index of the entry that opened it.
    pub client: u64,
    /// The client's own number for the operation. Numbers are used once and grow.
    pub seq: u64,
}

/// Bytes that are no command: of a damaged entry, or of a later version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an entry of {bytes} B that begins with {kind} is no command: a later version may have written it")]
pub struct CommandError {
    bytes: usize,
    kind: u8,
}

impl Command {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (kind, request, time, body) = match self {
            Self::Nothing => (NOTHING, None, 0, &Bytes::new()),
            Self::Operation { request, time, body } => (OPERATION, *request, *time, body),
            Self::Membership(body) => (MEMBERSHIP, None, 0, body),
            Self::OpensSession { time } => (OPENS_SESSION, None, *time, &Bytes::new()),
        };
        let Request { client, seq } = request.unwrap_or(Request { client: 0, seq: 0 });
        let mut out = BytesMut::with_capacity(HEAD_BYTES + body.len());
        out.put_u8(kind);
        out.put_bytes(0, 7);
        for field in [client, seq, time] {
            out.put_u64_le(field);
        }
        out.put_slice(body);
        out.freeze()
    }

    /// An encoded command with another time. A copy.
    #[must_use]
    pub(super) fn stamped(bytes: &[u8], time: u64) -> Bytes {
        let mut out = BytesMut::from(bytes);
        if let Some(field) = out.get_mut(24..HEAD_BYTES) {
            field.copy_from_slice(&time.to_le_bytes());
        }
        out.freeze()
    }

    /// Of bytes. The body is a slice of them.
    ///
    /// # Errors
    ///
    /// [`CommandError`] where they are no command.
    pub fn decode(bytes: &Bytes) -> Result<Self, CommandError> {
        let error = || CommandError { bytes: bytes.len(), kind: bytes.first().copied().unwrap_or(0) };
        let head = bytes.first_chunk::<HEAD_BYTES>().ok_or_else(error)?;
        let field = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let (request, time) = (Request { client: field(8), seq: field(16) }, field(24));
        let body = bytes.slice(HEAD_BYTES..);
        if head[1..8] != [0; 7] {
            return Err(error());
        }
        match head[0] {
            NOTHING if body.is_empty() => Ok(Self::Nothing),
            OPERATION => Ok(Self::Operation {
                request: Some(request).filter(|request| request.client != 0),
                time,
                body,
            }),
            MEMBERSHIP => Ok(Self::Membership(body)),
            OPENS_SESSION if body.is_empty() => Ok(Self::OpensSession { time }),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Operation { request: None, body, .. } => write!(f, "operation of {} B", body.len()),
            Self::Operation { request: Some(Request { client, seq }), body, .. } => {
                write!(f, "operation {seq} of session {client}, {} B", body.len())
            }
            Self::Membership(body) => write!(f, "membership of {} B", body.len()),
            Self::OpensSession { .. } => f.write_str("opens a session"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files and messages hold these bytes: they are never edited.
    #[test]
    fn the_bytes_of_commands_are_pinned() {
        let operation = Command::Operation {
            request: Some(Request { client: 0x0102, seq: 3 }),
            time: 4,
            body: Bytes::from_static(b"set"),
        };
        let pinned: &[u8] = b"\x01\0\0\0\0\0\0\0\x02\x01\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0set";
        assert_eq!(operation.encode(), pinned);
        assert_eq!(Command::Nothing.encode()[..], [0; 32]);
        let opens = Command::OpensSession { time: 9 };
        assert_eq!((opens.encode()[0], opens.encode()[24]), (3, 9));
        let membership = Command::Membership(Bytes::from_static(b"{}"));
        assert_eq!(Command::stamped(&opens.encode(), 11), Command::OpensSession { time: 11 }.encode());
        for command in [operation, Command::Nothing, opens, membership] {
            assert_eq!(Command::decode(&command.encode()), Ok(command));
        }
    }

    #[test]
    fn other_bytes_are_no_command() {
        let mut unknown = Command::Nothing.encode().to_vec();
        unknown[0] = 9;
        let error = Command::decode(&unknown.into()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "an entry of 32 B that begins with 9 is no command: a later version may have written it"
        );
        let mut reserved = Command::Nothing.encode().to_vec();
        reserved[7] = 1;
        let mut longer = Command::Nothing.encode().to_vec();
        longer.push(0);
        for bytes in [reserved, longer, vec![], vec![0; 31]] {
            assert!(Command::decode(&bytes.into()).is_err());
        }
    }
}
