//! The sending machine: takes batches in, seals frames for connections that can write, reads acks, and tries again over the
//! next way what nobody answered. Every message ends with exactly one outcome.
//!
//! What is sealed is decided as late as possible: a frame is made when its connection is ready, from all that is queued
//! then. There is no timer in front of it; under load frames grow by themselves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use trunkline_codec::{Payload, Stage};

use super::attempt::{Attempt, Attempts};
use super::budget::{BatchCharge, Budget};
use super::flow::{Flow, FlowIx, Leg, MessageId, Next, Pending, Place, Selected, Sent, Way};
use super::frame::{SealedBatch, Token, Written, direct_frame_bytes};
use super::links::{LinkId, Links, PeerIx};
use super::node::{RejectReason, Rejected};
use super::route::{Routes, attempt_timeout};
use super::run::message_head;
use super::time::{Micros, micros};
use super::timers::Timers;
use super::window::MESSAGE_OVERHEAD_BYTES;
use super::wire::{AckFlow, Envelope, Flow as WireFlow, RefusedReason};
use crate::id::{Datacenter, Incarnation, Lane, NodeId};
use crate::message::{Batch, FailReason, Message, Outcome, Route};
use crate::settings::{FRAME_OVERHEAD_BYTES, Settings};
use crate::stats::{DatacenterStatus, Stats};
use crate::topology::Topology;

/// A batch that was taken in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

struct OpenBatch {
    outcomes: Vec<Option<Outcome>>,
    undecided: usize,
    charge: BatchCharge,
    datacenter: usize,
}

struct Site {
    name: Datacenter,
    local: bool,
    routes: Routes,
    /// Flows with something to seal, per lane.
    ready: [BTreeSet<FlowIx>; 2],
    /// Where the next frame of a lane begins to look, so that nobody is always last.
    turn: [FlowIx; 2],
    pending_messages: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Attempt(u64),
    Wake(usize),
}

/// What a deadline looks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Queued(MessageId),
    Sent(u64),
}

/// What a flow is to do next.
enum Pick {
    Link(LinkId, Way),
    Wait(Micros),
}

/// Distinct bytes in one frame before it is full: large enough to compress, small enough that nothing waits long behind it.
const FRAME_UNIQUE_BYTES: usize = 512 * 1024;

/// Most runs in one frame: the messages of one codec frame.
const FRAME_RUNS_MAX: usize = 1024;

/// A timer that rings so late says that this process was late, not the proxy.
const OWN_LAG: Duration = Duration::from_millis(20);

/// The sending machine.
pub struct Client {
    settings: Settings,
    sites: Vec<Site>,
    flows: Vec<Flow>,
    destinations: BTreeMap<NodeId, FlowIx>,
    destination_bytes: Vec<usize>,
    budget: Budget,
    batches: BTreeMap<Ticket, OpenBatch>,
    outcomes: VecDeque<(Ticket, Vec<Outcome>)>,
    attempts: Attempts,
    deadlines: BTreeSet<(Micros, FlowIx, Due)>,
    timers: Timers<Timer>,
    next_ticket: u64,
    next_message: u64,
    stats: Stats,
}

impl Client {
    /// A sender that wants links to all remote proxies and all members of its own datacenter.
    #[must_use]
    pub fn new(topology: &Topology, settings: Settings, links: &mut Links, now: Micros) -> Self {
        let me = links.me.clone();
        let names = topology.datacenters();
        let mut sites = Vec::with_capacity(names.len());
        let (mut flows, mut destinations) = (Vec::new(), BTreeMap::new());
        for (datacenter, name) in names.iter().enumerate() {
            let local = *name == me.datacenter;
            let proxies: Vec<(PeerIx, NodeId)> = topology
                .proxies_of(name)
                .filter(|_| !local)
                .filter_map(|spec| Some((links.peer(&spec.id)?, spec.id.clone())))
                .collect();
            for (peer, _) in &proxies {
                links.want(*peer, now);
            }
            for spec in topology.members_of(name).filter(|spec| spec.id != me.node) {
                let Some(peer) = links.peer(&spec.id) else { continue };
                if local {
                    links.want(peer, now);
                }
                destinations.insert(spec.id.clone(), FlowIx(flows.len()));
                flows.extend(Lane::ALL.map(|lane| Flow::new(peer, spec.id.clone(), datacenter, lane)));
            }
            sites.push(Site {
                name: name.clone(),
                local,
                routes: Routes::new(proxies),
                ready: [BTreeSet::new(), BTreeSet::new()],
                turn: [FlowIx(0); 2],
                pending_messages: 0,
            });
        }
        Self {
            budget: Budget::new(&settings, sites.len()),
            settings,
            destination_bytes: vec![0; flows.len()],
            sites,
            flows,
            destinations,
            batches: BTreeMap::new(),
            outcomes: VecDeque::new(),
            attempts: Attempts::default(),
            deadlines: BTreeSet::new(),
            timers: Timers::default(),
            next_ticket: 0,
            next_message: 0,
            stats: Stats::for_datacenters(names),
        }
    }

