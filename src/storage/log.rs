//! The log as the rest of the program holds it: calls that return at once, and answers that come when the disk has it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;

use super::catalog::{Catalog, Extent};
use super::disk::{Disk, DiskFile};
use super::entry::{Entry, EntryId, INDEX_MAX};
use super::error::StorageError;
use super::record::{HEAD_BYTES, Head, record_bytes};
use super::recovery::Recovered;
use super::segment::Identity;
use super::segments::Segments;
use super::slot::SLOT_BYTES_MAX;
use super::writer::Writer;

/// Called once, by the thread that writes: when what it is about is durable, or will not be.
pub type Done = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

/// Calls that may wait for the writer; more is [`StorageError::Full`].
const CALLS_MAX: usize = 65_536;

/// Limits of a log.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A segment that would be longer is ended, B. At least 4 KiB, at most 1 GiB; 64 MiB by default. What can be deleted is
    /// a whole segment.
    pub segment_bytes_max: u32,
    /// The longest payload of an entry, B; at most 1 GiB; 16 MiB by default.
    pub entry_bytes_max: usize,
    /// What may wait to be durable, B; more is [`StorageError::Full`]. 64 MiB by default. Where nothing waits, one call is always taken.
    pub pending_bytes_max: usize,
    /// How much of the newest entries is kept in memory, B; 32 MiB by default. What is not written yet is kept beyond it.
    pub recent_bytes_max: usize,
    /// For the random part of checksums; anything that differs from start to start.
    pub seed: u64,
}

impl Options {
    /// The defaults, with this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            segment_bytes_max: 64 << 20,
            entry_bytes_max: 16 << 20,
            pending_bytes_max: 64 << 20,
            recent_bytes_max: 32 << 20,
            seed,
        }
    }
}

/// One thing for the writer to do.
pub(super) struct Command {
    pub(super) task: Task,
    pub(super) done: Done,
}

pub(super) enum Task {
    Append { entries: Vec<Entry>, bytes: usize, epoch: u64, committed: u64 },
    TruncateAfter(Option<EntryId>),
    Purge(EntryId),
    Rotate,
    SaveVote(Bytes),
    Trust,
}

/// What callers and the writer share.
pub(super) struct Shared<F> {
    pub(super) state: Mutex<State>,
    /// Rings when there is something to do.
    bell: Condvar,
    catalog: Arc<Mutex<Catalog<F>>>,
}

pub(super) struct State {
    pub(super) queue: VecDeque<Command>,
    /// Of entries that are queued or written and not durable.
    pub(super) pending_bytes: usize,
    /// The newest entries, at least all that are not written.
    recent: VecDeque<Entry>,
    recent_bytes: usize,
    recent_bytes_max: usize,
    /// The first index that is not written.
    pub(super) written: u64,
    /// Counts truncations: what was appended before one says nothing about what is written after it.
    pub(super) epoch: u64,
    purged: Option<EntryId>,
    last: Option<EntryId>,
    committed: u64,
    pub(super) broken: Option<StorageError>,
    closed: bool,
    /// Of a writer that is a task of a simulation.
    #[cfg(test)]
    pub(super) waker: Option<std::task::Waker>,
}

/// A log that is open. Dropping it waits until all that was queued is done.
pub struct Log<D: Disk> {
    shared: Arc<Shared<D::File>>,
    options: Options,
    thread: Option<JoinHandle<()>>,
}

/// What a log has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Everything up to this entry is gone.
    pub purged: Option<EntryId>,
    /// The last entry; if there is none, the one up to which all are gone.
    pub last: Option<EntryId>,
}

impl Bounds {
    /// The indexes of the entries that are there.
    #[must_use]
    pub fn indexes(&self) -> Range<u64> {
        let after = |id: Option<EntryId>| id.map_or(0, |id| id.index + 1);
        after(self.purged)..after(self.last)
    }
}

