//! Proxies that acknowledge what they never delivered. A member that is told by a floor to pass a seq which it never had says
//! so; this end knows whether it was given up, or by whose word it counts as delivered. That destination leaves that proxy, and
//! where several say the same of it, all do.
//!
//! A floor that only ever comes by the same proxy finds nobody who says nothing at all. So every flow that goes by proxies is
//! audited once in a while: an empty run tells its floor by another one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::clock::Ended;
use super::{Client, Pick, Timer};
use crate::id::{Lane, NodeId};
use crate::message::FailReason;
use crate::proto::flow::{FlowIx, Place, Selected, Way};
use crate::proto::links::{LinkId, Links};
use crate::proto::time::Micros;
use crate::proto::verdict::{About, Blame, Evidence};
use crate::proto::wire::{AckFlow, PASSED};

/// Time between two audits of a datacenter's flows.
const AUDIT_EVERY: Duration = Duration::from_secs(10);

impl Client {
    /// A message counts as delivered, by word of this way.
    pub(super) fn note_word(&mut self, ix: FlowIx, seq: u64, way: Way, now: Micros) {
        let flow = &mut self.flows[ix.0];
        flow.words.note(seq, way);
        let site = &mut self.sites[flow.datacenter];
        if way != Way::Direct && !std::mem::replace(&mut site.audits, true) {
            self.timers.set(Timer::Audit(flow.datacenter), now + AUDIT_EVERY);
        }
    }

    /// Whose word an ack is: that of the destination where it says so itself, though it be a proxy as well. None: nobody's.
    pub(super) fn word_over(&self, link: LinkId, ix: FlowIx, links: &Links) -> Option<Way> {
        if self.is_own_word(link, ix, links) { Some(Way::Direct) } else { self.way_of(link, ix, links) }
    }

    /// The destination itself is at the other end of this link, whatever way what it answers took.
    pub(super) fn is_own_word(&self, link: LinkId, ix: FlowIx, links: &Links) -> bool {
        links.link(link).is_some_and(|link| link.peer == self.flows[ix.0].peer)
    }

    /// Nothing that is said by this way counts for this flow.
    pub(super) fn distrusts(&self, ix: FlowIx, word: Way, now: Micros) -> bool {
        let flow = &self.flows[ix.0];
        match word {
            Way::Proxy(index) => {
                self.sites[flow.datacenter].routes.proxies[index].is_ejected(now)
                    || flow.pauses.distrusts(word, now)
            }
            Way::Back(_) => flow.pauses.distrusts(word, now),
            Way::Direct => false,
        }
    }

    /// What the destination passed and never had, held against what was said of it.
    pub(super) fn take_passed(
        &mut self,
        ix: FlowIx,
        link: LinkId,
        entry: &AckFlow,
        links: &mut Links,
        now: Micros,
    ) {
        let mut lies: BTreeMap<Way, u64> = BTreeMap::new();
        for passed in entry.refused.iter().filter(|range| range.reason == PASSED) {
            let end = passed.first.0.saturating_add(u64::from(passed.count));
            for (way, messages) in self.flows[ix.0].words.refute(passed.first.0, end) {
                if way != Way::Direct {
                    *lies.entry(way).or_default() += messages;
                }
            }
        }
        let Some(carrier) = self.word_over(link, ix, links) else { return };
        for (way, messages) in lies {
            self.take_report(ix, way, messages, carrier, links, now);
        }
    }

    /// A destination says that a proxy acknowledged what it never had. It may be the one that lies, or whoever carried its
    /// word: so it alone leaves that proxy, and all do when a second one says the same.
    fn take_report(
        &mut self,
        ix: FlowIx,
        way: Way,
        messages: u64,
        carrier: Way,
        links: &mut Links,
        now: Micros,
    ) {
        self.stats.false_acks += messages;
        let (site, destination) = (self.flows[ix.0].datacenter, self.flows[ix.0].destination.clone());
        let name = |way| self.proxy_of(&self.sites[site], way).cloned();
        let (proxy, carried_by) = (name(way), name(carrier));
        // Both lanes are the same destination.
        let mut news = false;
        for lane in self.lanes_of(ix) {
            if self.flows[lane.0].pauses.distrust(way, now) {
                news = true;
                self.take_back(lane, way);
            }
        }
        if !news {
            return;
        }
        // Both lanes are in the list.
        let destinations = self.sites[site].flows.len() / Lane::ALL.len();
        // Of the way back each destination finds out by itself: there are other ways, and nobody is convicted for it.
        let mut reports = match way {
            Way::Proxy(index) => {
                self.sites[site].routes.proxies.get_mut(index).map(|proxy| &mut proxy.reports)
            }
            _ => None,
        };
        let several = reports.as_mut().is_some_and(|reports| reports.note(&destination, destinations, now));
        let reported_by = reports.map_or_else(|| vec![destination.clone()], |reports| reports.shown(now));
        let about = About { proxy, destination: None, reported_by, carried_by };
        tracing::error!(
            proxy = about.proxy.as_ref().map(NodeId::as_str),
            reported_by = %destination,
            carried_by = about.carried_by.as_ref().map_or("the destination itself", NodeId::as_str),
            messages,
            "proxy is said to have acknowledged messages that never reached their destination, which avoids it: if that is \
             true they are lost, though their sender was told `delivered`; look at that proxy, and at who reports it"
        );
        let silent = usize::try_from(messages).unwrap_or(usize::MAX);
        let others = match way {
            Way::Proxy(index) => {
                self.sites[site].routes.others(index, self.flows[ix.0].lane, links, &self.settings, now)
            }
            _ => Evidence::default(),
        };
        let seen = Evidence { silent, suspects: about.reported_by.len(), ..others };
        let alone = About { destination: Some(destination), ..about.clone() };
        self.note_blame(site, Blame::FalseAck, alone, seen, now);
        if let Way::Proxy(index) = way
            && several
            && !self.sites[site].routes.proxies[index].is_ejected(now)
        {
            if seen.is_capped() {
                self.note_blame(site, Blame::Capped, about, seen, now);
            } else {
                self.eject(site, index, about, seen, now);
                self.sites[site].routes.refresh(links, now);
            }
        }
        self.wake_all_of(site, links, now);
    }

