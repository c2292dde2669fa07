//! One simulated node: a replica on disks of its own, which runs or does not.

use std::future::poll_fn;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use tokio::time::sleep;

use super::super::super::access::Access;
use super::super::super::applier::{Applier, Task, Worker, snapshot};
use super::super::super::clock::ClusterClock;
use super::super::super::events::Events;
use super::super::super::key_value::KeyValue;
use super::super::super::machine::StateMachine;
use super::super::super::marker::Markers;
use super::super::super::replica_id::{Place, ReplicaId};
use super::super::super::session::Sessions;
use super::super::super::tasks;
use super::super::super::tasks::scope::Scope;
use super::super::super::time::Instant;
use super::super::requests::Requests;
use super::super::{Engine, Parts, Timing};
use super::checker::Checker;
use super::faults::{Counts, Fault};
use super::net::Net;
use super::planted::Planted;
use super::trace::Trace;
use crate::storage::faulty::FaultyDisk;
use crate::storage::{Identity, Log, Options, Snapshots, StorageError, Writer};

/// What all nodes of a run have.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) net: Net,
    pub(super) checker: Checker,
    pub(super) trace: Trace,
    pub(super) counts: Counts,
    pub(super) planted: Option<Planted>,
    pub(super) timing: Timing,
    pub(super) founders: Vec<Place>,
}

pub(super) struct Node {
    pub(super) index: usize,
    pub(super) place: Place,
    pub(super) own: ReplicaId,
    pub(super) log: FaultyDisk,
    /// As it was when the power went.
    log_before: FaultyDisk,
    pub(super) snapshots: FaultyDisk,
    /// How often it was started.
    pub(super) life: u64,
    pub(super) running: Option<Running>,
    /// Its log was damaged: it does not start any longer.
    pub(super) damaged: bool,
    /// Its machine cannot say what its state is.
    pub(super) mute: Arc<AtomicBool>,
}

/// A process.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) scope: Scope,
    pub(super) access: Arc<Access<Watched, FaultyDisk>>,
    pub(super) snapshots: Arc<Snapshots<FaultyDisk>>,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It is killed: all that it wrote is there.
    Kill,
    /// The power goes: what was not synced is there or not.
    PowerLoss,
}

impl Node {
    pub(super) fn new(index: usize, place: Place, own: ReplicaId) -> Self {
        Self {
            index,
            place,
            own,
            log: FaultyDisk::default(),
            log_before: FaultyDisk::default(),
            snapshots: FaultyDisk::default(),
            life: 0,
            running: None,
            damaged: false,
            mute: Arc::default(),
        }
    }

    pub(super) fn identity(&self) -> Identity {
        Identity { cluster: "simulated".to_owned(), node: self.place.node.to_string() }
    }

    /// Starts it. It may be dead when this returns: its disk may have failed.
    pub(super) async fn start(
        &mut self,
        around: &Surroundings,
        damaged: bool,
        (disk, seed): (Duration, u64),
    ) {
        self.life += 1;
        if around.planted == Some(Planted::TailLost) && around.checker.heard_of_another_leader(self.index) {
            self.lose_tail();
        }
        match around.planted {
            Some(Planted::AckBeforeSync) => self.log.lie_about("segment"),
            Some(Planted::VoteNotPersisted) => self.log.lie_about("vote"),
            _ => {}
        }
        let scope = Scope::new(disk, around.trace.began());
        let begun = scope.run(self.begin(around, &scope, (damaged, seed))).await;
        match begun {
            Some(Ok(running)) => {
                around.trace.note(format_args!("node {} runs", self.index));
                self.running = Some(running);
            }
            Some(Err(why)) => {
                around.trace.note(format_args!("node {} does not start: {why}", self.index));
                scope.kill();
                around.net.leave(self.index);
            }
            None => {}
        }
    }

