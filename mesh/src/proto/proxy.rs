//! Fan-out: runs for members of this datacenter are queued per member and passed on unread; the members' acks are merged
//! and passed back. A slow member fills its own queue and nobody else's. One hop only: a proxy serves origins, never
//! another proxy.
//!
//! And the way back: what members of this datacenter send to an origin elsewhere that dialled this proxy goes over that link,
//! several members' runs in one frame.

#[cfg(feature = "sim")]
mod kept;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use trunkline_codec::{Payload, Stage};

use super::answers::Answers;
use super::coder::second_stage;
use super::frame::{FRAME_RUNS_MAX, SealedBatch, Token};
use super::links::{LinkEnd, LinkId, Links, PeerIx};
pub use super::queue::{BACK_PARTS, back_part, run_charge};
use super::queue::{Entry, Forward, Queue, Total, part_of_queue};
use super::run::compact;
use super::time::{Micros, micros};
use super::timers::Timers;
use super::window::Upstream;
use super::wire::{
    AckFlow, Envelope, FEATURE_BACK, Flow, ROOM_UNKNOWN, Refused, RefusedReason, Run, room_kib,
};
use crate::id::{Incarnation, Lane, Seq};
use crate::settings::{FRAME_OVERHEAD_BYTES, Settings};
use crate::stats::ProxyStats;

/// An origin of another datacenter that dialled this proxy, and takes answers over that link.
#[derive(Default)]
struct Asker {
    queue: Queue,
    answers: Answers,
}

/// A run that came in for a member, or for an origin elsewhere.
pub struct ForwardedRun {
    /// Where from.
    pub upstream: Upstream,
    /// Its lane.
    pub lane: Lane,
    /// Whose, for whom.
    pub flow: Arc<Flow>,
    /// The numbers.
    pub run: Run,
    /// Its bytes.
    pub payload: Payload,
    /// Length of the buffers that the bytes are slices of.
    pub buffer_bytes: usize,
}

/// A run that is not passed on.
struct Refusing<'a> {
    upstream: Upstream,
    lane: Lane,
    flow: &'a Arc<Flow>,
    run: Run,
}

/// A run to be sealed.
struct Next {
    run: Run,
    payload: Payload,
    received_at: Micros,
}

/// Runs passed on in one write: enough to fill a socket buffer, few enough to stay fair between lanes.
const RUNS_PER_WRITE: usize = 64;
const BYTES_PER_WRITE: usize = 256 * 1024;
/// Bytes for one origin that go without waiting for company: there is nothing to gain.
const ANSWER_BYTES_WAITING: usize = 64 * 1024;

/// What the codec's head says of a run that shares nothing, at most.
const ANSWER_RECORD_BYTES: usize = 32;

/// The proxy machine.
pub struct Proxy {
    /// Counters.
    pub stats: ProxyStats,
    settings: Settings,
    members: BTreeMap<PeerIx, Queue>,
    /// Those that have a link now.
    askers: BTreeMap<PeerIx, Asker>,
    /// What waits in all queues.
    queued_bytes: usize,
    /// When answers that wait for company go.
    timers: Timers<(PeerIx, Lane)>,
    /// Unanswered forwards per upstream link: with none left, acks need not wait for company.
    open: BTreeMap<LinkId, usize>,
    frozen: bool,
    /// Every so many runs one is acknowledged and forgotten; 0 for none.
    #[cfg(feature = "sim")]
    lies: u64,
    /// Instead of messages it passes on floors far above them.
    #[cfg(feature = "sim")]
    forges: bool,
    /// Runs that were refused because all queues together were full, and for no other reason.
    #[cfg(feature = "sim")]
    refused_beyond: u64,
    /// It says of messages that their members hold them, and forgets them.
    #[cfg(feature = "sim")]
    hoards: bool,
    draining: bool,
    next_batch: u64,
}

