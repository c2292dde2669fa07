//! The engine's types, and how what it keeps is written as bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;

use bytes::Bytes;
use openraft::impls::{Vote, leader_id_std};
use openraft::{EntryPayload, StoredMembership};
use serde::{Deserialize, Serialize};

use super::super::applied::{Answer, Membership};
use super::super::command::Command;
use super::super::replica_id::{Place, ReplicaId};
use crate::storage::{Entry, EntryId};

/// The simulation's is tokio's as well, without its randomness.
#[cfg(test)]
use super::simulation::Runtime;
#[cfg(not(test))]
use openraft_rt_tokio::TokioRuntime as Runtime;

openraft::declare_raft_types!(
    /// What the engine is made of here.
    pub(super) Types:
        D = Proposal,
        R = Answer,
        NodeId = ReplicaId,
        Node = Place,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = Runtime,
);

pub(super) type CommittedLeaderId =
    <leader_id_std::LeaderId<u64, ReplicaId> as openraft::vote::RaftLeaderId>::Committed;
pub(super) type LogId = openraft::LogId<CommittedLeaderId>;
pub(super) type EngineVote = Vote<leader_id_std::LeaderId<u64, ReplicaId>>;
pub(super) type EngineEntry = openraft::Entry<CommittedLeaderId, EntryPayload<Proposal, ReplicaId, Place>>;
pub(super) type EngineMembership = openraft::Membership<ReplicaId, Place>;
pub(super) type EngineStored = StoredMembership<CommittedLeaderId, ReplicaId, Place>;

/// An encoded [`Command`] that the engine does not look into: an operation, or the opening of a session.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proposal(pub(super) Bytes);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.0.len())
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(super) fn id_of(log_id: &LogId) -> EntryId {
    EntryId { term: log_id.leader_id.term, index: log_id.index }
}

pub(super) fn log_id_of(id: EntryId) -> LogId {
    LogId::new(CommittedLeaderId::new(id.term), id.index)
}

/// What an entry says, as it is stored, sent and applied.
pub(super) fn bytes_of(payload: &EntryPayload<Proposal, ReplicaId, Place>) -> Bytes {
    match payload {
        EntryPayload::Blank => Command::Nothing.encode(),
        EntryPayload::Normal(Proposal(bytes)) => bytes.clone(),
        EntryPayload::Membership(membership) => Command::Membership(json_of(membership)).encode(),
    }
}

/// The other way.
///
/// # Errors
///
/// Where the bytes are no command: of a damaged entry, of a later version, or of a peer that means harm.
pub(super) fn payload_of(bytes: &Bytes) -> io::Result<EntryPayload<Proposal, ReplicaId, Place>> {
    Ok(match Command::decode(bytes).map_err(io::Error::other)? {
        Command::Nothing => EntryPayload::Blank,
        Command::Membership(json) => EntryPayload::Membership(membership_of(&json)?),
        Command::Operation { .. } | Command::OpensSession { .. } => {
            EntryPayload::Normal(Proposal(bytes.clone()))
        }
    })
}

pub(super) fn entry_of(entry: &Entry) -> io::Result<EngineEntry> {
    Ok(EngineEntry { log_id: log_id_of(entry.id), payload: payload_of(&entry.payload)? })
}

/// A membership as it is written: [`Command::Membership`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// Sets of voters, each of which a quorum is needed of.
    voters: Vec<BTreeSet<ReplicaId>>,
    /// Voters and learners.
    replicas: BTreeMap<ReplicaId, Place>,
}

pub(super) fn json_of(membership: &EngineMembership) -> Bytes {
    let written = Written {
        voters: membership.get_joint_config().clone(),
        replicas: membership.nodes().map(|(id, place)| (*id, place.clone())).collect(),
    };
    serde_json::to_vec(&written).expect("names and numbers can be written as JSON").into()
}

fn membership_of(json: &[u8]) -> io::Result<EngineMembership> {
    let written: Written = serde_json::from_slice(json)?;
    openraft::Membership::new(written.voters, written.replicas).map_err(io::Error::other)
}

pub(super) fn stored_of(membership: Option<&Membership>) -> io::Result<EngineStored> {
    let Some(membership) = membership else { return Ok(EngineStored::default()) };
    Ok(EngineStored::new(Some(log_id_of(membership.since)), membership_of(&membership.json)?))
}

/// A vote as it is stored: term 8, replica 8, committed 1.
pub(super) fn vote_bytes(vote: &EngineVote) -> Bytes {
    let mut out = Vec::with_capacity(VOTE_BYTES);
    out.extend_from_slice(&vote.leader_id.term.to_le_bytes());
    out.extend_from_slice(&vote.leader_id.voted_for.0.to_le_bytes());
    out.push(u8::from(vote.committed));
    out.into()
}

/// How long a vote is as bytes.
pub(super) const VOTE_BYTES: usize = 17;

pub(super) fn vote_of(bytes: &[u8]) -> Option<EngineVote> {
    let bytes: &[u8; VOTE_BYTES] = bytes.try_into().ok()?;
    let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let (term, replica) = (field(0), ReplicaId(field(8)));
    match bytes[16] {
        0 => Some(EngineVote::new(term, replica)),
        1 => Some(EngineVote::new_committed(term, replica)),
        _ => None,
    }
}
