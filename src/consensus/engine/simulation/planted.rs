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
    /// A node that voted in a term gives another candidate its vote in it too.
    TwoVotes,
    /// A node whose log was cut at its end votes as if it had everything.
    VoteInDoubt,
    /// Subscribers are given entries that are not committed.
    FollowUncommitted,
    /// A node forgets at its start what it knew to be committed.
    CommitForgotten,
    /// A node loses the end of its log when it starts after another leader was heard of, and does not know it.
    TailLost,
    /// Leases are given whatever clocks show.
    LeaseWithoutGuard,
    /// A replica that lends its snapshot sends an older one than was asked for.
    LentOlder,
    /// A node asks for votes right after its start, whatever it promised another leader before.
    OwnCandidacy,
    /// A leader goes by the engine's times of what a majority answered.
    TimesOfEngine,
}

impl Planted {
    /// What it takes to show it.
    pub(super) fn swarm(self) -> Option<Swarm> {
        match self {
            Self::ReadWithoutQuorum => Some(Swarm::only(&[Fault::CutNode, Fault::CutDatacenter])),
            Self::CutAtDamage => Some(Swarm::only(&[Fault::Damage])),
            Self::TwoVotes => Some(Swarm::only(&[Fault::Kill, Fault::CutNode, Fault::PowerLoss])),
            Self::VoteInDoubt => Some(Swarm::only(&[Fault::PowerLoss, Fault::PowerLossAtCall, Fault::Kill])),
            Self::FollowUncommitted => Some(Swarm::only(&[Fault::CutDatacenter])),
            Self::CommitForgotten => Some(Swarm::only(&[Fault::Kill])),
            _ => None,
        }
    }

    /// What the checker says of it, in part: no other violation will do.
    pub(super) fn violation(self) -> &'static str {
        match self {
            Self::AckBeforeSync => ", its disk",
            Self::VoteNotPersisted => "on its disk",
            Self::AckBeforeQuorum => "is committed, and",
            Self::SessionsNotInSnapshot => "is applied twice",
            Self::ReadWithoutQuorum => "the history is not linearizable",
            Self::CutAtDamage | Self::TailLost => "and came back with",
            Self::TwoVotes => "votes for",
            Self::VoteInDoubt => "and is in doubt",
            Self::FollowUncommitted => "and nobody has applied it",
            Self::CommitForgotten => "goes back from",
            Self::LentOlder => "a snapshot without",
            Self::LeaseWithoutGuard | Self::OwnCandidacy => "a lease read is stale",
            Self::TimesOfEngine => "stale reads",
        }
    }

    /// Those that a run of a swarm shows; the others have tests of their own, here, in `leases.rs`, in `lent.rs` and in `stopped.rs`.
    pub(super) const ALL: [Self; 10] = [
        Self::AckBeforeSync,
        Self::VoteNotPersisted,
        Self::AckBeforeQuorum,
        Self::SessionsNotInSnapshot,
        Self::ReadWithoutQuorum,
        Self::CutAtDamage,
        Self::TwoVotes,
        Self::VoteInDoubt,
        Self::FollowUncommitted,
        Self::CommitForgotten,
    ];
}
