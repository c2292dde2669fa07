//! A node without sockets, and the peers it believes to talk to: bytes in, bytes out, by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use trunkline_codec::{Options, Payload, Stage};
use trunkline_mesh::id::{ClusterId, Datacenter, Incarnation, Lane, NodeId, Seq};
use trunkline_mesh::message::{Batch, Message, Outcome};
use trunkline_mesh::proto::coder::BatchEncoder;
use trunkline_mesh::proto::frame::{
    FrameReader, FrameType, Opened, Received, SealedBatch, Token, codec_limits, control_frame, frame_around,
};
use trunkline_mesh::proto::handshake::transcript;
use trunkline_mesh::proto::node::{Action, ConnId, Node, NodeInit};
use trunkline_mesh::proto::run::message_head;
use trunkline_mesh::proto::time::Micros;
use trunkline_mesh::proto::wire::{
    Ack, AckFlow, Close, Confirm, Envelope, Flow, Hello, PREAMBLE, Ping, Pong, ROOM_UNKNOWN, Refused, Roster,
    Run, WIRE_VERSION, Welcome, encode, offered_versions,
};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::stats::Stats;
use trunkline_mesh::topology::{NodeSpec, Roles, Topology};

pub(crate) const FRAME_BYTES_MAX: u64 = 16 << 20;

pub(crate) fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

/// Origins `o` and `o2`, `op` that is origin and proxy, and member `um` in `us`; origin `eo`, proxies `p` and `p2` and
/// members `m`, `m2` and `extra` more in `eu`.
pub(crate) fn topology(extra: usize) -> Topology {
    let extra: Vec<String> = (0..extra).map(|index| format!("x{index:04}")).collect();
    let mut nodes = vec![
        ("o", "us", Roles::ORIGIN),
        ("o2", "us", Roles::ORIGIN),
        ("op", "us", Roles { origin: true, member: false, proxy: true }),
        ("um", "us", Roles::MEMBER),
        ("eo", "eu", Roles::ORIGIN),
        ("p", "eu", Roles::PROXY),
        ("p2", "eu", Roles::PROXY),
        ("m", "eu", Roles::MEMBER),
        ("m2", "eu", Roles::MEMBER),
    ];
    nodes.extend(extra.iter().map(|name| (name.as_str(), "eu", Roles::MEMBER)));
    cluster(&nodes)
}

/// Nodes as (id, datacenter, roles).
pub(crate) fn cluster(nodes: &[(&str, &str, Roles)]) -> Topology {
    let specs = nodes.iter().zip(1..).map(|((name, datacenter, roles), port)| {
        let address = Some(([127, 0, 0, 1], port).into());
        NodeSpec { id: id(name), datacenter: Datacenter::new(datacenter).unwrap(), roles: *roles, address }
    });
    Topology::new(ClusterId::new("c").unwrap(), specs).unwrap()
}

/// What the test says as a peer, and how.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) datacenter: &'static str,
    pub(crate) life: u64,
    pub(crate) frame_bytes_max: u64,
    pub(crate) features: u64,
}

impl Peer {
    pub(crate) fn new(name: &'static str) -> Self {
        let datacenter = if name.starts_with(['o', 'u']) { "us" } else { "eu" };
        Self { name, datacenter, life: 100, frame_bytes_max: FRAME_BYTES_MAX, features: 0 }
    }

    pub(crate) fn hello(&self, lane: Lane, link: u64) -> Hello {
        Hello {
            cluster: ClusterId::new("c").unwrap(),
            node: id(self.name),
            datacenter: Datacenter::new(self.datacenter).unwrap(),
            roles: 1,
            incarnation: Incarnation(self.life),
            versions: offered_versions(),
            features: self.features,
            frame_bytes_max: self.frame_bytes_max,
            link,
            lane: u8::try_from(lane.index()).unwrap(),
            sent_us: 5,
        }
    }

    pub(crate) fn welcome(&self) -> Welcome {
        let hello = self.hello(Lane::Control, 0);
        Welcome {
            cluster: hello.cluster,
            node: hello.node,
            datacenter: hello.datacenter,
            roles: 6,
            incarnation: hello.incarnation,
            versions: hello.versions,
            features: self.features,
            frame_bytes_max: self.frame_bytes_max,
            version: WIRE_VERSION,
            hello_sent_us: 5,
            hello_received_us: 6,
            sent_us: 7,
        }
    }
}