impl<D: Disk> Log<D> {
    /// Opens what a directory holds, or begins there, with a thread that writes.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] and [`StorageError::Foreign`] where it is not this node's log as it was written, and what
    /// the disk says.
    ///
    /// # Panics
    ///
    /// With options outside their ranges.
    pub fn open(disk: D, identity: Identity, options: Options) -> Result<(Self, Recovered), StorageError> {
        let (mut log, writer, found) = Self::open_idle(disk, identity, options)?;
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.run())
            .map_err(StorageError::io("start a thread for", "the log"))?;
        log.thread = Some(thread);
        Ok((log, found))
    }

    /// The same without a thread: whoever calls [`Writer::step`] is the thread.
    pub(crate) fn open_idle(
        disk: D,
        identity: Identity,
        options: Options,
    ) -> Result<(Self, Writer<D>, Recovered), StorageError> {
        assert!(
            (4 << 10..=1 << 30).contains(&options.segment_bytes_max),
            "segment_bytes_max is out of range"
        );
        assert!(options.entry_bytes_max <= 1 << 30, "entry_bytes_max is out of range");
        assert!(identity.cluster.len().max(identity.node.len()) <= 255, "names have at most 255 bytes");
        let salts = fastrand::Rng::with_seed(options.seed);
        let (segments, found) = Segments::open(disk, identity, options.segment_bytes_max, salts)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                pending_bytes: 0,
                recent: VecDeque::new(),
                recent_bytes: 0,
                recent_bytes_max: options.recent_bytes_max,
                written: segments.next,
                epoch: 0,
                purged: found.purged,
                last: found.last,
                committed: found.committed,
                broken: None,
                closed: false,
                #[cfg(test)]
                waker: None,
            }),
            bell: Condvar::new(),
            catalog: Arc::clone(&segments.catalog),
        });
        let log = Self { shared: Arc::clone(&shared), options, thread: None };
        Ok((log, Writer { segments, shared }, found))
    }

    /// Appends entries. They can be read when this returns, and are durable when `done` says so.
    ///
    /// # Errors
    ///
    /// [`StorageError::Full`], [`StorageError::TooLarge`], and what broke the log earlier. Nothing was appended, and `done` is
    /// dropped.
    ///
    /// # Panics
    ///
    /// When an index does not follow the one before, or a term is below it: the caller's mistake would be durable.
    pub fn append(&self, entries: Vec<Entry>, done: Done) -> Result<(), StorageError> {
        let longest = entries.iter().map(|entry| entry.payload.len()).max().unwrap_or(0);
        if longest > self.options.entry_bytes_max {
            return Err(StorageError::TooLarge { bytes: longest, bytes_max: self.options.entry_bytes_max });
        }
        let bytes = entries.iter().map(|entry| record_bytes(entry.payload.len())).sum();
        let mut state = self.shared.usable()?;
        // Whoever waits for room gets it when all is durable, however much it is: else it would wait for ever.
        let alone = state.pending_bytes == 0;
        if !alone && state.pending_bytes.saturating_add(bytes) > self.options.pending_bytes_max {
            return Err(state.full());
        }
        for entry in &entries {
            let next = state.last.map_or(0, |last| last.index + 1);
            assert_eq!(entry.id.index, next, "entries follow each other");
            assert!(state.last.is_none_or(|last| last.term <= entry.id.term), "terms do not go back");
            state.last = Some(entry.id);
        }
        state.pending_bytes += bytes;
        state.recent_bytes += bytes;
        state.recent.extend(entries.iter().cloned());
        let (epoch, committed) = (state.epoch, state.committed);
        self.shared.put(state, Task::Append { entries, bytes, epoch, committed }, done);
        Ok(())
    }

    /// Takes out every entry after this one, or every entry that is not purged. They cannot be read when this returns, and
    /// are durably gone when `done` says so. Others may be appended in their place at once.
    ///
    /// # Errors
    ///
    /// [`StorageError::Full`], and what broke the log earlier.
    pub fn truncate_after(&self, last: Option<EntryId>, done: Done) -> Result<(), StorageError> {
        let mut state = self.shared.usable()?;
        let after = |id: Option<EntryId>| id.map_or(0, |id| id.index + 1);
        let last = if after(last) < after(state.purged) { state.purged } else { last };
        let next = after(last);
        if next < after(state.last) {
            state.last = last;
            state.epoch += 1;
            state.written = state.written.min(next);
            while state.recent.back().is_some_and(|entry| entry.id.index >= next) {
                state
                    .recent
                    .pop_back()
                    .inspect(|entry| state.recent_bytes -= record_bytes(entry.payload.len()));
            }
        }
        self.shared.put(state, Task::TruncateAfter(last), done);
        Ok(())
    }

    /// Lets go of every entry up to this one, which may lie beyond the last: then the log goes on behind it. They cannot be
    /// read when this returns; segments that hold nothing else are deleted when `done` is called. Entries behind it stay: if
    /// they do not follow from it, cut them off first.
    ///
    /// # Errors
    ///
    /// [`StorageError::IndexTooHigh`], [`StorageError::Full`], and what broke the log earlier.
    pub fn purge(&self, up_to: EntryId, done: Done) -> Result<(), StorageError> {
        if up_to.index > INDEX_MAX {
            return Err(StorageError::IndexTooHigh { index: up_to.index });
        }
        let mut state = self.shared.usable()?;
        if state.purged.is_none_or(|purged| purged.index < up_to.index) {
            state.purged = Some(up_to);
        }
        if state.last.is_none_or(|last| last.index <= up_to.index) {
            state.last = Some(up_to);
            state.epoch += 1;
            state.written = up_to.index + 1;
        }
        while state.recent.front().is_some_and(|entry| entry.id.index <= up_to.index) {
            state.recent.pop_front().inspect(|entry| state.recent_bytes -= record_bytes(entry.payload.len()));
        }
        self.shared.put(state, Task::Purge(up_to), done);
        Ok(())
    }

    /// Ends the newest segment, so that what is in it can be deleted without what comes next.
    ///
    /// # Errors
    ///
    /// [`StorageError::Full`], and what broke the log earlier.
    pub fn rotate(&self, done: Done) -> Result<(), StorageError> {
        self.shared.put(self.shared.usable()?, Task::Rotate, done);
        Ok(())
    }

    /// Puts a vote, at most [`SLOT_BYTES_MAX`] long, in the place of the last one; durable when `done` says so.
    ///
    /// # Errors
    ///
    /// [`StorageError::TooLarge`], [`StorageError::Full`], and what broke the log earlier.
    pub fn save_vote(&self, vote: Bytes, done: Done) -> Result<(), StorageError> {
        if vote.len() > SLOT_BYTES_MAX {
            return Err(StorageError::TooLarge { bytes: vote.len(), bytes_max: SLOT_BYTES_MAX });
        }
        self.shared.put(self.shared.usable()?, Task::SaveVote(vote), done);
        Ok(())
    }

    /// Ends the doubt of [`Recovered::in_doubt`]: this node has whatever it may have acknowledged.
    ///
    /// # Errors
    ///
    /// [`StorageError::Full`], and what broke the log earlier.
    pub fn trust(&self, done: Done) -> Result<(), StorageError> {
        self.shared.put(self.shared.usable()?, Task::Trust, done);
        Ok(())
    }

    /// So many entries are committed. It goes to disk with the next entries, for [`Recovered::committed`]; less than before is
    /// ignored.
    pub fn note_committed(&self, committed: u64) {
        let mut state = self.shared.lock();
        state.committed = state.committed.max(committed);
    }

    /// What is there.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        let state = self.shared.lock();
        Bounds { purged: state.purged, last: state.last }
    }

    /// The first index from which on all entries are in memory.
    #[must_use]
    pub fn recent_from(&self) -> u64 {
        let state = self.shared.lock();
        let next = state.last.map_or(0, |last| last.index + 1);
        state.recent.front().map_or(next, |entry| entry.id.index)
    }

    /// What waits to be durable, B.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.shared.lock().pending_bytes
    }

    /// The entries of these indexes, or as many of the first of them as have so many bytes, at least one. Fewer, or none,
    /// where they are not there, or no longer. What is not recent is read from the disk: this waits for it.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] where the disk has something else than was written, and what it says.
    pub fn read(&self, indexes: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        let mut out: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let mut failed: Option<(Extent<D::File>, StorageError)> = None;
        loop {
            let next = indexes.start + out.len() as u64;
            let until = {
                let state = self.shared.lock();
                let end = state.last.map_or(0, |id| id.index + 1).min(indexes.end);
                let recent = state.recent.front().map_or(end, |entry| entry.id.index);
                if next >= end || state.purged.is_some_and(|id| next <= id.index) {
                    return Ok(out);
                }
                if next >= recent {
                    let skip = usize::try_from(next - recent).unwrap_or(usize::MAX);
                    let take = usize::try_from(end - next).unwrap_or(usize::MAX);
                    for entry in state.recent.iter().skip(skip).take(take) {
                        bytes += record_bytes(entry.payload.len());
                        if bytes > bytes_max && !out.is_empty() {
                            break;
                        }
                        out.push(entry.clone());
                    }
                    return Ok(out);
                }
                recent.min(end)
            };
            let left = bytes_max.saturating_sub(bytes);
            let extent = self.shared.catalog().locate(next, until, left);
            let Some(extent) = extent.filter(|extent| out.is_empty() || extent.bytes <= left) else {
                return Ok(out);
            };
            // Somebody may be cutting there: then it lies elsewhere, or nowhere, when looked for again.
            if let Some((before, error)) = failed.take()
                && before.is(&extent)
            {
                return Err(error);
            }
            match extent.read() {
                Ok(entries) => {
                    bytes += extent.bytes;
                    out.extend(entries);
                }
                Err(error) => failed = Some((extent, error)),
            }
        }
    }
}

