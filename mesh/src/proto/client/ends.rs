//! How a message ends: exactly one outcome, its bytes given back.

use super::clock::Ended;
use super::{Client, Decided, Site, Ticket};
use crate::message::{FailReason, Outcome, Route};
use crate::proto::flow::{FlowIx, Pending, Place, Sent, Way};
use crate::proto::time::{Micros, micros};
use crate::settings::MESSAGE_OVERHEAD_BYTES;

impl Client {
    pub(super) fn delivered(&mut self, ix: FlowIx, sent: &Sent, now: Micros) {
        let Site { routes, stats: row, .. } = &mut self.sites[self.flows[ix.0].datacenter];
        let route = match sent.way {
            Way::Proxy(index) => {
                row.delivered_by_proxy += 1;
                Route::Proxy(routes.proxies[index].id.clone())
            }
            Way::Direct => {
                row.delivered_direct += 1;
                Route::Direct
            }
            Way::Back(proxy) => {
                row.delivered_back += 1;
                self.backs.id(proxy).cloned().map_or(Route::Direct, Route::Back)
            }
        };
        let rtt = now.since(sent.first_sealed);
        row.ack_latency.observe(micros(rtt));
        let outcome = Outcome::Delivered { route, attempts: sent.attempts, rtt };
        self.settle(ix, &sent.pending, outcome);
    }

    /// A message with a seq ends without delivery; the floor rises past it.
    pub(super) fn give_up(&mut self, ix: FlowIx, seq: u64, reason: FailReason) {
        let Some(sent) = self.flows[ix.0].forget(seq) else { return };
        if let Place::Flying(id) = sent.place {
            self.flows[ix.0].spend_room(&sent.pending.payload);
            self.landed(id);
        }
        let maybe_delivered = sent.maybe_delivered();
        self.count_failed(self.flows[ix.0].datacenter, reason);
        self.settle(ix, &sent.pending, failed(reason, maybe_delivered));
    }

    /// A frame could not be made: what it was to carry fails, in this attempt unsent.
    pub fn give_up_attempt(&mut self, id: u64) {
        let entries = self.attempts.get(id).map(|attempt| attempt.entries.clone()).unwrap_or_default();
        self.end_attempt(id, Ended::Unsent);
        for (ix, run) in entries {
            for seq in run.seqs() {
                self.give_up(ix, seq, FailReason::TooLarge);
            }
        }
    }

    /// A message that has no seq yet ends: it certainly was not delivered.
    pub(super) fn give_up_queued(&mut self, ix: FlowIx, pending: &Pending, reason: FailReason) {
        self.count_failed(self.flows[ix.0].datacenter, reason);
        self.settle(ix, pending, failed(reason, false));
    }

    pub(super) fn count_failed(&mut self, site: usize, reason: FailReason) {
        *self.sites[site].stats.failed.entry(reason.label()).or_default() += 1;
    }

    pub(super) fn settle(&mut self, ix: FlowIx, pending: &Pending, outcome: Outcome) {
        self.flows[ix.0].deadlines.remove(pending.expires_at, pending.group);
        self.destination_bytes[ix.0] -= pending.payload.len() + MESSAGE_OVERHEAD_BYTES;
        self.decide(pending.ticket, pending.index, outcome);
    }

    pub(super) fn decide(&mut self, ticket: Ticket, index: usize, outcome: Outcome) {
        let Some(open) = self.batches.get_mut(&ticket) else { return };
        open.undecided -= 1;
        #[cfg(feature = "sim")]
        let leaks = self.leaks > 0 && ticket.0.is_multiple_of(self.leaks);
        #[cfg(not(feature = "sim"))]
        let leaks = false;
        if !leaks {
            self.budget.release(open.datacenter, &mut open.charge, index);
        }
        self.sites[open.datacenter].pending_messages -= 1;
        let last = open.undecided == 0;
        self.decided.push_back(Decided { ticket, index, outcome, last });
        if last {
            self.batches.remove(&ticket);
        }
    }

    /// Everything undecided fails.
    pub fn close(&mut self) {
        for ix in (0..self.flows.len()).map(FlowIx) {
            self.end_all(ix, FailReason::Closed);
        }
    }

    /// Everything undecided of one flow fails.
    pub(super) fn end_all(&mut self, ix: FlowIx, reason: FailReason) {
        for id in self.flows[ix.0].queue.iter().map(|pending| pending.id).collect::<Vec<_>>() {
            if let Some(pending) = self.flows[ix.0].unqueue(id) {
                self.give_up_queued(ix, &pending, reason);
            }
        }
        for seq in self.flows[ix.0].sent.iter().map(|(seq, _)| seq).collect::<Vec<_>>() {
            self.give_up(ix, seq, reason);
        }
    }

    /// Nothing is undecided.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.batches.is_empty()
    }
}

pub(super) fn failed(reason: FailReason, maybe_delivered: bool) -> Outcome {
    Outcome::Failed { reason, maybe_delivered }
}