    /// Takes a batch in.
    ///
    /// # Errors
    /// [`Rejected`] gives it back.
    pub fn submit(&mut self, batch: Batch, links: &mut Links, now: Micros) -> Result<Ticket, Rejected> {
        let Some(site) = self.sites.iter().position(|site| site.name == batch.datacenter) else {
            return Err(Rejected { batch, reason: RejectReason::UnknownDatacenter });
        };
        let charge = BatchCharge::of(&batch.messages);
        let bytes = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        if charge.bytes() > self.settings.datacenter_budget_bytes {
            let (batch_bytes, budget_bytes) =
                (bytes(charge.bytes()), bytes(self.settings.datacenter_budget_bytes));
            return Err(Rejected { batch, reason: RejectReason::OverBudget { batch_bytes, budget_bytes } });
        }
        if !self.budget.charge(site, charge.bytes()) {
            let queued_bytes = bytes(self.budget.queued(site));
            return Err(Rejected { batch, reason: RejectReason::Busy { queued_bytes } });
        }
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let count = batch.messages.len();
        let open = OpenBatch { outcomes: vec![None; count], undecided: count, charge, datacenter: site };
        self.batches.insert(ticket, open);
        self.sites[site].pending_messages += u64::try_from(count).unwrap_or(0);
        self.stats.datacenters.entry(batch.datacenter).or_default().messages +=
            u64::try_from(count).unwrap_or(0);
        if count == 0 {
            self.finish(ticket);
        }
        for (index, message) in batch.messages.into_iter().enumerate() {
            self.enqueue(ticket, index, message, site, links, now);
        }
        Ok(ticket)
    }

    fn enqueue(
        &mut self,
        ticket: Ticket,
        index: usize,
        message: Message,
        site: usize,
        links: &mut Links,
        now: Micros,
    ) {
        let known =
            self.destinations.get(&message.destination).map(|first| FlowIx(first.0 + message.lane.index()));
        let Some(flow_ix) = known.filter(|ix| self.flows[ix.0].datacenter == site) else {
            return self.turn_down(ticket, index, site, FailReason::UnknownNode);
        };
        if message.len() > self.settings.message_bytes_max {
            return self.turn_down(ticket, index, site, FailReason::TooLarge);
        }
        let charge = message.len() + MESSAGE_OVERHEAD_BYTES;
        let held = &mut self.destination_bytes[flow_ix.0];
        // One message always fits, so that a budget of exactly one message is no trap.
        if *held > 0 && *held + charge > self.settings.destination_budget_bytes {
            return self.turn_down(ticket, index, site, FailReason::Refused);
        }
        *held += charge;
        let expires_at = now + message.deadline.unwrap_or(self.settings.message_deadline);
        let id = MessageId(self.next_message);
        self.next_message += 1;
        self.deadlines.insert((expires_at, flow_ix, Due::Queued(id)));
        let Message { kind, slot, payload, .. } = message;
        let pending = Pending { id, ticket, index, kind, slot, expires_at, payload };
        if let Some(old) = self.flows[flow_ix.0].push(pending) {
            self.give_up_queued(flow_ix, &old, FailReason::Superseded);
        }
        self.wake(flow_ix, links, now);
    }

    /// A message fails before it is queued.
    fn turn_down(&mut self, ticket: Ticket, index: usize, site: usize, reason: FailReason) {
        self.count_failed(site, reason);
        self.decide(ticket, index, failed(reason, false));
    }

    /// The outcomes of a batch.
    pub fn poll_outcome(&mut self) -> Option<(Ticket, Vec<Outcome>)> {
        self.outcomes.pop_front()
    }

    /// True once after room came free for somebody who was turned away.
    pub fn take_room(&mut self) -> bool {
        self.budget.take_room()
    }

    // ---- which way -------------------------------------------------------------------------------------------------

    /// The way a flow takes now: the proxy in use, the next proxy, straight; whichever neither failed it a moment ago nor
    /// is down.
    fn pick(&mut self, ix: FlowIx, links: &mut Links, now: Micros) -> Pick {
        let flow = &self.flows[ix.0];
        if flow.is_paused(now) {
            return Pick::Wait(flow.next_wake(now));
        }
        let routes = &mut self.sites[flow.datacenter].routes;
        let by_proxy = routes.usable(links, now).find(|index| flow.may_try(Way::Proxy(*index), now));
        if let Some(index) = by_proxy
            && let Some(link) = routes.proxies[index].link
        {
            return Pick::Link(link, Way::Proxy(index));
        }
        if flow.may_try(Way::Direct, now) {
            if let Some((link, _)) = links.dialled(flow.peer).filter(|(_, link)| !link.draining) {
                return Pick::Link(link, Way::Direct);
            }
            links.want_once(flow.peer, now);
        }
        Pick::Wait(flow.next_wake(now).min(routes.next_wake(now)))
    }

    /// Has the flow's connection ask for work, if there is any.
    fn wake(&mut self, ix: FlowIx, links: &mut Links, now: Micros) {
        let flow = &self.flows[ix.0];
        let (site, lane) = (flow.datacenter, flow.lane);
        if !flow.has_work() {
            self.sites[site].ready[lane.index()].remove(&ix);
            return;
        }
        self.sites[site].ready[lane.index()].insert(ix);
        match self.pick(ix, links, now) {
            Pick::Link(link, _) => {
                if let Some(conn) = links.conn_of(link, lane) {
                    links.wake(conn);
                }
            }
            Pick::Wait(until) if until < Micros::NEVER => self.timers.set_earlier(Timer::Wake(site), until),
            Pick::Wait(_) => {}
        }
    }

