//! What a sender keeps, bytes, for the checker of a simulation; and a fault for it.

use super::Client;
use crate::id::Datacenter;
use crate::proto::kept::{Kept, Limit};
use crate::proto::links::Links;
use crate::proto::time::Micros;
use crate::stats::RouteStatus;

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

    /// How the proxies of each datacenter are.
    pub fn routes_kept<'a>(
        &'a self,
        links: &'a Links,
        now: Micros,
    ) -> impl Iterator<Item = (&'a Datacenter, Vec<RouteStatus>)> {
        let sites = self.sites.iter().filter(|site| site.present);
        sites.map(move |site| (&site.name, site.routes.status(links, &self.settings, now)))
    }

    /// A fault for simulations: of so many messages one gives nothing back when it is decided.
    pub fn set_leaking(&mut self, one_in: u64) {
        self.leaks = one_in;
    }
}
