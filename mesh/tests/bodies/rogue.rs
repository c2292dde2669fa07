//! Nodes whole, and a peer of theirs that is who it says it is and keeps to nothing else: a member, a proxy and an origin
//! each stay within their limits, end what is not legal with words and a count, and serve their other peers as before.

use std::collections::BTreeMap;
use std::time::Duration;

use trunkline_mesh::id::{Datacenter, Incarnation, Lane, NodeId};
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::proto::client::Decided;
use trunkline_mesh::proto::frame::{FrameType, Received, control_frame};
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::wire::{Close, Ping, Pong, Refuse, Run};
use trunkline_mesh::settings::{MESSAGE_OVERHEAD_BYTES, Settings};

use super::hand::Hand;
use super::honest::{self, Origin, Server};
use super::shell::{Peer, Shell, ack_frame, batch_around, every_frame, flow, frame_of, id, roster_frame};

/// Payload of the largest run that a hand makes, bytes.
const RUN_BYTES_MAX: usize = 16 * (32 * 60 + 4);

/// Steps of one input.
const STEPS_MAX: usize = 120;

/// A node and its rogue peer.
struct Scene {
    shell: Shell,
    peer: Peer,
    /// The node dials it, rather than being dialled.
    dialled: bool,
    conns: Option<[ConnId; 2]>,
    /// Half a frame may have been said: what follows is anything.
    dirty: bool,
    /// Rows it announced over bulk.
    rows: u32,
    /// Whose messages it says it has.
    origins: &'static [&'static str],
    /// Both connections of all honest peers.
    honest: Vec<[ConnId; 2]>,
}

