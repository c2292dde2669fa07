//! The driver: one queue of events in virtual time, machines as hosts, faults as events.

mod streams;

mod application;

mod trouble;

mod failover;
pub use failover::{Failover, Strike, failover};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use trunkline_codec::{Epochs, Options};

use super::app::{App, Drawn, Mood, read_body};
use super::checker::Checker;
use super::faults::{Fault, Swarm};
use super::planted::Planted;
use super::wire::{Cargo, End, NodeIx, Wire};
use crate::id::{ClusterId, Datacenter, Incarnation, NodeId};
use crate::message::{Batch, FailReason};
use crate::proto::client::Ticket;
use crate::proto::coder::BatchEncoder;
use crate::proto::frame::{FrameReader, Written};
use crate::proto::links::{Action, ConnId};
use crate::proto::node::{Node, NodeInit};
use crate::proto::time::{Micros, micros};
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
    /// When each message first entered its destination's inbox, and whose that was.
    pub arrivals: BTreeMap<u64, (Micros, NodeId)>,
    /// The leader's counters, of its last life.
    pub leader: Stats,
}

struct ConnState {
    reader: FrameReader,
    buffer: BytesMut,
    encoder: BatchEncoder,
    epochs: Option<Epochs>,
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
    tickets: BTreeMap<Ticket, OpenBatch>,
}

/// A batch without outcomes.
struct OpenBatch {
    ids: Vec<u64>,
    datacenter: Datacenter,
    shared_bytes: usize,
}

#[derive(Debug)]
enum Event {
    Syn {
        from: End,
        to: NodeIx,
    },
    Dialed {
        from: End,
        to: Option<End>,
    },
    Arrive {
        to: End,
        cargo: Cargo,
    },
    Wrote {
        end: End,
        written: Vec<(u64, Written)>,
        bytes: usize,
    },
    Alarm {
        host: NodeIx,
        life: u64,
    },
    Send,
    Fault,
    /// One fault that leaves a way.
    Trial,
    /// The one fault of a scripted run.
    Strike(Strike),
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
            Self::Fault | Self::Trial | Self::Strike(_) | Self::Undo(_) => None,
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
    /// What a writer holds that its kernel has no room for.
    blocked: BTreeMap<End, (Vec<(u64, Written)>, Bytes)>,
    now: Micros,
    app: App,
    checker: Checker,
    trace: u64,
    events: u64,
    /// Print the trace as it goes.
    spoken: bool,
    phase: Phase,
    /// When the run ends.
    over_at: Micros,
    /// One fault, at a known moment.
    scripted: bool,
    /// That fault is a proxy which lies.
    liar: bool,
    must_arrive: BTreeSet<u64>,
    planted: Option<Planted>,
    /// For a planted bug: batches without an outcome, to be sent again.
    unanswered: VecDeque<(Micros, Ticket, Batch)>,
    /// The tickets of those sent again. Nobody waits for their outcomes.
    again: BTreeSet<Ticket>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Faults,
    Healing,
    /// Short bursts, one fault in each that must cost nothing but time, and silence until the next.
    Trials,
}

/// Events at one moment after which a machine is taken to run in circles.
const STEPS_PER_MOMENT_MAX: u64 = 20_000;
/// Events of a whole run after which the same is true.
const EVENTS_MAX: u64 = 2_000_000;

/// Attempts that may time out although nobody is silent, beyond as many as were lost with their connection: the time to an
/// answer is estimated, and after a reset or in front of a full inbox it may be longer than ever before.
const TIMEOUTS_MAX: u64 = 30;

const LEADER: NodeIx = 0;
const FAULTS_UNTIL: Micros = Micros(8_000_000);
const HEALED_AT: Micros = Micros(16_000_000);
const TRIAL_EVERY: Duration = Duration::from_secs(6);
const TRIAL_SENDS: Duration = Duration::from_millis(300);
/// Time that what is sent in a trial has to arrive: over before the next one begins.
const TRIAL_PATIENCE: Duration = Duration::from_millis(5_500);
/// A moment before the fifth trial would begin.
const OVER_AT: Micros = Micros(HEALED_AT.0 + 4 * 6_000_000 - 1);

/// One run with faults drawn from its seed.
#[must_use]
pub fn run(seed: u64) -> Report {
    World::new(seed, None, None).run()
}

/// One run; with a swarm of the caller's choice instead of one from the seed.
#[must_use]
pub fn run_with(seed: u64, swarm: Option<Swarm>) -> Report {
    World::new(seed, swarm, None).run()
}

