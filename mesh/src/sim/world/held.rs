//! What the leader read that destinations have: nothing of that is sent again.

use super::*;
use crate::proto::wire::{Ack, AckFlow, Flow, Run};

/// A message: whom it is for, on which lane, and its number there.
type Message = (NodeId, Lane, u64);

/// What destinations said to the leader, of what it sent them.
#[derive(Default)]
pub(super) struct Had {
    /// To whom each was written last, of which nothing else is known.
    sent: BTreeMap<Message, NodeIx>,
    /// In which lives of the leader and of its destination each is held or decided.
    had: BTreeMap<Message, (Incarnation, Incarnation)>,
}

impl Had {
    /// A run is written to this peer. Gives what of it its destination has, as the leader read before.
    pub(super) fn write(&mut self, flow: &Flow, lane: Lane, run: &Run, to: NodeIx) -> Vec<u64> {
        let lives = (flow.origin_incarnation, flow.destination_incarnation);
        let seqs = run.first.0..run.first.0 + u64::from(run.count);
        seqs.filter(|seq| {
            let message = (flow.destination.clone(), lane, *seq);
            let again = self.had.remove(&message) == Some(lives);
            self.sent.insert(message, to);
            again
        })
        .collect()
    }

    /// The leader reads an ack over this connection to a peer. What is decided it believes of all whom it listens to; what is held, of the
    /// destination itself, and of the proxy that had the message last. The way back is another one, though it may lead over the same peer.
    pub(super) fn read(
        &mut self,
        node: &mut Node,
        (conn, by, peer): (ConnId, NodeIx, &NodeId),
        topology: &Topology,
        ack: &Ack,
    ) {
        for entry in &ack.flows {
            let row = Lane::from_index(entry.lane)
                .and_then(|lane| Some((lane, node.flow_out(conn, lane, entry.flow)?)));
            let Some((lane, flow)) = row else { continue };
            let site = |node| topology.node(node).map(|spec| &spec.datacenter);
            let serves = topology.node(peer).is_some_and(|spec| spec.roles.proxy)
                && site(peer) == site(&flow.destination);
            let own = *peer == flow.destination;
            if own || serves {
                self.read_entry(&flow, lane, entry, (by, own));
            }
        }
    }

    fn read_entry(&mut self, flow: &Flow, lane: Lane, entry: &AckFlow, (by, own): (NodeIx, bool)) {
        let lives = (flow.origin_incarnation, entry.incarnation);
        let of = |seq| (flow.destination.clone(), lane, seq);
        let has = |seq: u64, last: NodeIx| seq <= entry.decided || entry.holds(seq) && (own || last == by);
        let within = self.sent.range(of(0)..=of(u64::MAX)).filter(|((.., seq), last)| has(*seq, **last));
        for message in within.map(|(message, _)| message.clone()).collect::<Vec<_>>() {
            self.sent.remove(&message);
            self.had.insert(message, lives);
        }
    }
}

impl World {
    /// A batch leaves the leader. What is doubted, because another one says that it is not there, it sends again: without a lie nobody
    /// says so. What a proxy that lies said, and the leader did not believe, is not told apart here.
    pub(super) fn check_had(&mut self, end: End, batch: &SealedBatch) {
        let Some(to) = self.wire.other(end).map(|end| end.node) else { return };
        let Some(node) = self.hosts[LEADER].node.as_mut() else { return };
        let mut again = Vec::new();
        for run in &batch.envelope.runs {
            let Some(flow) = node.flow_out(end.conn, batch.lane, run.flow) else { continue };
            let seqs = self.had.write(&flow, batch.lane, run, to);
            again.extend(seqs.into_iter().map(|seq| (seq, flow.destination.clone())));
        }
        if again.is_empty()
            || self.liar
            || node.stats().verdicts.get("false_hold").is_some_and(|times| *times > 0)
        {
            return;
        }
        for (seq, destination) in again {
            let text = format!("{seq} on {} was sent again, though {destination} has it", batch.lane);
            self.checker.broken(text);
        }
    }
}
