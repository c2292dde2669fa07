//! The committed log of a node as text, for all who follow it: rendered once, kept in a ring while anybody follows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use super::chunk::Chunk;
use super::cursor::Limits;
use super::ring::{Found, Ring};
use crate::consensus::key_value::KeyValue;
use crate::consensus::{FollowError, Replica};

/// What is read of the log at once, B, for all or for one that is behind.
pub(super) const READ_BYTES: usize = 32 << 10;
/// Reads of the log at once for those that are behind.
const READS_MAX: usize = 16;
/// Before the log is looked at again where it was cut while it was read.
const PAUSE: Duration = Duration::from_millis(10);

/// Shared by those who follow.
pub(super) struct Feed {
    state: Mutex<State>,
    /// Sent to whenever the state has changed.
    news: watch::Sender<()>,
    places: Arc<Semaphore>,
    places_max: usize,
    /// Somebody has come.
    wanted: Notify,
    /// Held while the log is read for one that is behind.
    pub(super) reads: Semaphore,
    pub(super) limits: Limits,
    let_go: AtomicU64,
}

struct State {
    ring: Ring,
    ended: Option<FollowError>,
}

/// What one that follows finds.
pub(super) enum Look {
    /// Where its index is, and how many bytes wait for it.
    At(Found, usize),
    /// Nothing will come any more.
    Ended(FollowError),
}

impl Feed {
    pub(super) fn new(followers_max: usize, limits: Limits) -> Self {
        Self {
            state: Mutex::new(State { ring: Ring::new(limits.shared_bytes), ended: None }),
            news: watch::Sender::new(()),
            places: Arc::new(Semaphore::new(followers_max)),
            places_max: followers_max,
            wanted: Notify::new(),
            reads: Semaphore::new(READS_MAX),
            limits,
            let_go: AtomicU64::new(0),
        }
    }

    /// A place among those who follow, and the bell that rings for them. `None`: there is none left.
    pub(super) fn join(&self) -> Option<(OwnedSemaphorePermit, watch::Receiver<()>)> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let bell = self.news.subscribe();
        self.wanted.notify_one();
        Some((place, bell))
    }

    pub(super) fn look(&self, index: u64) -> Look {
        let state = self.state();
        match (state.ring.find(index), &state.ended) {
            (Found::Later { .. }, Some(error)) => Look::Ended(error.clone()),
            (found, _) => Look::At(found, state.ring.bytes_from(index)),
        }
    }

    /// How many follow.
    pub(super) fn followers(&self) -> usize {
        self.places_max - self.places.available_permits()
    }

    /// What is in memory for all of them, B.
    pub(super) fn bytes(&self) -> usize {
        self.state().ring.bytes()
    }

    /// How many were let go of for being slow.
    pub(super) fn let_go(&self) -> u64 {
        self.let_go.load(Ordering::Relaxed)
    }

    pub(super) fn count_let_go(&self) {
        self.let_go.fetch_add(1, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A ring that a panic left half changed has a chunk too many or too few at its old end: nothing wrong is read.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.news.send_replace(());
    }

    /// Renders what is committed, as long as anybody follows; for ever.
    pub(super) async fn run(&self, replica: Replica<KeyValue>) {
        loop {
            while self.followers() == 0 {
                self.wanted.notified().await;
            }
            // Older ones are read by whoever wants them.
            let mut next = replica.status().applied.map_or(0, |applied| applied.index + 1);
            self.change(|state| state.ring.restart(next));
            while self.followers() > 0 {
                match replica.follow(next, READ_BYTES).await {
                    Ok(entries) => {
                        let Some(chunk) = Chunk::of(&entries) else { continue };
                        next = chunk.end();
                        self.change(|state| state.ring.push(Arc::new(chunk)));
                    }
                    Err(FollowError::Compacted { first }) => {
                        next = next.max(first);
                        self.change(|state| state.ring.restart(next));
                        tokio::time::sleep(PAUSE).await;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "nobody can follow the log any more");
                        return self.change(|state| state.ended = Some(error));
                    }
                }
            }
            // Nobody is there to be kept waiting: what is there is let go of.
            self.change(|state| state.ring.restart(next));
        }
    }
}
