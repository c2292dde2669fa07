//! The sending machine: takes batches in, seals frames for connections that can write, reads acks, and tries again over the
//! next way what nobody answered. Every message ends with exactly one outcome.
//!
//! What is sealed is decided as late as possible: a frame is made when its connection is ready, from all that is queued
//! then. There is no timer in front of it; under load frames grow by themselves.

mod members;

mod ping;

mod outage;

// In the order a message meets them.
mod detach;
use detach::{BREATH, COPIED_AT_ONCE, STALLED_AFTER};

mod share;
pub use acks::Ignored;
use share::Pressure;

#[cfg(feature = "sim")]
mod kept;

#[cfg(test)]
mod stranded;
mod unreached;
pub use unreached::Contact;

mod way;

mod common;
use common::Common;

mod back;

mod seal;

mod writing;

mod acks;

mod lives;

mod audit;

mod doubt;

mod clock;

mod ends;
use ends::failed;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::attempt::Attempts;
use super::back::Backs;
use super::budget::{BatchCharge, Budget};
use super::decision::DecisionLog;
use super::flow::{FIRST_MESSAGE, Flow, FlowIx, MessageId, Pending, Way};
use super::flow_set::FlowSet;
use super::links::{LinkId, Links, PeerIx};
use super::node::{RejectReason, Rejected};
use super::route::Routes;
use super::time::Micros;
use super::timers::Timers;
use super::under_way::UnderWay;
use super::verdict::{Resends, VerdictLog};
use super::writing::Writers;
use crate::id::{Datacenter, Lane, NodeId};
use crate::message::{Batch, FailReason, Message, Outcome};
use crate::settings::{MESSAGE_OVERHEAD_BYTES, Settings};
use crate::stats::decision::{DatacenterRoutes, Pinged};
use crate::stats::{DatacenterStats, DatacenterStatus, Stats};
use crate::topology::Topology;

/// A batch that was taken in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// What became of one message of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decided {
    /// Of which batch.
    pub ticket: Ticket,
    /// Its place in the batch.
    pub index: usize,
    /// What became of it.
    pub outcome: Outcome,
    /// Nothing of the batch is undecided now.
    pub last: bool,
}

struct OpenBatch {
    undecided: usize,
    charge: BatchCharge,
    datacenter: usize,
}

struct Site {
    name: Datacenter,
    /// The topology lists it now.
    present: bool,
    local: bool,
    routes: Routes,
    /// Its flows' places in the table of flows.
    flows: Vec<FlowIx>,
    /// Flows with something to seal, per lane.
    ready: [FlowSet; 2],
    /// The frame that is being made is for several destinations.
    crowded: bool,
    /// Where the next frame of a lane begins to look, so that nobody is always last.
    turn: [FlowIx; 2],
    pending_messages: u64,
    stats: DatacenterStats,
    /// Why messages took the way they did.
    decisions: DecisionLog,
    /// Whom silence was blamed on.
    verdicts: VerdictLog,
    /// What may be sent there again for having been late.
    resends: Resends,
    /// Its next audit has a time.
    audits: bool,
}

/// What a peer is to this sender.
#[derive(Clone, Copy)]
struct Reach {
    site: usize,
    /// It is a destination: the flow of the first lane, the others follow.
    flows: Option<FlowIx>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Deadline(FlowIx),
    Attempt(u64),
    Writer(LinkId, Lane),
    Wake(usize),
    Audit(usize),
    Held(FlowIx),
    Room,
    Stalled(usize),
}

/// What a flow is to do next.
enum Pick {
    Link(LinkId, Way),
    Wait(Micros),
}

/// The sending machine.
pub struct Client {
    settings: Settings,
    sites: Vec<Site>,
    /// The places of sites, by name.
    site_index: BTreeMap<Datacenter, usize>,
    flows: Vec<Flow>,
    /// The flow of the first lane of each member; the other lane's follows.
    destinations: BTreeMap<NodeId, FlowIx>,
    /// The same of members that left. Their seqs go on should they come back.
    retired: BTreeMap<NodeId, FlowIx>,
    reaches: BTreeMap<PeerIx, Reach>,
    destination_bytes: Vec<usize>,
    budget: Budget,
    pressure: Pressure,
    batches: BTreeMap<Ticket, OpenBatch>,
    decided: VecDeque<Decided>,
    /// Round trips that were asked for and are done.
    pinged: VecDeque<Pinged>,
    attempts: Attempts,
    under_way: UnderWay,
    writers: Writers,
    timers: Timers<Timer>,
    /// Proxies of this sender's own datacenter, as far as they lead back to somebody.
    backs: Backs,
    next_ticket: u64,
    next_message: u64,
    /// Without those of datacenters.
    stats: Stats,
    /// Of so many messages one gives nothing back when it is decided; 0 for none.
    #[cfg(feature = "sim")]
    leaks: u64,
}

