//! What a sender keeps of one (destination, lane): messages that wait for their first attempt, and those that have a seq
//! and wait for a decision. A seq is given at the first attempt, so what is superseded or expires before that leaves no gap.
//!
//! ```text
//! queue ──seal──→ Flying ──decided──→ Delivered
//!                  │  ↑ └──held────→ Held (no more retries) ──decided──→ Delivered
//!      attempt ended  seal
//!                  ↓  │
//!                 Retry                 any state ──deadline──→ Failed, and the floor rises past it
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use trunkline_codec::Payload;

use super::back::Back;
use super::client::Ticket;
use super::held::Held;
use super::links::{LinkId, PeerIx};
use super::pause::Pauses;
use super::rtt::Rtt;
use super::time::Micros;
use super::window::WINDOW_SEQS;
use super::wire::ROOM_UNKNOWN;
use super::wire::{AckFlow, Run};
use super::words::Words;
use crate::id::{Incarnation, Lane, NodeId, Seq};
use crate::settings::MESSAGE_OVERHEAD_BYTES;

/// A place in the table of flows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FlowIx(pub usize);

/// A message from the moment it was accepted. Numbers rise in the order of acceptance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MessageId(pub u64);

/// A message that was accepted.
#[derive(Debug)]
pub struct Pending {
    /// Its number.
    pub id: MessageId,
    /// The batch it came in, and its index there.
    pub ticket: Ticket,
    /// See `ticket`.
    pub index: usize,
    /// The sender's number.
    pub kind: u8,
    /// Its slot.
    pub slot: Option<u32>,
    /// When nobody wants it any more.
    pub expires_at: Micros,
    /// Its bytes.
    pub payload: Payload,
}

/// The way an attempt takes, as an index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    /// Through this proxy of the destination's datacenter.
    Proxy(usize),
    /// Straight.
    Direct,
    /// The way back: through this proxy of the sender's own datacenter.
    Back(PeerIx),
}

/// Where a message with a seq is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In this attempt.
    Flying(u64),
    /// At the destination, behind a gap.
    Held,
    /// Waits for another attempt.
    Retry,
}

/// A message that has a seq.
#[derive(Debug)]
pub struct Sent {
    /// The message.
    pub pending: Pending,
    /// Where it is.
    pub place: Place,
    /// Attempts made.
    pub attempts: u32,
    /// The way of the last one.
    pub way: Way,
    /// When the first attempt was made. Its writer reports late, sometimes later than the ack comes.
    pub first_sealed: Micros,
    /// Link of the first attempt.
    pub first_link: LinkId,
    /// An attempt ended without a word, so it may have been delivered.
    pub uncertain: bool,
    /// The last attempt was not answered in time, so the next one is of the share that may be sent again.
    pub late: bool,
    /// The last attempt was refused because the receiver is full.
    pub full: bool,
    /// The attempt under way is meant for a life of the destination that is over.
    pub stale: bool,
}

impl Sent {
    /// It may have reached the application.
    #[must_use]
    pub fn maybe_delivered(&self) -> bool {
        self.uncertain || !matches!(self.place, Place::Retry)
    }
}

