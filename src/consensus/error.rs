//! Why a request to a replica failed, and whether that is definite.

use trunkline_mesh::NodeId;

use super::replica_id::ReplicaId;
use super::session::Refusal;

/// A proposal that has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Nobody leads at the moment, or it is not known who. It was not appended and never will be: propose it again.
    #[error("there is no leader now: try again")]
    NoLeader,
    /// Too many proposals are under way, or committed and not yet applied. It was not appended and never will be: try again later.
    #[error("too many proposals are under way: try again later")]
    Busy,
    /// The operation is longer than any may be. It was not appended and never will be.
    #[error("an operation of {bytes} B is longer than {bytes_max} B")]
    TooLarge {
        /// How long it is.
        bytes: usize,
        /// How long one may be.
        bytes_max: usize,
    },
    /// It was committed and not applied, for this reason.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It may have been applied, or may yet be, or not. In a session, propose it again under the same number: it is applied
    /// once.
    #[error("the outcome is not known: {why}")]
    Unknown {
        /// What happened.
        why: String,
    },
    /// This node's engine stopped. It may have been applied or not.
    #[error("this node's engine stopped: {why}")]
    Stopped {
        /// What happened.
        why: String,
    },
}

impl ProposeError {
    /// True: the operation was not applied by this proposal, and will not be.
    #[must_use]
    pub fn is_definite(&self) -> bool {
        !matches!(self, Self::Unknown { .. } | Self::Stopped { .. })
    }
}

/// A read that must not be answered from this node's state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No leader confirmed in time how far the log is committed.
    #[error("no leader confirmed in time how far the log is committed: try again, or read what may be stale")]
    NoLeader,
    /// This node did not come so far in time.
    #[error("this node has not applied entry {index} in time: try again, or at another node")]
    Behind {
        /// The entry that must be applied first.
        index: u64,
    },
    /// This node's engine stopped.
    #[error("this node's engine stopped: {why}")]
    Stopped {
        /// What happened.
        why: String,
    },
}

/// A snapshot that the program wanted to write, and that did not become the replica's. The one before is, and no entry is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MarkerError {
    /// No entry is applied here yet: there is nothing to be written.
    #[error("no entry is applied yet")]
    NotApplied,
    /// One marker at a time: end the other one, or drop it.
    #[error("another snapshot is being written by the program")]
    UnderWay,
    /// There is one that has as much, of this replica or of its leader: begin anew.
    #[error("a snapshot up to entry {index} is there already")]
    Newer {
        /// The last entry in that.
        index: u64,
    },
    /// The marker is of another replica, or of an earlier start of this one.
    #[error("the marker is of another replica, or of an earlier start of this one")]
    Foreign,
    /// The disk refused some of it. After a failed write nothing becomes of a marker.
    #[error("the snapshot cannot be written: {why}")]
    Disk {
        /// What it says.
        why: String,
    },
    /// This node's engine stopped.
    #[error("this node's engine stopped: {why}")]
    Stopped {
        /// What happened.
        why: String,
    },
}

impl MarkerError {
    pub(super) fn disk(error: impl std::fmt::Display) -> Self {
        Self::Disk { why: error.to_string() }
    }

    pub(super) fn stopped(error: impl std::fmt::Display) -> Self {
        Self::Stopped { why: error.to_string() }
    }
}

/// A replica that was not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory cannot be used, or what is in it.
    #[error(transparent)]
    Storage(#[from] crate::storage::StorageError),
    /// The state cannot be built up from what is on disk, or a thread cannot be started.
    #[error("the state cannot be built up: {0}")]
    State(#[from] std::io::Error),
    /// The times contradict each other.
    #[error("the times contradict each other: {why}")]
    Timing {
        /// How.
        why: String,
    },
    /// The engine did not start.
    #[error("the consensus engine did not start: {why}")]
    Engine {
        /// What it says.
        why: String,
    },
    /// The topology does not have this node, or it has not both roles `origin` and `member`.
    #[error("node `{node}` needs the roles `origin` and `member`")]
    Roles {
        /// The node.
        node: String,
    },
}

/// A change of members that was not made, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    /// Another replica leads: ask that one. Nothing was changed.
    #[error("this replica does not lead: ask the leader")]
    NotLeader,
    /// The node did not say which replica it has. Start it, and let the topology have it. Nothing was changed.
    #[error("the node does not answer: {why}")]
    Silent {
        /// What happened.
        why: String,
    },
    /// The node has founded a cluster of its own, or is in one: what was committed there would be lost. Nothing was changed, here
    /// or there.
    #[error(
        "node `{node}` is of another cluster: the log of its replica {replica} has {members} members, and none of them is here. \
         Nothing was changed, here or there. Name another node; or give that log up: stop the node, empty its data directory, \
         start it with the file of this cluster, and add it again"
    )]
    OfAnotherCluster {
        /// Which node.
        node: NodeId,
        /// The replica that runs there.
        replica: ReplicaId,
        /// How many are in its cluster.
        members: usize,
    },
    /// No such replica is in the cluster. Nothing was changed.
    #[error("replica {replica} is not in the cluster")]
    Unknown {
        /// Which one.
        replica: ReplicaId,
    },
    /// A voter without most of the log would only make majorities slower. Try again when it has caught up. Nothing was
    /// changed.
    #[error("replica {replica} has not caught up: try again later")]
    Behind {
        /// Which one.
        replica: ReplicaId,
    },
    /// The engine does not allow it, as while another change is under way. Nothing was changed.
    #[error("it cannot be changed now: {why}")]
    Refused {
        /// What it says.
        why: String,
    },
    /// It may have been changed or not: look at the status, and try again.
    #[error("the outcome is not known: {why}")]
    Outcome {
        /// What happened.
        why: String,
    },
    /// This node's engine stopped.
    #[error("this node's engine stopped: {why}")]
    Stopped {
        /// What happened.
        why: String,
    },
}
