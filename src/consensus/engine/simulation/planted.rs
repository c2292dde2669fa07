//! Bugs, planted one at a time at the seams of the simulation: its disks, its network, its clients. Nothing else knows of them,
//! and the checker must see each.

use super::faults::{Fault, Swarm};

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Planted {
    /// Entries are acknowledged before they are synced: a sync of a segment does nothing.
    AckBeforeSync,
    /// A vote is given before it is synced.
    VoteNotPersisted,
    /// Leaders take entries for replicated that they only sent.
    AckBeforeQuorum,
    /// What sessions remember is not in snapshots.
    SessionsNotInSnapshot,
    /// A node that thinks it leads answers reads without asking a quorum.
    ReadWithoutQuorum,
    /// A log is cut at the first record that is damaged, and nobody is told.
    CutAtDamage,
}

impl Planted {
    /// What it takes to show it.
    pub(super) fn swarm(self) -> Option<Swarm> {
        match self {
            Self::ReadWithoutQuorum => Some(Swarm::only(&[Fault::CutNode, Fault::CutDatacenter])),
            Self::CutAtDamage => Some(Swarm::only(&[Fault::Damage])),
            _ => None,
        }
    }

    pub(super) const ALL: [Self; 6] = [
        Self::AckBeforeSync,
        Self::VoteNotPersisted,
        Self::AckBeforeQuorum,
        Self::SessionsNotInSnapshot,
        Self::ReadWithoutQuorum,
        Self::CutAtDamage,
    ];
}