/// One (destination, lane).
#[derive(Debug)]
pub struct Flow {
    /// The destination.
    pub peer: PeerIx,
    /// Its id.
    pub destination: NodeId,
    /// Index of its datacenter.
    pub datacenter: usize,
    /// The lane.
    pub lane: Lane,
    /// The destination's life, once an ack named it.
    pub incarnation: Incarnation,
    /// Write to ack on direct attempts.
    pub direct_rtt: Rtt,
    /// The way back.
    pub back: Back,
    /// Messages that have no seq yet.
    pub queue: BTreeMap<MessageId, Pending>,
    /// Messages that have one.
    pub sent: BTreeMap<u64, Sent>,
    /// The attempts whose empty runs ask for an ack.
    pub asking: BTreeSet<u64>,
    /// Messages below this one were copied out of the application's buffers, as far as they wait.
    pub detached: MessageId,
    newest: MessageId,
    /// When messages last moved.
    moved_at: Micros,
    slots: BTreeMap<u32, MessageId>,
    retry: BTreeSet<u64>,
    next: u64,
    decided: u64,
    floor_told: u64,
    flying: usize,
    /// What the destination holds.
    pub held: Held,
    /// Of all messages under way, as they are charged.
    flying_bytes: usize,
    /// What the receiver can take beside what it has, bytes, once it said so.
    room: Option<usize>,
    /// Since when nothing is under way for want of room.
    starves_since: Option<Micros>,
    /// Ways and times to leave alone.
    pub pauses: Pauses,
    /// The entry of its latest decision in the log of its datacenter.
    pub decision: Option<u64>,
    /// A round trip that somebody asked for.
    pub ping: Ping,
    /// By whose word messages count as delivered.
    pub words: Words,
    /// The floor is to be told by another way than that of the latest word.
    pub audit: bool,
}

/// A round trip that somebody asked for: an empty run, which asks for an ack and delivers nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ping {
    /// It waits for its next attempt.
    pub waits: bool,
    /// The attempt under way.
    pub attempt: Option<u64>,
    /// Attempts made.
    pub attempts: u32,
}

/// A message that can be taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Newest {
    /// It has no seq yet.
    Queued(MessageId),
    /// It has this one, and waits for another attempt.
    Sent(u64),
}

/// A receiver without room says so when it has some again, and that word may be lost with a link: after so long without any,
/// one message asks.
const STARVED_ASKS_AFTER: Duration = Duration::from_millis(500);

/// What a message counts for, here and at its receiver.
fn charge(payload: &Payload) -> usize {
    payload.len() + MESSAGE_OVERHEAD_BYTES
}

/// Most runs of one flow in a frame: a flow with more gaps than that goes on in the next frame.
const RUNS_PER_FRAME: usize = 8;

impl Flow {
    /// Nothing was sent yet.
    #[must_use]
    pub fn new(peer: PeerIx, destination: NodeId, datacenter: usize, lane: Lane) -> Self {
        Self {
            peer,
            destination,
            datacenter,
            lane,
            incarnation: Incarnation::UNKNOWN,
            direct_rtt: Rtt::default(),
            back: Back::default(),
            queue: BTreeMap::new(),
            sent: BTreeMap::new(),
            asking: BTreeSet::new(),
            detached: MessageId(0),
            newest: MessageId(0),
            moved_at: Micros(0),
            slots: BTreeMap::new(),
            retry: BTreeSet::new(),
            next: Seq::FIRST.0,
            decided: 0,
            floor_told: 0,
            flying: 0,
            held: Held::default(),
            flying_bytes: 0,
            room: None,
            starves_since: None,
            pauses: Pauses::default(),
            decision: None,
            ping: Ping::default(),
            words: Words::default(),
            audit: false,
        }
    }

    /// It knows the destination by an earlier life than this.
    #[must_use]
    pub fn knows_less_than(&self, life: Incarnation) -> bool {
        self.incarnation.is_known() && self.incarnation < life
    }

    /// The message of a slot that waits for its first attempt.
    #[must_use]
    pub fn queued_in(&self, slot: u32) -> Option<&Pending> {
        self.queue.get(self.slots.get(&slot)?)
    }

    /// Takes a message in. Gives back the one of the same slot that it replaces.
    pub fn push(&mut self, pending: Pending, now: Micros) -> Option<Pending> {
        if self.queue.is_empty() && self.sent.is_empty() {
            self.moved_at = now;
        }
        self.newest = pending.id;
        let replaced = pending.slot.and_then(|slot| self.slots.insert(slot, pending.id));
        self.queue.insert(pending.id, pending);
        replaced.and_then(|old| self.queue.remove(&old))
    }

