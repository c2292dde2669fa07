//! Which way a flow takes now, and what the news of links change in that.

use std::collections::BTreeSet;

use super::clock::Ended;
use super::common::Common;
use super::{Client, Pick, Timer};
use crate::id::Lane;
use crate::message::FailReason;
use crate::proto::decision::{Obstacle, PASSED_MAX, Passed, Verdict, Why};
use crate::proto::flow::{Flow, FlowIx, Undecided, Way};
use crate::proto::links::{LinkId, Links, PeerIx};
use crate::proto::pause::Cause;
use crate::proto::time::Micros;
use crate::proto::wire::RefusedReason;
use crate::proto::writing::Writers;

impl Client {
    /// The way a flow takes now: the proxy in use, the next proxy, straight; whichever neither failed it a moment ago nor
    /// is down.
    pub(super) fn pick(&mut self, ix: FlowIx, links: &mut Links, now: Micros) -> Pick {
        let flow = &self.flows[ix.0];
        if flow.pauses.is_full(now) {
            return Pick::Wait(flow.pauses.next_wake(now));
        }
        if flow.only_audits() {
            match self.pick_for_audit(ix, links, now) {
                // What waits for room goes on waiting for it.
                Pick::Wait(_) if self.flows[ix.0].has_more() => {}
                pick => return pick,
            }
        }
        if let Some(until) = self.flows[ix.0].waits_for_room(now) {
            return Pick::Wait(until);
        }
        // A message that its member has no room for in any frame fails, and the next one is looked at.
        loop {
            let flow = &self.flows[ix.0];
            let (bytes, peer, site) = (flow.next_bytes(true), flow.peer, flow.datacenter);
            // One that was silent alone is asked directly, as soon as that is possible; nothing waits for it.
            if flow.pauses.probes_directly()
                && let Some((link, true)) = self.straight(ix, bytes, links)
            {
                return Pick::Link(link, Way::Direct);
            }
            if let Some((link, way)) = self.way_back(ix, links, now) {
                return Pick::Link(link, way);
            }
            let routes = &mut self.sites[site].routes;
            let will_do = |proxy: &(usize, LinkId)| will_do(flow, *proxy, &self.writers, links, now);
            if let Some((index, link)) = routes.usable(flow.lane, links, now).find(will_do) {
                return Pick::Link(link, Way::Proxy(index));
            }
            if !flow.pauses.avoids(Way::Direct, now) {
                match self.straight(ix, bytes, links) {
                    Some((link, true)) => return Pick::Link(link, Way::Direct),
                    Some((_, false)) if self.fail_foremost(ix, FailReason::TooLarge) => continue,
                    Some((_, false)) => {}
                    // Who starts has messages for all members before it has a link: it does not dial them all for that.
                    None => match self.sites[site].routes.patience(now) {
                        Some(until) => return Pick::Wait(until.min(self.flows[ix.0].pauses.next_wake(now))),
                        None => links.want_once(peer, now),
                    },
                }
            }
            let flow = &mut self.flows[ix.0];
            flow.pauses.need_any(now);
            let routes = &self.sites[flow.datacenter].routes;
            let wake = flow.pauses.next_wake(now).min(flow.back.next_wake(now));
            return Pick::Wait(wake.min(routes.next_wake(flow.lane, now)));
        }
    }

    /// What goes next has another way than back.
    pub(super) fn leads_anywhere_else(&self, ix: FlowIx, links: &Links, now: Micros) -> bool {
        let flow = &self.flows[ix.0];
        let mut proxies = self.sites[flow.datacenter].routes.linked(flow.lane, links, now);
        let straight = self.straight(ix, flow.next_bytes(true), links);
        proxies.any(|proxy| will_do(flow, proxy, &self.writers, links, now))
            || straight.is_some_and(|(_, takes)| takes) && !flow.pauses.avoids(Way::Direct, now)
    }

