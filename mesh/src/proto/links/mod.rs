//! All links of a node: who is dialled, accepted, paired, pinged and given up. A link is two connections to one peer,
//! control and bulk; it is up when both are through the handshake, and losing either ends both.
//!
//! ```text
//! dialler   Dialing → AwaitWelcome ─Welcome→ Open
//! acceptor  AwaitHello ─Hello→ AwaitConfirm ─Confirm→ Open        any refusal, error or timeout → gone
//! ```

// In the order of a connection's life.
mod opening;
pub use ended::LinkEnd;
pub use opening::Breach;

mod absence;
use absence::Absence;

mod line;
use line::{DialLine, Rank};

mod lives;
use lives::Dialling;

pub mod places;
use places::{Holder, Places};

mod claims;

mod members;

mod clock;

mod ended;
mod heard;
use heard::Heard;

mod output;

mod shown;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::frame::{FrameError, FrameType, Opened, Received, control_frame};
use super::handshake::Identity;
use super::roster::{RosterIn, RosterOut};
use super::rtt::{ClockOffset, Rtt};
use super::time::Micros;
use super::timers::Timers;
use super::wall::WallClock;
use super::wire::{Ack, AckFlow, CloseCode, Envelope, Hello, Pong, RefuseCode};
use crate::id::{Datacenter, Incarnation, Lane, NodeId, SpiffeId};
use crate::settings::Settings;
use crate::topology::{NodeSpec, Topology};

/// One TCP connection. Numbers are never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// One pair of connections. Numbers are never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u64);

/// A node of the topology, as an index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerIx(pub usize);

/// What the shell is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Connect, then report `handle_dialed` or `handle_dial_failed`.
    Dial {
        /// The connection's number.
        conn: ConnId,
        /// Whom.
        peer: NodeId,
        /// Where.
        address: SocketAddr,
        /// Which of the two.
        lane: Lane,
    },
    /// Ask `poll_transmit` when the connection's writer is idle.
    Ready(ConnId),
    /// Write the last words, if any, and close. The machine has forgotten the connection.
    Close {
        /// The connection.
        conn: ConnId,
        /// A whole frame.
        last_words: Option<Bytes>,
    },
    /// Budget came free for a datacenter, or for all: senders that wait may try again.
    Room(Option<Datacenter>),
}

/// What became of links.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkEvent {
    /// Both connections are through the handshake.
    Up(LinkId),
    /// It is gone.
    Down {
        /// Which.
        link: LinkId,
        /// To whom.
        peer: PeerIx,
        /// This node had dialled.
        dialled: bool,
        /// Why.
        why: LinkEnd,
    },
    /// The peer is going away, and still answers what it has.
    Draining(LinkId),
    /// A ping that somebody asked for was answered.
    Pinged {
        /// By whom.
        peer: PeerIx,
        /// The round trip without the peer's own time.
        rtt: Duration,
    },
    /// The peer could not be dialled.
    DialFailed(PeerIx),
    /// A peer knew a higher incarnation of this node; this is the one taken now. All links are gone.
    Reincarnated(Incarnation),
}

/// What a frame brought for the layers above.
#[derive(Debug)]
pub enum Arrived {
    /// Nothing.
    Nothing,
    /// The connection is through the handshake; tell its reader.
    Opened(Opened),
    /// A batch.
    Batch {
        /// Over which link.
        link: LinkId,
        /// Over which connection, hence by which roster.
        conn: ConnId,
        /// Its lane.
        lane: Lane,
        /// What is inside.
        envelope: Envelope,
        /// The messages.
        frame: trunkline_codec::Frame,
    },
    /// Acks.
    Ack {
        /// Over which link.
        link: LinkId,
        /// The entries.
        ack: Ack,
    },
}

/// Counters of all links.
#[derive(Clone, Debug, Default)]
pub struct LinkCounters {
    /// Refused here, by code.
    pub refused: BTreeMap<&'static str, u64>,
    /// Refused by peers, by code.
    pub refused_by_peer: BTreeMap<&'static str, u64>,
    /// Completed.
    pub handshakes: u64,
    /// Connections closed for what the peer sent, by error.
    pub protocol_errors: BTreeMap<&'static str, u64>,
    /// Links that were up and ended, by reason.
    pub ended: BTreeMap<&'static str, u64>,
    /// Connections that were dialled: two per link.
    pub dials: u64,
    /// Dials that failed.
    pub dials_failed: u64,
    /// Batch frames written that no later one may refer to.
    pub unremembered: u64,
    /// (sent, received) bytes per datacenter, in the order in which this node got to know them.
    pub wire: Vec<(u64, u64)>,
}