/// A flow as a peer announces it.
pub(crate) fn flow(origin: &str, life: u64, destination: &str) -> Flow {
    Flow {
        origin: id(origin),
        origin_incarnation: Incarnation(life),
        destination: id(destination),
        destination_incarnation: Incarnation::UNKNOWN,
    }
}

pub(crate) fn run(flow: u32, first: u64, count: u32, floor_back: u64) -> Run {
    Run { flow, first: Seq(first), count, floor_back, deadline_ms: 60_000 }
}

pub(crate) fn roster_frame(lane: Lane, first: u32, flows: Vec<Flow>) -> Bytes {
    control_frame(FrameType::Roster, lane, &Roster { first, flows })
}

/// A batch whose run i carries `count` messages of these bytes, or 300 if that is fewer.
pub(crate) fn batch_frame(lane: Lane, runs: Vec<Run>, message: &'static [u8]) -> Vec<u8> {
    let payload = |run: &Run| -> Payload {
        (0..run.count.min(300))
            .flat_map(|_| [message_head(7, message.len()), Bytes::from_static(message)])
            .collect()
    };
    let payloads = runs.iter().map(payload).collect();
    batch_around(lane, runs, payloads)
}

pub(crate) fn batch_around(lane: Lane, runs: Vec<Run>, payloads: Vec<Payload>) -> Vec<u8> {
    let envelope = Envelope { batch: 1, attempt: 1, runs };
    let sealed = SealedBatch { lane, envelope, payloads, stage: Stage::None, token: Token::Attempt(0) };
    let mut wire = Vec::new();
    sealed.encode(&mut BatchEncoder::new(Options::default(), None), &mut wire);
    wire.concat()
}

pub(crate) fn ack_frame(flows: Vec<AckFlow>) -> Bytes {
    control_frame(FrameType::Ack, Lane::Control, &Ack { flows })
}

pub(crate) fn entry(flow: u32, life: u64, decided: u64) -> AckFlow {
    let incarnation = Incarnation(life);
    let room_kib = ROOM_UNKNOWN;
    AckFlow { lane: 1, flow, incarnation, decided, room_kib, held: Vec::new(), refused: Vec::new() }
}

pub(crate) fn refused(first: u64, count: u32, reason: u8) -> Refused {
    Refused { first: Seq(first), count, reason }
}

