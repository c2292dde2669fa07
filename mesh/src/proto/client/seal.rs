//! Frames: what goes into the next one of a connection that can write.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use trunkline_codec::{Payload, Stage};

use super::common::Common;
use super::{Client, Pick, Timer};
use crate::id::Lane;
use crate::proto::attempt::Attempt;
use crate::proto::budget::SHARED_BYTES_MIN;
use crate::proto::coder::second_stage;
use crate::proto::flow::{FlowIx, Leg, Row, Selected, Way};
use crate::proto::frame::{FRAME_RUNS_MAX, SealedBatch, Token, Written, direct_frame_bytes};
use crate::proto::links::{LinkEnd, LinkId, Links};
use crate::proto::pause::Cause;
use crate::proto::route::attempt_timeout;
use crate::proto::run::message_head;
use crate::proto::time::{Micros, micros};
use crate::proto::wire::{Envelope, Flow as WireFlow, Run};
use crate::settings::FRAME_OVERHEAD_BYTES;

/// Distinct bytes in one frame before it is full: large enough to compress, small enough that nothing waits long behind it.
const FRAME_UNIQUE_BYTES: usize = 512 * 1024;

/// In front of a message in its run: kind and length, at most.
pub(super) const MESSAGE_HEAD_BYTES: usize = 16;

/// What the codec's head says of a message that shares nothing, at most.
const RECORD_BYTES: usize = 16;

impl Client {
    /// The next frame for a connection that can write, from all flows whose way leads over it. Over the way back it may be
    /// several, for it leads to several datacenters.
    pub fn seal(
        &mut self,
        link: LinkId,
        lane: Lane,
        links: &mut Links,
        now: Micros,
        out: &mut Vec<SealedBatch>,
    ) {
        let Some((peer, dialled)) = links.link(link).map(|link| (link.peer, link.dialled)) else { return };
        if dialled {
            let Some(site) = self.site_of(peer) else { return };
            let turn = self.sites[site].turn[lane.index()];
            let ready = &self.sites[site].ready[lane.index()];
            let order: Vec<FlowIx> = ready.iter_from(turn).collect();
            return self.seal_for(site, &order, (link, lane), links, now, out);
        }
        for site in self.sites_by(peer) {
            let ready = self.sites[site].ready[lane.index()].iter();
            let back: Vec<FlowIx> = ready.filter(|ix| self.flows[ix.0].back.is_over(link)).collect();
            if !back.is_empty() {
                self.seal_for(site, &back, (link, lane), links, now, out);
            }
        }
    }

