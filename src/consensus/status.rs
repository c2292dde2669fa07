//! What a replica says of itself.

use std::time::Duration;

use super::engine::Sent;
use super::replica_id::{Place, ReplicaId};
use crate::storage::EntryId;

/// What a replica is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes proposals and replicates them.
    Leader,
    /// It asks for votes.
    Candidate,
    /// It votes, and takes what a leader sends.
    Follower,
    /// It takes what a leader sends, and has no vote.
    Learner,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Leader, Self::Candidate, Self::Follower, Self::Learner];

    /// Its name, for status and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Candidate => "candidate",
            Self::Follower => "follower",
            Self::Learner => "learner",
        }
    }
}

/// Why a client does better to go to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotReady {
    /// The consensus engine stopped.
    #[error("its consensus engine stopped")]
    Stopped,
    /// It follows nobody, or heard nothing of its leader for so long: it may be cut off, or wait to be added.
    #[error("it heard of no leader for {within:?}")]
    NoLeader {
        /// How long that was.
        within: Duration,
    },
    /// The leader that it follows, or is, was answered by no majority for so long: another one may lead by now.
    #[error("its leader was answered by no majority for {within:?}")]
    NoMajority {
        /// How long that was.
        within: Duration,
    },
    /// It has not applied so many entries that it knows to be committed.
    #[error("it has {lacks} entries to apply that are committed")]
    Behind {
        /// How many.
        lacks: u64,
    },
}

/// A replica at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// Itself.
    pub replica: ReplicaId,
    /// What it is to the others.
    pub role: Role,
    /// The highest term it knows of.
    pub term: u64,
    /// Who leads, as far as it knows: it heard of it within the election time, and a majority answered that one.
    pub leader: Option<(ReplicaId, Place)>,
    /// Who votes.
    pub voters: Vec<(ReplicaId, Place)>,
    /// Who does not.
    pub learners: Vec<(ReplicaId, Place)>,
    /// The index of its last entry.
    pub last: Option<u64>,
    /// The last entry that it knows to be committed.
    pub committed: Option<EntryId>,
    /// The last entry that was applied.
    pub applied: Option<EntryId>,
    /// The last entry in the newest snapshot.
    pub snapshot: Option<EntryId>,
    /// Snapshots that could not be taken since the start.
    pub snapshots_failed: u64,
    /// The last entry that is gone from the log.
    pub purged: Option<EntryId>,
    /// What it acknowledged may be lost: it does not vote before it has caught up.
    pub in_doubt: bool,
    /// The clock guard found no fault within the last minute.
    pub clocks_sure: bool,
    /// It gives leases: it leads, and a majority's clocks run as its own does. Otherwise a read that would do with
    /// one asks a quorum.
    pub leases: bool,
    /// Why a client does better to go to another node; `None`: it does not.
    pub not_ready: Option<NotReady>,
    /// Why the engine stopped, where it did.
    pub stopped: Option<String>,
    /// What it sent.
    pub sent: Sent,
}
