//! The engine's state machine: the applier's thread, and the snapshots on disk.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::storage::{
    ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine, SnapshotMeta,
};

use super::super::applied::SnapshotHead;
use super::super::applier::Applier;
use super::super::event::Event;
use super::super::events::Events;
use super::super::replica_id::{Place, ReplicaId};
use super::super::tasks::blocking;
use super::super::watch;
use super::types::*;
use crate::storage::{Disk, EntryId, Received, Snapshot, Snapshots};

/// Entries that are read and applied at once, and their bytes: after a start that may be all that the log has.
const APPLY_ENTRIES: usize = 1_024;
const APPLY_BYTES: usize = 1 << 20;

/// A snapshot as the engine hands it about.
#[derive(Debug)]
pub(super) enum SnapshotData<D: Disk> {
    /// Of this node.
    Own(Snapshot<D::File>),
    /// It came from another one, and was not looked at yet.
    Received(Box<Received<D::File>>),
    /// There was nothing yet to be written.
    Nothing,
}

type Meta = SnapshotMeta<CommittedLeaderId, ReplicaId, Place>;
type EngineSnapshot<D> = openraft::Snapshot<CommittedLeaderId, ReplicaId, Place, SnapshotData<D>>;

/// How far a replica has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last entry that was applied.
    pub applied: Option<EntryId>,
    /// The last entry in the newest snapshot: it has everything up to there.
    pub snapshot: Option<EntryId>,
    /// Entries below this index came in a snapshot of another node: they are not to be read in the log.
    pub floor: u64,
    /// Snapshots that could not be taken since the start.
    pub snapshots_failed: u64,
}

pub(super) struct MachineStore<D: Disk> {
    applier: Applier,
    snapshots: Arc<Snapshots<D>>,
    applied: Option<LogId>,
    membership: EngineStored,
    progress: watch::Sender<Progress>,
    events: Events,
    /// The engine's suite for stores leaves entries out.
    #[cfg(test)]
    pub(super) gaps: bool,
}

impl<D: Disk> MachineStore<D> {
    /// With what the newest snapshot has, if there is one.
    ///
    /// # Errors
    ///
    /// Where it cannot be read, or the machine does not take it.
    pub(super) async fn open(
        applier: Applier,
        snapshots: Arc<Snapshots<D>>,
        progress: watch::Sender<Progress>,
        events: Events,
    ) -> io::Result<Self> {
        let mut store = Self {
            applier,
            snapshots,
            applied: None,
            membership: EngineStored::default(),
            progress,
            events,
            #[cfg(test)]
            gaps: false,
        };
        if let Some(newest) = store.snapshots.newest() {
            store.restore(&newest).await?;
        }
        Ok(store)
    }

    /// Snapshot and log together have every entry back to the first one.
    fn check_next(&self, log_id: &LogId) {
        #[cfg(test)]
        if self.gaps {
            return;
        }
        let next = self.applied.map_or(0, |applied| applied.index + 1);
        assert_eq!(log_id.index, next, "no entry is left out when they are applied");
    }

    /// Applies the entries up to the last one that is counted, and tells who waits for them.
    async fn apply_some(
        &mut self,
        commands: Vec<(EntryId, Bytes)>,
        responders: Vec<Option<ApplyResponder<Types>>>,
    ) -> io::Result<()> {
        if commands.is_empty() {
            return Ok(());
        }
        let answers = self.applier.apply(commands).await?;
        // Who waits to read sees it before the client that proposed it is told.
        self.progress.send_modify(|progress| progress.applied = self.applied.as_ref().map(id_of));
        for (answer, responder) in answers.into_iter().zip(responders) {
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    async fn restore(&mut self, snapshot: &Snapshot<D::File>) -> io::Result<()> {
        let mut reader = snapshot.reader();
        let (head, reader) =
            blocking(move || Ok::<_, io::Error>((SnapshotHead::read(&mut reader)?, reader))).await??;
        let last = head.last;
        if last != snapshot.last() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the snapshot is of another entry than it says",
            ));
        }
        let membership = stored_of(head.membership.as_ref())?;
        self.applier.restore(head, Box::new(reader)).await?;
        self.applied = Some(log_id_of(last));
        self.membership = membership;
        self.progress.send_modify(|progress| {
            progress.applied = Some(last);
            progress.snapshot = Some(last);
        });
        Ok(())
    }
}

