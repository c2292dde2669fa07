//! The application above the mesh: a leader that sends numbered messages, and members that read the numbers.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use trunkline_codec::Payload;

use crate::id::{Datacenter, Lane, NodeId};
use crate::message::{Batch, Message};
use crate::topology::Topology;

/// The leader's side: draws batches.
pub(super) struct App {
    rng: fastrand::Rng,
    next_id: u64,
    two_slots: bool,
}

/// Most bytes that the messages of a batch share.
const SHARED_BYTES_MAX: usize = 40_000;

/// Most bytes of a message.
pub(super) const MESSAGE_BYTES_MAX: usize = SHARED_BYTES_MAX + 16;

/// Bytes of a message with this number: the number, then bytes that follow from it. Entries that messages of one batch
/// share are the same buffer.
fn body(id: u64, shared: &Bytes) -> Payload {
    let mut head = id.to_le_bytes().to_vec();
    head.extend_from_slice(&shared_key(shared).to_le_bytes());
    [Bytes::from(head), shared.clone()].into_iter().collect()
}

fn shared_key(shared: &Bytes) -> u64 {
    u64::try_from(shared.len()).unwrap_or(0)
}

/// Bytes that follow from their number. Cut from one buffer: a run compares hundreds of megabytes of them.
fn shared_bytes(length: usize) -> &'static [u8] {
    const PERIOD: usize = 251;
    static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
        (0..PERIOD + SHARED_BYTES_MAX).map(|at| u8::try_from(at * 31 % PERIOD).unwrap_or(0)).collect()
    });
    let from = length % PERIOD;
    &PATTERN[from..from + length]
}

/// How many bytes of a payload others may share.
pub(super) fn shared_len(payload: &Payload) -> usize {
    payload.len().saturating_sub(16)
}

/// The number inside a payload, and whether the rest is what was sent.
pub(super) fn read_body(payload: &Payload) -> (u64, bool) {
    let bytes = payload.to_vec();
    let word =
        |at: usize| bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map(u64::from_le_bytes);
    let (Some(id), Some(length)) = (word(0), word(8)) else { return (0, false) };
    let intact = usize::try_from(length)
        .is_ok_and(|length| length <= SHARED_BYTES_MAX && bytes[16..] == *shared_bytes(length));
    (id, intact)
}

/// A batch and what the checker must know of it.
pub(super) struct Drawn {
    pub(super) batch: Batch,
    /// What every message of it holds until the last of them is decided, bytes.
    pub(super) shared_bytes: usize,
    pub(super) messages: Vec<DrawnMessage>,
}

/// One message of a drawn batch.
pub(super) struct DrawnMessage {
    pub(super) id: u64,
    pub(super) destination: NodeId,
    pub(super) deadline: Duration,
    pub(super) lane: Lane,
    pub(super) kind: u8,
    /// A newer one of it may take its place.
    pub(super) slot: Option<u32>,
    pub(super) bytes: usize,
    /// Whatever goes wrong at present leaves a way and the time for it.
    pub(super) must_arrive: bool,
}

/// What the leader sends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// Anything, with slots and short deadlines.
    Rough,
    /// Patient messages of any size.
    Easy,
    /// Small messages, most of them with this deadline; between them some that expire soon and leave gaps.
    Mixed(Duration),
}

impl App {
    pub(super) fn new(seed: u64, two_slots: bool) -> Self {
        Self { rng: fastrand::Rng::with_seed(seed), next_id: 1, two_slots }
    }

    /// A batch for one datacenter: most members, mostly shared bytes; `again`: as many as came from there before, which are the
    /// same ones then.
    pub(super) fn draw(
        &mut self,
        topology: &Topology,
        datacenter: &Datacenter,
        me: &NodeId,
        mood: Mood,
        again: Option<usize>,
    ) -> Drawn {
        let large = self.rng.u8(..) < 20 && !matches!(mood, Mood::Mixed(_));
        let longest = if large { SHARED_BYTES_MAX } else { 1500 };
        let length = self.rng.usize(0..longest);
        let shared = Bytes::copy_from_slice(shared_bytes(again.unwrap_or(length)));
        let lane = if self.rng.u8(..) < 60 { Lane::Control } else { Lane::Bulk };
        let (batch, shared_bytes) = (Batch::to(datacenter.clone()), shared.len());
        let mut drawn = Drawn { batch, shared_bytes, messages: Vec::new() };
        for member in topology.members_of(datacenter).filter(|member| member.id != *me) {
            if self.rng.u8(..) < 25 {
                continue;
            }
            let id = self.next_id;
            self.next_id += 1;
            let soon = self.rng.u8(..) < 80;
            let (deadline, must_arrive) = match mood {
                Mood::Rough => (Duration::from_millis(self.rng.u64(100..6000)), false),
                Mood::Easy => (Duration::from_secs(20), true),
                Mood::Mixed(_) if soon => (Duration::from_millis(self.rng.u64(1..400)), false),
                Mood::Mixed(patience) => (patience, true),
            };
            let mut message =
                Message::new(member.id.clone(), body(id, &shared)).lane(lane).deadline(deadline);
            let slotted = mood == Mood::Rough && self.rng.u8(..) < 30;
            let slot = slotted.then(|| self.slot_of(id));
            if let Some(slot) = slot {
                message = message.slot(slot);
            }
            let (bytes, kind) = (message.len(), self.rng.u8(..));
            drawn.batch.push(message.kind(kind));
            let destination = member.id.clone();
            drawn.messages.push(DrawnMessage {
                id,
                destination,
                deadline,
                lane,
                kind,
                slot,
                bytes,
                must_arrive,
            });
        }
        drawn
    }

    /// One message to whoever asked, small unless it may be `long`: patient if it must arrive.
    pub(super) fn draw_answer(
        &mut self,
        to: &NodeId,
        datacenter: &Datacenter,
        lane: Lane,
        patience: Option<Duration>,
        long: bool,
    ) -> Drawn {
        const ANSWER_BYTES_MAX: usize = 200;
        let longest = if long && self.rng.bool() { SHARED_BYTES_MAX } else { ANSWER_BYTES_MAX };
        let shared = Bytes::copy_from_slice(shared_bytes(self.rng.usize(0..longest)));
        let id = self.next_id;
        self.next_id += 1;
        let rough = Duration::from_millis(self.rng.u64(100..6000));
        let (deadline, must_arrive) = (patience.unwrap_or(rough), patience.is_some());
        let message = Message::new(to.clone(), body(id, &shared)).lane(lane).deadline(deadline);
        let slotted = patience.is_none() && self.rng.u8(..) < 30;
        let slot = slotted.then(|| self.slot_of(id));
        let message = if let Some(slot) = slot { message.slot(slot) } else { message };
        let (bytes, destination, kind) = (message.len(), to.clone(), self.rng.u8(..));
        let mut drawn =
            Drawn { batch: Batch::to(datacenter.clone()), shared_bytes: shared.len(), messages: Vec::new() };
        drawn.batch.push(message.kind(kind));
        drawn.messages.push(DrawnMessage { id, destination, deadline, lane, kind, slot, bytes, must_arrive });
        drawn
    }

    /// Of a message with a slot.
    fn slot_of(&self, id: u64) -> u32 {
        if self.two_slots && id.is_multiple_of(2) { 2 } else { 1 }
    }

    pub(super) fn pause(&mut self) -> Duration {
        Duration::from_micros(self.rng.u64(500..30_000))
    }
}