impl Client {
    /// A sender that wants links to all remote proxies and all members of its own datacenter.
    #[must_use]
    pub fn new(topology: &Topology, settings: Settings, links: &mut Links, now: Micros) -> Self {
        let mut client = Self {
            budget: Budget::new(&settings, 0),
            backs: Backs::default(),
            pressure: Pressure::default(),
            settings,
            destination_bytes: Vec::new(),
            sites: Vec::new(),
            site_index: BTreeMap::new(),
            flows: Vec::new(),
            destinations: BTreeMap::new(),
            retired: BTreeMap::new(),
            reaches: BTreeMap::new(),
            batches: BTreeMap::new(),
            decided: VecDeque::new(),
            pinged: VecDeque::new(),
            attempts: Attempts::default(),
            under_way: UnderWay::default(),
            writers: Writers::default(),
            timers: Timers::default(),
            next_ticket: 0,
            next_message: FIRST_MESSAGE.0,
            stats: Stats::default(),
            #[cfg(feature = "sim")]
            leaks: 0,
        };
        client.set_topology(topology, links, now);
        for peer in client.wanted() {
            links.want(peer, now);
        }
        client
    }

    /// Takes a batch in.
    ///
    /// # Errors
    /// [`Rejected`] gives it back.
    pub fn submit(&mut self, batch: Batch, links: &mut Links, now: Micros) -> Result<Ticket, Rejected> {
        let site = self.site_index.get(&batch.datacenter).copied();
        let Some(site) = site.filter(|site| self.sites[*site].present) else {
            return Err(Rejected { batch, reason: RejectReason::UnknownDatacenter });
        };
        let (charge, urgent) = (BatchCharge::of(&batch.messages), batch.is_urgent());
        let bytes = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        let limit = self.budget.limit(urgent);
        if charge.bytes() > limit {
            let (batch_bytes, budget_bytes) = (bytes(charge.bytes()), bytes(limit));
            return Err(Rejected { batch, reason: RejectReason::OverBudget { batch_bytes, budget_bytes } });
        }
        let replaced = self.freed_by_slots(site, &batch.messages);
        if !self.budget.charge(site, charge.bytes(), replaced, urgent) {
            self.press(now);
            let queued_bytes = bytes(self.budget.queued(site));
            return Err(Rejected { batch, reason: RejectReason::Busy { queued_bytes } });
        }
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let count = batch.messages.len();
        if count > 0 {
            self.batches.insert(ticket, OpenBatch { undecided: count, charge, datacenter: site });
        }
        self.sites[site].pending_messages += u64::try_from(count).unwrap_or(0);
        self.sites[site].stats.messages += u64::try_from(count).unwrap_or(0);
        let (mut flows, mut guess, first) = (Vec::new(), 0, MessageId(self.next_message));
        let mut copied = 0;
        for (index, mut message) in batch.messages.into_iter().enumerate() {
            let Some(ix) = self.guess_flow_of(site, &message, &mut guess) else {
                self.turn_down(ticket, index, site, FailReason::UnknownNode);
                continue;
            };
            // What is not copied here the timer comes to in a moment.
            let stalls = copied < COPIED_AT_ONCE && self.stalls(ix, now);
            if stalls {
                copied += 1 + self.detach_waiting(ix);
                self.detach(ticket, index, &mut message.payload);
            }
            // Each flow once, however many messages come for it: which way it takes is not decided per message.
            if !self.flows[ix.0].came_since(first) {
                flows.push(ix);
            }
            self.enqueue(ticket, index, message, ix, now);
            if stalls {
                self.flows[ix.0].detached = MessageId(self.next_message);
            }
        }
        if count > 0 {
            let soon = if copied < COPIED_AT_ONCE { STALLED_AFTER } else { BREATH };
            self.timers.set_earlier(Timer::Stalled(site), now + soon);
        }
        flows.sort_unstable();
        // What was turned down did not come: there may be more of it for one flow.
        flows.dedup();
        let mut common = Common::default();
        for ix in flows {
            self.set_alarm(ix);
            self.wake_in(&mut common, ix, links, now);
        }
        Ok(ticket)
    }

    fn flow_of(&self, site: usize, message: &Message) -> Option<FlowIx> {
        let first = self.destinations.get(&message.destination)?;
        Some(FlowIx(first.0 + message.lane.index())).filter(|ix| self.flows[ix.0].datacenter == site)
    }

    /// As [`Client::flow_of`]. A batch names members in the same order time and again, most often that of the topology: the
    /// one at the place that was guessed is looked at before the table, and the guess is moved behind the one that it was.
    fn guess_flow_of(&self, site: usize, message: &Message, guess: &mut usize) -> Option<FlowIx> {
        let flows = &self.sites[site].flows;
        // Those of one destination stand together, a lane each.
        let lanes = Lane::ALL.len();
        let place = if *guess < flows.len() { *guess } else { 0 };
        let guessed = flows.get(place + message.lane.index()).copied();
        let found = guessed.filter(|ix| self.flows[ix.0].destination == message.destination);
        *guess = place + lanes;
        found.or_else(|| {
            let ix = self.flow_of(site, message)?;
            let first = FlowIx(ix.0 - message.lane.index());
            *guess = flows.binary_search(&first).map_or(0, |place| place + lanes);
            Some(ix)
        })
    }