/// Mends the checksum of the one frame in `bytes`, if it is there whole.
pub(crate) fn sum_again(mut bytes: Vec<u8>) -> Vec<u8> {
    let Some(head) = bytes.first_chunk::<16>() else { return bytes };
    let control = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let Some(end) = usize::try_from(control).ok().and_then(|bytes| bytes.checked_add(16)) else {
        return bytes;
    };
    let Some(body) = bytes.get(16..end) else { return bytes };
    let sum = crc32c::crc32c_append(crc32c::crc32c(&head[..12]), body);
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// A frame of any type around any body, with the checksum that fits.
pub(crate) fn frame_of(kind: u8, lane: Lane, body: &[u8]) -> Vec<u8> {
    let lane = u8::try_from(lane.index()).unwrap();
    let length = u32::try_from(body.len()).unwrap().to_le_bytes();
    sum_again([&[kind, lane, 0, 0][..], &length, &[0; 8], body].concat())
}

/// One of each that is no refusal, right in itself.
pub(crate) fn every_frame(lane: Lane) -> Vec<(&'static str, Vec<u8>)> {
    let peer = Peer::new("o");
    let ping = Ping { sent_us: 1 };
    let pong = Pong { ping_sent_us: 1, ping_received_us: 2, sent_us: 3 };
    vec![
        ("hello", control_frame(FrameType::Hello, lane, &peer.hello(lane, 1)).to_vec()),
        ("welcome", control_frame(FrameType::Welcome, lane, &peer.welcome()).to_vec()),
        ("confirm", control_frame(FrameType::Confirm, lane, &Confirm { version: 1, transcript: 0 }).to_vec()),
        ("close", control_frame(FrameType::Close, lane, &Close { code: 1 }).to_vec()),
        ("ping", control_frame(FrameType::Ping, lane, &ping).to_vec()),
        ("pong", control_frame(FrameType::Pong, lane, &pong).to_vec()),
        ("roster", roster_frame(lane, 0, vec![flow("o", 100, "m")]).to_vec()),
        ("ack", control_frame(FrameType::Ack, lane, &Ack::default()).to_vec()),
        ("batch", batch_frame(lane, vec![run(0, 1, 1, 0)], b"x")),
    ]
}

struct Wire {
    /// The shell's reader of what the peer sends.
    reader: FrameReader,
    inward: BytesMut,
    /// As the node's writer has it.
    encoder: BatchEncoder,
    /// The peer's reader of what the node sends.
    peer: FrameReader,
    outward: BytesMut,
    /// Of the batches that the node sealed.
    stages: Vec<Stage>,
    opened: Option<Opened>,
}

/// The node with everything a shell does for it, except waiting.
pub(crate) struct Shell {
    pub(crate) node: Node,
    pub(crate) now: Micros,
    pub(crate) dials: Vec<(ConnId, NodeId, Lane)>,
    /// Closed by the node, with its last words.
    pub(crate) closed: BTreeMap<ConnId, Option<Bytes>>,
    /// Their peers read nothing: what waits for them is not asked for.
    pub(crate) unread: BTreeSet<ConnId>,
    wires: BTreeMap<ConnId, Wire>,
    /// What peers said on connections that are recorded.
    tapes: BTreeMap<ConnId, Vec<u8>>,
    nonce: u64,
}

impl Shell {
    /// What became of the next message.
    pub(crate) fn outcome(&mut self) -> Option<Outcome> {
        self.node.poll_decided().map(|decided| decided.outcome)
    }

    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, 0, Settings::default())
    }

    pub(crate) fn with(name: &str, extra: usize, settings: Settings) -> Self {
        Self::among(topology(extra), name, settings, 1)
    }

    pub(crate) fn among(topology: Topology, name: &str, settings: Settings, seed: u64) -> Self {
        Self::living(Incarnation(50), topology, name, settings, seed)
    }

    /// In another life, as after a restart.
    pub(crate) fn living(
        incarnation: Incarnation,
        topology: Topology,
        name: &str,
        settings: Settings,
        seed: u64,
    ) -> Self {
        let now = Micros(1_000_000);
        let init = NodeInit {
            topology: Arc::new(topology),
            node: id(name),
            incarnation,
            settings,
            seed,
            wall_base_us: 0,
        };
        let mut shell = Self {
            node: Node::new(init, now).unwrap(),
            now,
            dials: Vec::new(),
            closed: BTreeMap::new(),
            unread: BTreeSet::new(),
            wires: BTreeMap::new(),
            tapes: BTreeMap::new(),
            nonce: 0,
        };
        shell.advance(Duration::from_millis(1));
        shell
    }

    /// A message to each of these members of a datacenter.
    pub(crate) fn submit(&mut self, datacenter: &str, to: &[&str], deadline: Duration) {
        let mut batch = Batch::to(Datacenter::new(datacenter).unwrap());
        batch.extend(to.iter().map(|to| Message::new(id(to), Bytes::from_static(b"x")).deadline(deadline)));
        self.node.submit(batch, self.now).unwrap();
        self.drain();
    }

    pub(crate) fn stats(&self) -> Stats {
        self.node.stats()
    }

    pub(crate) fn errors(&self, label: &str) -> u64 {
        self.stats().protocol_errors.get(label).copied().unwrap_or(0)
    }

    /// Lets time pass in one step and rings what is due. A node that never stops ringing is caught here.
    pub(crate) fn advance(&mut self, span: Duration) {
        self.now = self.now + span;
        for _ in 0..10_000 {
            if self.node.poll_timeout() > self.now {
                break;
            }
            self.node.handle_timeout(self.now);
        }
        assert!(self.node.poll_timeout() > self.now, "timers that ring for ever");
        self.drain();
    }

    /// Does what the node asks for until it asks for nothing.
    pub(crate) fn drain(&mut self) {
        for _ in 0..100_000 {
            match self.node.poll_action() {
                None => return,
                Some(Action::Dial { conn, peer, lane, .. }) => self.dials.push((conn, peer, lane)),
                Some(Action::Close { conn, last_words }) => {
                    if let Some(wire) = self.wires.get_mut(&conn) {
                        wire.outward.extend_from_slice(last_words.as_deref().unwrap_or_default());
                    }
                    self.closed.insert(conn, last_words);
                }
                Some(Action::Ready(conn)) if self.unread.contains(&conn) => {}
                Some(Action::Ready(conn)) => self.transmit(conn),
                Some(Action::Room(_)) => {}
            }
        }
        panic!("actions that never end");
    }

    fn transmit(&mut self, conn: ConnId) {
        let Some(wire) = self.wires.get_mut(&conn) else { return };
        for _ in 0..100_000 {
            let transmit = self.node.poll_transmit(conn, self.now);
            if transmit.is_empty() {
                return;
            }
            let mut slices = transmit.frames;
            wire.stages.extend(transmit.batches.iter().map(|batch| batch.stage));
            let encode = |batch: &SealedBatch| batch.encode(&mut wire.encoder, &mut slices);
            let written: Vec<_> = transmit.batches.iter().map(encode).collect();
            let bytes = slices.concat();
            self.node.handle_written(conn, &written, bytes.len(), self.now);
            wire.outward.extend_from_slice(&bytes);
        }
        panic!("transmissions that never end");
    }

    fn add_wire(&mut self, conn: ConnId) {
        let (reader, peer) = (FrameReader::new(), FrameReader::new());
        let (inward, outward) = (BytesMut::new(), BytesMut::new());
        let encoder = BatchEncoder::new(Options::default(), None);
        let stages = Vec::new();
        let opened = None;
        self.wires.insert(conn, Wire { reader, inward, encoder, peer, outward, stages, opened });
    }

    /// From here on what the peer says is kept.
    pub(crate) fn record(&mut self, conn: ConnId) {
        self.tapes.insert(conn, Vec::new());
    }

    pub(crate) fn recorded(&self, conn: ConnId) -> Vec<u8> {
        self.tapes[&conn].clone()
    }

    /// The peer sends bytes. Gives the number of frames that the node took.
    pub(crate) fn feed(&mut self, conn: ConnId, bytes: &[u8]) -> usize {
        if let Some(tape) = self.tapes.get_mut(&conn) {
            tape.extend_from_slice(bytes);
        }
        let mut frames = 0;
        let wire = self.wires.get_mut(&conn).expect("a connection");
        wire.inward.extend_from_slice(bytes);
        loop {
            if self.closed.contains_key(&conn) {
                break;
            }
            match wire.reader.read(&mut wire.inward) {
                Ok(None) => {
                    self.node.handle_partial(conn, wire.reader.awaits_control(), bytes.len(), self.now);
                    break;
                }
                Ok(Some((received, length))) => {
                    frames += 1;
                    if let Some(opened) = self.node.handle_frame(conn, received, length, self.now) {
                        wire.reader.open(&opened);
                        let limits = codec_limits(opened.frame_bytes_max);
                        let options = Options { limits, ..Options::default() };
                        wire.encoder = BatchEncoder::new(options, Some(&opened));
                        wire.opened = Some(opened);
                    }
                }
                Err(error) => {
                    self.node.handle_bad_frame(conn, &error, self.now);
                    wire.inward.clear();
                    break;
                }
            }
        }
        self.drain();
        frames
    }

    /// What the node sent to this peer since the last call.
    ///
    /// # Panics
    /// When that is not readable by the rules that the node itself keeps to.
    pub(crate) fn sent(&mut self, conn: ConnId) -> Vec<Received> {
        let wire = self.wires.get_mut(&conn).expect("a connection");
        let mut all = Vec::new();
        while let Some((received, _)) =
            wire.peer.read(&mut wire.outward).expect("the node writes what it reads")
        {
            all.push(received);
        }
        all
    }

    /// The bytes that the node sent to this peer since the last call.
    pub(crate) fn outward(&mut self, conn: ConnId) -> Vec<u8> {
        let wire = self.wires.get_mut(&conn).expect("a connection");
        std::mem::take(&mut wire.outward).to_vec()
    }

    /// What the node agreed on with this peer, as it has it.
    pub(crate) fn opened(&self, conn: ConnId) -> &Opened {
        self.wires[&conn].opened.as_ref().expect("it is open")
    }

    /// The second stages of the batches that the node sent.
    pub(crate) fn stages(&self, conn: ConnId) -> &[Stage] {
        &self.wires[&conn].stages
    }

    pub(crate) fn acks(&mut self, conn: ConnId) -> Vec<AckFlow> {
        let acks = self.sent(conn).into_iter().filter_map(|received| match received {
            Received::Ack(ack) => Some(ack.flows),
            _ => None,
        });
        acks.flatten().collect()
    }

    pub(crate) fn accept(&mut self) -> ConnId {
        self.try_accept().expect("room")
    }

    pub(crate) fn try_accept(&mut self) -> Option<ConnId> {
        self.try_accept_from(Ipv4Addr::LOCALHOST.into())
    }

    pub(crate) fn try_accept_from(&mut self, from: IpAddr) -> Option<ConnId> {
        let conn = self.node.handle_accepted(from, self.now);
        self.drain();
        let conn = conn.ok()?;
        self.add_wire(conn);
        Some(conn)
    }

    /// A peer opens a link to the node: control and bulk.
    pub(crate) fn link_in(&mut self, peer: &Peer) -> [ConnId; 2] {
        self.nonce += 1;
        let nonce = self.nonce;
        Lane::ALL.map(|lane| self.connect_in(peer, lane, nonce))
    }

    /// A peer opens one connection of a link to the node.
    pub(crate) fn connect_in(&mut self, peer: &Peer, lane: Lane, nonce: u64) -> ConnId {
        let conn = self.accept();
        self.shake_hands(conn, peer, lane, nonce);
        conn
    }

    /// One connection that was accepted goes through its handshake.
    pub(crate) fn shake_hands(&mut self, conn: ConnId, peer: &Peer, lane: Lane, nonce: u64) {
        let hello = encode(&peer.hello(lane, nonce));
        self.feed(conn, &[&PREAMBLE[..], &frame_around(FrameType::Hello, lane, &hello)].concat());
        let welcome = self.sent_welcome(conn, lane);
        let confirm = Confirm { version: WIRE_VERSION, transcript: transcript(&hello, &welcome) };
        self.feed(conn, &control_frame(FrameType::Confirm, lane, &confirm));
    }

    fn sent_welcome(&mut self, conn: ConnId, lane: Lane) -> Bytes {
        let sent = self.sent(conn);
        let Some(Received::Welcome(_, body)) = sent.into_iter().next() else { panic!("no welcome") };
        self.open_peer(conn, lane);
        body
    }

    pub(crate) fn open_peer(&mut self, conn: ConnId, lane: Lane) {
        let wire = self.wires.get_mut(&conn).expect("a connection");
        let frame_bytes_max = usize::try_from(FRAME_BYTES_MAX).unwrap();
        wire.peer.open(&Opened { lane, frame_bytes_max, epochs: None, echo: None });
    }

    /// The node's dial to a peer succeeds, and the peer welcomes it on both lanes.
    pub(crate) fn link_out(&mut self, peer: &Peer) -> [ConnId; 2] {
        Lane::ALL.map(|lane| self.connect_out(peer, lane))
    }

    /// The same of one lane.
    pub(crate) fn connect_out(&mut self, peer: &Peer, lane: Lane) -> ConnId {
        let conn = self.dialed(peer.name, lane);
        let welcome = frame_around(FrameType::Welcome, lane, &encode(&peer.welcome()));
        self.open_peer(conn, lane);
        self.feed(conn, &[&PREAMBLE[..], &welcome].concat());
        conn
    }

    /// The node's dial to a peer succeeds; its Hello is out.
    pub(crate) fn dialed(&mut self, name: &str, lane: Lane) -> ConnId {
        for _ in 0..1000 {
            let at = self.dials.iter().position(|(_, peer, dialled)| *peer == id(name) && *dialled == lane);
            if let Some(at) = at {
                let (conn, _, _) = self.dials.remove(at);
                self.dial_succeeds(conn);
                return conn;
            }
            self.advance(Duration::from_millis(10));
        }
        panic!("the node does not dial `{name}`");
    }

    pub(crate) fn dial_succeeds(&mut self, conn: ConnId) {
        self.add_wire(conn);
        self.node.handle_dialed(conn, self.now);
        self.drain();
    }

    /// The node takes a new link and hands a message over: it lives.
    pub(crate) fn assert_member_usable(&mut self) {
        while self.node.poll_delivery(self.now).is_some() {}
        let peer = Peer { life: (1 << 40) + self.nonce, ..Peer::new("o2") };
        let [control, bulk] = self.link_in(&peer);
        self.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o2", peer.life, "m")]));
        self.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0)], b"alive"));
        let delivery = self.node.poll_delivery(self.now).expect("handed over");
        assert_eq!(delivery.payload.to_vec(), b"alive");
        assert_eq!(self.acks(control).last().map(|entry| entry.decided), Some(1));
    }
}
