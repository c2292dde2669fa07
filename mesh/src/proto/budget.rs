//! How many bytes wait for an outcome: per destination, per datacenter, per process. What is charged is what is kept
//! alive: a segment of 64 bytes or more that several messages of one batch share counts once, until the last of them is decided.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use trunkline_codec::Payload;

use crate::message::Message;
use crate::settings::{MESSAGE_OVERHEAD_BYTES, Settings, unreserved};

/// Bytes charged to one datacenter and to the process.
#[derive(Debug)]
pub struct Budget {
    process: usize,
    process_max: usize,
    datacenters: Vec<usize>,
    datacenter_max: usize,
    /// Datacenters for which somebody was told that there is no room in theirs, and none came free there since.
    short: BTreeSet<usize>,
    /// Those for which there was none in the process's, and none came free anywhere since.
    short_of_all: BTreeSet<usize>,
    /// Room came free for whoever was turned away there.
    room: BTreeSet<usize>,
}

/// The segments of one batch and how many undecided messages hold each.
#[derive(Debug)]
pub struct BatchCharge {
    segments: Vec<(usize, u32)>,
    /// The segments that the messages of the batch hold, those of the first one first.
    held: Vec<u32>,
    /// Per message, where its own end.
    ends: Vec<usize>,
    /// Per message, whether it is decided: it holds nothing any more.
    let_go: Vec<bool>,
    /// Segments that were copied out of the buffers they were slices of.
    copies: BTreeMap<u32, Bytes>,
    bytes: usize,
}

/// Segments below this length are copied when their queue stalls; longer ones are charged for what they are.
const DETACH_BELOW_BYTES: usize = 16 * 1024;

/// To see that a segment is shared is worth a look at this length: a shorter one counts for each message that holds it.
pub const SHARED_BYTES_MIN: usize = 64;

impl BatchCharge {
    /// What a batch keeps alive.
    #[must_use]
    pub fn of(messages: &[Message]) -> Self {
        let mut index: BTreeMap<(usize, usize), u32> = BTreeMap::new();
        let mut segments: Vec<(usize, u32)> = Vec::new();
        let (mut held, mut ends) = (Vec::with_capacity(messages.len()), Vec::with_capacity(messages.len()));
        let mut bytes = messages.len() * MESSAGE_OVERHEAD_BYTES;
        let mut latest = None;
        for message in messages {
            for segment in message.payload.segments().iter().filter(|segment| !segment.is_empty()) {
                // Equal address and length is the same buffer: reading it is not needed to know that it is shared.
                let key = (segment.as_ptr().addr(), segment.len());
                let mut add = || {
                    segments.push((segment.len(), 0));
                    bytes = bytes.saturating_add(segment.len());
                    u32::try_from(segments.len() - 1).unwrap_or(u32::MAX)
                };
                // Most often a message shares what it shares with the one in front of it.
                let at = match latest {
                    Some((same, at)) if same == key => at,
                    _ if segment.len() < SHARED_BYTES_MIN => add(),
                    _ => {
                        let at = *index.entry(key).or_insert_with(add);
                        latest = Some((key, at));
                        at
                    }
                };
                if let Some((_, holders)) = usize::try_from(at).ok().and_then(|at| segments.get_mut(at)) {
                    *holders += 1;
                    held.push(at);
                }
            }
            ends.push(held.len());
        }
        let let_go = vec![false; ends.len()];
        Self { segments, held, ends, let_go, copies: BTreeMap::new(), bytes }
    }

    /// Where the segments of message `index` are in the list of those that are held; nowhere once it is decided.
    fn held_by(&self, index: usize) -> std::ops::Range<usize> {
        if self.let_go[index] {
            return 0..0;
        }
        index.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[index]
    }

    /// All of it, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes that nobody would hold any more if these messages of the batch were decided.
    #[must_use]
    pub fn would_free(&self, indices: &BTreeSet<usize>) -> usize {
        let mut holders: BTreeMap<u32, u32> = BTreeMap::new();
        for at in indices.iter().flat_map(|index| &self.held[self.held_by(*index)]) {
            *holders.entry(*at).or_default() += 1;
        }
        let alone = |(at, count): (u32, u32)| {
            let (bytes, all) = usize::try_from(at).ok().and_then(|at| self.segments.get(at))?;
            (*all == count).then_some(*bytes)
        };
        indices.len() * MESSAGE_OVERHEAD_BYTES + holders.into_iter().filter_map(alone).sum::<usize>()
    }

    /// Message `index` of the batch is decided: the bytes that nobody holds any more.
    fn let_go(&mut self, index: usize) -> usize {
        assert!(!self.let_go[index], "one outcome per message");
        let mut freed = MESSAGE_OVERHEAD_BYTES;
        let held = self.held_by(index);
        for at in &self.held[held] {
            let Some((bytes, holders)) = usize::try_from(*at).ok().and_then(|at| self.segments.get_mut(at))
            else {
                continue;
            };
            *holders -= 1;
            if *holders == 0 {
                freed += *bytes;
                self.copies.remove(at);
            }
        }
        self.let_go[index] = true;
        freed
    }