    fn wake_site(&mut self, site: usize, links: &mut Links, now: Micros) {
        for lane in Lane::ALL {
            for ix in self.sites[site].ready[lane.index()].iter().copied().collect::<Vec<_>>() {
                self.wake(ix, links, now);
            }
        }
    }

    /// A link came up.
    pub fn handle_link_up(&mut self, link: LinkId, links: &mut Links, now: Micros) {
        let Some(peer) = links.link(link).filter(|link| link.dialled).map(|link| link.peer) else { return };
        for site in 0..self.sites.len() {
            let mut concerned = false;
            for proxy in self.sites[site].routes.proxies.iter_mut().filter(|proxy| proxy.peer == peer) {
                proxy.link = Some(link);
                concerned = true;
            }
            concerned |= self.flows.iter().any(|flow| flow.peer == peer && flow.datacenter == site);
            if concerned {
                self.wake_site(site, links, now);
            }
        }
    }

    /// A link is gone: everything undecided on it takes another way at once.
    pub fn handle_link_down(&mut self, link: LinkId, peer: PeerIx, links: &mut Links, now: Micros) {
        for proxy in self.sites.iter_mut().flat_map(|site| &mut site.routes.proxies) {
            if proxy.link == Some(link) {
                proxy.link = None;
            }
        }
        for id in self.attempts.on_link(link) {
            let waiting = self.end_attempt(id, true);
            self.stats.attempts.lost += waiting;
            self.stats.fallbacks.proxy_closed += waiting;
        }
        if let Some(site) = self.site_of(peer) {
            self.wake_all_of(site, links, now);
        }
    }

    /// A peer is going away.
    pub fn handle_draining(&mut self, link: LinkId, links: &mut Links, now: Micros) {
        let Some(peer) = links.link(link).map(|link| link.peer) else { return };
        if let Some(site) = self.site_of(peer) {
            self.wake_site(site, links, now);
        }
    }

    /// A peer could not be dialled: its flows leave the direct way alone for a while.
    pub fn handle_dial_failed(&mut self, peer: PeerIx, links: &mut Links, now: Micros) {
        for ix in (0..self.flows.len()).map(FlowIx) {
            let flow = &mut self.flows[ix.0];
            if flow.peer == peer && !self.sites[flow.datacenter].local {
                flow.avoid(Way::Direct, now);
                self.wake(ix, links, now);
            }
        }
    }

    /// This node took another incarnation: what was under way belongs to a life that peers no longer hear.
    pub fn handle_reincarnated(&mut self, links: &mut Links, now: Micros) {
        for ix in (0..self.flows.len()).map(FlowIx) {
            self.restart_flow(ix, None, links, now);
        }
    }

    fn site_of(&self, peer: PeerIx) -> Option<usize> {
        let by_proxy =
            self.sites.iter().position(|site| site.routes.proxies.iter().any(|proxy| proxy.peer == peer));
        by_proxy.or_else(|| self.flows.iter().find(|flow| flow.peer == peer).map(|flow| flow.datacenter))
    }

    /// As [`Client::wake_site`], for flows whose work may have just come to be.
    fn wake_all_of(&mut self, site: usize, links: &mut Links, now: Micros) {
        for ix in (0..self.flows.len())
            .map(FlowIx)
            .filter(|ix| self.flows[ix.0].datacenter == site)
            .collect::<Vec<_>>()
        {
            self.wake(ix, links, now);
        }
    }

    // ---- sealing ---------------------------------------------------------------------------------------------------