impl Proxy {
    /// A proxy for these members.
    #[must_use]
    pub fn new(settings: Settings, members: impl IntoIterator<Item = PeerIx>) -> Self {
        let stats = ProxyStats {
            refused: RefusedReason::ALL.iter().map(|reason| (reason.label(), 0)).collect(),
            ..ProxyStats::default()
        };
        Self {
            stats,
            settings,
            members: members.into_iter().map(|member| (member, Queue::default())).collect(),
            askers: BTreeMap::new(),
            queued_bytes: 0,
            timers: Timers::default(),
            open: BTreeMap::new(),
            frozen: false,
            #[cfg(feature = "sim")]
            lies: 0,
            #[cfg(feature = "sim")]
            forges: false,
            #[cfg(feature = "sim")]
            refused_beyond: 0,
            #[cfg(feature = "sim")]
            hoards: false,
            draining: false,
            next_batch: 1,
        }
    }

    /// A fault for the demo, for tests and simulations: batches are read and forgotten, links and pings stay alive.
    pub fn set_frozen(&mut self, frozen: bool) {
        self.frozen = frozen;
    }

    /// True while [`Proxy::set_frozen`] holds.
    #[must_use]
    pub(super) fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Serves these members from now on, and answers to these origins. What was queued for one that left was given back when its
    /// link ended.
    pub fn set_members(&mut self, members: &BTreeSet<PeerIx>, links: &Links) {
        self.members.retain(|member, queue| {
            let stays = members.contains(member);
            debug_assert!(stays || queue.lanes.iter().all(VecDeque::is_empty), "it was not given back");
            stays
        });
        for asker in self.askers.values_mut() {
            asker.answers.keep(members);
        }
        for member in members {
            self.members.entry(*member).or_insert_with(|| Queue {
                link: links.dialled(*member).map(|(link, _)| link),
                ..Queue::default()
            });
        }
        // An origin may have become a member while it was linked.
        for link in links.accepted() {
            self.handle_link_up(link, links);
        }
    }

