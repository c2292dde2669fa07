//! The way back: by the proxy of this sender's own datacenter that brought what the destination sent last. Taken first for
//! little that goes to one destination of a datacenter; whatever else there is goes by the datacenter's own proxies, where
//! what several destinations share crosses once.

use std::collections::BTreeSet;
use std::time::Duration;

use super::clock::Ended;
use super::seal::MESSAGE_HEAD_BYTES;
use super::{Client, Site};
use crate::id::{Lane, NodeId};
use crate::proto::back::UNKNOWN_TIMEOUT;
use crate::proto::flow::{FlowIx, Way};
use crate::proto::links::{LinkId, Links, PeerIx};
use crate::proto::pause::Cause;
use crate::proto::proxy::{back_part, run_charge};
use crate::proto::route::attempt_timeout;
use crate::proto::time::Micros;
use crate::proto::wire::{FEATURE_BACK, FEATURE_ECHO};
use crate::settings::MESSAGE_OVERHEAD_BYTES;

impl Client {
    /// Something of an origin came over this link: if by a proxy of this node's own datacenter, that leads back to it.
    pub fn handle_heard(&mut self, origin: &NodeId, link: LinkId, links: &mut Links, now: Micros) {
        let Some(first) = self.destinations.get(origin).copied() else { return };
        let flow = &self.flows[first.0];
        if self.sites[flow.datacenter].local {
            return;
        }
        let leads = links.link(link).filter(|link| {
            !link.dialled
                && link.peer != flow.peer
                && link.features & FEATURE_BACK != 0
                && links.spec(link.peer).datacenter == links.me.datacenter
        });
        let over = leads.map(|leads| (link, leads.peer));
        if let Some((_, proxy)) = over {
            self.backs.note(proxy, &links.spec(proxy).id);
        }
        for lane in Lane::ALL {
            let ix = FlowIx(first.0 + lane.index());
            let led = self.flows[ix.0].back.proxy();
            self.flows[ix.0].back.heard(over);
            // What waits for the connection by which it led before would wait for ever: that one asks for it no more. And what had no
            // way may have this one.
            if (led.is_some() || over.is_some()) && self.flows[ix.0].has_work() {
                self.wake(ix, links, now);
            }
        }
    }

    /// The way back of a flow, if it is to be taken now: by what it is for, or by all that has no other way.
    pub(super) fn way_back(&self, ix: FlowIx, links: &Links, now: Micros) -> Option<(LinkId, Way)> {
        let flow = &self.flows[ix.0];
        let preferred = flow.back.way(now);
        let (link, proxy) = preferred.or_else(|| flow.back.last_resort(now))?;
        let way = Way::Back(proxy);
        let bytes = flow.next_bytes(true);
        let open = links.link(link).is_some_and(|link| link.up && !link.draining && link.takes(bytes));
        let over = flow.pauses.limit_of(way, now).is_some_and(|limit| bytes >= limit);
        let barred = flow.pauses.avoids(way, now) || over || self.stands(link, ix);
        // What others of the datacenter get as well crosses once by its own proxies; much of it needs no company.
        let site = &self.sites[flow.datacenter];
        let alone = !site.crowded && site.ready[flow.lane.index()].iter().all(|other| other == ix);
        // What comes back from there in another form is not sent again over a link that echoes: that is worth the way of more.
        // Of the link on which it would come down a member knows nothing; the one to its proxy has to do.
        let echoes = links.link(link).is_some_and(|link| link.features & FEATURE_ECHO != 0);
        let messages = flow.queue.len() + flow.sent.len();
        let payload_bytes = self.destination_bytes[ix.0].saturating_sub(MESSAGE_OVERHEAD_BYTES * messages);
        let little = echoes || payload_bytes <= self.settings.run_bytes_max;
        // The proxy counts runs, of which each message may be one.
        let queued_there = payload_bytes + messages * run_charge(MESSAGE_HEAD_BYTES);
        let fits = queued_there <= back_part(&self.settings);
        let preferred = preferred.is_some() && alone && little;
        let takes = open && !barred && fits && (preferred || !self.leads_anywhere_else(ix, links, now));
        takes.then_some((link, way))
    }

    /// The way back that a link is, if it is one.
    pub(super) fn back_over(&self, link: LinkId, ix: FlowIx, links: &Links) -> Option<Way> {
        let peer = links.link(link).filter(|link| !link.dialled)?.peer;
        (peer != self.flows[ix.0].peer && self.backs.id(peer).is_some()).then_some(Way::Back(peer))
    }

    /// The datacenters that are reached by way of a peer.
    pub(super) fn sites_by(&self, peer: PeerIx) -> Vec<usize> {
        match self.backs.id(peer) {
            Some(_) => (0..self.sites.len()).collect(),
            None => self.site_of(peer).into_iter().collect(),
        }
    }

    /// The proxy of a way.
    pub(super) fn proxy_of<'a>(&'a self, site: &'a Site, way: Way) -> Option<&'a NodeId> {
        match way {
            Way::Proxy(index) => site.routes.proxies.get(index).map(|proxy| &proxy.id),
            Way::Back(proxy) => self.backs.id(proxy),
            Way::Direct => None,
        }
    }

    pub(super) fn sample_back(&mut self, ix: FlowIx, sample: (PeerIx, Duration), links: &Links, now: Micros) {
        let by_proxy_us = self.sites[self.flows[ix.0].datacenter].routes.ack_us(links);
        self.flows[ix.0].back.sample(sample, by_proxy_us, self.settings.ack_delay, now);
    }

    /// How long an attempt by the way back waits for its ack. The link to the proxy says nothing of what is behind it; pings to
    /// the destination's datacenter do.
    pub(super) fn back_timeout(&self, ix: FlowIx, attempt: u32, links: &Links) -> Duration {
        let flow = &self.flows[ix.0];
        let pings = self.sites[flow.datacenter].routes.pings(links);
        if flow.back.rtt.is_empty() && pings.is_empty() {
            return UNKNOWN_TIMEOUT
                .clamp(self.settings.attempt_timeout_min, self.settings.attempt_timeout_max);
        }
        attempt_timeout(&flow.back.rtt, &pings, attempt, &self.settings)
    }

    /// Nobody answered in time by the way back: it may be anybody between here and there. The flow takes another way, and
    /// nobody is blamed.
    pub(super) fn back_timed_out(
        &mut self,
        id: u64,
        way: Way,
        silent: &BTreeSet<FlowIx>,
        links: &mut Links,
        now: Micros,
    ) {
        let waiting = self.end_attempt(id, Ended::TimedOut);
        self.stats.attempts.timed_out += waiting;
        self.stats.fallbacks.proxy_timeout += waiting;
        for ix in silent.iter().copied() {
            self.flows[ix.0].pauses.avoid(way, Cause::TimedOut, now);
            self.wake(ix, links, now);
        }
    }
}