    fn eject(&mut self, site: usize, index: usize, about: About, seen: Evidence, now: Micros) {
        let proxy = &mut self.sites[site].routes.proxies[index];
        tracing::error!(proxy = %proxy.id, reported_by = ?about.reported_by, "proxy ejected: several destinations report it");
        proxy.eject(now);
        if let Some(link) = proxy.link {
            // Whatever it would say of these counts no more.
            for id in self.attempts.on_link(link) {
                if self.attempts.get(id).is_some_and(|attempt| attempt.way == Way::Proxy(index)) {
                    self.stats.attempts.lost += self.end_attempt(id, Ended::Lost);
                }
            }
        }
        self.note_blame(site, Blame::Ejected, about, seen, now);
    }

    /// What one flow has under way by a proxy takes another way: the answer would count no more.
    pub(super) fn take_back(&mut self, ix: FlowIx, way: Way) {
        for id in self.attempts.by_way(way) {
            let Some(attempt) = self.attempts.get(id) else { continue };
            let runs = attempt.entries.iter().filter(|(of, _)| *of == ix).map(|(_, run)| *run);
            let seqs: Vec<u64> = runs.flat_map(Selected::seqs).collect();
            let flow = &mut self.flows[ix.0];
            flow.forget_floor_told();
            if flow.asking.remove(&id) {
                self.ping_lost(ix, id);
                self.landed(id);
            }
            for seq in seqs {
                let flow = &mut self.flows[ix.0];
                if flow.sent.get(seq).is_none_or(|sent| sent.place != Place::Flying(id)) {
                    continue;
                }
                let again = flow.retry(seq, true);
                self.stats.attempts.lost += 1;
                self.landed(id);
                if !again {
                    self.give_up(ix, seq, FailReason::PeerRestarted);
                }
            }
        }
    }

    /// The flows of a destination.
    pub(super) fn lanes_of(&self, ix: FlowIx) -> [FlowIx; Lane::ALL.len()] {
        let first = ix.0 - self.flows[ix.0].lane.index();
        Lane::ALL.map(|lane| FlowIx(first + lane.index()))
    }

    /// Has the floors of a datacenter's flows told by other proxies than those that said so far what became of them.
    pub(super) fn audit(&mut self, site: usize, links: &mut Links, now: Micros) {
        self.sites[site].audits = false;
        for ix in self.sites[site].flows.clone() {
            let flow = &mut self.flows[ix.0];
            if flow.words.take_unaudited() {
                flow.audit = true;
                self.wake(ix, links, now);
            }
        }
    }

    /// The way of an audit: another proxy. Where that is in doubt, as the destination distrusts one or is said to hold something for
    /// long, it is asked itself.
    /// Without any other way there is no audit until the next time.
    pub(super) fn pick_for_audit(&mut self, ix: FlowIx, links: &mut Links, now: Micros) -> Pick {
        let flow = &mut self.flows[ix.0];
        let routes = &mut self.sites[flow.datacenter].routes;
        let other = routes.usable(flow.lane, links, now).find(|(index, _)| {
            let way = Way::Proxy(*index);
            flow.audited() != Some(way) && !flow.pauses.avoids(way, now)
        });
        if let Some((index, link)) = other {
            return Pick::Link(link, Way::Proxy(index));
        }
        let (said, straight) = (flow.audited(), !flow.pauses.avoids(Way::Direct, now));
        let in_doubt = flow.pauses.distrusts_any(now) || flow.held.doubt().is_some();
        if in_doubt && straight && said.is_some_and(|way| way != Way::Direct) {
            if let Some((link, _)) = links.dialled(flow.peer).filter(|(_, link)| !link.draining) {
                return Pick::Link(link, Way::Direct);
            }
            links.want_once(flow.peer, now);
        } else {
            flow.audit = false;
        }
        Pick::Wait(Micros::NEVER)
    }
}
