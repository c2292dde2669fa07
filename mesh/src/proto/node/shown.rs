//! What a node counted, and what it is and does now, for people and for metrics.

use super::Node;
use crate::proto::client::Client;
use crate::proto::member::Member;
use crate::proto::time::{Micros, micros};
use crate::proto::verdict::Blame;
use crate::stats::decision::{DatacenterRoutes, RoutesStatus};
use crate::stats::{Readiness, SecurityStatus, Stats, Status};

impl Node {
    /// Everything counted since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = self.client.as_ref().map_or_else(Stats::default, Client::stats);
        self.links.add_to(&mut stats);
        // Zero at a node that sends nothing, and there all the same.
        for blame in Blame::ALL {
            stats.verdicts.entry(blame.label()).or_default();
        }
        (stats.busy, stats.event_loop_lag) = (self.busy, self.lag.clone());
        stats.acks_ignored = self.acks_ignored;
        if let Some(proxy) = &self.proxy {
            stats.proxy = proxy.stats.clone();
        }
        if let Some(member) = &self.member {
            stats.member = member.stats.clone();
        }
        stats
    }

    /// How every datacenter is reached, and why.
    #[must_use]
    pub fn routes(&self, now: Micros) -> RoutesStatus {
        let mut routes = self.routes_of_none(now);
        let mut from = 0;
        while let Some((index, of)) = self.routes_from(from, now) {
            routes.datacenters.push(of);
            from = index + 1;
        }
        routes
    }

    /// All of it but the datacenters, which [`Node::routes_from`] gives one after the other.
    #[must_use]
    pub fn routes_of_none(&self, now: Micros) -> RoutesStatus {
        RoutesStatus {
            node: self.links.me.node.clone(),
            origin: self.client.is_some(),
            now_unix_ms: self.links.wall_us(now) / 1000,
            datacenters: Vec::new(),
        }
    }

    /// The first datacenter from a place on, and its place. Places do not change while the node runs.
    #[must_use]
    pub fn routes_from(&self, from: usize, now: Micros) -> Option<(usize, DatacenterRoutes)> {
        self.client.as_ref()?.routes(from, &self.links, now)
    }

    /// What its readiness is judged by.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        Readiness {
            draining: self.draining,
            reaches_member: self.links.reaches_member(),
            certificate_fault: None,
        }
    }

    /// What the node is and does now.
    #[must_use]
    pub fn status(&self, now: Micros) -> Status {
        let me = &self.links.me;
        let bytes = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        let (inbox, inbox_max) = self.member.as_ref().map_or((0, 0), Member::inbox_bytes);
        let untaken_since = self.member.as_ref().and_then(Member::untaken_since);
        Status {
            node: me.node.clone(),
            datacenter: me.datacenter.clone(),
            cluster: me.cluster.to_string(),
            roles: me.roles.names(),
            incarnation: me.incarnation,
            uptime_s: micros(now.since(self.started_at)) / 1_000_000,
            draining: self.draining,
            security: SecurityStatus::default(),
            links: self.links.status(),
            down: self.links.all_down(now),
            datacenters: self.client.as_ref().map_or_else(Vec::new, |client| client.status(&self.links, now)),
            proxy_queue_bytes: self.proxy.as_ref().map_or(0, |proxy| bytes(proxy.queue_bytes())),
            inbox_bytes: bytes(inbox),
            inbox_bytes_max: bytes(inbox_max),
            inbox_untaken_ms: untaken_since.map_or(0, |since| micros(now.since(since)) / 1000),
            held_bytes: bytes(self.member.as_ref().map_or(0, Member::held_bytes)),
        }
    }
}
