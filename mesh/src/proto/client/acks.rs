//! What acks say of messages, of attempts and of the way they took.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Client, Timer};
use crate::id::Incarnation;
use crate::message::FailReason;
use crate::proto::flow::{FlowIx, Place, Selected, Way};
use crate::proto::handshake::is_plausible;
use crate::proto::links::{LinkEnd, LinkId, Links};
use crate::proto::pause::{Cause, FULL_DOUBTED_AFTER};
use crate::proto::time::Micros;
use crate::proto::wire::{AckFlow, PASSED, ROOM_UNKNOWN, Refused, RefusedReason};

/// Why an ack was not looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ignored {
    /// It is of what this node sends no more, or of before its destination moved: nobody's fault.
    Late,
    /// It cannot be.
    Nonsense,
}

/// What an ack is the answer to, of runs without messages.
#[derive(Default)]
struct Answers {
    any: bool,
    /// What is doubted was asked for.
    of_doubt: bool,
}

/// Who brings an ack of a flow.
#[derive(Clone, Copy)]
pub(super) struct Carrier {
    link: LinkId,
    /// The way that the link is. Where the destination is a proxy itself it is two: then an attempt knows which one it took.
    over: Way,
    /// It is the destination itself, whatever way what it answers took.
    own: bool,
}

impl Carrier {
    /// Whose word that is: that of the destination where it says so itself, though it be a proxy as well.
    pub(super) fn word(self) -> Way {
        if self.own { Way::Direct } else { self.over }
    }
}

impl Client {
    /// An ack for a flow of this node's own, in a life of it.
    ///
    /// # Errors
    /// [`Ignored`], with what it says.
    pub fn handle_ack(
        &mut self,
        link: LinkId,
        (ix, origin_incarnation): (FlowIx, Incarnation),
        entry: &AckFlow,
        links: &mut Links,
        now: Micros,
    ) -> Result<(), Ignored> {
        if !self.flows[ix.0].employed || origin_incarnation != links.me.incarnation {
            return Err(Ignored::Late);
        }
        let Some(carrier) = self.carrier(link, ix, links) else {
            // A proxy of where the destination stood before, most likely: what it says of it is no word of anybody's.
            return Err(Ignored::Late);
        };
        if self.distrusts(ix, carrier.word(), now) {
            return Ok(());
        }
        // What was refused is not answered, whatever else the entry says.
        let refused = (entry, !entry.refused.is_empty() && self.take_empty_refusals(ix, link, entry));
        let flow = &mut self.flows[ix.0];
        // On a direct link the destination's life is known from the handshake.
        let direct = links.link(link).filter(|_| carrier.own).map(|link| link.incarnation);
        let life_fits = direct.is_none_or(|life| life == entry.incarnation);
        if entry.incarnation.is_known()
            && !(life_fits && is_plausible(links.me.incarnation, entry.incarnation))
        {
            return Err(Ignored::Nonsense);
        }
        // What an old life has says nothing any more; that it refused an attempt does.
        if entry.incarnation.is_known() && entry.incarnation >= flow.incarnation {
            if entry.decided >= flow.next() {
                self.take_nonsense(ix, link, direct.is_some(), links, now);
                return Err(Ignored::Nonsense);
            }
            // Who brings it may not be believed any more for what it brings, or be gone.
            let mut carrier = Some(carrier);
            if entry.incarnation > flow.incarnation {
                if direct.is_none() && flow.hearsay.is_asked() {
                    return Err(Ignored::Late);
                }
                links.note_life(flow.peer, entry.incarnation, now);
                // Refusals first: what was certainly not delivered need not fail with the old life.
                self.take_refusals(ix, link, refused, links, now);
                let by = self.word_over(link, ix, links).filter(|way| *way != Way::Direct);
                self.learn_life(ix, entry.incarnation, by, links, now);
                carrier = self.carrier(link, ix, links);
            }
            if !entry.refused.is_empty() {
                self.take_passed(ix, link, entry, links, now);
                carrier = self.carrier(link, ix, links);
                if carrier.is_none_or(|carrier| self.distrusts(ix, carrier.word(), now)) {
                    return Ok(());
                }
            }
            if let Some(carrier) = carrier {
                self.take_state(ix, carrier, entry, links, now);
            }
        }
        if !entry.refused.is_empty() {
            self.take_refusals(ix, link, refused, links, now);
        }
        self.wake(ix, links, now);
        Ok(())
    }

