//! A message of the demo, as bytes. All integers are little-endian.
//!
//! ```text
//! header   kind u8 = 1 | term u64 | leader u32 | prev_index u64 | prev_term u64 | leader_commit u64
//!          | member u32 | match_index u64 | message_id u64 | entries u32                          61 bytes
//! entry    index u64 | body_bytes u32 | body                                            12 bytes and the body
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

const APPEND_ENTRIES: u8 = 1;

/// Bytes of the header in front of every message.
pub const HEADER_BYTES: usize = 61;
/// Bytes in front of an entry's body.
pub const ENTRY_HEAD_BYTES: usize = 12;

/// What a leader says to one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The leader's term.
    pub term: u64,
    /// The leader's number.
    pub leader: u32,
    /// Log index of the entry before the first one here.
    pub prev_index: u64,
    /// Its term.
    pub prev_term: u64,
    /// Commit index of the leader.
    pub leader_commit: u64,
    /// The destination.
    pub member: u32,
    /// What the leader knows the member to have.
    pub match_index: u64,
    /// Counts the messages to this member, from 1.
    pub message_id: u64,
    /// Entries that follow.
    pub entries: u32,
}

impl Header {
    /// The header as a segment of its own.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_BYTES);
        out.put_u8(APPEND_ENTRIES);
        out.put_u64_le(self.term);
        out.put_u32_le(self.leader);
        out.put_u64_le(self.prev_index);
        out.put_u64_le(self.prev_term);
        out.put_u64_le(self.leader_commit);
        out.put_u32_le(self.member);
        out.put_u64_le(self.match_index);
        out.put_u64_le(self.message_id);
        out.put_u32_le(self.entries);
        out.freeze()
    }

    fn parse(mut bytes: &[u8]) -> Result<Self, ParseError> {
        let kind = *bytes.first().ok_or(ParseError::Truncated { what: "header" })?;
        if kind != APPEND_ENTRIES {
            return Err(ParseError::UnknownKind { kind });
        }
        bytes.advance(1);
        let header = bytes.get(..HEADER_BYTES - 1).ok_or(ParseError::Truncated { what: "header" })?;
        let mut field = header;
        Ok(Self {
            term: field.get_u64_le(),
            leader: field.get_u32_le(),
            prev_index: field.get_u64_le(),
            prev_term: field.get_u64_le(),
            leader_commit: field.get_u64_le(),
            member: field.get_u32_le(),
            match_index: field.get_u64_le(),
            message_id: field.get_u64_le(),
            entries: field.get_u32_le(),
        })
    }
}

/// Writes an entry's head; the caller writes `body_bytes` more.
pub(super) fn put_entry_head(out: &mut BytesMut, index: u64, body_bytes: u32) {
    out.put_u64_le(index);
    out.put_u32_le(body_bytes);
}

/// An entry inside a received payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceivedEntry<'a> {
    /// Its log index.
    pub index: u64,
    /// What the leader appended.
    pub body: &'a [u8],
}

/// A payload as a member receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedMessage<'a> {
    /// The member's own part.
    pub header: Header,
    /// The shared part, in order.
    pub entries: Vec<ReceivedEntry<'a>>,
}

impl<'a> ReceivedMessage<'a> {
    /// Parses a whole payload. Memory: 24 bytes per entry that is really there, whatever the header claims.
    ///
    /// # Errors
    /// [`ParseError`]; the payload is not what a leader of the demo sent.
    pub fn parse(payload: &'a [u8]) -> Result<Self, ParseError> {
        let header = Header::parse(payload)?;
        let mut rest = &payload[HEADER_BYTES..];
        let mut entries = Vec::new();
        for _ in 0..header.entries {
            let (entry, behind) = parse_entry(rest)?;
            entries.push(entry);
            rest = behind;
        }
        if rest.is_empty() {
            Ok(Self { header, entries })
        } else {
            Err(ParseError::Trailing { bytes: rest.len() })
        }
    }
}

/// The first entry of `bytes`, and what is behind it.
///
/// # Errors
/// `Truncated`.
fn parse_entry(bytes: &[u8]) -> Result<(ReceivedEntry<'_>, &[u8]), ParseError> {
    let (mut head, rest) =
        bytes.split_at_checked(ENTRY_HEAD_BYTES).ok_or(ParseError::Truncated { what: "entry head" })?;
    let index = head.get_u64_le();
    let body_bytes = usize::try_from(head.get_u32_le()).unwrap_or(usize::MAX);
    let (body, behind) =
        rest.split_at_checked(body_bytes).ok_or(ParseError::Truncated { what: "entry body" })?;
    Ok((ReceivedEntry { index, body }, behind))
}

/// Why a payload is not a message of the demo.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The payload ends inside something.
    #[error("the payload ends inside the {what}")]
    Truncated {
        /// What it ends in.
        what: &'static str,
    },
    /// The first byte is not that of an AppendEntries.
    #[error("unknown kind of message {kind}")]
    UnknownKind {
        /// The first byte.
        kind: u8,
    },
    /// More bytes than the header announces.
    #[error("{bytes} bytes behind the last entry")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}
