//! What a sender keeps, bytes, and what it decided, for the checker of a simulation; and a fault for it.

use super::{Client, Ticket};
use crate::proto::kept::{Kept, Queue};

impl Client {
    /// Queue by queue.
    pub fn kept(&self) -> impl Iterator<Item = Kept<'_>> {
        let datacenters = (0..self.sites.len()).map(|site| (Queue::Datacenter, self.budget.queued(site)));
        let whole = datacenters.chain([(Queue::Process, self.budget.queued_of_all())]);
        let destinations = self.flows.iter().zip(&self.destination_bytes).map(|(flow, bytes)| Kept {
            queue: Queue::Destination,
            of: Some((&flow.destination, flow.lane)),
            bytes: *bytes,
        });
        whole.map(|(queue, bytes)| Kept { queue, of: None, bytes }).chain(destinations)
    }

    /// Messages that were decided since this was asked last: a batch, and a place in it. Its receipt tells of all of them at once,
    /// which may be later.
    pub fn take_decided(&mut self) -> Vec<(Ticket, usize)> {
        std::mem::take(&mut self.decided)
    }

    /// A fault for simulations: of so many messages one gives nothing back when it is decided.
    pub fn set_leaking(&mut self, one_in: u64) {
        self.leaks = one_in;
    }
}