    /// The next frame to one datacenter, of these flows.
    fn seal_for(
        &mut self,
        site: usize,
        order: &[FlowIx],
        (link, lane): (LinkId, Lane),
        links: &mut Links,
        now: Micros,
        out: &mut Vec<SealedBatch>,
    ) {
        let frame_bytes_max =
            links.link(link).map_or(0, |link| link.frame_bytes_max).saturating_sub(FRAME_OVERHEAD_BYTES);
        self.sites[site].crowded = self.sites[site].ready[lane.index()].len() > 1;
        let id = self.attempts.next_id();
        let local = self.sites[site].local;
        let share = self.sites[site].resends.check(now);
        let late_too = local || share.is_ok();
        let mut late_waits = false;
        let mut frame = Filling::new(frame_bytes_max, late_too, order.len().min(FRAME_RUNS_MAX));
        let mut attempt = None;
        // The first flow that this frame has no room for begins the next one.
        let mut left_out = None;
        // Else the one behind the flow that filled it: somebody may come to be ready while it is written.
        let mut filled_by: Option<FlowIx> = None;
        let mut common = Common::default();
        for ix in order.iter().copied() {
            if frame.runs.len() >= FRAME_RUNS_MAX || frame.unique_bytes >= FRAME_UNIQUE_BYTES {
                left_out.get_or_insert(ix);
                break;
            }
            if !late_too && self.flows[ix.0].only_late() {
                // Nor may it go over another link: two that wake each other for it would never end.
                late_waits = true;
                continue;
            }
            let way = match self.pick_in(&mut common, ix, links, now) {
                Pick::Link(picked, way) if picked == link => way,
                Pick::Link(..) | Pick::Wait(_) => {
                    common.forget();
                    self.wake(ix, links, now);
                    continue;
                }
            };
            if attempt.as_ref().is_some_and(|attempt: &Attempt| attempt.way != way) {
                // To a proxy that is the destination itself lead two ways over one link. What fails, fails by one.
                left_out.get_or_insert(ix);
                continue;
            }
            if frame_bytes_max == 0 || self.flows[ix.0].next_bytes(late_too) > frame_bytes_max {
                // The peer's limit is below ours, perhaps below what any frame needs: another way may take it.
                self.flows[ix.0].pauses.avoid(way, Cause::FrameLimit, now);
                common.forget();
                self.wake(ix, links, now);
                continue;
            }
            frame.single = match way {
                Way::Proxy(index) => {
                    self.sites[site].routes.is_due_for_trial(index, lane, links, now)
                        || self.flows[ix.0].pauses.is_due_for_trial(way, now)
                }
                Way::Back(_) => self.flows[ix.0].pauses.has_failed(way),
                Way::Direct => false,
            };
            let audits = self.flows[ix.0].only_audits();
            self.fill(ix, Leg { attempt: id, way, link, now }, &mut common, links, &mut frame);
            let nothing = frame.selected.is_empty();
            if !nothing {
                let attempt = attempt.get_or_insert_with(|| Attempt {
                    link,
                    datacenter: site,
                    way,
                    entries: Vec::with_capacity(order.len().min(FRAME_RUNS_MAX)),
                    number: 0,
                    sealed_at: now,
                    written_at: None,
                    flying: 0,
                    answered: false,
                    arrived: false,
                    passed_on: false,
                    graced: false,
                    audits: true,
                    payload_bytes: 0,
                    late_bytes: 0,
                    reserved_bytes: 0,
                });
                attempt.audits &= audits && frame.selected.iter().all(|run| run.count == 0);
                for run in &frame.selected {
                    let messages = usize::try_from(run.count).unwrap_or(usize::MAX);
                    attempt.flying += messages.max(1);
                    attempt.entries.push((ix, *run));
                }
                if frame.unique_bytes >= FRAME_UNIQUE_BYTES {
                    filled_by = Some(ix);
                }
            }
            if frame.single && !nothing {
                // One message tries the proxy; the others go on by the one that delivers.
                common.forget();
                match way {
                    Way::Proxy(index) => {
                        self.sites[site].routes.proxies[index].begin_trial(lane, &self.settings, now);
                        let until = now + self.settings.attempt_timeout_max;
                        self.flows[ix.0].pauses.begin_trial(way, until, now);
                    }
                    _ => self.flows[ix.0].back.begin_trial(now + self.settings.attempt_timeout_max),
                }
                self.wake(ix, links, now);
            }
            if !self.flows[ix.0].has_work() {
                self.sites[site].ready[lane.index()].remove(ix);
            } else if !late_too && self.flows[ix.0].has_late() {
                // It was passed by and not left out: the next frame does not begin with it.
                late_waits = true;
            } else if nothing {
                left_out.get_or_insert(ix);
            }
        }
        self.sites[site].crowded = false;
        if let Err(until) = share
            && late_waits
        {
            self.timers.set_earlier(Timer::Wake(site), until);
        }
        if let Some(ix) = left_out.or(filled_by.map(|ix| FlowIx(ix.0 + 1))) {
            self.sites[site].turn[lane.index()] = ix;
        }
        let Some(mut attempt) = attempt else { return };
        attempt.number = frame.attempt;
        (attempt.payload_bytes, attempt.late_bytes) =
            (frame.total_bytes, if local { 0 } else { frame.late_bytes });
        // What is shared is written once.
        attempt.reserved_bytes = bytes(attempt.late_bytes.min(frame.unique_bytes));
        self.sites[site].resends.reserve(attempt.reserved_bytes);
        let row = &mut self.sites[site].stats;
        row.frames += 1;
        row.sent.logical += frame.logical_bytes;
        let way = attempt.way;
        self.attempts.insert(attempt);
        out.push(SealedBatch {
            lane,
            envelope: Envelope { batch: id, attempt: frame.attempt, runs: frame.runs },
            payloads: frame.payloads,
            stage: if local || matches!(way, Way::Back(_)) {
                Stage::None
            } else {
                second_stage(
                    self.settings.second_stage,
                    lane,
                    links.link(link).map_or(0, |link| link.features),
                )
            },
            token: Token::Attempt(id),
        });
    }

