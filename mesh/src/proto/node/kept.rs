//! What a node keeps and means, for the checker of a simulation.

use std::sync::Arc;

use super::Node;
use crate::id::{Datacenter, Lane};
use crate::proto::kept::Kept;
use crate::proto::links::ConnId;
use crate::proto::time::Micros;
use crate::proto::wire::{Flow, RefusedReason};
use crate::stats::RouteStatus;

impl Node {
    /// Limit by limit.
    pub fn kept(&self) -> impl Iterator<Item = Kept<'_>> {
        let client = self.client.iter().flat_map(|client| client.kept());
        let member = self.member.iter().flat_map(|member| member.kept());
        let proxy = self.proxy.iter().flat_map(|proxy| proxy.kept(&self.links));
        client.chain(member).chain(proxy)
    }

    /// Which flow the other end of this connection's link was told that a row of a lane is.
    pub fn flow_out(&mut self, conn: ConnId, lane: Lane, row: u32) -> Option<Arc<Flow>> {
        let (link, _) = self.links.link_of(conn)?;
        self.links.roster_out(link, lane)?.flow(row).cloned()
    }

    /// What its proxy and its member refused for one of these reasons.
    #[must_use]
    pub fn refused_for(&self, reasons: &[RefusedReason]) -> u64 {
        let proxy = self.proxy.iter().map(|proxy| &proxy.stats.refused);
        let refused = proxy.chain(self.member.iter().map(|member| &member.stats.refused));
        refused.flat_map(|of| reasons.iter().filter_map(|reason| of.get(reason.label()))).sum()
    }

    /// How each datacenter's proxies are, as far as this node sends there.
    pub fn routes_kept(&self, now: Micros) -> impl Iterator<Item = (&Datacenter, Vec<RouteStatus>)> {
        self.client.iter().flat_map(move |client| client.routes_kept(&self.links, now))
    }

    /// See [`Proxy::refused_beyond`](crate::proto::proxy::Proxy::refused_beyond).
    #[must_use]
    pub fn refused_beyond(&self) -> u64 {
        self.proxy.as_ref().map_or(0, |proxy| proxy.refused_beyond())
    }
}