impl<D: Disk> RaftStateMachine<Types> for MachineStore<D> {
    type SnapshotData = SnapshotData<D>;
    type SnapshotBuilder = Builder<D>;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, EngineStored)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + Send,
    {
        let (mut commands, mut responders, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            if let openraft::EntryPayload::Membership(membership) = &entry.payload {
                self.membership = EngineStored::new(Some(entry.log_id), membership.clone());
                self.events.record(&Event::Members {
                    index: entry.log_id.index,
                    voters: membership.voter_ids().collect(),
                    learners: membership.learner_ids().collect(),
                });
            }
            self.check_next(&entry.log_id);
            self.applied = Some(entry.log_id);
            let command = bytes_of(&entry.payload);
            bytes += command.len();
            commands.push((id_of(&entry.log_id), command));
            responders.push(responder);
            if commands.len() >= APPLY_ENTRIES || bytes >= APPLY_BYTES {
                self.apply_some(std::mem::take(&mut commands), std::mem::take(&mut responders)).await?;
                bytes = 0;
            }
        }
        self.apply_some(commands, responders).await
    }

    async fn get_snapshot_builder(&mut self) -> Builder<D> {
        Builder {
            applier: self.applier.clone(),
            snapshots: Arc::clone(&self.snapshots),
            progress: self.progress.clone(),
            events: self.events.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &Meta, data: SnapshotData<D>) -> io::Result<()> {
        let snapshots = Arc::clone(&self.snapshots);
        let kept = move || {
            let received = match data {
                SnapshotData::Received(received) => *received,
                // Of a node in this process.
                SnapshotData::Own(snapshot) => copy_of(&snapshot, &snapshots)?,
                SnapshotData::Nothing => return Err(io::Error::other("there is nothing in the snapshot")),
            };
            snapshots.finish_received(received).map_err(io::Error::other)
        };
        let snapshot = blocking(kept).await??;
        if meta.last_log_id.as_ref().map(id_of) != Some(snapshot.last()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the snapshot is another one than was promised",
            ));
        }
        let floor = snapshot.last().index + 1;
        self.progress.send_modify(|progress| progress.floor = floor);
        self.restore(&snapshot).await?;
        self.events.record(&Event::SnapshotInstalled { index: snapshot.last().index });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<EngineSnapshot<D>>> {
        newest_of(&self.snapshots).await
    }
}

pub(super) async fn newest_of<D: Disk>(snapshots: &Snapshots<D>) -> io::Result<Option<EngineSnapshot<D>>> {
    let Some(newest) = snapshots.newest() else { return Ok(None) };
    let mut reader = newest.reader();
    let head = blocking(move || SnapshotHead::read(&mut reader)).await??;
    Ok(Some(EngineSnapshot { meta: meta_of(&head)?, snapshot: SnapshotData::Own(newest) }))
}

/// Before there is anything to be written.
fn nothing<D: Disk>() -> EngineSnapshot<D> {
    EngineSnapshot { meta: Meta::default(), snapshot: SnapshotData::Nothing }
}

fn copy_of<D: Disk>(snapshot: &Snapshot<D::File>, snapshots: &Snapshots<D>) -> io::Result<Received<D::File>> {
    let mut received = snapshots.begin_received().map_err(io::Error::other)?;
    while received.bytes() < snapshot.bytes() {
        let bytes = snapshot.read_at(received.bytes(), 1 << 20).map_err(io::Error::other)?;
        received.write(&bytes).map_err(io::Error::other)?;
    }
    Ok(received)
}

fn meta_of(head: &SnapshotHead) -> io::Result<Meta> {
    Ok(Meta {
        last_log_id: Some(log_id_of(head.last)),
        last_membership: stored_of(head.membership.as_ref())?,
    })
}

/// Writes one snapshot.
pub(super) struct Builder<D: Disk> {
    applier: Applier,
    snapshots: Arc<Snapshots<D>>,
    progress: watch::Sender<Progress>,
    events: Events,
}

impl<D: Disk> RaftSnapshotBuilder<Types> for Builder<D> {
    type SnapshotData = SnapshotData<D>;

    async fn build_snapshot(&mut self) -> io::Result<EngineSnapshot<D>> {
        if let Some(untold) = self.untold() {
            let told = newest_of(&self.snapshots).await?.unwrap_or_else(nothing);
            self.tell(untold);
            return Ok(told);
        }
        // Where the machine's thread is gone that ends the node as well: by the next entry.
        let (head, mut content) = match self.applier.snapshot().await {
            Ok(Some(taken)) => taken,
            Ok(None) => return Ok(nothing()),
            Err(error) => return self.failed(&error).await,
        };
        let snapshots = Arc::clone(&self.snapshots);
        let meta = meta_of(&head)?;
        let last = head.last;
        let written = move || {
            let mut unfinished = snapshots.begin().map_err(io::Error::other)?;
            let copied =
                unfinished.write_all(&head.encode()).and_then(|()| io::copy(&mut content, &mut unfinished));
            match copied {
                Ok(_) => unfinished.finish(last).map_err(io::Error::other),
                Err(error) => {
                    unfinished.discard();
                    Err(error)
                }
            }
        };
        let snapshot = match blocking(written).await.flatten() {
            Ok(snapshot) => snapshot,
            Err(error) => return self.failed(&error).await,
        };
        self.tell(last);
        Ok(EngineSnapshot { meta, snapshot: SnapshotData::Own(snapshot) })
    }
}

impl<D: Disk> Builder<D> {
    /// The log goes on and is as good: it is only longer. The engine is told of the snapshot that there was, and asks again after as
    /// many entries.
    async fn failed(&self, error: &io::Error) -> io::Result<EngineSnapshot<D>> {
        tracing::error!(%error, "no snapshot can be taken: the log keeps what would be in it");
        self.events.record(&Event::SnapshotFailed { why: error.to_string() });
        self.progress.send_modify(|progress| progress.snapshots_failed += 1);
        Ok(newest_of(&self.snapshots).await?.unwrap_or_else(nothing))
    }

    /// The last entry in a snapshot that the program wrote, which the engine does not know of. One that is being installed has more
    /// than was applied.
    fn untold(&self) -> Option<EntryId> {
        let (applied, snapshot) = {
            let progress = self.progress.borrow();
            (progress.applied, progress.snapshot)
        };
        let newest = Some(self.snapshots.newest()?.last());
        newest.filter(|_| newest > snapshot && newest <= applied)
    }

    fn tell(&self, last: EntryId) {
        self.progress.send_modify(|progress| progress.snapshot = progress.snapshot.max(Some(last)));
        self.events.record(&Event::SnapshotTaken { index: last.index });
    }
}