    /// Puts the runs of one flow into a frame: those that were selected.
    fn fill(&mut self, ix: FlowIx, leg: Leg, common: &mut Common, links: &mut Links, frame: &mut Filling) {
        frame.selected.clear();
        let Leg { way, link, now, .. } = leg;
        let audits = self.flows[ix.0].only_audits();
        let Some(row) = self.row(ix, link, links) else {
            // All rows of this connection are used: it is replaced, and everything on it takes another way.
            links.replace(link, LinkEnd::Replaced, now);
            common.forget();
            return;
        };
        let flow = &mut self.flows[ix.0];
        let late_too = frame.late_too;
        let first_bytes = flow.next_bytes(late_too);
        let limit = flow.pauses.limit_of(way, now).unwrap_or(usize::MAX);
        let (mut run_bytes, run_bytes_max) = (0_usize, self.settings.run_bytes_max.min(limit));
        let alone = frame.payloads.is_empty();
        let mut first = true;
        let runs_max = FRAME_RUNS_MAX - frame.runs.len();
        let single = frame.single;
        let mut selected = std::mem::take(&mut frame.selected);
        let fits = |payload: &Payload| {
            let leads = std::mem::take(&mut first);
            if single && !leads {
                return false;
            }
            run_bytes = run_bytes.saturating_add(payload.len() + MESSAGE_HEAD_BYTES);
            // A message larger than a run is a run of its own, next to the same message for others.
            let run_fits = leads || run_bytes <= run_bytes_max;
            frame.admit(payload, run_fits)
        };
        flow.select(runs_max, (alone, late_too), now, fits, &mut selected);
        let mut attempt = 1;
        for run in &selected {
            // Nothing in an empty run gets old. It has as long as its answer is waited for, or a proxy that keeps it waiting for
            // a moment would have to refuse it.
            let asks = if run.count == 0 { self.settings.attempt_timeout_max } else { Duration::ZERO };
            let (mut expires_at, mut payload, mut first_time) = (now + asks, Payload::default(), 0_usize);
            for seq in run.seqs() {
                let Some(sent) = flow.sent.get(seq) else { continue };
                let head = frame.head(sent.pending.kind, sent.pending.payload.len());
                if sent.attempts == 0 {
                    first_time += head.len() + sent.pending.payload.len();
                }
                let segments = sent.pending.payload.segments();
                if payload.is_empty() {
                    // Messages of a run are alike, most often.
                    let messages = usize::try_from(run.count).unwrap_or(0);
                    payload = Payload::with_capacity(messages * (1 + segments.len()));
                }
                payload.push(head);
                payload.extend(segments.iter().cloned());
                if sent.late {
                    frame.late_bytes += sent.pending.payload.len() + MESSAGE_HEAD_BYTES;
                }
                expires_at = expires_at.max(sent.pending.expires_at);
                attempt = attempt.max(sent.attempts.saturating_add(1));
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
            frame.payloads.push(payload);
        }
        frame.attempt = frame.attempt.max(attempt);
        let audits = audits && selected.iter().all(|run| run.count == 0);
        if !selected.is_empty() && !audits {
            self.note_taken(common, (ix, way), (attempt, first_bytes), links, now);
        }
        frame.selected = selected;
    }

    /// The row that stands for a flow, in this life of both ends, on a connection of a link.
    fn row(&mut self, ix: FlowIx, link: LinkId, links: &mut Links) -> Option<u32> {
        let flow = &mut self.flows[ix.0];
        let lives = (links.me.incarnation, flow.incarnation);
        if let Some(row) = flow.row.filter(|row| (row.link, row.lives) == (link, lives)) {
            return Some(row.number);
        }
        let wire_flow = WireFlow {
            origin: links.me.node.clone(),
            origin_incarnation: lives.0,
            destination: flow.destination.clone(),
            destination_incarnation: lives.1,
        };
        let number = links.roster_out(link, flow.lane)?.own_row(&wire_flow, ix).ok()?;
        flow.row = Some(Row { link, lives, number });
        Some(number)
    }

    /// A frame went out: its clock starts.
    pub fn handle_written(&mut self, id: u64, written: &Written, links: &Links, now: Micros) {
        let Some(attempt) = self.attempts.written(id, now) else { return };
        let waiting = attempt.flying > 0;
        let (way, number, link, first) =
            (attempt.way, attempt.number, attempt.link, attempt.entries.first().copied());
        let site = &mut self.sites[attempt.datacenter];
        site.stats.sent.diff += written.diff_bytes;
        site.stats.sent.second_stage += written.staged_bytes;
        site.stats.echoed += written.echoed_bytes;
        site.resends.release(std::mem::take(&mut attempt.reserved_bytes));
        if !site.local {
            let again = attempt.late_share(written.staged_bytes);
            self.stats.resent_bytes += again;
            site.resends.sent(written.staged_bytes, again);
        }
        if !waiting {
            // All of it was answered before the writer came back to say so.
            self.forget_attempt(id);
            return;
        }
        if let Some((ix, _)) = first {
            self.under_way.wrote((link, self.flows[ix.0].lane), id, written.staged_bytes, now);
        }
        let acks = match (way, first) {
            (Way::Proxy(index), _) => self.sites[attempt.datacenter].routes.proxies[index].rtt,
            (Way::Direct, Some((ix, _))) => self.flows[ix.0].direct_rtt,
            (Way::Back(_), Some((ix, _))) => {
                let timeout = self.back_timeout(ix, number, links);
                return self.timers.set(Timer::Attempt(id), now + timeout);
            }
            (_, None) => return,
        };
        let pings = links.link(link).map(|link| link.rtt).unwrap_or_default();
        let timeout = attempt_timeout(&acks, &pings, number, &self.settings);
        self.timers.set(Timer::Attempt(id), now + timeout);
    }
}

fn bytes(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// A frame while it is being filled.
#[derive(Default)]
struct Filling {
    frame_bytes_max: usize,
    runs: Vec<Run>,
    payloads: Vec<Payload>,
    attempt: u32,
    logical_bytes: u64,
    /// Payload bytes, each message in full: what the frame has if nothing is shared.
    total_bytes: usize,
    /// Payload bytes, shared segments once: about what the frame has.
    unique_bytes: usize,
    /// Of `total_bytes`, those of messages that were late.
    late_bytes: usize,
    /// Messages that were late may be in it.
    late_too: bool,
    /// It tries a proxy that was left alone, with one message.
    single: bool,
    /// Of the flow that was put in last.
    selected: Vec<Selected>,
    /// Segments that may be shared.
    seen: Seen,
    heads: BTreeMap<(u8, usize), Bytes>,
    /// Of the message before: most are alike.
    latest_head: Option<((u8, usize), Bytes)>,
}

/// Segments of a frame, by address and length. Flows have the same ones in the same order, most often: after one of them the next one is
/// looked at before the table.
#[derive(Default)]
struct Seen {
    places: Vec<(usize, usize)>,
    numbers: BTreeMap<(usize, usize), usize>,
    next: usize,
}

impl Seen {
    fn place(segment: &Bytes) -> (usize, usize) {
        (segment.as_ptr().addr(), segment.len())
    }

    fn holds(&mut self, segment: &Bytes) -> bool {
        let place = Self::place(segment);
        let next = if self.next < self.places.len() { self.next } else { 0 };
        let expected = self.places.get(next).filter(|expected| **expected == place).map(|_| next);
        let number = expected.or_else(|| self.numbers.get(&place).copied());
        self.next = number.map_or(self.next, |number| number + 1);
        number.is_some()
    }

    fn add(&mut self, segment: &Bytes) {
        if !self.holds(segment) {
            self.next = self.places.len() + 1;
            self.numbers.insert(Self::place(segment), self.places.len());
            self.places.push(Self::place(segment));
        }
    }
}

impl Filling {
    fn new(frame_bytes_max: usize, late_too: bool, runs: usize) -> Self {
        let (runs, payloads) = (Vec::with_capacity(runs), Vec::with_capacity(runs));
        Self { frame_bytes_max, late_too, runs, payloads, ..Self::default() }
    }

    /// Whether a message fits into what is left. The caller may take it all the same if it is the first.
    pub(super) fn admit(&mut self, payload: &Payload, run_fits: bool) -> bool {
        let total = self.total_bytes.saturating_add(payload.len() + MESSAGE_HEAD_BYTES + RECORD_BYTES);
        let seen = &mut self.seen;
        let mut fresh = |segment: &&Bytes| segment.len() < SHARED_BYTES_MIN || !seen.holds(segment);
        let unique: usize = payload.segments().iter().filter(|of| fresh(of)).map(Bytes::len).sum();
        let fits = run_fits
            && total <= self.frame_bytes_max
            && (unique == 0 || self.unique_bytes + unique <= FRAME_UNIQUE_BYTES);
        if fits || self.total_bytes == 0 {
            self.total_bytes = total;
            self.unique_bytes += unique;
            if unique > 0 {
                let long = payload.segments().iter().filter(|segment| segment.len() >= SHARED_BYTES_MIN);
                long.for_each(|segment| self.seen.add(segment));
            }
        }
        fits
    }

    /// The bytes in front of a message. Equal ones are the same buffer, which the codec sees at once.
    pub(super) fn head(&mut self, kind: u8, length: usize) -> Bytes {
        let key = (kind, length);
        if let Some((_, head)) = self.latest_head.as_ref().filter(|(of, _)| *of == key) {
            return head.clone();
        }
        let head = self.heads.entry(key).or_insert_with(|| message_head(kind, length)).clone();
        self.latest_head = Some((key, head.clone()));
        head
    }
}
