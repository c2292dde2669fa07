//! What time ends: deadlines of messages, and attempts that nobody answered.

use std::collections::BTreeSet;
use std::time::Duration;

use super::acks::way_without_load;
use super::{Client, Timer};
use crate::id::Lane;
use crate::message::FailReason;
use crate::proto::attempt::Attempt;
use crate::proto::flow::{FlowIx, Place, Selected, Undecided, Way};
use crate::proto::links::{LinkId, Links, PeerIx};
use crate::proto::pause::Cause;
use crate::proto::time::Micros;
use crate::proto::verdict::{About, Blame, Evidence, judge};
use crate::proto::writing::StillLimits;
use crate::stats::decision::lane_name;

/// What drains may take twice as long as it did, but no more than this longer, or half a round trip; and answers that come one after
/// the other are no further apart.
const LINE_MARGIN: Duration = Duration::from_millis(50);

/// How an attempt ended without an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// Nothing of it reached a connection.
    Unsent,
    /// Its way is gone, or was convicted, so that nobody will answer. What is sent again for that is not rationed: it is as
    /// much as was under way, and only once, for the proxy is left.
    Lost,
    /// Nobody answered in time.
    TimedOut,
}

/// What a verdict changed.
struct Sentence {
    /// It says something new.
    news: bool,
    /// Any flow of the datacenter may have another way by it. What is under way when a proxy dies times out frame by frame: of
    /// thousands the first one changes the way of thousands of flows, and the others that of their own.
    for_all: bool,
    /// Flows of which something was taken back that had not gone out.
    taken: Vec<FlowIx>,
}