    /// Takes a message out of the queue.
    pub fn unqueue(&mut self, id: MessageId) -> Option<Pending> {
        let pending = self.queue.remove(&id)?;
        if let Some(slot) = pending.slot.filter(|slot| self.slots.get(slot) == Some(&id)) {
            self.slots.remove(&slot);
        }
        Some(pending)
    }

    /// The message that came last of those that nobody has at present: none if it is the only one of the flow, or if all that
    /// came later are under way or held.
    #[must_use]
    pub fn newest(&self) -> Option<Newest> {
        if self.queue.len() + self.sent.len() == 1 {
            return None;
        }
        let queued = self.queue.last_key_value().map(|(id, _)| Newest::Queued(*id));
        queued.or_else(|| self.retry.last().map(|seq| Newest::Sent(*seq)))
    }

    /// How long messages have waited without any of them moving.
    #[must_use]
    pub fn stands_since(&self, now: Micros) -> Duration {
        if self.queue.is_empty() && self.sent.is_empty() { Duration::ZERO } else { now.since(self.moved_at) }
    }

    /// All messages that wait and were not copied out of the application's buffers. They count as copied.
    pub fn attached_mut(&mut self) -> impl Iterator<Item = &mut Pending> {
        let from = std::mem::replace(&mut self.detached, MessageId(self.newest.0 + 1));
        let sent = self.sent.values_mut().rev().map(|sent| &mut sent.pending);
        let sent = sent.take_while(move |pending| pending.id >= from);
        self.queue.range_mut(from..).map(|(_, pending)| pending).chain(sent)
    }

    /// Takes a message with a seq out: it is decided or given up.
    pub fn forget(&mut self, seq: u64) -> Option<Sent> {
        self.retry.remove(&seq);
        let sent = self.sent.remove(&seq)?;
        if sent.place == Place::Held && seq > self.decided {
            self.held.given_up();
        }
        self.lands(sent.place, charge(&sent.pending.payload));
        Some(sent)
    }

    /// What an ack says is held of what is not known to be. Looks at what has a seq here, and not at every bit.
    #[must_use]
    pub fn newly_held(&self, entry: &AckFlow) -> Vec<u64> {
        let span = 64 * u64::try_from(entry.held.len()).unwrap_or(0);
        let (decided, last) = (entry.decided, entry.decided.saturating_add(span));
        let within = self.sent.range((Bound::Excluded(decided), Bound::Included(last)));
        let new = within.filter(|(seq, sent)| sent.place != Place::Held && entry.holds(**seq));
        new.map(|(seq, _)| *seq).collect()
    }

    /// The destination holds it: no more retries.
    pub fn hold(&mut self, seq: u64) {
        self.retry.remove(&seq);
        if let Some(sent) = self.sent.get_mut(&seq) {
            let before = std::mem::replace(&mut sent.place, Place::Held);
            let bytes = charge(&sent.pending.payload);
            self.lands(before, bytes);
            self.held.add();
        }
    }

    /// A message leaves the place it had.
    fn lands(&mut self, place: Place, bytes: usize) {
        match place {
            Place::Flying(_) => {
                self.flying -= 1;
                self.flying_bytes -= bytes;
            }
            Place::Held => self.held.remove(),
            Place::Retry => {}
        }
    }

    /// Something is under way that its destination will answer.
    #[must_use]
    pub fn awaits_answer(&self) -> bool {
        self.flying > 0 || !self.asking.is_empty()
    }

