//! The engine's own suite for stores, over ours.

use std::fmt::Debug;
use std::io::{self, Read};
use std::ops::RangeBounds;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use openraft::StorageError;
use openraft::entry::RaftEntry;
use openraft::storage::{
    IOFlushed, LogState, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine,
};
use openraft::testing::log::{StoreBuilder, Suite};

use super::super::applier::Applier;
use super::super::clock::ClusterClock;
use super::super::command::Command;
use super::super::events::Events;
use super::super::machine::StateMachine;
use super::super::time::Instant;
use super::super::watch;
use super::log_store::LogStore;
use super::machine_store::{MachineStore, Progress};
use super::types::*;
use crate::storage::{Directory, EntryId, Identity, Log, Options, Snapshots};

/// Remembers nothing.
struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, _id: u64, _operation: Bytes) -> Bytes {
        Bytes::new()
    }

    fn snapshot(&self) -> io::Result<impl Read + Send + 'static> {
        Ok(io::empty())
    }

    fn restore(&mut self, _from: impl Read) -> io::Result<()> {
        Ok(())
    }
}

/// The suite begins logs anywhere, ours begins at 0: what is before is filled with entries that nobody is shown.
#[derive(Clone)]
struct FromAnywhere {
    log: LogStore<Directory>,
    first: Arc<AtomicU64>,
}

impl FromAnywhere {
    fn first(&self) -> u64 {
        self.first.load(Ordering::Relaxed)
    }
}

impl RaftLogReader<Types> for FromAnywhere {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<EngineEntry>> {
        let mut entries = self.log.try_get_log_entries(range).await?;
        entries.retain(|entry| entry.index() >= self.first());
        Ok(entries)
    }

    async fn read_vote(&mut self) -> io::Result<Option<EngineVote>> {
        self.log.read_vote().await
    }

    async fn limited_get_log_entries(&mut self, from: u64, to: u64) -> io::Result<Vec<EngineEntry>> {
        self.log.limited_get_log_entries(from.max(self.first()), to).await
    }
}

impl RaftLogStorage<Types> for FromAnywhere {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let mut state = self.log.get_log_state().await?;
        state.last_log_id = state.last_log_id.filter(|last| last.index >= self.first());
        Ok(state)
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &EngineVote) -> io::Result<()> {
        self.log.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.log.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.log.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = EngineEntry> + Send,
        I::IntoIter: Send,
    {
        let mut entries: Vec<_> = entries.into_iter().collect();
        if let Some(first) = entries.first().map(|entry| entry.index())
            && self.log.get_log_state().await?.last_log_id.is_none()
        {
            self.first.store(first, Ordering::Relaxed);
            let filler = |index| EngineEntry::new_blank(log_id_of(EntryId { term: 0, index }));
            entries.splice(0..0, (0..first).map(filler));
        }
        self.log.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.log.truncate_after(last).await
    }

    async fn purge(&mut self, up_to: LogId) -> io::Result<()> {
        self.log.purge(up_to).await
    }
}

/// After a start that may be all that the log has: no more of it is in memory at once than one part.
#[tokio::test]
async fn entries_are_applied_in_parts_however_many_there_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("snapshots");
    std::fs::create_dir(&path).unwrap();
    let snapshots = Arc::new(Snapshots::open(Directory::new(path), "test").unwrap());
    for (bytes, part) in [(1, 1_024), (100 << 10, 11)] {
        let applier = Applier::start(Nothing, Arc::new(ClusterClock::new(Instant::now()))).unwrap();
        let (progress, seen) = watch::channel(Progress::default());
        let mut machine =
            MachineStore::open(applier, Arc::clone(&snapshots), progress, Events::in_memory()).await.unwrap();
        let command =
            Command::Operation { request: None, time: Default::default(), body: vec![0; bytes].into() };
        let entry = |index| {
            let log_id = log_id_of(EntryId { term: 1, index });
            let applied = seen.borrow().applied.map_or(0, |applied| applied.index + 1);
            assert!(index < applied + part, "entry {index} is read where {applied} were applied");
            Ok((EngineEntry::new(log_id, openraft::EntryPayload::Normal(Proposal(command.encode()))), None))
        };
        machine.apply(futures_util::stream::iter((0..3_000).map(entry))).await.unwrap();
        assert_eq!(seen.borrow().applied.map(|applied| applied.index), Some(2_999));
    }
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_written_ends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("snapshots");
    std::fs::create_dir(&path).unwrap();
    let snapshots = Arc::new(Snapshots::open(Directory::new(path.clone()), "test").unwrap());
    let applier = Applier::start(Nothing, Arc::new(ClusterClock::new(Instant::now()))).unwrap();
    let (progress, _) = watch::channel(Progress::default());
    let events = Events::in_memory();
    let mut machine = MachineStore::open(applier.clone(), snapshots, progress, events.clone()).await.unwrap();
    let apply = async |index| {
        let command = super::super::command::Command::Nothing.encode();
        applier.apply(vec![(EntryId { term: 1, index }, command)]).await.unwrap();
    };
    apply(0).await;
    std::fs::remove_dir(&path).unwrap();
    let mut builder = machine.get_snapshot_builder().await;
    let failed = builder.build_snapshot().await.unwrap();
    assert_eq!(failed.meta.last_log_id, None, "there is none yet");
    assert!(events.from(0).last().unwrap().contains("snapshot_failed"));

    std::fs::create_dir(&path).unwrap();
    let first = builder.build_snapshot().await.unwrap();
    assert_eq!(first.meta.last_log_id.map(|last| last.index), Some(0));
    apply(1).await;
    std::fs::rename(&path, directory.path().join("away")).unwrap();
    let failed = builder.build_snapshot().await.unwrap();
    assert_eq!(failed.meta.last_log_id.map(|last| last.index), Some(0), "it is the one before");
}

struct OnDisk;

impl StoreBuilder<Types, FromAnywhere, MachineStore<Directory>, tempfile::TempDir> for OnDisk {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, FromAnywhere, MachineStore<Directory>), StorageError<Types>> {
        let directory = tempfile::tempdir().unwrap();
        let sub = |name: &str| {
            std::fs::create_dir(directory.path().join(name)).unwrap();
            Directory::new(directory.path().join(name))
        };
        let identity = Identity { cluster: "suite".to_owned(), node: "one".to_owned() };
        let (log, found) = Log::open(sub("log"), identity, Options::new(1)).unwrap();
        let snapshots = Arc::new(Snapshots::open(sub("snapshots"), "suite").unwrap());
        // The suite purges what no snapshot has.
        let log =
            LogStore::new(Arc::new(log), Box::new(|| Some(u64::MAX)), &found, Events::in_memory()).unwrap();
        let applier = Applier::start(Nothing, Arc::new(ClusterClock::new(Instant::now()))).unwrap();
        let (progress, _) = watch::channel(Progress::default());
        let mut machine =
            MachineStore::open(applier, snapshots, progress, Events::in_memory()).await.unwrap();
        machine.gaps = true;
        Ok((directory, FromAnywhere { log, first: Arc::default() }, machine))
    }
}

#[tokio::test]
async fn the_store_passes_the_suite_of_the_engine() {
    Suite::test_all(OnDisk).await.unwrap();
}
