//! The state that a replica has when all entries up to one are applied: the user's machine, and what goes with it.

use std::io::{self, Read};

use bytes::Bytes;

use super::command::Command;
use super::digest::Digest;
use super::machine::StateMachine;
use super::outcomes::{Outcome, Outcomes};
use super::session::{Known, Refusal, Sessions};
use crate::storage::EntryId;

/// What applying an entry gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The entry.
    pub id: EntryId,
    /// Of the machine; empty for what is not for it.
    pub result: Result<Bytes, Refusal>,
}

/// Who is in the cluster, and since which entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) since: EntryId,
    pub(super) json: Bytes,
}

/// Everything up to `last` is in it.
#[derive(Debug)]
pub(super) struct Applied<M> {
    pub(super) machine: M,
    pub(super) last: Option<EntryId>,
    pub(super) membership: Option<Membership>,
    pub(super) digest: Digest,
    /// Cluster time, µs: the highest of all entries.
    pub(super) time: u64,
    sessions: Sessions,
    outcomes: Outcomes,
}

impl<M: StateMachine> Applied<M> {
    pub(super) fn new(machine: M) -> Self {
        Self {
            machine,
            last: None,
            membership: None,
            digest: Digest::default(),
            time: 0,
            sessions: Sessions::default(),
            outcomes: Outcomes::default(),
        }
    }

    /// Applies the next entry.
    ///
    /// # Panics
    ///
    /// Where it is none of those to come: everything would go apart from here on.
    pub(super) fn apply(&mut self, id: EntryId, command: &Command, bytes: &Bytes) -> Answer {
        let later = |last: EntryId| last.index < id.index && last.term <= id.term;
        assert!(self.last.is_none_or(later), "entries are applied in their order, each once");
        self.last = Some(id);
        let result = match command {
            Command::Nothing => Ok(Bytes::new()),
            Command::Membership(json) => {
                self.membership = Some(Membership { since: id, json: json.clone() });
                Ok(Bytes::new())
            }
            Command::OpensSession { time } => {
                self.time = self.time.max(*time);
                self.sessions.open(id.index, self.time);
                Ok(Bytes::new())
            }
            Command::Operation { request, time, body } => {
                self.time = self.time.max(*time);
                let known = request.map_or(Known::New, |request| self.sessions.look(request, self.time));
                let (result, outcome) = match known {
                    Known::Answered(answer) => (Ok(answer), Outcome::Repeated),
                    Known::Refused(refusal) => (Err(refusal), Outcome::Refused(refusal)),
                    Known::New => {
                        let answer = self.machine.apply(id.index, body.clone());
                        if let Some(request) = request {
                            // A slice would keep what it is cut from.
                            self.sessions.answered(*request, Bytes::copy_from_slice(&answer));
                        }
                        (Ok(answer.clone()), Outcome::Applied(answer))
                    }
                };
                self.outcomes.push(id.index, outcome);
                result
            }
        };
        let answer = result.as_ref().map_or(&[][..], |answer| &answer[..]);
        self.digest = self.digest.then(id, bytes, answer);
        Answer { id, result }
    }

    /// What became of the operation at an index; `None` where there is none, or that is not known any longer.
    pub(super) fn outcome(&self, index: u64) -> Option<Outcome> {
        self.outcomes.of(index)
    }

    /// What goes before the machine's own bytes in a snapshot. `None` before the first entry: there is nothing to keep.
    pub(super) fn head(&self) -> Option<SnapshotHead> {
        let mut sessions = Vec::new();
        self.sessions.encode(&mut sessions);
        Some(SnapshotHead {
            last: self.last?,
            membership: self.membership.clone(),
            digest: self.digest,
            time: self.time,
            sessions: sessions.into(),
            outcomes: self.outcomes.encode(),
        })
    }

    /// Takes what a snapshot has.
    pub(super) fn restore(&mut self, head: SnapshotHead, machine: impl Read) -> io::Result<()> {
        let sessions = Sessions::decode(&head.sessions)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the sessions cannot be read"))?;
        let outcomes = Outcomes::decode(&head.outcomes)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the outcomes cannot be read"))?;
        self.machine.restore(machine)?;
        self.last = Some(head.last);
        self.membership = head.membership;
        self.digest = head.digest;
        self.time = head.time;
        self.sessions = sessions;
        self.outcomes = outcomes;
        Ok(())
    }
}

/// What a snapshot has beside the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SnapshotHead {
    pub(super) last: EntryId,
    pub(super) membership: Option<Membership>,
    pub(super) digest: Digest,
    pub(super) time: u64,
    pub(super) sessions: Bytes,
    /// Empty in those of an earlier version.
    pub(super) outcomes: Bytes,
}

/// Before the membership and the sessions.
const FIELDS: usize = 9;
/// The longest head that is read, B: far more than all sessions with all their answers.
const HEAD_BYTES_MAX: u64 = 4 << 30;

