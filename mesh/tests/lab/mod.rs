//! A small mesh in virtual time: machines, and between them streams with a delay and, between datacenters, a rate. Nothing
//! goes wrong here but what a test does. One run is one sequence of events: what is measured is exact.
#![allow(dead_code)] // Every test binary uses its own part.

mod lines;
mod lives;
pub(crate) mod record;
mod window;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use trunkline_codec::Options;
use trunkline_mesh::id::{ClusterId, Datacenter, Incarnation, Lane, NodeId};
use trunkline_mesh::message::{Batch, Delivery, Outcome};
use trunkline_mesh::proto::client::{Decided, Ticket};
use trunkline_mesh::proto::coder::BatchEncoder;
use trunkline_mesh::proto::frame::{FrameReader, Received, Written};
use trunkline_mesh::proto::node::{Action, ConnId, Node, NodeInit, Rejected};
use trunkline_mesh::proto::time::Micros;
use trunkline_mesh::proto::wire::Offer;
use trunkline_mesh::settings::Settings;
use trunkline_mesh::stats::Stats;
use trunkline_mesh::topology::{NodeSpec, Roles, Topology};

pub(crate) use lines::Line;
use record::{Call, Record, init};

/// What a connection's kernel takes in ahead of the wire: a write is done when no more than this waits. The shell's
/// `TCP_NOTSENT_LOWAT`.
const KERNEL_BYTES: usize = 128 * 1024;

/// What a line carries of one stream before it is another's turn.
const PACKET_BYTES: usize = 1500;

/// A connection at one node.
type End = (usize, ConnId);

struct Conn {
    peer: Option<End>,
    reader: FrameReader,
    buffer: BytesMut,
    encoder: BatchEncoder,
    writing: Option<(Vec<Written>, usize)>,
    /// Written, and not yet on the line.
    queued: VecDeque<Bytes>,
    queued_bytes: usize,
    arrives_at: Micros,
    /// Of a write, what the kernel has no room for; and what it took and the other end's has not.
    untaken: Bytes,
    unacked: usize,
    /// Of a write that blocks, how much has gone since its kernel was last said to have taken some.
    drained: usize,
}

struct Host {
    id: NodeId,
    datacenter: Datacenter,
    node: Option<Node>,
    conns: BTreeMap<ConnId, Conn>,
    alarm: Micros,
    /// Its application takes nothing while this holds.
    deaf: bool,
}

#[derive(Debug)]
enum Event {
    Syn { from: End, to: usize },
    Accepted { from: End, to: usize },
    Dialed { from: End, to: Option<End> },
    Arrive { to: End, bytes: Bytes },
    Fin { to: End },
    Acked { from: End, bytes: usize },
    Wrote(End),
    Serve(Pair),
    Alarm(usize),
}

impl Event {
    /// Whose machine it is for, if it is for one.
    fn host(&self) -> Option<usize> {
        match self {
            Self::Syn { to, .. } | Self::Accepted { to, .. } => Some(*to),
            Self::Dialed { from: (host, _), .. }
            | Self::Arrive { to: (host, _), .. }
            | Self::Fin { to: (host, _) }
            | Self::Acked { from: (host, _), .. }
            | Self::Wrote((host, _))
            | Self::Alarm(host) => Some(*host),
            Self::Serve(_) => None,
        }
    }
}

type Pair = (Datacenter, Datacenter);

/// What one node received from another.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) bytes: u64,
    pub(crate) batches: u64,
    /// Bytes of the batches, their headers and envelopes included.
    pub(crate) batch_bytes: u64,
    pub(crate) runs: u64,
    pub(crate) acks: u64,
    /// Batches without runs: they say what has arrived.
    pub(crate) news: u64,
    /// Reads of the socket that brought something: what was written at once comes at once.
    pub(crate) reads: u64,
}

