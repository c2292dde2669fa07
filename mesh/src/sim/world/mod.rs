//! The driver: one agenda of events in virtual time, machines as hosts, faults as events.

mod application;
mod clocks;
mod held;
mod inspection;
mod membership;
mod setup;
mod streams;
mod traced;
mod trouble;

mod failover;
pub use failover::{Failover, Strike, failover};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use trunkline_codec::Options;

use super::agenda::Agenda;
use super::app::{App, Drawn, DrawnMessage, MESSAGE_BYTES_MAX, Mood, read_body, shared_len};
use super::checker::{Arrival, Checker, Promise};
use super::effects::{Effect, Effects};
use super::faults::{Drift, Fault, Swarm};
use super::planted::Planted;
use super::wire::{Cargo, End, Hole, NodeIx, Wire};
use crate::id::{ClusterId, Datacenter, Incarnation, Lane, NodeId};
use crate::message::{Batch, Delivery, FailReason, Outcome, Route};
use crate::proto::client::{Decided, Ticket};
use crate::proto::coder::BatchEncoder;
use crate::proto::echo::SharedEcho;
use crate::proto::frame::{FrameReader, Opened, SealedBatch, Written};
use crate::proto::kept::{Kept, Limit};
use crate::proto::links::{Action, ConnId};
use crate::proto::node::{Node, NodeInit, RejectReason, Rejected};
use crate::proto::partial::Partial;
use crate::proto::time::{Micros, micros};
use crate::proto::wire::{FEATURE_ECHO, FEATURES, Offer};
use crate::settings::Settings;
use crate::stats::Stats;
use crate::topology::{NodeSpec, Roles, Topology};

/// What a run showed.
#[derive(Debug)]
pub struct Report {
    /// Broken rules; empty when all is well.
    pub violations: Vec<String>,
    /// Hash over every event in order with its time, over all bytes that arrived, all that was submitted and all that was told: equal
    /// for equal seeds.
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
    /// What was refused for want of room after whoever sent it had left its connection.
    pub refused_unheard: u64,
    /// What proxies passed back to origins elsewhere, and in how many frames.
    pub answers: (u64, u64),
    /// Frames that ended a connection of any node, by kind.
    pub bad_frames: BTreeMap<&'static str, u64>,
    /// How often each fault took effect, each way was taken, and what else rules are for happened.
    pub effects: BTreeMap<String, u64>,
    /// What went wrong.
    pub swarm: Swarm,
}

struct ConnState {
    reader: FrameReader,
    buffer: BytesMut,
    encoder: BatchEncoder,
    opened: Option<Opened>,
    partial: Partial,
    writing: bool,
}

struct Host {
    id: NodeId,
    datacenter: usize,
    /// The nodes it knows of, or will when it starts.
    topology: Arc<Topology>,
    settings: Settings,
    /// The largest limits it had in this life: what was taken in by them may still be there.
    limits: Settings,
    /// The fewest members that it had beside itself in its datacenter in this life. A proxy has a queue for each of them.
    members: usize,
    /// Its monotonic clock against the run's, in parts per million.
    clock_ppm: u64,
    life: u64,
    /// The life that its peers know it by.
    incarnation: Incarnation,
    node: Option<Node>,
    conns: BTreeMap<ConnId, ConnState>,
    /// No process and no kernel: what comes is not even refused.
    dark: bool,
    stopped: bool,
    /// When it last went on after it was stopped.
    resumed_at: Micros,
    deaf: bool,
    slow: bool,
    /// Its proxy passes nothing on.
    frozen: bool,
    /// What it refused in this life for want of room of what the leader sent over connections that it had not left.
    refused_to_leader: u64,
    backlog: VecDeque<Event>,
    alarm: Micros,
    tickets: BTreeMap<Ticket, OpenBatch>,
}

/// A write that its kernel took in part.
struct Blocked {
    written: Vec<(u64, Written)>,
    rest: Bytes,
    /// Of all that is written.
    bytes: usize,
    /// The writer is told that there is room.
    told: bool,
}

