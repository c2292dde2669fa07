//! Round trips that somebody asks for: an empty run takes the way that messages would take now, and the member's ack ends
//! it. Nothing is delivered by it.

use super::Client;
use crate::id::{Lane, NodeId};
use crate::proto::flow::{FlowIx, Ping};
use crate::proto::links::Links;
use crate::proto::time::{Micros, micros};
use crate::stats::decision::Pinged;

impl Client {
    /// Begins a round trip to a member, on control. One that is under way is joined. False: it is no destination.
    pub fn ping(&mut self, node: &NodeId, links: &mut Links, now: Micros) -> bool {
        let Some(first) = self.destinations.get(node) else { return false };
        let ix = FlowIx(first.0 + Lane::Control.index());
        let ping = &mut self.flows[ix.0].ping;
        if ping.attempt.is_none() && !ping.waits {
            *ping = Ping { waits: true, attempt: None, attempts: 0 };
        }
        self.wake(ix, links, now);
        true
    }

    /// Nobody waits for the round trip any more.
    pub fn end_ping(&mut self, node: &NodeId, links: &mut Links, now: Micros) {
        let Some(first) = self.destinations.get(node) else { return };
        let ix = FlowIx(first.0 + Lane::Control.index());
        self.flows[ix.0].ping = Ping::default();
        self.wake(ix, links, now);
    }

    /// A round trip that is done.
    pub fn poll_pinged(&mut self) -> Option<Pinged> {
        self.pinged.pop_front()
    }

    /// An attempt was answered that asked for nothing but an ack.
    pub(super) fn ping_answered(&mut self, ix: FlowIx, id: u64, links: &Links, now: Micros) {
        if self.flows[ix.0].ping.attempt != Some(id) {
            return;
        }
        let flow = &mut self.flows[ix.0];
        let Some(attempt) = self.attempts.get(id) else { return self.ping_lost(ix, id) };
        let Ping { attempts, .. } = std::mem::take(&mut flow.ping);
        let flow = &self.flows[ix.0];
        let proxy = self.proxy_of(&self.sites[attempt.datacenter], attempt.way).cloned();
        self.pinged.push_back(Pinged {
            node: flow.destination.clone(),
            way: attempt.way.label(),
            proxy,
            rtt_us: micros(now.since(attempt.written_at.unwrap_or(attempt.sealed_at))),
            attempts,
            clock_offset_us: links.clock_offset_us(flow.peer),
        });
    }

    /// An attempt ended without an answer: the round trip is tried again, by the next way.
    pub(super) fn ping_lost(&mut self, ix: FlowIx, id: u64) {
        let ping = &mut self.flows[ix.0].ping;
        if ping.attempt == Some(id) {
            (ping.waits, ping.attempt) = (true, None);
        }
    }
}
