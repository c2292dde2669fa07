//! A sender under tight budgets: whatever is sent and whatever its peers answer, every batch ends once, its bytes are given
//! back, and no budget is ever exceeded.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use trunkline_codec::Payload;
use trunkline_mesh::id::{Datacenter, Incarnation, Lane};
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::proto::client::Decided;
use trunkline_mesh::proto::frame::{FrameType, Received, control_frame};
use trunkline_mesh::proto::node::{ConnId, RejectReason};
use trunkline_mesh::proto::wire::{AckFlow, Close, CloseCode, ROOM_UNKNOWN};
use trunkline_mesh::settings::{MESSAGE_OVERHEAD_BYTES, Settings};

use super::shell::{Peer, Shell, ack_frame, id, refused};

/// One message of a batch: destination, lane, slot, own bytes, shared segments, deadline.
#[derive(Clone, Debug)]
struct Spec {
    destination: usize,
    control: bool,
    slot: Option<u32>,
    bytes: usize,
    shared: Vec<usize>,
    deadline: u16,
}

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<Spec>),
    /// Everything that peers were sent arrives and is acked, except runs that begin at every eighth seq below this one.
    Serve(u64),
    /// A peer acks any numbers: lane, life, decided, held, refused.
    Ack(usize, u8, u64, u64, Vec<u64>, Vec<(u64, u32, u8)>),
    /// ms.
    Time(u16),
    Lose(usize, Lane),
    /// A peer reads what it is sent, or does not.
    Read(usize, bool),
    /// All dials that wait succeed.
    Connect,
    Drain(usize),
    Restart(usize),
}

const NAMES: [&str; 4] = ["m", "m2", "nobody", "p"];
const PEERS: [&str; 4] = ["p", "p2", "m", "m2"];

fn spec() -> impl Strategy<Value = Spec> {
    (
        prop_oneof![4 => 0..2_usize, 1 => 0..4_usize],
        any::<bool>(),
        prop::option::weighted(0.7, 0..2_u32),
        prop_oneof![0..20_usize, 0..900_usize, 0..3200_usize],
        prop::collection::vec(0..3_usize, 0..3),
        prop_oneof![3 => Just(3000_u16), 1 => 0..3000_u16],
    )
        .prop_map(|(destination, control, slot, bytes, shared, deadline)| Spec {
            destination,
            control,
            slot,
            bytes,
            shared,
            deadline,
        })
}

fn step() -> impl Strategy<Value = Step> {
    let number = || prop_oneof![Just(0_u64), 0..8_u64, 0..40_u64, Just(u64::MAX)];
    let life = || prop_oneof![4 => Just(100_u64), 1 => Just(0), 1 => 99..103_u64];
    let ranges = || prop::collection::vec((number(), 0..9_u32, 0..13_u8), 0..3);
    let peer = || 0..PEERS.len();
    prop_oneof![
        6 => prop::collection::vec(spec(), 0..6).prop_map(Step::Send),
        2 => (0..8_u64).prop_map(Step::Serve),
        2 => (peer(), 0..2_u8, life(), number(), prop::collection::vec(any::<u64>(), 0..2), ranges())
            .prop_map(|(peer, lane, life, decided, held, ranges)| Step::Ack(peer, lane, life, decided, held, ranges)),
        2 => prop_oneof![0..5_u16, 0..300_u16, 0..2500_u16].prop_map(Step::Time),
        1 => (peer(), 0..2_usize).prop_map(|(peer, lane)| Step::Lose(peer, Lane::ALL[lane])),
        2 => (peer(), any::<bool>()).prop_map(|(peer, reads)| Step::Read(peer, reads)),
        2 => Just(Step::Connect),
        1 => peer().prop_map(Step::Drain),
        1 => peer().prop_map(Step::Restart),
    ]
}

struct Model {
    shell: Shell,
    room: usize,
    links: BTreeMap<&'static str, [ConnId; 2]>,
    lives: BTreeMap<String, u64>,
    /// Destinations by row.
    rows: BTreeMap<(ConnId, u32), String>,
    /// Seqs that arrived or were given up, by destination and lane.
    arrived: BTreeMap<(String, usize), BTreeSet<u64>>,
    /// Batches under way and their messages.
    open: BTreeMap<u64, usize>,
}

