//! Connections that come in, in any state and order: places are counted right, and all of them come back.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use trunkline_mesh::id::{Incarnation, Lane};
use trunkline_mesh::proto::frame::{FrameType, Received, control_frame, frame_around};
use trunkline_mesh::proto::handshake::transcript;
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::wire::{Close, CloseCode, Confirm, PREAMBLE, Ping, Refuse, WIRE_VERSION, encode};
use trunkline_mesh::settings::Settings;

use super::shell::{Peer, Shell, batch_frame, flow, id, roster_frame, run, topology};

#[derive(Clone, Debug)]
enum Step {
    Accept,
    /// A connection says who it is: name, lane, link, life.
    Hello(usize, usize, usize, u64, u64),
    /// It confirms, rightly or not.
    Confirm(usize, bool),
    /// Its socket ends.
    Lose(usize),
    /// It says something that ends it, or may.
    Say(usize, u8),
    /// ms.
    Time(u16),
}

const NAMES: [&str; 3] = ["o", "o2", "m2"];
const HANDSHAKES_MAX: usize = 4;
const CONNECTIONS_MAX: usize = 7;

fn step() -> impl Strategy<Value = Step> {
    let at = || 0..8_usize;
    prop_oneof![
        4 => Just(Step::Accept),
        6 => (at(), prop_oneof![6 => Just(0_usize), 3 => Just(1), 1 => Just(2)], 0..2_usize, 0..2_u64,
              prop_oneof![6 => Just(100_u64), 1 => 98..103_u64])
            .prop_map(|(at, name, lane, link, life)| Step::Hello(at, name, lane, link, life)),
        6 => (at(), prop::bool::weighted(0.9)).prop_map(|(at, right)| Step::Confirm(at, right)),
        1 => at().prop_map(Step::Lose),
        1 => (at(), 0..5_u8).prop_map(|(at, what)| Step::Say(at, what)),
        1 => prop_oneof![0..15_u16, 0..7000_u16].prop_map(Step::Time),
    ]
}

/// A connection as its other end sees it.
#[derive(Clone)]
enum Said {
    Nothing,
    /// Its lane, the Hello, and the Welcome.
    Hello(Lane, Bytes, Bytes),
    Confirm(Lane),
}

struct Doors {
    shell: Shell,
    said: BTreeMap<ConnId, Said>,
}