    /// A destination decided on what was never sent to it: over its own link, or as others bring it. Perhaps somebody told it of numbers which
    /// are none: then no proxy brings an answer, and who does is not to blame, so that nobody is left for it.
    fn take_nonsense(&mut self, ix: FlowIx, link: LinkId, own: bool, links: &mut Links, now: Micros) {
        let flow = &mut self.flows[ix.0];
        if flow.sent.is_empty() && flow.queue.is_empty() {
            return;
        }
        if own {
            // It believes what this node says over a link from after that. Where a new link mends nothing, the next one would not either;
            // and a proxy that was told such things as a member has other messages under way.
            if !flow.anew.begin(now) {
                return;
            }
            links.replace(link, LinkEnd::Replaced, now);
        }
        flow.pauses.probe_directly();
        links.want_once(flow.peer, now);
    }

    /// What the destination has: decided and held seqs.
    fn take_state(&mut self, ix: FlowIx, carrier: Carrier, entry: &AckFlow, links: &mut Links, now: Micros) {
        let Carrier { link, over, .. } = carrier;
        let nothing_flew = !self.flows[ix.0].flies();
        let mut progress = self.flows[ix.0].raise_decided(entry.decided);
        if progress {
            self.flows[ix.0].held.moved(now);
        }
        self.flows[ix.0].set_room(entry.room_kib, entry.decided);
        let mut attempt_answered = false;
        while let Some(seq) =
            self.flows[ix.0].sent.first().map(|(seq, _)| seq).filter(|seq| *seq <= entry.decided)
        {
            progress = true;
            attempt_answered |= self.land(ix, seq, carrier, links, now);
            let Some(sent) = self.flows[ix.0].forget(seq) else { break };
            self.note_word(ix, seq, carrier.word(), now);
            self.delivered(ix, &sent, now);
        }
        self.flows[ix.0].note_waiting(entry, now);
        for seq in self.flows[ix.0].newly_held(entry, (carrier.word(), link)) {
            progress = true;
            attempt_answered |= self.land(ix, seq, carrier, links, now);
            self.flows[ix.0].hold(seq, carrier.word());
        }
        let mut of_doubt = false;
        if !self.flows[ix.0].asking.is_empty() {
            let answers = self.take_answers(ix, carrier, (entry, nothing_flew), links, now);
            (attempt_answered, of_doubt) = (attempt_answered || answers.any, answers.of_doubt);
        }
        if progress && !attempt_answered {
            self.flows[ix.0].answered(over, now);
        }
        if let Some(at) = self.flows[ix.0].held.told(link, now) {
            self.timers.set_earlier(Timer::Held(ix), at);
        }
        if of_doubt {
            self.weigh_held(ix, carrier.word(), entry, links, now);
        }
    }