    /// Other limits from now on.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// New runs are refused from now on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Nothing is queued and everything passed on is answered.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queues().all(|queue| queue.lanes.iter().all(VecDeque::is_empty))
            && self.open.values().all(|count| *count == 0)
    }

    /// Bytes queued for members, and for origins elsewhere.
    #[must_use]
    pub fn queue_bytes(&self) -> usize {
        self.queued_bytes
    }

    fn total(&self) -> Total {
        debug_assert_eq!(
            self.queued_bytes,
            self.queues().flat_map(|queue| queue.bytes).sum(),
            "of all queues"
        );
        let queues = self.members.len() + self.askers.len();
        Total { queues, bytes: self.queued_bytes, max: self.settings.proxy_queue_bytes_max }
    }

    fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.members.values().chain(self.askers.values().map(|asker| &asker.queue))
    }

    /// A run came in: queue it, or refuse it at once.
    pub fn handle_run(&mut self, arrived: ForwardedRun, links: &mut Links, now: Micros) {
        let ForwardedRun { upstream, lane, flow, run, payload, buffer_bytes } = arrived;
        self.stats.runs += 1;
        #[cfg(feature = "sim")]
        let (run, payload) = if self.forges {
            (Run { first: Seq(1 << 60), count: 0, floor_back: 0, ..run }, Payload::default())
        } else {
            (run, payload)
        };
        let at = |flow| Refusing { upstream, lane, flow, run };
        let from = links.link(upstream.link).map(|link| (link.peer, link.incarnation));
        let from = from.filter(|(peer, life)| {
            let spec = links.spec(*peer);
            spec.roles.origin && spec.id == flow.origin && *life == flow.origin_incarnation
        });
        let (Some((from, _)), Some(target)) = (from, links.peer(&flow.destination)) else {
            return self.refuse(at(&flow), RefusedReason::NotServed, links, now);
        };
        // To an origin elsewhere goes only what this datacenter sends: a proxy speaks for no other, and there is one hop.
        let back = !self.members.contains_key(&target);
        let all = self.total();
        let served = !back || links.spec(from).datacenter == links.me.datacenter;
        let queue = queue_mut(&mut self.members, &mut self.askers, target).filter(|_| served);
        let Some(queue) = queue else {
            return self.refuse(at(&flow), RefusedReason::NotServed, links, now);
        };
        if run.floor().is_none() || !run.is_sound() {
            return self.refuse(at(&flow), RefusedReason::Malformed, links, now);
        }
        if self.draining && run.count > 0 {
            return self.refuse(at(&flow), RefusedReason::Draining, links, now);
        }
        let usable =
            queue.link.filter(|id| links.link(*id).is_some_and(|link| !link.draining || run.count == 0));
        let Some(member_link) = usable else {
            return self.refuse(at(&flow), RefusedReason::Unreachable, links, now);
        };
        let (life, frame_bytes_max) =
            links.link(member_link).map(|link| (link.incarnation, link.frame_bytes_max)).unwrap_or_default();
        if flow.destination_incarnation.is_known() && flow.destination_incarnation != life {
            if life < flow.destination_incarnation {
                // The link is to an old life and about to end.
                return self.refuse(at(&flow), RefusedReason::Unreachable, links, now);
            }
            *self.stats.refused.entry(RefusedReason::StaleDestination.label()).or_default() += 1;
            let reason = RefusedReason::StaleDestination as u8;
            let refused = vec![Refused { first: run.first, count: run.count, reason }];
            return self.pass_back(
                upstream.link,
                ack_entry(lane, upstream.row, (life, 0), refused),
                links,
                now,
            );
        }
        if payload.len() > frame_bytes_max.saturating_sub(FRAME_OVERHEAD_BYTES) {
            return self.refuse(at(&flow), RefusedReason::TooLarge, links, now);
        }
        let index = lane.index();
        let charge = run_charge(payload.len());
        let full = queue.is_full(lane, charge, &self.settings);
        // What one sender pours in must not keep the others out: of the queue to an origin each member has a part, of the queue to
        // a member every origin leaves some.
        let forward = queue.forwards.get(&(lane, Arc::clone(&flow)));
        let queued = forward.map_or(0, |forward| forward.queued_bytes);
        #[cfg(feature = "sim")]
        let forward_decided = forward.map_or(0, |forward| forward.decided);
        let part = if back {
            back_part(&self.settings)
        } else {
            part_of_queue(self.settings.member_queue_bytes_max, queue.bytes[index] - queued)
        };
        let over_its_part = queued > 0 && queued + charge > part;
        let beyond = queue.is_beyond(lane, queued, charge, &all);
        #[cfg(feature = "sim")]
        {
            self.refused_beyond += u64::from(beyond && !full && !over_its_part);
        }
        if full || over_its_part || beyond {
            return self.refuse(at(&flow), RefusedReason::QueueFull, links, now);
        }
        let last = run.first.0 + u64::from(run.count) - 1;
        #[cfg(feature = "sim")]
        if run.count > 0 && self.lies > 0 && self.stats.runs.is_multiple_of(self.lies) {
            let lie = ack_entry(lane, upstream.row, (life, last), Vec::new());
            return links.queue_ack(upstream.link, lie, now, now);
        }
        #[cfg(feature = "sim")]
        if run.count > 0 && self.hoards {
            let known = ack_entry(lane, upstream.row, (life, forward_decided), Vec::new());
            let lie = kept::with_held(known, run.first.0..=last);
            return links.queue_ack(upstream.link, lie, now, now);
        }
        let forward = queue.forwards.entry((lane, Arc::clone(&flow))).or_insert(Forward {
            upstream,
            last,
            first: u64::MAX,
            sent: 0,
            answered: 0,
            queued: 0,
            decided: 0,
            incarnation: Incarnation::UNKNOWN,
            queued_bytes: 0,
            open: false,
        });
        if forward.open && forward.upstream.link != upstream.link {
            mark_answered(&mut self.open, forward);
        }
        forward.upstream = upstream;
        // What was passed on before is answered, or nobody waits for it here.
        forward.last = if forward.open { forward.last.max(last) } else { last };
        forward.queued += 1;
        forward.queued_bytes += charge;
        if !forward.open {
            forward.open = true;
            *self.open.entry(upstream.link).or_default() += 1;
        }
        // What waits must not keep the whole frame of its batch alive. Only the first in a queue may: it is next.
        let waits = !queue.lanes[index].is_empty();
        let payload = if waits { compact(payload, buffer_bytes) } else { payload };
        let expires_at = now + Duration::from_millis(u64::from(run.deadline_ms));
        queue.bytes[index] += charge;
        self.queued_bytes += charge;
        let entry = Entry { upstream, flow, run, payload, expires_at, received_at: now, charge };
        queue.lanes[index].push_back(entry);
        if back {
            return self.wait_for_company(target, from, lane, links, now);
        }
        if let Some(asker) = self.askers.get_mut(&from).filter(|_| run.count > 0) {
            asker.answers.expect(target, lane, now);
        }
        if let Some(conn) = links.conn_of(member_link, lane) {
            links.wake(conn);
        }
    }

    /// A member answered an origin elsewhere: others may be about to.
    fn wait_for_company(
        &mut self,
        origin: PeerIx,
        member: PeerIx,
        lane: Lane,
        links: &mut Links,
        now: Micros,
    ) {
        let Some(asker) = self.askers.get_mut(&origin) else { return };
        let until = asker.answers.take(member, lane, self.settings.ack_delay, now);
        if until > now && asker.queue.bytes[lane.index()] < ANSWER_BYTES_WAITING {
            return self.timers.set_earlier((origin, lane), until);
        }
        asker.answers.hurry(lane, now);
        self.timers.clear((origin, lane));
        if let Some(conn) = asker.queue.link.and_then(|link| links.conn_of(link, lane)) {
            links.wake(conn);
        }
    }

    /// When [`Proxy::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Micros {
        self.timers.next()
    }

    /// Answers that waited long enough go.
    pub fn handle_timeout(&mut self, links: &mut Links, now: Micros) {
        while let Some((origin, lane)) = self.timers.pop_due(now) {
            let Some(asker) = self.askers.get_mut(&origin) else { continue };
            asker.answers.ring(lane, now);
            if let Some(conn) = asker.queue.link.and_then(|link| links.conn_of(link, lane)) {
                links.wake(conn);
            }
        }
    }

    fn refuse(&mut self, refusing: Refusing<'_>, reason: RefusedReason, links: &mut Links, now: Micros) {
        let Refusing { upstream, lane, flow, run } = refusing;
        *self.stats.refused.entry(reason.label()).or_default() += 1;
        links.note_refused(upstream.link, reason);
        let known = links
            .peer(&flow.destination)
            .and_then(|peer| queue_mut(&mut self.members, &mut self.askers, peer))
            .and_then(|queue| queue.forwards.get(&(lane, Arc::clone(flow))))
            .map(|forward| (forward.incarnation, forward.decided));
        let refused = vec![Refused { first: run.first, count: run.count, reason: reason as u8 }];
        let entry = ack_entry(lane, upstream.row, known.unwrap_or_default(), refused);
        self.pass_back(upstream.link, entry, links, now);
    }

    fn pass_back(&self, upstream: LinkId, entry: AckFlow, links: &mut Links, now: Micros) {
        let waiting = self.open.get(&upstream).is_some_and(|count| *count > 0);
        let at = if waiting { now + self.settings.ack_delay } else { now };
        links.queue_ack(upstream, entry, at, now);
    }

    /// A member, or an origin elsewhere, answered for a flow that is not of this node's own.
    pub fn handle_ack(
        &mut self,
        member: PeerIx,
        flow: &Arc<Flow>,
        lane: Lane,
        entry: AckFlow,
        links: &mut Links,
        now: Micros,
    ) {
        let all = self.total();
        let Some(queue) = queue_mut(&mut self.members, &mut self.askers, member) else { return };
        let Some(forward) = queue.forwards.get_mut(&(lane, Arc::clone(flow))) else { return };
        // A window that goes back has not answered what is above.
        let back = entry.decided < forward.decided && entry.incarnation == forward.incarnation;
        if back && entry.refused.is_empty() {
            forward.answered = 0;
        }
        forward.incarnation = entry.incarnation;
        forward.decided = entry.decided;
        let held_last = entry.held.last().and_then(|word| word.checked_ilog2()).map_or(0, |bit| {
            let words = u64::try_from(entry.held.len() - 1).unwrap_or(0);
            entry.decided.saturating_add(1 + 64 * words + u64::from(bit))
        });
        let refused_last = entry
            .refused
            .iter()
            .map(|range| range.first.0.saturating_add(u64::from(range.count)).saturating_sub(1))
            .max();
        let answered = entry.decided.max(held_last).max(refused_last.unwrap_or(0));
        forward.answered = forward.answered.max(answered);
        if answered >= forward.last {
            mark_answered(&mut self.open, forward);
        }
        let upstream = forward.upstream;
        // What waits here counts as under way at the origin; only what other flows have queued is in its way.
        let queued = forward.queued_bytes;
        let here = room_kib(queue.room_beside(lane, queued, &all, &self.settings));
        // A member that says nothing of its room has not this much of it.
        let unknown = entry.room_kib == ROOM_UNKNOWN;
        let room_kib = if unknown { ROOM_UNKNOWN } else { entry.room_kib.min(here) };
        self.pass_back(upstream.link, AckFlow { flow: upstream.row, room_kib, ..entry }, links, now);
    }

    /// A link came up; if it leads to a member, or back to an origin elsewhere, it is the way there.
    pub fn handle_link_up(&mut self, id: LinkId, links: &Links) {
        let Some(link) = links.link(id) else { return };
        let spec = links.spec(link.peer);
        if link.dialled {
            if let Some(queue) = self.members.get_mut(&link.peer) {
                queue.link = Some(id);
            }
        } else if spec.roles.origin
            && spec.roles.member
            && spec.datacenter != links.me.datacenter
            && link.features & FEATURE_BACK != 0
        {
            self.askers.entry(link.peer).or_default().queue.link = Some(id);
        }
    }

    /// A link is gone. If it led to a member, or back to an origin, everything unanswered is given back; if it came from an
    /// origin, its books are closed.
    pub fn handle_link_down(&mut self, id: LinkId, links: &mut Links, now: Micros) {
        self.open.remove(&id);
        let mut given_back: Vec<(Upstream, AckFlow)> = Vec::new();
        let askers = self.askers.values_mut().map(|asker| &mut asker.queue);
        for queue in self.members.values_mut().chain(askers) {
            if queue.link == Some(id) {
                queue.link = None;
                let mut forwards = std::mem::take(&mut queue.forwards);
                for ((lane, _), forward) in &mut forwards {
                    let known = (forward.incarnation, forward.decided);
                    // Of a flow that is new to this proxy most of what is decided was so before.
                    let first = forward.first.max(forward.decided.saturating_add(1));
                    let count = u32::try_from(forward.sent.saturating_add(1).saturating_sub(first))
                        .unwrap_or(u32::MAX);
                    if count > 0 {
                        let (first, reason) = (Seq(first), RefusedReason::LinkLost as u8);
                        let refused = vec![Refused { first, count, reason }];
                        given_back
                            .push((forward.upstream, ack_entry(*lane, forward.upstream.row, known, refused)));
                    }
                    mark_answered(&mut self.open, forward);
                }
                for lane in Lane::ALL {
                    self.queued_bytes -= std::mem::take(&mut queue.bytes[lane.index()]);
                    for entry in queue.lanes[lane.index()].drain(..) {
                        let reason = RefusedReason::Unreachable;
                        *self.stats.refused.entry(reason.label()).or_default() += 1;
                        let Some(forward) = forwards.get(&(lane, Arc::clone(&entry.flow))) else { continue };
                        let known = (forward.incarnation, forward.decided);
                        let (Run { first, count, .. }, upstream) = (entry.run, entry.upstream);
                        let refused = vec![Refused { first, count, reason: reason as u8 }];
                        given_back.push((upstream, ack_entry(lane, upstream.row, known, refused)));
                    }
                }
            } else {
                // What waits here is charged to its flow also when that comes over its next link.
                queue.forwards.retain(|_, forward| forward.upstream.link != id || forward.queued > 0);
            }
        }
        self.askers.retain(|_, asker| asker.queue.link.is_some());
        for (upstream, entry) in given_back {
            self.pass_back(upstream.link, entry, links, now);
        }
    }

    /// The runs to pass on next over a link to a member, each in a frame of its own; or those that go back to an origin, all
    /// in one.
    pub fn seal(
        &mut self,
        id: LinkId,
        lane: Lane,
        links: &mut Links,
        now: Micros,
        out: &mut Vec<SealedBatch>,
    ) {
        let Some(peer) = links.link(id).map(|link| link.peer) else { return };
        if self.askers.get(&peer).is_some_and(|asker| asker.queue.link == Some(id)) {
            return self.seal_answers(peer, id, lane, links, now, out);
        }
        let (mut runs, mut bytes) = (0, 0);
        while runs < RUNS_PER_WRITE && bytes < BYTES_PER_WRITE {
            let next = self.next_run(peer, id, lane, usize::MAX, links, now);
            let Some(Next { run, payload, received_at }) = next else {
                return;
            };
            runs += 1;
            bytes += payload.len();
            out.push(SealedBatch {
                lane,
                envelope: Envelope { batch: self.next_batch, attempt: 1, runs: vec![run] },
                payloads: vec![payload],
                stage: Stage::None,
                token: Token::Forward { received_at },
            });
            self.next_batch += 1;
        }
    }

    /// One frame of what members answered an origin elsewhere, once its time has come.
    fn seal_answers(
        &mut self,
        peer: PeerIx,
        id: LinkId,
        lane: Lane,
        links: &mut Links,
        now: Micros,
        out: &mut Vec<SealedBatch>,
    ) {
        if !self.askers.get(&peer).is_some_and(|asker| asker.answers.is_due(lane, now)) {
            return;
        }
        let Some(link) = links.link(id) else { return };
        let bytes_max = link.frame_bytes_max.saturating_sub(FRAME_OVERHEAD_BYTES).min(BYTES_PER_WRITE);
        let stage = second_stage(self.settings.second_stage, lane, link.features);
        let (mut runs, mut payloads, mut bytes, mut since) = (Vec::new(), Vec::new(), 0_usize, None);
        while runs.len() < FRAME_RUNS_MAX {
            // The first fits alone, or it would not be here.
            let room = if runs.is_empty() { usize::MAX } else { bytes_max.saturating_sub(bytes) };
            let Some(Next { run, payload, received_at }) = self.next_run(peer, id, lane, room, links, now)
            else {
                break;
            };
            bytes += payload.len() + ANSWER_RECORD_BYTES;
            runs.push(run);
            payloads.push(payload);
            since = since.or(Some(received_at));
        }
        if let Some(asker) = self.askers.get_mut(&peer) {
            asker.answers.sent(lane, asker.queue.next_bytes(lane).is_some(), now);
        }
        self.timers.clear((peer, lane));
        let Some(received_at) = since else { return };
        self.stats.answers += u64::try_from(runs.len()).unwrap_or(0);
        self.stats.answer_frames += 1;
        out.push(SealedBatch {
            lane,
            envelope: Envelope { batch: self.next_batch, attempt: 1, runs },
            payloads,
            stage,
            token: Token::Forward { received_at },
        });
        self.next_batch += 1;
    }

    /// The next run of a queue that is not too late. None when there is none, or no way, or it has more than `room` bytes.
    fn next_run(
        &mut self,
        peer: PeerIx,
        id: LinkId,
        lane: Lane,
        room: usize,
        links: &mut Links,
        now: Micros,
    ) -> Option<Next> {
        loop {
            let queue = queue_mut(&mut self.members, &mut self.askers, peer);
            let queue = queue.filter(|queue| queue.link == Some(id))?;
            let entry = queue.lanes[lane.index()]
                .pop_front_if(|entry| entry.expires_at <= now || entry.payload.len() <= room)?;
            queue.bytes[lane.index()] -= entry.charge;
            self.queued_bytes -= entry.charge;
            let expired = entry.expires_at <= now;
            let key = (lane, Arc::clone(&entry.flow));
            let latest = queue.forwards.get_mut(&key).map(|forward| {
                forward.queued_bytes = forward.queued_bytes.saturating_sub(entry.charge);
                let last = (entry.run.first.0 + u64::from(entry.run.count)).saturating_sub(1);
                forward.queued = forward.queued.saturating_sub(1);
                if !expired {
                    forward.sent = forward.sent.max(last);
                    if entry.run.count > 0 {
                        forward.first = forward.first.min(entry.run.first.0);
                    }
                } else if forward.queued == 0 {
                    // The member will not answer what it never got.
                    forward.last = forward.sent;
                    if forward.answered >= forward.last {
                        mark_answered(&mut self.open, forward);
                    }
                }
                forward.upstream
            });
            // Its books were kept for what waited.
            let is_gone = |upstream: &Upstream| links.link(upstream.link).is_none();
            let waits = |forward: &Forward| forward.queued > 0;
            if latest.as_ref().is_some_and(is_gone) && !queue.forwards.get(&key).is_some_and(waits) {
                queue.forwards.remove(&key);
            }
            let roster = links.roster_out(id, lane).filter(|_| !expired);
            let Some(row) = roster.and_then(|roster| roster.row(&entry.flow).ok()) else {
                let reason = if expired { RefusedReason::Expired } else { RefusedReason::Unreachable };
                // To where it came from: who sent the same again over another link is not told of this one.
                let refusing = Refusing { upstream: entry.upstream, lane, flow: &entry.flow, run: entry.run };
                self.refuse(refusing, reason, links, now);
                if expired {
                    continue;
                }
                // All rows of this connection are used: it is replaced.
                links.replace(id, LinkEnd::Replaced, now);
                return None;
            };
            let left_ms = micros(entry.expires_at.since(now)).div_ceil(1000);
            let run = Run { flow: row, deadline_ms: u32::try_from(left_ms).unwrap_or(u32::MAX), ..entry.run };
            self.stats.forwarded += 1;
            self.stats.forwarded_bytes += u64::try_from(entry.payload.len()).unwrap_or(0);
            return Some(Next { run, payload: entry.payload, received_at: entry.received_at });
        }
    }

    /// A forwarded run went out.
    pub fn handle_written(&mut self, received_at: Micros, now: Micros) {
        self.stats.hop_latency.observe(micros(now.since(received_at)));
    }
}