    /// The next frame for a connection that can write, from all flows whose way leads over it.
    pub fn seal(
        &mut self,
        link: LinkId,
        lane: Lane,
        links: &mut Links,
        now: Micros,
        out: &mut Vec<SealedBatch>,
    ) {
        let Some(peer) = links.link(link).map(|link| link.peer) else { return };
        let Some(site) = self.site_of(peer) else { return };
        let frame_bytes_max =
            links.link(link).map_or(0, |link| link.frame_bytes_max).saturating_sub(FRAME_OVERHEAD_BYTES);
        let turn = self.sites[site].turn[lane.index()];
        let ready = &self.sites[site].ready[lane.index()];
        let order: Vec<FlowIx> = ready.range(turn..).chain(ready.range(..turn)).copied().collect();
        let id = self.attempts.reserve();
        let mut frame = Filling { frame_bytes_max, ..Filling::default() };
        let mut attempt = None;
        for ix in order {
            if frame.runs.len() >= FRAME_RUNS_MAX || frame.unique_bytes >= FRAME_UNIQUE_BYTES {
                self.sites[site].turn[lane.index()] = ix;
                break;
            }
            let way = match self.pick(ix, links, now) {
                Pick::Link(picked, way) if picked == link => way,
                Pick::Link(..) => {
                    self.wake(ix, links, now);
                    continue;
                }
                Pick::Wait(_) => {
                    self.wake(ix, links, now);
                    continue;
                }
            };
            self.fail_oversize(ix, frame_bytes_max);
            let entries = self.fill(ix, Leg { attempt: id, way, link, now }, links, &mut frame);
            if !entries.is_empty() {
                let attempt = attempt.get_or_insert_with(|| Attempt {
                    link,
                    datacenter: site,
                    way,
                    entries: Vec::new(),
                    number: 0,
                    sealed_at: now,
                    written_at: None,
                    flying: 0,
                    answered: false,
                    graced: false,
                });
                for run in entries {
                    let messages = usize::try_from(run.count).unwrap_or(usize::MAX);
                    attempt.flying += messages.max(1);
                    attempt.entries.push((ix, run));
                }
            }
            if !self.flows[ix.0].has_work() {
                self.sites[site].ready[lane.index()].remove(&ix);
            }
        }
        let Some(mut attempt) = attempt else { return };
        attempt.number = frame.attempt;
        let row = self.stats.datacenters.entry(self.sites[site].name.clone()).or_default();
        row.frames += 1;
        row.sent.logical += frame.logical_bytes;
        self.attempts.insert(id, attempt);
        out.push(SealedBatch {
            lane,
            envelope: Envelope { batch: id, attempt: frame.attempt, runs: frame.runs },
            payloads: frame.payloads,
            // The second stage pays where bytes are dear: between datacenters, and never in front of something urgent.
            stage: if lane == Lane::Bulk && !self.sites[site].local { Stage::Lz4 } else { Stage::None },
            token: Token::Attempt(id),
        });
    }

    /// What is next in a flow and too large for the peer's limit can never be sent over this link.
    fn fail_oversize(&mut self, ix: FlowIx, bytes_max: usize) {
        while let Some(next) = self.flows[ix.0].oversize(bytes_max) {
            match next {
                Next::Retry(seq) => self.give_up(ix, seq, FailReason::TooLarge),
                Next::Queued(id) => {
                    let Some(pending) = self.flows[ix.0].unqueue(id) else { return };
                    self.give_up_queued(ix, &pending, FailReason::TooLarge);
                }
            }
        }
    }

    /// Puts the runs of one flow into a frame.
    fn fill(&mut self, ix: FlowIx, leg: Leg, links: &mut Links, frame: &mut Filling) -> Vec<Selected> {
        let Leg { way, link, now, .. } = leg;
        let flow = &mut self.flows[ix.0];
        let wire_flow = WireFlow {
            origin: links.me.node.clone(),
            origin_incarnation: links.me.incarnation,
            destination: flow.destination.clone(),
            destination_incarnation: flow.incarnation,
        };
        let row = links.roster_out(link, flow.lane).map(|roster| roster.row(&wire_flow));
        let Some(Ok(row)) = row else {
            // All rows of this connection are used: it is replaced, and everything on it takes another way.
            links.replace(link, now);
            return Vec::new();
        };
        let first_new = flow.next();
        let (mut run_bytes, run_bytes_max) = (0_usize, self.settings.run_bytes_max);
        let alone = frame.payloads.is_empty();
        let mut first = true;
        let selected = flow.select(alone, |payload| {
            run_bytes = run_bytes.saturating_add(payload.len() + 16);
            // A message larger than a run is a run of its own, next to the same message for others.
            let run_fits = std::mem::take(&mut first) || run_bytes <= run_bytes_max;
            frame.admit(payload, run_fits)
        });
        // What got its seq here is looked for by its seq from now on.
        for seq in first_new..flow.next() {
            if let Some(Sent { pending, .. }) = flow.sent.get(&seq) {
                self.deadlines.remove(&(pending.expires_at, ix, Due::Queued(pending.id)));
                self.deadlines.insert((pending.expires_at, ix, Due::Sent(seq)));
            }
        }
        for run in &selected {
            let (mut expires_at, mut segments, mut first_time) = (now, Vec::new(), 0_usize);
            for seq in run.seqs() {
                let Some(sent) = flow.sent.get(&seq) else { continue };
                let head = frame.head(sent.pending.kind, sent.pending.payload.len());
                if sent.attempts == 0 {
                    first_time += head.len() + sent.pending.payload.len();
                }
                segments.push(head);
                segments.extend(sent.pending.payload.segments().iter().cloned());
                expires_at = expires_at.max(sent.pending.expires_at);
                frame.attempt = frame.attempt.max(sent.attempts.saturating_add(1));
            }
            if first_time > 0 {
                frame.logical_bytes += direct_frame_bytes(first_time);
            }
            if way == Way::Direct && !self.sites[flow.datacenter].local {
                self.stats.fallbacks.direct += u64::from(run.count);
            }
            let left_ms = micros(expires_at.since(now)).div_ceil(1000).max(1);
            let deadline_ms = u32::try_from(left_ms).unwrap_or(u32::MAX);
            frame.runs.push(flow.fly(*run, leg, row, deadline_ms));
            frame.payloads.push(segments.into_iter().collect());
        }
        frame.attempt = frame.attempt.max(1);
        selected
    }