impl Model {
    fn life(&self, name: &str) -> u64 {
        self.lives.get(name).copied().unwrap_or(100)
    }

    fn conns(&self, peer: usize) -> Option<[ConnId; 2]> {
        let closed = |conn: &ConnId| self.shell.closed.contains_key(conn);
        self.links.get(PEERS[peer]).copied().filter(|conns| !conns.iter().any(closed))
    }

    fn connect(&mut self) {
        let closed = &self.shell.closed;
        self.shell.dials.retain(|(conn, _, _)| !closed.contains_key(conn));
        for (peer, name) in PEERS.into_iter().enumerate() {
            let dials = self.shell.dials.iter().filter(|(_, dialled, _)| *dialled == id(name)).count();
            if dials == 2 && self.conns(peer).is_none() {
                // One of them takes less than what is sent.
                let frame_bytes_max = if name == "p2" { 64 * 1024 + 1500 } else { 16 << 20 };
                let conns =
                    self.shell.link_out(&Peer { life: self.life(name), frame_bytes_max, ..Peer::new(name) });
                self.links.insert(name, conns);
            }
        }
    }

    fn serve(&mut self, lost: u64) {
        for peer in 0..PEERS.len() {
            let Some(conns) = self.conns(peer) else { continue };
            let mut rows = BTreeSet::new();
            for (lane, conn) in conns.into_iter().enumerate() {
                for frame in self.shell.sent(conn) {
                    match frame {
                        Received::Roster(roster) => {
                            let names = roster.flows.into_iter().map(|flow| flow.destination.to_string());
                            self.rows.extend((roster.first..).map(|row| (conn, row)).zip(names));
                        }
                        Received::Batch(envelope, _) => {
                            for run in envelope.runs.iter().filter(|run| run.first.0 % 8 >= lost) {
                                let key = (self.rows[&(conn, run.flow)].clone(), lane);
                                let arrived = self.arrived.entry(key).or_default();
                                arrived.extend(1..run.first.0 - run.floor_back);
                                arrived.extend(run.first.0..run.first.0 + u64::from(run.count));
                                rows.insert((lane, run.flow));
                            }
                        }
                        _ => {}
                    }
                }
            }
            let entry = |(lane, flow): (usize, u32)| {
                let name = self.rows[&(conns[lane], flow)].clone();
                let incarnation = Incarnation(self.life(&name));
                let arrived = &self.arrived[&(name, lane)];
                let decided = (1..).take_while(|seq| arrived.contains(seq)).last().unwrap_or(0);
                let bits = (0..64).filter(|bit| arrived.contains(&(decided + 1 + bit)));
                let held = vec![bits.fold(0, |word, bit| word | 1 << bit)];
                let lane = u8::try_from(lane).unwrap();
                AckFlow {
                    lane,
                    flow,
                    incarnation,
                    decided,
                    room_kib: ROOM_UNKNOWN,
                    held,
                    refused: Vec::new(),
                }
            };
            let flows = rows.into_iter().map(entry).collect();
            self.shell.feed(conns[0], &ack_frame(flows));
        }
    }

    fn send(&mut self, specs: &[Spec]) {
        let shared = [1, 2, 3].map(|fill| Bytes::from(vec![fill; 400]));
        let mut batch = Batch::to(Datacenter::new("eu").unwrap());
        batch.extend(specs.iter().map(|spec| {
            let own = Bytes::from(vec![9; spec.bytes]);
            let segments = std::iter::once(own).chain(spec.shared.iter().map(|of| shared[*of].clone()));
            let message = Message::new(id(NAMES[spec.destination]), segments.collect::<Payload>())
                .lane(Lane::ALL[usize::from(!spec.control)])
                .deadline(Duration::from_millis(u64::from(spec.deadline)));
            spec.slot.into_iter().fold(message, Message::slot)
        }));
        match self.shell.node.submit(batch, self.shell.now) {
            // Of nothing there is nothing to tell.
            Ok(_) if specs.is_empty() => {}
            Ok(ticket) => assert_eq!(self.open.insert(ticket.0, specs.len()), None),
            Err(rejected) => {
                let full =
                    matches!(rejected.reason, RejectReason::Busy { .. } | RejectReason::OverBudget { .. });
                assert!(full, "{:?}", rejected.reason);
            }
        }
        self.check();
        self.shell.drain();
    }