    /// The link to the destination itself, and whether it takes a message of so many bytes. Not looked up where a proxy does: what
    /// is known of a thousand peers lies far apart.
    fn straight(&self, ix: FlowIx, bytes: usize, links: &Links) -> Option<(LinkId, bool)> {
        let (id, link) = links.dialled(self.flows[ix.0].peer)?;
        (!link.draining && !self.stands(id, ix)).then(|| (id, link.takes(bytes)))
    }

    /// The message that would go next fails. False if there is none.
    fn fail_foremost(&mut self, ix: FlowIx, reason: FailReason) -> bool {
        match self.flows[ix.0].foremost() {
            Some(Undecided::Sent(seq)) => self.give_up(ix, seq, reason),
            Some(Undecided::Queued(id)) => {
                let Some(pending) = self.flows[ix.0].unqueue(id) else { return false };
                self.give_up_queued(ix, &pending, reason);
            }
            None => return false,
        }
        true
    }

    /// Has the flow's connection ask for work, if there is any.
    pub(super) fn wake(&mut self, ix: FlowIx, links: &mut Links, now: Micros) {
        self.wake_in(&mut Common::default(), ix, links, now);
    }

    /// The same, of one of many flows.
    pub(super) fn wake_in(&mut self, common: &mut Common, ix: FlowIx, links: &mut Links, now: Micros) {
        let flow = &self.flows[ix.0];
        let (site, lane) = (flow.datacenter, flow.lane);
        if !flow.has_work() {
            self.sites[site].ready[lane.index()].remove(ix);
            return;
        }
        self.sites[site].ready[lane.index()].insert(ix);
        if common.way(&self.flows[ix.0], now).is_some() {
            // Its connection was woken when that was found.
            return;
        }
        match self.pick_in(common, ix, links, now) {
            Pick::Link(link, _) => {
                if let Some(conn) = links.conn_of(link, lane) {
                    links.wake(conn);
                }
            }
            Pick::Wait(_) if !self.flows[ix.0].has_work() => {
                self.sites[site].ready[lane.index()].remove(ix);
            }
            Pick::Wait(until) => {
                let flow = &self.flows[ix.0];
                self.note_decision(ix, None, (flow.next_attempt(), flow.next_bytes(true)), links, now);
                if until < Micros::NEVER {
                    self.timers.set_earlier(Timer::Wake(site), until);
                }
            }
        }
    }

    /// Writes down which way a flow took, or that it has none, and why; with the attempt, and the payload bytes of the
    /// first message that it was for.
    pub(super) fn note_decision(
        &mut self,
        ix: FlowIx,
        way: Option<Way>,
        (attempt, bytes): (u32, usize),
        links: &Links,
        now: Micros,
    ) {
        let (why, passed) = self.reasons(ix, way, bytes, links, now);
        self.note(ix, (way, why, attempt), &passed, now);
    }

    /// Adds a line to the log of decisions.
    pub(super) fn note(
        &mut self,
        ix: FlowIx,
        (way, why, attempt): (Option<Way>, Why, u32),
        passed: &[Passed],
        now: Micros,
    ) {
        let flow = &mut self.flows[ix.0];
        let verdict = Verdict { way, why, attempt, probing: flow.pauses.is_probing() };
        let log = &mut self.sites[flow.datacenter].decisions;
        let to = (&flow.destination, flow.lane);
        flow.decision = Some(log.note(flow.decision, to, verdict, passed.iter().copied(), now));
    }

