//! What a majority has taken of the appends that this node sent, and when it sent them. By that alone a leader knows that it led still when
//! a reader began, and how long its lease lasts.
//!
//! The engine keeps such times too, and takes the answer to one append for the answer to all without entries that were sent behind it,
//! however much later. Answers that waited in the buffers of a process that stood still would confirm what it sent when it went on, while
//! another one leads. Here an answer counts for the append that it answers, and for no other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use super::super::replica_id::ReplicaId;
use super::super::time::Instant;
use super::super::watch;
use super::types::*;

/// An append, as it leaves. What leaves later is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sent {
    pub(super) number: u64,
    pub(super) at: Instant,
}

pub(super) struct Quorum {
    own: ReplicaId,
    /// The number of the last append.
    last: Mutex<u64>,
    tell: watch::Sender<Taken>,
    taken: watch::Receiver<Taken>,
}

/// Of each replica the last append that it took, in the latest term of which any was.
#[derive(Clone, Debug, Default)]
struct Taken {
    term: u64,
    by: BTreeMap<ReplicaId, Sent>,
}

impl Quorum {
    pub(super) fn new(own: ReplicaId) -> Self {
        let (tell, taken) = watch::channel(Taken::default());
        Self { own, last: Mutex::new(0), tell, taken }
    }

    /// An append is about to leave.
    pub(super) fn sends(&self) -> Sent {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last += 1;
        Sent { number: *last, at: Instant::now() }
    }

    /// Whatever leaves from now on has a higher number.
    pub(super) fn last(&self) -> u64 {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A replica took an append that this node had sent as the leader of a term.
    pub(super) fn is_taken(&self, by: ReplicaId, term: u64, sent: Sent) {
        self.tell.send_modify(|taken| {
            if taken.term < term {
                *taken = Taken { term, by: BTreeMap::new() };
            }
            if taken.term == term {
                let last = taken.by.entry(by).or_insert(sent);
                *last = sent.max(*last);
            }
        });
    }

    /// A majority took this append of a term, or a later one.
    pub(super) fn majority(&self, term: u64, membership: &EngineMembership) -> Option<Sent> {
        self.taken.borrow().majority(self.own, term, membership)
    }

    /// Resolves once a majority took one that has a higher number.
    pub(super) async fn majority_beyond(
        &self,
        number: u64,
        term: u64,
        membership: impl Fn() -> EngineMembership,
    ) {
        let beyond = |taken: &Taken| {
            let majority = taken.majority(self.own, term, &membership());
            majority.is_some_and(|sent| sent.number > number)
        };
        // The sender is here.
        let _ = self.taken.clone().wait_for(beyond).await;
    }
}

impl Taken {
    /// Of two sets of voters, as there are while they change, a majority of each.
    fn majority(&self, own: ReplicaId, term: u64, membership: &EngineMembership) -> Option<Sent> {
        let of_each = membership.get_joint_config().iter().map(|voters| self.majority_of(voters, own, term));
        of_each.min().flatten()
    }

    fn majority_of(&self, voters: &BTreeSet<ReplicaId>, own: ReplicaId, term: u64) -> Option<Sent> {
        let taken = |voter: &ReplicaId| match self.by.get(voter) {
            // It takes itself for the leader whatever it sends.
            _ if *voter == own => Some(Sent { number: u64::MAX, at: Instant::now() }),
            sent => sent.filter(|_| self.term == term).copied(),
        };
        let mut all: Vec<Option<Sent>> = voters.iter().map(taken).collect();
        all.sort_unstable_by(|one, other| other.cmp(one));
        *all.get(voters.len() / 2)?
    }
}

#[cfg(test)]
mod tests {
    use trunkline_mesh::{Datacenter, NodeId};

    use super::super::super::replica_id::Place;
    use super::*;

    const OWN: ReplicaId = ReplicaId(1);

    fn voters(sets: &[&[u64]]) -> EngineMembership {
        let sets: Vec<BTreeSet<_>> =
            sets.iter().map(|set| set.iter().map(|id| ReplicaId(*id)).collect()).collect();
        let nodes = sets.iter().flatten().map(|id| {
            let node = NodeId::new(&format!("node-{id}")).expect("it is a name");
            (*id, Place::known(node, Datacenter::new("eu").expect("it is a name")))
        });
        let nodes: BTreeMap<_, _> = nodes.collect();
        EngineMembership::new(sets, nodes).expect("there are voters")
    }

    #[test]
    fn an_answer_counts_for_the_append_that_it_answers_and_for_no_other() {
        let quorum = Quorum::new(OWN);
        let three = voters(&[&[1, 2, 3]]);
        let majority =
            |membership: &EngineMembership, term| quorum.majority(term, membership).map(|sent| sent.number);
        let (first, second, third) = (quorum.sends(), quorum.sends(), quorum.sends());
        assert_eq!(majority(&three, 7), None);
        quorum.is_taken(ReplicaId(2), 7, second);
        assert_eq!(majority(&three, 7), Some(2), "the third was sent behind it");
        quorum.is_taken(ReplicaId(3), 7, first);
        quorum.is_taken(ReplicaId(2), 7, first);
        assert_eq!((majority(&three, 7), quorum.last()), (Some(2), 3));
        // One of four is missing; of five, two are.
        assert_eq!(majority(&voters(&[&[1, 2, 3, 4]]), 7), Some(1));
        assert_eq!(majority(&voters(&[&[1, 2, 4, 5, 6]]), 7), None);
        // Of each of two sets of voters, and where this node is in none.
        assert_eq!(majority(&voters(&[&[1, 2, 3], &[1, 3, 4]]), 7), Some(1));
        assert_eq!(majority(&voters(&[&[1, 2, 3], &[1, 4, 5]]), 7), None);
        assert_eq!(majority(&voters(&[&[2, 3]]), 7), Some(1));
        // Nobody else is asked.
        assert_eq!(majority(&voters(&[&[1]]), 9), Some(u64::MAX));
        // What was taken in one term says nothing of another one, and comes too late after a later one.
        assert_eq!(majority(&three, 8), None);
        quorum.is_taken(ReplicaId(3), 8, third);
        quorum.is_taken(ReplicaId(2), 7, third);
        assert_eq!((majority(&three, 7), majority(&three, 8)), (None, Some(3)));
    }
}