impl Client {
    /// When [`Client::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Micros {
        self.timers.next()
    }

    /// Rings what is due. So much longer whatever may be blamed on somebody waits, as this process was late itself of late.
    pub fn handle_timeout(&mut self, grace: Duration, links: &mut Links, now: Micros) {
        while self.timers.next() <= now {
            match self.timers.pop_due(now) {
                Some(Timer::Deadline(ix)) => self.end_expired(ix, links, now),
                Some(Timer::Attempt(id)) => self.attempt_timed_out(id, grace, links, now),
                Some(Timer::Writer(link, lane)) => self.look_at_writer((link, lane), grace, links, now),
                Some(Timer::Wake(site)) => self.wake_site(site, links, now),
                Some(Timer::Audit(site)) => self.audit(site, links, now),
                Some(Timer::Held(ix)) => self.ask_of_held(ix, links, now),
                Some(Timer::Room) => self.make_room(now),
                Some(Timer::Stalled(site)) => self.detach_stalled(site, now),
                None => break,
            }
        }
    }

    /// Has the deadlines of a flow ring in time.
    pub(super) fn set_alarm(&mut self, ix: FlowIx) {
        if let Some(at) = self.flows[ix.0].deadlines.poll_alarm() {
            self.timers.set(Timer::Deadline(ix), at);
        }
    }

    /// The deadlines of a flow rang: what is past its own ends.
    fn end_expired(&mut self, ix: FlowIx, links: &mut Links, now: Micros) {
        while let Some(ids) = self.flows[ix.0].deadlines.pop_due(now) {
            for place in self.flows[ix.0].undecided(&ids) {
                self.expire(ix, place, now);
            }
        }
        // Once, however many deadlines are over.
        self.wake(ix, links, now);
        self.set_alarm(ix);
    }

    pub(super) fn expire(&mut self, ix: FlowIx, place: Undecided, now: Micros) {
        let reason = |full: bool| if full { FailReason::Refused } else { FailReason::Expired };
        match place {
            Undecided::Queued(id) => {
                let full = self.flows[ix.0].pauses.is_full(now) || self.flows[ix.0].is_starved();
                if let Some(pending) = self.flows[ix.0].unqueue(id) {
                    self.give_up_queued(ix, &pending, reason(full));
                }
            }
            Undecided::Sent(seq) => {
                let flow = &self.flows[ix.0];
                let full =
                    flow.sent.get(seq).is_some_and(|sent| sent.full) || flow.waits_for_application(seq);
                self.give_up(ix, seq, reason(full));
            }
        }
    }

    /// Nobody answered in time for some messages of a frame. Who is to blame?
    pub(super) fn attempt_timed_out(&mut self, id: u64, grace: Duration, links: &mut Links, now: Micros) {
        if let Some(later) = self.waits_in_line(id, links, now) {
            return self.timers.set(Timer::Attempt(id), later);
        }
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        if !grace.is_zero() && !attempt.graced {
            attempt.graced = true;
            let (site, way) = (attempt.datacenter, attempt.way);
            self.timers.set(Timer::Attempt(id), now + grace);
            return self.note_verdict(site, Blame::OwnLag, way, None, Evidence::default(), now);
        }
        if attempt.audits {
            // Nobody is blamed: messages find out soon enough. Those of flows that send one at a time waited for it. What is doubted
            // is to be asked by somebody who answers.
            let way = attempt.way;
            let flows = self.flows_in(id);
            for ix in &flows {
                let flow = &mut self.flows[ix.0];
                if flow.held.doubt().is_some() {
                    flow.pauses.avoid(way, Cause::TimedOut, now);
                }
            }
            self.end_attempt(id, Ended::TimedOut);
            return flows.into_iter().for_each(|ix| self.wake(ix, links, now));
        }
        let Some((first, _)) = attempt.entries.first() else { return };
        let lane = self.flows[first.0].lane;
        let (way, site, link) = (attempt.way, attempt.datacenter, attempt.link);
        let silent = self.silent_in(id);
        if matches!(way, Way::Back(_)) {
            return self.back_timed_out(id, way, &silent, links, now);
        }
        let (blame, seen) = match way {
            Way::Proxy(index) => {
                let seen = self.evidence(id, index, &silent, links, now);
                (judge(&seen), seen)
            }
            _ => (Blame::Member, Evidence { silent: silent.len(), ..Evidence::default() }),
        };
        let left = matches!(blame, Blame::Proxy | Blame::Connection);
        let flows = self.flows_in(id);
        let ended = if left { Ended::Lost } else { Ended::TimedOut };
        let waiting = self.end_attempt(id, ended);
        self.stats.attempts.timed_out += waiting;
        let mut sentence = Sentence { news: true, for_all: false, taken: Vec::new() };
        if let Way::Proxy(index) = way {
            self.stats.fallbacks.proxy_timeout += waiting;
            sentence = self.sentence(blame, site, index, (link, lane), &silent, now);
        }
        let avoids = match way {
            Way::Proxy(_) => !left,
            _ => !self.sites[site].local,
        };
        for ix in silent.iter().filter(|_| avoids) {
            let flow = &mut self.flows[ix.0];
            flow.pauses.avoid(way, Cause::TimedOut, now);
            if blame == Blame::Member && way != Way::Direct {
                flow.pauses.probe_directly();
                links.want_once(flow.peer, now);
            }
        }
        let alone = silent.first().filter(|_| silent.len() == 1).copied();
        if sentence.news {
            self.note_verdict(site, blame, way, alone, seen, now);
        }
        self.sites[site].routes.refresh(links, now);
        if sentence.for_all {
            self.wake_all_of(site, links, now);
        } else {
            // A thousand members that are silent at once, or a thousand frames by a proxy that is left, are not a million looks.
            flows.into_iter().chain(sentence.taken).for_each(|ix| self.wake(ix, links, now));
        }
    }

    /// Until when an attempt may yet be answered although its time is over, because it may be in a queue: a slow line is no silent
    /// proxy. Never longer than the longest time that any attempt has.
    fn waits_in_line(&self, id: u64, links: &Links, now: Micros) -> Option<Micros> {
        let attempt = self.attempts.get(id).filter(|attempt| !attempt.answered && !attempt.audits)?;
        let (ix, _) = attempt.entries.first().filter(|_| !matches!(attempt.way, Way::Back(_)))?;
        let written_at = attempt.written_at?;
        let line = (attempt.link, self.flows[ix.0].lane);
        let pings = links.link(attempt.link).map(|link| link.rtt).unwrap_or_default();
        let limits = StillLimits::of(&pings, &self.settings);
        let heard_at = self.under_way.answered_at(line).map_or(written_at, |at| at.max(written_at));
        let way = way_without_load(attempt.link, links);
        let margin = (way / 2).max(LINE_MARGIN);
        // A silent death is to cost 300 ms, or three round trips: one is in what is due, one is the next way's. Where hardly
        // anything drains, the line is no reason to wait. What it was taken to be able to carry may have been what it was given, so
        // however slow it seems, it is silent once nothing was answered for as long as a silent death may cost.
        let silent_at = heard_at + limits.unknown;
        let due = self.under_way.answer_due(line, id, way);
        let drained = due.map(|(due, drains)| (due + drains.min(margin)).min(silent_at));
        // What is written to a connection arrives in that order. Where what stood before this frame was answered after it was
        // written, it is next, and not silent yet. What was on its way when a proxy died comes for half a round trip, so that this
        // ends with the time of what was written just before. It drains first; the line may be slower now, and this sender's other
        // connections may have a part of it that they did not have.
        let drains = due.map_or(Duration::ZERO, |(_, drains)| drains);
        let next = self.under_way.went_on_at(line, id).map(|at| (at + drains + margin).min(silent_at));
        // Nobody knows how fast a line is before it is full. What was under way before a death is answered for one more round trip.
        let full = self.under_way.may_queue(line, id);
        let queued = full.then(|| (written_at + limits.unknown).max(heard_at + limits.known));
        drained
            .max(next)
            .max(queued)
            .map(|later| later.min(written_at + limits.most))
            .filter(|later| *later > now)
    }

    /// What a verdict does to the proxies.
    fn sentence(
        &mut self,
        blame: Blame,
        site: usize,
        index: usize,
        (link, lane): (LinkId, Lane),
        silent: &BTreeSet<FlowIx>,
        now: Micros,
    ) -> Sentence {
        let routes = &mut self.sites[site].routes;
        if matches!(blame, Blame::Proxy | Blame::Capped | Blame::Datacenter) {
            routes.proxies[index].standing.find_late(now);
        }
        let (news, for_all) = match blame {
            Blame::Proxy => {
                let proxy = &mut routes.proxies[index];
                let news = proxy.convict(lane, &self.settings, now);
                if news {
                    tracing::warn!(proxy = %proxy.id, destinations = silent.len(), "proxy delivered nothing in time, left alone");
                }
                (news, news)
            }
            Blame::Connection => {
                let proxy = &mut routes.proxies[index];
                proxy.lanes[lane.index()].find_late(now);
                let news = proxy.convict_lane(lane, &self.settings, now);
                if news {
                    tracing::warn!(proxy = %proxy.id, lane = lane_name(lane), destinations = silent.len(), "proxy delivered nothing in time on one lane, which leaves it alone");
                }
                (news, news)
            }
            Blame::Datacenter => (true, routes.pardon(now)),
            _ => (true, false),
        };
        let takes = matches!(blame, Blame::Proxy | Blame::Connection | Blame::Capped);
        let taken =
            if takes { self.take_from(blame, link, lane, Way::Proxy(index), now) } else { Vec::new() };
        Sentence { news, for_all, taken }
    }

    /// What was to go by a proxy that is left, and never went out, cannot time out: it takes the next way with the rest. What was
    /// written has a clock of its own. Gives the flows that it was of.
    fn take_from(&mut self, blame: Blame, link: LinkId, lane: Lane, way: Way, now: Micros) -> Vec<FlowIx> {
        let mut taken = Vec::new();
        for id in self.attempts.unwritten_on(link) {
            let Some(attempt) = self.attempts.get(id).filter(|attempt| attempt.way == way) else { continue };
            let flows: Vec<FlowIx> = attempt.entries.iter().map(|(ix, _)| *ix).collect();
            let of_lane = flows.first().is_some_and(|ix| self.flows[ix.0].lane == lane);
            if blame == Blame::Connection && !of_lane {
                continue;
            }
            // By a proxy that is not left they may yet go out: then they are of the share, and their flows avoid it.
            let ended = if blame == Blame::Capped { Ended::TimedOut } else { Ended::Lost };
            self.stats.attempts.timed_out += self.end_attempt(id, ended);
            for ix in flows.iter().filter(|_| blame == Blame::Capped) {
                self.flows[ix.0].pauses.avoid(way, Cause::TimedOut, now);
            }
            taken.extend(flows);
        }
        taken
    }

    /// The flows of a frame that wait for an answer.
    pub(super) fn silent_in(&self, id: u64) -> BTreeSet<FlowIx> {
        let Some(attempt) = self.attempts.get(id) else { return BTreeSet::new() };
        let waits = |ix: &FlowIx, run: &Selected| {
            let flow = &self.flows[ix.0];
            (run.count == 0 && flow.asking.contains(&id))
                || run
                    .seqs()
                    .any(|seq| flow.sent.get(seq).is_some_and(|sent| sent.place == Place::Flying(id)))
        };
        attempt.entries.iter().filter(|(ix, run)| waits(ix, run)).map(|(ix, _)| *ix).collect()
    }

    fn evidence(
        &self,
        id: u64,
        index: usize,
        silent: &BTreeSet<FlowIx>,
        links: &Links,
        now: Micros,
    ) -> Evidence {
        let Some(attempt) = self.attempts.get(id) else { return Evidence::default() };
        let site = &self.sites[attempt.datacenter];
        let proxy = &site.routes.proxies[index];
        let written_at = attempt.written_at.unwrap_or(now);
        let lane = attempt.entries.first().map_or(Lane::Control, |(ix, _)| self.flows[ix.0].lane);
        let mut others = Lane::ALL.into_iter().filter(|other| *other != lane);
        // Silent here, and answered on the other lane: it is not the destination, nor the proxy.
        let elsewhere = |ix: &&FlowIx| {
            let first = ix.0 - lane.index();
            Lane::ALL.into_iter().filter(|other| *other != lane).any(|other| {
                let heard = self.flows[first + other.index()].heard;
                heard.is_some_and(|(way, at)| way == attempt.way && at >= written_at)
            })
        };
        // Both lanes of a member are one destination.
        let peer = |ix: &FlowIx| self.flows[ix.0].peer;
        let said_nothing: BTreeSet<PeerIx> = silent.iter().map(peer).collect();
        // Those that it was silent for: that it said of some why they cannot be reached is no silence.
        let avoiding = |ix: &&FlowIx| {
            let why = self.flows[ix.0].pauses.why_avoided(Way::Proxy(index), now);
            why.is_some_and(|(cause, _)| cause == Cause::TimedOut)
        };
        let suspects: BTreeSet<PeerIx> =
            said_nothing.iter().copied().chain(site.flows.iter().filter(avoiding).map(peer)).collect();
        Evidence {
            silent: said_nothing.len(),
            suspects: suspects.len(),
            answers: attempt.passed_on
                || proxy.answered_since(lane, written_at)
                || proxy.link != Some(attempt.link),
            other_lane: others.any(|other| proxy.answered_since(other, written_at)),
            elsewhere: silent.iter().filter(elsewhere).count(),
            on_trial: proxy.is_on_trial(lane, now),
            lane_on_trial: proxy.lanes[lane.index()].is_on_trial(now) && !proxy.standing.is_on_trial(now),
            ..site.routes.others(index, lane, links, &self.settings, now)
        }
    }

    pub(super) fn note_verdict(
        &mut self,
        site: usize,
        blame: Blame,
        way: Way,
        alone: Option<FlowIx>,
        seen: Evidence,
        now: Micros,
    ) {
        let proxy = self.proxy_of(&self.sites[site], way).cloned();
        let destination = alone.map(|ix| self.flows[ix.0].destination.clone());
        self.note_blame(site, blame, About { proxy, destination, ..About::default() }, seen, now);
    }

    pub(super) fn note_blame(
        &mut self,
        site: usize,
        blame: Blame,
        about: About,
        seen: Evidence,
        now: Micros,
    ) {
        *self.stats.verdicts.entry(blame.label()).or_default() += 1;
        self.sites[site].verdicts.note(blame, about, seen, now);
    }

    /// Nothing waits for an attempt any more.
    pub(super) fn forget_attempt(&mut self, id: u64) -> Option<Attempt> {
        let attempt = self.attempts.remove(id)?;
        if let Some((ix, _)) = attempt.entries.first() {
            self.under_way.ended((attempt.link, self.flows[ix.0].lane), id);
        }
        debug_assert!(!self.attempts.is_empty() || self.under_way.is_idle(), "a row of frames of nobody");
        Some(attempt)
    }

    /// Ends an attempt; what still flies in it waits for another one. Gives the number of those messages.
    pub(super) fn end_attempt(&mut self, id: u64, ended: Ended) -> u64 {
        self.timers.clear(Timer::Attempt(id));
        let Some(attempt) = self.forget_attempt(id) else { return 0 };
        self.sites[attempt.datacenter].resends.release(attempt.reserved_bytes);
        let (mut waiting, mut lost, mut pings) = (0, Vec::new(), Vec::new());
        for (ix, run) in attempt.entries {
            let flow = &mut self.flows[ix.0];
            flow.forget_floor_told();
            if flow.asking.remove(&id) && ended == Ended::Lost {
                flow.held.ask();
            }
            if flow.ping.attempt == Some(id) {
                pings.push(ix);
            }
            for seq in run.seqs() {
                if flow.sent.get(seq).is_some_and(|sent| sent.place == Place::Flying(id)) {
                    if !flow.retry(seq, ended != Ended::Unsent) {
                        lost.push((ix, seq));
                    }
                    if let Some(sent) = flow.sent.get_mut(seq) {
                        sent.late = ended == Ended::TimedOut;
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::stranded::Stranded;
    use super::*;
    use crate::settings::Settings;

    /// Looks for a way are counted: at most as many as there are flows in each link's own lanes.
    #[test]
    fn a_lost_link_to_a_member_has_nobody_else_look_for_a_way() {
        let mut sender = Stranded::new(Settings::default());
        let members = ["m1", "m2", "m3", "m4", "m5"];
        sender.send(&members, &Bytes::from_static(b"x"), Micros(0));
        let before = sender.decisions(Micros(0));
        for (link, member) in members.iter().enumerate() {
            sender.lose(link as u64, member, Micros(1));
        }
        assert_eq!(sender.decisions(Micros(1)) - before, 5, "once each, and not each for all");
    }

    #[test]
    fn a_flow_looks_for_a_way_once_however_many_deadlines_are_over() {
        let mut sender = Stranded::new(Settings::default());
        let bytes = Bytes::from_static(b"x");
        for ms in [10, 20, 30, 40] {
            assert!(sender.try_send_for(Duration::from_millis(ms), &["m1"], &bytes, Micros(0)));
        }
        sender.send(&["m1"], &bytes, Micros(0));
        let before = sender.decisions(Micros(0));
        // Late, so that all are over at once.
        let now = Micros(50_000);
        assert!(sender.ring(now));
        assert_eq!(sender.outcomes(), (vec![FailReason::Expired; 4], 1));
        assert_eq!(sender.decisions(now), before + 1);
    }
}
