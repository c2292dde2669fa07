//! What a proxy keeps, bytes, for the checker of a simulation; and faults for it.

use super::Proxy;
use crate::id::Lane;
use crate::proto::kept::{Kept, Limit};
use crate::proto::links::Links;

impl Proxy {
    /// Limit by limit.
    pub fn kept<'a>(&'a self, links: &'a Links) -> impl Iterator<Item = Kept<'a>> {
        let askers = self.askers.iter().map(|(origin, asker)| (origin, &asker.queue));
        self.members.iter().chain(askers).flat_map(|(peer, queue)| {
            Lane::ALL.map(|lane| Kept {
                limit: Limit::Member,
                of: Some((&links.spec(*peer).id, lane)),
                bytes: queue.bytes[lane.index()],
            })
        })
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
}
