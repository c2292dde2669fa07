//! A replica, as the program around it holds it.

use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use trunkline_mesh::{Client, Inbox, NodeId};

use super::applied::Answer;
use super::applier::Applier;
use super::clock::ClusterClock;
use super::command::{Command, Request};
use super::digest::Digest;
use super::engine::{Engine, Parts, Progress, Timing};
use super::error::{MemberError, ProposeError, ReadError, StartError};
use super::events::Events;
use super::machine::StateMachine;
use super::replica_id::{Place, ReplicaId};
use super::status::Status;
use crate::storage::{DataDirectory, Directory, EntryId, Identity, Log, Options, Snapshots};

/// The longest operation, B: an append of it fits into a message of the mesh, whatever else is in it.
pub const OPERATION_BYTES_MAX: usize = 1 << 20;

/// What a replica is started from.
#[derive(Debug)]
pub struct ReplicaConfig {
    /// Its data directory, which no other process uses.
    pub data: PathBuf,
    /// The nodes that found the cluster, the same on each of them; empty on a node that joins later.
    pub founders: Vec<NodeId>,
    /// How it behaves.
    pub timing: Timing,
}

/// How sure a reader wants to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// It sees everything that was acknowledged to anybody before it began: the leader asks a quorum.
    #[default]
    Linearizable,
    /// The same, as long as clocks do not drift apart by more than their bound: the leader asks nobody while its lease lasts.
    Lease,
    /// Whatever this node has.
    Stale,
}

/// What was read, and what it is up to date with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<T> {
    /// What was read.
    pub value: T,
    /// The last entry that was applied then.
    pub applied: Option<EntryId>,
}

/// An entry that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Where it is.
    pub id: EntryId,
    /// What it says.
    pub command: Command,
}

/// A follower of the log asked for something that is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// The log begins later: what was before is in the snapshot alone.
    #[error("the log begins at {first}: what was before is in the snapshot")]
    Compacted {
        /// The first index that can be read.
        first: u64,
    },
    /// The log cannot be read.
    #[error("the log cannot be read: {why}")]
    Storage {
        /// What the disk says.
        why: String,
    },
    /// The replica stopped.
    #[error("the replica stopped")]
    Stopped,
}

/// A replica that runs. Clones are the same; it stops when [`stop`](Self::stop) is called or the last one is dropped.
pub struct Replica<M> {
    shared: Arc<Shared>,
    machine: PhantomData<fn() -> M>,
}

impl<M> Clone for Replica<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), machine: PhantomData }
    }
}

struct Shared {
    engine: Engine<Directory>,
    applier: Applier,
    clock: Arc<ClusterClock>,
    log: Arc<Log<Directory>>,
    client: Client,
    patience: Duration,
    /// Dropped or sent to, the engine's thread ends.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    // Last: the lock is let go of when all else has ended.
    _data: DataDirectory,
}

impl Drop for Shared {
    fn drop(&mut self) {
        drop(self.stop.take());
        // On the engine's own thread there is nobody to be waited for.
        if let Some(thread) =
            self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id())
        {
            // A panic there was told of already.
            let _ = thread.join();
        }
    }
}