    /// Why a flow took its way, or has none, and what it passed over.
    pub(super) fn reasons(
        &self,
        ix: FlowIx,
        way: Option<Way>,
        bytes: usize,
        links: &Links,
        now: Micros,
    ) -> (Why, Vec<Passed>) {
        let flow = &self.flows[ix.0];
        let starved = flow.is_starved();
        let site = &self.sites[flow.datacenter];
        let (routes, pauses) = (&site.routes, &flow.pauses);
        let why = match way {
            Some(way @ Way::Proxy(_)) if pauses.is_due_for_trial(way, now) => Why::Trial,
            Some(Way::Proxy(index)) => routes.why(index, flow.lane, now),
            Some(Way::Back(_)) => Why::Back,
            Some(Way::Direct) if site.local => Why::Local,
            Some(Way::Direct) if pauses.probes_directly() => Why::Probe,
            Some(Way::Direct) if routes.is_empty() => Why::NoProxy,
            Some(Way::Direct) => Why::ProxiesPassed,
            None if pauses.is_full(now) || starved => Why::ReceiverFull,
            None if pauses.avoids(Way::Direct, now) => Why::AllAvoided,
            None if routes.is_patient(now) => Why::ProxyDialled,
            None => Why::Dialling,
        };
        let avoided = |way| {
            let (cause, until) = pauses.why_avoided(way, now)?;
            Some(Passed { way, why: Obstacle::Avoided(cause), until })
        };
        let proxies = (0..routes.proxies.len())
            .filter(|index| routes.proxies[*index].present && way != Some(Way::Proxy(*index)));
        let too_small = |index: usize| {
            let way = Way::Proxy(index);
            let refused = pauses.limit_of(way, now).is_some_and(|limit| bytes >= limit);
            let short = routes.proxies[index].link.and_then(|link| links.link(link))?;
            let cause = match (refused, short.takes(bytes)) {
                (true, _) => Cause::Refused(Some(RefusedReason::TooLarge)),
                (false, false) => Cause::FrameLimit,
                (false, true) => return None,
            };
            Some(Passed { way, why: Obstacle::Avoided(cause), until: Micros::NEVER })
        };
        let proxies = proxies.filter_map(|index| {
            let still = |link: &LinkId| self.writers.is_still(*link, flow.lane);
            let still = routes.proxies[index].link.filter(still);
            let still =
                still.map(|_| Passed { way: Way::Proxy(index), why: Obstacle::Still, until: Micros::NEVER });
            let obstacle = routes.obstacle(index, flow.lane, links, now).or(still);
            let obstacle = obstacle.or_else(|| avoided(Way::Proxy(index)));
            obstacle.or_else(|| too_small(index))
        });
        let straight = way.is_none().then(|| {
            let not_linked = Passed { way: Way::Direct, why: Obstacle::NotLinked, until: Micros::NEVER };
            avoided(Way::Direct).or((why == Why::Dialling).then_some(not_linked))
        });
        let back = flow.back.proxy().map(Way::Back).filter(|back| way != Some(*back)).and_then(avoided);
        let passed = back.into_iter().chain(proxies).chain(straight.flatten());
        (why, passed.take(PASSED_MAX).collect())
    }

    pub(super) fn wake_site(&mut self, site: usize, links: &mut Links, now: Micros) {
        for lane in Lane::ALL {
            for ix in self.sites[site].ready[lane.index()].iter().collect::<Vec<_>>() {
                self.wake(ix, links, now);
            }
        }
    }

    /// A link came up.
    pub fn handle_link_up(&mut self, link: LinkId, links: &mut Links, now: Micros) {
        let dialled = links.link(link).filter(|link| link.dialled);
        let Some((peer, life)) = dialled.map(|link| (link.peer, link.incarnation)) else { return };
        let Some(reach) = self.reaches.get(&peer).copied() else { return };
        // What a destination says of itself when it is linked is better than what proxies say of it.
        if let Some(first) = reach.flows {
            self.take_own_word(first, (link, life), links, now);
        }
        for proxy in self.sites[reach.site].routes.proxies.iter_mut().filter(|proxy| proxy.peer == peer) {
            (proxy.link, proxy.tried) = (Some(link), true);
        }
        self.sites[reach.site].routes.refresh(links, now);
        self.wake_those_by(peer, links, now);
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
        self.under_way.forget(link);
        self.writers.forget(link);
        let mut flows: BTreeSet<FlowIx> = self.flows_by(peer).into_iter().collect();
        for id in self.attempts.on_link(link) {
            flows.extend(self.flows_in(id));
            let waiting = self.end_attempt(id, Ended::Lost);
            self.stats.attempts.lost += waiting;
            self.stats.fallbacks.proxy_closed += waiting;
        }
        for ix in &flows {
            self.flows[ix.0].held.lost(link);
        }
        for site in self.sites_by(peer) {
            self.sites[site].routes.refresh(links, now);
        }
        for ix in flows {
            self.wake(ix, links, now);
        }
    }

