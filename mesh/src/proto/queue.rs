//! What waits at a proxy for one member, or for one origin elsewhere, and how much of it may.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use trunkline_codec::Payload;

use super::links::LinkId;
use super::time::Micros;
use super::window::Upstream;
use super::wire::{Flow, Run};
use crate::id::{Incarnation, Lane};
use crate::settings::{MESSAGE_OVERHEAD_BYTES, Settings};

/// A run that waits.
pub(super) struct Entry {
    /// Where it came from.
    pub(super) upstream: Upstream,
    pub(super) flow: Arc<Flow>,
    pub(super) run: Run,
    pub(super) payload: Payload,
    pub(super) expires_at: Micros,
    pub(super) received_at: Micros,
    pub(super) charge: usize,
}

/// What was passed on for one flow, and what is known of it.
pub(super) struct Forward {
    pub(super) upstream: Upstream,
    /// Highest seq queued or sent.
    pub(super) last: u64,
    /// Lowest seq of a message sealed for the member's connection.
    pub(super) first: u64,
    /// Highest one.
    pub(super) sent: u64,
    /// Highest seq that the member said anything of.
    pub(super) answered: u64,
    /// Runs in the queue.
    pub(super) queued: usize,
    pub(super) decided: u64,
    pub(super) incarnation: Incarnation,
    /// What waits here, as it is charged.
    pub(super) queued_bytes: usize,
    /// Some of it is unanswered.
    pub(super) open: bool,
}

/// What waits for one member, or for one origin elsewhere.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) link: Option<LinkId>,
    pub(super) lanes: [VecDeque<Entry>; 2],
    pub(super) bytes: [usize; 2],
    pub(super) forwards: BTreeMap<(Lane, Arc<Flow>), Forward>,
}

/// Members that may each fill their part of the queue to an origin elsewhere before it is full.
pub const BACK_PARTS: usize = 8;

/// What one member may have in the queue to an origin elsewhere. It goes by this as well, so that it is not refused.
#[must_use]
pub fn back_part(settings: &Settings) -> usize {
    (settings.member_queue_bytes_max / BACK_PARTS).max(2 * settings.run_bytes_max)
}

/// What a run is charged in a queue.
#[must_use]
pub fn run_charge(payload_bytes: usize) -> usize {
    payload_bytes + MESSAGE_OVERHEAD_BYTES
}

/// What one origin leaves free of a member's queue: one in so many bytes of what others have not filled. Then whoever
/// comes finds room, and as long as all of them have more than fits, all have as much there.
const ORIGIN_LEAVES: usize = 8;

impl Queue {
    /// Payload bytes of the run that is next on a lane.
    pub(super) fn next_bytes(&self, lane: Lane) -> Option<usize> {
        self.lanes[lane.index()].front().map(|entry| entry.payload.len())
    }

    /// There is no room for so much more on a lane. One run always fits.
    pub(super) fn is_full(&self, lane: Lane, charge: usize, settings: &Settings) -> bool {
        let index = lane.index();
        !self.lanes[index].is_empty() && self.bytes[index] + charge > settings.member_queue_bytes_max
    }

    /// So much more is beyond what all queues of a proxy may have together. Those that are full must not keep the
    /// others out: each lane may have an equal part of it in any case, one run always fits, and so does the first of a
    /// flow, whoever filled the rest.
    pub(super) fn is_beyond(&self, lane: Lane, flow_bytes: usize, charge: usize, all: &Total) -> bool {
        let index = lane.index();
        let first = flow_bytes == 0 || self.lanes[index].is_empty();
        !first && all.bytes + charge > all.max && self.bytes[index] + charge > all.part()
    }

    /// What there is room for on a lane beside what others than one flow have there, which has so much here itself.
    pub(super) fn room_beside(
        &self,
        lane: Lane,
        flow_bytes: usize,
        all: &Total,
        settings: &Settings,
    ) -> usize {
        let others = self.bytes[lane.index()].saturating_sub(flow_bytes);
        let left = all.max.saturating_sub(all.bytes.saturating_sub(flow_bytes));
        let left = left.max(all.part().saturating_sub(others));
        part_of_queue(settings.member_queue_bytes_max, others).min(left)
    }
}

/// All queues of a proxy.
pub(super) struct Total {
    pub(super) queues: usize,
    pub(super) bytes: usize,
    /// What they may have together.
    pub(super) max: usize,
}

impl Total {
    /// Of each lane of each queue.
    fn part(&self) -> usize {
        self.max / (self.queues * Lane::ALL.len()).max(1)
    }
}

/// What one origin may have in the queue of a member in which others have so much.
pub(super) fn part_of_queue(max: usize, others: usize) -> usize {
    let left = max.saturating_sub(others);
    left - left / ORIGIN_LEAVES
}
