//! What replicas say to each other, as bytes: one message of the mesh each.
//!
//! ```text
//!  0  version  1  1
//!  1  what     1  below
//!  2  zeros    6
//!  8  from     8  replica
//! 16  to       8  replica; 0 where the sender does not know it
//! 24  call     8  a number of the asking side, which the answer repeats; of a stream of appends, one for all of them
//! 32  seq      8  place in the stream
//! 40  body
//! ```
//!
//! Integers are little-endian, fields have fixed widths, and what several receivers get alike comes as segments of its own:
//! the codec recognises both. `vote` is term 8, replica 8, committed 1, zeros 7. `id` is term 8, and index + 1 in 8, where 0
//! is none. `text` is length 8 and bytes. No term is above 2^48.
//!
//! | what | name     | body |
//! | ---- | -------- | ---- |
//! | 1    | append   | vote; previous id; committed id; entries 4; flags 4: 1 no majority answers the leader; for each term 8, index 8, length 8; then all of their bytes |
//! | 2    | appended | result 8: 0 done, 1 conflict, 2 higher vote, 3 the stream is not known; vote |
//! | 3    | vote     | vote; last id; flags 8: 1 only asked whether, 2 leadership is transferred |
//! | 4    | voted    | vote; last id; granted 8 |
//! | 5    | transfer | vote; next replica 8; last id |
//! | 6    | transferred | result 8: 0 done, 1 refused |
//! | 7    | snapshot | vote; last id; membership's id; membership text; total 8; offset 8; the rest of the message: bytes of the file |
//! | 8    | got      | result 8: 0 go on, 1 installed, 2 begin again, 3 refused; offset 8; vote |
//! | 9    | propose  | the encoded command |
//! | 10   | proposed | result 8: 0 applied, 1 session expired, 2 answer forgotten, 3 not leader, 4 busy, 5 unknown; term 8; index 8; seq 8; the leader's vote; what it knows to be committed, id; the rest: the answer |
//! | 11   | barrier  | lease 8: 1 a lease will do |
//! | 12   | passed   | result 8: 0 yes, 1 no; index id |
//! | 13   | who      | |
//! | 14   | i am     | founded 8: 1 the replica has a log or a membership; how many are in that 8; and who, 8 each |
//! | 15   | time     | |
//! | 16   | now      | wall clock at the node's start 8, µs since 1970; monotonic clock since then 8, µs; wall clock now 8, likewise |
//! | 17   | lend     | number 8, the same one while it is asked for again; vote; replica 8, whom to send a snapshot; last id that it has at least |
//! | 18   | lent     | result 8: 0 installed, 1 under way, 2 no; the receiver's vote; last id that it has; bytes that left 8 |
//! | 19   | stops    | |
//! | 20   | noted    | |

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use trunkline_mesh::Payload;

use super::super::replica_id::ReplicaId;
use super::types::*;
use crate::storage::{Entry, EntryId, INDEX_MAX};

const VERSION: u8 = 1;
/// Entries of one append: more is refused.
pub(super) const ENTRIES_MAX: u64 = 65_536;
const MEMBERSHIP_BYTES_MAX: u64 = 1 << 20;
/// Terms of which no cluster sees the end: with a thousand elections a second there are enough for 8,900 years. Above it is a lie, and behind
/// the last one there would be no election any longer.
pub(super) const TERM_MAX: u64 = 1 << 48;

