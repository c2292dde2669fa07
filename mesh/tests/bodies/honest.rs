//! Peers that keep to every rule, beside one that does not: what they send arrives, and what they are sent is right.

use std::collections::{BTreeMap, BTreeSet};

use trunkline_codec::Payload;
use trunkline_mesh::id::{Lane, NodeId};
use trunkline_mesh::proto::frame::Received;
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::run::{message_head, split_run};
use trunkline_mesh::proto::wire::{AckFlow, Flow};

use super::shell::{Peer, Shell, ack_frame, batch_around, entry, flow, roster_frame, run};

/// What the honest origin's message of this seq says.
pub(crate) fn text(seq: u64) -> Vec<u8> {
    format!("the {seq}th word").into_bytes()
}

/// Origin `o2`, which sends single messages to one destination and asks again for what was refused.
pub(crate) struct Origin {
    pub(crate) conns: [ConnId; 2],
    sent: u64,
    decided: u64,
}

impl Origin {
    pub(crate) fn link(shell: &mut Shell, to: &str) -> Self {
        let conns = shell.link_in(&Peer::new("o2"));
        shell.feed(conns[1], &roster_frame(Lane::Bulk, 0, vec![flow("o2", 100, to)]));
        Self { conns, sent: 0, decided: 0 }
    }

    pub(crate) fn send(&mut self, shell: &mut Shell) {
        self.sent += 1;
        self.attempt(shell, self.sent);
    }

    fn attempt(&self, shell: &mut Shell, seq: u64) {
        let payload = [message_head(7, text(seq).len()), text(seq).into()].into_iter().collect::<Payload>();
        let run = run(0, seq, 1, seq - self.decided - 1);
        shell.feed(self.conns[1], &batch_around(Lane::Bulk, vec![run], vec![payload]));
    }

    /// Reads its acks.
    pub(crate) fn hear(&mut self, shell: &mut Shell) {
        for entry in shell.acks(self.conns[0]) {
            assert_eq!((entry.lane, entry.flow), (1, 0), "no other row was announced");
            assert!(entry.decided <= self.sent, "{entry:?} of {} messages", self.sent);
            self.decided = self.decided.max(entry.decided);
        }
    }

    /// Sends again what is not decided, one message after the other.
    pub(crate) fn finish(&mut self, shell: &mut Shell, mut between: impl FnMut(&mut Shell)) {
        for seq in self.decided + 1..=self.sent {
            between(shell);
            self.attempt(shell, seq);
        }
        between(shell);
        self.hear(shell);
        assert_eq!(self.decided, self.sent, "everything is decided in the end");
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }
}

/// Messages of one flow by seq, and the floor.
#[derive(Default)]
pub(crate) struct Arrived {
    pub(crate) messages: BTreeMap<u64, Vec<u8>>,
    floor: u64,
}

impl Arrived {
    fn decided(&self) -> u64 {
        let below = self.floor.saturating_sub(1);
        (below + 1..).take_while(|seq| self.messages.contains_key(seq)).last().unwrap_or(below)
    }
}

/// A member, or a proxy together with all members behind it: keeps what arrives and says so.
pub(crate) struct Server {
    pub(crate) conns: [ConnId; 2],
    rows: BTreeMap<(usize, u32), Flow>,
    pub(crate) arrived: BTreeMap<(NodeId, usize), Arrived>,
}

impl Server {
    pub(crate) fn link(shell: &mut Shell, name: &'static str) -> Self {
        let conns = shell.link_out(&Peer::new(name));
        Self { conns, rows: BTreeMap::new(), arrived: BTreeMap::new() }
    }

    /// Takes in what one origin sent, and acks it.
    pub(crate) fn serve(&mut self, shell: &mut Shell, origin: &NodeId) {
        let mut acked = BTreeSet::new();
        for (lane, conn) in self.conns.into_iter().enumerate() {
            for received in shell.sent(conn) {
                match received {
                    Received::Roster(roster) => {
                        let rows = (roster.first..).map(|row| (lane, row)).zip(roster.flows);
                        self.rows.extend(rows);
                    }
                    Received::Batch(envelope, frame) => {
                        for (index, run) in envelope.runs.iter().enumerate() {
                            let flow = &self.rows[&(lane, run.flow)];
                            if flow.origin != *origin {
                                continue;
                            }
                            let messages = split_run(frame.message(index), run.count).expect("a right run");
                            let key = (flow.destination.clone(), lane);
                            let arrived = self.arrived.entry(key).or_default();
                            arrived.floor = arrived.floor.max(run.floor().expect("a floor").0);
                            let texts = messages.iter().map(|message| message.payload.to_vec());
                            arrived.messages.extend((run.first.0..).zip(texts));
                            acked.insert((lane, run.flow));
                        }
                    }
                    _ => {}
                }
            }
        }
        let entries = acked.into_iter().map(|(lane, row)| self.entry(lane, row)).collect::<Vec<_>>();
        if !entries.is_empty() {
            shell.feed(self.conns[0], &ack_frame(entries));
        }
    }

    fn entry(&self, lane: usize, row: u32) -> AckFlow {
        let key = (self.rows[&(lane, row)].destination.clone(), lane);
        let arrived = &self.arrived[&key];
        let decided = arrived.decided();
        let bits = (0..64).filter(|bit| arrived.messages.contains_key(&(decided + 1 + bit)));
        let held: Vec<u64> =
            Some(bits.fold(0, |word, bit| word | 1 << bit)).filter(|word| *word != 0).into_iter().collect();
        AckFlow { lane: u8::try_from(lane).unwrap(), held, ..entry(row, 100, decided) }
    }
}
