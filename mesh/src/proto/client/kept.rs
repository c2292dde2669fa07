//! What a sender keeps, bytes, for the checker of a simulation; and a fault for it.

use super::Client;
use crate::proto::kept::{Kept, Limit};

impl Client {
    /// Limit by limit.
    pub fn kept(&self) -> impl Iterator<Item = Kept<'_>> {
        let datacenters = (0..self.sites.len()).map(|site| (Limit::Datacenter, self.budget.queued(site)));
        let whole = datacenters.chain([(Limit::Process, self.budget.queued_of_all())]);
        let destinations = self.flows.iter().zip(&self.destination_bytes).map(|(flow, bytes)| Kept {
            limit: Limit::Destination,
            of: Some((&flow.destination, flow.lane)),
            bytes: *bytes,
        });
        whole.map(|(limit, bytes)| Kept { limit, of: None, bytes }).chain(destinations)
    }

    /// A fault for simulations: of so many messages one gives nothing back when it is decided.
    pub fn set_leaking(&mut self, one_in: u64) {
        self.leaks = one_in;
    }
}