    /// A frame went out: its clock starts.
    pub fn handle_written(&mut self, id: u64, written: &Written, links: &Links, now: Micros) {
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        attempt.written_at = Some(now);
        let waiting = attempt.flying > 0;
        let (way, number, link, entries) =
            (attempt.way, attempt.number, attempt.link, attempt.entries.clone());
        let row = self.stats.datacenters.entry(self.sites[attempt.datacenter].name.clone()).or_default();
        row.sent.diff += written.diff_bytes;
        row.sent.staged += written.staged_bytes;
        if !waiting {
            // All of it was answered before the writer came back to say so.
            self.attempts.remove(id);
            return;
        }
        let acks = match (way, entries.first()) {
            (Way::Proxy(index), _) => self.sites[attempt.datacenter].routes.proxies[index].rtt,
            (Way::Direct, Some((ix, _))) => self.flows[ix.0].direct_rtt,
            (Way::Direct, None) => return,
        };
        let pings = links.link(link).map(|link| link.rtt).unwrap_or_default();
        let timeout = attempt_timeout(&acks, &pings, number, &self.settings);
        self.timers.set(Timer::Attempt(id), now + timeout);
        for (ix, run) in entries {
            self.flows[ix.0].written(run, now);
        }
    }

    // ---- acks ------------------------------------------------------------------------------------------------------

    /// An ack for a flow of this node's own. False when it makes no sense and was ignored.
    pub fn handle_ack(
        &mut self,
        link: LinkId,
        wire_flow: &WireFlow,
        lane: Lane,
        entry: &AckFlow,
        links: &mut Links,
        now: Micros,
    ) -> bool {
        let Some(ix) =
            self.destinations.get(&wire_flow.destination).map(|first| FlowIx(first.0 + lane.index()))
        else {
            return false;
        };
        if wire_flow.origin_incarnation != links.me.incarnation {
            return false;
        }
        let flow = &mut self.flows[ix.0];
        if entry.incarnation.is_known() {
            if entry.incarnation < flow.incarnation {
                return true;
            }
            if entry.decided >= flow.next() {
                return false;
            }
            if entry.incarnation > flow.incarnation {
                // Refusals first: what was certainly not delivered need not fail with the old life.
                self.take_refusals(ix, link, entry, links, now);
                if self.flows[ix.0].incarnation.is_known() {
                    self.restart_flow(ix, Some(entry.incarnation), links, now);
                } else {
                    self.flows[ix.0].incarnation = entry.incarnation;
                }
            }
            self.take_state(ix, link, entry, now);
        }
        self.take_refusals(ix, link, entry, links, now);
        let flow = &self.flows[ix.0];
        if flow.lane == lane {
            self.wake(ix, links, now);
        }
        true
    }

    /// What the destination has: decided and held seqs.
    fn take_state(&mut self, ix: FlowIx, link: LinkId, entry: &AckFlow, now: Micros) {
        let mut progress = self.flows[ix.0].raise_decided(entry.decided);
        while let Some(seq) =
            self.flows[ix.0].sent.first_key_value().map(|(seq, _)| *seq).filter(|seq| *seq <= entry.decided)
        {
            progress = true;
            self.land(ix, seq, link, now);
            let Some(sent) = self.flows[ix.0].forget(seq) else { break };
            self.delivered(ix, seq, &sent, now);
        }
        for (word, bits) in (0_u64..).zip(&entry.held) {
            let mut bits = *bits;
            while bits != 0 {
                let bit = u64::from(bits.trailing_zeros());
                bits &= bits - 1;
                let seq = entry.decided + 1 + 64 * word + bit;
                if self.flows[ix.0].sent.get(&seq).is_some_and(|sent| sent.place != Place::Held) {
                    progress = true;
                    self.land(ix, seq, link, now);
                    self.flows[ix.0].hold(seq);
                }
            }
        }
        // A run without messages asked only for this.
        if let Some(id) = self.flows[ix.0].asking
            && self
                .attempts
                .get(id)
                .is_some_and(|attempt| attempt.link == link && attempt.written_at.is_some())
        {
            self.flows[ix.0].asking = None;
            self.landed(id);
        }
        if progress && let Some(way) = self.way_of(link, ix) {
            self.flows[ix.0].answered(way);
        }
    }

    fn way_of(&self, link: LinkId, ix: FlowIx) -> Option<Way> {
        let flow = &self.flows[ix.0];
        Some(self.sites[flow.datacenter].routes.by_link(link).map_or(Way::Direct, Way::Proxy))
    }

    /// An ack names a message: what that says of its attempt and of the way.
    fn land(&mut self, ix: FlowIx, seq: u64, link: LinkId, now: Micros) {
        let flow = &self.flows[ix.0];
        let site = flow.datacenter;
        let Some(sent) = flow.sent.get(&seq) else { return };
        self.stats.attempts.acked += 1;
        let (mut sample, place) = (None, sent.place);
        let late = (sent.attempts > 1 && sent.first_link == link).then_some(sent.first_written);
        if let Place::Flying(id) = place {
            if let Some(attempt) = self.attempts.get_mut(id).filter(|attempt| attempt.link == link) {
                attempt.answered = true;
                sample = Some(attempt.written_at.unwrap_or(attempt.sealed_at));
            }
            self.landed(id);
        }
        if let Some(rtt) = sample.or(late).map(|written| now.since(written)) {
            match self.sites[site].routes.by_link(link) {
                Some(proxy) => self.sites[site].routes.proxies[proxy].rtt.sample(rtt),
                None => self.flows[ix.0].direct_rtt.sample(rtt),
            }
        }
        if let Some(proxy) = self.sites[site].routes.by_link(link) {
            self.sites[site].routes.proxies[proxy].acquit(sample);
        }
    }