enum Stage {
    Dialing,
    AwaitHello,
    AwaitWelcome {
        hello: Bytes,
    },
    AwaitConfirm {
        hello: Box<Hello>,
        transcript: u32,
        version: u16,
    },
    Open,
    /// The socket is gone; acks on the other connection may still name its roster.
    Ended,
}

struct Conn {
    stage: Stage,
    /// From where it came in; `None` where this node dialled.
    from: Option<IpAddr>,
    /// Who its peer is, if it came with a certificate.
    certified: Option<Box<SpiffeId>>,
    lane: Lane,
    link: Option<LinkId>,
    /// The header of a frame came, and not yet all of its control body.
    awaits_body: bool,
    out: VecDeque<Bytes>,
    /// A ping is to be written.
    pings: bool,
    /// Feature bits that this end says it has.
    features: u64,
    /// The other end is to be told what has arrived.
    news: bool,
    roster_out: RosterOut,
    roster_in: RosterIn,
}

/// A pair of connections.
pub struct Link {
    /// To whom.
    pub peer: PeerIx,
    /// This node dialled.
    pub dialled: bool,
    /// Both connections are open.
    pub up: bool,
    /// The peer is going away.
    pub draining: bool,
    /// The peer took its leave, or said why it ends the link.
    pub left: Option<LinkEnd>,
    /// The peer's life at the other end.
    pub incarnation: Incarnation,
    /// Longest frame that may be sent or received, bytes.
    pub frame_bytes_max: usize,
    /// Feature bits that both ends have.
    pub features: u64,
    /// The wire version that was chosen; 0 before.
    pub version: u16,
    /// Round trips of pings.
    pub rtt: Rtt,
    nonce: u64,
    conns: [Option<ConnId>; 2],
    up_at: Micros,
    heard: Heard,
    used_at: Micros,
    offset: ClockOffset,
    /// Somebody waits for the next answer to a ping.
    ping_asked: bool,
    acks: BTreeMap<(u8, u32), AckFlow>,
    /// Of all entries of `acks`, as they are kept.
    ack_bytes: usize,
    acks_due: bool,
    /// Which of its breaches that end no link were told.
    breaches: u8,
}

struct Peer {
    spec: NodeSpec,
    /// The topology lists it now. One that it once did keeps its place, and what is known of its lives.
    present: bool,
    datacenter: usize,
    dialling: Dialling,
    accepted: Option<LinkId>,
    absence: Absence,
    highest: Incarnation,
    /// A later one that others say it lives, and that it was not told of yet.
    said: Incarnation,
    /// How often it was told of one since it last linked.
    told: u32,
    /// The later life of this node that it said last it knows, when it refused this one. A link that comes up ends it.
    told_us: Option<Incarnation>,
    /// The same, as far as it counts.
    claim: Option<Incarnation>,
    /// When it last moved this node past its life.
    moved_us_at: Option<Micros>,
}