    /// Runs without messages ask only for this.
    fn take_answers(
        &mut self,
        ix: FlowIx,
        Carrier { link, own, .. }: Carrier,
        (entry, nothing_flew): (&AckFlow, bool),
        links: &mut Links,
        now: Micros,
    ) -> Answers {
        let mut answers = Answers::default();
        // Their writer may report them when the answer is there already: where nothing else could be meant, and a round trip fits
        // between, it is theirs.
        let soonest = Duration::from_micros(links.link(link).map_or(0, |link| link.rtt.min_us()));
        // Where something is held its destination speaks unasked, too: when its application has taken that.
        let alone = nothing_flew && self.flows[ix.0].sent.is_empty() && self.flows[ix.0].asking.len() == 1;
        // What a proxy refuses it says by itself, with what it knows of its own; a destination says what room it has.
        let own_words = entry.refused.is_empty() || entry.room_kib != ROOM_UNKNOWN;
        let answered = |id: &u64| {
            own_words
                && self.attempts.get(*id).is_none_or(|attempt| {
                    let may_be = alone && !soonest.is_zero() && now.since(attempt.sealed_at) >= soonest;
                    attempt.link == link && (attempt.written_at.is_some() || may_be)
                })
        };
        for id in self.flows[ix.0].asking.iter().copied().filter(answered).collect::<Vec<_>>() {
            self.flows[ix.0].asking.remove(&id);
            self.ping_answered(ix, id, links, now);
            if let Some(attempt) = self.attempts.get_mut(id) {
                attempt.answered = true;
                attempt.passed_on |= !own;
                answers.any = true;
                let doubt = self.flows[ix.0].held.doubt();
                answers.of_doubt |= doubt.is_some_and(|doubt| attempt.sealed_at >= doubt.at);
                let (way, written_at) = (attempt.way, attempt.written_at.or(Some(attempt.sealed_at)));
                self.flows[ix.0].answered(way, now);
                self.flows[ix.0].heard = written_at.map(|at| (way, at));
                // The proxy brought the member's answer, which is all that it was asked for.
                if let Way::Proxy(index) = way
                    && !own
                {
                    let lane = self.flows[ix.0].lane;
                    self.sites[self.flows[ix.0].datacenter].routes.proxies[index].acquit(lane, written_at);
                }
            }
            self.landed(id);
        }
        answers
    }

    /// Who brings what comes over a link; none, where that is nobody whose word counts.
    fn carrier(&self, link: LinkId, ix: FlowIx, links: &Links) -> Option<Carrier> {
        let over = self.way_of(link, ix, links)?;
        Some(Carrier { link, over, own: self.is_own_word(link, ix, links) })
    }

    /// The way that a link is for a flow: through a proxy of its datacenter, back, or straight from the destination itself.
    /// None for any other peer, whose word counts for nothing. Where the destination is a proxy itself it is two: then an
    /// attempt knows which one it took.
    pub(super) fn way_of(&self, link: LinkId, ix: FlowIx, links: &Links) -> Option<Way> {
        let flow = &self.flows[ix.0];
        let routes = &self.sites[flow.datacenter].routes;
        let peer = links.link(link)?.peer;
        // One that was replaced may still bring what was answered over it.
        let proxy = || routes.by_link(link).or_else(|| routes.by_peer(peer)).map(Way::Proxy);
        let straight = || (peer == flow.peer).then_some(Way::Direct);
        proxy().or_else(|| self.back_over(link, ix, links)).or_else(straight)
    }

