//! What a proxy keeps, bytes.

use super::Proxy;
#[cfg(feature = "sim")]
use crate::id::Lane;
#[cfg(feature = "sim")]
use crate::proto::kept::{Kept, Queue};
#[cfg(feature = "sim")]
use crate::proto::links::Links;

impl Proxy {
    /// Bytes queued for members, and for origins elsewhere.
    #[must_use]
    pub fn queue_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// The same, queue by queue.
    #[cfg(feature = "sim")]
    pub fn kept<'a>(&'a self, links: &'a Links) -> impl Iterator<Item = Kept<'a>> {
        let askers = self.askers.iter().map(|(origin, asker)| (origin, &asker.queue));
        self.members.iter().chain(askers).flat_map(|(peer, queue)| {
            let of =
                |lane: Lane| (Queue::Member, Some((&links.spec(*peer).id, lane)), queue.bytes[lane.index()]);
            Lane::ALL.map(of).map(|(queue, of, bytes)| Kept { queue, of, bytes })
        })
    }
}
