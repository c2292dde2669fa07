//! The driver: one queue of events in virtual time, machines as hosts, faults as events.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use trunkline_codec::{Encoder, Options};

use super::app::{App, Drawn, read_body};
use super::checker::Checker;
use super::faults::{Fault, Swarm};
use super::wire::{Cargo, End, NodeIx, Wire};
use crate::id::{ClusterId, Datacenter, Incarnation, NodeId};
use crate::message::FailReason;
use crate::proto::client::Ticket;
use crate::proto::frame::{FrameReader, Written};
use crate::proto::links::{Action, ConnId};
use crate::proto::node::{Node, NodeInit};
use crate::proto::time::Micros;
use crate::settings::Settings;
use crate::stats::Stats;
use crate::topology::{NodeSpec, Roles, Topology};

/// What a run showed.
#[derive(Debug)]
pub struct Report {
    /// Broken rules; empty when all is well.
    pub violations: Vec<String>,
    /// Hash over every event in order: equal for equal seeds.
    pub trace: u64,
    /// Events.
    pub events: u64,
    /// Messages told *delivered*.
    pub delivered: u64,
    /// Messages told *failed*, by reason.
    pub failed: BTreeMap<FailReason, u64>,
    /// The leader's counters, of its last life.
    pub leader: Stats,
}

struct ConnState {
    reader: FrameReader,
    buffer: BytesMut,
    encoder: Encoder,
    writing: bool,
}

struct Host {
    id: NodeId,
    datacenter: usize,
    life: u64,
    node: Option<Node>,
    conns: BTreeMap<ConnId, ConnState>,
    stopped: bool,
    deaf: bool,
    backlog: VecDeque<Event>,
    alarm: Micros,
    tickets: BTreeMap<Ticket, Vec<u64>>,
}

#[derive(Debug)]
enum Event {
    Syn { from: End, to: NodeIx },
    Dialed { from: End, to: Option<End> },
    Arrive { to: End, cargo: Cargo },
    Wrote { end: End, written: Vec<(u64, Written)>, bytes: usize },
    Alarm { host: NodeIx, life: u64 },
    Send,
    Fault,
    Undo(Undo),
}

#[derive(Debug)]
enum Undo {
    Start(NodeIx),
    Resume(NodeIx),
    Thaw(NodeIx),
    Hear(NodeIx),
    Heal((usize, usize)),
}

impl Event {
    /// The host that has to be awake for this, if it is one host's business.
    fn host(&self) -> Option<NodeIx> {
        match self {
            Self::Syn { to, .. } => Some(*to),
            Self::Dialed { from: end, .. } | Self::Arrive { to: end, .. } | Self::Wrote { end, .. } => {
                Some(end.node)
            }
            Self::Alarm { host, .. } => Some(*host),
            Self::Send => Some(LEADER),
            Self::Fault | Self::Undo(_) => None,
        }
    }
}

struct World {
    rng: fastrand::Rng,
    swarm: Swarm,
    topology: Arc<Topology>,
    datacenters: Vec<Datacenter>,
    delays: Vec<Vec<Duration>>,
    settings: Settings,
    hosts: Vec<Host>,
    wire: Wire,
    queue: BTreeMap<(Micros, u64), Event>,
    next_event: u64,
    blocked: BTreeMap<End, (Vec<(u64, Written)>, usize)>,
    now: Micros,
    app: App,
    checker: Checker,
    trace: u64,
    events: u64,
    /// Print the trace as it goes.
    spoken: bool,
    phase: Phase,
    last: BTreeSet<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Faults,
    Healing,
    Last,
    Over,
}

/// Events at one moment after which a machine is taken to run in circles.
const STEPS_PER_MOMENT_MAX: u64 = 20_000;
/// Events of a whole run after which the same is true.
const EVENTS_MAX: u64 = 2_000_000;

const LEADER: NodeIx = 0;
const FAULTS_UNTIL: Micros = Micros(8_000_000);
const HEALED_AT: Micros = Micros(16_000_000);
const LAST_UNTIL: Micros = Micros(17_000_000);
const OVER_AT: Micros = Micros(40_000_000);

