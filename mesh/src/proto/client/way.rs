//! Which way a flow takes now, and what the news of links change in that.

use super::clock::Ended;
use super::{Client, Pick, Timer};
use crate::id::Lane;
use crate::proto::decision::{Obstacle, Passed, Verdict, Why};
use crate::proto::flow::{FlowIx, Way};
use crate::proto::links::{LinkId, Links, PeerIx};
use crate::proto::pause::Cause;
use crate::proto::time::Micros;

impl Client {
    /// The way a flow takes now: the proxy in use, the next proxy, straight; whichever neither failed it a moment ago nor
    /// is down.
    pub(super) fn pick(&mut self, ix: FlowIx, links: &mut Links, now: Micros) -> Pick {
        let flow = &self.flows[ix.0];
        if flow.pauses.is_full(now) {
            return Pick::Wait(flow.pauses.next_wake(now));
        }
        if flow.only_audits() {
            return self.pick_for_audit(ix, links, now);
        }
        if let Some(until) = self.flows[ix.0].waits_for_room(now) {
            return Pick::Wait(until);
        }
        let flow = &self.flows[ix.0];
        // One that was silent alone is asked directly, as soon as that is possible; nothing waits for it.
        if flow.pauses.probes_directly()
            && let Some((link, _)) = links.dialled(flow.peer).filter(|(_, link)| !link.draining)
        {
            return Pick::Link(link, Way::Direct);
        }
        if let Some((link, way)) = self.way_back(ix, links, now) {
            return Pick::Link(link, way);
        }
        let flow = &self.flows[ix.0];
        let routes = &mut self.sites[flow.datacenter].routes;
        let by_proxy =
            routes.usable(links, now).into_iter().find(|index| !flow.pauses.avoids(Way::Proxy(*index), now));
        if let Some(index) = by_proxy
            && let Some(link) = routes.proxies[index].link
        {
            return Pick::Link(link, Way::Proxy(index));
        }
        if !flow.pauses.avoids(Way::Direct, now) {
            if let Some((link, _)) = links.dialled(flow.peer).filter(|(_, link)| !link.draining) {
                return Pick::Link(link, Way::Direct);
            }
            links.want_once(flow.peer, now);
        }
        Pick::Wait(flow.pauses.next_wake(now).min(routes.next_wake(now)))
    }

    /// Has the flow's connection ask for work, if there is any.
    pub(super) fn wake(&mut self, ix: FlowIx, links: &mut Links, now: Micros) {
        let flow = &self.flows[ix.0];
        let (site, lane) = (flow.datacenter, flow.lane);
        if !flow.has_work() {
            self.sites[site].ready[lane.index()].remove(&ix);
            return;
        }
        self.sites[site].ready[lane.index()].insert(ix);
        match self.pick(ix, links, now) {
            Pick::Link(link, _) => {
                if let Some(conn) = links.conn_of(link, lane) {
                    links.wake(conn);
                }
            }
            Pick::Wait(_) if !self.flows[ix.0].has_work() => {
                self.sites[site].ready[lane.index()].remove(&ix);
            }
            Pick::Wait(until) => {
                let attempt = self.flows[ix.0].next_attempt();
                self.note_decision(ix, None, attempt, links, now);
                if until < Micros::NEVER {
                    self.timers.set_earlier(Timer::Wake(site), until);
                }
            }
        }
    }

    /// Writes down which way a flow took, or that it has none, and why.
    pub(super) fn note_decision(
        &mut self,
        ix: FlowIx,
        way: Option<Way>,
        attempt: u32,
        links: &Links,
        now: Micros,
    ) {
        let flow = &mut self.flows[ix.0];
        let starved = flow.is_starved();
        let site = &mut self.sites[flow.datacenter];
        let (routes, pauses) = (&site.routes, &flow.pauses);
        let why = match way {
            Some(Way::Proxy(index)) => routes.why(index, now),
            Some(Way::Back(_)) => Why::Back,
            Some(Way::Direct) if site.local => Why::Local,
            Some(Way::Direct) if pauses.probes_directly() => Why::Probe,
            Some(Way::Direct) if routes.is_empty() => Why::NoProxy,
            Some(Way::Direct) => Why::ProxiesPassed,
            None if pauses.is_full(now) || starved => Why::ReceiverFull,
            None if pauses.avoids(Way::Direct, now) => Why::AllAvoided,
            None => Why::Dialling,
        };
        let avoided = |way| {
            let (cause, until) = pauses.why_avoided(way, now)?;
            Some(Passed { way, why: Obstacle::Avoided(cause), until })
        };
        let proxies = (0..routes.proxies.len())
            .filter(|index| routes.proxies[*index].present && way != Some(Way::Proxy(*index)));
        let proxies = proxies
            .filter_map(|index| routes.obstacle(index, links, now).or_else(|| avoided(Way::Proxy(index))));
        let straight = way.is_none().then(|| {
            let not_linked = Passed { way: Way::Direct, why: Obstacle::NotLinked, until: Micros::NEVER };
            avoided(Way::Direct).or((why == Why::Dialling).then_some(not_linked))
        });
        let back = flow.back.proxy().map(Way::Back).filter(|back| way != Some(*back)).and_then(avoided);
        let passed = back.into_iter().chain(proxies).chain(straight.flatten());
        let verdict = Verdict { way, why, attempt, probing: pauses.is_probing() };
        let number = site.decisions.note(flow.decision, (&flow.destination, flow.lane), verdict, passed, now);
        flow.decision = Some(number);
    }

