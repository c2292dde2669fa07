//! All links of a node: who is dialled, accepted, paired, pinged and given up. A link is two connections to one peer,
//! control and bulk; it is up when both are through the handshake, and losing either ends both.
//!
//! ```text
//! dialler   Dialing → AwaitWelcome ─Welcome→ Open
//! acceptor  AwaitHello ─Hello→ AwaitConfirm ─Confirm→ Open        any refusal, error or timeout → gone
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::frame::{FrameError, FrameType, Received, control_frame};
use super::handshake::{Identity, Refusal, adopt, check_hello, check_welcome, role_bits, transcript};
use super::roster::{RosterIn, RosterOut};
use super::rtt::{ClockOffset, Rtt, TokenBucket};
use super::time::{Micros, micros};
use super::timers::Timers;
use super::wire::{
    Ack, AckFlow, Close, CloseCode, Confirm, Envelope, Hello, PREAMBLE, Ping, Pong, RefuseCode, Welcome,
    offered_versions,
};
use crate::id::{Incarnation, Lane, NodeId};
use crate::settings::Settings;
use crate::stats::{LinkStatus, Stats};
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
    /// Budget came free: senders that wait may try again.
    Room,
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
    },
    /// The peer is going away, and still answers what it has.
    Draining(LinkId),
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
    Opened {
        /// Its lane.
        lane: Lane,
        /// Longest frame the peer may send, bytes.
        frame_bytes_max: usize,
    },
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
    /// Dials started.
    pub dials: u64,
    /// Dials that failed.
    pub dials_failed: u64,
    /// (sent, received) bytes per datacenter, in the order of `Topology::datacenters`.
    pub wire: Vec<(u64, u64)>,
}

enum Stage {
    Dialing,
    AwaitHello,
    AwaitWelcome { hello: Bytes },
    AwaitConfirm { hello: Box<Hello>, transcript: u32, version: u16 },
    Open,
}

struct Conn {
    stage: Stage,
    lane: Lane,
    link: Option<LinkId>,
    opened_at: Micros,
    out: VecDeque<Bytes>,
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
    /// The peer's life at the other end.
    pub incarnation: Incarnation,
    /// Longest frame that may be sent or received, bytes.
    pub frame_bytes_max: usize,
    /// Round trips of pings.
    pub rtt: Rtt,
    nonce: u64,
    conns: [Option<ConnId>; 2],
    up_at: Micros,
    heard_at: Micros,
    used_at: Micros,
    offset: ClockOffset,
    acks: BTreeMap<(u8, u32), AckFlow>,
    acks_due: bool,
}

#[derive(Default)]
struct Dialling {
    wanted: bool,
    link: Option<LinkId>,
    failures: u32,
}

struct Peer {
    spec: NodeSpec,
    datacenter: usize,
    dialling: Dialling,
    accepted: Option<LinkId>,
    highest: Incarnation,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Handshake(ConnId),
    Pair(LinkId),
    Ping(LinkId),
    Silence(LinkId),
    Acks(LinkId),
    Idle(LinkId),
    Redial(PeerIx),
}

/// Pause after the last use of a link that was dialled on demand, before it is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A link that lived so long starts its redial pauses from the shortest again.
const STABLE_AFTER: Duration = Duration::from_secs(1);

/// Refused ranges kept in one ack entry. More come again with the next attempt.
const REFUSED_RANGES_MAX: usize = 1024;