impl<F: DiskFile> Extent<F> {
    fn read(&self) -> Result<Vec<Entry>, StorageError> {
        let mut bytes = vec![0; self.bytes];
        let from = u64::from(self.offset);
        self.file.read_at(from, &mut bytes).map_err(StorageError::io("read", &self.name))?;
        let bytes = Bytes::from(bytes);
        let mut out = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let head = Head::read(rest)
                .filter(|head| {
                    head.is_whole(rest, self.salt) && head.id.index == self.first + out.len() as u64
                })
                .ok_or_else(|| {
                    StorageError::corrupt(&self.name, from + at as u64, "it is not the record written there")
                })?;
            let payload = at + HEAD_BYTES..at + HEAD_BYTES + head.payload_bytes as usize;
            out.push(Entry { id: head.id, payload: bytes.slice(payload) });
            at += head.record_bytes();
        }
        Ok(out)
    }
}

impl State {
    fn full(&self) -> StorageError {
        StorageError::Full { pending_bytes: self.pending_bytes, calls: self.queue.len() }
    }

    /// Forgets the oldest of the recent entries that are written, as far as there are too many.
    pub(super) fn forget_written(&mut self) {
        while self.recent_bytes > self.recent_bytes_max
            && self.recent.front().is_some_and(|entry| entry.id.index < self.written)
        {
            self.recent.pop_front().inspect(|entry| self.recent_bytes -= record_bytes(entry.payload.len()));
        }
    }
}

