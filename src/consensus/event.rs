//! What happened to a replica that somebody may ask about later.

use serde::Serialize;
use trunkline_mesh::NodeId;

use super::replica_id::ReplicaId;

/// One line of the [event log](super::events).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Event {
    /// The replica started.
    Started {
        replica: ReplicaId,
        version: &'static str,
        /// What it acknowledged before may be lost: it does not vote.
        in_doubt: bool,
    },
    /// It asks all voters: for their votes, or on trial whether they would vote for it.
    AsksForVotes { term: u64, trial: bool, reason: &'static str },
    /// A voter answered that.
    VoteReceived { term: u64, trial: bool, from: ReplicaId, granted: bool },
    /// Another replica asked this one.
    Asked { term: u64, trial: bool, by: ReplicaId, granted: bool, reason: &'static str },
    /// On disk: whom it votes for in a term, or that this one leads.
    VoteSaved { term: u64, voted_for: ReplicaId, leads: bool },
    /// Who leads, as far as it knows.
    Leader { term: u64, replica: Option<ReplicaId>, node: Option<NodeId> },
    /// Who is in the cluster, from this entry on.
    Members { index: u64, voters: Vec<ReplicaId>, learners: Vec<ReplicaId> },
    /// It wrote a snapshot of everything up to an entry.
    SnapshotTaken { index: u64 },
    /// It could not write one.
    SnapshotFailed { why: String },
    /// As the leader it sent a replica its own, or began to.
    SnapshotSent { index: u64, to: ReplicaId, bytes: u64, installed: bool },
    /// The leader had it send another replica its own.
    SnapshotLent { index: u64, to: ReplicaId, asked_by: ReplicaId, bytes: u64, installed: bool },
    /// As the leader it asked a replica to send another one its own, and that one refused, or ended what it had begun.
    SnapshotNotLent { index: u64, to: ReplicaId, asked: ReplicaId, began: bool },
    /// It took another replica's.
    SnapshotInstalled { index: u64 },
    /// It caught up after a doubt, and votes again.
    CaughtUp,
    /// Clocks cannot be trusted: leases are refused until they can be.
    ClockFault { what: String },
    /// They can be again.
    ClocksTrusted,
    /// It was told to stop.
    Stops,
}

impl Event {
    /// A peer may cause it as often as it likes.
    pub(super) fn is_of_a_peer(&self) -> bool {
        matches!(self, Self::Asked { .. } | Self::VoteReceived { .. })
    }
}
