//! What a proxy keeps, bytes, for the checker of a simulation; and faults for it.

use std::collections::{BTreeSet, VecDeque};
use std::ops::RangeInclusive;

use super::{Entry, Proxy};
use crate::id::Lane;
use crate::proto::kept::{Kept, Limit};
use crate::proto::links::Links;
use crate::proto::wire::AckFlow;

impl Proxy {
    /// Limit by limit.
    pub fn kept<'a>(&'a self, links: &'a Links) -> impl Iterator<Item = Kept<'a>> {
        let askers = self.askers.iter().map(|(origin, asker)| (origin, &asker.queue));
        self.members.iter().chain(askers).flat_map(|(peer, queue)| {
            Lane::ALL.into_iter().flat_map(|lane| {
                let of = Some((&links.spec(*peer).id, lane));
                let whole = Kept { limit: Limit::Member, of, bytes: queue.bytes[lane.index()] };
                [whole, Kept { limit: Limit::Proxy, of, bytes: bytes_behind(&queue.lanes[lane.index()]) }]
            })
        })
    }

    /// How often only that all queues together were full kept a run out.
    #[must_use]
    pub fn refused_beyond(&self) -> u64 {
        self.refused_beyond
    }

    /// A fault for simulations: of so many runs one is acknowledged as if its member had it, and forgotten.
    pub fn set_lying(&mut self, one_in: u64) {
        self.lies = one_in;
    }

    /// A fault for simulations: of every flow that comes its way it tells a floor that no origin gets to, and passes
    /// nothing on.
    pub fn set_forging(&mut self) {
        self.forges = true;
    }

    /// A fault for simulations: it says of all messages that their members hold them, and passes none on.
    pub fn set_hoarding(&mut self) {
        self.hoards = true;
    }
}

/// An entry that says of these seqs that they are held.
pub(super) fn with_held(mut entry: AckFlow, seqs: RangeInclusive<u64>) -> AckFlow {
    for ahead in seqs.filter_map(|seq| seq.checked_sub(entry.decided + 1)) {
        let word = usize::try_from(ahead / 64).unwrap_or(0);
        entry.held.resize(entry.held.len().max(word + 1), 0);
        entry.held[word] |= 1 << (ahead % 64);
    }
    entry
}

/// What waits behind the first run of its flow.
fn bytes_behind(lane: &VecDeque<Entry>) -> usize {
    if lane.len() < 2 {
        return 0;
    }
    let mut flows = BTreeSet::new();
    lane.iter().filter(|entry| !flows.insert(&entry.flow)).map(|entry| entry.charge).sum()
}