    fn landed(&mut self, id: u64) {
        if self.attempts.landed(id)
            && self.attempts.get(id).is_some_and(|attempt| attempt.written_at.is_some())
        {
            self.attempts.remove(id);
            self.timers.clear(Timer::Attempt(id));
        }
    }

    /// Attempts that ended without a decision. Only those over this very link: another one may still be under way.
    fn take_refusals(&mut self, ix: FlowIx, link: LinkId, entry: &AckFlow, links: &mut Links, now: Micros) {
        let Some(way) = self.way_of(link, ix) else { return };
        for refused in &entry.refused {
            let reason = RefusedReason::from_wire(refused.reason);
            let end = refused.first.0.saturating_add(u64::from(refused.count));
            let seqs: Vec<u64> =
                self.flows[ix.0].sent.range(refused.first.0..end).map(|(seq, _)| *seq).collect();
            let (mut any, mut ended) = (refused.count == 0, 0);
            for seq in seqs {
                let Some(Place::Flying(id)) = self.flows[ix.0].sent.get(&seq).map(|sent| sent.place) else {
                    continue;
                };
                if self.attempts.get(id).is_none_or(|attempt| attempt.link != link) {
                    continue;
                }
                any = true;
                ended += 1;
                self.landed(id);
                let uncertain = matches!(reason, Some(RefusedReason::LinkLost) | None);
                let flow = &mut self.flows[ix.0];
                let again = flow.retry(seq, uncertain);
                if let Some(sent) = flow.sent.get_mut(&seq) {
                    sent.full = matches!(reason, Some(RefusedReason::InboxFull | RefusedReason::QueueFull));
                }
                match reason {
                    _ if !again => self.give_up(ix, seq, FailReason::PeerRestarted),
                    Some(RefusedReason::StaleOrigin) => self.give_up(ix, seq, FailReason::PeerRestarted),
                    Some(RefusedReason::TooLarge) => self.give_up(ix, seq, FailReason::TooLarge),
                    _ => {}
                }
            }
            if !any {
                continue;
            }
            self.stats.attempts.refused += ended;
            let flow = &mut self.flows[ix.0];
            flow.forget_floor_told();
            match reason {
                Some(RefusedReason::InboxFull | RefusedReason::QueueFull) => flow.pause_full(now),
                Some(
                    RefusedReason::StaleDestination
                    | RefusedReason::StaleOrigin
                    | RefusedReason::Expired
                    | RefusedReason::TooLarge,
                ) => {}
                Some(RefusedReason::Draining) => {
                    self.stats.fallbacks.proxy_draining += ended;
                    flow.avoid(way, now);
                }
                Some(
                    RefusedReason::Unreachable
                    | RefusedReason::LinkLost
                    | RefusedReason::NotServed
                    | RefusedReason::Malformed,
                )
                | None => {
                    self.stats.fallbacks.member_unreachable += ended;
                    flow.avoid(way, now);
                }
            }
        }
        self.wake(ix, links, now);
    }

    /// One end of a flow lives another life. What may have been delivered to the old one fails; the rest goes to the new.
    fn restart_flow(&mut self, ix: FlowIx, destination: Option<Incarnation>, links: &mut Links, now: Micros) {
        let incarnation = destination.unwrap_or(self.flows[ix.0].incarnation);
        for seq in self.flows[ix.0].restart(incarnation) {
            self.give_up(ix, seq, FailReason::PeerRestarted);
        }
        self.wake(ix, links, now);
    }

    // ---- time ------------------------------------------------------------------------------------------------------