    /// Copies the small segments of message `index` out of the buffers they are slices of. Messages that share a segment
    /// share its copy, whenever each of them comes to it: what is charged once is kept once.
    pub fn detach(&mut self, index: usize, payload: &mut Payload) {
        let small = |segment: &Bytes| segment.len() < DETACH_BELOW_BYTES;
        let segments = || payload.segments().iter().filter(|segment| !segment.is_empty());
        let held = self.held_by(index);
        if held.is_empty() || !segments().any(small) {
            return;
        }
        let held = &self.held[held];
        let copies = &mut self.copies;
        let copied = segments().zip(held).map(|(segment, at)| {
            if !small(segment) {
                return segment.clone();
            }
            copies.entry(*at).or_insert_with(|| Bytes::copy_from_slice(segment)).clone()
        });
        *payload = copied.collect();
    }
}

impl Budget {
    /// Empty.
    #[must_use]
    pub fn new(settings: &Settings, datacenters: usize) -> Self {
        Self {
            process: 0,
            process_max: settings.process_budget_bytes,
            datacenters: vec![0; datacenters],
            datacenter_max: settings.datacenter_budget_bytes,
            short: BTreeSet::new(),
            short_of_all: BTreeSet::new(),
            room: BTreeSet::new(),
        }
    }

    /// Room for one more datacenter: the next index.
    pub fn add_datacenter(&mut self) {
        self.datacenters.push(0);
    }

    /// Other limits from now on. What is charged stays so; below a lower limit nothing new fits until enough is decided.
    pub fn set_limits(&mut self, settings: &Settings) {
        (self.process_max, self.datacenter_max) =
            (settings.process_budget_bytes, settings.datacenter_budget_bytes);
        self.room.append(&mut self.short);
        self.room.append(&mut self.short_of_all);
    }

    /// The most that a batch may be charged, bytes.
    #[must_use]
    pub fn limit(&self, urgent: bool) -> usize {
        if urgent { self.datacenter_max } else { unreserved(self.datacenter_max) }
    }

    /// Charges a batch. False when there is no room now; then nothing was charged. `replaced` bytes are about to be given
    /// back by messages that the batch takes the places of: one that takes no more than that always fits, also where
    /// what is urgent has used the room above its limit.
    #[must_use]
    pub fn charge(&mut self, datacenter: usize, bytes: usize, replaced: usize, urgent: bool) -> bool {
        let there = self.datacenters[datacenter].saturating_add(bytes);
        let all = self.process.saturating_add(bytes);
        let process_max = if urgent { self.process_max } else { unreserved(self.process_max) };
        let fits_there = there - replaced <= self.limit(urgent);
        let fits = fits_there && all - replaced <= process_max;
        if !(fits || bytes <= replaced) {
            let short = if fits_there { &mut self.short_of_all } else { &mut self.short };
            short.insert(datacenter);
            return false;
        }
        (self.datacenters[datacenter], self.process) = (there, all);
        true
    }

    /// A message is decided.
    pub fn release(&mut self, datacenter: usize, charge: &mut BatchCharge, index: usize) {
        let freed = charge.let_go(index);
        self.datacenters[datacenter] -= freed;
        self.process -= freed;
        // What another datacenter gives back is no room for one whose own budget is full.
        if !self.short.is_empty() && self.short.remove(&datacenter) {
            self.room.insert(datacenter);
        }
        if !self.short_of_all.is_empty() {
            self.room.append(&mut self.short_of_all);
        }
    }

    /// More than half of a datacenter's budget is used: its queue is stalled, or as good as.
    #[must_use]
    pub fn is_stalled(&self, datacenter: usize) -> bool {
        self.datacenters[datacenter] > self.datacenter_max / 2
    }

    /// Somebody was told that there is no room, and what this datacenter holds is a part of what keeps it out: no room came free
    /// since.
    #[must_use]
    pub fn is_short(&self, datacenter: usize) -> bool {
        !self.short_of_all.is_empty() || self.short.contains(&datacenter)
    }

    /// Bytes charged to a datacenter.
    #[must_use]
    pub fn queued(&self, datacenter: usize) -> usize {
        self.datacenters[datacenter]
    }