/// The mesh.
pub(crate) struct Lab {
    pub(crate) now: Micros,
    pub(crate) topology: Arc<Topology>,
    settings: Settings,
    hosts: Vec<Host>,
    lines: BTreeMap<Pair, Line>,
    /// How long a byte is under way inside of one.
    pub(crate) local: Duration,
    queue: BTreeMap<(Micros, u64), Event>,
    next_event: u64,
    /// Streams with something for a line, in turn.
    turns: BTreeMap<Pair, VecDeque<End>>,
    busy: BTreeSet<Pair>,
    /// What applications took: when, who, what.
    pub(crate) delivered: Vec<(Micros, NodeId, Delivery)>,
    pub(crate) outcomes: BTreeMap<(usize, Ticket), (Micros, Vec<Outcome>)>,
    /// Of batches of which not all is decided, by the message's place.
    pub(crate) decided: BTreeMap<(usize, Ticket), BTreeMap<usize, Outcome>>,
    /// By (receiver, sender).
    pub(crate) received: BTreeMap<(NodeId, NodeId), Traffic>,
    /// Datacenters between which nothing passes. What TCP took in arrives when it does again.
    cut: BTreeSet<Pair>,
    /// Nodes between which nothing passes.
    parted: BTreeSet<(usize, usize)>,
    held: Vec<Event>,
    /// Nodes that do nothing any more, as after SIGSTOP: their kernels take in what comes.
    stopped: BTreeSet<usize>,
    /// What a connection's kernel takes in ahead of the wire.
    pub(crate) kernel_bytes: usize,
    /// Dials that are under way and not given up.
    dialling: BTreeSet<End>,
    /// What a connection takes between two datacenters before the other end's kernel has had some of it; `None`: anything.
    pub(crate) window_bytes: Option<usize>,
    /// The dialled ends of connections of each lane.
    lanes: BTreeMap<End, Lane>,
    /// Ends that nothing reaches any more, while other connections pass.
    holes: BTreeSet<End>,
    /// Packets that are lost between datacenters, in a million, as drawn. What TCP sends again comes a round trip later; in one
    /// case in four nothing follows that would tell it of the loss soon, and it waits for 200 ms more.
    pub(crate) losses: Option<(fastrand::Rng, u32)>,
    /// Connections that a node accepts per second; the others wait, and for ever where it is none.
    pub(crate) accepts_per_second: Option<u64>,
    accepts_at: BTreeMap<usize, Micros>,
    /// How much longer a byte is under way from or to a node than its datacenters say.
    pub(crate) farther: BTreeMap<usize, Duration>,
    /// The time that empty runs were given, ms, as they arrived.
    pub(crate) empty_runs: Vec<u32>,
    /// What is done to one node, while it is asked for.
    pub(crate) record: Option<Record>,
}

pub(crate) fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(crate) fn dc(name: &str) -> Datacenter {
    Datacenter::new(name).unwrap()
}

impl Lab {
    /// Nodes as (id, datacenter, roles, what it offers if not what this build does). Between datacenters a byte takes
    /// `delay`, inside 100 µs.
    pub(crate) fn new(
        nodes: &[(&str, &str, Roles, Option<Offer>)],
        settings: &Settings,
        delay: Duration,
    ) -> Self {
        Self::with_clocks(nodes, settings, delay, |_| 0)
    }