    /// An ack names a message: what that says of its attempt and of the way. True when it answers the attempt under way.
    fn land(
        &mut self,
        ix: FlowIx,
        seq: u64,
        Carrier { link, over, own }: Carrier,
        links: &Links,
        now: Micros,
    ) -> bool {
        let flow = &self.flows[ix.0];
        let (site, lane) = (flow.datacenter, flow.lane);
        let Some(sent) = flow.sent.get(seq) else { return false };
        let (attempts, first_link, first_sealed) = (sent.attempts, sent.first_link, sent.first_sealed);
        let (last_way, place) = (sent.way, sent.place);
        let mut written = None;
        if let Place::Flying(id) = place {
            // Once per attempt: what is held is named again when it is decided, and what timed out was counted as that.
            self.stats.attempts.acked += 1;
            if let Some(attempt) = self.attempts.get_mut(id).filter(|attempt| attempt.link == link) {
                attempt.answered = true;
                // What a proxy that is the destination takes for itself says nothing of what it passes on.
                attempt.passed_on |= !own;
                written = Some(attempt.written_at.unwrap_or(attempt.sealed_at));
                if !attempt.arrived {
                    attempt.arrived =
                        self.under_way.answered((link, lane), id, longest_way(link, links), now);
                }
                let flow = &mut self.flows[ix.0];
                flow.answered(attempt.way, now);
                flow.heard = written.map(|at| (attempt.way, at));
            }
            self.landed(id);
        }
        // An ack after several attempts over one link may answer any of them, so only these say how long the way takes:
        // the one attempt there was, the one over this link, and a late answer to the first one, made over this link alone,
        // whether there is a second one or not. What was held before says how long the application took.
        let held = place == Place::Held;
        let sample = match (attempts, written.is_some()) {
            (1, true) => written,
            (2, true) if first_link != link => written,
            (1 | 2, false) if first_link == link && !held => Some(first_sealed),
            _ => None,
        };
        // Two ways may lead over one link. Of an only attempt, and of the one under way, it is known which one it took.
        let way = if attempts == 1 || written.is_some() { last_way } else { over };
        if let Some(rtt) = sample.map(|written| now.since(written)) {
            match way {
                Way::Proxy(proxy) => self.sites[site].routes.proxies[proxy].rtt.sample(rtt, now),
                Way::Direct => self.flows[ix.0].direct_rtt.sample(rtt, now),
                Way::Back(proxy) => self.sample_back(ix, (proxy, rtt), links, now),
            }
        }
        if let Way::Proxy(proxy) = over
            && !own
        {
            self.sites[site].routes.proxies[proxy].acquit(lane, written);
        }
        written.is_some()
    }

    pub(super) fn landed(&mut self, id: u64) {
        if self.attempts.landed(id) {
            self.forget_attempt(id);
            self.timers.clear(Timer::Attempt(id));
        }
    }

    /// Empty runs that asked in vain, over this very link. Whether there are any.
    fn take_empty_refusals(&mut self, ix: FlowIx, link: LinkId, entry: &AckFlow) -> bool {
        let refused = |run: &Selected| {
            let named = |range: &&Refused| range.count == 0 && range.reason != PASSED;
            run.count == 0 && entry.refused.iter().filter(named).any(|range| range.first.0 == run.first)
        };
        let over = |id: &u64| {
            let attempt = self.attempts.get(*id).filter(|attempt| attempt.link == link);
            attempt.is_some_and(|attempt| attempt.entries.iter().any(|(of, run)| *of == ix && refused(run)))
        };
        let asked: Vec<u64> = self.flows[ix.0].asking.iter().copied().filter(over).collect();
        for id in asked.iter().copied() {
            self.flows[ix.0].asking.remove(&id);
            self.flows[ix.0].held.ask();
            self.ping_lost(ix, id);
            self.landed(id);
        }
        !asked.is_empty()
    }