    /// The flows of a frame.
    pub(super) fn flows_in(&self, id: u64) -> Vec<FlowIx> {
        let entries = self.attempts.get(id).map(|attempt| attempt.entries.iter().map(|(ix, _)| *ix));
        entries.into_iter().flatten().collect()
    }

    /// A peer is going away.
    pub fn handle_draining(&mut self, link: LinkId, links: &mut Links, now: Micros) {
        let Some(peer) = links.link(link).map(|link| link.peer) else { return };
        for site in self.sites_by(peer) {
            self.sites[site].routes.refresh(links, now);
        }
        self.wake_those_by(peer, links, now);
    }

    /// A peer could not be dialled: its flows leave the direct way alone for a while.
    pub fn handle_dial_failed(&mut self, peer: PeerIx, links: &mut Links, now: Micros) {
        let Some(reach) = self.reaches.get(&peer).copied() else { return };
        let routes = &mut self.sites[reach.site].routes;
        if let Some(proxy) = routes.proxies.iter_mut().find(|proxy| proxy.peer == peer && !proxy.tried) {
            proxy.tried = true;
            self.wake_all_of(reach.site, links, now);
        }
        // It says nothing itself: what others say has to do.
        for ix in reach.flows.map(|first| self.lanes_of(first)).into_iter().flatten() {
            self.flows[ix.0].hearsay.ask(false);
        }
        let Some(first) = reach.flows.filter(|_| !self.sites[reach.site].local) else { return };
        for ix in self.lanes_of(first) {
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

    /// The flows whose way a link to this peer may be: all of its datacenter where it is a proxy, its own where it is not. A
    /// sender may lose a thousand links to members at once, and looks at each of them once.
    fn flows_by(&self, peer: PeerIx) -> Vec<FlowIx> {
        let leads = |site: &usize| self.sites[*site].routes.by_peer(peer).is_some();
        let back = self.backs.id(peer).is_some();
        let mut flows: Vec<FlowIx> = Vec::new();
        for site in self.sites_by(peer).into_iter().filter(|site| back || leads(site)) {
            flows.extend(&self.sites[site].flows);
        }
        let own = self.reaches.get(&peer).and_then(|reach| reach.flows).filter(|_| flows.is_empty());
        flows.extend(own.into_iter().flat_map(|first| self.lanes_of(first)));
        flows
    }

    /// A link to this peer changed: flows whose way it may be, or may have been, look for theirs.
    pub(super) fn wake_those_by(&mut self, peer: PeerIx, links: &mut Links, now: Micros) {
        for ix in self.flows_by(peer) {
            self.wake(ix, links, now);
        }
    }

    /// As [`Client::wake_site`], for flows whose work may have just come to be.
    pub(super) fn wake_all_of(&mut self, site: usize, links: &mut Links, now: Micros) {
        for ix in self.sites[site].flows.clone() {
            self.wake(ix, links, now);
        }
    }
}

/// A usable proxy takes what goes next of a flow.
fn will_do(
    flow: &Flow,
    (index, link): (usize, LinkId),
    writers: &Writers,
    links: &Links,
    now: Micros,
) -> bool {
    let (way, bytes) = (Way::Proxy(index), flow.next_bytes(true));
    !flow.pauses.avoids(way, now)
        && flow.pauses.limit_of(way, now).is_none_or(|limit| bytes < limit)
        && links.link(link).is_some_and(|link| link.takes(bytes))
        && !writers.is_still(link, flow.lane)
}