impl<M: StateMachine> Replica<M> {
    /// Starts one on a node of the mesh, which has both roles `origin` and `member` there. The engine has a thread and a
    /// runtime of its own.
    ///
    /// # Errors
    ///
    /// [`StartError`] says what to change. Nothing runs then.
    pub async fn start(
        config: ReplicaConfig,
        machine: M,
        client: Client,
        inbox: Inbox,
        node: &NodeId,
    ) -> Result<Self, StartError> {
        let topology = client.mesh().topology();
        let place = |node: &NodeId| {
            let roles = || StartError::Roles { node: node.to_string() };
            let spec = topology
                .node(node)
                .filter(|spec| spec.roles.origin && spec.roles.member)
                .ok_or_else(roles)?;
            Ok::<_, StartError>(Place { node: spec.id.clone(), datacenter: spec.datacenter.clone() })
        };
        let own_place = place(node)?;
        let founders = config.founders.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let cluster = topology.cluster().to_string();
        let identity = Identity { cluster: cluster.clone(), node: node.to_string() };
        let data = DataDirectory::open(&config.data)?;
        let own = ReplicaId(data.replica(&identity, || fastrand::u64(1..))?);
        let snapshots = Arc::new(Snapshots::open(data.sub_directory("snapshots")?, &cluster)?);
        let (log, found) = Log::open(data.sub_directory("log")?, identity, Options::new(fastrand::u64(..)))?;
        let log = Arc::new(log);
        let clock = Arc::new(ClusterClock::new(Instant::now()));
        let applier = Applier::start(machine, Arc::clone(&clock))?;
        let parts = Parts {
            own,
            cluster,
            founders,
            place: own_place,
            timing: config.timing,
            log: Arc::clone(&log),
            found,
            snapshots,
            applier: applier.clone(),
            clock: Arc::clone(&clock),
            events: Events::open(data.sub_directory("events")?.path())?,
            client: client.clone(),
            inbox,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, started) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("consensus".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let engine = Engine::start(parts).await;
                let running = engine.as_ref().ok().cloned();
                // Whoever starts it may be gone: then it stops at once.
                let told = tell.send(engine);
                if let (Some(engine), Ok(())) = (running, told) {
                    // Sent to or dropped.
                    let _ = stopped.await;
                    engine.stop().await;
                }
            });
        })?;
        let gone = || StartError::Engine { why: "its thread ended".to_owned() };
        let engine = started.await.map_err(|_| gone())??;
        let shared = Shared {
            engine,
            applier,
            clock,
            log,
            client,
            patience: config.timing.patience,
            stop: Some(stop),
            thread: Some(thread),
            _data: data,
        };
        Ok(Self { shared: Arc::new(shared), machine: PhantomData })
    }

    /// Opens a session: proposals in it are applied once, however often they are made.
    ///
    /// # Errors
    ///
    /// [`ProposeError`]. One that is not definite may leave a session behind that nobody uses.
    pub async fn open_session(&self) -> Result<u64, ProposeError> {
        let command = Command::OpensSession { time: self.now() }.encode();
        // Nothing is harmed by a second one.
        let answer = self.persist(command, true).await?;
        Ok(answer.id.index)
    }

    /// Has an operation replicated and applied, from whatever node this is. Within a session it is tried again as long as
    /// its outcome is not known.
    ///
    /// # Errors
    ///
    /// [`ProposeError`], which says whether that is definite.
    pub async fn propose(&self, request: Option<Request>, operation: Bytes) -> Result<Answer, ProposeError> {
        if operation.len() > OPERATION_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: operation.len(), bytes_max: OPERATION_BYTES_MAX });
        }
        let command = Command::Operation { request, time: self.now(), body: operation };
        self.persist(command.encode(), request.is_some()).await
    }

    /// Proposes until there is an answer, or patience ends.
    async fn persist(&self, command: Bytes, again: bool) -> Result<Answer, ProposeError> {
        let engine = &self.shared.engine;
        let patience = self.shared.patience;
        let deadline = tokio::time::Instant::now() + patience;
        let mut outcome = ProposeError::NoLeader;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                return Err(outcome);
            }
            let asked = timeout(left, engine.propose(command.clone(), left)).await;
            let error = match asked {
                // A refusal says nothing of the try before, whose outcome is not known.
                Ok(Ok(Answer { result: Err(refusal), .. })) if !outcome.is_definite() => {
                    return Err(ProposeError::Unknown {
                        why: format!("an earlier try was lost, and then: {refusal}"),
                    });
                }
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(_) => {
                    let why = format!("no quorum confirmed it within {patience:?}");
                    return Err(ProposeError::Unknown { why });
                }
            };
            // What may have happened once stays possible, whatever a later try says.
            if outcome.is_definite() {
                outcome = error.clone();
            }
            match error {
                ProposeError::NoLeader => {}
                ProposeError::Unknown { .. } if again => {}
                _ => return Err(outcome),
            }
            // Until somebody else leads, or word of it comes late.
            let _ = timeout(RETRY.min(left), engine.leader_changes()).await;
        }
    }

    /// Looks at the machine.
    ///
    /// # Errors
    ///
    /// [`ReadError`]: nothing was read.
    pub async fn read<T: Send + 'static>(
        &self,
        consistency: Consistency,
        look: impl FnOnce(&M) -> T + Send + 'static,
    ) -> Result<Read<T>, ReadError> {
        self.barrier(consistency).await?;
        let look =
            |state: &super::applied::Applied<M>| Read { value: look(&state.machine), applied: state.last };
        self.shared.applier.look(look).await.map_err(|error| ReadError::Stopped { why: error.to_string() })
    }

    /// Waits until this node has everything that a reader must see.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub async fn barrier(&self, consistency: Consistency) -> Result<(), ReadError> {
        let lease = match consistency {
            Consistency::Stale => return Ok(()),
            Consistency::Lease => true,
            Consistency::Linearizable => false,
        };
        let engine = &self.shared.engine;
        let deadline = tokio::time::Instant::now() + self.shared.patience;
        let index = loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                return Err(ReadError::NoLeader);
            }
            let asked = timeout(left, engine.barrier(lease, left)).await.ok().flatten();
            // A lease that is over is no end: then a quorum is asked.
            let asked = match asked {
                None if lease => timeout(left, engine.barrier(false, left)).await.ok().flatten(),
                asked => asked,
            };
            match asked {
                Some(index) => break index,
                None => drop(timeout(RETRY.min(left), engine.leader_changes()).await),
            }
        };
        let Some(index) = index else { return Ok(()) };
        let mut progress = engine.progress();
        let applied = progress
            .wait_for(|progress| progress.applied.is_some_and(|applied| applied.index >= index.index));
        match tokio::time::timeout_at(deadline, applied).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopped { why: "its tasks ended".to_owned() }),
            Err(_) => Err(ReadError::Behind { index: index.index }),
        }
    }

    /// The digest of all that was applied here, and up to which entry.
    ///
    /// # Errors
    ///
    /// [`ReadError::Stopped`].
    pub async fn digest(&self) -> Result<Read<Digest>, ReadError> {
        let look = |state: &super::applied::Applied<M>| Read { value: state.digest, applied: state.last };
        self.shared.applier.look(look).await.map_err(|error| ReadError::Stopped { why: error.to_string() })
    }

    /// The applied entries from an index on, as many of the first ones as have so many bytes, at least one; waits until
    /// there is one.
    ///
    /// # Errors
    ///
    /// [`FollowError`].
    pub async fn follow(&self, from: u64, bytes_max: usize) -> Result<Vec<Committed>, FollowError> {
        let mut progress = self.shared.engine.progress();
        let last = {
            let reached = |progress: &Progress| progress.applied.is_some_and(|applied| applied.index >= from);
            let progress = progress.wait_for(reached).await.map_err(|_| FollowError::Stopped)?;
            progress.applied.map_or(0, |applied| applied.index)
        };
        let log = Arc::clone(&self.shared.log);
        let read = move || log.read(from..last + 1, bytes_max);
        let entries = if self.shared.log.recent_from() <= from {
            read()
        } else {
            tokio::task::spawn_blocking(read).await.map_err(|_| FollowError::Stopped)?
        };
        let entries = entries.map_err(|error| FollowError::Storage { why: error.to_string() })?;
        // What lies below a snapshot of another node may never have been committed, until it is purged.
        let floor = self.shared.engine.progress().borrow().floor;
        if from < floor {
            return Err(FollowError::Compacted { first: floor });
        }
        if entries.is_empty() {
            return Err(FollowError::Compacted { first: self.shared.log.bounds().indexes().start });
        }
        let committed = |entry: crate::storage::Entry| {
            let command = Command::decode(&entry.payload)
                .map_err(|error| FollowError::Storage { why: error.to_string() })?;
            Ok(Committed { id: entry.id, command })
        };
        entries.into_iter().map(committed).collect()
    }

    /// The first index that can be followed.
    #[must_use]
    pub fn first_index(&self) -> u64 {
        self.shared.log.bounds().indexes().start
    }

    /// How far it has come, from now on.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.engine.progress()
    }

    /// Makes the replica that runs on a node of the topology a learner: it gets the log, and has no vote. At the leader. One
    /// that was wiped is another replica than before: take the one that it was out.
    ///
    /// # Errors
    ///
    /// [`MemberError`].
    pub async fn add(&self, node: &NodeId) -> Result<ReplicaId, MemberError> {
        let topology = self.shared.client.mesh().topology();
        let silent = || MemberError::Silent { why: format!("node `{node}` is not in the topology") };
        let spec = topology.node(node).ok_or_else(silent)?;
        let place = Place { node: spec.id.clone(), datacenter: spec.datacenter.clone() };
        self.shared.engine.add(place, self.shared.patience).await
    }

    /// Gives a learner that has caught up a vote. At the leader.
    ///
    /// # Errors
    ///
    /// [`MemberError`].
    pub async fn promote(&self, replica: ReplicaId) -> Result<(), MemberError> {
        self.shared.engine.promote(replica).await
    }

    /// Takes a replica out. At the leader; one that takes itself out stops leading.
    ///
    /// # Errors
    ///
    /// [`MemberError`].
    pub async fn remove(&self, replica: ReplicaId) -> Result<(), MemberError> {
        self.shared.engine.remove(replica).await
    }

    /// Has another voter lead, as before this one is stopped: sooner than an election would. At the leader. It is not certain
    /// that it does: [`status`](Self::status) tells.
    ///
    /// # Errors
    ///
    /// [`MemberError`].
    pub async fn transfer(&self, replica: ReplicaId) -> Result<(), MemberError> {
        self.shared.engine.transfer(replica).await
    }

    /// Takes a snapshot, from which on older entries are let go of.
    ///
    /// # Errors
    ///
    /// Where the engine stopped.
    pub async fn snapshot(&self) -> Result<(), ReadError> {
        self.shared.engine.snapshot().await.map_err(|why| ReadError::Stopped { why })
    }

    /// What it says of itself.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.engine.status()
    }

    /// What happened here, from an event's number on: lines of JSON, the oldest first. The newest 1,024 are kept; they outlive
    /// the process.
    #[must_use]
    pub fn events(&self, from: u64) -> Vec<Arc<str>> {
        self.shared.engine.events(from)
    }

    /// Resolves when the engine stopped by itself, and says why.
    pub async fn stopped(&self) -> String {
        self.shared.engine.stopped().await
    }

    /// Stops the engine. What was proposed and is not answered may be applied or not.
    pub async fn stop(&self) {
        self.shared.engine.stop().await;
    }

    /// Cluster time, µs.
    fn now(&self) -> u64 {
        self.shared.clock.read(Instant::now())
    }
}

/// Between tries, where nothing says that it is worth trying.
const RETRY: Duration = Duration::from_millis(50);