/// A batch of which not all is decided.
struct OpenBatch {
    ids: Vec<u64>,
    undecided: usize,
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
    /// The kernel of a writer that waits has room.
    Room {
        end: End,
    },
    Alarm {
        host: NodeIx,
        life: u64,
    },
    Send {
        origin: NodeIx,
    },
    /// An application answers what it got.
    Answer {
        host: NodeIx,
        life: u64,
        to: NodeId,
        lane: Lane,
    },
    /// The topology has changed, and this host gets to know.
    Learn {
        host: NodeIx,
    },
    /// A slow application takes a message.
    Sip {
        host: NodeIx,
        life: u64,
    },
    /// All hosts are looked at: limits hold.
    Inspect,
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
    Hasten(NodeIx),
    Mend(Vec<Hole>),
    /// A node that drains has had its time.
    Close(NodeIx, u64, Micros),
    /// One more death of a host that flaps until then.
    Flap(NodeIx, Micros),
    /// Those that were taken out of the topology are back.
    Return(Vec<NodeIx>),
}

impl Event {
    /// The host that has to be awake for this, if it is one host's business.
    fn host(&self) -> Option<NodeIx> {
        match self {
            Self::Syn { to, .. } => Some(*to),
            Self::Dialed { from: end, .. }
            | Self::Arrive { to: end, .. }
            | Self::Wrote { end, .. }
            | Self::Room { end } => Some(end.node),
            Self::Alarm { host, .. }
            | Self::Learn { host }
            | Self::Sip { host, .. }
            | Self::Answer { host, .. } => Some(*host),
            Self::Send { origin } => Some(*origin),
            Self::Inspect | Self::Fault | Self::Trial | Self::Strike(_) | Self::Undo(_) => None,
        }
    }
}

struct World {
    rng: fastrand::Rng,
    swarm: Swarm,
    topology: Arc<Topology>,
    datacenters: Vec<Datacenter>,
    delays: Vec<Vec<Duration>>,
    hosts: Vec<Host>,
    /// The least that any node ever took as a message.
    message_bytes_least: usize,
    /// The most that any node ever put into a run of several messages.
    run_bytes_most: usize,
    /// Those that may send.
    origins: Vec<NodeIx>,
    /// Those of them that send by themselves.
    senders: Vec<NodeIx>,
    /// Those that answer whom they hear.
    answering: Vec<NodeIx>,
    wire: Wire,
    agenda: Agenda<Event>,
    /// What writers hold that their kernels have no room for.
    blocked: BTreeMap<End, Blocked>,
    now: Micros,
    app: App,
    checker: Checker,
    trace: u64,
    events: u64,
    /// Print the trace as it goes.
    spoken: bool,
    phase: Phase,
    /// When the last fault was, or may still be, undone, and all has had time to settle.
    healed_at: Micros,
    /// When the run ends.
    over_at: Micros,
    /// Bits were flipped.
    damaged: bool,
    /// When the present trial began.
    trial: Micros,
    /// What the faults of the present trial may slow down.
    touched: BTreeSet<usize>,
    /// Ends whose history is out of step, and the datacenters between which they are. That shows when they are next used,
    /// perhaps in a later trial (seed 179585085281), and costs a link.
    desynced: BTreeMap<End, [usize; 2]>,
    /// Of the present trial: when the leader sent what, and to which datacenter; or was answered what, and from which.
    sent_in_trial: BTreeMap<u64, (Micros, usize)>,
    /// One fault, at a known moment.
    scripted: bool,
    /// That fault is a proxy which lies.
    liar: bool,
    must_arrive: BTreeSet<u64>,
    planted: Option<Planted>,
    /// How much the last message had that a sender got from a datacenter, and that comes back there.
    came: BTreeMap<(NodeIx, Datacenter), usize>,
    /// Frames that ended a connection, by kind.
    bad_frames: BTreeMap<&'static str, u64>,
    /// What the leader read that its destinations have.
    had: held::Had,
    /// What the leader was told in acks that there was no room for, in time or late.
    refusals_heard: u64,
    /// What proxies and members refused for want of room of what came out of connections that their other ends had left.
    refused_unheard: u64,
    effects: Effects,
    /// Through which proxy each sender's last message to a destination was delivered.
    latest_proxy: BTreeMap<(NodeIx, NodeId), NodeId>,
    /// For a planted bug: what came over the first connection between two nodes.
    stale: BTreeMap<(NodeIx, NodeIx), SharedEcho>,
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
/// answer is estimated, and after a reset or in front of a full inbox it may be longer than ever before. So many, and one of
/// every so many that are answered.
const TIMEOUTS_MAX: u64 = 30;
/// See [`TIMEOUTS_MAX`].
const ANSWERED_PER_TIMEOUT: u64 = 100;

const LEADER: NodeIx = 0;
const LEADER_ID: &str = "us-leader";
/// From the last fault to the first trial; longer where faults last long.
const HEALING: Duration = Duration::from_secs(8);
const TRIAL_EVERY: Duration = Duration::from_secs(6);
const TRIAL_SENDS: Duration = Duration::from_millis(300);
/// Time that what is sent in a trial has to arrive: over before the next one begins.
const TRIAL_PATIENCE: Duration = Duration::from_millis(5_500);
const TRIALS: u32 = 4;
const INSPECT_EVERY: Duration = Duration::from_millis(250);

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
    fn run(mut self) -> Report {
        let mut steps = 0;
        while let Some((at, event)) = self.agenda.pop() {
            if at > self.over_at {
                break;
            }
            steps = if at == self.now { steps + 1 } else { 0 };
            if steps > STEPS_PER_MOMENT_MAX {
                self.checker.broken(format!("time stands still at {} µs: {event:?}", at.0));
                break;
            }
            self.events += 1;
            if self.events > EVENTS_MAX {
                self.checker.broken(format!("more than {EVENTS_MAX} events by {} µs: {event:?}", at.0));
                break;
            }
            self.now = at;
            self.trace_event(&event);
            self.handle(event);
        }
        self.finish()
    }