impl Scene {
    fn new(shell: Shell, name: &'static str, dialled: bool, origins: &'static [&'static str]) -> Self {
        let (conns, dirty, rows, honest) = (None, false, 0, Vec::new());
        Self { shell, peer: Peer::new(name), dialled, conns, dirty, rows, origins, honest }
    }

    fn is_linked(&self) -> bool {
        self.conns.is_some_and(|conns| !conns.iter().any(|conn| self.shell.closed.contains_key(conn)))
    }

    /// Both connections, new ones if the old were closed.
    fn link(&mut self) -> Option<[ConnId; 2]> {
        if !self.is_linked() {
            self.beat();
            let closed = &self.shell.closed;
            self.shell.dials.retain(|(conn, _, _)| !closed.contains_key(conn));
            let conns =
                if self.dialled { self.shell.link_out(&self.peer) } else { self.shell.link_in(&self.peer) };
            (self.conns, self.dirty, self.rows) = (Some(conns), false, 0);
            self.beat();
            let rows = [(self.origins[0], "m"), (self.origins[0], "m2"), (self.origins[0], "um")];
            let rows = rows.map(|(origin, to)| flow(origin, 100, to)).to_vec();
            self.say(Lane::Bulk, &roster_frame(Lane::Bulk, 0, rows), false);
            self.rows = 3;
        }
        self.conns.filter(|_| self.is_linked())
    }

    fn errors(&self) -> u64 {
        self.shell.stats().protocol_errors.values().sum()
    }

    /// Links that the node itself wants anew.
    fn replaced(&self) -> u64 {
        self.shell.stats().links_ended["replaced"]
    }

    /// The rogue says something. What is not legal ends its link with a Close, and is counted once; what is legal, or means
    /// nothing, does neither, but for what a node wants to hear over a new link. `ends` is for what may end it of its own.
    fn say(&mut self, lane: Lane, bytes: &[u8], ends: bool) {
        let Some(conns) = self.conns.filter(|_| self.is_linked()) else { return };
        let (before, replaced_before) = (self.errors(), self.replaced());
        let ends = ends || self.dirty;
        self.shell.feed(conns[lane.index()], bytes);
        let (errors, closed) = (self.errors() - before, !self.is_linked());
        let ends = ends || self.replaced() > replaced_before;
        assert!(errors <= 1, "counted {errors} times");
        assert!(ends || closed == (errors == 1), "closed: {closed}, counted {errors}");
        let words = conns.map(|conn| self.shell.sent(conn).pop());
        if errors == 1 && self.shell.unread.is_empty() {
            let close =
                |word: &Option<Received>| matches!(word, Some(Received::Close(close)) if close.code == 2);
            assert!(words.iter().any(close), "no last words: {words:?}");
        }
    }

    /// Honest peers live.
    fn beat(&mut self) {
        for [control, _] in self.honest.clone() {
            let ping = control_frame(FrameType::Ping, Lane::Control, &Ping { sent_us: 1 });
            self.shell.feed(control, &ping);
        }
    }

    fn pass(&mut self, ms: u64) {
        self.beat();
        self.shell.advance(Duration::from_millis(ms));
        self.beat();
    }

    /// One thing that the rogue does, or time that passes. True when it is an honest peer's turn.
    fn step(&mut self, hand: &mut Hand<'_>) -> bool {
        let what = hand.below(18);
        let lane = if hand.one_in(8) { Lane::Control } else { Lane::Bulk };
        if self.link().is_none() {
            return true;
        }
        match what {
            0 => self.say_roster(hand, lane),
            1..6 => {
                let runs: Vec<Run> = (0..1 + hand.below(4)).map(|_| hand.run()).collect();
                let payloads = runs.iter().map(|run| hand.payload(run)).collect();
                self.say(lane, &batch_around(lane, runs, payloads), false);
            }
            6..8 => {
                let mut entries: Vec<_> = (0..hand.below(4)).map(|_| hand.entry()).collect();
                if !hand.one_in(6) {
                    entries.sort_by_key(|entry| (entry.lane, entry.flow));
                    entries.dedup_by_key(|entry| (entry.lane, entry.flow));
                }
                self.say(Lane::Control, &ack_frame(entries), false);
            }
            8 => {
                let ping = control_frame(FrameType::Ping, Lane::Control, &Ping { sent_us: hand.number() });
                self.say(Lane::Control, &ping.repeat(1 + hand.below(200)), false);
            }
            9 => {
                let (ping_sent_us, ping_received_us) = (hand.number(), hand.number());
                let pong = Pong { ping_sent_us, ping_received_us, sent_us: hand.number() };
                self.say(Lane::Control, &control_frame(FrameType::Pong, Lane::Control, &pong), false);
            }
            10 => self.say_the_end(hand, lane),
            11 => {
                let all = every_frame(lane);
                let (name, frame) = &all[hand.below(all.len())];
                let first = *name == "roster" && lane == Lane::Bulk && self.rows == 0;
                self.say(lane, frame, false);
                self.rows += u32::from(first);
            }
            12 => {
                let kind = hand.byte() % 12;
                let ends = kind == FrameType::Close as u8 || kind == FrameType::Refuse as u8;
                self.say(lane, &frame_of(kind, lane, hand.noise()), ends);
                // It may have been a roster.
                self.dirty |= kind == FrameType::Roster as u8;
            }
            13 => {
                self.dirty = true;
                self.say(lane, hand.noise(), true);
            }
            14 => {
                let ms = hand.pick(&[1, 20, 300, 2000]);
                self.pass(ms);
            }
            15 => self.turn(hand, lane),
            _ => return true,
        }
        false
    }

    fn say_roster(&mut self, hand: &mut Hand<'_>, lane: Lane) {
        let first = if hand.one_in(8) { hand.number32() } else { self.rows };
        let flows: Vec<_> = (0..hand.below(5)).map(|_| hand.flow(self.origins)).collect();
        let rows = u32::try_from(flows.len()).unwrap();
        let counts = lane == Lane::Bulk && first == self.rows;
        self.say(lane, &roster_frame(lane, first, flows), false);
        self.rows += if counts { rows } else { 0 };
    }

    /// Words that end a link, or announce its end. A refusal that names a higher life than the node's own is left out: all
    /// links end by it, as they should.
    fn say_the_end(&mut self, hand: &mut Hand<'_>, lane: Lane) {
        let code = u16::from(hand.byte() % 5);
        if hand.one_in(2) {
            self.say(lane, &control_frame(FrameType::Close, lane, &Close { code }), true);
        } else {
            let highest_incarnation = Incarnation(hand.number() % 50);
            let code = hand.pick(&[code, 8, 999]);
            let refuse = Refuse { code, detail: "\n".to_owned(), highest_incarnation };
            self.say(lane, &control_frame(FrameType::Refuse, lane, &refuse), true);
        }
    }

    /// It loses a connection, opens a link beside the one there is, or stops reading.
    fn turn(&mut self, hand: &mut Hand<'_>, lane: Lane) {
        let Some(conns) = self.conns else { return };
        let conn = conns[lane.index()];
        match hand.below(4) {
            0 => {
                self.shell.node.handle_closed(conn, self.shell.now);
                self.shell.drain();
            }
            1 if !self.dialled => {
                self.conns = None;
                self.link();
                assert!(conns.iter().all(|conn| self.shell.closed.contains_key(conn)), "the older one ends");
            }
            2 => _ = self.shell.unread.insert(conn),
            // What it is asked next is answered again.
            _ => _ = self.shell.unread.remove(&conn),
        }
    }

    fn assert_honest_unharmed(&self) {
        let closed = self.honest.iter().flatten().any(|conn| self.shell.closed.contains_key(conn));
        assert!(!closed, "an honest peer lost its link");
    }
}

/// Messages by origin, life and lane: each is handed over once and in order.
#[derive(Default)]
struct Application {
    last: BTreeMap<(NodeId, Incarnation, Lane), u64>,
}

impl Application {
    fn read(&mut self, shell: &mut Shell) {
        while let Some(delivery) = shell.node.poll_delivery(shell.now) {
            shell.drain();
            let key = (delivery.origin.clone(), delivery.origin_incarnation, delivery.lane);
            let last = self.last.insert(key, delivery.seq.0);
            assert!(last.is_none_or(|last| last < delivery.seq.0), "{delivery:?} after {last:?}");
            if delivery.origin == id("o2") {
                assert_eq!(delivery.seq.0, last.unwrap_or(0) + 1, "nothing was given up");
                assert_eq!(delivery.payload.to_vec(), honest::text(delivery.seq.0));
            }
        }
    }
}

/// A member, beside an honest origin: the rogue is an origin, or a proxy that does not forge what the honest one says.
pub(crate) fn member(data: &[u8]) {
    let mut hand = Hand::new(data);
    let settings = Settings { inbox_bytes_max: 4_000, reorder_bytes_max: 3_000, ..Settings::default() };
    let mut shell = Shell::with("m", 0, settings);
    let mut honest = Origin::link(&mut shell, "m");
    let mut scene = if hand.one_in(2) {
        Scene::new(shell, "o", false, &["o", "o", "o2", "eo", "nobody"])
    } else {
        Scene::new(shell, "p", false, &["o", "eo", "op", "p", "nobody"])
    };
    scene.honest.push(honest.conns);
    let mut application = Application::default();
    for _ in 0..STEPS_MAX {
        if hand.is_empty() {
            break;
        }
        if scene.step(&mut hand) {
            match hand.below(3) {
                0 => application.read(&mut scene.shell),
                _ => honest.send(&mut scene.shell),
            }
        }
        honest.hear(&mut scene.shell);
        scene.assert_honest_unharmed();
        let status = scene.shell.node.status(scene.shell.now);
        let message = RUN_BYTES_MAX as u64 + MESSAGE_OVERHEAD_BYTES as u64;
        assert!(status.inbox_bytes <= 4_000 + message, "{status:?}");
        // Three origins and two lanes, and what is next in turn is always taken.
        assert!(status.held_bytes <= 8 * (3_000 + 2_500), "{status:?}");
    }
    honest.finish(&mut scene.shell, |shell| application.read(shell));
    let words = application.last.get(&(id("o2"), Incarnation(100), Lane::Bulk)).copied();
    assert_eq!(words.unwrap_or(0), honest.sent(), "all that is decided was handed over");
}

/// A proxy, between an honest origin and an honest member: the rogue is another origin, another proxy, or another member.
pub(crate) fn proxy(data: &[u8]) {
    let mut hand = Hand::new(data);
    let settings = Settings { member_queue_bytes_max: 4_000, ..Settings::default() };
    let mut shell = Shell::with("p", 0, settings);
    let mut honest = Origin::link(&mut shell, "m");
    let mut server = Server::link(&mut shell, "m");
    let origins = &["o", "o", "o2", "eo", "nobody"];
    let mut scene = match hand.below(3) {
        0 => Scene::new(shell, "o", false, origins),
        1 => Scene::new(shell, "p2", false, origins),
        _ => Scene::new(shell, "m2", true, origins),
    };
    // What the rogue member is sent.
    let to_rogue = scene.shell.link_in(&Peer::new("eo"));
    scene.shell.feed(to_rogue[1], &roster_frame(Lane::Bulk, 0, vec![flow("eo", 100, "m2")]));
    scene.honest.extend([honest.conns, server.conns, to_rogue]);
    let (origin, mut seq) = (id("o2"), 0);
    for _ in 0..STEPS_MAX {
        if hand.is_empty() {
            break;
        }
        if scene.step(&mut hand) {
            honest.send(&mut scene.shell);
            seq += 1;
            let run = super::shell::run(0, seq, 1, 0);
            let payload = vec![hand.payload(&run)];
            scene.shell.feed(to_rogue[1], &batch_around(Lane::Bulk, vec![run], payload));
        }
        server.serve(&mut scene.shell, &origin);
        scene.shell.advance(Duration::from_millis(1));
        honest.hear(&mut scene.shell);
        scene.shell.acks(to_rogue[0]);
        scene.assert_honest_unharmed();
        let status = scene.shell.node.status(scene.shell.now);
        // Two members, two lanes; one run always fits.
        assert!(status.proxy_queue_bytes <= 4 * (4_000 + RUN_BYTES_MAX as u64), "{status:?}");
    }
    scene.beat();
    scene.shell.advance(Duration::from_millis(2));
    honest.finish(&mut scene.shell, |shell| {
        server.serve(shell, &origin);
        shell.advance(Duration::from_millis(2));
    });
    let key = (id("m"), Lane::Bulk.index());
    let messages = server.arrived.remove(&key).unwrap_or_default().messages;
    assert!(messages.keys().copied().eq(1..=honest.sent()), "everything arrived");
    assert!(messages.iter().all(|(seq, text)| *text == honest::text(*seq)));
}

/// What an origin was given to send and has not been told the end of.
#[derive(Default)]
struct Desk {
    /// By ticket: messages, and whether only honest peers have to do with them.
    open: BTreeMap<u64, (usize, bool)>,
}

impl Desk {
    fn send(&mut self, shell: &mut Shell, hand: &mut Hand<'_>, datacenter: &str, to: &[&str], safe: bool) {
        let (fill, length) = (hand.byte(), usize::from(hand.byte()) * 3);
        let mut batch = Batch::to(Datacenter::new(datacenter).unwrap());
        for name in to {
            let lane = hand.lane();
            batch.push(Message::new(id(name), vec![fill; length]).lane(lane));
        }
        let ticket = shell.node.submit(batch, shell.now).expect("few messages").0;
        assert_eq!(self.open.insert(ticket, (to.len(), safe)), None);
        shell.drain();
    }