    /// What queued messages give back when newer ones of their slots take their places. Only where the newer one is no
    /// longer: that one is sure to be taken.
    fn freed_by_slots(&self, site: usize, messages: &[Message]) -> usize {
        let mut replaced: BTreeMap<Ticket, BTreeSet<usize>> = BTreeMap::new();
        for message in messages {
            let old =
                message.slot.and_then(|slot| self.flows[self.flow_of(site, message)?.0].queued_in(slot));
            if let Some(old) = old.filter(|old| message.len() <= old.payload.len()) {
                replaced.entry(old.ticket).or_default().insert(old.index);
            }
        }
        let freed = |(ticket, indices)| {
            self.batches.get(ticket).map_or(0, |open: &OpenBatch| open.charge.would_free(indices))
        };
        replaced.iter().map(freed).sum()
    }

    fn enqueue(&mut self, ticket: Ticket, index: usize, message: Message, flow_ix: FlowIx, now: Micros) {
        let site = self.flows[flow_ix.0].datacenter;
        if message.len() > self.settings.message_bytes_max {
            return self.turn_down(ticket, index, site, FailReason::TooLarge);
        }
        let charge = message.len() + MESSAGE_OVERHEAD_BYTES;
        let replaced = message.slot.and_then(|slot| self.flows[flow_ix.0].queued_in(slot));
        let freed = replaced.map_or(0, |old| old.payload.len() + MESSAGE_OVERHEAD_BYTES);
        let others = self.destination_bytes[flow_ix.0] - freed;
        // One message always fits, so that a budget of exactly one message is no trap; so does one that takes no more than
        // the one it replaces.
        if others > 0 && charge > freed && others + charge > self.flow_bytes_max(flow_ix, now) {
            return self.turn_down(ticket, index, site, FailReason::Refused);
        }
        self.destination_bytes[flow_ix.0] += charge;
        let expires_at = now + message.deadline.unwrap_or(self.settings.message_deadline);
        let id = MessageId(self.next_message);
        self.next_message += 1;
        let group = self.flows[flow_ix.0].deadlines.add(expires_at, id);
        let Message { kind, slot, payload, .. } = message;
        let pending = Pending { id, ticket, index, kind, slot, expires_at, group, payload };
        if let Some(old) = self.flows[flow_ix.0].push(pending, now) {
            self.give_up_queued(flow_ix, &old, FailReason::Superseded);
        }
    }

    /// A message fails before it is queued.
    fn turn_down(&mut self, ticket: Ticket, index: usize, site: usize, reason: FailReason) {
        self.count_failed(site, reason);
        self.decide(ticket, index, failed(reason, false));
    }

    /// The next message that was decided.
    pub fn poll_decided(&mut self) -> Option<Decided> {
        self.decided.pop_front()
    }

    /// Datacenters for which room came free for somebody who was turned away, each once.
    pub fn take_room(&mut self) -> Vec<Datacenter> {
        self.budget.take_room().into_iter().map(|site| self.sites[site].name.clone()).collect()
    }

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let datacenters = self.sites.iter().map(|site| (site.name.clone(), site.stats.clone())).collect();
        Stats { datacenters, ..self.stats.clone() }
    }

    /// How every datacenter is reached now.
    #[must_use]
    pub fn status(&self, links: &Links, now: Micros) -> Vec<DatacenterStatus> {
        let sites = self.sites.iter().enumerate().filter(|(_, site)| site.present);
        sites.map(|(index, _)| self.status_of(index, links, now)).collect()
    }

    fn status_of(&self, index: usize, links: &Links, now: Micros) -> DatacenterStatus {
        let site = &self.sites[index];
        let flows = || site.flows.iter().map(|ix| &self.flows[ix.0]);
        let (unreached_destinations, unreached) = self.all_unreached(index, links, now);
        let (untaken_destinations, untaken) = self.all_untaken(index, now);
        DatacenterStatus {
            name: site.name.clone(),
            local: site.local,
            queued_bytes: u64::try_from(self.budget.queued(index)).unwrap_or(u64::MAX),
            pending_messages: site.pending_messages,
            flows_without_room: flows().map(|flow| u64::from(flow.is_starved())).sum(),
            least_room_bytes: flows().filter_map(Flow::room_left).min(),
            unreached_destinations,
            unreached,
            untaken_destinations,
            untaken,
            routes: site.routes.status(links, &self.settings, now),
        }
    }

    /// The first datacenter from a place in their list on, and its place: how it is reached now, and how it came to that.
    #[must_use]
    pub fn routes(&self, from: usize, links: &Links, now: Micros) -> Option<(usize, DatacenterRoutes)> {
        let (index, site) = self.sites.iter().enumerate().skip(from).find(|(_, site)| site.present)?;
        let routes = DatacenterRoutes {
            status: self.status_of(index, links, now),
            decisions_forgotten: site.decisions.forgotten(),
            decisions: site.decisions.shown(|way| self.proxy_of(site, way).cloned(), |at| links.wall_us(at)),
            verdicts: site.verdicts.shown(|at| links.wall_us(at)),
        };
        Some((index, routes))
    }
}