    pub(super) fn wake_site(&mut self, site: usize, links: &mut Links, now: Micros) {
        for lane in Lane::ALL {
            for ix in self.sites[site].ready[lane.index()].iter().copied().collect::<Vec<_>>() {
                self.wake(ix, links, now);
            }
        }
    }

    /// A link came up.
    pub fn handle_link_up(&mut self, link: LinkId, links: &mut Links, now: Micros) {
        let dialled = links.link(link).filter(|link| link.dialled);
        let Some((peer, life)) = dialled.map(|link| (link.peer, link.incarnation)) else { return };
        let Some(reach) = self.reaches.get(&peer).copied() else { return };
        // What a destination says of itself when it is linked is as good as its acks.
        if let Some(first) = reach.flows.filter(|first| self.flows[first.0].knows_less_than(life)) {
            self.learn_life(first, life, links, now);
        }
        for proxy in self.sites[reach.site].routes.proxies.iter_mut().filter(|proxy| proxy.peer == peer) {
            proxy.link = Some(link);
        }
        self.wake_site(reach.site, links, now);
    }

    /// A link is gone: everything undecided on it takes another way at once.
    pub fn handle_link_down(&mut self, link: LinkId, peer: PeerIx, links: &mut Links, now: Micros) {
        let site = self.site_of(peer);
        if let Some(site) = site {
            for proxy in &mut self.sites[site].routes.proxies {
                if proxy.link == Some(link) {
                    proxy.link = None;
                }
            }
        }
        for id in self.attempts.on_link(link) {
            let waiting = self.end_attempt(id, Ended::Lost);
            self.stats.attempts.lost += waiting;
            self.stats.fallbacks.proxy_closed += waiting;
        }
        for site in self.sites_by(peer) {
            self.wake_all_of(site, links, now);
        }
    }

    /// A peer is going away.
    pub fn handle_draining(&mut self, link: LinkId, links: &mut Links, now: Micros) {
        let Some(peer) = links.link(link).map(|link| link.peer) else { return };
        for site in self.sites_by(peer) {
            self.wake_site(site, links, now);
        }
    }

    /// A peer could not be dialled: its flows leave the direct way alone for a while.
    pub fn handle_dial_failed(&mut self, peer: PeerIx, links: &mut Links, now: Micros) {
        let Some(reach) = self.reaches.get(&peer).copied() else { return };
        let Some(first) = reach.flows.filter(|_| !self.sites[reach.site].local) else { return };
        for ix in Lane::ALL.map(|lane| FlowIx(first.0 + lane.index())) {
            self.flows[ix.0].pauses.avoid(Way::Direct, Cause::DialFailed, now);
            self.wake(ix, links, now);
        }
    }

    /// This node took another incarnation: what was under way belongs to a life that peers no longer hear.
    pub fn handle_reincarnated(&mut self, links: &mut Links, now: Micros) {
        for ix in (0..self.flows.len()).map(FlowIx) {
            self.restart_flow(ix, None, links, now);
        }
    }

    pub(super) fn site_of(&self, peer: PeerIx) -> Option<usize> {
        self.reaches.get(&peer).map(|reach| reach.site)
    }

    /// As [`Client::wake_site`], for flows whose work may have just come to be.
    pub(super) fn wake_all_of(&mut self, site: usize, links: &mut Links, now: Micros) {
        for ix in self.sites[site].flows.clone() {
            self.wake(ix, links, now);
        }
    }
}
