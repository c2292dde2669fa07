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

mod queued;
mod room;
mod select;
pub use queued::Queued;
pub use select::{Leg, Selected};

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use trunkline_codec::Payload;

use super::back::Back;
use super::client::Ticket;
use super::deadlines::Deadlines;
use super::hearsay::Hearsay;
use super::held::Held;
use super::links::{LinkId, PeerIx};
use super::pause::Pauses;
use super::reports::Ejection;
use super::rtt::Rtt;
use super::seqs::Seqs;
use super::time::Micros;
use super::window::WINDOW_SEQS;
use super::wire::{AckFlow, Run};
use super::words::Words;
use crate::id::{Incarnation, Lane, NodeId, Seq};
use crate::settings::MESSAGE_OVERHEAD_BYTES;

/// So long after the last message came for it a flow begins to wait anew.
const IDLE_AFTER: Duration = Duration::from_secs(10);

/// A place in the table of flows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FlowIx(pub usize);

/// A message from the moment it was accepted. Numbers rise in the order of acceptance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MessageId(pub u64);

/// The number of the first one of all: a flow to which none came has a lower one.
pub const FIRST_MESSAGE: MessageId = MessageId(1);

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
    /// Its group of [`Deadlines`].
    pub group: MessageId,
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

impl Way {
    /// As people read it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Proxy(_) => "proxy",
            Self::Direct => "direct",
            Self::Back(_) => "back",
        }
    }
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
    /// Who said that it is held, if anybody did.
    pub held_by: Option<Way>,
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
    /// The topology lists its destination.
    pub employed: bool,
    /// The destination's life, once an ack named it.
    pub incarnation: Incarnation,
    /// Whose word that is.
    pub hearsay: Hearsay,
    /// What stood for it last.
    pub row: Option<Row>,
    /// Write to ack on direct attempts.
    pub direct_rtt: Rtt,
    /// The way back.
    pub back: Back,
    /// Messages that have no seq yet.
    pub queue: Queued,
    /// Messages that have one.
    pub sent: Seqs<Sent>,
    /// When nobody wants them any more.
    pub deadlines: Deadlines,
    /// The attempts whose empty runs ask for an ack.
    pub asking: BTreeSet<u64>,
    /// Messages below this one were copied out of the application's buffers, as far as they wait.
    pub detached: MessageId,
    newest: MessageId,
    /// When messages last moved.
    moved_at: Micros,
    /// When the last message came.
    came_at: Micros,
    /// Since when messages came and nothing was answered, or since when one waits where all before were answered.
    waits_since: Option<Micros>,
    /// When an attempt was answered last.
    answered_at: Option<Micros>,
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
    /// Up to here the receiver had what comes behind all that it decided on, without a gap.
    waits_to: u64,
    /// Since when the receiver has something of which its application takes nothing.
    untaken_since: Option<Micros>,
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
    /// By which way it answered last, and when the frame was written that it answered.
    pub heard: Option<(Way, Micros)>,
    /// The floor is to be told by another way than that of the latest word.
    pub audit: bool,
    /// For a while a link to the destination was ended that it may believe the next one, and another one is not.
    pub anew: Ejection,
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

/// The row that stood for a flow when it was last sent: looked up by names once, and kept, for a link has its rows for good.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// On the connection of the flow's lane, of this link.
    pub link: LinkId,
    /// The lives of origin and destination that it is for.
    pub lives: (Incarnation, Incarnation),
    /// Its number.
    pub number: u32,
}

/// A message that is not decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Undecided {
    /// It has no seq yet.
    Queued(MessageId),
    /// It has this one.
    Sent(u64),
}

/// What a message counts for, here and at its receiver.
fn charge(payload: &Payload) -> usize {
    payload.len() + MESSAGE_OVERHEAD_BYTES
}

