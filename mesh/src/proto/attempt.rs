//! One sealed frame of a sender: which messages fly in it, by which way, and until when it waits for their acks.

use std::collections::BTreeSet;

use super::flow::{FlowIx, Selected, Way};
use super::links::LinkId;
use super::seqs::Seqs;
use super::time::Micros;

/// A frame under way.
#[derive(Debug)]
pub struct Attempt {
    /// Its link.
    pub link: LinkId,
    /// Index of the datacenter.
    pub datacenter: usize,
    /// Its way.
    pub way: Way,
    /// The runs inside.
    pub entries: Vec<(FlowIx, Selected)>,
    /// Highest number of attempts of a message inside.
    pub number: u32,
    /// When it was made.
    pub sealed_at: Micros,
    /// When it was written, once it was: see [`Attempts::written`].
    pub written_at: Option<Micros>,
    /// Messages inside that still wait, plus runs without messages.
    pub flying: usize,
    /// Something inside was answered.
    pub answered: bool,
    /// Its row of frames under way knows that.
    pub arrived: bool,
    /// It was answered, and not by the peer of its link for itself: a proxy passed something on.
    pub passed_on: bool,
    /// This process was late when the timeout rang, and it waits a second time.
    pub graced: bool,
    /// All that it carries are floors told by another way, to see what was said of them.
    pub audits: bool,
    /// Payload bytes inside, each message in full, and those of messages that were late before.
    pub payload_bytes: usize,
    /// See `payload_bytes`.
    pub late_bytes: usize,
    /// Bytes of the share of resends that it has spoken for until it is written.
    pub reserved_bytes: u64,
}

impl Attempt {
    /// How many of the frame's bytes on the wire were sent for having been late before.
    #[must_use]
    pub fn late_share(&self, wire_bytes: u64) -> u64 {
        let all = u128::try_from(self.payload_bytes.max(self.late_bytes).max(1)).unwrap_or(u128::MAX);
        let late = u128::try_from(self.late_bytes).unwrap_or(0);
        u64::try_from(u128::from(wire_bytes) * late / all).unwrap_or(u64::MAX)
    }
}

/// All frames under way.
#[derive(Debug, Default)]
pub struct Attempts {
    by_id: Seqs<Attempt>,
    by_link: BTreeSet<(LinkId, u64)>,
    /// Those of them that were not written yet: few, for a connection writes one transmit at a time.
    unwritten: BTreeSet<(LinkId, u64)>,
    latest: u64,
}

impl Attempts {
    /// The number of the next frame.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.latest + 1
    }

    /// A frame was sealed: that of [`Attempts::next_id`].
    pub fn insert(&mut self, attempt: Attempt) {
        let id = self.next_id();
        self.latest = id;
        self.by_link.insert((attempt.link, id));
        self.unwritten.insert((attempt.link, id));
        let placed = self.by_id.push(id, attempt);
        debug_assert!(placed.is_ok(), "frames are sealed one after the other");
    }

    /// A frame was written. Gives it, if something still waits for it.
    pub fn written(&mut self, id: u64, now: Micros) -> Option<&mut Attempt> {
        let attempt = self.by_id.get_mut(id)?;
        attempt.written_at = Some(now);
        self.unwritten.remove(&(attempt.link, id));
        Some(attempt)
    }

    /// A frame that something still waits for.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Attempt> {
        self.by_id.get_mut(id)
    }

    /// See [`Attempts::get_mut`].
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Attempt> {
        self.by_id.get(id)
    }

    /// Nothing waits for it any more.
    pub fn remove(&mut self, id: u64) -> Option<Attempt> {
        let attempt = self.by_id.remove(id)?;
        self.by_link.remove(&(attempt.link, id));
        self.unwritten.remove(&(attempt.link, id));
        Some(attempt)
    }

    /// Nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The frames on a link, in the order they were sealed.
    #[must_use]
    pub fn on_link(&self, link: LinkId) -> Vec<u64> {
        self.by_link.range((link, 0)..=(link, u64::MAX)).map(|(_, id)| *id).collect()
    }

    /// The frames on a link that were not written yet.
    #[must_use]
    pub fn unwritten_on(&self, link: LinkId) -> Vec<u64> {
        self.unwritten.range((link, 0)..=(link, u64::MAX)).map(|(_, id)| *id).collect()
    }

    /// The frames that took a way.
    #[must_use]
    pub fn by_way(&self, way: Way) -> Vec<u64> {
        self.by_id.iter().filter(|(_, attempt)| attempt.way == way).map(|(id, _)| id).collect()
    }

    /// One message inside waits no more. True when it was the last, and the frame was written: remove it, and its timer.
    pub fn landed(&mut self, id: u64) -> bool {
        let Some(attempt) = self.by_id.get_mut(id) else { return false };
        attempt.flying = attempt.flying.saturating_sub(1);
        attempt.flying == 0 && attempt.written_at.is_some()
    }
}