    /// Attempts that ended without a decision. Only those over this very link: another one may still be under way. An empty run is
    /// refused as full only where one `asked` there: whoever is asked nothing would keep messages waiting that go another way. For other
    /// reasons only this way is left.
    pub(super) fn take_refusals(
        &mut self,
        ix: FlowIx,
        link: LinkId,
        (entry, asked): (&AckFlow, bool),
        links: &mut Links,
        now: Micros,
    ) {
        let Some(way_of_link) = self.way_of(link, ix, links) else { return };
        // Ranges may overlap when refusals were merged on their way; every seq is looked at once.
        let mut from = 0;
        for refused in refusals(entry) {
            let reason = RefusedReason::from_wire(refused.reason);
            let end = refused.first.0.saturating_add(u64::from(refused.count)).max(from);
            let first = refused.first.0.max(from);
            from = end;
            let seqs: Vec<u64> = self.flows[ix.0].sent.range(first, end).map(|(seq, _)| seq).collect();
            let mut ways = BTreeSet::new();
            let is_full = matches!(reason, Some(RefusedReason::InboxFull | RefusedReason::QueueFull));
            if refused.count == 0 && (asked || !is_full) {
                ways.insert(way_of_link);
            }
            let (mut ended, mut refused_bytes) = (0, 0);
            for seq in seqs {
                let Some(Place::Flying(id)) = self.flows[ix.0].sent.get(seq).map(|sent| sent.place) else {
                    continue;
                };
                let attempt = self.attempts.get(id).filter(|attempt| attempt.link == link);
                let Some(way) = attempt.map(|attempt| attempt.way) else { continue };
                ways.insert(way);
                ended += 1;
                self.under_way.answered((link, self.flows[ix.0].lane), id, longest_way(link, links), now);
                self.landed(id);
                let uncertain = matches!(reason, Some(RefusedReason::LinkLost) | None);
                let flow = &mut self.flows[ix.0];
                let again = flow.retry(seq, uncertain);
                if let Some(sent) = flow.sent.get_mut(seq) {
                    refused_bytes += sent.pending.payload.len();
                    // A proxy of the way back that is full says nothing of the receiver.
                    sent.full = matches!(reason, Some(RefusedReason::InboxFull))
                        || (reason == Some(RefusedReason::QueueFull) && !matches!(way, Way::Back(_)));
                }
                if !again {
                    self.give_up(ix, seq, FailReason::PeerRestarted);
                }
            }
            if ways.is_empty() {
                continue;
            }
            self.stats.attempts.refused += ended;
            let flow = &mut self.flows[ix.0];
            flow.forget_floor_told();
            let back = ways.iter().all(|way| matches!(way, Way::Back(_)));
            match reason {
                // Of the way back only this proxy is full: there are others.
                Some(RefusedReason::QueueFull) if back => {
                    ways.into_iter().for_each(|way| flow.pauses.avoid(way, Cause::Refused(reason), now));
                }
                Some(RefusedReason::InboxFull | RefusedReason::QueueFull) => {
                    let routes = &self.sites[flow.datacenter].routes;
                    let leads = |way| !ways.contains(&way) && !flow.pauses.avoids(way, now);
                    let elsewhere =
                        || routes.linked(flow.lane, links, now).any(|(index, _)| leads(Way::Proxy(index)));
                    // Perhaps only this proxy says so. Where nothing moves for a while another one is asked, and never the destination
                    // itself: it may be that slow. Nor does anything wait for who said so while that one delivered.
                    let known = ways.iter().all(|way| flow.pauses.falsely_full(*way));
                    let doubted = (known || flow.stands_since(now) >= FULL_DOUBTED_AFTER) && elsewhere();
                    if !(known && doubted) {
                        let queue = reason == Some(RefusedReason::QueueFull);
                        flow.full(ways.first().copied().filter(|way| queue && *way != Way::Direct), now);
                    }
                    let by = ways.into_iter().filter(|way| doubted && *way != Way::Direct);
                    by.for_each(|way| flow.pauses.avoid(way, Cause::Refused(reason), now));
                }
                // The member heard of a later life of this node, or the proxy says so: what this node says in a handshake with the
                // member counts for more, and what that one answers to it.
                Some(RefusedReason::StaleOrigin) => {
                    self.stats.fallbacks.member_unreachable += ended;
                    if ways.contains(&Way::Direct) {
                        links.replace(link, LinkEnd::PeerLife, now);
                    } else {
                        flow.pauses.probe_directly();
                    }
                    links.want_once(flow.peer, now);
                    ways.into_iter().for_each(|way| flow.pauses.avoid(way, Cause::Refused(reason), now));
                }
                // The life that it names is news, or it makes no sense. Where the one before was a proxy's word and came to nothing, either
                // may be made up: another way is to say, and the destination itself.
                Some(RefusedReason::StaleDestination) if entry.incarnation > flow.incarnation => {
                    if flow.hearsay.is_unproven() {
                        links.want_once(flow.peer, now);
                        ways.into_iter().for_each(|way| flow.pauses.avoid(way, Cause::Refused(reason), now));
                    }
                }
                Some(RefusedReason::Draining) => {
                    self.stats.fallbacks.proxy_draining += ended;
                    ways.into_iter().for_each(|way| flow.pauses.avoid(way, Cause::Refused(reason), now));
                }
                // What is smaller may go there, and this need not be tried there again.
                Some(RefusedReason::TooLarge) => {
                    self.stats.fallbacks.member_unreachable += ended;
                    for way in ways {
                        match way {
                            // There is no way beyond this one: it may be tried again, and not at once.
                            Way::Direct => flow.pauses.avoid(way, Cause::Refused(reason), now),
                            _ => flow.pauses.limit(way, refused_bytes, now),
                        }
                    }
                }
                Some(
                    RefusedReason::Unreachable
                    | RefusedReason::LinkLost
                    | RefusedReason::NotServed
                    | RefusedReason::StaleDestination
                    | RefusedReason::Expired
                    | RefusedReason::Malformed,
                )
                | None => {
                    self.stats.fallbacks.member_unreachable += ended;
                    let unknown =
                        matches!(reason, Some(RefusedReason::Unreachable | RefusedReason::StaleDestination));
                    if unknown && flow.hearsay.ask_itself(&ways) {
                        links.want_once(flow.peer, now);
                    }
                    ways.into_iter().for_each(|way| flow.pauses.avoid(way, Cause::Refused(reason), now));
                }
            }
        }
    }
}