    async fn begin(
        &mut self,
        around: &Surroundings,
        scope: &Scope,
        (damaged, seed): (bool, u64),
    ) -> Result<Running, String> {
        let identity = self.identity();
        // Many segments, and entries that are read from the disk.
        let options = Options { segment_bytes_max: 8 << 10, recent_bytes_max: 4 << 10, ..Options::new(seed) };
        let opened = Log::open_idle(self.log.clone(), identity.clone(), options);
        let (log, writer, mut found) = opened.map_err(|error| {
            self.damaged = matches!(error, StorageError::Corrupt { .. });
            error.to_string()
        })?;
        if matches!(around.planted, Some(Planted::CutAtDamage | Planted::TailLost)) {
            found.in_doubt = None;
        }
        // What was damaged may be gone, if the node says so.
        if damaged && found.in_doubt.is_some() {
            around.checker.doubts(self.index);
        }
        around.checker.starts(self.index, (&self.log, &self.snapshots), &identity, (&found, &log));
        if around.planted == Some(Planted::CommitForgotten) {
            found.committed = 0;
        }
        let snapshots = Snapshots::open(self.snapshots.clone(), &identity.cluster);
        let snapshots = Arc::new(snapshots.map_err(|error| error.to_string())?);
        tasks::spawn(write(writer, scope.clone()));
        let clock = Arc::new(ClusterClock::new(Instant::now()));
        let machine = Watched {
            machine: KeyValue::default(),
            node: self.index,
            checker: around.checker.clone(),
            trace: around.trace.clone(),
            mute: (Arc::clone(&self.mute), around.counts.clone()),
        };
        let (applier, worker) = Applier::new(machine, Arc::clone(&clock));
        tasks::spawn(apply(worker, (self.index, around.checker.clone()), around.planted));
        let (carrier, incoming) = around.net.join(self.index, self.life, scope);
        let log = Arc::new(log);
        let parts = Parts {
            own: self.own,
            cluster: identity.cluster,
            founders: around.founders.clone(),
            place: self.place.clone(),
            timing: around.timing,
            log: Arc::clone(&log),
            found,
            snapshots: Arc::clone(&snapshots),
            applier: applier.clone(),
            clock: Arc::clone(&clock),
            events: Events::in_memory(),
            carrier,
            incoming,
        };
        let engine = Engine::start(parts).await.map_err(|error| error.to_string())?;
        match around.planted {
            // The doubt itself lasts until the node has caught up.
            Some(Planted::VoteInDoubt) => {
                engine.requests.in_doubt.store(false, Ordering::Relaxed);
                engine.requests.raft.runtime_config().elect(true);
            }
            Some(Planted::OwnCandidacy) if self.life > 1 => {
                let raft = engine.requests.raft.clone();
                tasks::spawn(async move { drop(raft.trigger().elect(false).await) });
            }
            Some(Planted::TimesOfEngine) => tasks::spawn(all_taken(Arc::clone(&engine.requests))),
            Some(Planted::LeaseWithoutGuard) => tasks::spawn(always_sure(Arc::clone(&engine.requests))),
            _ => {}
        }
        let patience = around.timing.patience;
        let markers = Markers::new(Arc::clone(&log), Arc::clone(&snapshots));
        let access = Access { engine, applier, clock, log, markers, patience, machine: PhantomData };
        Ok(Running { scope: scope.clone(), access: Arc::new(access), snapshots })
    }

    /// Its disks are new, and it is another replica.
    pub(super) fn wipe(&mut self, own: ReplicaId) {
        (self.log, self.snapshots, self.own) = (FaultyDisk::default(), FaultyDisk::default(), own);
        self.damaged = false;
    }

    /// Its newest entries are gone.
    fn lose_tail(&self) {
        let segments = self.log.names().into_iter().filter(|name| name.ends_with(".log"));
        if let Some(newest) = segments.max() {
            // The head of a segment, and half of its records.
            self.log.damage(&newest, |bytes| bytes.truncate(128 + bytes.len().saturating_sub(128) / 2));
        }
    }