    fn at(&mut self, at: Micros, event: Event) {
        self.agenda.add(at.max(self.now), event);
    }

    fn note(&mut self, text: &str) {
        self.trace_text(text);
        if self.spoken {
            eprintln!("{:>10} µs  {text}", self.now.0);
        }
    }

    fn handle(&mut self, event: Event) {
        self.phase = match self.now {
            now if now >= self.healed_at => Phase::Trials,
            now if now.since(Micros(0)) >= self.swarm.faulty => Phase::Healing,
            _ => Phase::Faults,
        };
        if self.phase == Phase::Healing && std::mem::take(&mut self.damaged) {
            // A stream whose frame seems longer than it is waits for bytes that nobody sends.
            for end in self.wire.ends() {
                self.reset(end);
            }
        }
        if let Event::Arrive { to, cargo } = &event
            && self.wire.is_cut_off(*to)
        {
            let stalls = self.wire.is_cut(Hole::Stream(*to));
            self.effects.count(if stalls { Effect::Fault(Fault::Stall) } else { Effect::HeldUp });
            return self.wire.hold(*to, cargo.clone());
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
            Event::Room { end } => self.go_on_writing(end),
            Event::Alarm { host, life } => {
                let now = self.clock(host);
                let entry = &mut self.hosts[host];
                if entry.life == life && self.now >= entry.alarm {
                    entry.alarm = Micros::NEVER;
                    if let Some(node) = entry.node.as_mut() {
                        node.handle_timeout(now);
                    }
                    self.pump(host);
                }
            }
            Event::Send { origin } => self.send(origin),
            Event::Answer { host, life, to, lane } => self.answer(host, life, &to, lane),
            Event::Learn { host } => {
                self.disturbed();
                self.learn(host);
            }
            Event::Sip { host, life } => self.sip(host, life),
            Event::Inspect => self.inspect(),
            Event::Fault => self.fault(),
            Event::Trial => self.trial(),
            Event::Strike(strike) => self.strike_as_scripted(strike),
            Event::Undo(undo) => self.undo(undo),
        }
    }

    fn delay(&self, a: NodeIx, b: NodeIx) -> Duration {
        self.delays[self.hosts[a].datacenter][self.hosts[b].datacenter]
    }

    fn sites(&self, from: NodeIx, to: NodeIx) -> (usize, usize) {
        (self.hosts[from].datacenter, self.hosts[to].datacenter)
    }

    fn roles(&self, host: NodeIx) -> Roles {
        let host = &self.hosts[host];
        host.topology.node(&host.id).map(|spec| spec.roles).unwrap_or_default()
    }