impl Flow {
    /// Nothing was sent yet.
    #[must_use]
    pub fn new(peer: PeerIx, destination: NodeId, datacenter: usize, lane: Lane) -> Self {
        Self {
            peer,
            destination,
            datacenter,
            lane,
            employed: true,
            incarnation: Incarnation::UNKNOWN,
            hearsay: Hearsay::default(),
            row: None,
            direct_rtt: Rtt::default(),
            back: Back::default(),
            queue: Queued::default(),
            sent: Seqs::default(),
            deadlines: Deadlines::default(),
            asking: BTreeSet::new(),
            detached: MessageId(0),
            newest: MessageId(0),
            moved_at: Micros(0),
            came_at: Micros(0),
            waits_since: None,
            answered_at: None,
            slots: BTreeMap::new(),
            retry: BTreeSet::new(),
            next: Seq::FIRST.0,
            decided: 0,
            floor_told: 0,
            flying: 0,
            held: Held::default(),
            flying_bytes: 0,
            room: None,
            waits_to: 0,
            untaken_since: None,
            starves_since: None,
            pauses: Pauses::default(),
            decision: None,
            ping: Ping::default(),
            words: Words::default(),
            heard: None,
            audit: false,
            anew: Ejection::default(),
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
        self.queue.get(*self.slots.get(&slot)?)
    }

    /// Takes a message in. Gives back the one of the same slot that it replaces.
    pub fn push(&mut self, pending: Pending, now: Micros) -> Option<Pending> {
        if self.queue.is_empty() && self.sent.is_empty() {
            // What expired before it was answered was waited for in vain as well.
            let in_vain = self.waits_since.filter(|since| self.answered_at < Some(*since));
            self.waits_since = in_vain.filter(|_| now.since(self.came_at) <= IDLE_AFTER).or(Some(now));
            self.moved_at = now;
        }
        self.came_at = now;
        self.newest = pending.id;
        let replaced = pending.slot.and_then(|slot| self.slots.insert(slot, pending.id));
        self.queue.push(pending);
        replaced.and_then(|old| self.queue.remove(old))
    }

    /// A message with this number or a later one came to it.
    #[must_use]
    pub fn came_since(&self, id: MessageId) -> bool {
        self.newest >= id
    }

    /// Takes a message out of the queue.
    pub fn unqueue(&mut self, id: MessageId) -> Option<Pending> {
        let pending = self.queue.remove(id)?;
        if let Some(slot) = pending.slot.filter(|slot| self.slots.get(slot) == Some(&id)) {
            self.slots.remove(&slot);
        }
        Some(pending)
    }

    /// The message that came last of those that nobody has at present: none if it is the only one of the flow, or if all that
    /// came later are under way or held.
    #[must_use]
    pub fn newest(&self) -> Option<Undecided> {
        if self.queue.len() + self.sent.len() == 1 {
            return None;
        }
        let queued = self.queue.last().map(|pending| Undecided::Queued(pending.id));
        queued.or_else(|| self.retry.last().map(|seq| Undecided::Sent(*seq)))
    }

    /// How long messages have waited without any of them moving.
    #[must_use]
    pub fn stands_since(&self, now: Micros) -> Duration {
        if self.queue.is_empty() && self.sent.is_empty() { Duration::ZERO } else { now.since(self.moved_at) }
    }

    /// Some message that waits was not copied out of the application's buffers.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.pending() > 0 && self.detached <= self.newest
    }

    /// All messages that wait and were not copied out of the application's buffers. They count as copied.
    pub fn attached_mut(&mut self) -> impl Iterator<Item = &mut Pending> {
        let from = std::mem::replace(&mut self.detached, MessageId(self.newest.0 + 1));
        let sent = self.sent.iter_back_mut().map(|sent| &mut sent.pending);
        let sent = sent.take_while(move |pending| pending.id >= from);
        self.queue.from_mut(from).chain(sent)
    }