    /// Of what a loss of power can leave it leaves the least.
    pub(super) fn lose_what_is_not_synced(&mut self) {
        self.log = self.log_before.durable();
    }

    /// Its machine is booted again where a disk takes nothing more: what was not durable is gone.
    pub(super) fn boot_if_refused(&mut self) {
        for disk in [&mut self.log, &mut self.snapshots] {
            if disk.refuses() {
                *disk = disk.durable();
            }
        }
    }

    /// Ends it at once.
    pub(super) fn end(&mut self, around: &Surroundings, end: End, luck: &mut fastrand::Rng) {
        let Some(running) = self.running.take() else { return };
        around.trace.note(format_args!("node {}: {end:?}", self.index));
        running.scope.kill();
        around.net.leave(self.index);
        for panic in running.scope.take_panics() {
            around.checker.violated(format!("node {} panicked: {panic}", self.index));
        }
        let (log, snapshots) = match end {
            End::Kill => (self.log.after_kill(), self.snapshots.after_kill()),
            End::PowerLoss => (self.log.after_power_loss(luck), self.snapshots.after_power_loss(luck)),
        };
        self.log_before = std::mem::replace(&mut self.log, log);
        self.snapshots = snapshots;
    }
}

/// Whatever the clocks show, they are taken for sure.
async fn always_sure(requests: Arc<Requests<FaultyDisk>>) {
    loop {
        requests.leases.store(true, Ordering::Relaxed);
        requests.wire.time.look();
        sleep(Duration::from_millis(10)).await;
    }
}

/// Everything is taken by everybody: what the engine says is all that a leader goes by.
async fn all_taken(requests: Arc<Requests<FaultyDisk>>) {
    loop {
        let (quorum, raft) = (&requests.wire.quorum, &requests.raft);
        let term = raft.metrics().borrow_watched().current_term;
        for (voter, _) in requests.voters_led().into_iter().flatten() {
            quorum.is_taken(voter, term, quorum.sends());
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// The log's thread.
async fn write(mut writer: Writer<FaultyDisk>, scope: Scope) {
    while poll_fn(|context| writer.poll_work(context)).await {
        sleep(scope.disk()).await;
        writer.step();
    }
}

/// The machine's thread.
async fn apply(mut worker: Worker<Watched>, (node, checker): (usize, Checker), planted: Option<Planted>) {
    while let Some(task) = worker.waiting.recv().await {
        match task {
            Task::Snapshot(answer) if planted == Some(Planted::SessionsNotInSnapshot) => {
                let mut none = Vec::new();
                Sessions::default().encode(&mut none);
                let none = Bytes::from(none);
                let taken = snapshot(&worker.state);
                let without = taken.map(|taken| {
                    taken.map(|(mut head, content)| {
                        head.sessions = none;
                        (head, content)
                    })
                });
                drop(answer.send(without));
            }
            task => worker.work(task),
        }
        if let Some(last) = worker.state.last {
            checker.digests(node, last, worker.state.digest);
        }
    }
}

/// Keys and values, and somebody who looks on.
pub(super) struct Watched {
    pub(super) machine: KeyValue,
    node: usize,
    checker: Checker,
    trace: Trace,
    mute: (Arc<AtomicBool>, Counts),
}

impl StateMachine for Watched {
    fn apply(&mut self, id: u64, operation: Bytes) -> Bytes {
        self.trace.note(format_args!("node {} applies {id}", self.node));
        let answer = self.machine.apply(id, operation.clone());
        self.checker.applies(self.node, id, &operation, &answer);
        answer
    }

    fn snapshot(&self) -> io::Result<impl Read + Send + 'static> {
        if self.mute.0.load(Ordering::Relaxed) {
            self.mute.1.struck(Fault::NoSnapshot);
            return Err(io::Error::other("this machine is told to fail"));
        }
        self.machine.snapshot()
    }

    fn restore(&mut self, from: impl Read) -> io::Result<()> {
        self.checker.restores(self.node);
        self.machine.restore(from)
    }
}
