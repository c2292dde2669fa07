//! Snapshots that a program writes itself, between two calls, while operations go on.
//!
//! The file is one like all others, and unfinished until the second call: a crash between the two leaves what was there before.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::applied::SnapshotHead;
use super::error::MarkerError;
use super::tasks::blocking;
use crate::storage::{Disk, EntryId, Log, Snapshots, StorageError, Unfinished};

/// Where a snapshot stands in the log, and the place for its bytes: those that [`restore`](super::StateMachine::restore)
/// takes, of the state right after [`last`](Self::last) was applied, written by [`Write`] on a thread that may wait for a disk.
///
/// Dropped, or left by a crash, it is worth nothing, and nothing is lost: the log has what would have been in it.
pub struct Marker {
    /// Of this one and no other, in no other process either.
    number: u64,
    last: EntryId,
    bytes: u64,
    /// A write failed, and why: what is there is no snapshot.
    failed: Option<String>,
    /// Of a replica that may be gone.
    draft: Weak<dyn Draft>,
    _turn: OwnedSemaphorePermit,
}

impl Marker {
    /// The last entry that was applied.
    #[must_use]
    pub fn last(&self) -> EntryId {
        self.last
    }

    /// How much was written, B.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl fmt::Debug for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Marker").field("last", &self.last).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Write for Marker {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(why) = &self.failed {
            return Err(io::Error::other(why.clone()));
        }
        let draft = self.draft.upgrade().ok_or_else(|| io::Error::other("its replica is gone"))?;
        draft.write(self.number, bytes).inspect_err(|error| self.failed = Some(error.to_string()))?;
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // All of it goes to the disk at the end.
        Ok(())
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        if let Some(draft) = self.draft.upgrade() {
            draft.give_up(self.number);
        }
    }
}

/// What a marker writes to, whatever disk that is on.
trait Draft: Send + Sync {
    /// All of it.
    fn write(&self, number: u64, bytes: &[u8]) -> io::Result<()>;

    /// Nothing becomes of it, if it is not finished.
    fn give_up(&self, number: u64);
}

/// The markers of a replica, one at a time.
pub(super) struct Markers<D: Disk> {
    log: Arc<Log<D>>,
    turn: Arc<Semaphore>,
    shared: Arc<Shared<D>>,
}

struct Shared<D: Disk> {
    snapshots: Arc<Snapshots<D>>,
    draft: Mutex<Option<(u64, Unfinished<D>)>>,
}

impl<D: Disk> Shared<D> {
    fn draft(&self) -> MutexGuard<'_, Option<(u64, Unfinished<D>)>> {
        self.draft.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, number: u64) -> Option<Unfinished<D>> {
        self.draft().take_if(|(of, _)| *of == number).map(|(_, unfinished)| unfinished)
    }
}

impl<D: Disk> Draft for Shared<D> {
    fn write(&self, number: u64, bytes: &[u8]) -> io::Result<()> {
        match &mut *self.draft() {
            Some((of, unfinished)) if *of == number => unfinished.write_all(bytes),
            _ => Err(io::Error::other("its marker is ended")),
        }
    }

    fn give_up(&self, number: u64) {
        if let Some(unfinished) = self.take(number) {
            unfinished.discard();
        }
    }
}

impl<D: Disk> Markers<D> {
    pub(super) fn new(log: Arc<Log<D>>, snapshots: Arc<Snapshots<D>>) -> Self {
        let shared = Arc::new(Shared { snapshots, draft: Mutex::new(None) });
        Self { log, turn: Arc::new(Semaphore::new(1)), shared }
    }

    /// Gives the turn to write one, of what is applied by now or later, if there is none that has as much. Then the log's newest segment
    /// is ended, and not before: what is in it can be deleted once a snapshot has it.
    pub(super) async fn turn(&self, applied: Option<EntryId>) -> Result<OwnedSemaphorePermit, MarkerError> {
        let turn = Arc::clone(&self.turn).try_acquire_owned().map_err(|_| MarkerError::UnderWay)?;
        self.check_newest(applied.ok_or(MarkerError::NotApplied)?)?;
        let (tell, told) = oneshot::channel();
        self.log.rotate(Box::new(move |result| drop(tell.send(result)))).map_err(MarkerError::disk)?;
        told.await.map_err(|_| MarkerError::disk(StorageError::Closed))?.map_err(MarkerError::disk)?;
        Ok(turn)
    }

    /// Begins the file with what goes before the machine's bytes.
    pub(super) async fn begin(
        &self,
        turn: OwnedSemaphorePermit,
        head: SnapshotHead,
    ) -> Result<Marker, MarkerError> {
        let last = head.last;
        self.check_newest(last)?;
        let snapshots = Arc::clone(&self.shared.snapshots);
        let begun = move || {
            let mut unfinished = snapshots.begin()?;
            match unfinished.write_all(&head.encode()) {
                Ok(()) => Ok(unfinished),
                Err(error) => {
                    unfinished.discard();
                    Err(StorageError::io("write to", "a snapshot")(error))
                }
            }
        };
        let unfinished = blocking(begun).await.map_err(MarkerError::stopped)?.map_err(MarkerError::disk)?;
        let number = fastrand::u64(..);
        // Whatever was there, its marker is gone.
        if let Some((_, left)) = self.shared.draft().replace((number, unfinished)) {
            left.discard();
        }
        let draft = Arc::downgrade(&self.shared);
        Ok(Marker { number, last, bytes: 0, failed: None, draft, _turn: turn })
    }

    /// Has what was written durably as the newest snapshot.
    pub(super) async fn finish(&self, marker: &Marker) -> Result<(), MarkerError> {
        let last = marker.last;
        if let Some(why) = &marker.failed {
            return Err(MarkerError::disk(why));
        }
        let unfinished = self.shared.take(marker.number).ok_or(MarkerError::Foreign)?;
        if let Err(newer) = self.check_newest(last) {
            unfinished.discard();
            return Err(newer);
        }
        let finished = blocking(move || unfinished.finish(last)).await;
        finished.map_err(MarkerError::stopped)?.map_err(MarkerError::disk)?;
        match self.shared.snapshots.newest().map(|newest| newest.last()) {
            Some(newest) if newest != last => Err(MarkerError::Newer { index: newest.index }),
            _ => Ok(()),
        }
    }

    fn check_newest(&self, last: EntryId) -> Result<(), MarkerError> {
        match self.shared.snapshots.newest().map(|newest| newest.last().index) {
            Some(index) if index >= last.index => Err(MarkerError::Newer { index }),
            _ => Ok(()),
        }
    }
}