    /// The same, of nodes whose clocks are ahead by so many µs.
    pub(crate) fn with_clocks(
        nodes: &[(&str, &str, Roles, Option<Offer>)],
        settings: &Settings,
        delay: Duration,
        ahead_us: impl Fn(&str) -> u64,
    ) -> Self {
        let specs = nodes.iter().zip(1..).map(|((name, datacenter, roles, _), port)| NodeSpec {
            id: id(name),
            datacenter: dc(datacenter),
            roles: *roles,
            address: Some(([127, 0, 0, 1], port).into()),
        });
        let topology = Arc::new(Topology::new(ClusterId::new("lab").unwrap(), specs).unwrap());
        let mut lines = BTreeMap::new();
        for (from, to) in nodes.iter().flat_map(|from| nodes.iter().map(move |to| (from.1, to.1))) {
            if from != to {
                lines.insert((dc(from), dc(to)), Line { delay, rate: None });
            }
        }
        let now = Micros(1_000_000);
        let hosts = nodes.iter().zip(1..).map(|((name, datacenter, _, offer), seed)| {
            let init = init(&topology, settings, name, seed, ahead_us(name));
            let mut node = Node::new(init, now).unwrap();
            if let Some(offer) = offer {
                node.set_offer(offer.clone());
            }
            Host {
                id: id(name),
                datacenter: dc(datacenter),
                node: Some(node),
                conns: BTreeMap::new(),
                alarm: Micros::NEVER,
                deaf: false,
            }
        });
        let mut lab = Self {
            now,
            topology: Arc::clone(&topology),
            settings: settings.clone(),
            hosts: hosts.collect(),
            lines,
            local: Duration::from_micros(100),
            queue: BTreeMap::new(),
            next_event: 0,
            turns: BTreeMap::new(),
            busy: BTreeSet::new(),
            delivered: Vec::new(),
            outcomes: BTreeMap::new(),
            decided: BTreeMap::new(),
            received: BTreeMap::new(),
            cut: BTreeSet::new(),
            parted: BTreeSet::new(),
            held: Vec::new(),
            stopped: BTreeSet::new(),
            kernel_bytes: KERNEL_BYTES,
            losses: None,
            dialling: BTreeSet::new(),
            window_bytes: None,
            lanes: BTreeMap::new(),
            holes: BTreeSet::new(),
            accepts_per_second: None,
            accepts_at: BTreeMap::new(),
            farther: BTreeMap::new(),
            empty_runs: Vec::new(),
            record: None,
        };
        for host in 0..lab.hosts.len() {
            lab.pump(host);
        }
        lab
    }

    pub(crate) fn index(&self, name: &str) -> usize {
        self.hosts.iter().position(|host| host.id.as_str() == name).unwrap()
    }

    /// Connections that a node has.
    pub(crate) fn connections(&self, name: &str) -> usize {
        self.hosts[self.index(name)].conns.len()
    }

    pub(crate) fn node(&mut self, name: &str) -> &mut Node {
        let index = self.index(name);
        self.hosts[index].node.as_mut().unwrap()
    }

    pub(crate) fn is_alive(&self, name: &str) -> bool {
        self.hosts[self.index(name)].node.is_some()
    }

    pub(crate) fn stats(&mut self, name: &str) -> Stats {
        self.node(name).stats()
    }

    pub(crate) fn submit(&mut self, name: &str, batch: Batch) -> Result<Ticket, Rejected> {
        let (index, now) = (self.index(name), self.now);
        if let Some(record) = self.record_of(index) {
            record.note(now, Call::Submit(batch.clone()));
        }
        let ticket = self.node(name).submit(batch, now);
        self.pump(index);
        ticket
    }

    /// Begins a round trip.
    pub(crate) fn ping(&mut self, name: &str, node: &str) {
        let (index, now) = (self.index(name), self.now);
        self.node(name).ping(&id(node), now).unwrap();
        self.pump(index);
    }

    /// As a reload of its file.
    pub(crate) fn set_settings(&mut self, name: &str, settings: &Settings) {
        let (index, now) = (self.index(name), self.now);
        self.node(name).set_settings(settings, now);
        self.pump(index);
    }

    /// The application of a member takes nothing from now on, or again.
    pub(crate) fn set_deaf(&mut self, name: &str, deaf: bool) {
        let index = self.index(name);
        self.hosts[index].deaf = deaf;
        self.pump(index);
    }

    /// The application takes one message, though it is deaf else.
    pub(crate) fn take_one(&mut self, name: &str) -> bool {
        let (index, now) = (self.index(name), self.now);
        let taken = self.node(name).poll_delivery(now);
        let some = taken.is_some();
        self.delivered.extend(taken.map(|delivery| (now, id(name), delivery)));
        self.pump(index);
        some
    }

