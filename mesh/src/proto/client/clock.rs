//! What time ends: deadlines of messages, and attempts that nobody answered.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Client, Due, Timer};
use crate::message::FailReason;
use crate::proto::flow::{FlowIx, Place, Way};
use crate::proto::links::Links;
use crate::proto::pause::Cause;
use crate::proto::time::Micros;

/// A timer that rings so late says that this process was late, not the proxy.
const OWN_LAG: Duration = Duration::from_millis(20);

impl Client {
    /// When [`Client::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Micros {
        self.timers.next().min(self.deadlines.first().map_or(Micros::NEVER, |(at, _, _)| *at))
    }

    /// Rings what is due.
    pub fn handle_timeout(&mut self, links: &mut Links, now: Micros) {
        while let Some((at, ix, place)) = self.deadlines.first().copied().filter(|(at, _, _)| *at <= now) {
            self.deadlines.remove(&(at, ix, place));
            self.expire(ix, place, now);
            self.wake(ix, links, now);
        }
        while self.timers.next() <= now {
            let due = self.timers.next();
            match self.timers.pop_due(now) {
                Some(Timer::Attempt(id)) => self.attempt_timed_out(id, due, links, now),
                Some(Timer::Wake(site)) => self.wake_site(site, links, now),
                Some(Timer::Room) => self.make_room(now),
                None => break,
            }
        }
    }

    pub(super) fn expire(&mut self, ix: FlowIx, place: Due, now: Micros) {
        let reason = |full: bool| if full { FailReason::Refused } else { FailReason::Expired };
        match place {
            Due::Queued(id) => {
                let full = self.flows[ix.0].pauses.is_full(now);
                if let Some(pending) = self.flows[ix.0].unqueue(id) {
                    self.give_up_queued(ix, &pending, reason(full));
                }
            }
            Due::Sent(seq) => {
                let full = self.flows[ix.0].sent.get(&seq).is_some_and(|sent| sent.full);
                self.give_up(ix, seq, reason(full));
            }
        }
    }

    /// Nobody answered in time for some messages of a frame. Which of proxy, member or this process is to blame?
    pub(super) fn attempt_timed_out(&mut self, id: u64, due: Micros, links: &mut Links, now: Micros) {
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        if now.since(due) > OWN_LAG && !attempt.graced {
            attempt.graced = true;
            self.timers.set(Timer::Attempt(id), now + OWN_LAG);
            return;
        }
        let (way, site, link, answered) = (attempt.way, attempt.datacenter, attempt.link, attempt.answered);
        let (written_at, entries) = (attempt.written_at.unwrap_or(now), attempt.entries.clone());
        let silent: BTreeSet<FlowIx> = entries
            .iter()
            .filter(|(ix, run)| {
                (run.count == 0 && self.flows[ix.0].asking.contains(&id))
                    || run.seqs().any(|seq| {
                        self.flows[ix.0].sent.get(&seq).is_some_and(|sent| sent.place == Place::Flying(id))
                    })
            })
            .map(|(ix, _)| *ix)
            .collect();
        let waiting = self.end_attempt(id, true);
        self.stats.attempts.timed_out += waiting;
        if let Way::Proxy(index) = way {
            self.stats.fallbacks.proxy_timeout += waiting;
            let proxy = &self.sites[site].routes.proxies[index];
            let heard_since = proxy.answered_written_at.is_some_and(|at| at >= written_at);
            // Several destinations silent, and nothing that was written as late was answered: the proxy. One: perhaps
            // only that member.
            let suspects = silent.len()
                + self.sites[site]
                    .flows
                    .iter()
                    .filter(|other| !silent.contains(other))
                    .filter(|other| self.flows[other.0].pauses.avoids(way, now))
                    .count();
            if !answered && !heard_since && suspects >= 2 && proxy.link == Some(link) {
                let proxy = &mut self.sites[site].routes.proxies[index];
                if proxy.convict(&self.settings, now) {
                    tracing::warn!(proxy = %proxy.id, messages = waiting, "proxy delivered nothing in time, left alone");
                }
                // Frames that never left cannot time out: they take the next way with the rest.
                for other in self.attempts.on_link(link) {
                    if self.attempts.get(other).is_some_and(|attempt| attempt.written_at.is_none()) {
                        self.stats.attempts.timed_out += self.end_attempt(other, true);
                    }
                }
            } else {
                for ix in &silent {
                    self.flows[ix.0].pauses.avoid(way, Cause::TimedOut, now);
                }
            }
        } else {
            for ix in &silent {
                if !self.sites[site].local {
                    self.flows[ix.0].pauses.avoid(way, Cause::TimedOut, now);
                }
            }
        }
        self.wake_all_of(site, links, now);
    }

    /// Ends an attempt; what still flies in it waits for another one. Gives the number of those messages.
    pub(super) fn end_attempt(&mut self, id: u64, uncertain: bool) -> u64 {
        self.timers.clear(Timer::Attempt(id));
        let Some(attempt) = self.attempts.remove(id) else { return 0 };
        let (mut waiting, mut lost, mut pings) = (0, Vec::new(), Vec::new());
        for (ix, run) in attempt.entries {
            let flow = &mut self.flows[ix.0];
            flow.forget_floor_told();
            flow.asking.remove(&id);
            if flow.ping.attempt == Some(id) {
                pings.push(ix);
            }
            for seq in run.seqs() {
                if flow.sent.get(&seq).is_some_and(|sent| sent.place == Place::Flying(id)) {
                    if !flow.retry(seq, uncertain) {
                        lost.push((ix, seq));
                    }
                    waiting += 1;
                }
            }
        }
        for (ix, seq) in lost {
            self.give_up(ix, seq, FailReason::PeerRestarted);
        }
        for ix in pings {
            self.ping_lost(ix, id);
        }
        waiting
    }
}