    fn has_only(&self, host: NodeIx, roles: Roles) -> bool {
        self.roles(host) == roles
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
                        if let Some(blocked) = self.blocked.remove(&end) {
                            self.push_bytes(end, blocked.rest);
                        }
                        self.push_bytes(end, words);
                    }
                    self.close(end);
                    self.hosts[index].conns.remove(&conn);
                    self.wire.forget(end);
                }
                Action::Room(_) => {}
            }
        }
        self.hear(index, self.hosts[index].deaf || self.hosts[index].slow);
        let host = &mut self.hosts[index];
        let Some(node) = host.node.as_mut() else { return };
        let mut told = Vec::new();
        // What came while it was stopped it sees all at once.
        let awake = host.resumed_at != now;
        while let Some(Decided { ticket, index: place, outcome, last }) = node.poll_decided() {
            if index == LEADER && self.again.contains(&ticket) {
                if last {
                    self.again.remove(&ticket);
                }
                continue;
            }
            let open = host.tickets.get_mut(&ticket).filter(|open| open.undecided > 0);
            let Some((open, id)) = open.and_then(|open| open.ids.get(place).copied().map(|id| (open, id)))
            else {
                self.checker.broken(format!("message {place} of {ticket:?}: an outcome too many"));
                continue;
            };
            open.undecided -= 1;
            if last != (open.undecided == 0) {
                self.checker.broken(format!("{} messages of {ticket:?} without an outcome", open.undecided));
            }
            if last {
                host.tickets.remove(&ticket);
            }
            self.checker.decided(id, awake, now);
            let outcome = self.planted.map_or(outcome.clone(), |planted| planted.told(outcome));
            told.push((id, outcome));
        }
        let incarnation = node.incarnation();
        for (id, outcome) in told {
            self.tell(index, id, outcome);
        }
        let host = &mut self.hosts[index];
        if incarnation != host.incarnation {
            // A peer knew it by a later one.
            host.incarnation = incarnation;
            self.checker.restarted(&host.id, host.incarnation, now);
        }
        let Some(node) = host.node.as_mut() else { return };
        let alarm = node.poll_timeout();
        let alarm = self.moment(index, alarm);
        let host = &mut self.hosts[index];
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

    /// The application is told what became of a message.
    fn tell(&mut self, index: NodeIx, id: u64, outcome: Outcome) {
        self.trace_outcome(id, &outcome);
        if self.spoken {
            eprintln!("{:>10} µs  {index} told {id} {outcome:?}", self.now.0);
        }
        if let Outcome::Delivered { route, attempts, .. } = &outcome {
            self.effects.count(Effect::of_route(route));
            if *attempts > 1 {
                self.effects.count(Effect::Again);
            }
            if let (Route::Proxy(proxy), Some(to)) = (route, self.checker.destination(id)) {
                let before = self.latest_proxy.insert((index, to.clone()), proxy.clone());
                if before.is_some_and(|before| before != *proxy) {
                    self.effects.count(Effect::ByAnotherProxy);
                }
            }
        }
        self.checker.told(id, outcome, self.now);
    }

    fn finish(mut self) -> Report {
        for host in 0..self.hosts.len() {
            self.check_protocol(host);
        }
        self.check_prompt();
        for origin in self.origins.iter().map(|origin| &self.hosts[*origin]).filter(|host| !host.stopped) {
            self.checker.check_due(&origin.id, self.now);
        }
        self.check_settled();
        let must_arrive = std::mem::take(&mut self.must_arrive);
        self.checker.check_delivered(&must_arrive);
        let leader = self.hosts[LEADER].node.as_ref().map(Node::stats).unwrap_or_default();
        let (waited, told) = (leader.attempts.timed_out, leader.attempts.lost);
        let misjudged = TIMEOUTS_MAX + leader.attempts.acked / ANSWERED_PER_TIMEOUT;
        let silent = self.scripted || !self.swarm.is_prompt() || self.swarm.is_silent();
        if waited > told + misjudged && !silent {
            let text = format!("{waited} attempts waited for a timeout, and nobody was silent");
            self.checker.broken(text);
        }
        self.check_refusals(&leader);
        let proxies = self.hosts.iter().filter_map(|host| host.node.as_ref().map(|node| node.stats().proxy));
        let answers =
            proxies.fold((0, 0), |(runs, frames), of| (runs + of.answers, frames + of.answer_frames));
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
            refused_unheard: self.refused_unheard,
            answers,
            effects: self.effects.by_name(),
            bad_frames: self.bad_frames,
            swarm: self.swarm,
        }
    }
}