/// One run with a bug. The report of some seed must show it.
#[must_use]
pub fn run_planted(seed: u64, planted: Planted) -> Report {
    World::new(seed, None, Some(planted)).run()
}

impl World {
    fn new(seed: u64, swarm: Option<Swarm>, planted: Option<Planted>) -> Self {
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
            settings.member_queue_bytes_max = 48 * 1024;
            settings.inbox_bytes_max = 64 * 1024;
            settings.reorder_bytes_max = 64 * 1024;
        }
        let kernel_bytes = if swarm.tight { 32 * 1024 } else { 256 * 1024 };
        settings.check().expect("legal settings");
        let mut world = Self {
            swarm,
            topology: Arc::new(topology),
            datacenters,
            delays,
            settings,
            hosts,
            wire: Wire::new(kernel_bytes),
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
            over_at: OVER_AT,
            scripted: false,
            liar: false,
            must_arrive: BTreeSet::new(),
            planted,
            unanswered: VecDeque::new(),
            again: BTreeSet::new(),
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

    fn run(mut self) -> Report {
        let (mut steps, mut total) = (0, 0);
        while let Some(((at, _), event)) = self.queue.pop_first() {
            if at > self.over_at {
                break;
            }
            steps = if at == self.now { steps + 1 } else { 0 };
            if steps > STEPS_PER_MOMENT_MAX {
                self.checker.broken(format!("time stands still at {} µs: {event:?}", at.0));
                break;
            }
            total += 1;
            if total > EVENTS_MAX {
                self.checker.broken(format!("more than {EVENTS_MAX} events by {} µs: {event:?}", at.0));
                break;
            }
            self.now = at;
            self.handle(event);
        }
        self.finish()
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
        let incarnation = match self.planted {
            Some(Planted::WindowForgotten) if index != LEADER => Incarnation(wall_base_us - skew),
            _ => Incarnation(wall_base_us + self.now.0 + host.life),
        };
        let settings = self.settings.clone();
        let init = NodeInit {
            topology: Arc::clone(&self.topology),
            node: host.id.clone(),
            incarnation,
            settings: self.planted.map_or(settings.clone(), |planted| planted.settings(settings)),
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
            Event::Trial => self.trial(),
            Event::Strike(strike) => self.strike_as_scripted(strike),
            Event::Undo(undo) => self.undo(undo),
        }
    }

    fn delay(&self, a: NodeIx, b: NodeIx) -> Duration {
        self.delays[self.hosts[a].datacenter][self.hosts[b].datacenter]
    }

    fn pair(&self, from: NodeIx, to: NodeIx) -> (usize, usize) {
        (self.hosts[from].datacenter, self.hosts[to].datacenter)
    }

    fn has_only(&self, host: NodeIx, roles: Roles) -> bool {
        self.topology.node(&self.hosts[host].id).is_some_and(|spec| spec.roles == roles)
    }

    fn alive(&self, end: End) -> bool {
        let host = &self.hosts[end.node];
        host.life == end.life && host.node.is_some()
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
                        if let Some((_, held)) = self.blocked.remove(&end) {
                            self.push_bytes(end, held);
                        }
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
            if self.again.remove(&ticket) {
                continue;
            }
            let ids = host.tickets.remove(&ticket).map(|open| open.ids).unwrap_or_default();
            if ids.len() != outcomes.len() {
                let text = format!("a batch of {} messages got {} outcomes", ids.len(), outcomes.len());
                self.checker.broken(text);
            }
            for (id, outcome) in ids.into_iter().zip(outcomes) {
                let outcome = self.planted.map_or(outcome.clone(), |planted| planted.told(outcome));
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

    fn finish(mut self) -> Report {
        for host in 0..self.hosts.len() {
            self.check_protocol(host);
        }
        self.checker.check_due(self.now);
        let must_arrive = std::mem::take(&mut self.must_arrive);
        self.checker.check_delivered(&must_arrive);
        let leader = self.hosts[LEADER].node.as_ref().map(Node::stats).unwrap_or_default();
        let (waited, told) = (leader.attempts.timed_out, leader.attempts.lost);
        let silent = self.scripted || self.swarm.faults.iter().any(|fault| fault.is_silent());
        if waited > told + TIMEOUTS_MAX && !silent {
            let text = format!("{waited} attempts waited for a timeout, and nobody was silent");
            self.checker.broken(text);
        }
        let (delivered, failed) = self.checker.counts();
        let arrivals = self.checker.arrivals();
        Report {
            arrivals,
            violations: self.checker.violations(),
            trace: self.trace,
            events: self.events,
            delivered,
            failed,
            leader,
        }
    }
}