    /// All that happens within this time.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= until) {
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.handle(event);
        }
        self.now = until;
    }

    /// Runs until the condition holds; fails after `most`.
    pub(crate) fn run_until(&mut self, what: &str, most: Duration, mut holds: impl FnMut(&mut Self) -> bool) {
        let end = self.now + most;
        while !holds(self) {
            assert!(self.now < end, "not within {most:?}: {what}");
            self.run_for(Duration::from_micros(100));
        }
    }

    fn at(&mut self, at: Micros, event: Event) {
        self.next_event += 1;
        self.queue.insert((at.max(self.now), self.next_event), event);
    }

    fn conn(&mut self, end: End) -> Option<&mut Conn> {
        self.hosts[end.0].conns.get_mut(&end.1)
    }

    fn handle(&mut self, event: Event) {
        let now = self.now;
        if self.is_cut_off(&event) || event.host().is_some_and(|host| self.stopped.contains(&host)) {
            return self.held.push(event);
        }
        match event {
            Event::Syn { from, .. } if !self.dialling.contains(&from) => {}
            Event::Syn { .. } if self.accepts_per_second == Some(0) => {}
            Event::Syn { from, to } => {
                if let Some(rate) = self.accepts_per_second {
                    let next = self.accepts_at.entry(to).or_default();
                    if *next > now {
                        let at = *next;
                        *next = at + Duration::from_micros(1_000_000 / rate);
                        return self.at(at, Event::Accepted { from, to });
                    }
                    *next = now + Duration::from_micros(1_000_000 / rate);
                }
                self.handle(Event::Accepted { from, to });
            }
            Event::Accepted { from, .. } if !self.dialling.contains(&from) => {}
            Event::Accepted { from, to } => {
                let accepted = self.hosts[to]
                    .node
                    .as_mut()
                    .and_then(|node| node.handle_accepted(Ipv4Addr::LOCALHOST.into(), now).ok());
                let end = accepted.map(|conn| (to, conn));
                if let Some((_, conn)) = end {
                    self.hosts[to].conns.insert(conn, new_conn(Some(from)));
                    self.pump(to);
                }
                let delay = self.line(&self.pair(to, from.0)).delay;
                self.at(now + delay, Event::Dialed { from, to: end });
            }
            Event::Dialed { from, to } => {
                if !self.dialling.remove(&from) {
                    if let Some(to) = to {
                        self.at(now, Event::Fin { to });
                    }
                    return;
                }
                let Some(node) = self.hosts[from.0].node.as_mut() else { return };
                if to.is_some() {
                    node.handle_dialed(from.1, now);
                    self.hosts[from.0].conns.insert(from.1, new_conn(to));
                    self.note(from.0, Call::Dialed(from.1));
                } else {
                    node.handle_dial_failed(from.1, now);
                }
                self.pump(from.0);
            }
            Event::Arrive { to, bytes } => self.arrive(to, &bytes),
            Event::Acked { from, bytes } => self.acked(from, bytes),
            Event::Fin { to } => {
                if self.hosts[to.0].conns.remove(&to.1).is_some()
                    && let Some(node) = self.hosts[to.0].node.as_mut()
                {
                    node.handle_closed(to.1, now);
                    self.pump(to.0);
                }
            }
            Event::Wrote(end) => {
                // Of a part of a write nobody is told.
                let conn = self.conn(end).filter(|conn| conn.untaken.is_empty());
                let Some((written, bytes)) = conn.and_then(|conn| conn.writing.take()) else { return };
                self.note(end.0, Call::Wrote(end.1));
                if let Some(node) = self.hosts[end.0].node.as_mut() {
                    node.handle_written(end.1, &written, bytes, now);
                }
                self.write(end);
                self.pump(end.0);
            }
            Event::Serve(pair) => self.serve(pair),
            Event::Alarm(host) => {
                if now >= self.hosts[host].alarm {
                    self.hosts[host].alarm = Micros::NEVER;
                    self.note(host, Call::Timeout);
                    if let Some(node) = self.hosts[host].node.as_mut() {
                        node.handle_timeout(now);
                        self.pump(host);
                    }
                }
            }
        }
    }

    fn arrive(&mut self, to: End, bytes: &Bytes) {
        let now = self.now;
        self.note(to.0, Call::Arrived(to.1, bytes.clone()));
        let host = &mut self.hosts[to.0];
        let (Some(node), Some(conn)) = (host.node.as_mut(), host.conns.get_mut(&to.1)) else { return };
        let (from, peer) = (conn.peer, conn.peer.map(|(peer, _)| peer));
        conn.buffer.extend_from_slice(bytes);
        let mut seen = Traffic { bytes: bytes.len() as u64, reads: 1, ..Traffic::default() };
        while let Some((received, length)) = conn.reader.read(&mut conn.buffer).expect("honest peers") {
            match &received {
                Received::Batch(envelope, _) => {
                    seen.batches += 1;
                    seen.batch_bytes += length as u64;
                    seen.news += u64::from(envelope.runs.is_empty());
                    seen.runs += envelope.runs.len() as u64;
                    let empty = envelope.runs.iter().filter(|run| run.count == 0);
                    self.empty_runs.extend(empty.map(|run| run.deadline_ms));
                }
                Received::Ack(_) => seen.acks += 1,
                _ => {}
            }
            if let Some(opened) = node.handle_frame(to.1, received, length, now) {
                conn.reader.open(&opened);
                conn.encoder = BatchEncoder::new(Options::default(), Some(&opened));
            }
        }
        node.handle_partial(to.1, conn.reader.awaits_control(), bytes.len(), now);
        if let Some(peer) = peer {
            let key = (self.hosts[to.0].id.clone(), self.hosts[peer].id.clone());
            let all = self.received.entry(key).or_default();
            all.bytes += seen.bytes;
            all.batches += seen.batches;
            all.batch_bytes += seen.batch_bytes;
            all.runs += seen.runs;
            all.acks += seen.acks;
            all.news += seen.news;
            all.reads += seen.reads;
        }
        self.acknowledge(from, to, bytes.len());
        self.pump(to.0);
    }

    /// One write of a connection, if none is under way and there is something.
    fn write(&mut self, end: End) {
        let now = self.now;
        let host = &mut self.hosts[end.0];
        let (Some(node), Some(conn)) = (host.node.as_mut(), host.conns.get_mut(&end.1)) else { return };
        if conn.writing.is_some() {
            return;
        }
        let transmit = node.poll_transmit(end.1, now);
        if transmit.is_empty() {
            return;
        }
        let mut slices = transmit.frames;
        let mut written = Vec::new();
        for batch in &transmit.batches {
            written.push(batch.encode(&mut conn.encoder, &mut slices));
        }
        let bytes = Bytes::from(slices.concat());
        conn.writing = Some((written, bytes.len()));
        if let Some(record) = self.record_of(end.0) {
            record.written += bytes.len() as u64;
        }
        self.take(end, bytes);
    }

    fn push(&mut self, end: End, bytes: Bytes) {
        let Some(peer) = self.conn(end).and_then(|conn| conn.peer) else { return };
        let pair = self.pair(end.0, peer.0);
        if self.line(&pair).rate.is_some() {
            let Some(conn) = self.conn(end) else { return };
            conn.queued_bytes += bytes.len();
            let first = conn.queued.is_empty();
            conn.queued.push_back(bytes);
            let done = conn.queued_bytes <= self.kernel_bytes;
            if first {
                self.turns.entry(pair.clone()).or_default().push_back(end);
            }
            if self.busy.insert(pair.clone()) {
                self.at(self.now, Event::Serve(pair));
            }
            if done {
                self.at(self.now, Event::Wrote(end));
            }
            return;
        }
        self.deliver(end, peer, &pair, bytes);
        self.at(self.now, Event::Wrote(end));
    }

    fn deliver(&mut self, end: End, to: End, pair: &Pair, bytes: Bytes) {
        let farther = |host: usize| self.farther.get(&host).copied().unwrap_or_default();
        let mut at = self.now + self.line(pair).delay + farther(end.0) + farther(to.0);
        if let Some((rng, per_million)) = self.losses.as_mut().filter(|_| pair.0 != pair.1)
            && rng.u32(..1_000_000) < *per_million
        {
            let tail = if rng.u8(..4) == 0 { Duration::from_millis(200) } else { Duration::ZERO };
            at = at + self.line(pair).delay * 2 + tail;
        }
        let Some(conn) = self.conn(end) else { return };
        conn.arrives_at = conn.arrives_at.max(at);
        let at = conn.arrives_at;
        self.at(at, Event::Arrive { to, bytes });
    }

    /// The next packet of a line.
    fn serve(&mut self, pair: Pair) {
        let next = self.turns.get_mut(&pair).and_then(VecDeque::pop_front);
        let Some(end) = next else {
            self.busy.remove(&pair);
            return;
        };
        let rate = self.line(&pair).rate.unwrap_or(u64::MAX);
        let mut took = Duration::ZERO;
        let kernel_bytes = self.kernel_bytes;
        if let Some(conn) = self.conn(end)
            && let Some(peer) = conn.peer
            && let Some(front) = conn.queued.front_mut()
        {
            let packet = front.split_to(front.len().min(PACKET_BYTES));
            if front.is_empty() {
                conn.queued.pop_front();
            }
            let before = conn.queued_bytes;
            conn.queued_bytes -= packet.len();
            let done = before > kernel_bytes && conn.queued_bytes <= kernel_bytes;
            // The kernel takes more of what it had no room for, and not for every packet.
            let blocked = conn.writing.is_some() && conn.queued_bytes > kernel_bytes;
            conn.drained = if blocked { conn.drained + packet.len() } else { 0 };
            let progress = conn.drained >= kernel_bytes / 2;
            conn.drained = if progress { 0 } else { conn.drained };
            let more = !conn.queued.is_empty();
            took = Duration::from_nanos(packet.len() as u64 * 1_000_000_000 / rate);
            if done {
                self.at(self.now, Event::Wrote(end));
            }
            if progress && let Some(node) = self.hosts[end.0].node.as_mut() {
                node.handle_progress(end.1, self.now);
            }
            if more {
                self.turns.entry(pair.clone()).or_default().push_back(end);
            }
            self.deliver(end, peer, &pair, packet);
        }
        self.at(self.now + took, Event::Serve(pair));
    }

    fn close(&mut self, end: End) {
        self.dialling.remove(&end);
        let Some(conn) = self.hosts[end.0].conns.remove(&end.1) else { return };
        let Some(peer) = conn.peer else { return };
        let pair = self.pair(end.0, peer.0);
        let at = (self.now + self.line(&pair).delay).max(conn.arrives_at);
        self.at(at, Event::Fin { to: peer });
    }

    /// Does what the machine asks for.
    fn pump(&mut self, index: usize) {
        let now = self.now;
        loop {
            let Some(node) = self.hosts[index].node.as_mut() else { return };
            let Some(action) = node.poll_action() else { break };
            match action {
                Action::Dial { conn, peer, lane, .. } => {
                    self.dialling.insert((index, conn));
                    self.lanes.insert((index, conn), lane);
                    let to = self.index(peer.as_str());
                    let delay = self.line(&self.pair(index, to)).delay;
                    self.at(now + delay, Event::Syn { from: (index, conn), to });
                }
                Action::Ready(conn) => self.write((index, conn)),
                Action::Close { conn, last_words } => {
                    if let Some(words) = last_words {
                        self.push((index, conn), words);
                    }
                    self.close((index, conn));
                }
                Action::Room(_) => {}
            }
        }
        let host = &mut self.hosts[index];
        let Some(node) = host.node.as_mut() else { return };
        let mut took = false;
        while let Some(delivery) = (!host.deaf).then(|| node.poll_delivery(now)).flatten() {
            self.delivered.push((now, host.id.clone(), delivery));
            took = true;
        }
        while let Some(Decided { ticket, index: place, outcome, last }) = node.poll_decided() {
            let key = (index, ticket);
            self.decided.entry(key).or_default().insert(place, outcome);
            if last {
                let outcomes = self.decided.remove(&key).unwrap_or_default().into_values().collect();
                self.outcomes.insert(key, (now, outcomes));
            }
        }
        let alarm = node.poll_timeout();
        if alarm < host.alarm {
            host.alarm = alarm;
            self.at(alarm, Event::Alarm(index));
        }
        if took {
            // Room in the inbox may have queued acks.
            self.pump(index);
        }
    }
}

fn new_conn(peer: Option<End>) -> Conn {
    Conn {
        peer,
        reader: FrameReader::new(),
        buffer: BytesMut::new(),
        encoder: BatchEncoder::new(Options::default(), None),
        writing: None,
        queued: VecDeque::new(),
        queued_bytes: 0,
        arrives_at: Micros(0),
        untaken: Bytes::new(),
        unacked: 0,
        drained: 0,
    }
}