    /// The lowest seq still alive; without any, the one that comes next.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.sent.first_key_value().map_or(self.next, |(seq, _)| *seq)
    }

    /// Seqs below this one were given out.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The destination waits at a gap that will never be filled, and no attempt on its way says so.
    #[must_use]
    pub fn floor_due(&self) -> bool {
        // With nothing alive, what the destination holds would wait until something is sent again.
        let lowest = self.sent.first_key_value();
        let untold = lowest.map_or(self.held.owes_floor(), |(_, sent)| !matches!(sent.place, Place::Retry));
        untold && self.floor() > self.floor_told.max(self.decided + 1)
    }

    /// The highest decided seq, as acked.
    pub fn raise_decided(&mut self, decided: u64) -> bool {
        let progress = decided > self.decided;
        self.decided = self.decided.max(decided);
        progress
    }

    /// What the receiver can take beside what an ack says it has; `decided` is that ack's. An older one than was seen before
    /// says nothing.
    pub fn set_room(&mut self, room_kib: u32, decided: u64) {
        if room_kib == ROOM_UNKNOWN || decided < self.decided {
            return;
        }
        self.room = usize::try_from(u64::from(room_kib) * 1024).ok();
        if !self.is_starved() {
            self.starves_since = None;
        }
    }

    /// A message that is under way was given up. It comes to the receiver all the same, which has not said so yet.
    pub fn spend_room(&mut self, payload: &Payload) {
        self.room = self.room.map(|room| room.saturating_sub(charge(payload)));
    }

    /// The message that goes next is more than the receiver can take beside what is under way. The one that it waits for it
    /// takes in any case.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        let some = !self.retry.is_empty() || !self.queue.is_empty();
        some && !self.next_is_awaited()
            && self.room.is_some_and(|room| self.flying_bytes + self.next_charge() > room)
    }

    /// The receiver said that everything in front of the message that goes next is decided. That it was given up here is not
    /// enough: the receiver may hold it and wait for room.
    fn next_is_awaited(&self) -> bool {
        self.retry.first().copied().unwrap_or(self.next) == self.decided + 1
    }

    /// Until when this flow waits for room, with nothing else to do: for the ack of what is under way, or for one that says
    /// there is room. That one may be lost with its link, so one message asks now and then.
    pub fn waits_for_room(&mut self, now: Micros) -> Option<Micros> {
        if !self.is_starved() || self.asks() {
            return None;
        }
        if self.flying > 0 {
            return Some(Micros::NEVER);
        }
        let until = *self.starves_since.get_or_insert(now) + STARVED_ASKS_AFTER;
        (now < until).then_some(until)
    }

    fn next_charge(&self) -> usize {
        self.next_bytes(true) + MESSAGE_OVERHEAD_BYTES
    }

    /// There is something to seal now.
    #[must_use]
    pub fn has_work(&self) -> bool {
        (self.audit || self.has_more()) && !self.probe_flies()
    }

    /// The audit is all that there is to do: nothing has to wait for the way that it takes.
    #[must_use]
    pub fn only_audits(&self) -> bool {
        self.audit && !self.has_more()
    }

    fn has_more(&self) -> bool {
        !self.retry.is_empty() || self.asks() || (!self.queue.is_empty() && self.window_open())
    }

    /// An empty run is due, if there is nothing else to send.
    fn asks(&self) -> bool {
        self.floor_due() || self.ping.waits || self.held.is_due()
    }

    /// Single messages until one is answered, and one is on its way.
    fn probe_flies(&self) -> bool {
        self.pauses.is_probing() && self.awaits_answer()
    }

    fn window_open(&self) -> bool {
        self.next - self.floor() < WINDOW_SEQS
    }

    /// An attempt answered: the way works and the receiver takes.
    pub fn answered(&mut self, way: Way, now: Micros) {
        self.moved_at = now;
        self.pauses.answered(way);
        if matches!(way, Way::Back(_)) {
            self.back.answered();
        }
    }

    /// The attempt of a message ended without a decision; it waits for another one. False when there must be none: the
    /// attempt was meant for a life of the destination that is over, and may have reached it.
    #[must_use]
    pub fn retry(&mut self, seq: u64, uncertain: bool) -> bool {
        let Some(sent) = self.sent.get_mut(&seq) else { return true };
        let before = std::mem::replace(&mut sent.place, Place::Retry);
        sent.uncertain |= uncertain;
        let (bytes, again) = (charge(&sent.pending.payload), !(uncertain && sent.stale));
        self.retry.insert(seq);
        self.lands(before, bytes);
        again
    }

    /// A run that told the floor may not have arrived.
    pub fn forget_floor_told(&mut self) {
        self.floor_told = 0;
    }

    /// The destination lives another life: its books begin anew. Gives the messages that the old life may have had. Those
    /// of an attempt under way are not among them: if that is refused, the old life never saw it.
    #[must_use]
    pub fn restart(&mut self, incarnation: Incarnation) -> Vec<u64> {
        let mut lost = Vec::new();
        for (seq, sent) in &mut self.sent {
            if sent.uncertain || sent.place == Place::Held {
                lost.push(*seq);
            }
            sent.stale = matches!(sent.place, Place::Flying(_));
        }
        self.incarnation = incarnation;
        self.words.clear();
        self.decided = 0;
        self.floor_told = 0;
        (self.room, self.starves_since) = (None, None);
        self.pauses.restart();
        lost
    }

    /// The seqs to put into the next frame, lowest first, cut into runs of consecutive ones. Unsent messages get their seq
    /// here. At most `runs_max` runs. What was late waits unless `late_too`. `fits` is asked per message and ends the selection with `false`; the first one is
    /// taken whatever it says, if `alone` holds. A single run without messages tells the floor when there is nothing else to carry it.
    pub fn select(
        &mut self,
        runs_max: usize,
        alone: bool,
        late_too: bool,
        now: Micros,
        mut fits: impl FnMut(&Payload) -> bool,
    ) -> Vec<Selected> {
        let mut runs: Vec<Selected> = Vec::new();
        let runs_max = runs_max.min(RUNS_PER_FRAME);
        let probing = self.pauses.is_probing();
        if self.probe_flies() {
            return runs;
        }
        let mut taken = 0_usize;
        // One message may ask for room after a while without any word, whatever was said before.
        let mut credit = self.room.map(|room| room.saturating_sub(self.flying_bytes));
        let asks =
            self.flying == 0 && self.starves_since.is_some_and(|since| now >= since + STARVED_ASKS_AFTER);
        let in_any_case = asks || self.next_is_awaited();
        let mut take = |seq: u64, payload: &Payload, taken: &mut usize| {
            let first = *taken == 0;
            if probing && !first {
                return false;
            }
            let left = credit.map(|credit| credit.checked_sub(charge(payload)));
            if left == Some(None) && !(first && in_any_case) {
                return false;
            }
            // Asked in any case: the caller keeps count.
            let fits = fits(payload);
            if !(fits || (first && alone)) {
                return false;
            }
            let room = runs.len() < runs_max;
            match runs.last_mut().filter(|run| run.first + u64::from(run.count) == seq) {
                Some(run) => run.count += 1,
                None if room => runs.push(Selected { first: seq, count: 1 }),
                None => return false,
            }
            *taken += 1;
            credit = left.map(Option::unwrap_or_default);
            true
        };
        let starved = self.is_starved();
        let mut open = true;
        for seq in &self.retry {
            let Some(sent) = self.sent.get(seq).filter(|sent| late_too || !sent.late) else { continue };
            if !take(*seq, &sent.pending.payload, &mut taken) {
                open = false;
                break;
            }
        }
        while open && self.next - self.sent.first_key_value().map_or(self.next, |(seq, _)| *seq) < WINDOW_SEQS
        {
            let Some(entry) = self.queue.first_entry() else { break };
            if !take(self.next, &entry.get().payload, &mut taken) {
                break;
            }
            let pending = entry.remove();
            if let Some(slot) = pending.slot {
                self.slots.remove(&slot);
            }
            let sent = Sent {
                pending,
                place: Place::Retry,
                attempts: 0,
                way: Way::Direct,
                first_sealed: Micros(0),
                first_link: LinkId(u64::MAX),
                uncertain: false,
                late: false,
                full: false,
                stale: false,
            };
            self.sent.insert(self.next, sent);
            self.next += 1;
        }
        if !runs.is_empty() {
            self.starves_since = None;
        }
        if runs.is_empty() && (open || starved) && runs_max > 0 && (self.asks() || self.audit) {
            runs.push(Selected { first: self.next, count: 0 });
        }
        runs
    }

    /// Something waits to be sent again for having been late.
    #[must_use]
    pub fn has_late(&self) -> bool {
        self.retry.iter().any(|seq| self.sent.get(seq).is_some_and(|sent| sent.late))
    }

    /// All that there is to seal waits to be sent again for having been late.
    #[must_use]
    pub fn only_late(&self) -> bool {
        let new = !self.queue.is_empty() && self.window_open();
        let asks = self.audit || self.asks();
        let late = |seq| self.sent.get(seq).is_some_and(|sent| sent.late);
        !new && !asks && !self.retry.is_empty() && self.retry.iter().all(late)
    }

    /// Which attempt the next one of its messages would be.
    #[must_use]
    pub fn next_attempt(&self) -> u32 {
        let again = self.retry.first().and_then(|seq| self.sent.get(seq));
        again.map_or(1, |sent| sent.attempts.saturating_add(1))
    }

    /// The message that [`Flow::select`] would take first.
    #[must_use]
    pub fn foremost(&self) -> Option<Newest> {
        let again = self.retry.first().map(|seq| Newest::Sent(*seq));
        again.or_else(|| self.queue.first_key_value().map(|(id, _)| Newest::Queued(*id)))
    }

    /// Payload bytes of the message that [`Flow::select`] would take first; 0 without one.
    #[must_use]
    pub fn next_bytes(&self, late_too: bool) -> usize {
        let again =
            self.retry.iter().filter_map(|seq| self.sent.get(seq)).find(|sent| late_too || !sent.late);
        again
            .map(|sent| sent.pending.payload.len())
            .or_else(|| self.queue.first_key_value().map(|(_, pending)| pending.payload.len()))
            .unwrap_or(0)
    }

    /// A selected run goes into an attempt: its numbers for the wire.
    pub fn fly(&mut self, run: Selected, leg: Leg, row: u32, deadline_ms: u32) -> Run {
        let Leg { attempt, way, link, now } = leg;
        self.held.asked(self.sent.is_empty());
        if run.count == 0 {
            self.asking.insert(attempt);
            self.audit &= self.words.way() == Some(way);
            if self.ping.waits {
                let attempts = self.ping.attempts.saturating_add(1);
                self.ping = Ping { waits: false, attempt: Some(attempt), attempts };
            }
        }
        for seq in run.seqs() {
            self.retry.remove(&seq);
            if let Some(sent) = self.sent.get_mut(&seq) {
                if sent.attempts == 0 {
                    (sent.first_link, sent.first_sealed) = (link, now);
                }
                if !matches!(sent.place, Place::Flying(_)) {
                    self.flying += 1;
                    self.flying_bytes += charge(&sent.pending.payload);
                }
                sent.attempts = sent.attempts.saturating_add(1);
                sent.place = Place::Flying(attempt);
                sent.way = way;
                (sent.full, sent.stale, sent.late) = (false, false, false);
            }
        }
        // A floor above the run's first seq cannot be: the run itself is alive. Only an empty run may tell less than it
        // could, and it stands at the next seq.
        let floor = self.floor().min(run.first);
        self.floor_told = self.floor_told.max(floor);
        Run { flow: row, first: Seq(run.first), count: run.count, floor_back: run.first - floor, deadline_ms }
    }
}

/// What the runs of one frame have in common.
#[derive(Clone, Copy, Debug)]
pub struct Leg {
    /// The attempt.
    pub attempt: u64,
    /// Its way.
    pub way: Way,
    /// Its link.
    pub link: LinkId,
    /// When it is sealed.
    pub now: Micros,
}

/// A run of seqs that was selected for a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Selected {
    /// First seq.
    pub first: u64,
    /// How many.
    pub count: u32,
}

impl Selected {
    /// The seqs.
    pub fn seqs(self) -> impl Iterator<Item = u64> {
        self.first..self.first + u64::from(self.count)
    }
}

#[cfg(test)]
mod tests;