    /// Which of these messages are not decided: those without a seq first, then the others in their order.
    #[must_use]
    pub fn undecided(&self, ids: &RangeInclusive<MessageId>) -> Vec<Undecided> {
        // Who was accepted earlier got the lower seq.
        let (mut low, mut high) = (self.floor(), self.next);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.sent.range(middle, high).next() {
                Some((seq, sent)) if sent.pending.id < *ids.start() => low = seq + 1,
                _ => high = middle,
            }
        }
        let queued = self.queue.range(ids).map(|pending| Undecided::Queued(pending.id));
        let sent = self.sent.range(low, self.next).take_while(|(_, sent)| sent.pending.id <= *ids.end());
        queued.chain(sent.map(|(seq, _)| Undecided::Sent(seq))).collect()
    }

    /// Takes a message with a seq out: it is decided or given up.
    pub fn forget(&mut self, seq: u64) -> Option<Sent> {
        self.retry.remove(&seq);
        let sent = self.sent.remove(seq)?;
        if sent.place == Place::Held && seq > self.decided {
            self.held.given_up();
        }
        self.lands(sent.place, charge(&sent.pending.payload));
        Some(sent)
    }

    /// What an ack says is held of what is not known to be, by word of this way, over this link: of what it was given, for whoever carries
    /// nothing of a message cannot know; the destination itself does. Looks at what has a seq here, and not at every bit.
    #[must_use]
    pub fn newly_held(&self, entry: &AckFlow, (by, link): (Way, LinkId)) -> Vec<u64> {
        if entry.held.is_empty() {
            return Vec::new();
        }
        let span = 64 * u64::try_from(entry.held.len()).unwrap_or(0);
        let (decided, last) = (entry.decided, entry.decided.saturating_add(span));
        let within = self.sent.range(decided.saturating_add(1), last.saturating_add(1));
        let given = |sent: &Sent| by == Way::Direct || sent.way == by || sent.first_link == link;
        let new = within.filter(|(seq, sent)| sent.place != Place::Held && entry.holds(*seq) && given(sent));
        new.map(|(seq, _)| seq).collect()
    }

    /// The destination holds it, by word of this way: no more retries.
    pub fn hold(&mut self, seq: u64, by: Way) {
        self.retry.remove(&seq);
        if let Some(sent) = self.sent.get_mut(seq) {
            let before = std::mem::replace(&mut sent.place, Place::Held);
            sent.held_by = Some(by);
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

    /// Messages are under way.
    #[must_use]
    pub fn flies(&self) -> bool {
        self.flying > 0
    }

    /// Something is under way that its destination will answer.
    #[must_use]
    pub fn awaits_answer(&self) -> bool {
        self.flying > 0 || !self.asking.is_empty()
    }

    /// The lowest seq still alive; without any, the one that comes next.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.sent.first().map_or(self.next, |(seq, _)| seq)
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
        let lowest = self.sent.first();
        let untold = lowest.map_or(self.held.owes_floor(), |(_, sent)| !matches!(sent.place, Place::Retry));
        untold && self.floor() > self.floor_told.max(self.decided + 1)
    }

    /// The highest decided seq that was acked.
    #[must_use]
    pub fn decided(&self) -> u64 {
        self.decided
    }

    /// The highest decided seq, as acked.
    pub fn raise_decided(&mut self, decided: u64) -> bool {
        let progress = decided > self.decided;
        if progress {
            (self.decided, self.untaken_since) = (decided, None);
        }
        progress
    }

    /// An ack says what the receiver holds. What it holds in turn waits for room with it, and for nothing else.
    pub fn note_waiting(&mut self, entry: &AckFlow, now: Micros) {
        self.waits_to = self.waits_to.max(entry.decided.saturating_add(entry.held_in_turn()));
        if self.waits_to > self.decided {
            self.untaken_since.get_or_insert(now);
        }
    }

    /// Since when the receiver has what is next and its application takes nothing of it, though it may take others' messages; `None` while
    /// nothing waits here.
    #[must_use]
    pub fn untaken_since(&self) -> Option<Micros> {
        self.untaken_since.filter(|_| self.pending() > 0)
    }

    /// The receiver said that it holds this message, and all in front of it that it has not decided on: its application is what that
    /// waits for. That what was in front of it was given up here is not enough: the receiver may not have heard of it.
    #[must_use]
    pub fn waits_for_application(&self, seq: u64) -> bool {
        seq <= self.waits_to && self.sent.get(seq).is_some_and(|sent| sent.place == Place::Held)
    }

    /// Messages queued or unacknowledged.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.queue.len() + self.sent.len()
    }

    /// When an attempt was answered last, if one ever was.
    #[must_use]
    pub fn answered_at(&self) -> Option<Micros> {
        self.answered_at
    }

    /// Since when messages wait and nothing is answered; `None` while none waits. While they wait for room one of them, or what is held,
    /// asks all the same.
    #[must_use]
    pub fn unanswered_since(&self) -> Option<Micros> {
        self.answered_at.max(self.waits_since).filter(|_| self.pending() > 0)
    }

    /// There is something to seal now.
    #[must_use]
    pub fn has_work(&self) -> bool {
        (self.audit || self.has_more()) && !self.probe_flies()
    }

    /// The audit is all that can be done: nothing has to wait for the way that it takes.
    #[must_use]
    pub fn only_audits(&self) -> bool {
        self.audit && (!self.has_more() || self.is_starved())
    }

    /// Whose word another way is to confirm by an audit: what it said is held, or else what it said last.
    #[must_use]
    pub fn audited(&self) -> Option<Way> {
        self.held.doubt().map(|doubt| doubt.by).or_else(|| self.words.way())
    }

    /// What the destination is said to hold, and who said so first: whoever names it later may only know what else is held.
    pub fn held_seqs(&self) -> impl Iterator<Item = (u64, Way)> {
        let held = self.sent.iter().filter(|(_, sent)| sent.place == Place::Held);
        held.filter_map(|(seq, sent)| Some((seq, sent.held_by?)))
    }

    /// There is more than an audit to do.
    #[must_use]
    pub fn has_more(&self) -> bool {
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

    /// It leaves no way alone, and prefers none.
    #[must_use]
    pub fn is_unbarred(&self, now: Micros) -> bool {
        self.back.proxy().is_none() && self.pauses.are_over(now)
    }

    /// The same, and what goes next waits for nothing else: the best way there is will do.
    #[must_use]
    pub fn may_take_any(&self, now: Micros) -> bool {
        !self.audit && self.is_unbarred(now) && !self.is_starved()
    }

    fn window_open(&self) -> bool {
        self.next - self.floor() < WINDOW_SEQS
    }

    /// An attempt answered: the way works and the receiver takes.
    pub fn answered(&mut self, way: Way, now: Micros) {
        self.moved_at = now;
        self.answered_at = Some(now);
        self.pauses.answered(way);
        self.hearsay.answered();
        if matches!(way, Way::Back(_)) {
            self.back.answered();
        }
    }

    /// The receiver is full, which is an answer, or the queue for it at the proxy of a way, which is none: a receiver that takes nothing
    /// fills it.
    pub fn full(&mut self, queue_of: Option<Way>, now: Micros) {
        self.answered_at = if queue_of.is_none() { Some(now) } else { self.answered_at };
        self.pauses.full(queue_of, now);
    }

    /// The attempt of a message ended without a decision; it waits for another one. False when there must be none: the
    /// attempt was meant for a life of the destination that is over, and may have reached it.
    #[must_use]
    pub fn retry(&mut self, seq: u64, uncertain: bool) -> bool {
        let Some(sent) = self.sent.get_mut(seq) else { return true };
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
        let may_have_had = |sent: &Sent| sent.uncertain || sent.place == Place::Held;
        let lost = self.sent.iter().filter(|(_, sent)| may_have_had(sent)).map(|(seq, _)| seq).collect();
        for sent in self.sent.iter_back_mut() {
            sent.stale = matches!(sent.place, Place::Flying(_));
        }
        self.begin(incarnation);
        lost
    }

    /// The destination lives this life still, though another one was said: it drops what it has already, so nothing fails.
    pub fn resume(&mut self, incarnation: Incarnation) {
        self.sent.iter_back_mut().for_each(|sent| sent.stale = false);
        self.begin(incarnation);
    }

    fn begin(&mut self, incarnation: Incarnation) {
        self.incarnation = incarnation;
        self.words.clear();
        self.decided = 0;
        (self.floor_told, self.waits_to, self.untaken_since) = (0, 0, None);
        (self.room, self.starves_since) = (None, None);
        self.pauses.restart();
    }
}

#[cfg(test)]
mod tests;
