//! What goes out: all messages of one tick for a datacenter leave as one batch, without a timer.
//!
//! The tasks of the engine and those here share one thread. Whatever wakes the engine wakes all of its tasks, and each puts
//! its message into the queue of its datacenter, before the task that empties the queue has its turn.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use trunkline_mesh::{Batch, Client, Datacenter, Lane, Message, Payload};

use super::super::replica_id::Place;

/// What waits for one datacenter and lane, B. As much again is in the mesh's own budget.
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// And so many messages.
const QUEUE_MESSAGES_MAX: usize = 16_384;

/// Nothing more is taken for this datacenter and lane. The message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too much waits to be sent to that datacenter")]
pub(super) struct QueueFull;

/// Counts what left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Batches given to the mesh.
    pub batches: u64,
    /// Messages in them.
    pub messages: u64,
}

pub(super) struct Outbox {
    client: Client,
    /// The engine's runtime, whoever puts a message in.
    runtime: Handle,
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
    messages: Vec<Message>,
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
    pub(super) fn new(client: Client) -> Self {
        Self { client, runtime: Handle::current(), queues: Mutex::default(), sent: Arc::default() }
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
        payload: Payload,
    ) -> Result<(), QueueFull> {
        let queue = self.queue(&to.datacenter, lane);
        let mut waiting = queue.lock();
        if waiting.bytes + payload.len() > QUEUE_BYTES_MAX || waiting.messages.len() >= QUEUE_MESSAGES_MAX {
            return Err(QueueFull);
        }
        waiting.bytes += payload.len();
        waiting.messages.push(Message::new(to.node.clone(), payload).lane(lane).deadline(patience));
        drop(waiting);
        queue.bell.notify_one();
        Ok(())
    }

    pub(super) fn sent(&self) -> Sent {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, datacenter: &Datacenter, lane: Lane) -> Arc<Queue> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (datacenter.clone(), lane.index());
        let queue = queues.entry(key).or_insert_with(|| {
            let queue = Arc::new(Queue::default());
            let emptied =
                empty(Arc::clone(&queue), datacenter.clone(), self.client.clone(), Arc::clone(&self.sent));
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

async fn empty(queue: Arc<Queue>, datacenter: Datacenter, client: Client, sent: Arc<Mutex<Sent>>) {
    loop {
        queue.bell.notified().await;
        // Who was woken after this task by the same event puts its message in first.
        tokio::task::yield_now().await;
        let mut batch = Batch::to(datacenter.clone());
        {
            let mut waiting = queue.lock();
            batch.extend(std::mem::take(&mut waiting.messages));
            waiting.bytes = 0;
            if waiting.closed && batch.is_empty() {
                return;
            }
        }
        if batch.is_empty() {
            continue;
        }
        let messages = batch.len() as u64;
        // While the budget is used up this waits, and the queue fills. What became of it shows in the answers: a receipt
        // would say no more.
        match client.send(batch).await {
            Ok(_receipt) => {
                let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
                sent.batches += 1;
                sent.messages += messages;
            }
            Err(error) => tracing::debug!(%datacenter, %error, "messages between replicas were not sent"),
        }
    }
}