    /// Bytes charged to the process.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn queued_of_all(&self) -> usize {
        self.process
    }

    /// Datacenters for which room came free for somebody who was turned away, each once.
    pub fn take_room(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;

    fn message(segments: Vec<Bytes>) -> Message {
        Message::new(NodeId::new("m").unwrap(), segments.into_iter().collect::<Payload>())
    }

    #[test]
    fn a_small_slice_that_waits_is_copied_once_and_stays_shared() {
        let big = Bytes::from(vec![1; 100_000]);
        let (small, large) = (big.slice(100..200), big.slice(..DETACH_BELOW_BYTES));
        let batch: Vec<Message> =
            (0..2).map(|_| message(vec![small.clone(), Bytes::new(), large.clone()])).collect();
        let mut charge = BatchCharge::of(&batch);
        let mut payloads: Vec<Payload> = batch.iter().map(|message| message.payload.clone()).collect();
        let addresses = |payload: &Payload| -> Vec<*const u8> {
            payload
                .segments()
                .iter()
                .filter(|segment| !segment.is_empty())
                .map(|segment| segment.as_ptr())
                .collect()
        };
        charge.detach(0, &mut payloads[0]);
        charge.detach(1, &mut payloads[1]);
        let first = addresses(&payloads[0]);
        assert_ne!(first[0], small.as_ptr(), "out of the big buffer");
        assert_eq!(first[1], large.as_ptr(), "what is long is charged for what it is");
        assert_eq!(addresses(&payloads[1]), first, "once");
        charge.detach(0, &mut payloads[0]);
        assert_eq!(addresses(&payloads[0]), first, "not again when the queue stalls again");
        assert_eq!(payloads[0].to_vec(), batch[0].payload.to_vec());
        charge.let_go(0);
        assert_eq!(charge.copies.len(), 1);
        charge.let_go(1);
        assert!(charge.copies.is_empty());
    }

    #[test]
    fn a_shared_segment_is_charged_once_and_freed_by_its_last_holder() {
        let shared = Bytes::from(vec![1; 1000]);
        let batch: Vec<Message> =
            (0..3).map(|i| message(vec![Bytes::from(vec![i; 10]), shared.clone(), Bytes::new()])).collect();
        let mut charge = BatchCharge::of(&batch);
        assert_eq!(charge.bytes(), 1000 + 3 * (10 + MESSAGE_OVERHEAD_BYTES));
        let settings = Settings { datacenter_budget_bytes: 2048, ..Settings::default() };
        let mut budget = Budget::new(&settings, 1);
        assert!(budget.charge(0, charge.bytes(), 0, false));
        assert!(!budget.charge(0, charge.bytes(), 0, false));
        assert!(
            !budget.charge(0, 200, 0, false) && budget.charge(0, 200, 0, true),
            "the rest is for heartbeats"
        );
        let (two, three) = (BTreeSet::from([0, 1]), BTreeSet::from([0, 1, 2]));
        assert_eq!(
            charge.would_free(&two),
            2 * (10 + MESSAGE_OVERHEAD_BYTES),
            "the third holds what they share"
        );
        assert_eq!(charge.would_free(&three), charge.bytes());
        assert!(budget.take_room().is_empty());
        budget.release(0, &mut charge, 1);
        assert_eq!(budget.take_room(), BTreeSet::from([0]), "somebody waits");
        budget.release(0, &mut charge, 0);
        assert_eq!(budget.queued(0), 200 + 1000 + 10 + MESSAGE_OVERHEAD_BYTES);
        budget.release(0, &mut charge, 2);
        assert_eq!(budget.queued(0), 200);
        assert!(budget.take_room().is_empty(), "nobody waits");
    }

    #[test]
    fn what_one_datacenter_gives_back_is_room_for_another_only_where_the_process_was_short() {
        let settings =
            Settings { datacenter_budget_bytes: 16_000, process_budget_bytes: 40_000, ..Settings::default() };
        let mut budget = Budget::new(&settings, 3);
        let mut charges: Vec<BatchCharge> =
            (0..3).map(|_| BatchCharge::of(&[message(vec![Bytes::from(vec![1; 14_000])])])).collect();
        for (datacenter, charge) in charges.iter().enumerate().take(2) {
            assert!(budget.charge(datacenter, charge.bytes(), 0, false));
        }
        assert!(!budget.charge(0, 9_000, 0, false), "its own is full");
        budget.release(1, &mut charges[1], 0);
        assert!(budget.take_room().is_empty(), "which another one does not change");
        assert!(budget.is_short(0) && !budget.is_short(1));
        assert!(
            budget.charge(1, 14_256, 0, false) && !budget.charge(2, 14_256, 0, false),
            "the process's is"
        );
        assert!(budget.is_short(1), "by what all hold");
        budget.release(0, &mut charges[0], 0);
        assert_eq!(budget.take_room(), BTreeSet::from([0, 2]));
        assert!((0..3).all(|datacenter| !budget.is_short(datacenter)));
    }

    #[test]
    fn all_datacenters_together_have_the_process_budget() {
        let settings =
            Settings { datacenter_budget_bytes: 16_000, process_budget_bytes: 20_000, ..Settings::default() };
        let mut budget = Budget::new(&settings, 2);
        assert!(budget.charge(0, 15_000, 0, false));
        assert!(!budget.charge(1, 5_000, 0, false), "a part is kept for what is urgent");
        assert!(budget.charge(1, 5_000, 3_000, false), "what is replaced is given back");
        assert!(!budget.charge(1, 1, 0, true), "and then there is none for anybody");
    }
}
