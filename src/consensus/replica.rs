//! A replica, as the program around it holds it.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::oneshot;
use trunkline_mesh::{Client, Datacenter, Inbox, Mesh, NodeId, Topology, TopologyChangeError};

use super::access::Access;
use super::applied::Answer;
use super::applier::Applier;
use super::carrier::incoming;
use super::clock::ClusterClock;
use super::command::{Command, Request};
use super::digest::Digest;
use super::engine::{Engine, Parts, Progress, Timing};
use super::error::{MarkerError, MemberError, ProposeError, ReadError, StartError};
use super::events::Events;
use super::joined::Joined;
use super::machine::StateMachine;
use super::marker::{Marker, Markers};
use super::outcomes::Outcome;
use super::replica_id::{Membership, Place, ReplicaId};
use super::status::Status;
use super::time::Instant;
use super::watch;
use crate::storage::{DataDirectory, Directory, Disk, EntryId, Identity, LOG, Log, Options, Snapshots};

/// The longest operation, B: an append of it fits into a message of the mesh, whatever else is in it.
pub const OPERATION_BYTES_MAX: usize = 1 << 20;

/// The directory of the event log within that of the data.
const EVENTS: &str = "events";

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
    /// What became of it, where it is an operation and that is known: of the newest ones, as far back as there is room for
    /// 65,536 changes from one outcome to another, and answers of 1 KiB at most.
    pub outcome: Option<Outcome>,
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
    shared: Arc<Shared<M>>,
}

impl<M> Clone for Replica<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

struct Shared<M> {
    access: Access<M, Directory>,
    client: Client,
    joined: Arc<Mutex<Joined>>,
    /// Dropped or sent to, the engine's thread ends.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    // Last: the lock is let go of when all else has ended.
    _data: DataDirectory,
}