    /// When [`Client::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Micros {
        self.timers.next().min(self.deadlines.first().map_or(Micros::NEVER, |(at, _, _)| *at))
    }

    /// Rings what is due.
    pub fn handle_timeout(&mut self, links: &mut Links, now: Micros) {
        while let Some((at, ix, place)) = self.deadlines.first().copied().filter(|(at, _, _)| *at <= now) {
            self.deadlines.remove(&(at, ix, place));
            self.expire(ix, place, now);
            self.wake(ix, links, now);
        }
        while self.timers.next() <= now {
            let due = self.timers.next();
            match self.timers.pop_due(now) {
                Some(Timer::Attempt(id)) => self.attempt_timed_out(id, due, links, now),
                Some(Timer::Wake(site)) => self.wake_site(site, links, now),
                None => break,
            }
        }
    }

    fn expire(&mut self, ix: FlowIx, place: Due, now: Micros) {
        let reason = |full: bool| if full { FailReason::Refused } else { FailReason::Expired };
        match place {
            Due::Queued(id) => {
                let full = self.flows[ix.0].is_paused(now);
                if let Some(pending) = self.flows[ix.0].unqueue(id) {
                    self.give_up_queued(ix, &pending, reason(full));
                }
            }
            Due::Sent(seq) => {
                let full = self.flows[ix.0].sent.get(&seq).is_some_and(|sent| sent.full);
                self.give_up(ix, seq, reason(full));
            }
        }
    }

    /// Nobody answered in time for some messages of a frame. Which of proxy, member or this process is to blame?
    fn attempt_timed_out(&mut self, id: u64, due: Micros, links: &mut Links, now: Micros) {
        let Some(attempt) = self.attempts.get_mut(id) else { return };
        if now.since(due) > OWN_LAG && !attempt.graced {
            attempt.graced = true;
            self.timers.set(Timer::Attempt(id), now + OWN_LAG);
            return;
        }
        let (way, site, link, answered) = (attempt.way, attempt.datacenter, attempt.link, attempt.answered);
        let (written_at, entries) = (attempt.written_at.unwrap_or(now), attempt.entries.clone());
        let silent: BTreeSet<FlowIx> = entries
            .iter()
            .filter(|(ix, run)| {
                (run.count == 0 && self.flows[ix.0].asking == Some(id))
                    || run.seqs().any(|seq| {
                        self.flows[ix.0].sent.get(&seq).is_some_and(|sent| sent.place == Place::Flying(id))
                    })
            })
            .map(|(ix, _)| *ix)
            .collect();
        let waiting = self.end_attempt(id, true);
        self.stats.attempts.timed_out += waiting;
        if let Way::Proxy(index) = way {
            self.stats.fallbacks.proxy_timeout += waiting;
            let proxy = &self.sites[site].routes.proxies[index];
            let heard_since = proxy.answered_written_at.is_some_and(|at| at >= written_at);
            // Several destinations silent, and nothing that was written as late was answered: the proxy. One: perhaps
            // only that member.
            let suspects = silent.len()
                + (0..self.flows.len())
                    .filter(|other| {
                        self.flows[*other].datacenter == site && !silent.contains(&FlowIx(*other))
                    })
                    .filter(|other| self.flows[*other].avoids(way, now))
                    .count();
            if !answered && !heard_since && suspects >= 2 && proxy.link == Some(link) {
                let proxy = &mut self.sites[site].routes.proxies[index];
                tracing::warn!(proxy = %proxy.id, messages = waiting, "proxy delivered nothing in time, left alone for a while");
                proxy.convict(&self.settings, now);
                // Frames that never left cannot time out: they take the next way with the rest.
                for other in self.attempts.on_link(link) {
                    if self.attempts.get(other).is_some_and(|attempt| attempt.written_at.is_none()) {
                        self.stats.attempts.timed_out += self.end_attempt(other, true);
                    }
                }
            } else {
                for ix in &silent {
                    self.flows[ix.0].avoid(way, now);
                }
            }
        } else {
            for ix in &silent {
                if !self.sites[site].local {
                    self.flows[ix.0].avoid(way, now);
                }
            }
        }
        self.wake_all_of(site, links, now);
    }

    /// Ends an attempt; what still flies in it waits for another one. Gives the number of those messages.
    fn end_attempt(&mut self, id: u64, uncertain: bool) -> u64 {
        self.timers.clear(Timer::Attempt(id));
        let Some(attempt) = self.attempts.remove(id) else { return 0 };
        let (mut waiting, mut lost) = (0, Vec::new());
        for (ix, run) in attempt.entries {
            let flow = &mut self.flows[ix.0];
            flow.forget_floor_told();
            if flow.asking == Some(id) {
                flow.asking = None;
            }
            for seq in run.seqs() {
                if flow.sent.get(&seq).is_some_and(|sent| sent.place == Place::Flying(id)) {
                    if !flow.retry(seq, uncertain) {
                        lost.push((ix, seq));
                    }
                    waiting += 1;
                }
            }
        }
        for (ix, seq) in lost {
            self.give_up(ix, seq, FailReason::PeerRestarted);
        }
        waiting
    }

    // ---- ends ------------------------------------------------------------------------------------------------------

    fn delivered(&mut self, ix: FlowIx, seq: u64, sent: &Sent, now: Micros) {
        let flow = &self.flows[ix.0];
        let site = &self.sites[flow.datacenter];
        let row = self.stats.datacenters.entry(site.name.clone()).or_default();
        let route = match sent.way {
            Way::Proxy(index) => {
                row.delivered_by_proxy += 1;
                Route::Proxy(site.routes.proxies[index].id.clone())
            }
            Way::Direct => {
                row.delivered_direct += 1;
                Route::Direct
            }
        };
        let rtt = now.since(sent.first_written);
        row.ack_latency.observe(micros(rtt));
        let outcome = Outcome::Delivered { route, attempts: sent.attempts, rtt };
        self.settle(ix, Due::Sent(seq), &sent.pending, outcome);
    }

    /// A message with a seq ends without delivery; the floor rises past it.
    fn give_up(&mut self, ix: FlowIx, seq: u64, reason: FailReason) {
        let Some(sent) = self.flows[ix.0].forget(seq) else { return };
        if let Place::Flying(id) = sent.place {
            self.landed(id);
        }
        let maybe_delivered = sent.maybe_delivered();
        self.count_failed(self.flows[ix.0].datacenter, reason);
        self.settle(ix, Due::Sent(seq), &sent.pending, failed(reason, maybe_delivered));
    }

    /// A message that has no seq yet ends: it certainly was not delivered.
    fn give_up_queued(&mut self, ix: FlowIx, pending: &Pending, reason: FailReason) {
        self.count_failed(self.flows[ix.0].datacenter, reason);
        self.settle(ix, Due::Queued(pending.id), pending, failed(reason, false));
    }

    fn count_failed(&mut self, site: usize, reason: FailReason) {
        let name = self.sites[site].name.clone();
        *self.stats.datacenters.entry(name).or_default().failed.entry(reason.label()).or_default() += 1;
    }

    fn settle(&mut self, ix: FlowIx, place: Due, pending: &Pending, outcome: Outcome) {
        self.deadlines.remove(&(pending.expires_at, ix, place));
        self.destination_bytes[ix.0] -= pending.payload.len() + MESSAGE_OVERHEAD_BYTES;
        self.decide(pending.ticket, pending.index, outcome);
    }

    fn decide(&mut self, ticket: Ticket, index: usize, outcome: Outcome) {
        let Some(open) = self.batches.get_mut(&ticket) else { return };
        debug_assert!(open.outcomes[index].is_none(), "one outcome per message");
        open.outcomes[index] = Some(outcome);
        open.undecided -= 1;
        self.budget.release(open.datacenter, &mut open.charge, index);
        self.sites[open.datacenter].pending_messages -= 1;
        if open.undecided == 0 {
            self.finish(ticket);
        }
    }

    fn finish(&mut self, ticket: Ticket) {
        if let Some(open) = self.batches.remove(&ticket) {
            self.outcomes.push_back((ticket, open.outcomes.into_iter().flatten().collect()));
        }
    }

    /// Everything undecided fails.
    pub fn close(&mut self) {
        for ix in (0..self.flows.len()).map(FlowIx) {
            for id in self.flows[ix.0].queue.keys().copied().collect::<Vec<_>>() {
                if let Some(pending) = self.flows[ix.0].unqueue(id) {
                    self.give_up_queued(ix, &pending, FailReason::Closed);
                }
            }
            for seq in self.flows[ix.0].sent.keys().copied().collect::<Vec<_>>() {
                self.give_up(ix, seq, FailReason::Closed);
            }
        }
    }

    /// Nothing is undecided.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.batches.is_empty()
    }

    // ---- for people ------------------------------------------------------------------------------------------------

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats.clone()
    }

    /// How every datacenter is reached now.
    #[must_use]
    pub fn status(&self, links: &Links, now: Micros) -> Vec<DatacenterStatus> {
        let row = |(index, site): (usize, &Site)| DatacenterStatus {
            name: site.name.clone(),
            local: site.local,
            queued_bytes: u64::try_from(self.budget.queued(index)).unwrap_or(u64::MAX),
            pending_messages: site.pending_messages,
            routes: site.routes.status(links, &self.settings, now),
        };
        self.sites.iter().enumerate().map(row).collect()
    }
}