/// The ranges of attempts that ended, in the order of their seqs. An empty one has none and says its reason alone, once: an entry
/// may have a thousand of them.
fn refusals(entry: &AckFlow) -> Vec<Refused> {
    let mut reasons = Vec::new();
    let says_more = |refused: &&Refused| {
        let reason = RefusedReason::from_wire(refused.reason);
        let known = refused.count == 0 && reasons.contains(&reason);
        if refused.count == 0 && !known {
            reasons.push(reason);
        }
        !known
    };
    let ended = entry.refused.iter().filter(|refused| refused.reason != PASSED);
    let mut ranges: Vec<Refused> = ended.filter(says_more).copied().collect();
    ranges.sort_by_key(|refused| refused.first);
    ranges
}

/// The round trip over a link, by its pings, which wait for no bulk.
pub(super) fn way_without_load(link: LinkId, links: &Links) -> Duration {
    Duration::from_micros(links.link(link).map_or(0, |link| link.rtt.smoothed_us()))
}

/// The same, and what it may be longer by.
fn longest_way(link: LinkId, links: &Links) -> Duration {
    links.link(link).map_or(Duration::ZERO, |link| link.rtt.timeout(Duration::ZERO, Duration::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Seq;
    use crate::proto::wire::ROOM_UNKNOWN;

    #[test]
    fn many_empty_refusals_say_as_much_as_one_for_each_reason() {
        let range = |first, count, reason| Refused { first: Seq(first), count, reason };
        // Three that are known, and two that are not: these say the same.
        let reasons = [3, 8, 11, 99, 98];
        let mut refused: Vec<Refused> = (1..=15)
            .map(|first| range(first, 0, reasons[usize::try_from(first).unwrap() % reasons.len()]))
            .collect();
        refused.splice(0..0, [range(7, 2, 3), range(6, 2, 3), range(1, 9, PASSED), range(1, 0, PASSED)]);
        let (lane, flow, incarnation, room_kib, held) = (1, 0, Incarnation(1), ROOM_UNKNOWN, Vec::new());
        let entry = AckFlow { lane, flow, incarnation, decided: 0, room_kib, held, refused };
        let said: Vec<_> = refusals(&entry).iter().map(|of| (of.first.0, of.count, of.reason)).collect();
        assert_eq!(said, [(1, 0, 8), (2, 0, 11), (3, 0, 99), (5, 0, 3), (6, 2, 3), (7, 2, 3)]);
    }
}