fn queue_mut<'a>(
    members: &'a mut BTreeMap<PeerIx, Queue>,
    askers: &'a mut BTreeMap<PeerIx, Asker>,
    peer: PeerIx,
) -> Option<&'a mut Queue> {
    members.get_mut(&peer).or_else(|| askers.get_mut(&peer).map(|asker| &mut asker.queue))
}

/// Refuses a run at a node that is neither proxy nor the member meant.
pub fn refuse_not_served(upstream: Upstream, lane: Lane, run: Run, links: &mut Links, now: Micros) {
    let reason = RefusedReason::NotServed;
    links.note_refused(upstream.link, reason);
    let refused = vec![Refused { first: run.first, count: run.count, reason: reason as u8 }];
    let entry = ack_entry(lane, upstream.row, (Incarnation::UNKNOWN, 0), refused);
    links.queue_ack(upstream.link, entry, now, now);
}

fn mark_answered(open: &mut BTreeMap<LinkId, usize>, forward: &mut Forward) {
    if std::mem::take(&mut forward.open)
        && let Some(count) = open.get_mut(&forward.upstream.link)
    {
        *count = count.saturating_sub(1);
    }
}

fn ack_entry(lane: Lane, row: u32, known: (Incarnation, u64), refused: Vec<Refused>) -> AckFlow {
    AckFlow {
        lane: u8::try_from(lane.index()).unwrap_or(0),
        flow: row,
        incarnation: known.0,
        decided: known.1,
        room_kib: ROOM_UNKNOWN,
        held: Vec::new(),
        refused,
    }
}
