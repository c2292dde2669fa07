//! Proxies that acknowledge what they never delivered. A member that is told by a floor to pass a seq which it never had says
//! so; this end knows whether it was given up, or by whose word it counts as delivered. That proxy is ejected.
//!
//! A floor that only ever comes by the same proxy finds nobody who says nothing at all. So every flow that goes by proxies is
//! audited once in a while: an empty run tells its floor by another one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::clock::Ended;
use super::{Client, Pick, Timer};
use crate::proto::flow::{FlowIx, Way};
use crate::proto::links::{LinkId, Links};
use crate::proto::time::Micros;
use crate::proto::verdict::{Blame, Evidence};
use crate::proto::wire::{AckFlow, PASSED};

/// Time between two audits of a datacenter's flows.
const AUDIT_EVERY: Duration = Duration::from_secs(10);

impl Client {
    /// A message counts as delivered, because of an ack over this link.
    pub(super) fn note_word(&mut self, ix: FlowIx, seq: u64, link: LinkId, links: &Links, now: Micros) {
        let way = self.word_over(link, ix, links);
        let flow = &mut self.flows[ix.0];
        flow.words.note(seq, way);
        let site = &mut self.sites[flow.datacenter];
        if way != Way::Direct && !std::mem::replace(&mut site.audits, true) {
            self.timers.set(Timer::Audit(flow.datacenter), now + AUDIT_EVERY);
        }
    }

    /// Whose word an ack is: that of the destination where it says so itself, though it be a proxy as well.
    fn word_over(&self, link: LinkId, ix: FlowIx, links: &Links) -> Way {
        let own = links.link(link).is_some_and(|link| link.peer == self.flows[ix.0].peer);
        if own { Way::Direct } else { self.way_of(link, ix, links) }
    }

    /// Nothing that comes over this link counts.
    pub(super) fn is_ejected(&self, link: LinkId, ix: FlowIx, links: &Links, now: Micros) -> bool {
        match self.word_over(link, ix, links) {
            Way::Proxy(index) => {
                self.sites[self.flows[ix.0].datacenter].routes.proxies[index].is_ejected(now)
            }
            Way::Back(proxy) => self.backs.is_ejected(proxy, now),
            Way::Direct => false,
        }
    }

    /// What the destination passed and never had, held against what was said of it.
    pub(super) fn take_passed(&mut self, ix: FlowIx, entry: &AckFlow, links: &mut Links, now: Micros) {
        let mut lies: BTreeMap<usize, u64> = BTreeMap::new();
        for passed in entry.refused.iter().filter(|range| range.reason == PASSED) {
            let end = passed.first.0.saturating_add(u64::from(passed.count));
            for (way, messages) in self.flows[ix.0].words.refute(passed.first.0, end) {
                match way {
                    Way::Proxy(index) => *lies.entry(index).or_default() += messages,
                    Way::Back(proxy) => self.eject_back(ix, proxy, messages, links, now),
                    Way::Direct => {}
                }
            }
        }
        for (index, messages) in lies {
            self.eject(ix, index, messages, links, now);
        }
    }

    fn eject(&mut self, ix: FlowIx, index: usize, messages: u64, links: &mut Links, now: Micros) {
        self.stats.false_acks += messages;
        let site = self.flows[ix.0].datacenter;
        let proxy = &mut self.sites[site].routes.proxies[index];
        tracing::error!(
            proxy = %proxy.id,
            destination = %self.flows[ix.0].destination,
            messages,
            "proxy acknowledged messages that never reached their destination, ejected: they are lost, though their \
             sender was told `delivered`; look at that proxy before it is trusted again"
        );
        let news = !proxy.is_ejected(now);
        if news {
            proxy.eject(now);
        }
        if let Some(link) = proxy.link {
            // Whatever it would say of these counts no more.
            for id in self.attempts.on_link(link) {
                if self.attempts.get(id).is_some_and(|attempt| attempt.way == Way::Proxy(index)) {
                    self.stats.attempts.lost += self.end_attempt(id, Ended::Lost);
                }
            }
        }
        let silent = usize::try_from(messages).unwrap_or(usize::MAX);
        let seen = Evidence { silent, ..Evidence::default() };
        self.note_verdict(site, Blame::FalseAck, Way::Proxy(index), Some(ix), seen, now);
        self.wake_all_of(site, links, now);
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

    /// The way of an audit. Without another proxy there is none until the next time.
    pub(super) fn pick_for_audit(&mut self, ix: FlowIx, links: &Links, now: Micros) -> Pick {
        let flow = &mut self.flows[ix.0];
        let routes = &mut self.sites[flow.datacenter].routes;
        let other = routes.usable(links, now).into_iter().find(|index| {
            let way = Way::Proxy(*index);
            flow.words.way() != Some(way) && !flow.pauses.avoids(way, now)
        });
        match other.and_then(|index| Some((index, routes.proxies[index].link?))) {
            Some((index, link)) => Pick::Link(link, Way::Proxy(index)),
            None => {
                flow.audit = false;
                Pick::Wait(Micros::NEVER)
            }
        }
    }
}