impl Doors {
    /// A connection, of those that got so far.
    fn pick(&self, at: usize, far: impl Fn(&Said) -> bool) -> Option<(ConnId, Said)> {
        let those: Vec<_> = self.said.iter().filter(|(_, said)| far(said)).collect();
        those.get(at % those.len().max(1)).map(|(conn, said)| (**conn, (*said).clone()))
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Accept => {
                let conn = self.shell.try_accept();
                self.said.extend(conn.map(|conn| (conn, Said::Nothing)));
            }
            Step::Hello(at, name, lane, link, life) => {
                let Some((conn, _)) = self.pick(at, |said| matches!(said, Said::Nothing)) else { return };
                let lane = Lane::ALL[lane];
                let hello = encode(&Peer { life, ..Peer::new(NAMES[name]) }.hello(lane, link));
                self.shell
                    .feed(conn, &[&PREAMBLE[..], &frame_around(FrameType::Hello, lane, &hello)].concat());
                if let Some(Received::Welcome(_, body)) = self.shell.sent(conn).into_iter().next() {
                    self.said.insert(conn, Said::Hello(lane, hello.into(), body));
                }
            }
            Step::Confirm(at, right) => {
                let said = self.pick(at, |said| matches!(said, Said::Hello(..)));
                let Some((conn, Said::Hello(lane, hello, welcome))) = said else { return };
                let transcript = transcript(&hello, &welcome) ^ u32::from(!right);
                let confirm = Confirm { version: WIRE_VERSION, transcript };
                self.said.insert(conn, Said::Confirm(lane));
                self.shell.open_peer(conn, lane);
                self.shell.feed(conn, &control_frame(FrameType::Confirm, lane, &confirm));
            }
            Step::Lose(at) => {
                let Some((conn, _)) = self.pick(at, |_| true) else { return };
                self.shell.node.handle_closed(conn, self.shell.now);
                self.shell.drain();
            }
            Step::Say(at, what) => {
                let Some((conn, said)) = self.pick(at, |_| true) else { return };
                let (Said::Hello(lane, ..) | Said::Confirm(lane)) = said else { return };
                let highest_incarnation = Incarnation(1000);
                let bytes = match what {
                    0 => control_frame(FrameType::Ping, lane, &Ping { sent_us: 1 }),
                    1 => control_frame(FrameType::Close, lane, &Close { code: CloseCode::Closing as u16 }),
                    2 => control_frame(FrameType::Close, lane, &Close { code: CloseCode::Draining as u16 }),
                    3 => control_frame(
                        FrameType::Refuse,
                        lane,
                        &Refuse { code: 8, detail: String::new(), highest_incarnation },
                    ),
                    _ => Bytes::from_static(&[0; 16]),
                };
                self.shell.feed(conn, &bytes);
            }
            Step::Time(ms) => self.shell.advance(Duration::from_millis(u64::from(ms))),
        }
        self.said.retain(|conn, _| !self.shell.closed.contains_key(conn));
        assert!(self.said.len() <= CONNECTIONS_MAX);
        let up = self.shell.node.status(self.shell.now).links.iter().filter(|link| link.up).count();
        // Up, so both are there; but one of them may have ended a moment ago.
        assert!(self.said.len() <= HANDSHAKES_MAX + 2 * up, "{} and {up} links", self.said.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_place_of_a_connection_comes_back(steps in prop::collection::vec(step(), 1..80)) {
        let settings = Settings {
            handshakes_max: HANDSHAKES_MAX,
            connections_max: CONNECTIONS_MAX,
            ..Settings::default()
        };
        let mut doors = Doors { shell: Shell::with("m", 0, settings), said: BTreeMap::new() };
        steps.into_iter().for_each(|step| doors.step(step));
        for _ in 0..10 {
            doors.shell.advance(Duration::from_secs(1));
        }
        prop_assert!(doors.said.keys().all(|conn| doors.shell.closed.contains_key(conn)), "silent for too long");
        let ended = doors.shell.closed.len();
        prop_assert!((0..HANDSHAKES_MAX).all(|_| doors.shell.try_accept().is_some()));
        prop_assert_eq!(doors.shell.closed.len(), ended, "all places are free");
        prop_assert!(doors.shell.try_accept().is_some());
        prop_assert_eq!(doors.shell.closed.len(), ended + 1, "and no more of them than there are");
    }
}

/// One bit of a length on its way: what follows is taken for a part of the body, and nothing else says that it is not.
#[test]
fn a_control_body_that_never_ends_ends_its_connection_though_bytes_flow() {
    let mut shell = Shell::new("m");
    let [control, bulk] = shell.link_in(&Peer::new("o"));
    shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
    let beat = |shell: &mut Shell| {
        shell.feed(control, &control_frame(FrameType::Ping, Lane::Control, &Ping { sent_us: 1 }));
    };
    // In small pieces a frame comes to its end, and time begins anew.
    for seq in 1..=8 {
        for part in batch_frame(Lane::Bulk, vec![run(0, seq, 1, 0)], b"slow").chunks(20) {
            shell.advance(Duration::from_millis(400));
            beat(&mut shell);
            shell.feed(bulk, part);
        }
    }
    assert_eq!(std::iter::from_fn(|| shell.node.poll_delivery(shell.now)).count(), 8);
    for _ in 0..20 {
        shell.advance(Duration::from_millis(400));
        beat(&mut shell);
    }
    assert!(!shell.closed.contains_key(&bulk), "nothing is waited for");
    // A payload may take longer than any control body.
    let long = batch_frame(Lane::Bulk, vec![run(0, 9, 1, 0)], &[7; 400]);
    let (front, payload) = long.split_at(long.len() - 390);
    shell.feed(bulk, &front[..front.len() - 5]);
    shell.feed(bulk, &front[front.len() - 5..]);
    for part in payload.chunks(20) {
        shell.advance(Duration::from_millis(400));
        beat(&mut shell);
        shell.feed(bulk, part);
    }
    assert_eq!(std::iter::from_fn(|| shell.node.poll_delivery(shell.now)).count(), 1);
    let frame = batch_frame(Lane::Bulk, vec![run(0, 10, 1, 0)], b"lost");
    let mut damaged = frame.clone();
    damaged[6] ^= 1;
    shell.feed(bulk, &damaged);
    let mut passed = Duration::ZERO;
    while !shell.closed.contains_key(&bulk) {
        shell.advance(Duration::from_millis(10));
        passed += Duration::from_millis(10);
        assert!(passed < Duration::from_secs(5), "for ever");
        if passed.as_millis().is_multiple_of(100) {
            beat(&mut shell);
            shell.feed(bulk, &frame);
        }
    }
    assert_eq!(passed, Duration::from_secs(4), "silence timeout, and a second for 64 KiB");
    assert_eq!((shell.errors("stalled"), shell.errors("checksum")), (1, 0));
}

/// The codes of what it says last.
fn farewells(shell: &mut Shell, conn: ConnId) -> Vec<u16> {
    let codes = shell.sent(conn).into_iter().filter_map(|received| match received {
        Received::Close(close) => Some(close.code),
        _ => None,
    });
    codes.collect()
}

/// The dialler has the link up with the second Welcome, the acceptor with the second Confirm: what is not up here may be up there.
#[test]
fn who_leaves_says_so_on_every_connection_whose_other_end_may_have_the_link_up() {
    let (draining, closing) = (CloseCode::Draining as u16, CloseCode::Closing as u16);
    for confirmed in Lane::ALL {
        let (mut shell, peer) = (Shell::new("m"), Peer::new("o"));
        let conns = Lane::ALL.map(|lane| {
            if lane == confirmed {
                return shell.connect_in(&peer, lane, 1);
            }
            let (conn, hello) = (shell.accept(), encode(&peer.hello(lane, 1)));
            shell.feed(conn, &[&PREAMBLE[..], &frame_around(FrameType::Hello, lane, &hello)].concat());
            assert!(matches!(shell.sent(conn)[..], [Received::Welcome(..)]));
            shell.open_peer(conn, lane);
            conn
        });
        shell.node.drain(shell.now);
        shell.node.close(shell.now);
        shell.drain();
        let said = conns.map(|conn| farewells(&mut shell, conn));
        assert_eq!(said, [vec![draining, closing], vec![draining]], "{confirmed} alone was confirmed");
    }
    // A dial that is welcomed meanwhile.
    let mut shell = Shell::new("o");
    let conns = Lane::ALL.map(|lane| shell.dialed("p", lane));
    shell.node.drain(shell.now);
    shell.drain();
    for (conn, lane) in conns.into_iter().zip(Lane::ALL) {
        assert_eq!(farewells(&mut shell, conn), [], "nothing that could not be read yet");
        shell.open_peer(conn, lane);
        let welcome = frame_around(FrameType::Welcome, lane, &encode(&Peer::new("p").welcome()));
        shell.feed(conn, &[&PREAMBLE[..], &welcome].concat());
        assert_eq!(farewells(&mut shell, conn), [draining], "{lane}");
    }
}

/// Whoever is cut off reads why in its own status and log, and not that its peers drain.
#[test]
fn a_link_that_ends_for_what_the_peer_knows_of_this_node_ends_with_that_word() {
    let ended = |shell: &Shell, why: &str| shell.stats().links_ended[why];
    for (code, why) in [(1, "left"), (2, "left"), (3, "unlisted"), (4, "untrusted"), (999, "left")] {
        let mut shell = Shell::new("m");
        let [control, _] = shell.link_in(&Peer::new("o"));
        shell.feed(control, &control_frame(FrameType::Close, Lane::Control, &Close { code }));
        if code == 1 {
            shell.node.handle_closed(control, shell.now);
            shell.drain();
        }
        assert_eq!(ended(&shell, why), 1, "{code}");
    }
    let said = |end: fn(&mut Shell, ConnId)| {
        let mut shell = Shell::new("m");
        let [control, _] = shell.link_in(&Peer::new("o"));
        shell.sent(control);
        end(&mut shell, control);
        let code = |received| if let Received::Close(close) = received { Some(close.code) } else { None };
        shell.sent(control).into_iter().filter_map(code).collect::<Vec<_>>()
    };
    let unlisted = said(|shell, _| {
        let without = topology(0).without(|known| known.id == id("o"));
        shell.node.set_topology(without.into(), shell.now).expect("it is in it itself");
        shell.drain();
    });
    let untrusted = said(|shell, control| {
        shell.node.handle_distrusted(control, "revoked", shell.now);
        shell.drain();
    });
    assert_eq!((unlisted, untrusted), (vec![3], vec![4]));
}