impl SnapshotHead {
    /// As bytes:
    ///
    /// ```text
    /// length 8 of what follows; last term 8, index 8; digest 8; time 8; membership's term 8, index 8, length 8, sessions' length 8
    /// membership, sessions, outcomes: the rest
    /// ```
    ///
    /// A membership of length 0 is none. An earlier version wrote no outcomes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let none = Membership { since: EntryId { term: 0, index: 0 }, json: Bytes::new() };
        let membership = self.membership.as_ref().unwrap_or(&none);
        let length = (FIELDS - 1) * 8 + membership.json.len() + self.sessions.len() + self.outcomes.len();
        let fields: [u64; FIELDS] = [
            length as u64,
            self.last.term,
            self.last.index,
            self.digest.0,
            self.time,
            membership.since.term,
            membership.since.index,
            membership.json.len() as u64,
            self.sessions.len() as u64,
        ];
        let mut out = Vec::with_capacity(length + 8);
        fields.iter().for_each(|field| out.extend_from_slice(&field.to_le_bytes()));
        out.extend_from_slice(&membership.json);
        out.extend_from_slice(&self.sessions);
        out.extend_from_slice(&self.outcomes);
        out
    }

    /// Reads one. What follows is the machine's.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Self> {
        let bad = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut length = [0; 8];
        from.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > HEAD_BYTES_MAX {
            return Err(bad("the snapshot's head is too long"));
        }
        // As much as there is, and not as much as it says.
        let mut bytes = Vec::new();
        from.take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(bad("the snapshot's head ends early"));
        }
        let bytes = Bytes::from(bytes);
        let fixed = bytes
            .first_chunk::<{ (FIELDS - 1) * 8 }>()
            .ok_or_else(|| bad("the snapshot's head ends early"))?;
        let field =
            |at: usize| u64::from_le_bytes(fixed[at * 8..at * 8 + 8].try_into().expect("eight bytes"));
        let variable = bytes.slice(fixed.len()..);
        let (json, sessions) = (field(6), field(7));
        let end = json.checked_add(sessions).filter(|end| *end <= variable.len() as u64);
        let end = end.and_then(|end| usize::try_from(end).ok()).zip(usize::try_from(json).ok());
        let (end, cut) = end.ok_or_else(|| bad("the snapshot's head does not have the length it states"))?;
        let id = |at: usize| EntryId { term: field(at), index: field(at + 1) };
        Ok(Self {
            last: id(0),
            membership: (cut > 0).then(|| Membership { since: id(4), json: variable.slice(..cut) }),
            digest: Digest(field(2)),
            time: field(3),
            sessions: variable.slice(cut..end),
            outcomes: variable.slice(end..),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::command::Request;

    /// Adds numbers up.
    #[derive(Debug, Default)]
    struct Sum(u64);

    impl StateMachine for Sum {
        fn apply(&mut self, _id: u64, operation: Bytes) -> Bytes {
            self.0 += operation.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            Bytes::from(self.0.to_string())
        }

        fn snapshot(&self) -> io::Result<impl Read + Send + 'static> {
            Ok(io::Cursor::new(self.0.to_le_bytes()))
        }

        fn restore(&mut self, mut from: impl Read) -> io::Result<()> {
            let mut bytes = [0; 8];
            from.read_exact(&mut bytes)?;
            self.0 = u64::from_le_bytes(bytes);
            Ok(())
        }
    }

    fn apply(applied: &mut Applied<Sum>, command: &Command) -> Result<Bytes, Refusal> {
        let id = EntryId { term: 1, index: applied.last.map_or(0, |last| last.index + 1) };
        let answer = applied.apply(id, command, &command.encode());
        assert_eq!(answer.id, id);
        answer.result
    }

    fn add(client: u64, seq: u64, number: u8) -> Command {
        let request = Some(Request { client, seq }).filter(|_| client != 0);
        Command::Operation { request, time: 5, body: vec![number].into() }
    }

    #[test]
    fn what_is_proposed_twice_in_a_session_is_applied_once_also_after_a_snapshot() {
        let mut applied = Applied::new(Sum::default());
        let json = Bytes::from_static(b"{}");
        apply(&mut applied, &Command::Membership(json.clone())).unwrap();
        apply(&mut applied, &Command::OpensSession { time: 3 }).unwrap();
        assert_eq!(apply(&mut applied, &add(1, 1, 10)).unwrap(), "10");
        assert_eq!(apply(&mut applied, &add(1, 1, 10)).unwrap(), "10");
        assert_eq!(apply(&mut applied, &add(0, 0, 10)).unwrap(), "20");
        assert_eq!(apply(&mut applied, &add(0, 0, 10)).unwrap(), "30");
        assert_eq!(apply(&mut applied, &add(8, 1, 10)), Err(Refusal::SessionExpired));
        assert_eq!((applied.time, applied.sessions.len()), (5, 1));

        let mut bytes = applied.head().unwrap().encode();
        let head_bytes = bytes.len();
        applied.machine.snapshot().unwrap().read_to_end(&mut bytes).unwrap();
        let mut from = &bytes[..];
        let mut other = Applied::new(Sum::default());
        other.restore(SnapshotHead::read(&mut from).unwrap(), from).unwrap();
        assert_eq!(other.membership, Some(Membership { since: EntryId { term: 1, index: 0 }, json }));
        for applied in [&mut applied, &mut other] {
            assert_eq!(apply(applied, &add(1, 1, 10)).unwrap(), "10");
            assert_eq!(apply(applied, &add(1, 2, 1)).unwrap(), "31");
        }
        assert_eq!(applied.digest, other.digest);
        assert_eq!(applied.head(), other.head());
        let of = |answer: &'static str| Some(Outcome::Applied(Bytes::from_static(answer.as_bytes())));
        let became: Vec<Option<Outcome>> = (0..9).map(|index| other.outcome(index)).collect();
        let (repeated, expired) = (Some(Outcome::Repeated), Some(Outcome::Refused(Refusal::SessionExpired)));
        let all = [None, None, of("10"), repeated.clone(), of("20"), of("30"), expired, repeated, of("31")];
        assert_eq!(became, all);
        // As an earlier version wrote it.
        let head = SnapshotHead { outcomes: Bytes::new(), ..other.head().unwrap() };
        let mut old = Applied::new(Sum::default());
        let read = SnapshotHead::read(&mut &head.encode()[..]).unwrap();
        assert_eq!(read, head);
        old.restore(read, &0u64.to_le_bytes()[..]).unwrap();
        assert_eq!(old.outcome(8), None);

        for cut in 0..head_bytes {
            assert!(SnapshotHead::read(&mut &bytes[..cut]).is_err(), "{cut}");
        }
        let mut far = bytes.clone();
        far[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(SnapshotHead::read(&mut &far[..]).is_err());
    }

    /// Never edited: what a release wrote is read by every later one.
    const GOLDEN: &str = "tests/golden/snapshot-head-v1";

    #[test]
    fn a_head_of_an_earlier_version_is_read_and_the_same_bytes_are_written() {
        let mut applied = Applied::new(Sum::default());
        let json = Bytes::from_static(b"{\"voters\":[1]}");
        apply(&mut applied, &Command::Membership(json)).unwrap();
        apply(&mut applied, &Command::OpensSession { time: 3 }).unwrap();
        apply(&mut applied, &Command::OpensSession { time: 4 }).unwrap();
        for (client, seq, number) in [(1, 1, 10), (1, 1, 10), (2, 7, 200), (0, 0, 1), (9, 1, 1)] {
            drop(apply(&mut applied, &add(client, seq, number)));
        }
        let head = applied.head().unwrap();
        let path = std::path::Path::new(GOLDEN);
        if std::env::var_os("REWRITE").is_some_and(|value| value == "1") {
            // Only ever for a new file, of a new version.
            assert!(!path.exists(), "{GOLDEN} is never edited");
            std::fs::write(path, head.encode()).unwrap();
        }
        let written = std::fs::read(path).unwrap();
        assert_eq!(head.encode(), written);
        let read = SnapshotHead::read(&mut &written[..]).unwrap();
        let mut restored = Applied::new(Sum::default());
        restored.restore(read, &211u64.to_le_bytes()[..]).unwrap();
        assert_eq!(apply(&mut restored, &add(2, 7, 200)).unwrap(), "210");
        assert_eq!(apply(&mut restored, &add(1, 2, 1)).unwrap(), "212");
        let of = |answer: &'static str| Some(Outcome::Applied(Bytes::from_static(answer.as_bytes())));
        let became: Vec<Option<Outcome>> = (3..8).map(|index| restored.outcome(index)).collect();
        let expired = Some(Outcome::Refused(Refusal::SessionExpired));
        assert_eq!(became, [of("10"), Some(Outcome::Repeated), of("210"), of("211"), expired]);
    }

    #[test]
    fn a_digest_says_what_was_applied_in_which_order() {
        let digest = |commands: &[Command]| {
            let mut applied = Applied::new(Sum::default());
            commands.iter().for_each(|command| drop(apply(&mut applied, command)));
            applied.digest
        };
        let (one, two) = (add(0, 0, 1), add(0, 0, 2));
        assert_eq!(digest(&[one.clone(), two.clone()]), digest(&[one.clone(), two.clone()]));
        assert_ne!(digest(&[one.clone(), two.clone()]), digest(&[two.clone(), one.clone()]));
        assert_ne!(digest(std::slice::from_ref(&one)), digest(&[one, Command::Nothing]));
        assert_eq!(digest(&[two]).to_string().len(), 16);
    }
}
