//! What goes out: all messages of one tick for a datacenter leave as one batch, without a timer.
//!
//! The tasks of the engine and those here share one thread. Whatever wakes the engine wakes all of its tasks, and each puts
//! its message into the queue of its datacenter, before the task that empties the queue has its turn.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use trunkline_mesh::{Datacenter, Lane, Payload};

use super::super::carrier::{Carrier, Outgoing, TurnedDown};
use super::super::replica_id::Place;
use super::super::tasks::Spawner;

/// What waits for one datacenter and lane, B: a batch of all of it is below what the mesh takes for one datacenter.
const QUEUE_BYTES_MAX: usize = 8 << 20;
/// What the mesh counts for a message beside its payload, B.
const MESSAGE_BYTES: usize = 256;
/// And so many messages.
const QUEUE_MESSAGES_MAX: usize = 16_384;

/// Nothing more is taken for this datacenter and lane. The message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too much waits to be sent to that datacenter")]
pub(super) struct QueueFull;

/// What left, on both lanes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Heartbeats, votes, and what is asked before a read.
    pub control: Counted,
    /// Entries, answers to them, proposals and snapshots.
    pub bulk: Counted,
    /// Entries, by the datacenter that they left for: one that is for several replicas there counts once for each batch that
    /// has it. Divided by the entries that were appended meanwhile, it is how often an entry crosses: 1, and more where it was
    /// sent again.
    pub entries: BTreeMap<Datacenter, u64>,
    /// Of snapshots for other replicas.
    pub snapshots: SnapshotBytes,
}

/// What left of snapshots, B.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotBytes {
    /// By this replica as the leader.
    pub own: u64,
    /// To a replica of its datacenter, for the leader, which is elsewhere.
    pub lent: u64,
}

/// What left on one lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Batches given to the mesh.
    pub batches: u64,
    /// Messages in them.
    pub messages: u64,
}

pub(super) struct Outbox {
    carrier: Arc<dyn Carrier>,
    /// The engine's runtime, whoever puts a message in.
    runtime: Spawner,
    queues: Mutex<BTreeMap<(Datacenter, usize), Arc<Queue>>>,
    sent: Arc<Mutex<Sent>>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    bell: Notify,
}

#[derive(Default)]
struct Waiting {
    messages: Vec<Outgoing>,
    /// The indexes of the entries in them.
    entries: Vec<Range<u64>>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox {
    /// # Panics
    ///
    /// Outside the engine's runtime.
    pub(super) fn new(carrier: Arc<dyn Carrier>) -> Self {
        Self { carrier, runtime: Spawner::current(), queues: Mutex::default(), sent: Arc::default() }
    }

    /// Takes a message. It is given up after `patience`: whoever waits for an answer does not wait longer.
    ///
    /// # Errors
    ///
    /// [`QueueFull`]: the message is dropped.
    pub(super) fn push(
        &self,
        to: &Place,
        lane: Lane,
        patience: Duration,
        (payload, entries): (Payload, Range<u64>),
        turned_down: Option<TurnedDown>,
    ) -> Result<(), QueueFull> {
        let queue = self.queue(&to.datacenter, lane);
        let mut waiting = queue.lock();
        let bytes = payload.len() + MESSAGE_BYTES;
        if waiting.bytes + bytes > QUEUE_BYTES_MAX || waiting.messages.len() >= QUEUE_MESSAGES_MAX {
            return Err(QueueFull);
        }
        waiting.bytes += bytes;
        waiting.entries.extend((!entries.is_empty()).then_some(entries));
        waiting.messages.push(Outgoing { to: to.node.clone(), payload, patience, turned_down });
        drop(waiting);
        queue.bell.notify_one();
        Ok(())
    }

    pub(super) fn carrier(&self) -> &dyn Carrier {
        &*self.carrier
    }

    pub(super) fn sent(&self) -> Sent {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn count_snapshot(&self, lent: bool, bytes: u64) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let count = if lent { &mut sent.snapshots.lent } else { &mut sent.snapshots.own };
        *count += bytes;
    }

    fn queue(&self, datacenter: &Datacenter, lane: Lane) -> Arc<Queue> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (datacenter.clone(), lane.index());
        let queue = queues.entry(key).or_insert_with(|| {
            let queue = Arc::new(Queue::default());
            let emptied = empty(
                Arc::clone(&queue),
                (datacenter.clone(), lane),
                Arc::clone(&self.carrier),
                Arc::clone(&self.sent),
            );
            self.runtime.spawn(emptied);
            queue
        });
        Arc::clone(queue)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        for queue in self.queues.get_mut().unwrap_or_else(PoisonError::into_inner).values() {
            queue.lock().closed = true;
            queue.bell.notify_one();
        }
    }
}

async fn empty(
    queue: Arc<Queue>,
    (datacenter, lane): (Datacenter, Lane),
    carrier: Arc<dyn Carrier>,
    sent: Arc<Mutex<Sent>>,
) {
    loop {
        queue.bell.notified().await;
        // Who was woken after this task by the same event puts its message in first.
        tokio::task::yield_now().await;
        let (batch, entries, closed);
        {
            let mut waiting = queue.lock();
            batch = std::mem::take(&mut waiting.messages);
            waiting.bytes = 0;
            entries = distinct(std::mem::take(&mut waiting.entries));
            closed = waiting.closed;
        }
        if batch.is_empty() {
            if closed {
                return;
            }
            continue;
        }
        let messages = batch.len() as u64;
        // While the budget is used up this waits, and the queue fills.
        match carrier.send(&datacenter, lane, batch).await {
            Ok(()) => {
                let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
                let counted = match lane {
                    Lane::Control => &mut sent.control,
                    Lane::Bulk => &mut sent.bulk,
                };
                counted.batches += 1;
                counted.messages += messages;
                if entries > 0 {
                    *sent.entries.entry(datacenter.clone()).or_default() += entries;
                }
            }
            Err(error) => tracing::warn!(%datacenter, %error, "messages between replicas were not sent"),
        }
        // Nobody puts anything in, or rings, any longer.
        if closed {
            return;
        }
    }
}

/// How many indexes are in these ranges, each counted once.
fn distinct(mut ranges: Vec<Range<u64>>) -> u64 {
    ranges.sort_unstable_by_key(|range| range.start);
    let (mut count, mut counted) = (0, 0);
    for range in ranges {
        count += range.end.saturating_sub(range.start.max(counted));
        counted = counted.max(range.end);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "it is one range that is meant")]
    fn an_index_counts_once() {
        assert_eq!(distinct(vec![]), 0);
        assert_eq!(distinct(vec![3..5, 3..5, 3..5]), 2);
        assert_eq!(distinct(vec![4..9, 0..2, 1..3, 8..10]), 9);
        assert_eq!(distinct(vec![0..4]), 4);
    }
}