/// One run with faults drawn from its seed.
#[must_use]
pub fn run(seed: u64) -> Report {
    run_with(seed, None)
}

/// One run; with a swarm of the caller's choice instead of one from the seed.
#[must_use]
pub fn run_with(seed: u64, swarm: Option<Swarm>) -> Report {
    let mut world = World::new(seed, swarm);
    let (mut steps, mut total) = (0, 0);
    while let Some(((at, _), event)) = world.queue.pop_first() {
        if at > OVER_AT {
            break;
        }
        steps = if at == world.now { steps + 1 } else { 0 };
        if steps > STEPS_PER_MOMENT_MAX {
            world.checker.broken(format!("time stands still at {} µs: {event:?}", at.0));
            break;
        }
        total += 1;
        if total > EVENTS_MAX {
            world.checker.broken(format!("more than {EVENTS_MAX} events by {} µs: {event:?}", at.0));
            break;
        }
        world.now = at;
        world.handle(event);
    }
    world.finish()
}

impl World {
    fn new(seed: u64, swarm: Option<Swarm>) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let swarm = swarm.unwrap_or_else(|| Swarm::draw(&mut rng));
        let mut nodes = vec![("us-leader".to_owned(), "us", Roles::ORIGIN)];
        for (datacenter, proxies, members) in [("us", 0, 2), ("eu", 2, 4), ("ap", 1 + rng.usize(0..2), 2)] {
            nodes.extend((0..proxies).map(|i| (format!("{datacenter}-p{i}"), datacenter, Roles::PROXY)));
            nodes.extend((0..members).map(|i| (format!("{datacenter}-m{i}"), datacenter, Roles::MEMBER)));
        }
        // One node is both.
        let both = Roles { origin: false, member: true, proxy: true };
        if rng.bool() {
            nodes.push(("eu-x".to_owned(), "eu", both));
        }
        let specs = nodes.into_iter().enumerate().map(|(index, (id, datacenter, roles))| NodeSpec {
            id: NodeId::new(&id).expect("legal"),
            datacenter: Datacenter::new(datacenter).expect("legal"),
            roles,
            address: Some(SocketAddr::from(([127, 0, 0, 1], 1000 + u16::try_from(index).expect("few")))),
        });
        let topology = Topology::new(ClusterId::new("sim").expect("legal"), specs).expect("a legal topology");
        let datacenters = topology.datacenters();
        let mut ids: Vec<&NodeSpec> = topology.nodes().collect();
        ids.sort_by_key(|spec| !spec.roles.origin);
        let hosts = ids
            .into_iter()
            .map(|spec| Host {
                id: spec.id.clone(),
                datacenter: datacenters.binary_search(&spec.datacenter).expect("listed"),
                life: 0,
                node: None,
                conns: BTreeMap::new(),
                stopped: false,
                deaf: false,
                backlog: VecDeque::new(),
                alarm: Micros::NEVER,
                tickets: BTreeMap::new(),
            })
            .collect();
        let sites = datacenters.len();
        let lan = Duration::from_micros(rng.u64(50..500));
        let mut delays = vec![vec![lan; sites]; sites];
        for (a, b) in (0..sites).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let delay = Duration::from_micros(rng.u64(1_000..120_000));
            (delays[a][b], delays[b][a]) = (delay, delay);
        }
        let mut settings = Settings {
            snooze_max: Duration::from_secs(2),
            redial_max: Duration::from_secs(1),
            ..Settings::default()
        };
        if swarm.tight {
            settings.message_bytes_max = 48 * 1024;
            settings.frame_bytes_max = 256 * 1024;
            settings.run_bytes_max = 16 * 1024;
            settings.destination_budget_bytes = 128 * 1024;
            settings.datacenter_budget_bytes = 256 * 1024;
            settings.process_budget_bytes = 512 * 1024;
            settings.member_queue_bytes_max = 64 * 1024;
            settings.inbox_bytes_max = 64 * 1024;
            settings.reorder_bytes_max = 64 * 1024;
        }
        settings.check().expect("legal settings");
        let mut world = Self {
            swarm,
            topology: Arc::new(topology),
            datacenters,
            delays,
            settings,
            hosts,
            wire: Wire::default(),
            queue: BTreeMap::new(),
            next_event: 0,
            blocked: BTreeMap::new(),
            now: Micros(0),
            app: App::new(rng.u64(..)),
            checker: Checker::default(),
            trace: 0xcbf2_9ce4_8422_2325,
            events: 0,
            spoken: std::env::var_os("SIM_TRACE").is_some(),
            phase: Phase::Faults,
            last: BTreeSet::new(),
            rng,
        };
        for host in 0..world.hosts.len() {
            world.start(host);
        }
        world.at(Micros(300_000), Event::Send);
        let first = Micros(0) + world.swarm.every;
        world.at(first, Event::Fault);
        world
    }

    fn at(&mut self, at: Micros, event: Event) {
        self.next_event += 1;
        self.queue.insert((at.max(self.now), self.next_event), event);
    }

    fn note(&mut self, text: &str) {
        self.events += 1;
        for byte in text.bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if self.spoken {
            eprintln!("{:>10} µs  {text}", self.now.0);
        }
    }

    fn start(&mut self, index: NodeIx) {
        let skew = if self.swarm.skew { self.rng.u64(0..7_200_000_000) } else { 0 };
        let wall_base_us = 1_700_000_000_000_000 + skew;
        let host = &mut self.hosts[index];
        host.life += 1;
        host.conns.clear();
        (host.stopped, host.alarm) = (false, Micros::NEVER);
        let init = NodeInit {
            topology: Arc::clone(&self.topology),
            node: host.id.clone(),
            incarnation: Incarnation(wall_base_us + self.now.0 + host.life),
            settings: self.settings.clone(),
            seed: self.rng.u64(..),
            wall_base_us,
        };
        host.node = Some(Node::new(init, self.now).expect("it is in the topology"));
        self.note(&format!("start {index}"));
        self.pump(index);
    }

    fn handle(&mut self, event: Event) {
        if self.phase == Phase::Faults && self.now >= FAULTS_UNTIL {
            self.phase = Phase::Healing;
        }
        if let Event::Arrive { to, cargo } = &event
            && let Some(pair) = self.wire.other(*to).map(|from| self.pair(from.node, to.node))
            && self.wire.is_cut(pair)
        {
            return self.wire.hold(pair, *to, cargo.clone());
        }
        self.reach(event);
    }

    /// What happens at a host that is stopped waits in its kernel.
    fn reach(&mut self, event: Event) {
        if let Some(host) = event.host()
            && self.hosts[host].stopped
        {
            self.hosts[host].backlog.push_back(event);
            return;
        }
        match event {
            Event::Syn { from, to } => self.accept(from, to),
            Event::Dialed { from, to } => self.dialed(from, to),
            Event::Arrive { to, cargo } => self.arrive(to, cargo),
            Event::Wrote { end, written, bytes } => self.wrote(end, &written, bytes),
            Event::Alarm { host, life } => {
                let now = self.now;
                let entry = &mut self.hosts[host];
                if entry.life == life && now >= entry.alarm {
                    entry.alarm = Micros::NEVER;
                    if let Some(node) = entry.node.as_mut() {
                        node.handle_timeout(now);
                    }
                    self.pump(host);
                }
            }
            Event::Send => self.send(),
            Event::Fault => self.fault(),
            Event::Undo(undo) => self.undo(undo),
        }
    }

    fn delay(&self, a: NodeIx, b: NodeIx) -> Duration {
        self.delays[self.hosts[a].datacenter][self.hosts[b].datacenter]
    }

    fn pair(&self, from: NodeIx, to: NodeIx) -> (usize, usize) {
        (self.hosts[from].datacenter, self.hosts[to].datacenter)
    }

    fn alive(&self, end: End) -> bool {
        let host = &self.hosts[end.node];
        host.life == end.life && host.node.is_some()
    }

    // ---- connections -----------------------------------------------------------------------------------------------

    fn accept(&mut self, from: End, to: NodeIx) {
        let now = self.now;
        let back = now + self.delay(from.node, to);
        if self.wire.is_cut(self.pair(from.node, to)) || self.wire.is_cut(self.pair(to, from.node)) {
            return;
        }
        let host = &mut self.hosts[to];
        let Some(node) = host.node.as_mut() else {
            return self.at(back, Event::Dialed { from, to: None });
        };
        match node.handle_accepted(now) {
            Ok(conn) => {
                let end = End { node: to, life: host.life, conn };
                host.conns.insert(conn, new_conn());
                self.wire.connect(from, end);
                self.note(&format!("accept {from:?} {end:?}"));
                self.at(back, Event::Dialed { from, to: Some(end) });
            }
            Err(_) => self.at(back, Event::Dialed { from, to: None }),
        }
        self.pump(to);
    }

    fn dialed(&mut self, from: End, to: Option<End>) {
        if !self.alive(from) {
            if let Some(to) = to {
                self.at(self.now, Event::Arrive { to, cargo: Cargo::Fin });
            }
            return;
        }
        let now = self.now;
        let host = &mut self.hosts[from.node];
        let Some(node) = host.node.as_mut() else { return };
        if to.is_some() {
            host.conns.insert(from.conn, new_conn());
            node.handle_dialed(from.conn, now);
        } else {
            node.handle_dial_failed(from.conn, now);
        }
        self.pump(from.node);
    }

    fn arrive(&mut self, to: End, cargo: Cargo) {
        if !self.alive(to) {
            return;
        }
        let now = self.now;
        match cargo {
            Cargo::Bytes(bytes) => {
                if let Some(sender) = self.wire.read(to, bytes.len())
                    && !self.wire.is_full(sender)
                    && let Some((written, count)) = self.blocked.remove(&sender)
                {
                    self.at(now, Event::Wrote { end: sender, written, bytes: count });
                }
                self.note(&format!("bytes {to:?} {}", bytes.len()));
                self.read(to, &bytes);
            }
            Cargo::Fin => {
                self.note(&format!("fin {to:?}"));
                let host = &mut self.hosts[to.node];
                if host.conns.contains_key(&to.conn)
                    && let Some(node) = host.node.as_mut()
                {
                    node.handle_closed(to.conn, now);
                }
            }
        }
        self.pump(to.node);
    }

    fn read(&mut self, to: End, bytes: &Bytes) {
        let now = self.now;
        let host = &mut self.hosts[to.node];
        let (Some(node), Some(conn)) = (host.node.as_mut(), host.conns.get_mut(&to.conn)) else { return };
        conn.buffer.extend_from_slice(bytes);
        loop {
            match conn.reader.read(&mut conn.buffer) {
                Ok(None) => return,
                Ok(Some((received, length))) => {
                    if let Some(opened) = node.handle_frame(to.conn, received, length, now) {
                        conn.reader.open(opened.lane, opened.frame_bytes_max);
                    }
                }
                // A machine that closed the connection a moment ago ignores this; one that did not counts an error.
                Err(error) => {
                    node.handle_bad_frame(to.conn, &error, now);
                    return self.note(&format!("bad bytes {to:?}: {error}"));
                }
            }
        }
    }

    fn wrote(&mut self, end: End, written: &[(u64, Written)], bytes: usize) {
        if !self.alive(end) {
            return;
        }
        let now = self.now;
        let host = &mut self.hosts[end.node];
        let (Some(node), Some(conn)) = (host.node.as_mut(), host.conns.get_mut(&end.conn)) else { return };
        conn.writing = false;
        let written: Vec<Written> = written.iter().map(|(_, one)| *one).collect();
        node.handle_written(end.conn, &written, bytes, now);
        self.write(end);
        self.pump(end.node);
    }

    /// One write of a connection, if its writer is idle and there is something.
    fn write(&mut self, end: End) {
        let now = self.now;
        let host = &mut self.hosts[end.node];
        let (Some(node), Some(conn)) = (host.node.as_mut(), host.conns.get_mut(&end.conn)) else { return };
        if conn.writing {
            return;
        }
        let transmit = node.poll_transmit(end.conn, now);
        if transmit.is_empty() {
            return;
        }
        conn.writing = true;
        let mut slices = transmit.frames;
        let mut written = Vec::new();
        for batch in &transmit.batches {
            written.push((batch.envelope.batch, batch.encode(&mut conn.encoder, &mut slices)));
        }
        let bytes = Bytes::from(slices.concat());
        let count = bytes.len();
        self.push_bytes(end, bytes);
        if self.wire.is_full(end) {
            self.blocked.insert(end, (written, count));
        } else {
            let soon = now + Duration::from_micros(self.rng.u64(1..50));
            self.at(soon, Event::Wrote { end, written, bytes: count });
        }
    }

    /// Cuts bytes at random, as TCP may.
    fn push_bytes(&mut self, end: End, mut bytes: Bytes) {
        let Some(peer) = self.wire.peer(end) else { return };
        let delay = self.delay(end.node, peer.node);
        while !bytes.is_empty() {
            let whole = self.rng.u8(..) < 160;
            let length = if whole { bytes.len() } else { self.rng.usize(1..=bytes.len()) };
            let part = bytes.split_to(length);
            if let Some((at, to)) = self.wire.send(end, part.len(), delay, self.now) {
                self.at(at, Event::Arrive { to, cargo: Cargo::Bytes(part) });
            }
        }
    }

    fn close(&mut self, end: End) {
        if let Some(peer) = self.wire.peer(end) {
            let delay = self.delay(end.node, peer.node);
            if let Some((at, to)) = self.wire.send(end, 0, delay, self.now) {
                self.at(at, Event::Arrive { to, cargo: Cargo::Fin });
            }
        }
        self.wire.close(end);
        self.blocked.remove(&end);
    }

    /// Does what the machine asks for.
    fn pump(&mut self, index: NodeIx) {
        let now = self.now;
        loop {
            let host = &mut self.hosts[index];
            let life = host.life;
            let Some(node) = host.node.as_mut() else { return };
            let Some(action) = node.poll_action() else { break };
            match action {
                Action::Dial { conn, peer, .. } => {
                    let to = self.hosts.iter().position(|host| host.id == peer).expect("in the topology");
                    let at = now + self.delay(index, to);
                    self.at(at, Event::Syn { from: End { node: index, life, conn }, to });
                }
                Action::Ready(conn) => self.write(End { node: index, life, conn }),
                Action::Close { conn, last_words } => {
                    let end = End { node: index, life, conn };
                    if let Some(words) = last_words {
                        self.push_bytes(end, words);
                    }
                    self.close(end);
                    self.hosts[index].conns.remove(&conn);
                    self.wire.forget(end);
                }
                Action::Room => {}
            }
        }
        self.hear(index, self.hosts[index].deaf);
        let host = &mut self.hosts[index];
        let Some(node) = host.node.as_mut() else { return };
        while let Some((ticket, outcomes)) = node.poll_outcome() {
            let ids = host.tickets.remove(&ticket).unwrap_or_default();
            if ids.len() != outcomes.len() {
                let text = format!("a batch of {} messages got {} outcomes", ids.len(), outcomes.len());
                self.checker.broken(text);
            }
            for (id, outcome) in ids.into_iter().zip(outcomes) {
                let mut text = format!("told {id} ");
                let _ = write!(text, "{outcome:?}");
                for byte in text.bytes() {
                    self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
                }
                self.checker.told(id, outcome, now);
            }
        }
        let alarm = node.poll_timeout();
        if alarm < host.alarm {
            host.alarm = alarm;
            let life = host.life;
            self.at(alarm, Event::Alarm { host: index, life });
        }
        // Reading the inbox made room, which may have queued acks.
        if self.hosts[index].node.as_ref().is_some_and(Node::has_action) {
            self.pump(index);
        }
    }

    /// The application reads its inbox.
    ///
    /// The checker counts a message as handed over when it enters the inbox, which is before anybody reads it; so a deaf
    /// application's inbox is looked at when it hears again, and before its process dies.
    fn hear(&mut self, index: NodeIx, deaf: bool) {
        let now = self.now;
        let host = &mut self.hosts[index];
        let Some(node) = host.node.as_mut() else { return };
        if deaf {
            let seen = node.peek_new_deliveries();
            for delivery in seen {
                let (id, intact) = read_body(&delivery.payload);
                let member = (host.id.clone(), node.incarnation());
                let origin = (delivery.origin.clone(), delivery.origin_incarnation);
                self.checker.handed(id, member, origin, delivery.lane, intact, now);
            }
            return;
        }
        loop {
            for delivery in node.peek_new_deliveries() {
                let (id, intact) = read_body(&delivery.payload);
                let member = (host.id.clone(), node.incarnation());
                let origin = (delivery.origin.clone(), delivery.origin_incarnation);
                self.checker.handed(id, member, origin, delivery.lane, intact, now);
            }
            if node.poll_delivery(now).is_none() {
                return;
            }
        }
    }

    // ---- the application -------------------------------------------------------------------------------------------

    fn send(&mut self) {
        let now = self.now;
        match self.phase {
            Phase::Healing if now >= HEALED_AT => self.phase = Phase::Last,
            Phase::Last if now >= LAST_UNTIL => self.phase = Phase::Over,
            _ => {}
        }
        let pause = self.app.pause();
        self.at(now + pause, Event::Send);
        if let Some(node) = self.hosts[LEADER].node.as_mut() {
            node.handle_timeout(now);
        }
        self.pump(LEADER);
        self.checker.check_due(now);
        if matches!(self.phase, Phase::Healing | Phase::Over) {
            return;
        }
        let easy = self.phase == Phase::Last || self.swarm.faults.is_empty();
        for datacenter in self.datacenters.clone() {
            let host = &mut self.hosts[LEADER];
            let Some(node) = host.node.as_mut() else { return };
            let Drawn { batch, messages } = self.app.draw(&self.topology, &datacenter, &host.id, easy);
            let Ok(ticket) = node.submit(batch, now) else { continue };
            host.tickets.insert(ticket, messages.iter().map(|(id, _, _)| *id).collect());
            // A receipt is whole when its last message is decided.
            let due = messages.iter().map(|(_, _, deadline)| now + *deadline).max().unwrap_or(now);
            for (id, destination, _) in messages {
                if self.phase == Phase::Last {
                    self.last.insert(id);
                }
                self.checker.submitted(id, destination, due);
            }
            for row in node.status(now).datacenters {
                if row.queued_bytes > u64::try_from(self.settings.datacenter_budget_bytes).unwrap_or(0) {
                    let text = format!("{} bytes queued for {}, over its budget", row.queued_bytes, row.name);
                    self.checker.broken(text);
                }
            }
            self.pump(LEADER);
        }
    }

    // ---- faults ----------------------------------------------------------------------------------------------------

    fn fault(&mut self) {
        if self.phase != Phase::Faults {
            return;
        }
        let every = self.swarm.every;
        let pause = every.mul_f64(0.2 + 1.6 * self.rng.f64());
        self.at(self.now + pause, Event::Fault);
        let Some(fault) = self.rng.choice(self.swarm.faults.clone()) else { return };
        let first = usize::from(!self.swarm.origin_dies);
        let host = self.rng.usize(first..self.hosts.len());
        let until = self.now + self.swarm.lasts.mul_f64(self.rng.f64()) + Duration::from_millis(1);
        self.note(&format!("fault {fault:?} {host}"));
        match fault {
            Fault::Reset => {
                let ends = self.wire.ends();
                if let Some(end) = self.rng.choice(ends) {
                    self.reset(end);
                }
            }
            Fault::Restart => {
                if self.hosts[host].node.is_some() && !self.hosts[host].stopped {
                    self.kill(host);
                    self.at(until, Event::Undo(Undo::Start(host)));
                }
            }
            Fault::Stop => {
                if !self.hosts[host].stopped && self.hosts[host].node.is_some() {
                    self.hosts[host].stopped = true;
                    self.at(until, Event::Undo(Undo::Resume(host)));
                }
            }
            Fault::Freeze => {
                if let Some(node) = self.hosts[host].node.as_mut() {
                    node.set_frozen(true);
                    self.at(until, Event::Undo(Undo::Thaw(host)));
                }
            }
            Fault::Deaf => {
                self.hosts[host].deaf = true;
                self.at(until, Event::Undo(Undo::Hear(host)));
            }
            Fault::Cut => {
                let (from, to) =
                    (self.rng.usize(0..self.datacenters.len()), self.rng.usize(0..self.datacenters.len()));
                if from != to {
                    self.wire.cut((from, to));
                    self.at(until, Event::Undo(Undo::Heal((from, to))));
                    if self.rng.bool() {
                        self.wire.cut((to, from));
                        self.at(until, Event::Undo(Undo::Heal((to, from))));
                    }
                }
            }
        }
    }

    fn undo(&mut self, undo: Undo) {
        self.note(&format!("undo {undo:?}"));
        match undo {
            Undo::Start(host) => self.start(host),
            Undo::Resume(host) => {
                self.hosts[host].stopped = false;
                for event in std::mem::take(&mut self.hosts[host].backlog) {
                    self.reach(event);
                }
            }
            Undo::Thaw(host) => {
                if let Some(node) = self.hosts[host].node.as_mut() {
                    node.set_frozen(false);
                }
            }
            Undo::Hear(host) => {
                self.hosts[host].deaf = false;
                self.pump(host);
            }
            Undo::Heal(pair) => {
                for (to, cargo) in self.wire.heal(pair) {
                    self.reach(Event::Arrive { to, cargo });
                }
            }
        }
    }

    /// Both ends see the stream end, each in its time; what is under way is lost.
    fn reset(&mut self, end: End) {
        let Some(peer) = self.wire.peer(end) else { return };
        for (from, to) in [(end, peer), (peer, end)] {
            self.wire.close(from);
            self.blocked.remove(&from);
            let at = self.now + self.delay(from.node, to.node);
            self.at(at, Event::Arrive { to, cargo: Cargo::Fin });
        }
        self.queue.retain(|_, event| match event {
            Event::Arrive { to, cargo: Cargo::Bytes(_) } => *to != end && *to != peer,
            _ => true,
        });
    }

    /// Nodes of one version, on a wire that keeps bytes whole, never break the protocol.
    fn check_protocol(&mut self, index: NodeIx) {
        let host = &self.hosts[index];
        let Some(stats) = host.node.as_ref().map(Node::stats) else { return };
        if stats.protocol_errors.values().sum::<u64>() + stats.acks_ignored > 0 {
            let text = format!(
                "{}: protocol errors {:?}, {} acks without sense",
                host.id, stats.protocol_errors, stats.acks_ignored
            );
            self.checker.broken(text);
        }
    }

    fn kill(&mut self, index: NodeIx) {
        self.hear(index, true);
        self.check_protocol(index);
        for end in self.wire.ends().into_iter().filter(|end| end.node == index) {
            self.close(end);
        }
        let host = &mut self.hosts[index];
        host.node = None;
        host.conns.clear();
        host.tickets.clear();
        if index == LEADER {
            self.checker.sender_died();
        }
    }

    fn finish(mut self) -> Report {
        for host in 0..self.hosts.len() {
            self.check_protocol(host);
        }
        self.checker.check_due(self.now);
        let last = std::mem::take(&mut self.last);
        self.checker.check_delivered(&last);
        let leader = self.hosts[LEADER].node.as_ref().map(Node::stats).unwrap_or_default();
        let (delivered, failed) = self.checker.counts();
        Report {
            violations: self.checker.violations(),
            trace: self.trace,
            events: self.events,
            delivered,
            failed,
            leader,
        }
    }
}

fn new_conn() -> ConnState {
    ConnState {
        reader: FrameReader::new(),
        buffer: BytesMut::new(),
        encoder: Encoder::new(Options { seed: Some(1), ..Options::default() }),
        writing: false,
    }
}