    fn check(&mut self) {
        while let Some(Decided { ticket, last, .. }) = self.shell.node.poll_decided() {
            let undecided = self.open.get_mut(&ticket.0).expect("a batch ends once, with all its outcomes");
            *undecided -= 1;
            assert_eq!(last, *undecided == 0);
            if last {
                self.open.remove(&ticket.0);
            }
        }
        let status = self.shell.node.status(self.shell.now);
        let row = status.datacenters.iter().find(|row| row.name.as_str() == "eu").unwrap();
        let (queued, pending) =
            (usize::try_from(row.queued_bytes).unwrap(), usize::try_from(row.pending_messages).unwrap());
        assert!(queued <= self.room, "{queued} of {}", self.room);
        assert!(queued >= pending * MESSAGE_OVERHEAD_BYTES && (queued > 0) == (pending > 0));
        assert_eq!(pending, self.open.values().sum::<usize>());
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send(specs) => self.send(&specs),
            Step::Serve(lost) => self.serve(lost),
            Step::Ack(peer, lane, life, decided, held, ranges) => {
                let Some(conns) = self.conns(peer) else { return };
                let ranges = ranges.iter().map(|(first, count, reason)| refused(*first, *count, *reason));
                let ranges: Vec<_> = ranges.collect();
                let entry = |flow| AckFlow {
                    lane,
                    flow,
                    incarnation: Incarnation(life),
                    decided,
                    room_kib: ROOM_UNKNOWN,
                    held: held.clone(),
                    refused: ranges.clone(),
                };
                self.shell.feed(conns[0], &ack_frame((0..3).map(entry).collect()));
            }
            Step::Time(ms) => self.shell.advance(Duration::from_millis(u64::from(ms))),
            Step::Lose(peer, lane) => {
                let Some(conns) = self.conns(peer) else { return };
                self.shell.node.handle_closed(conns[lane.index()], self.shell.now);
                self.shell.drain();
            }
            Step::Read(peer, reads) => {
                for conn in self.conns(peer).into_iter().flatten() {
                    if reads {
                        self.shell.unread.remove(&conn);
                    } else {
                        self.shell.unread.insert(conn);
                    }
                }
            }
            Step::Connect => self.connect(),
            Step::Drain(peer) => {
                let Some(conns) = self.conns(peer) else { return };
                let close = Close { code: CloseCode::Draining as u16 };
                self.shell.feed(conns[0], &control_frame(FrameType::Close, Lane::Control, &close));
            }
            Step::Restart(peer) => {
                let life = self.life(PEERS[peer]) + 1;
                self.lives.insert(PEERS[peer].to_owned(), life);
                self.arrived.retain(|(name, _), _| name != PEERS[peer]);
                let Some(conns) = self.conns(peer) else { return };
                self.shell.node.handle_closed(conns[0], self.shell.now);
                self.shell.drain();
            }
        }
        self.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_batch_ends_once_and_no_budget_is_exceeded_whatever_peers_do(
        steps in prop::collection::vec(step(), 1..60),
        room in 5000..12_000_usize,
        for_one in 3500..4600_usize,
    ) {
        let settings = Settings {
            message_bytes_max: 3500,
            run_bytes_max: 1000,
            destination_budget_bytes: for_one,
            datacenter_budget_bytes: room,
            process_budget_bytes: room,
            ..Settings::default()
        };
        let mut model = Model {
            shell: Shell::with("o", 0, settings),
            room,
            links: BTreeMap::new(),
            lives: BTreeMap::new(),
            rows: BTreeMap::new(),
            arrived: BTreeMap::new(),
            open: BTreeMap::new(),
        };
        model.connect();
        steps.into_iter().for_each(|step| model.step(step));
        for _ in 0..8 {
            model.shell.advance(Duration::from_millis(500));
            model.check();
        }
        prop_assert!(model.open.is_empty(), "past all deadlines");
    }
}

/// Nothing of it is ever undecided.
#[test]
fn a_batch_of_nothing_is_taken_and_is_over() {
    let mut shell = Shell::with("o", 0, Settings::default());
    shell.node.submit(Batch::to(Datacenter::new("eu").unwrap()), shell.now).unwrap();
    assert!(shell.outcome().is_none());
    let status = shell.node.status(shell.now);
    assert!(status.datacenters.iter().all(|row| (row.queued_bytes, row.pending_messages) == (0, 0)));
}