impl<M> Drop for Shared<M> {
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
            Ok::<_, StartError>(Place::known(spec.id.clone(), spec.datacenter.clone()))
        };
        let own_place = place(node)?;
        let founders = config.founders.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let cluster = topology.cluster().to_string();
        let identity = Identity { cluster: cluster.clone(), node: node.to_string() };
        let data = DataDirectory::open(&config.data)?;
        let own = ReplicaId(data.replica(&identity, || fastrand::u64(1..))?);
        let snapshots = Arc::new(Snapshots::open(data.sub_directory("snapshots")?, &cluster)?);
        let (log, found) = Log::open(data.sub_directory(LOG)?, identity, Options::new(fastrand::u64(..)))?;
        let log = Arc::new(log);
        let clock = Arc::new(ClusterClock::new(Instant::now()));
        let applier = Applier::start(machine, Arc::clone(&clock))?;
        let markers = Markers::new(Arc::clone(&log), Arc::clone(&snapshots));
        // The event log is no state: a replica does without.
        if let Err(error) = data.sub_directory(EVENTS) {
            tracing::warn!(%error, "the event log has no directory");
        }
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
            events: Events::open(&config.data.join(EVENTS))?,
            carrier: Arc::new(client.clone()),
            incoming: incoming(inbox),
        };
        let joined = Arc::<Mutex<Joined>>::default();
        let (followed, mesh) = (Arc::clone(&joined), client.mesh().clone());
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
                    tokio::spawn(follow_members(engine.clone(), mesh, followed));
                    // Sent to or dropped.
                    let _ = stopped.await;
                    engine.stop().await;
                }
            });
        })?;
        let gone = || StartError::Engine { why: "its thread ended".to_owned() };
        let engine = started.await.map_err(|_| gone())??;
        let patience = config.timing.patience;
        let shared = Shared {
            access: Access { engine, applier, clock, log, markers, patience, machine: PhantomData },
            client,
            joined,
            stop: Some(stop),
            thread: Some(thread),
            _data: data,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Opens a session: proposals in it are applied once, however often they are made.
    ///
    /// # Errors
    ///
    /// [`ProposeError`]. One that is not definite may leave a session behind that nobody uses.
    pub async fn open_session(&self) -> Result<u64, ProposeError> {
        self.shared.access.open_session().await
    }

    /// Has an operation replicated and applied, from whatever node this is. Within a session it is tried again as long as
    /// its outcome is not known.
    ///
    /// # Errors
    ///
    /// [`ProposeError`], which says whether that is definite.
    pub async fn propose(&self, request: Option<Request>, operation: Bytes) -> Result<Answer, ProposeError> {
        self.shared.access.propose(request, operation).await
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
        self.shared.access.read(consistency, look).await
    }

    /// Waits until this node has everything that a reader must see.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub async fn barrier(&self, consistency: Consistency) -> Result<(), ReadError> {
        self.shared.access.barrier(consistency).await
    }

    /// The digest of all that was applied here, and up to which entry.
    ///
    /// # Errors
    ///
    /// [`ReadError::Stopped`].
    pub async fn digest(&self) -> Result<Read<Digest>, ReadError> {
        self.shared.access.digest().await
    }

    /// The applied entries from an index on, as many of the first ones as have so many bytes, at least one; waits until
    /// there is one.
    ///
    /// # Errors
    ///
    /// [`FollowError`].
    pub async fn follow(&self, from: u64, bytes_max: usize) -> Result<Vec<Committed>, FollowError> {
        self.shared.access.follow(from, bytes_max).await
    }

    /// The first index that can be followed.
    #[must_use]
    pub fn first_index(&self) -> u64 {
        self.shared.access.log.bounds().indexes().start
    }

    /// How far it has come, from now on.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.access.engine.progress()
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
        let place = Place::known(spec.id.clone(), spec.datacenter.clone());
        self.shared.access.engine.add(place, self.shared.access.patience).await
    }

    /// As [`add`](Self::add), for a node that no file but its own names: all replicas take it into their topology, with the roles
    /// `origin` and `member`, once that is committed, and out of it when it is removed. So does `trunkline proxy`, which asks them; a
    /// program that is a proxy itself tells its mesh, and until then the node is sent to directly.
    ///
    /// # Errors
    ///
    /// [`MemberError`].
    pub async fn add_at(
        &self,
        node: NodeId,
        datacenter: Datacenter,
        address: SocketAddr,
    ) -> Result<ReplicaId, MemberError> {
        let mesh = self.shared.client.mesh();
        let place = Place { node, datacenter, address: Some(address) };
        let refused = |error: TopologyChangeError| MemberError::Refused { why: error.to_string() };
        self.joined().ask(mesh, &place).map_err(refused)?;
        // Whoever asked may go away meanwhile, as a client does that closes its connection.
        let asked = Asked { replica: self, place };
        self.shared.access.engine.add(asked.place.clone(), self.shared.access.patience).await
    }

    /// Has the mesh go on with another topology, as [`Mesh::set_topology`] does, and with the nodes that
    /// [joined](Self::add_at) beside it. Where one of them and a node of `topology` cannot both be, the latter stays.
    ///
    /// # Errors
    ///
    /// [`TopologyChangeError`]: nothing was changed.
    pub fn set_topology(&self, topology: &Arc<Topology>) -> Result<(), TopologyChangeError> {
        self.joined().set_topology(self.shared.client.mesh(), topology, &self.members())
    }

    /// Who is in the cluster by the last committed entry that says so, as far as this replica knows; `None`: it knows of none yet.
    #[must_use]
    pub fn membership(&self) -> Option<Membership> {
        self.joined().committed().cloned()
    }

    fn members(&self) -> Vec<Place> {
        let status = self.status();
        status.voters.into_iter().chain(status.learners).map(|(_, place)| place).collect()
    }

    fn joined(&self) -> MutexGuard<'_, Joined> {
        self.shared.joined.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a learner that has caught up a vote. At the leader.
    ///
    /// # Errors
    ///
    /// [`MemberError`].
    pub async fn promote(&self, replica: ReplicaId) -> Result<(), MemberError> {
        self.shared.access.engine.promote(replica).await
    }

    /// Takes a replica out. At the leader; one that takes itself out stops leading.
    ///
    /// # Errors
    ///
    /// [`MemberError`].
    pub async fn remove(&self, replica: ReplicaId) -> Result<(), MemberError> {
        self.shared.access.engine.remove(replica).await
    }

    /// Has another voter lead, as before this one is stopped: sooner than an election would. At the leader. It is not certain
    /// that it does: [`status`](Self::status) tells.
    ///
    /// # Errors
    ///
    /// [`MemberError`].
    pub async fn transfer(&self, replica: ReplicaId) -> Result<(), MemberError> {
        self.shared.access.engine.transfer(replica).await
    }

    /// If this replica leads, has the voter lead instead that has most of the log, as before it is [stopped](Self::stop): an election after
    /// that would take longer, with nobody who leads until then. Waits until the others heard of it, twice the election time at
    /// most, and no longer once all of them said that they stop too. Says who leads now; `None` where this one did not lead, or nobody else votes.
    ///
    /// # Errors
    ///
    /// [`MemberError`]: it is not certain that anybody else leads.
    pub async fn hand_over(&self) -> Result<Option<ReplicaId>, MemberError> {
        self.shared.access.engine.hand_over().await
    }

    /// Takes a snapshot, from which on older entries are let go of.
    ///
    /// # Errors
    ///
    /// Where the engine stopped.
    pub async fn snapshot(&self) -> Result<(), ReadError> {
        self.shared.access.engine.snapshot().await.map_err(|why| ReadError::Stopped { why })
    }

    /// Begins a snapshot that the program writes itself, while operations go on: one that takes long, or that somebody else has
    /// the state for. `look` sees the machine right after the marker's last entry was applied, and holds up operations until it
    /// returns: it takes a cheap copy. Then the program writes into the marker what [`StateMachine::restore`] takes, and
    /// [ends](Self::end_snapshot) it. To write none but such ones, set [`Timing::snapshot_entries`] to `u64::MAX`.
    ///
    /// ```no_run
    /// # use std::io::Read;
    /// # use trunkline::consensus::{Replica, StateMachine, key_value::KeyValue};
    /// # async fn example(replica: Replica<KeyValue>) -> Result<(), Box<dyn std::error::Error>> {
    /// let (mut marker, state) = replica.begin_snapshot(KeyValue::clone).await?;
    /// let written = tokio::task::spawn_blocking(move || {
    ///     // Operations go on; `state` stays as it was.
    ///     std::io::copy(&mut state.snapshot()?, &mut marker).map(|_| marker)
    /// });
    /// replica.end_snapshot(written.await??).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`MarkerError`]. Nothing was begun.
    pub async fn begin_snapshot<T: Send + 'static>(
        &self,
        look: impl FnOnce(&M) -> T + Send + 'static,
    ) -> Result<(Marker, T), MarkerError> {
        self.shared.access.begin_snapshot(look).await
    }

    /// Has what was written into a marker as the replica's snapshot, from which it starts again and which it gives to others:
    /// all of it or, after whatever crash, nothing. Entries up to the marker are let go of, with every segment of the log that
    /// has no others. Waits for a snapshot that the replica is writing at the moment.
    ///
    /// # Errors
    ///
    /// [`MarkerError`]. The snapshot before is still the replica's; after [`MarkerError::Stopped`] it may be this one.
    pub async fn end_snapshot(&self, marker: Marker) -> Result<(), MarkerError> {
        self.shared.access.end_snapshot(marker).await
    }

    /// What it says of itself.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.access.engine.status()
    }

    /// What happened here, from an event's number on: lines of JSON, the oldest first. The newest 1,024 are kept; they outlive
    /// the process.
    #[must_use]
    pub fn events(&self, from: u64) -> Vec<Arc<str>> {
        self.shared.access.engine.events(from)
    }

    /// Resolves when the engine stopped by itself, and says why.
    pub async fn stopped(&self) -> String {
        self.shared.access.engine.stopped().await
    }

    /// Stops the engine. What was proposed and is not answered may be applied or not.
    pub async fn stop(&self) {
        self.shared.access.engine.stop().await;
    }
}

/// A node that is asked to join, until it is known what became of that, or nobody wants to know any longer.
struct Asked<'a, M: StateMachine> {
    replica: &'a Replica<M>,
    place: Place,
}

impl<M: StateMachine> Drop for Asked<'_, M> {
    fn drop(&mut self) {
        let (mesh, members) = (self.replica.shared.client.mesh(), self.replica.members());
        self.replica.joined().asked(mesh, &self.place, &members);
    }
}

/// The mesh knows who joined, as long as they are members.
async fn follow_members<D: Disk>(engine: Engine<D>, mesh: Mesh, joined: Arc<Mutex<Joined>>) {
    let mut seen = None;
    while let Some(places) = engine.members(&mut seen).await {
        let Some(id) = seen else { continue };
        joined.lock().unwrap_or_else(PoisonError::into_inner).follow(&mesh, Membership { id, places });
    }
}