/// The links machine.
pub struct Links {
    /// This node, in its present life.
    pub me: Identity,
    /// Counters.
    pub counters: LinkCounters,
    topology: Arc<Topology>,
    settings: Settings,
    rng: fastrand::Rng,
    conns: BTreeMap<ConnId, Conn>,
    links: BTreeMap<LinkId, Link>,
    peers: Vec<Peer>,
    peer_index: BTreeMap<NodeId, PeerIx>,
    next_conn: u64,
    next_link: u64,
    timers: Timers<Timer>,
    dial_tokens: TokenBucket,
    actions: VecDeque<Action>,
    ready: BTreeSet<ConnId>,
    events: VecDeque<LinkEvent>,
    accepted: usize,
    handshaking: usize,
    draining: bool,
    wall_base_us: u64,
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
        let datacenters = topology.datacenters();
        let peers: Vec<Peer> = topology
            .nodes()
            .map(|spec| Peer {
                spec: spec.clone(),
                datacenter: datacenters.binary_search(&spec.datacenter).expect("listed"),
                dialling: Dialling::default(),
                accepted: None,
                highest: Incarnation::UNKNOWN,
            })
            .collect();
        let peer_index =
            peers.iter().enumerate().map(|(index, peer)| (peer.spec.id.clone(), PeerIx(index))).collect();
        let codes = || RefuseCode::ALL.iter().map(|code| (code.label(), 0)).collect();
        let counters = LinkCounters {
            refused: codes(),
            refused_by_peer: codes(),
            wire: vec![(0, 0); datacenters.len()],
            ..LinkCounters::default()
        };
        Self {
            me,
            counters,
            topology,
            dial_tokens: TokenBucket::new(settings.dials_per_second),
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
            handshaking: 0,
            draining: false,
            wall_base_us,
        }
    }

    /// The wall clock as first seen, carried on by the monotonic one.
    fn wall_us(&self, now: Micros) -> u64 {
        self.wall_base_us.saturating_add(now.0)
    }

    /// The index of a node.
    #[must_use]
    pub fn peer(&self, node: &NodeId) -> Option<PeerIx> {
        self.peer_index.get(node).copied()
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

    /// Asks for a link to a peer, now and after every loss.
    pub fn want(&mut self, peer: PeerIx, now: Micros) {
        let dialling = &mut self.peers[peer.0].dialling;
        if !dialling.wanted {
            dialling.wanted = true;
            if dialling.link.is_none() {
                self.timers.set(Timer::Redial(peer), now);
            }
        }
    }

    /// Asks for a link to a peer once; it closes again when it was idle for a while.
    pub fn want_once(&mut self, peer: PeerIx, now: Micros) {
        let dialling = &self.peers[peer.0].dialling;
        if !dialling.wanted && dialling.link.is_none() && !self.draining {
            self.timers.set_earlier(Timer::Redial(peer), now);
        }
    }

    /// A connection came in.
    ///
    /// # Errors
    /// The last words for it when there are too many.
    pub fn handle_accepted(&mut self, now: Micros) -> Result<ConnId, Bytes> {
        if self.accepted >= self.settings.connections_max || self.handshaking >= self.settings.handshakes_max
        {
            self.count_refusal(RefuseCode::TooManyConnections);
            let refusal =
                Refusal::new(RefuseCode::TooManyConnections, "too many connections: try again later");
            return Err(refuse_bytes(Lane::Control, &refusal, true));
        }
        self.accepted += 1;
        self.handshaking += 1;
        Ok(self.add_conn(Stage::AwaitHello, Lane::Control, None, now))
    }

    /// A dial succeeded.
    pub fn handle_dialed(&mut self, id: ConnId, now: Micros) {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| matches!(conn.stage, Stage::Dialing)) else {
            self.actions.push_back(Action::Close { conn: id, last_words: None });
            return;
        };
        let nonce = conn.link.and_then(|link| self.links.get(&link)).map_or(0, |link| link.nonce);
        let hello = Hello {
            cluster: self.me.cluster.clone(),
            node: self.me.node.clone(),
            datacenter: self.me.datacenter.clone(),
            roles: role_bits(self.me.roles),
            incarnation: self.me.incarnation,
            versions: offered_versions(),
            features: 0,
            frame_bytes_max: u64::try_from(self.settings.frame_bytes_max).unwrap_or(u64::MAX),
            link: nonce,
            lane: u8::try_from(conn.lane.index()).unwrap_or(0),
            sent_us: self.wall_base_us.saturating_add(now.0),
        };
        let body = Bytes::from(super::wire::encode(&hello));
        conn.out.push_back(Bytes::from_static(&PREAMBLE));
        conn.out.push_back(super::frame::frame_around(FrameType::Hello, conn.lane, &body));
        conn.stage = Stage::AwaitWelcome { hello: body };
        conn.opened_at = now;
        self.timers.set(Timer::Handshake(id), now + self.settings.handshake_timeout);
        self.ready.insert(id);
    }

    /// A dial failed.
    pub fn handle_dial_failed(&mut self, id: ConnId, now: Micros) {
        if self.conns.contains_key(&id) {
            self.counters.dials_failed += 1;
            self.drop_conn(id, None, now);
        }
    }

    /// A connection ended, from outside.
    pub fn handle_closed(&mut self, id: ConnId, now: Micros) {
        self.drop_conn(id, None, now);
    }

    /// A run names a roster row that was never announced: the peer lost its books.
    pub fn handle_unknown_row(&mut self, id: ConnId, now: Micros) {
        self.protocol_error(id, "unknown_row", "a run of a roster row that was never announced", now);
    }

    /// The peer's bytes are no frames.
    pub fn handle_bad_frame(&mut self, id: ConnId, error: &FrameError, now: Micros) {
        self.protocol_error(id, error.label(), &error.to_string(), now);
    }

    /// A frame came.
    pub fn handle_frame(&mut self, id: ConnId, received: Received, bytes: usize, now: Micros) -> Arrived {
        let Some(conn) = self.conns.get_mut(&id) else {
            return Arrived::Nothing;
        };
        if let Some(link) = conn.link.and_then(|link| self.links.get_mut(&link)) {
            let datacenter = self.peers[link.peer.0].datacenter;
            self.counters.wire[datacenter].1 += u64::try_from(bytes).unwrap_or(0);
            // Liveness is judged on control: a dead peer's bulk bytes may still be on their way.
            if conn.lane == Lane::Control {
                link.heard_at = now;
            }
        }
        match (&conn.stage, received) {
            (Stage::AwaitHello, Received::Hello(hello, body)) => self.take_hello(id, hello, &body, now),
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
        let wall_us = self.wall_us(now);
        let Some(conn) = self.conns.get_mut(&id) else { return Arrived::Nothing };
        let (Some(link_id), lane) = (conn.link, conn.lane) else { return Arrived::Nothing };
        let Some(link) = self.links.get_mut(&link_id) else { return Arrived::Nothing };
        match (received, lane) {
            (Received::Roster(roster), _) => {
                if let Err(what) = conn.roster_in.extend(roster) {
                    self.protocol_error(id, "roster", what, now);
                }
                Arrived::Nothing
            }
            (Received::Batch(envelope, frame), _) => {
                link.used_at = now;
                Arrived::Batch { link: link_id, conn: id, lane, envelope, frame }
            }
            (Received::Ack(ack), Lane::Control) => Arrived::Ack { link: link_id, ack },
            (Received::Ping(ping), Lane::Control) => {
                let pong = Pong { ping_sent_us: ping.sent_us, ping_received_us: wall_us, sent_us: wall_us };
                // A peer that pings without reading gets one pong, not a queue of them.
                if conn.out.len() < 64 {
                    conn.out.push_back(control_frame(FrameType::Pong, lane, &pong));
                    self.ready.insert(id);
                }
                Arrived::Nothing
            }
            (Received::Pong(pong), Lane::Control) => {
                let sample =
                    link.offset.sample(pong.ping_sent_us, pong.ping_received_us, pong.sent_us, wall_us);
                if let Some(rtt) = sample {
                    link.rtt.sample(rtt);
                }
                Arrived::Nothing
            }
            (Received::Close(close), _) => {
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

    fn take_hello(&mut self, id: ConnId, hello: Hello, body: &Bytes, now: Micros) -> Arrived {
        let lane = Lane::from_index(hello.lane);
        let seen = self.peer(&hello.node).map_or(Incarnation::UNKNOWN, |peer| self.peers[peer.0].highest);
        let checked =
            check_hello(&hello, &self.me, &self.topology, seen).and_then(|(_, version)| match lane {
                _ if self.draining => Err(Refusal::new(RefuseCode::Draining, "this node is going away")),
                Some(lane) => Ok((lane, version)),
                None => Err(Refusal::new(RefuseCode::Malformed, "a lane is 0 or 1")),
            });
        let (lane, version) = match checked {
            Ok(checked) => checked,
            Err(refusal) => {
                self.refuse(id, &refusal, now);
                return Arrived::Nothing;
            }
        };
        let peer = self.peer(&hello.node).expect("the topology knows it");
        let paired = self.links.iter().find(|(_, link)| {
            !link.dialled
                && link.peer == peer
                && link.nonce == hello.link
                && link.incarnation == hello.incarnation
        });
        let link_id = match paired.map(|(id, link)| (*id, link.conns[lane.index()])) {
            Some((_, Some(_))) => {
                self.refuse(id, &Refusal::new(RefuseCode::Malformed, "this lane of the link is taken"), now);
                return Arrived::Nothing;
            }
            Some((link_id, None)) => link_id,
            None => {
                let link_id = self.add_link(peer, false, hello.link, now);
                self.timers.set(Timer::Pair(link_id), now + self.settings.handshake_timeout);
                link_id
            }
        };
        let link = self.links.get_mut(&link_id).expect("just found or made");
        link.conns[lane.index()] = Some(id);
        link.incarnation = hello.incarnation;
        link.frame_bytes_max =
            self.settings.frame_bytes_max.min(usize::try_from(hello.frame_bytes_max).unwrap_or(usize::MAX));
        let welcome = Welcome {
            cluster: self.me.cluster.clone(),
            node: self.me.node.clone(),
            datacenter: self.me.datacenter.clone(),
            roles: role_bits(self.me.roles),
            incarnation: self.me.incarnation,
            versions: offered_versions(),
            features: 0,
            frame_bytes_max: u64::try_from(self.settings.frame_bytes_max).unwrap_or(u64::MAX),
            version,
            hello_sent_us: hello.sent_us,
            hello_received_us: self.wall_us(now),
            sent_us: self.wall_us(now),
        };
        let answer = super::wire::encode(&welcome);
        let conn = self.conns.get_mut(&id).expect("it brought this frame");
        conn.lane = lane;
        conn.link = Some(link_id);
        conn.out.push_back(Bytes::from_static(&PREAMBLE));
        conn.out.push_back(super::frame::frame_around(FrameType::Welcome, lane, &answer));
        conn.stage =
            Stage::AwaitConfirm { transcript: transcript(body, &answer), hello: Box::new(hello), version };
        self.ready.insert(id);
        Arrived::Nothing
    }

    fn take_welcome(&mut self, id: ConnId, welcome: Welcome, body: &Bytes, now: Micros) -> Arrived {
        let wall_us = self.wall_us(now);
        let Some(conn) = self.conns.get_mut(&id) else { return Arrived::Nothing };
        let (Stage::AwaitWelcome { hello }, Some(link_id)) = (&conn.stage, conn.link) else {
            return Arrived::Nothing;
        };
        let Some(link) = self.links.get_mut(&link_id) else { return Arrived::Nothing };
        let peer = &mut self.peers[link.peer.0];
        if let Err(refusal) = check_welcome(&welcome, &peer.spec.id, &self.me, &self.topology, peer.highest) {
            self.refuse(id, &refusal, now);
            return Arrived::Nothing;
        }
        let lane = conn.lane;
        let confirm = Confirm { version: welcome.version, transcript: transcript(hello, body) };
        conn.out.push_back(control_frame(FrameType::Confirm, lane, &confirm));
        conn.stage = Stage::Open;
        peer.highest = welcome.incarnation;
        link.incarnation = welcome.incarnation;
        link.frame_bytes_max =
            self.settings.frame_bytes_max.min(usize::try_from(welcome.frame_bytes_max).unwrap_or(usize::MAX));
        let frame_bytes_max = link.frame_bytes_max;
        let sample =
            link.offset.sample(welcome.hello_sent_us, welcome.hello_received_us, welcome.sent_us, wall_us);
        if let Some(rtt) = sample {
            link.rtt.sample(rtt);
        }
        self.ready.insert(id);
        self.conn_opened(id, link_id, now);
        Arrived::Opened { lane, frame_bytes_max }
    }

    fn take_confirm(&mut self, id: ConnId, confirm: Confirm, now: Micros) -> Arrived {
        let Some(conn) = self.conns.get_mut(&id) else { return Arrived::Nothing };
        let (Stage::AwaitConfirm { hello, transcript, version }, Some(link_id)) = (&conn.stage, conn.link)
        else {
            return Arrived::Nothing;
        };
        if confirm != (Confirm { version: *version, transcript: *transcript }) {
            let refusal = Refusal::new(RefuseCode::VersionsStripped, "the handshake was altered on its way");
            self.refuse(id, &refusal, now);
            return Arrived::Nothing;
        }
        let (incarnation, lane) = (hello.incarnation, conn.lane);
        conn.stage = Stage::Open;
        self.handshaking -= 1;
        let Some(link) = self.links.get(&link_id) else { return Arrived::Nothing };
        let (peer, frame_bytes_max) = (link.peer, link.frame_bytes_max);
        if incarnation < self.peers[peer.0].highest {
            let refusal = Refusal {
                highest: self.peers[peer.0].highest,
                ..Refusal::new(RefuseCode::StaleIncarnation, "a newer life of this node is linked")
            };
            self.refuse(id, &refusal, now);
            return Arrived::Nothing;
        }
        self.peers[peer.0].highest = incarnation;
        self.conn_opened(id, link_id, now);
        Arrived::Opened { lane, frame_bytes_max }
    }

    fn conn_opened(&mut self, id: ConnId, link_id: LinkId, now: Micros) {
        self.counters.handshakes += 1;
        self.timers.clear(Timer::Handshake(id));
        let open = |conn: &Option<ConnId>| {
            conn.and_then(|conn| self.conns.get(&conn)).is_some_and(|conn| matches!(conn.stage, Stage::Open))
        };
        let Some(link) = self.links.get(&link_id) else { return };
        if !link.conns.iter().all(open) {
            return;
        }
        let (peer, dialled) = (link.peer, link.dialled);
        if !dialled
            && let Some(old) = self.peers[peer.0].accepted.replace(link_id).filter(|old| *old != link_id)
        {
            self.drop_link(old, None, now);
        }
        self.timers.clear(Timer::Pair(link_id));
        self.timers.set(Timer::Silence(link_id), now + self.settings.silence_timeout);
        if dialled {
            self.timers.set(Timer::Ping(link_id), now + self.settings.ping_interval);
            if !self.peers[peer.0].dialling.wanted {
                self.timers.set(Timer::Idle(link_id), now + IDLE_TIMEOUT);
            }
        }
        if let Some(link) = self.links.get_mut(&link_id) {
            (link.up, link.up_at, link.heard_at, link.used_at) = (true, now, now, now);
            self.ready.extend(link.conns.iter().flatten());
        }
        if self.draining {
            self.say_draining(link_id);
        }
        self.events.push_back(LinkEvent::Up(link_id));
    }

    fn take_refuse(&mut self, id: ConnId, refuse: &super::wire::Refuse, now: Micros) {
        let code = RefuseCode::from_wire(refuse.code);
        *self.counters.refused_by_peer.entry(code.map_or("unknown", RefuseCode::label)).or_default() += 1;
        if let Some(link) =
            self.conns.get(&id).and_then(|conn| conn.link).and_then(|link| self.links.get(&link))
        {
            let peer = &self.peers[link.peer.0].spec.id;
            tracing::warn!(%peer, code = refuse.code, detail = %refuse.detail.escape_debug(), "peer refuses the link");
        }
        self.drop_conn(id, None, now);
        if code == Some(RefuseCode::StaleIncarnation)
            && let Some(incarnation) = adopt(self.me.incarnation, refuse.highest_incarnation)
        {
            self.me.incarnation = incarnation;
            for link in self.links.keys().copied().collect::<Vec<_>>() {
                self.drop_link(link, None, now);
            }
            self.events.push_back(LinkEvent::Reincarnated(incarnation));
        }
    }

    fn count_refusal(&mut self, code: RefuseCode) {
        *self.counters.refused.entry(code.label()).or_default() += 1;
    }

    fn refuse(&mut self, id: ConnId, refusal: &Refusal, now: Micros) {
        self.count_refusal(refusal.code);
        tracing::warn!(code = refusal.code.label(), detail = %refusal.detail, "link refused");
        let Some(conn) = self.conns.get(&id) else { return };
        // The acceptor has said nothing yet and owes its preamble.
        let silent = matches!(conn.stage, Stage::AwaitHello);
        let words = refuse_bytes(conn.lane, refusal, silent);
        self.drop_conn(id, Some(words), now);
    }

    fn protocol_error(&mut self, id: ConnId, label: &'static str, detail: &str, now: Micros) {
        let Some(conn) = self.conns.get(&id) else { return };
        *self.counters.protocol_errors.entry(label).or_default() += 1;
        if matches!(conn.stage, Stage::Open) {
            let peer =
                conn.link.and_then(|link| self.links.get(&link)).map(|link| &self.peers[link.peer.0].spec.id);
            tracing::warn!(?peer, lane = %conn.lane, error = detail, "peer breaks the protocol, connection closed");
            let close = Close { code: CloseCode::Closing as u16 };
            let words = control_frame(FrameType::Close, conn.lane, &close);
            self.drop_conn(id, Some(words), now);
        } else {
            self.refuse(id, &Refusal::new(RefuseCode::Malformed, detail), now);
        }
    }

    fn add_conn(&mut self, stage: Stage, lane: Lane, link: Option<LinkId>, now: Micros) -> ConnId {
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        let conn = Conn {
            stage,
            lane,
            link,
            opened_at: now,
            out: VecDeque::new(),
            roster_out: RosterOut::default(),
            roster_in: RosterIn::default(),
        };
        self.conns.insert(id, conn);
        self.timers.set(Timer::Handshake(id), now + self.settings.handshake_timeout);
        id
    }

    fn add_link(&mut self, peer: PeerIx, dialled: bool, nonce: u64, now: Micros) -> LinkId {
        let id = LinkId(self.next_link);
        self.next_link += 1;
        let link = Link {
            peer,
            dialled,
            up: false,
            draining: false,
            incarnation: Incarnation::UNKNOWN,
            frame_bytes_max: self.settings.frame_bytes_max,
            rtt: Rtt::default(),
            nonce,
            conns: [None; 2],
            up_at: now,
            heard_at: now,
            used_at: now,
            offset: ClockOffset::default(),
            acks: BTreeMap::new(),
            acks_due: false,
        };
        self.links.insert(id, link);
        id
    }

    /// Forgets a connection, and with it its link.
    fn drop_conn(&mut self, id: ConnId, last_words: Option<Bytes>, now: Micros) {
        match self.conns.get(&id).map(|conn| conn.link) {
            None => {}
            Some(None) => self.remove_conn(id, last_words),
            Some(Some(link)) => {
                if self.links.contains_key(&link) {
                    self.drop_link(link, last_words.map(|words| (id, words)), now);
                } else {
                    self.remove_conn(id, last_words);
                }
            }
        }
    }

    fn remove_conn(&mut self, id: ConnId, last_words: Option<Bytes>) {
        let Some(conn) = self.conns.remove(&id) else { return };
        let dialled = match conn.stage {
            Stage::AwaitHello | Stage::AwaitConfirm { .. } => {
                self.handshaking -= 1;
                false
            }
            Stage::Dialing | Stage::AwaitWelcome { .. } => true,
            Stage::Open => conn.link.and_then(|link| self.links.get(&link)).is_some_and(|link| link.dialled),
        };
        if !dialled {
            self.accepted -= 1;
        }
        self.timers.clear(Timer::Handshake(id));
        self.ready.remove(&id);
        self.actions.push_back(Action::Close { conn: id, last_words });
    }

    fn drop_link(&mut self, link_id: LinkId, mut last_words: Option<(ConnId, Bytes)>, now: Micros) {
        let Some(link) = self.links.get(&link_id) else { return };
        let (peer, up, dialled, conns, up_at) = (link.peer, link.up, link.dialled, link.conns, link.up_at);
        for conn in conns.into_iter().flatten() {
            let words = last_words.take_if(|(id, _)| *id == conn).map(|(_, words)| words);
            self.remove_conn(conn, words);
        }
        self.links.remove(&link_id);
        for timer in [Timer::Pair, Timer::Ping, Timer::Silence, Timer::Acks, Timer::Idle] {
            self.timers.clear(timer(link_id));
        }
        let entry = &mut self.peers[peer.0];
        if dialled {
            entry.dialling.link = None;
            let stable = up && now.since(up_at) >= STABLE_AFTER;
            entry.dialling.failures = if stable { 0 } else { entry.dialling.failures.saturating_add(1) };
            if entry.dialling.wanted && !self.draining {
                let pause = self.redial_pause(self.peers[peer.0].dialling.failures);
                self.timers.set(Timer::Redial(peer), now + pause);
            }
            if !up {
                self.events.push_back(LinkEvent::DialFailed(peer));
            }
        } else if entry.accepted == Some(link_id) {
            entry.accepted = None;
        }
        if up {
            self.events.push_back(LinkEvent::Down { link: link_id, peer });
        }
    }

    /// Full jitter: anywhere between nothing and the doubled pause, so that peers do not come back in step.
    fn redial_pause(&mut self, failures: u32) -> Duration {
        let (min, max) = (micros(self.settings.redial_min), micros(self.settings.redial_max));
        let ceiling = min.saturating_mul(1 << failures.min(20)).min(max);
        Duration::from_micros(self.rng.u64(0..=ceiling))
    }

    fn dial(&mut self, peer: PeerIx, now: Micros) {
        let entry = &self.peers[peer.0];
        let (Some(address), None) = (entry.spec.address, entry.dialling.link) else { return };
        if let Err(later) = self.dial_tokens.take(now) {
            self.timers.set(Timer::Redial(peer), later);
            return;
        }
        let node = entry.spec.id.clone();
        let nonce = self.rng.u64(..);
        let link_id = self.add_link(peer, true, nonce, now);
        self.peers[peer.0].dialling.link = Some(link_id);
        for lane in Lane::ALL {
            let conn = self.add_conn(Stage::Dialing, lane, Some(link_id), now);
            self.links.get_mut(&link_id).expect("just made").conns[lane.index()] = Some(conn);
            self.counters.dials += 1;
            self.actions.push_back(Action::Dial { conn, peer: node.clone(), address, lane });
        }
    }

    /// An ack entry for a peer. A later one for the same row replaces it, refusals are kept.
    pub fn queue_ack(&mut self, link_id: LinkId, entry: AckFlow, at: Micros, now: Micros) {
        let Some(link) = self.links.get_mut(&link_id) else { return };
        let key = (entry.lane, entry.flow);
        match link.acks.get_mut(&key) {
            None => {
                link.acks.insert(key, entry);
            }
            Some(old) => {
                let mut refused = std::mem::take(&mut old.refused);
                refused.extend(&entry.refused);
                refused.truncate(REFUSED_RANGES_MAX);
                *old = AckFlow { refused, ..entry };
            }
        }
        if at > now {
            self.timers.set_earlier(Timer::Acks(link_id), at);
        } else {
            self.release_acks(link_id);
        }
    }

    fn release_acks(&mut self, link_id: LinkId) {
        let Some(link) = self.links.get_mut(&link_id) else { return };
        link.acks_due = true;
        self.timers.clear(Timer::Acks(link_id));
        self.ready.extend(link.conns[Lane::Control.index()]);
    }

    /// Acks wait to be written.
    #[must_use]
    pub fn has_acks(&self) -> bool {
        self.links.values().any(|link| link.up && !link.acks.is_empty())
    }

    /// The frames of this connection's own that are to be written now.
    pub fn poll_frames(&mut self, id: ConnId, out: &mut Vec<Bytes>) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        out.extend(conn.out.drain(..));
        let open = matches!(conn.stage, Stage::Open);
        let Some(link) = conn.link.and_then(|link| self.links.get_mut(&link)) else { return };
        if open && conn.lane == Lane::Control && link.acks_due {
            link.acks_due = false;
            let flows: Vec<AckFlow> = std::mem::take(&mut link.acks).into_values().collect();
            // An entry is below 12 KiB: a hundred stay far below the limit of a control body.
            for part in flows.chunks(64).filter(|part| !part.is_empty()) {
                out.push(control_frame(FrameType::Ack, Lane::Control, &Ack { flows: part.to_vec() }));
            }
        }
    }

    /// The rows that must be announced in front of what is sent next on this lane.
    pub fn poll_roster(&mut self, link: LinkId, lane: Lane) -> Option<Bytes> {
        let mut frames = Vec::new();
        while let Some(roster) = self.roster_out(link, lane)?.poll_announcement() {
            frames.extend_from_slice(&control_frame(FrameType::Roster, lane, &roster));
        }
        (!frames.is_empty()).then(|| Bytes::from(frames))
    }

    /// Bytes went out.
    pub fn handle_written(&mut self, id: ConnId, bytes: usize, data: bool, now: Micros) {
        let Some(conn) = self.conns.get(&id) else { return };
        let Some(link) = conn.link.and_then(|link| self.links.get_mut(&link)) else { return };
        self.counters.wire[self.peers[link.peer.0].datacenter].0 += u64::try_from(bytes).unwrap_or(0);
        if data {
            link.used_at = now;
        }
    }

    /// Rings what is due.
    pub fn handle_timeout(&mut self, now: Micros) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Handshake(conn) => {
                    let dialled =
                        self.conns.get(&conn).is_some_and(|conn| matches!(conn.stage, Stage::Dialing));
                    if dialled {
                        self.counters.dials_failed += 1;
                        self.drop_conn(conn, None, now);
                    } else {
                        self.refuse(
                            conn,
                            &Refusal::new(RefuseCode::Timeout, "the handshake took too long"),
                            now,
                        );
                    }
                }
                Timer::Pair(link) => self.drop_link(link, None, now),
                Timer::Ping(link_id) => {
                    if let Some(conn) =
                        self.conn_of(link_id, Lane::Control).and_then(|id| self.conns.get_mut(&id))
                    {
                        // Unwritten pings pile up no further: the silence timeout will end this link.
                        if conn.out.is_empty() {
                            let ping = Ping { sent_us: self.wall_base_us.saturating_add(now.0) };
                            conn.out.push_back(control_frame(FrameType::Ping, Lane::Control, &ping));
                        }
                        self.ready.extend(self.conn_of(link_id, Lane::Control));
                        self.timers.set(Timer::Ping(link_id), now + self.settings.ping_interval);
                    }
                }
                Timer::Silence(link_id) => self.check_silence(link_id, now),
                Timer::Acks(link) => self.release_acks(link),
                Timer::Idle(link_id) => {
                    let Some(link) = self.links.get(&link_id) else { continue };
                    let idle_at = link.used_at + IDLE_TIMEOUT;
                    if idle_at <= now {
                        self.drop_link(link_id, None, now);
                    } else {
                        self.timers.set(Timer::Idle(link_id), idle_at);
                    }
                }
                Timer::Redial(peer) => {
                    if !self.draining {
                        self.dial(peer, now);
                    }
                }
            }
        }
    }

    fn check_silence(&mut self, link_id: LinkId, now: Micros) {
        let Some(link) = self.links.get(&link_id) else { return };
        let until = link.heard_at + self.settings.silence_timeout;
        if until <= now {
            let peer = &self.peers[link.peer.0].spec.id;
            tracing::warn!(%peer, "peer has been silent for too long, link closed");
            self.drop_link(link_id, None, now);
        } else {
            self.timers.set(Timer::Silence(link_id), until);
        }
    }

    /// Tells all peers that this node is going away; opens no more links.
    pub fn drain(&mut self) {
        self.draining = true;
        for link in self.links.iter().filter(|(_, link)| link.up).map(|(id, _)| *id).collect::<Vec<_>>() {
            self.say_draining(link);
        }
    }

    fn say_draining(&mut self, link: LinkId) {
        let Some(id) = self.conn_of(link, Lane::Control) else { return };
        if let Some(conn) = self.conns.get_mut(&id) {
            let close = Close { code: CloseCode::Draining as u16 };
            conn.out.push_back(control_frame(FrameType::Close, Lane::Control, &close));
            self.ready.insert(id);
        }
    }

    /// Closes everything, saying so.
    pub fn close_all(&mut self, now: Micros) {
        self.draining = true;
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            let words = self.conn_of(id, Lane::Control).map(|conn| {
                let close = Close { code: CloseCode::Closing as u16 };
                (conn, control_frame(FrameType::Close, Lane::Control, &close))
            });
            let up = self.links.get(&id).is_some_and(|link| link.up);
            self.drop_link(id, words.filter(|_| up), now);
        }
        for id in self.conns.keys().copied().collect::<Vec<_>>() {
            self.remove_conn(id, None);
        }
    }

    /// Marks a connection as having something to send.
    pub fn wake(&mut self, conn: ConnId) {
        if self.conns.contains_key(&conn) {
            self.ready.insert(conn);
        }
    }

    /// Ends a link whose books are full; it is dialled again.
    pub fn replace(&mut self, link: LinkId, now: Micros) {
        self.drop_link(link, None, now);
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

    /// When `handle_timeout` has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Micros {
        self.timers.next()
    }

    /// Adds what links counted to the node's stats.
    pub fn add_to(&self, stats: &mut Stats) {
        let counters = &self.counters;
        stats.handshakes = counters.handshakes;
        stats.handshakes_refused = counters.refused.clone();
        stats.handshakes_refused_by_peer = counters.refused_by_peer.clone();
        stats.protocol_errors = counters.protocol_errors.clone();
        stats.dials = counters.dials;
        stats.dials_failed = counters.dials_failed;
        for (name, (sent, received)) in self.topology.datacenters().into_iter().zip(&counters.wire) {
            let row = stats.datacenters.entry(name).or_default();
            row.sent.wire = *sent;
            row.received_wire = *received;
        }
    }

    /// All links, for people.
    #[must_use]
    pub fn status(&self) -> Vec<LinkStatus> {
        self.links
            .values()
            .map(|link| {
                let spec = self.spec(link.peer);
                LinkStatus {
                    peer: spec.id.clone(),
                    datacenter: spec.datacenter.clone(),
                    dialled: link.dialled,
                    up: link.up,
                    draining: link.draining,
                    incarnation: link.incarnation,
                    rtt_us: link.rtt.smoothed_us(),
                    rtt_min_us: link.rtt.min_us(),
                    clock_offset_us: link.offset.us(),
                }
            })
            .collect()
    }
}

fn refuse_bytes(lane: Lane, refusal: &Refusal, with_preamble: bool) -> Bytes {
    let frame = control_frame(FrameType::Refuse, lane, &refusal.body());
    if with_preamble { [&PREAMBLE[..], &frame[..]].concat().into() } else { frame }
}