/// A message, and between whom.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Envelope {
    pub(super) from: ReplicaId,
    /// `None` where the sender does not know who it is.
    pub(super) to: Option<ReplicaId>,
    pub(super) call: u64,
    pub(super) seq: u64,
    pub(super) body: Body,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Body {
    Append(Append),
    Appended(Appended),
    Vote {
        vote: EngineVote,
        last: Option<EntryId>,
        only_asked: bool,
        transfer: bool,
    },
    Voted {
        vote: EngineVote,
        last: Option<EntryId>,
        granted: bool,
    },
    /// That replica is to lead next; all others are told so too, as they promised the present one not to vote.
    Transfer {
        vote: EngineVote,
        next: ReplicaId,
        last: Option<EntryId>,
    },
    Transferred {
        done: bool,
    },
    Snapshot(Part),
    Got {
        result: Got,
        offset: u64,
        vote: EngineVote,
    },
    Propose(Bytes),
    Proposed {
        result: Proposed,
        committed: Option<(EngineVote, EntryId)>,
    },
    Barrier {
        lease: bool,
    },
    Passed {
        index: Option<Option<EntryId>>,
    },
    Who,
    IAm {
        founded: bool,
        /// Who is in its cluster, as far as its log says so.
        members: Vec<ReplicaId>,
    },
    Time,
    Now {
        started_us: u64,
        passed_us: u64,
        wall_us: u64,
    },
    Lend(Lend),
    Lent(Lent),
    /// The sender was told to stop: it leads no longer, or not for long.
    Stops,
    Noted,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Append {
    pub(super) vote: EngineVote,
    pub(super) previous: Option<EntryId>,
    pub(super) committed: Option<EntryId>,
    /// A majority answers the leader, or elected it lately.
    pub(super) backed: bool,
    pub(super) entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Appended {
    Done,
    Conflict,
    HigherVote(EngineVote),
    /// A message of the stream is missing: it begins again.
    Broken,
}

/// A part of a snapshot.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    pub(super) vote: EngineVote,
    pub(super) last: Option<EntryId>,
    /// Since when, and JSON.
    pub(super) membership: Option<(EntryId, Bytes)>,
    /// Of the whole file, B.
    pub(super) total: u64,
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Got {
    Next,
    Installed,
    Again,
    Refused,
}

/// A leader has another replica send somebody its snapshot.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lend {
    pub(super) number: u64,
    pub(super) vote: EngineVote,
    pub(super) to: ReplicaId,
    /// It has everything up to there, or more.
    pub(super) last: EntryId,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Lent {
    Installed {
        vote: EngineVote,
        last: EntryId,
    },
    /// So many bytes left. It is asked for again.
    UnderWay(u64),
    No,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Proposed {
    Applied {
        id: EntryId,
        answer: Bytes,
    },
    SessionExpired {
        id: EntryId,
    },
    AnswerForgotten {
        id: EntryId,
        seq: u64,
    },
    /// It was not appended, and will not be.
    NotLeader,
    /// Likewise.
    Busy,
    /// It may have been appended.
    Unknown,
}

/// Bytes that are no message: of a later version, or of a peer that means harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message between replicas cannot be read: {0}")]
pub(super) struct MessageError(&'static str);

impl Envelope {
    pub(super) fn encode(&self) -> Payload {
        let mut head = Writer(BytesMut::with_capacity(160));
        head.0.put_u8(VERSION);
        head.0.put_u8(self.body.tag());
        head.0.put_bytes(0, 6);
        head.numbers([self.from.0, self.to.map_or(0, |to| to.0), self.call, self.seq]);
        let mut rest = Vec::new();
        match &self.body {
            Body::Append(append) => {
                head.vote(&append.vote);
                head.id(append.previous);
                head.id(append.committed);
                // The count is limited.
                head.number(append.entries.len() as u64 | u64::from(!append.backed) << 32);
                for entry in &append.entries {
                    head.numbers([entry.id.term, entry.id.index, entry.payload.len() as u64]);
                    rest.push(entry.payload.clone());
                }
            }
            Body::Appended(appended) => {
                let (result, vote) = match appended {
                    Appended::Done => (0, NO_VOTE),
                    Appended::Conflict => (1, NO_VOTE),
                    Appended::HigherVote(vote) => (2, *vote),
                    Appended::Broken => (3, NO_VOTE),
                };
                head.number(result);
                head.vote(&vote);
            }
            Body::Vote { vote, last, only_asked, transfer } => {
                head.vote(vote);
                head.id(*last);
                head.number(u64::from(*only_asked) | u64::from(*transfer) << 1);
            }
            Body::Voted { vote, last, granted } => {
                head.vote(vote);
                head.id(*last);
                head.number(u64::from(*granted));
            }
            Body::Transfer { vote, next, last } => {
                head.vote(vote);
                head.number(next.0);
                head.id(*last);
            }
            Body::Transferred { done } => head.number(u64::from(!done)),
            Body::Snapshot(part) => {
                head.vote(&part.vote);
                head.id(part.last);
                let none = Bytes::new();
                let (since, json) =
                    part.membership.as_ref().map_or((None, &none), |(since, json)| (Some(*since), json));
                head.id(since);
                head.text(json);
                head.numbers([part.total, part.offset]);
                rest.push(part.bytes.clone());
            }
            Body::Got { result, offset, vote } => {
                let result = match result {
                    Got::Next => 0,
                    Got::Installed => 1,
                    Got::Again => 2,
                    Got::Refused => 3,
                };
                head.numbers([result, *offset]);
                head.vote(vote);
            }
            Body::Propose(command) => rest.push(command.clone()),
            Body::Proposed { result, committed } => {
                let none = EntryId { term: 0, index: 0 };
                let (kind, id, seq) = match result {
                    Proposed::Applied { id, answer } => {
                        rest.push(answer.clone());
                        (0, *id, 0)
                    }
                    Proposed::SessionExpired { id } => (1, *id, 0),
                    Proposed::AnswerForgotten { id, seq } => (2, *id, *seq),
                    Proposed::NotLeader => (3, none, 0),
                    Proposed::Busy => (4, none, 0),
                    Proposed::Unknown => (5, none, 0),
                };
                head.numbers([kind, id.term, id.index, seq]);
                head.vote(&committed.map_or(NO_VOTE, |(vote, _)| vote));
                head.id(committed.map(|(_, last)| last));
            }
            Body::Barrier { lease } => head.number(u64::from(*lease)),
            Body::Passed { index } => {
                head.number(u64::from(index.is_none()));
                head.id(index.flatten());
            }
            Body::Who | Body::Stops | Body::Noted => {}
            Body::IAm { founded, members } => {
                head.numbers([u64::from(*founded), members.len() as u64]);
                members.iter().for_each(|member| head.number(member.0));
            }
            Body::Time => {}
            Body::Now { started_us, passed_us, wall_us } => head.numbers([*started_us, *passed_us, *wall_us]),
            Body::Lend(Lend { number, vote, to, last }) => {
                head.number(*number);
                head.vote(vote);
                head.number(to.0);
                head.id(Some(*last));
            }
            Body::Lent(lent) => {
                let (result, vote, last, bytes) = match lent {
                    Lent::Installed { vote, last } => (0, *vote, Some(*last), 0),
                    Lent::UnderWay(bytes) => (1, NO_VOTE, None, *bytes),
                    Lent::No => (2, NO_VOTE, None, 0),
                };
                head.number(result);
                head.vote(&vote);
                head.id(last);
                head.number(bytes);
            }
        }
        let mut payload = Payload::from(head.0.freeze());
        rest.into_iter().for_each(|segment| payload.push(segment));
        payload
    }

    /// # Errors
    ///
    /// [`MessageError`], whatever the bytes are.
    pub(super) fn decode(payload: &Payload) -> Result<Self, MessageError> {
        let mut from = Reader { segments: payload.segments(), at: 0, left: payload.len() };
        let start = from.take(8)?;
        if start[0] != VERSION {
            return Err(MessageError("it is of another version"));
        }
        if start[2..8] != [0; 6] {
            return Err(MessageError("a reserved field is not zero"));
        }
        let [sender, to, call, seq] = from.numbers()?;
        let body = read_body(start[1], &mut from)?;
        if from.left > 0 {
            return Err(MessageError("it is longer than it says"));
        }
        let to = Some(ReplicaId(to)).filter(|to| to.0 != 0);
        Ok(Self { from: ReplicaId(sender), to, call, seq, body })
    }
}

fn read_body(tag: u8, from: &mut Reader<'_>) -> Result<Body, MessageError> {
    Ok(match tag {
        1 => Body::Append(read_append(from)?),
        2 => {
            let (result, vote) = (from.number()?, from.vote()?);
            Body::Appended(match result {
                0 => Appended::Done,
                1 => Appended::Conflict,
                2 => Appended::HigherVote(vote),
                3 => Appended::Broken,
                _ => return Err(MessageError("its result is none")),
            })
        }
        3 => {
            let (vote, last, flags) = (from.vote()?, from.id()?, from.number()?);
            if flags > 3 {
                return Err(MessageError("a flag of it is none"));
            }
            Body::Vote { vote, last, only_asked: flags & 1 != 0, transfer: flags & 2 != 0 }
        }
        4 => Body::Voted { vote: from.vote()?, last: from.id()?, granted: from.flag()? },
        5 => {
            let (vote, next) = (from.vote()?, ReplicaId(from.number()?));
            Body::Transfer { vote, next, last: from.id()? }
        }
        6 => Body::Transferred { done: !from.flag()? },
        7 => {
            let (vote, last, since) = (from.vote()?, from.id()?, from.id()?);
            let json = from.text(MEMBERSHIP_BYTES_MAX)?;
            let [total, offset] = from.numbers()?;
            let membership = since.map(|since| (since, json));
            Body::Snapshot(Part { vote, last, membership, total, offset, bytes: from.rest()? })
        }
        8 => {
            let [result, offset] = from.numbers()?;
            let result = match result {
                0 => Got::Next,
                1 => Got::Installed,
                2 => Got::Again,
                3 => Got::Refused,
                _ => return Err(MessageError("its result is none")),
            };
            Body::Got { result, offset, vote: from.vote()? }
        }
        9 => Body::Propose(from.rest()?),
        10 => {
            let [kind, term, index, seq] = from.numbers()?;
            let (vote, last) = (from.vote()?, from.id()?);
            let committed = last.map(|last| (vote, last));
            let id = EntryId { term: term_of(term)?, index };
            let result = match kind {
                0 => Proposed::Applied { id, answer: from.rest()? },
                1 => Proposed::SessionExpired { id },
                2 => Proposed::AnswerForgotten { id, seq },
                3 => Proposed::NotLeader,
                4 => Proposed::Busy,
                5 => Proposed::Unknown,
                _ => return Err(MessageError("its result is none")),
            };
            Body::Proposed { result, committed }
        }
        11 => Body::Barrier { lease: from.flag()? },
        12 => {
            let (no, index) = (from.flag()?, from.id()?);
            Body::Passed { index: (!no).then_some(index) }
        }
        13 => Body::Who,
        19 => Body::Stops,
        20 => Body::Noted,
        14 => {
            let (founded, count) = (from.flag()?, from.number()?);
            if count > from.left as u64 / 8 {
                return Err(MessageError("it ends early"));
            }
            let members = (0..count).map(|_| from.number().map(ReplicaId)).collect::<Result<_, _>>()?;
            Body::IAm { founded, members }
        }
        15 => Body::Time,
        16 => {
            let [started_us, passed_us, wall_us] = from.numbers()?;
            Body::Now { started_us, passed_us, wall_us }
        }
        17 => {
            let (number, vote, to) = (from.number()?, from.vote()?, ReplicaId(from.number()?));
            let last = from.id()?.ok_or(MessageError("an id of it is none"))?;
            Body::Lend(Lend { number, vote, to, last })
        }
        18 => Body::Lent(match (from.number()?, from.vote()?, from.id()?, from.number()?) {
            (0, vote, Some(last), 0) => Lent::Installed { vote, last },
            (1, NO_VOTE, None, bytes) => Lent::UnderWay(bytes),
            (2, NO_VOTE, None, 0) => Lent::No,
            _ => return Err(MessageError("its result is none")),
        }),
        _ => return Err(MessageError("its kind is not known")),
    })
}

fn read_append(from: &mut Reader<'_>) -> Result<Append, MessageError> {
    let (vote, previous, committed, count) = (from.vote()?, from.id()?, from.id()?, from.number()?);
    let (count, flags) = (count & u64::from(u32::MAX), count >> 32);
    if flags > 1 {
        return Err(MessageError("a flag of it is none"));
    }
    // So many lengths must be there.
    if count > ENTRIES_MAX || count * 24 > from.left as u64 {
        return Err(MessageError("it has too many entries"));
    }
    let mut heads = Vec::new();
    for _ in 0..count {
        let [term, index, bytes] = from.numbers()?;
        if index > INDEX_MAX {
            return Err(MessageError("an index is too high"));
        }
        heads.push((EntryId { term: term_of(term)?, index }, bytes));
    }
    let mut next = previous.map_or(0, |previous| previous.index + 1);
    let mut term = previous.map_or(0, |previous| previous.term);
    let mut entries = Vec::with_capacity(heads.len());
    for (id, bytes) in heads {
        if id.index != next || id.term < term {
            return Err(MessageError("its entries do not follow each other"));
        }
        (next, term) = (id.index + 1, id.term);
        let bytes = usize::try_from(bytes).map_err(|_| MessageError("it ends early"))?;
        entries.push(Entry { id, payload: from.take(bytes)? });
    }
    Ok(Append { vote, previous, committed, backed: flags == 0, entries })
}

fn term_of(term: u64) -> Result<u64, MessageError> {
    if term > TERM_MAX {
        return Err(MessageError("a term is too high"));
    }
    Ok(term)
}

impl Body {
    fn tag(&self) -> u8 {
        match self {
            Self::Append(_) => 1,
            Self::Appended(_) => 2,
            Self::Vote { .. } => 3,
            Self::Voted { .. } => 4,
            Self::Transfer { .. } => 5,
            Self::Transferred { .. } => 6,
            Self::Snapshot(_) => 7,
            Self::Got { .. } => 8,
            Self::Propose(_) => 9,
            Self::Proposed { .. } => 10,
            Self::Barrier { .. } => 11,
            Self::Passed { .. } => 12,
            Self::Who => 13,
            Self::IAm { .. } => 14,
            Self::Time => 15,
            Self::Now { .. } => 16,
            Self::Lend(_) => 17,
            Self::Lent(_) => 18,
            Self::Stops => 19,
            Self::Noted => 20,
        }
    }
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            "append",
            "appended",
            "vote",
            "voted",
            "transfer",
            "transferred",
            "snapshot",
            "got",
            "propose",
            "proposed",
            "barrier",
            "passed",
            "who",
            "i am",
            "time",
            "now",
            "lend",
            "lent",
            "stops",
            "noted",
        ];
        f.write_str(names[usize::from(self.tag()) - 1])
    }
}

const NO_VOTE: EngineVote = EngineVote {
    leader_id: openraft::impls::leader_id_std::LeaderId { term: 0, voted_for: ReplicaId(0) },
    committed: false,
};

struct Writer(BytesMut);

impl Writer {
    fn number(&mut self, value: u64) {
        self.0.put_u64_le(value);
    }

    fn numbers<const N: usize>(&mut self, values: [u64; N]) {
        values.into_iter().for_each(|value| self.number(value));
    }

    fn vote(&mut self, vote: &EngineVote) {
        self.0.put_slice(&vote_bytes(vote));
        self.0.put_bytes(0, 7);
    }

    fn id(&mut self, id: Option<EntryId>) {
        self.numbers(id.map_or([0, 0], |id| [id.term, id.index + 1]));
    }

    fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64);
        self.0.put_slice(text);
    }
}

