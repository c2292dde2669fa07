//! What a destination is said to hold. It is asked when nothing is heard of it; and where only a proxy says so, and nothing is decided
//! for a while, by another way: a proxy that says *held* and keeps the message, or lost it, would keep it until its deadline.

use super::{Client, Timer};
use crate::id::NodeId;
use crate::message::FailReason;
use crate::proto::flow::{FlowIx, Place, Way};
use crate::proto::held::{Doubt, HELD_ASKS_AFTER};
use crate::proto::links::Links;
use crate::proto::pause::Cause;
use crate::proto::time::Micros;
use crate::proto::verdict::{Blame, Evidence};
use crate::proto::wire::AckFlow;

impl Client {
    /// Nothing was heard for a while of what a destination holds. Unless something is under way that it will answer, it is
    /// asked: its word may have been lost with a link.
    pub(super) fn ask_of_held(&mut self, ix: FlowIx, links: &mut Links, now: Micros) {
        let doubted = self.doubt_held(ix, links, now);
        let flow = &mut self.flows[ix.0];
        let Some(at) = flow.held.asks_at() else { return };
        let again = if at > now {
            at
        } else {
            if !flow.awaits_answer() && !doubted {
                flow.held.ask();
                self.wake(ix, links, now);
            }
            now + HELD_ASKS_AFTER
        };
        self.timers.set(Timer::Held(ix), again);
    }

    /// Something is held for long, and nothing decided. A receiver may be that slow; that it is, another way is to say too. False
    /// if there is no reason to ask.
    fn doubt_held(&mut self, ix: FlowIx, links: &mut Links, now: Micros) -> bool {
        let flow = &mut self.flows[ix.0];
        if !flow.held.is_doubtful(now) {
            return false;
        }
        // The lowest is to be decided first. Its own word needs no other.
        let Some((lowest, by)) = flow.held_seqs().next().filter(|(_, by)| *by != Way::Direct) else {
            return false;
        };
        // Who was asked before may answer that now, and knows of nothing that came since.
        let before = flow.held.doubt().filter(|before| before.by == by && before.is_of(lowest));
        let known = |seq: &u64| before.is_none_or(|before| before.is_of(*seq));
        let said = flow.held_seqs().filter(|(_, of)| *of == by).map(|(seq, _)| seq).filter(known);
        let doubt = Doubt::new(by, now, said);
        flow.held.begin_doubt(doubt);
        flow.audit = true;
        self.wake(ix, links, now);
        true
    }

    /// The destination answered what was asked by another way than that by which it was said to hold messages. What it does not have
    /// is sent again, of the share of what was late: should it arrive twice, the destination drops it.
    pub(super) fn weigh_held(
        &mut self,
        ix: FlowIx,
        over: Way,
        entry: &AckFlow,
        links: &mut Links,
        now: Micros,
    ) {
        let flow = &mut self.flows[ix.0];
        // One that is behind what is known was overtaken on its way.
        let known = entry.decided >= flow.decided();
        let doubt = flow.held.doubt().filter(|doubt| doubt.by != over && known);
        let Some(Doubt { by, stretches, .. }) = doubt.cloned() else { return };
        let missing = |seq: &u64| {
            let held = flow.sent.get(*seq).is_some_and(|sent| sent.place == Place::Held);
            held && *seq > entry.decided && !entry.holds(*seq)
        };
        let doubted = || stretches.iter().flat_map(|(first, end)| *first..*end);
        let missing: Vec<u64> = doubted().filter(missing).collect();
        flow.held.end_doubt(missing.is_empty());
        if missing.is_empty() {
            // What it says itself is not doubted again.
            let own = doubted().filter(|_| over == Way::Direct);
            own.for_each(|seq| flow.sent.get_mut(seq).into_iter().for_each(|sent| sent.held_by = Some(over)));
            return;
        }
        let (site, destination) = (flow.datacenter, flow.destination.clone());
        let mut lost = Vec::new();
        for seq in &missing {
            if !flow.retry(*seq, true) {
                lost.push(*seq);
            }
            if let Some(sent) = flow.sent.get_mut(*seq) {
                sent.late = true;
            }
        }
        flow.pauses.avoid(by, Cause::TimedOut, now);
        // Once it may be an answer that was overtaken, or that the destination let go of it, having taken this node off its list.
        let again = flow.pauses.is_false_again(by, now);
        for seq in lost {
            self.give_up(ix, seq, FailReason::PeerRestarted);
        }
        for lane in self.lanes_of(ix).into_iter().filter(|_| again) {
            if self.flows[lane.0].pauses.distrust(by, now) {
                self.take_back(lane, by);
            }
        }
        let proxy = self.proxy_of(&self.sites[site], by).map(NodeId::as_str);
        tracing::warn!(
            proxy,
            %destination,
            messages = missing.len(),
            "proxy said that its member holds messages which that one does not have, as another way says: they are sent again, not \
             by that proxy"
        );
        let seen = Evidence { silent: missing.len(), ..Evidence::default() };
        self.note_verdict(site, Blame::FalseHold, by, Some(ix), seen, now);
        for lane in self.lanes_of(ix) {
            self.wake(lane, links, now);
        }
    }
}