    fn read(&mut self, shell: &mut Shell) {
        while let Some(Decided { ticket, outcome, last, .. }) = shell.node.poll_decided() {
            let (undecided, safe) = self.open.get_mut(&ticket.0).expect("a receipt ends once");
            *undecided -= 1;
            assert_eq!(last, *undecided == 0);
            assert!(outcome.is_delivered() || !*safe, "honest peers had it: {outcome:?}");
            if last {
                self.open.remove(&ticket.0);
            }
        }
    }
}

/// An origin: the rogue is one of two proxies, the member in the origin's own datacenter, or another origin.
pub(crate) fn origin(data: &[u8]) {
    let mut hand = Hand::new(data);
    let mut shell = Shell::new("o");
    let which = hand.below(3);
    let near = (which != 1).then(|| Server::link(&mut shell, "um"));
    let far = Server::link(&mut shell, "p2");
    let mut servers: Vec<Server> = near.into_iter().chain([far]).collect();
    let mut scene = match which {
        0 => Scene::new(shell, "p", true, &["o", "o2", "p"]),
        1 => Scene::new(shell, "um", true, &["o", "o2", "um"]),
        _ => Scene::new(shell, "o2", false, &["o2", "o"]),
    };
    scene.honest.extend(servers.iter().map(|server| server.conns));
    let (me, mut desk) = (id("o"), Desk::default());
    let mut rest = |scene: &mut Scene, desk: &mut Desk| {
        for server in &mut servers {
            server.serve(&mut scene.shell, &me);
        }
        desk.read(&mut scene.shell);
    };
    for _ in 0..STEPS_MAX {
        if hand.is_empty() {
            break;
        }
        if scene.step(&mut hand) {
            match hand.below(3) {
                0 => desk.send(&mut scene.shell, &mut hand, "us", &["um"], which != 1),
                1 => desk.send(&mut scene.shell, &mut hand, "eu", &["m", "m2"], which != 0),
                _ => desk.send(&mut scene.shell, &mut hand, "eu", &["m"], which != 0),
            }
        }
        rest(&mut scene, &mut desk);
        scene.assert_honest_unharmed();
    }
    for _ in 0..12 {
        scene.pass(1_000);
        rest(&mut scene, &mut desk);
    }
    assert!(desk.open.is_empty(), "past all deadlines: {:?}", desk.open);
    let rows = scene.shell.node.status(scene.shell.now).datacenters;
    assert!(rows.iter().all(|row| row.queued_bytes == 0 && row.pending_messages == 0), "{rows:?}");
    scene.assert_honest_unharmed();
}