/// What is left of a message.
struct Reader<'a> {
    segments: &'a [Bytes],
    /// In the first of them.
    at: usize,
    left: usize,
}

impl Reader<'_> {
    /// A slice where it lies in one segment, a copy where it does not.
    fn take(&mut self, bytes: usize) -> Result<Bytes, MessageError> {
        if bytes > self.left {
            return Err(MessageError("it ends early"));
        }
        self.left -= bytes;
        while let Some(first) = self.segments.first().filter(|first| first.len() == self.at) {
            let _ = first;
            self.segments = &self.segments[1..];
            self.at = 0;
        }
        if let Some(first) = self.segments.first()
            && first.len() - self.at >= bytes
        {
            let slice = first.slice(self.at..self.at + bytes);
            self.at += bytes;
            return Ok(slice);
        }
        let mut out = BytesMut::with_capacity(bytes);
        while out.len() < bytes {
            let Some(first) = self.segments.first() else { return Err(MessageError("it ends early")) };
            let part = &first[self.at..];
            let part = &part[..part.len().min(bytes - out.len())];
            out.put_slice(part);
            self.at += part.len();
            if self.at == first.len() {
                self.segments = &self.segments[1..];
                self.at = 0;
            }
        }
        Ok(out.freeze())
    }

    fn rest(&mut self) -> Result<Bytes, MessageError> {
        self.take(self.left)
    }

    fn number(&mut self) -> Result<u64, MessageError> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes[..].try_into().expect("eight bytes")))
    }

    fn numbers<const N: usize>(&mut self) -> Result<[u64; N], MessageError> {
        let mut out = [0; N];
        for value in &mut out {
            *value = self.number()?;
        }
        Ok(out)
    }

    fn flag(&mut self) -> Result<bool, MessageError> {
        match self.number()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(MessageError("a flag of it is none")),
        }
    }

    fn vote(&mut self) -> Result<EngineVote, MessageError> {
        let bytes = self.take(VOTE_BYTES + 7)?;
        let zeros = bytes[VOTE_BYTES..] == [0; 7];
        let vote = vote_of(&bytes[..VOTE_BYTES]).filter(|_| zeros).ok_or(MessageError("its vote is none"))?;
        term_of(vote.leader_id.term).map(|_| vote)
    }

    fn id(&mut self) -> Result<Option<EntryId>, MessageError> {
        let [term, after] = self.numbers()?;
        let term = term_of(term)?;
        match after.checked_sub(1) {
            None if term == 0 => Ok(None),
            Some(index) if index <= INDEX_MAX => Ok(Some(EntryId { term, index })),
            _ => Err(MessageError("an index is too high, or none")),
        }
    }

    fn text(&mut self, bytes_max: u64) -> Result<Bytes, MessageError> {
        let bytes = self.number()?;
        if bytes > bytes_max {
            return Err(MessageError("a text of it is too long"));
        }
        self.take(usize::try_from(bytes).map_err(|_| MessageError("it ends early"))?)
    }
}

#[cfg(test)]
mod tests;
