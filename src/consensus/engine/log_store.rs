//! The engine's log, on ours.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::{Notify, oneshot};

use super::super::event::Event;
use super::super::events::Events;
use super::super::tasks::blocking;
use super::types::*;
use crate::storage::{Disk, Done, Entry, Log, Recovered, StorageError};

/// What a follower gets at once, B: a chunk that a WAN carries in some ten milliseconds.
const CHUNK_BYTES: usize = 256 << 10;
/// And so many entries, where their indexes have such a border: followers that are at different places of the log come to the same
/// ones, so that what they get from there on is the same.
const CHUNK_ENTRIES: u64 = 256;

/// Tells the last index that a durable snapshot has.
pub(super) type Covered = Box<dyn Fn() -> Option<u64> + Send + Sync>;

/// Clones are the same log.
pub(super) struct LogStore<D: Disk> {
    shared: Arc<Shared<D>>,
}

struct Shared<D: Disk> {
    log: Arc<Log<D>>,
    /// The last index that a snapshot has.
    covered: Covered,
    state: Mutex<State>,
    /// Rings when something became durable.
    durable: Arc<Notify>,
    events: Events,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    vote: Option<EngineVote>,
    committed: Option<LogId>,
}

impl<D: Disk> Clone for LogStore<D> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<D: Disk> LogStore<D> {
    /// # Errors
    ///
    /// Where the log was written by somebody else: a vote that is none, an entry that cannot be read.
    pub(super) fn new(
        log: Arc<Log<D>>,
        covered: Covered,
        found: &Recovered,
        events: Events,
    ) -> io::Result<Self> {
        let vote = match &found.vote {
            None => None,
            Some(bytes) => {
                let none = || io::Error::new(io::ErrorKind::InvalidData, "the saved vote cannot be read");
                Some(vote_of(bytes).ok_or_else(none)?)
            }
        };
        let committed = match found.committed.checked_sub(1) {
            None => None,
            Some(last) if found.purged.is_some_and(|purged| last <= purged.index) => found.purged,
            Some(last) => {
                log.read(last..last + 1, 1).map_err(io::Error::other)?.first().map(|entry| entry.id)
            }
        };
        let state = State { vote, committed: committed.map(log_id_of) };
        let shared = Shared { log, covered, state: Mutex::new(state), durable: Arc::default(), events };
        Ok(Self { shared: Arc::new(shared) })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until what it is about is durable.
    async fn done(&self, call: impl FnOnce(&Log<D>, Done) -> Result<(), StorageError>) -> io::Result<()> {
        let (tell, told) = oneshot::channel();
        // Whoever waited may be gone.
        call(&self.shared.log, Box::new(move |result| drop(tell.send(result)))).map_err(io::Error::other)?;
        told.await.map_err(|_| io::Error::other(StorageError::Closed))?.map_err(io::Error::other)
    }

    /// What is in memory is given at once, what is on disk is read on another thread: nothing here may hold up a heartbeat.
    async fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<EngineEntry>> {
        let shared = Arc::clone(&self.shared);
        let read = move || shared.log.read(from..to, bytes_max);
        let entries = if self.shared.log.recent_from() <= from { read() } else { blocking(read).await? };
        entries.map_err(io::Error::other)?.iter().map(entry_of).collect()
    }
}

/// Terms do not go back, and in a term one replica is voted for: after that, another one only where it leads, and nobody once one does.
fn may_follow(before: &EngineVote, vote: &EngineVote) -> bool {
    let (old, new) = (before.leader_id, vote.leader_id);
    if old.term != new.term {
        return old.term < new.term;
    }
    if old.voted_for == new.voted_for {
        before.committed <= vote.committed
    } else {
        !before.committed && vote.committed
    }
}

impl<D: Disk> RaftLogReader<Types> for LogStore<D> {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<EngineEntry>> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(from) => from + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(to) => to + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        // What was purged is left out at the beginning.
        let from = from.max(self.shared.log.bounds().indexes().start);
        self.read(from, to, usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<EngineVote>> {
        Ok(self.state().vote)
    }

    async fn limited_get_log_entries(&mut self, from: u64, to: u64) -> io::Result<Vec<EngineEntry>> {
        let border = (from / CHUNK_ENTRIES + 1) * CHUNK_ENTRIES;
        self.read(from, to.min(border), CHUNK_BYTES).await
    }
}

impl<D: Disk> RaftLogStorage<Types> for LogStore<D> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let bounds = self.shared.log.bounds();
        Ok(LogState {
            last_purged_log_id: bounds.purged.map(log_id_of),
            last_log_id: bounds.last.map(log_id_of),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &EngineVote) -> io::Result<()> {
        let before = self.state().vote;
        assert!(before.is_none_or(|before| may_follow(&before, vote)), "{vote} does not follow {before:?}");
        let bytes = vote_bytes(vote);
        self.done(|log, done| log.save_vote(bytes, done)).await?;
        let of = vote.leader_id;
        self.shared.events.record(&Event::VoteSaved {
            term: of.term,
            voted_for: of.voted_for,
            leads: vote.committed,
        });
        self.state().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else { return Ok(()) };
        self.shared.log.note_committed(committed.index + 1);
        let mut state = self.state();
        assert!(
            state.committed.is_none_or(|before| before.index <= committed.index),
            "the commit index does not go back"
        );
        state.committed = Some(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.state().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = EngineEntry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<Entry> = entries
            .into_iter()
            .map(|entry| Entry { id: id_of(&entry.log_id), payload: bytes_of(&entry.payload) })
            .collect();
        let callback = Arc::new(Mutex::new(Some(callback)));
        loop {
            let durable = Arc::clone(&self.shared.durable);
            let callback = Arc::clone(&callback);
            let done = move |result: Result<(), StorageError>| {
                let callback = callback.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(callback) = callback {
                    callback.io_completed(result.map_err(io::Error::other));
                }
                durable.notify_one();
            };
            let listening = self.shared.durable.notified();
            match self.shared.log.append(entries.clone(), Box::new(done)) {
                Ok(()) => return Ok(()),
                // As long as the disk is behind, nothing more is taken, from clients and from leaders.
                Err(StorageError::Full { .. }) => listening.await,
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let committed = self.state().committed;
        assert!(
            committed.is_none_or(|committed| last.is_some_and(|last| last.index >= committed.index)),
            "what is committed stays"
        );
        self.done(|log, done| log.truncate_after(last.map(|last| id_of(&last)), done)).await
    }

    async fn purge(&mut self, up_to: LogId) -> io::Result<()> {
        let covered = (self.shared.covered)();
        assert!(covered >= Some(up_to.index), "a snapshot has everything that is purged");
        self.done(|log, done| log.purge(id_of(&up_to), done)).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::command::Command;
    use super::*;
    use crate::storage::faulty::FaultyDisk;
    use crate::storage::{Directory, EntryId, Identity, Options};

    /// The borders of what a follower gets that has everything before an index.
    async fn borders(store: &mut LogStore<Directory>, mut from: u64, to: u64) -> Vec<u64> {
        let mut borders = Vec::new();
        while from < to {
            let entries = store.limited_get_log_entries(from, to).await.unwrap();
            assert_eq!(entries[0].log_id.index, from);
            from = entries.last().unwrap().log_id.index + 1;
            borders.push(from);
        }
        borders
    }

    fn vote(term: u64, voted_for: u64, committed: bool) -> EngineVote {
        let mut bytes = [term.to_le_bytes(), voted_for.to_le_bytes()].concat();
        bytes.push(u8::from(committed));
        vote_of(&bytes).unwrap()
    }

    /// An engine that voted twice would be stopped before its second vote is on the disk, and so before anybody is told of it.
    #[tokio::test]
    async fn nobody_is_voted_for_beside_another_one_in_a_term() {
        let cases = [
            (
                vote(3, 7, false),
                true,
                [vote(3, 7, false), vote(3, 7, true), vote(3, 8, true), vote(4, 8, false)],
            ),
            (
                vote(3, 7, true),
                true,
                [vote(3, 7, true), vote(4, 7, false), vote(4, 8, false), vote(9, 8, true)],
            ),
            (
                vote(3, 7, false),
                false,
                [vote(3, 8, false), vote(2, 7, false), vote(2, 7, true), vote(2, 8, true)],
            ),
            (
                vote(3, 7, true),
                false,
                [vote(3, 7, false), vote(3, 8, false), vote(3, 8, true), vote(2, 8, true)],
            ),
        ];
        for (before, may, votes) in cases {
            for vote in votes {
                let disk = FaultyDisk::default();
                let identity = Identity { cluster: "c".to_owned(), node: "n".to_owned() };
                let (log, found) = Log::open(disk.clone(), identity.clone(), Options::new(1)).unwrap();
                let log = Arc::new(log);
                let mut store =
                    LogStore::new(Arc::clone(&log), Box::new(|| None), &found, Events::in_memory()).unwrap();
                store.save_vote(&before).await.unwrap();
                let saved = tokio::spawn(async move { store.save_vote(&vote).await }).await;
                assert_eq!(saved.is_ok(), may, "{vote} after {before}");
                drop(log);
                let (_, found) = Log::open(disk.copy(), identity, Options::new(1)).unwrap();
                let kept = vote_of(&found.vote.unwrap()).unwrap();
                assert_eq!(kept, if may { vote } else { before }, "{vote} after {before}");
            }
        }
    }

    #[tokio::test]
    async fn whoever_is_behind_comes_to_the_borders_that_all_come_to() {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity { cluster: "c".to_owned(), node: "n".to_owned() };
        let disk = Directory::new(directory.path().to_owned());
        let (log, found) = Log::open(disk, identity, Options::new(1)).unwrap();
        let entry = |index| Entry { id: EntryId { term: 1, index }, payload: Command::Nothing.encode() };
        let to = 5 * CHUNK_ENTRIES;
        log.append((0..to).map(entry).collect(), Box::new(drop)).unwrap();
        let mut store = LogStore::new(Arc::new(log), Box::new(|| None), &found, Events::in_memory()).unwrap();
        let all: Vec<u64> = (1..=5).map(|count| count * CHUNK_ENTRIES).collect();
        assert_eq!(borders(&mut store, 0, to).await, all);
        assert_eq!(borders(&mut store, CHUNK_ENTRIES + 7, to).await, all[1..]);
        assert_eq!(borders(&mut store, 2 * CHUNK_ENTRIES - 1, to - 3).await[..3], all[1..4]);
    }
}