impl<F> Shared<F> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn catalog(&self) -> MutexGuard<'_, Catalog<F>> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, if there is any use in asking for something.
    fn usable(&self) -> Result<MutexGuard<'_, State>, StorageError> {
        let state = self.lock();
        match &state.broken {
            Some(error) => Err(error.clone()),
            None if state.queue.len() >= CALLS_MAX => Err(state.full()),
            None => Ok(state),
        }
    }

    fn put(&self, mut state: MutexGuard<'_, State>, task: Task, done: Done) {
        state.queue.push_back(Command { task, done });
        self.ring(state);
    }

    #[cfg_attr(not(test), expect(unused_mut, reason = "tests have another bell"))]
    fn ring(&self, mut state: MutexGuard<'_, State>) {
        #[cfg(test)]
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        drop(state);
        self.bell.notify_one();
    }

    /// The same for a task.
    #[cfg(test)]
    pub(super) fn poll_wait(&self, context: &mut std::task::Context<'_>) -> std::task::Poll<bool> {
        let mut state = self.lock();
        if state.queue.is_empty() && !state.closed {
            state.waker = Some(context.waker().clone());
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(!state.queue.is_empty())
    }

    /// Waits for something to do. False when the log is closed and nothing is left.
    pub(super) fn wait(&self) -> bool {
        let state = self.lock();
        let idle = |state: &mut State| state.queue.is_empty() && !state.closed;
        let state = self.bell.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        !state.queue.is_empty()
    }
}

impl<D: Disk> Drop for Log<D> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        self.shared.ring(state);
        if let Some(thread) = self.thread.take() {
            // A panic there was its own failure, and its commands are dropped unanswered.
            let _ = thread.join();
        }
    }
}