impl Peer {
    /// Of the topology, and not heard of.
    fn new(spec: &NodeSpec, datacenter: usize, now: Micros) -> Self {
        Self {
            spec: spec.clone(),
            present: true,
            datacenter,
            dialling: Dialling::default(),
            accepted: None,
            absence: Absence::new(now),
            highest: Incarnation::UNKNOWN,
            said: Incarnation::UNKNOWN,
            told: 0,
            told_us: None,
            claim: None,
            moved_us_at: None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Handshake(ConnId),
    Pair(LinkId),
    Ping(LinkId),
    Silence(LinkId),
    Body(ConnId),
    Acks(LinkId),
    Idle(LinkId),
    Redial(PeerIx),
    Dials,
    Pulse,
}

/// Pause after the last use of a link that was dialled on demand, before it is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// After bulk ended, so long is control still read: what a peer wrote before it went arrives on both at about one time.
const LAST_ACKS: Duration = Duration::from_millis(10);

/// Frames of a connection's own that wait to be written; beyond that pings are not answered.
const FRAMES_UNWRITTEN_MAX: usize = 64;

/// Labels of protocol errors that no single frame shows.
const SEQUENCE_ERRORS: [&str; 5] = ["unexpected_frame", "roster", "unknown_row", "acks_unread", "stalled"];

/// The links machine.
pub struct Links {
    /// This node, in its present life.
    pub me: Identity,
    /// The life in which it started.
    born: Incarnation,
    /// Counters.
    pub counters: LinkCounters,
    topology: Arc<Topology>,
    /// All that were ever listed, and their places, which are never used twice.
    datacenters: BTreeMap<Datacenter, usize>,
    settings: Settings,
    rng: fastrand::Rng,
    conns: BTreeMap<ConnId, Conn>,
    links: BTreeMap<LinkId, Link>,
    peers: Vec<Peer>,
    peer_index: BTreeMap<NodeId, PeerIx>,
    next_conn: u64,
    next_link: u64,
    timers: Timers<Timer>,
    dials: DialLine,
    actions: VecDeque<Action>,
    ready: BTreeSet<ConnId>,
    events: VecDeque<LinkEvent>,
    /// Connections that came in.
    accepted: usize,
    /// Those of them whose link is not up: in their handshake, or alone.
    places: Places,
    draining: bool,
    /// A connection whose peer showed no certificate is refused.
    certificates: bool,
    wall: WallClock,
}

impl Links {
    /// No links yet; [`Links::want`] starts them. `wall_base_us` is the wall clock at time zero.
    #[must_use]
    pub fn new(
        me: Identity,
        topology: Arc<Topology>,
        settings: Settings,
        seed: u64,
        wall_base_us: u64,
    ) -> Self {
        let datacenters: BTreeMap<_, _> = topology.datacenters().into_iter().zip(0..).collect();
        let new = |spec: &NodeSpec| Peer::new(spec, datacenters[&spec.datacenter], Micros(0));
        let peers: Vec<Peer> = topology.nodes().map(new).collect();
        let peer_index =
            peers.iter().enumerate().map(|(index, peer)| (peer.spec.id.clone(), PeerIx(index))).collect();
        let codes = || RefuseCode::ALL.iter().map(|code| (code.label(), 0)).collect();
        let counters = LinkCounters {
            refused: codes(),
            refused_by_peer: codes(),
            protocol_errors: FrameError::LABELS
                .iter()
                .chain(&SEQUENCE_ERRORS)
                .map(|label| (*label, 0))
                .collect(),
            ended: LinkEnd::ALL.iter().map(|end| (end.label(), 0)).collect(),
            wire: vec![(0, 0); datacenters.len()],
            ..LinkCounters::default()
        };
        Self {
            born: me.incarnation,
            me,
            counters,
            topology,
            datacenters,
            dials: DialLine::new(settings.dials_per_second),
            settings,
            rng: fastrand::Rng::with_seed(seed),
            conns: BTreeMap::new(),
            links: BTreeMap::new(),
            peers,
            peer_index,
            next_conn: 0,
            next_link: 0,
            timers: Timers::default(),
            actions: VecDeque::new(),
            ready: BTreeSet::new(),
            events: VecDeque::new(),
            accepted: 0,
            places: Places::default(),
            draining: false,
            certificates: false,
            wall: WallClock::new(wall_base_us),
        }
    }

    /// What the wall clock shows, µs.
    #[must_use]
    pub fn wall_us(&self, now: Micros) -> u64 {
        self.wall.us(now)
    }

    /// The wall clock was read again, and showed this at time zero, µs.
    pub fn set_wall(&mut self, base_us: u64) {
        self.wall.set(base_us);
    }

    /// The index of a node that the topology lists.
    #[must_use]
    pub fn peer(&self, node: &NodeId) -> Option<PeerIx> {
        self.peer_index.get(node).copied().filter(|peer| self.peers[peer.0].present)
    }

    /// The node of an index.
    #[must_use]
    pub fn spec(&self, peer: PeerIx) -> &NodeSpec {
        &self.peers[peer.0].spec
    }

    /// A link that still exists.
    #[must_use]
    pub fn link(&self, link: LinkId) -> Option<&Link> {
        self.links.get(&link)
    }

    /// The link this node dialled to a peer, if it is up.
    #[must_use]
    pub fn dialled(&self, peer: PeerIx) -> Option<(LinkId, &Link)> {
        let id = self.peers[peer.0].dialling.link?;
        self.links.get(&id).filter(|link| link.up).map(|link| (id, link))
    }

    /// Peer's clock minus ours, µs, where this node dialled it and has samples.
    #[must_use]
    pub fn clock_offset_us(&self, peer: PeerIx) -> Option<i64> {
        let (_, link) = self.dialled(peer)?;
        (!link.rtt.is_empty()).then(|| self.wall.offset_us(link.offset.us()))
    }

    /// Pings a peer that this node dialled now, out of turn. False: there is no such link.
    pub fn ping(&mut self, peer: PeerIx, now: Micros) -> bool {
        let Some(id) = self.dialled(peer).map(|(id, _)| id) else { return false };
        if let Some(link) = self.links.get_mut(&id) {
            link.ping_asked = true;
        }
        self.timers.set_earlier(Timer::Ping(id), now);
        true
    }

    /// Both connections of a link are open.
    #[must_use]
    pub fn is_up(&self, link: LinkId) -> bool {
        self.links.get(&link).is_some_and(|link| link.up)
    }

    /// The link of a connection that is open.
    #[must_use]
    pub fn link_of(&self, conn: ConnId) -> Option<(LinkId, Lane)> {
        let conn = self.conns.get(&conn).filter(|conn| matches!(conn.stage, Stage::Open))?;
        conn.link.map(|link| (link, conn.lane))
    }

    /// The connection of a link's lane.
    #[must_use]
    pub fn conn_of(&self, link: LinkId, lane: Lane) -> Option<ConnId> {
        self.links.get(&link)?.conns[lane.index()]
    }

    /// The flow behind a row that the peer announced.
    #[must_use]
    pub fn flow_in(&self, conn: ConnId, row: u32) -> Option<&Arc<super::wire::Flow>> {
        self.conns.get(&conn)?.roster_in.flow(row)
    }

    /// The roster of what this node sends over a link's lane.
    pub fn roster_out(&mut self, link: LinkId, lane: Lane) -> Option<&mut RosterOut> {
        let conn = self.links.get(&link)?.conns[lane.index()]?;
        self.conns.get_mut(&conn).map(|conn| &mut conn.roster_out)
    }

    /// A dial failed.
    pub fn handle_dial_failed(&mut self, id: ConnId, now: Micros) {
        if self.conns.contains_key(&id) {
            self.counters.dials_failed += 1;
            self.drop_conn(id, None, now);
        }
    }

    /// A connection ended, from outside. When it is bulk, acks may lie unread on control: the link gets a moment to read
    /// them, and nothing new is sent on it meanwhile.
    pub fn handle_closed(&mut self, id: ConnId, now: Micros) {
        let ending = self.conns.get_mut(&id).filter(|conn| conn.lane == Lane::Bulk).and_then(|conn| {
            let link_id = conn.link?;
            let link = self.links.get_mut(&link_id).filter(|link| link.up)?;
            (link.draining, conn.stage) = (true, Stage::Ended);
            Some(link_id)
        });
        let Some(link_id) = ending else {
            self.note_closed(id, now);
            return self.drop_conn(id, None, now);
        };
        self.timers.set(Timer::Pair(link_id), now + LAST_ACKS);
        self.ready.remove(&id);
        self.actions.push_back(Action::Close { conn: id, last_words: None });
    }

    /// A run names a roster row that was never announced: the peer lost its books.
    pub fn handle_unknown_row(&mut self, id: ConnId, now: Micros) {
        self.protocol_error(id, "unknown_row", "a run of a roster row that was never announced", now);
    }

    /// The peer's bytes are no frames, or what was to be sent is none.
    pub fn handle_bad_frame(&mut self, id: ConnId, error: &FrameError, now: Micros) {
        if matches!(error, FrameError::Encode(_)) {
            let peer = self.peer_of(id).map(tracing::field::display);
            tracing::error!(peer, %error, "defect of this node, connection closed");
            self.end_conn(id, error.label(), now);
        } else {
            self.protocol_error(id, error.label(), &error.to_string(), now);
        }
    }

    /// A frame came.
    pub fn handle_frame(&mut self, id: ConnId, received: Received, bytes: usize, now: Micros) -> Arrived {
        let Some(conn) = self.conns.get_mut(&id) else {
            return Arrived::Nothing;
        };
        if std::mem::take(&mut conn.awaits_body) {
            self.timers.clear(Timer::Body(id));
        }
        if let Some(link) = conn.link.and_then(|link| self.links.get_mut(&link)) {
            let datacenter = self.peers[link.peer.0].datacenter;
            self.counters.wire[datacenter].1 += u64::try_from(bytes).unwrap_or(0);
            // Liveness is judged on control: a dead peer's bulk bytes may still be on their way.
            if conn.lane == Lane::Control {
                link.heard = Heard::now(now);
            }
        }
        match (&conn.stage, received) {
            (Stage::AwaitHello, Received::Hello(hello, body)) => {
                self.take_hello(id, hello, &body, now);
                Arrived::Nothing
            }
            (Stage::AwaitWelcome { .. }, Received::Welcome(welcome, body)) => {
                self.take_welcome(id, welcome, &body, now)
            }
            (Stage::AwaitConfirm { .. }, Received::Confirm(confirm)) => self.take_confirm(id, confirm, now),
            (
                Stage::AwaitWelcome { .. } | Stage::AwaitConfirm { .. } | Stage::Open,
                Received::Refuse(refuse),
            ) => {
                self.take_refuse(id, &refuse, now);
                Arrived::Nothing
            }
            (Stage::Open, received) => self.take_open(id, received, now),
            _ => {
                self.protocol_error(id, "unexpected_frame", "a frame that is not legal at this point", now);
                Arrived::Nothing
            }
        }
    }

    fn take_open(&mut self, id: ConnId, received: Received, now: Micros) -> Arrived {
        let (wall_us, steady_us) = (self.wall.us(now), self.wall.steady_us(now));
        let Some(conn) = self.conns.get_mut(&id) else { return Arrived::Nothing };
        let (Some(link_id), lane) = (conn.link, conn.lane) else { return Arrived::Nothing };
        let Some(link) = self.links.get_mut(&link_id) else { return Arrived::Nothing };
        match (received, lane) {
            (Received::Roster(roster), _) => {
                if let Err(what) = conn.roster_in.extend(roster, link.up) {
                    self.protocol_error(id, "roster", what, now);
                }
                Arrived::Nothing
            }
            (Received::Batch(envelope, frame), _) => {
                link.used_at = now;
                Arrived::Batch { link: link_id, conn: id, lane, envelope, frame }
            }
            (Received::News, _) => {
                conn.news = true;
                self.ready.insert(id);
                Arrived::Nothing
            }
            (Received::Ack(ack), Lane::Control) => Arrived::Ack { link: link_id, ack },
            (Received::Ping(ping), Lane::Control) => {
                let pong = Pong { ping_sent_us: ping.sent_us, ping_received_us: wall_us, sent_us: wall_us };
                // A peer that pings without reading does not pile up answers.
                if conn.out.len() < FRAMES_UNWRITTEN_MAX {
                    conn.out.push_back(control_frame(FrameType::Pong, lane, &pong));
                    self.ready.insert(id);
                }
                Arrived::Nothing
            }
            (Received::Pong(pong), Lane::Control) => {
                let sample = link.offset.sample(
                    pong.ping_sent_us,
                    pong.ping_received_us,
                    pong.sent_us,
                    steady_us,
                    now,
                );
                if let Some(rtt) = sample {
                    link.rtt.sample(rtt, now);
                    if std::mem::take(&mut link.ping_asked) {
                        self.events.push_back(LinkEvent::Pinged { peer: link.peer, rtt });
                    }
                }
                Arrived::Nothing
            }
            (Received::Close(close), _) => {
                link.left = Some(LinkEnd::of_close(close.code));
                if close.code == CloseCode::Draining as u16 {
                    if !link.draining {
                        link.draining = true;
                        self.events.push_back(LinkEvent::Draining(link_id));
                    }
                } else {
                    self.drop_conn(id, None, now);
                }
                Arrived::Nothing
            }
            _ => {
                self.protocol_error(
                    id,
                    "unexpected_frame",
                    "a frame that is not legal on this connection",
                    now,
                );
                Arrived::Nothing
            }
        }
    }

    /// Something else for the shell to do.
    pub fn push_action(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    /// What became of links.
    pub fn poll_event(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    /// What the shell is to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front().or_else(|| self.ready.pop_first().map(Action::Ready))
    }

    /// [`Links::poll_action`] has something.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn has_action(&self) -> bool {
        !self.actions.is_empty() || !self.ready.is_empty()
    }
}
