//! What of a flow goes into the next frame: which seqs, in which runs, and their numbers for the wire.

use super::room::STARVED_ASKS_AFTER;
use super::*;

/// Most runs of one flow in a frame: a flow with more gaps than that goes on in the next frame.
const RUNS_PER_FRAME: usize = 8;

impl Flow {
    /// The seqs to put into the next frame, lowest first, cut into runs of consecutive ones. Unsent messages get their seq
    /// here. At most `runs_max` runs. What was late waits unless `late_too`. `fits` is asked per message and ends the selection with `false`; the first one is
    /// taken whatever it says, if `alone` holds. A single run without messages tells the floor when there is nothing else to carry it.
    /// They are left in `runs`, in place of what is there.
    pub fn select(
        &mut self,
        runs_max: usize,
        (alone, late_too): (bool, bool),
        now: Micros,
        mut fits: impl FnMut(&Payload) -> bool,
        runs: &mut Vec<Selected>,
    ) {
        runs.clear();
        let runs_max = runs_max.min(RUNS_PER_FRAME);
        let probing = self.pauses.is_probing();
        if self.probe_flies() {
            return;
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
            let Some(sent) = self.sent.get(*seq).filter(|sent| late_too || !sent.late) else { continue };
            if !take(*seq, &sent.pending.payload, &mut taken) {
                open = false;
                break;
            }
        }
        while open && self.next - self.sent.first().map_or(self.next, |(seq, _)| seq) < WINDOW_SEQS {
            let Some(first) = self.queue.first() else { break };
            if !take(self.next, &first.payload, &mut taken) {
                break;
            }
            let Some(pending) = self.queue.pop_first() else { break };
            if let Some(slot) = pending.slot {
                self.slots.remove(&slot);
            }
            let sent = Sent {
                pending,
                place: Place::Retry,
                attempts: 0,
                way: Way::Direct,
                held_by: None,
                first_sealed: Micros(0),
                first_link: LinkId(u64::MAX),
                uncertain: false,
                late: false,
                full: false,
                stale: false,
            };
            if let Err(sent) = self.sent.push(self.next, sent) {
                self.unselect(sent.pending, runs);
                break;
            }
            self.next += 1;
        }
        if !runs.is_empty() {
            self.starves_since = None;
        }
        if runs.is_empty() && (open || starved) && runs_max > 0 && (self.asks() || self.audit) {
            runs.push(Selected { first: self.next, count: 0 });
        }
    }

    /// The last message that was selected has no place. That cannot be, for seqs are given out in their order; if it were,
    /// the message would wait for its deadline, and not be lost without a word.
    fn unselect(&mut self, pending: Pending, runs: &mut Vec<Selected>) {
        debug_assert!(false, "a seq below one that was given out");
        if let Some(run) = runs.last_mut() {
            run.count -= 1;
        }
        runs.retain(|run| run.count > 0);
        if let Some(slot) = pending.slot {
            self.slots.insert(slot, pending.id);
        }
        self.queue.put_back(pending);
    }

    /// Something waits to be sent again for having been late.
    #[must_use]
    pub fn has_late(&self) -> bool {
        self.retry.iter().any(|seq| self.sent.get(*seq).is_some_and(|sent| sent.late))
    }

    /// All that there is to seal waits to be sent again for having been late.
    #[must_use]
    pub fn only_late(&self) -> bool {
        let new = !self.queue.is_empty() && self.window_open();
        let asks = self.audit || self.asks();
        let late = |seq: &u64| self.sent.get(*seq).is_some_and(|sent| sent.late);
        !new && !asks && !self.retry.is_empty() && self.retry.iter().all(late)
    }

    /// Which attempt the next one of its messages would be.
    #[must_use]
    pub fn next_attempt(&self) -> u32 {
        let again = self.retry.first().and_then(|seq| self.sent.get(*seq));
        again.map_or(1, |sent| sent.attempts.saturating_add(1))
    }

    /// The message that [`Flow::select`] would take first.
    #[must_use]
    pub fn foremost(&self) -> Option<Undecided> {
        let again = self.retry.first().map(|seq| Undecided::Sent(*seq));
        again.or_else(|| self.queue.first().map(|pending| Undecided::Queued(pending.id)))
    }

    /// Payload bytes of the message that [`Flow::select`] would take first; 0 without one.
    #[must_use]
    pub fn next_bytes(&self, late_too: bool) -> usize {
        let queued = self.queue.first().map_or(0, |pending| pending.payload.len());
        if self.retry.is_empty() {
            return queued;
        }
        let again =
            self.retry.iter().filter_map(|seq| self.sent.get(*seq)).find(|sent| late_too || !sent.late);
        again.map_or(queued, |sent| sent.pending.payload.len())
    }

    /// A selected run goes into an attempt: its numbers for the wire.
    pub fn fly(&mut self, run: Selected, leg: Leg, row: u32, deadline_ms: u32) -> Run {
        let Leg { attempt, way, link, now } = leg;
        self.held.asked(self.sent.is_empty());
        if run.count == 0 {
            self.asking.insert(attempt);
            self.audit &= self.audited() == Some(way);
            if self.ping.waits {
                let attempts = self.ping.attempts.saturating_add(1);
                self.ping = Ping { waits: false, attempt: Some(attempt), attempts };
            }
        }
        for seq in run.seqs() {
            self.retry.remove(&seq);
            if let Some(sent) = self.sent.get_mut(seq) {
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
