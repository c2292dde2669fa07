//! The thread that applies: nothing that a state machine does, however long it takes, delays a heartbeat.

use std::any::Any;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::applied::{Answer, Applied, SnapshotHead};
use super::clock::ClusterClock;
use super::command::Command;
use super::machine::StateMachine;
use super::time::Instant;
use crate::storage::EntryId;

/// Tasks that may wait for the thread. Who has more waits.
const TASKS_MAX: usize = 1_024;

/// The content of a snapshot, to be read elsewhere.
pub(super) type Content = Box<dyn Read + Send>;

/// The other end of the thread. It ends when the last of them is dropped.
#[derive(Clone)]
pub(super) struct Applier {
    tasks: mpsc::Sender<Task>,
}

impl fmt::Debug for Applier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Applier").finish_non_exhaustive()
    }
}

type Look = Box<dyn FnOnce(&dyn Any) + Send>;

pub(super) enum Task {
    Apply(Vec<(EntryId, Bytes)>, oneshot::Sender<io::Result<Vec<Answer>>>),
    Snapshot(oneshot::Sender<io::Result<Option<(SnapshotHead, Content)>>>),
    Restore(SnapshotHead, Content, oneshot::Sender<io::Result<()>>),
    Look(Look),
}

impl Applier {
    /// Starts the thread, with a machine in its first state. The clock is told of every stamp.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub(super) fn start<M: StateMachine>(machine: M, clock: Arc<ClusterClock>) -> io::Result<Self> {
        let (applier, mut worker) = Self::new(machine, clock);
        std::thread::Builder::new().name("apply".to_owned()).spawn(move || {
            while let Some(task) = worker.waiting.blocking_recv() {
                worker.work(task);
            }
        })?;
        Ok(applier)
    }

    /// The same without a thread: whoever has the worker is the thread.
    pub(super) fn new<M: StateMachine>(machine: M, clock: Arc<ClusterClock>) -> (Self, Worker<M>) {
        let (tasks, waiting) = mpsc::channel(TASKS_MAX);
        (Self { tasks }, Worker { state: Applied::new(machine), clock, waiting })
    }

    /// Applies entries, given as encoded commands; one answer each.
    ///
    /// # Errors
    ///
    /// Where one is no command, and where the thread is gone. Nobody can go on then.
    pub(super) async fn apply(&self, entries: Vec<(EntryId, Bytes)>) -> io::Result<Vec<Answer>> {
        self.ask(|answer| Task::Apply(entries, answer)).await?
    }

    /// The state as it is now; `None` before the first entry.
    ///
    /// # Errors
    ///
    /// What the machine says, and where the thread is gone.
    pub(super) async fn snapshot(&self) -> io::Result<Option<(SnapshotHead, Content)>> {
        self.ask(Task::Snapshot).await?
    }

    /// Takes the state of a snapshot.
    ///
    /// # Errors
    ///
    /// What the machine says and the reader, and where the thread is gone. The state is nobody's then.
    pub(super) async fn restore(&self, head: SnapshotHead, content: Content) -> io::Result<()> {
        self.ask(|answer| Task::Restore(head, content, answer)).await?
    }

    /// Looks at the state.
    ///
    /// # Errors
    ///
    /// Where the thread is gone.
    ///
    /// # Panics
    ///
    /// Where the machine is of another type.
    pub(super) async fn look<M: StateMachine, T: Send + 'static>(
        &self,
        look: impl FnOnce(&Applied<M>) -> T + Send + 'static,
    ) -> io::Result<T> {
        self.ask(|answer| {
            Task::Look(Box::new(move |state| {
                let state = state.downcast_ref().expect("the machine is of this type");
                // Who asked may be gone.
                let _ = answer.send(look(state));
            }))
        })
        .await
    }

    async fn ask<T>(&self, task: impl FnOnce(oneshot::Sender<T>) -> Task) -> io::Result<T> {
        let gone = || io::Error::other("the state machine's thread ended: it panicked, or the node stops");
        let (answer, answered) = oneshot::channel();
        self.tasks.send(task(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

/// The only one who changes the state.
pub(super) struct Worker<M> {
    pub(super) state: Applied<M>,
    clock: Arc<ClusterClock>,
    pub(super) waiting: mpsc::Receiver<Task>,
}

impl<M: StateMachine> Worker<M> {
    pub(super) fn work(&mut self, task: Task) {
        let state = &mut self.state;
        // Who asked may be gone: then nobody wants the answer.
        match task {
            Task::Apply(entries, answer) => drop(answer.send(apply(state, entries))),
            Task::Snapshot(answer) => drop(answer.send(snapshot(state))),
            Task::Restore(head, content, answer) => drop(answer.send(state.restore(head, content))),
            Task::Look(look) => look(state),
        }
        self.clock.observe(self.state.time, Instant::now());
    }
}

fn apply<M: StateMachine>(state: &mut Applied<M>, entries: Vec<(EntryId, Bytes)>) -> io::Result<Vec<Answer>> {
    let apply = |(id, bytes): (EntryId, Bytes)| {
        let command = Command::decode(&bytes).map_err(io::Error::other)?;
        Ok(state.apply(id, &command, &bytes))
    };
    entries.into_iter().map(apply).collect()
}

pub(super) fn snapshot<M: StateMachine>(state: &Applied<M>) -> io::Result<Option<(SnapshotHead, Content)>> {
    let Some(head) = state.head() else { return Ok(None) };
    Ok(Some((head, Box::new(state.machine.snapshot()?))))
}
