//! The handshake, from both ends of it and in any order: connections that come in and dials that succeed or fail, and what
//! their other ends say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use trunkline_mesh::id::{ClusterId, Datacenter, Incarnation, Lane};
use trunkline_mesh::proto::frame::{FrameType, Received, control_frame, frame_around};
use trunkline_mesh::proto::handshake::transcript;
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::wire::{
    Confirm, PREAMBLE, Refuse, RefuseCode, VersionOffer, encode, offered_versions,
};
use trunkline_mesh::settings::Settings;

use super::hand::Hand;
use super::shell::{Peer, Shell, every_frame, frame_of, id};

const HANDSHAKES_MAX: usize = 4;
const CONNECTIONS_MAX: usize = 7;

/// A connection as its other end has it.
struct Side {
    accepted: bool,
    lane: Lane,
    /// The body of the Hello, whoever said it, and that of the Welcome.
    hello: Bytes,
    welcome: Bytes,
}

struct Doors {
    shell: Shell,
    sides: BTreeMap<ConnId, Side>,
    /// Refusals that were read, and connections that were turned away.
    refusals: u64,
}

fn name(hand: &mut Hand<'_>) -> &'static str {
    hand.pick(&["o", "o2", "eo", "o", "eo", "um", "p", "p2", "op"])
}

fn versions(hand: &mut Hand<'_>) -> Vec<VersionOffer> {
    match hand.below(12) {
        0 => Vec::new(),
        1 => vec![(2, 5)],
        2 => vec![(1, 5)],
        3 => [offered_versions(), vec![(9, 9)]].concat(),
        _ => offered_versions(),
    }
}

fn peer(hand: &mut Hand<'_>, name: &'static str) -> Peer {
    let (life, frame_bytes_max, features) = (hand.life(), hand.number(), hand.number());
    Peer { life, frame_bytes_max, features, ..Peer::new(name) }
}

impl Doors {
    /// A connection of those that are still open.
    fn pick(&self, hand: &mut Hand<'_>) -> Option<ConnId> {
        let open = self.sides.keys().filter(|conn| !self.shell.closed.contains_key(conn));
        let open: Vec<ConnId> = open.copied().collect();
        (!open.is_empty()).then(|| hand.pick(&open))
    }

    fn accept(&mut self) {
        match self.shell.try_accept() {
            Some(conn) => {
                let (hello, welcome) = (Bytes::new(), Bytes::new());
                self.sides.insert(conn, Side { accepted: true, lane: Lane::Control, hello, welcome });
            }
            None => self.refusals += 1,
        }
    }

    fn say_hello(&mut self, conn: ConnId, hand: &mut Hand<'_>) {
        let (lane, name) = (hand.lane(), name(hand));
        let mut hello = peer(hand, name).hello(lane, hand.below(3) as u64);
        hello.versions = versions(hand);
        match hand.below(24) {
            0 => hello.lane = hand.byte(),
            1 => hello.cluster = ClusterId::new("d").unwrap(),
            2 => hello.datacenter = Datacenter::new("ap").unwrap(),
            3 => hello.node = id("nobody"),
            _ => {}
        }
        let body = Bytes::from(encode(&hello));
        let side = self.sides.get_mut(&conn).unwrap();
        (side.lane, side.hello) = (lane, body.clone());
        self.shell.feed(conn, &[&PREAMBLE[..], &frame_around(FrameType::Hello, lane, &body)].concat());
    }

    fn say_welcome(&mut self, conn: ConnId, hand: &mut Hand<'_>) {
        let lane = self.sides[&conn].lane;
        let name = hand.pick(&["p", "p2", "um", "m", "p"]);
        let mut welcome = peer(hand, name).welcome();
        welcome.versions = versions(hand);
        match hand.below(24) {
            0 => welcome.version = u16::from(hand.byte()),
            1 => welcome.cluster = ClusterId::new("d").unwrap(),
            2 => welcome.datacenter = Datacenter::new("ap").unwrap(),
            _ => {}
        }
        (welcome.hello_sent_us, welcome.sent_us) = (hand.number(), hand.number());
        let frame = control_frame(FrameType::Welcome, lane, &welcome);
        self.shell.feed(conn, &[&PREAMBLE[..], &frame].concat());
    }

    fn say_confirm(&mut self, conn: ConnId, hand: &mut Hand<'_>) {
        let side = &self.sides[&conn];
        let wrong = u16::from(hand.one_in(16));
        let transcript = transcript(&side.hello, &side.welcome) ^ u32::from(hand.one_in(16));
        let confirm = Confirm { version: 1 + wrong, transcript };
        self.shell.feed(conn, &control_frame(FrameType::Confirm, side.lane, &confirm));
    }

    fn say_anything(&mut self, conn: ConnId, hand: &mut Hand<'_>) {
        let lane = self.sides[&conn].lane;
        let bytes = match hand.below(4) {
            0 => hand.noise().to_vec(),
            1 => frame_of(hand.byte() % 12, lane, hand.noise()),
            2 => {
                let (code, highest) = (u16::from(hand.byte() % 16), Incarnation(hand.life()));
                let refuse = Refuse { code, detail: "no".to_owned(), highest_incarnation: highest };
                control_frame(FrameType::Refuse, lane, &refuse).to_vec()
            }
            _ => {
                let all = every_frame(lane);
                all[hand.below(all.len())].1.clone()
            }
        };
        let start = if hand.one_in(4) { &PREAMBLE[..] } else { &[] };
        self.shell.feed(conn, &[start, &bytes].concat());
    }

    fn step(&mut self, hand: &mut Hand<'_>) {
        let what = hand.below(16);
        let conn = self.pick(hand);
        match (what, conn) {
            (0..3, _) => self.accept(),
            (3..6, Some(conn)) if self.sides[&conn].accepted => self.say_hello(conn, hand),
            (3..6, Some(conn)) => self.say_welcome(conn, hand),
            (6..9, Some(conn)) => self.say_confirm(conn, hand),
            (9 | 10, Some(conn)) => self.say_anything(conn, hand),
            (11, Some(conn)) if hand.one_in(2) => {
                self.shell.node.handle_closed(conn, self.shell.now);
                self.shell.drain();
            }
            (12 | 13, _) if !self.shell.dials.is_empty() => {
                let at = hand.below(self.shell.dials.len());
                let (conn, _, lane) = self.shell.dials.remove(at);
                if hand.one_in(5) {
                    self.shell.node.handle_dial_failed(conn, self.shell.now);
                    self.shell.drain();
                } else {
                    let (hello, welcome) = (Bytes::new(), Bytes::new());
                    self.sides.insert(conn, Side { accepted: false, lane, hello, welcome });
                    self.shell.dial_succeeds(conn);
                }
            }
            (14, _) => {
                let ms = if hand.one_in(8) { 6_000 } else { 3 * u64::from(hand.byte()) };
                self.shell.advance(Duration::from_millis(ms));
            }
            (15, _) if hand.one_in(32) => {
                self.shell.node.drain(self.shell.now);
                self.shell.drain();
            }
            _ => {}
        }
        self.check();
    }

    /// Everybody who was refused was told why, as often as it was counted; places are kept; a peer has one link here.
    fn check(&mut self) {
        for (conn, side) in &mut self.sides {
            for received in self.shell.sent(*conn) {
                match received {
                    Received::Welcome(_, body) => side.welcome = body,
                    Received::Hello(_, body) => side.hello = body,
                    Received::Refuse(refuse) => {
                        assert!(RefuseCode::from_wire(refuse.code).is_some(), "{refuse:?}");
                        assert!(refuse.detail.len() <= 256);
                        assert!(self.shell.closed.contains_key(conn), "a refusal is the last word");
                        self.refusals += 1;
                    }
                    _ => {}
                }
            }
        }
        let stats = self.shell.stats();
        assert_eq!(stats.handshakes_refused.values().sum::<u64>(), self.refusals);
        let closed = &self.shell.closed;
        let open = self.sides.iter().filter(|(conn, side)| side.accepted && !closed.contains_key(conn));
        assert!(open.count() <= CONNECTIONS_MAX);
        let links = self.shell.node.status(self.shell.now).links;
        let accepted: Vec<_> = links.iter().filter(|link| link.up && !link.dialled).collect();
        let peers: BTreeSet<_> = accepted.iter().map(|link| &link.peer).collect();
        assert_eq!(peers.len(), accepted.len(), "one link of each peer is up");
    }
}

/// A node that dials and is dialled.
pub(crate) fn handshake(data: &[u8]) {
    let mut hand = Hand::new(data);
    let settings =
        Settings { handshakes_max: HANDSHAKES_MAX, connections_max: CONNECTIONS_MAX, ..Settings::default() };
    let shell = Shell::with("op", 0, settings);
    let mut doors = Doors { shell, sides: BTreeMap::new(), refusals: 0 };
    let mut life = doors.shell.node.incarnation();
    for _ in 0..200 {
        if hand.is_empty() {
            break;
        }
        doors.step(&mut hand);
        assert!(doors.shell.node.incarnation() >= life, "a life never goes back");
        life = doors.shell.node.incarnation();
    }
    for _ in 0..10 {
        doors.shell.dials.clear();
        doors.shell.advance(Duration::from_secs(1));
        doors.check();
    }
    let closed = &doors.shell.closed;
    assert!(doors.sides.keys().all(|conn| closed.contains_key(conn)), "all were silent for too long");
    let ended = doors.shell.closed.len();
    assert!((0..HANDSHAKES_MAX).all(|_| doors.shell.try_accept().is_some()));
    assert_eq!(doors.shell.closed.len(), ended, "all places are free");
    assert!(doors.shell.try_accept().is_some());
    assert_eq!(doors.shell.closed.len(), ended + 1, "and no more of them than there are");
}
