//! Frames that a connection is at: their clock runs from the first byte, and starts anew with whatever its kernel takes.

use std::time::Duration;

use super::clock::Ended;
use super::{Client, Timer};
use crate::id::Lane;
use crate::proto::flow::{FlowIx, Way};
use crate::proto::links::{LinkId, Links};
use crate::proto::time::Micros;
use crate::proto::verdict::{Blame, Evidence};
use crate::proto::writing::{Look, StillLimits};

impl Client {
    /// A connection's writer was given something: frames of this sender's, or others that stand in front of its next ones.
    pub fn handle_writing(&mut self, (link, lane): (LinkId, Lane), links: &Links, now: Micros) {
        self.writers.began((link, lane), now);
        // Rung once per that time, and not moved by every write.
        let least = self.still_limits(link, links).known;
        self.timers.set_unless_set(Timer::Writer(link, lane), now + least);
    }

    /// Its kernel took some of it, and has no room for the rest.
    pub fn handle_progress(&mut self, conn: (LinkId, Lane), now: Micros) {
        self.writers.moved(conn, now);
    }

    /// Its kernel took all of it.
    pub fn handle_wrote(&mut self, (link, lane): (LinkId, Lane), links: &mut Links, now: Micros) {
        if self.writers.ended((link, lane), now)
            && let Some(peer) = links.link(link).map(|link| link.peer)
        {
            self.wake_those_by(peer, links, now);
        }
    }

    fn still_limits(&self, link: LinkId, links: &Links) -> StillLimits {
        let pings = links.link(link).map(|link| link.rtt).unwrap_or_default();
        StillLimits::of(&pings, &self.settings)
    }

    /// Has its kernel taken nothing for too long? Then its connection stands still: what it was to carry takes the next way,
    /// as everything else of its lane does until it goes on. Nobody is convicted for it, and the other lane is not touched.
    pub(super) fn look_at_writer(
        &mut self,
        (link, lane): (LinkId, Lane),
        grace: Duration,
        links: &mut Links,
        now: Micros,
    ) {
        let limits = self.still_limits(link, links);
        match self.writers.look((link, lane), &limits, grace, now) {
            Look::Idle | Look::StillAsBefore => return,
            Look::Until(until) => return self.timers.set(Timer::Writer(link, lane), until),
            Look::Still => {}
        }
        let Some(peer) = links.link(link).map(|link| link.peer) else { return };
        tracing::debug!(peer = %links.spec(peer).id, lane = lane.index(), "connection takes nothing, left until it does");
        let of_lane = |id: &u64| {
            let first = self.attempts.get(*id).and_then(|attempt| attempt.entries.first());
            first.is_some_and(|(ix, _)| self.flows[ix.0].lane == lane)
        };
        for id in self.attempts.unwritten_on(link).into_iter().filter(of_lane).collect::<Vec<_>>() {
            self.attempt_stands(id, links, now);
        }
        for site in self.sites_by(peer) {
            self.sites[site].routes.refresh(links, now);
        }
        self.wake_those_by(peer, links, now);
    }

    /// What a connection that stands still was to carry is tried by another way. It may arrive yet.
    fn attempt_stands(&mut self, id: u64, links: &Links, now: Micros) {
        let Some(attempt) = self.attempts.get(id) else { return };
        let Some((first, _)) = attempt.entries.first().copied() else { return };
        let (site, way, audits, lane) =
            (attempt.datacenter, attempt.way, attempt.audits, self.flows[first.0].lane);
        // It had its turn, and is not to wait for another one behind all that came later.
        self.sites[site].turn[lane.index()] = first;
        let silent = self.silent_in(id);
        let waiting = self.end_attempt(id, Ended::TimedOut);
        if audits {
            return;
        }
        self.stats.attempts.timed_out += waiting;
        let mut seen = Evidence { silent: silent.len(), ..Evidence::default() };
        if let Way::Proxy(index) = way {
            self.stats.fallbacks.proxy_timeout += waiting;
            let routes = &mut self.sites[site].routes;
            routes.proxies[index].lanes[lane.index()].find_late(now);
            let others = routes.others(index, lane, links, &self.settings, now);
            seen = Evidence { silent: silent.len(), ..others };
        }
        let alone = silent.first().filter(|_| silent.len() == 1).copied();
        self.note_verdict(site, Blame::Connection, way, alone, seen, now);
    }

    /// What a link that is there can do for a flow: its connection stands still.
    pub(super) fn stands(&self, link: LinkId, ix: FlowIx) -> bool {
        self.writers.is_still(link, self.flows[ix.0].lane)
    }
}