fn failed(reason: FailReason, maybe_delivered: bool) -> Outcome {
    Outcome::Failed { reason, maybe_delivered }
}

/// A frame while it is being filled.
#[derive(Default)]
struct Filling {
    frame_bytes_max: usize,
    runs: Vec<super::wire::Run>,
    payloads: Vec<Payload>,
    attempt: u32,
    logical_bytes: u64,
    /// Payload bytes, each message in full: what the frame has if nothing is shared.
    total_bytes: usize,
    /// Payload bytes, shared segments once: about what the frame has.
    unique_bytes: usize,
    seen: BTreeSet<(usize, usize)>,
    heads: BTreeMap<(u8, usize), Bytes>,
}

impl Filling {
    /// Whether a message fits into what is left. The caller may take it all the same if it is the first.
    fn admit(&mut self, payload: &Payload, run_fits: bool) -> bool {
        let total = self.total_bytes.saturating_add(payload.len() + 32);
        let fresh = |segment: &&Bytes| !self.seen.contains(&(segment.as_ptr().addr(), segment.len()));
        let unique: usize = payload.segments().iter().filter(fresh).map(Bytes::len).sum();
        let fits = run_fits
            && total <= self.frame_bytes_max
            && (unique == 0 || self.unique_bytes + unique <= FRAME_UNIQUE_BYTES);
        if fits || self.total_bytes == 0 {
            self.total_bytes = total;
            self.unique_bytes += unique;
            self.seen
                .extend(payload.segments().iter().map(|segment| (segment.as_ptr().addr(), segment.len())));
        }
        fits
    }

    /// The bytes in front of a message. Equal ones are the same buffer, which the codec sees at once.
    fn head(&mut self, kind: u8, length: usize) -> Bytes {
        self.heads.entry((kind, length)).or_insert_with(|| message_head(kind, length)).clone()
    }
}
