//! What a Raft leader sends: to every member its own AppendEntries, with entries that all members share.
//!
//! A tick makes one batch per datacenter. In 2 % of the batches one member is left out, as when its window is full,
//! and gets those entries in front of its next message. The same seed makes the same messages.
//! What is in a message, byte by byte, is in `message`.

mod message;

mod source;

mod pace;

#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use self::message::{ENTRY_HEAD_BYTES, HEADER_BYTES, Header, ParseError, ReceivedEntry, ReceivedMessage};
pub use self::pace::{Offer, Pacer, offered_rate};
pub use self::source::{AtEnd, EntrySource, InputError, LINE_BYTES_MAX};
use super::{Dc, Member};

/// In how many of a thousand batches a member is left out.
const OMITTED_PER_MILLE: u32 = 20;
/// The term of a leader that was elected before the demo began.
const TERM: u64 = 7;

/// Who sends to whom.
#[derive(Debug, Clone)]
pub struct WorkloadConfig {
    /// Everything random comes from it.
    pub seed: u64,
    /// The leader's number in the headers.
    pub leader: u32,
    /// The datacenter of each member; [`Member`] counts them.
    pub members: Vec<Dc>,
}

/// One message for one member.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Its destination.
    pub member: Member,
    /// The destination's datacenter.
    pub dc: Dc,
    /// Counts the messages to this member, from 1.
    pub message_id: u64,
    /// Log index of the first entry.
    pub first_index: u64,
    /// The member's own header, then the entries: the same buffers for every member.
    pub segments: Vec<Bytes>,
}

impl Outgoing {
    /// Bytes of all segments.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.len() as u64).sum()
    }

    /// Entries in the message.
    #[must_use]
    pub fn entries(&self) -> &[Bytes] {
        &self.segments[1..]
    }
}

/// What the leader knows of a member.
#[derive(Debug)]
struct Progress {
    dc: Dc,
    /// Of the last message sent.
    message_id: u64,
    /// Entries sent, and those sent one message before: a follower's answer is about one message late.
    sent: u64,
    matched: u64,
    /// Entries it was left out of.
    missed: Vec<Bytes>,
}

/// The leader's side of replication.
#[derive(Debug)]
pub struct Workload {
    leader: u32,
    rng: fastrand::Rng,
    source: EntrySource,
    members: Vec<Progress>,
    /// Datacenters that have members, each once, in order.
    dcs: Vec<Dc>,
    last_index: u64,
    committed: u64,
}

impl Workload {
    /// A leader with an empty log.
    #[must_use]
    pub fn new(config: WorkloadConfig, source: EntrySource) -> Self {
        let mut dcs = config.members.clone();
        dcs.sort_unstable();
        dcs.dedup();
        let progress = |dc| Progress { dc, message_id: 0, sent: 0, matched: 0, missed: Vec::new() };
        Self {
            leader: config.leader,
            rng: fastrand::Rng::with_seed(config.seed),
            source,
            members: config.members.into_iter().map(progress).collect(),
            dcs,
            last_index: 0,
            committed: 0,
        }
    }

    /// Appends up to `entries` new entries and makes the messages that carry them, members in order.
    /// No messages: `entries` is 0 or the source has ended.
    ///
    /// # Errors
    /// What the input file says. Entries read before the error are lost; the log stays as it was.
    pub fn tick(&mut self, entries: usize) -> Result<Vec<Outgoing>, InputError> {
        let mut fresh = Vec::with_capacity(entries);
        while fresh.len() < entries {
            let index = self.last_index + 1 + fresh.len() as u64;
            match self.source.next(index, &mut self.rng)? {
                Some(entry) => fresh.push(entry),
                None => break,
            }
        }
        if fresh.is_empty() {
            return Ok(Vec::new());
        }
        let omitted: Vec<Member> =
            self.dcs.clone().into_iter().filter_map(|dc| self.choose_omitted(dc)).collect();
        let mut messages = Vec::with_capacity(self.members.len());
        for member in (0..self.members.len()).map(Member) {
            if omitted.contains(&member) {
                self.members[member.0].missed.extend_from_slice(&fresh);
            } else {
                messages.push(self.message(member, &fresh));
            }
        }
        // When the next batch goes, a majority has answered the one before this.
        self.committed = self.last_index;
        self.last_index += fresh.len() as u64;
        Ok(messages)
    }

    /// The last messages: what members that were left out still miss.
    pub fn finish(&mut self) -> Vec<Outgoing> {
        let behind: Vec<Member> =
            (0..self.members.len()).map(Member).filter(|m| !self.members[m.0].missed.is_empty()).collect();
        behind.into_iter().map(|member| self.message(member, &[])).collect()
    }

    /// Log index of the last entry made.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// Never the same member twice in a row: what it misses stays one batch.
    fn choose_omitted(&mut self, dc: Dc) -> Option<Member> {
        if self.rng.u32(0..1_000) >= OMITTED_PER_MILLE {
            return None;
        }
        let of_dc = |(at, p): (usize, &Progress)| (p.dc == dc && p.missed.is_empty()).then_some(Member(at));
        let eligible: Vec<Member> = self.members.iter().enumerate().filter_map(of_dc).collect();
        self.rng.choice(eligible)
    }

    fn message(&mut self, member: Member, fresh: &[Bytes]) -> Outgoing {
        let progress = &mut self.members[member.0];
        let mut entries = std::mem::take(&mut progress.missed);
        entries.extend_from_slice(fresh);
        progress.message_id += 1;
        let prev_index = progress.sent;
        let header = Header {
            term: TERM,
            leader: self.leader,
            prev_index,
            prev_term: if prev_index == 0 { 0 } else { TERM },
            leader_commit: self.committed,
            member: u32::try_from(member.0).expect("fewer than 2^32 members"),
            match_index: progress.matched,
            message_id: progress.message_id,
            entries: u32::try_from(entries.len()).expect("fewer than 2^32 entries in memory"),
        };
        progress.matched = progress.sent;
        progress.sent += entries.len() as u64;
        let mut segments = Vec::with_capacity(1 + entries.len());
        segments.push(header.encode());
        segments.append(&mut entries);
        Outgoing {
            member,
            dc: progress.dc,
            message_id: progress.message_id,
            first_index: prev_index + 1,
            segments,
        }
    }
}
