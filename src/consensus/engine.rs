//! The Raft engine, which nothing outside of this module knows: openraft, pinned.
//!
//! Engine and outbox run on one thread, which does nothing else: encoding, TLS and sockets are on the mesh's threads, the
//! log's `fdatasync` and the state machine on theirs. What wakes all followers' tasks wakes them before the task that sends,
//! and so a tick's messages for a datacenter are one batch.

mod calls;
mod clocks;
mod heard;
mod lending;
mod log_store;
mod machine_store;
mod members;
mod message;
mod network;
mod outbox;
mod pace;
mod parts;
mod quorum;
mod receiver;
mod requests;
mod silences;
#[cfg(test)]
mod simulation;
mod stopping;
mod strangers;
#[cfg(test)]
mod tests;
mod timing;
mod types;
mod words;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{SnapshotPolicy, StepDownPolicy};
use tokio::sync::{RwLock, Semaphore};
use trunkline_mesh::Lane;

use self::calls::Calls;
use self::clocks::OwnTime;
use self::heard::Heard;
use self::lending::Lender;
use self::log_store::LogStore;
use self::machine_store::MachineStore;
use self::message::Body;
use self::network::{Network, Wire};
use self::outbox::Outbox;
use self::pace::Paces;
use self::quorum::Quorum;
use self::receiver::Receiver;
use self::requests::{FORWARDED_KIB_MAX, PROPOSALS_KIB_MAX, Requests};
use self::silences::Silences;
use self::stopping::Stopping;
use self::types::Types;
use super::applied::Answer;
use super::applier::Applier;
use super::carrier::{Carrier, Incoming};
use super::clock::ClusterClock;
use super::error::{MarkerError, MemberError, ProposeError, StartError};
use super::event::Event;
use super::events::Events;
use super::replica_id::{Place, ReplicaId};
use super::status::{NotReady, Role, Status};
use super::time::{Instant, sleep, timeout};
use super::{tasks, watch};
use crate::storage::{Disk, EntryId, Log, Recovered, Snapshots, StorageError};

pub use machine_store::Progress;
pub use outbox::{Counted, Sent, SnapshotBytes};
pub use timing::Timing;

type Raft<D> = openraft::Raft<Types, MachineStore<D>>;

/// What an engine is started with.
pub(super) struct Parts<D: Disk> {
    pub(super) own: ReplicaId,
    pub(super) cluster: String,
    /// Who founds the cluster, if it is not founded yet; empty where this node joins one.
    pub(super) founders: Vec<Place>,
    pub(super) place: Place,
    pub(super) timing: Timing,
    pub(super) log: Arc<Log<D>>,
    pub(super) found: Recovered,
    pub(super) snapshots: Arc<Snapshots<D>>,
    pub(super) applier: Applier,
    pub(super) clock: Arc<ClusterClock>,
    pub(super) events: Events,
    pub(super) carrier: Arc<dyn Carrier>,
    pub(super) incoming: Incoming,
}

/// An engine that runs. Clones are the same.
pub(super) struct Engine<D: Disk> {
    requests: Arc<Requests<D>>,
}

impl<D: Disk> Clone for Engine<D> {
    fn clone(&self) -> Self {
        Self { requests: Arc::clone(&self.requests) }
    }
}

impl<D: Disk> Engine<D> {
    /// Starts one, on the current runtime, which is its own.
    pub(super) async fn start(parts: Parts<D>) -> Result<Self, StartError> {
        let Parts {
            own,
            cluster,
            founders,
            place,
            timing,
            log,
            found,
            snapshots,
            applier,
            clock,
            events,
            carrier,
            incoming,
        } = parts;
        let config = Arc::new(config_of(cluster, timing)?);
        let newest = snapshots.newest().map(|snapshot| snapshot.last().index);
        if let Some(purged) = found.purged.map(|id| id.index).filter(|purged| newest < Some(*purged)) {
            return Err(StorageError::SnapshotsGone { purged, newest }.into());
        }
        let covered = Arc::clone(&snapshots);
        let covered = Box::new(move || covered.newest().map(|snapshot| snapshot.last().index));
        let store = LogStore::new(Arc::clone(&log), covered, &found, events.clone())?;
        let (tell, progress) = watch::channel(Progress::default());
        let machine = MachineStore::open(applier, Arc::clone(&snapshots), tell, events.clone()).await?;
        let quorum = Arc::new(Quorum::new(own));
        let wire = Arc::new(Wire {
            own,
            outbox: Outbox::new(carrier),
            calls: Calls::new(fastrand::u64(..)),
            patience: timing.patience,
            time: OwnTime::begin(),
            events,
            heard: Heard::new(own, timing.election, Arc::clone(&quorum)),
            quorum,
            stopping: Stopping::new(2 * timing.election),
            paces: Paces::new(place.datacenter.clone()),
            log_end: {
                let log = Arc::clone(&log);
                Box::new(move || log.bounds().indexes().end)
            },
            silences: Mutex::new(Silences::new(timing.election)),
            asked: Mutex::new(None),
        });
        let network = Network { wire: Arc::clone(&wire), disk: PhantomData };
        let raft = Raft::build(own, config, network, store, machine).await.map_err(StartError::engine)?;
        wire.heard.look_at(raft.metrics());
        let in_doubt = found.in_doubt.is_some();
        let vote = found.vote.as_deref().and_then(types::vote_of);
        // Before it was restarted it may have promised another leader for so long to vote for nobody else, itself included.
        let promised = vote
            .filter(|vote| vote.committed && vote.leader_id.voted_for != own)
            .map_or(Duration::ZERO, |_| timing.promise());
        if in_doubt || !promised.is_zero() {
            raft.runtime_config().elect(false);
        }
        let requests = Arc::new(Requests {
            raft: raft.clone(),
            wire: Arc::clone(&wire),
            progress,
            clock,
            in_doubt: AtomicBool::new(in_doubt),
            clocks_sure: AtomicBool::new(true),
            leases: AtomicBool::new(false),
            votes_from: Instant::now() + promised,
            last_word: timing.heartbeat,
            lease: timing.lease(),
            backed_within: timing.promise(),
            step: timing.step(),
            writes: RwLock::new(()),
            changing: tokio::sync::Mutex::new(()),
            drained_within: timing.election,
            own: Semaphore::new(PROPOSALS_KIB_MAX),
            of_peers: Semaphore::new(PROPOSALS_KIB_MAX),
            forwarded: Semaphore::new(FORWARDED_KIB_MAX),
        });
        let version = env!("CARGO_PKG_VERSION");
        wire.events.record(&Event::Started { replica: own, version, in_doubt });
        raft.run();
        tasks::spawn(clocks::watch(Arc::clone(&requests)));
        let lender = Lender::new(
            Arc::clone(&requests),
            Arc::clone(&wire),
            Arc::clone(&snapshots),
            timing.snapshot_entries,
        );
        let receiver = Receiver::new(raft.clone(), wire, snapshots, Arc::clone(&requests), lender);
        tasks::spawn(receiver.run(incoming));
        if in_doubt {
            tasks::spawn(requests::trust_when_caught_up(
                Arc::clone(&requests),
                log,
                vote.map_or(0, |vote| vote.leader_id.term),
            ));
        } else if !promised.is_zero() {
            tasks::spawn(requests::elect_again(Arc::clone(&requests)));
        }
        tasks::spawn(tell_of_leaders(Arc::clone(&requests)));
        let engine = Self { requests };
        engine.begin(founders, &place).await?;
        Ok(engine)
    }

    /// Founds the cluster, or has an election at once where nobody else can win it.
    async fn begin(&self, founders: Vec<Place>, place: &Place) -> Result<(), StartError> {
        let raft = &self.requests.raft;
        if raft.is_initialized().await.map_err(StartError::engine)? {
            let (alone, followed) = {
                let metrics = raft.metrics();
                let metrics = metrics.borrow_watched();
                let membership = metrics.membership_config.membership();
                (
                    membership.voter_ids().eq([self.requests.wire.own]),
                    membership.learner_ids().next().is_some(),
                )
            };
            // What it promised another leader before its restart holds also where it is the only voter by now; and what it may have lost,
            // a learner may have.
            let promised = Instant::now() < self.requests.votes_from;
            if alone && !promised && !(self.requests.in_doubt() && followed) {
                raft.trigger().elect(false).await.map_err(StartError::engine)?;
            }
            return Ok(());
        }
        // One of them does it: who is first by name.
        if founders.iter().map(|founder| &founder.node).min() == Some(&place.node) {
            if founders.len() == 1 {
                let members = BTreeMap::from([(self.requests.wire.own, place.clone())]);
                raft.initialize(members).await.map_err(StartError::engine)?;
            } else {
                tasks::spawn(found(Arc::clone(&self.requests), founders, place.clone()));
            }
        }
        Ok(())
    }

    pub(super) async fn propose(
        &self,
        command: bytes::Bytes,
        patience: Duration,
    ) -> Result<Answer, ProposeError> {
        self.requests.propose(command, patience).await
    }

    pub(super) async fn barrier(&self, lease: bool, patience: Duration) -> Option<Option<EntryId>> {
        self.requests.barrier(lease, patience).await
    }

    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.requests.progress.clone()
    }

    /// Resolves when somebody else leads, or somebody does at all.
    pub(super) async fn leader_changes(&self) {
        let mut metrics = self.requests.raft.server_metrics();
        let before = metrics.borrow_watched().current_leader;
        while metrics.changed().await.is_ok() {
            if metrics.borrow_watched().current_leader != before {
                return;
            }
        }
        std::future::pending().await
    }

    /// Resolves when a membership is committed that is not the one of `seen`, and says who is in it. None when the engine ended.
    pub(super) async fn members(&self, seen: &mut Option<EntryId>) -> Option<Vec<Place>> {
        let mut metrics = self.requests.raft.metrics();
        loop {
            {
                let metrics = metrics.borrow_watched();
                let since = metrics.membership_config.log_id().as_ref().map(types::id_of);
                let committed = metrics.local_committed.as_ref().map(types::id_of);
                if since.is_some() && since != *seen && since <= committed {
                    *seen = since;
                    let membership = metrics.membership_config.membership();
                    return Some(membership.nodes().map(|(_, place)| place.clone()).collect());
                }
            }
            metrics.changed().await.ok()?;
        }
    }

    pub(super) async fn stopped(&self) -> String {
        let mut metrics = self.requests.raft.metrics();
        loop {
            let ended = metrics.borrow_watched().running_state.as_ref().err().map(words::stopped);
            match ended {
                Some(why) => return why,
                None if metrics.changed().await.is_err() => return "its task ended".to_owned(),
                None => {}
            }
        }
    }

    pub(super) fn status(&self) -> Status {
        let metrics = self.requests.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let place = |id: ReplicaId| membership.get_node(&id).map(|place| (id, place.clone()));
        let not_ready = self.requests.wire.heard.not_ready(&metrics);
        let unknown = matches!(not_ready, Some(NotReady::NoLeader { .. } | NotReady::NoMajority { .. }));
        Status {
            replica: self.requests.wire.own,
            role: match metrics.state {
                openraft::ServerState::Leader => Role::Leader,
                openraft::ServerState::Candidate => Role::Candidate,
                openraft::ServerState::Follower => Role::Follower,
                openraft::ServerState::Learner | openraft::ServerState::Shutdown => Role::Learner,
            },
            term: metrics.current_term,
            leader: metrics.current_leader.filter(|_| !unknown).and_then(place),
            voters: membership.voter_ids().filter_map(place).collect(),
            learners: membership.learner_ids().filter_map(place).collect(),
            last: metrics.last_log_index,
            committed: metrics.local_committed.as_ref().map(types::id_of),
            applied: metrics.last_applied.as_ref().map(types::id_of),
            snapshot: metrics.snapshot.as_ref().map(types::id_of),
            purged: metrics.purged.as_ref().map(types::id_of),
            in_doubt: self.requests.in_doubt(),
            clocks_sure: self.requests.clocks_sure.load(Ordering::Relaxed),
            leases: self.requests.leases.load(Ordering::Relaxed),
            snapshots_failed: self.requests.progress.borrow().snapshots_failed,
            not_ready,
            stopped: metrics.running_state.as_ref().err().map(words::stopped),
            sent: self.requests.wire.outbox.sent(),
        }
    }

    pub(super) async fn add(&self, place: Place, patience: Duration) -> Result<ReplicaId, MemberError> {
        self.requests.add(place, patience).await
    }

    pub(super) async fn promote(&self, replica: ReplicaId) -> Result<(), MemberError> {
        self.requests.promote(replica).await
    }

    pub(super) async fn remove(&self, replica: ReplicaId) -> Result<(), MemberError> {
        self.requests.remove(replica).await
    }

    pub(super) async fn transfer(&self, replica: ReplicaId) -> Result<(), MemberError> {
        self.requests.transfer(replica).await
    }

    pub(super) async fn hand_over(&self) -> Result<Option<ReplicaId>, MemberError> {
        self.requests.hand_over_to_any().await
    }

    /// Takes a snapshot now, and lets go of the entries it has.
    pub(super) async fn snapshot(&self) -> Result<(), String> {
        self.requests.raft.trigger().snapshot().await.map_err(|error| words::stopped(&error))
    }

    /// Has the engine know of a snapshot that the program wrote, and let go of the entries in it; not before another one that is
    /// being written is there.
    pub(super) async fn adopt(&self, last: EntryId) -> Result<(), MarkerError> {
        let raft = &self.requests.raft;
        let mut progress = self.requests.progress.clone();
        let gone = || MarkerError::stopped("its tasks ended");
        // It was looked at when it was applied, which may not have been told yet.
        progress.wait_for(|progress| progress.applied >= Some(last)).await.map_err(|_| gone())?;
        let told = loop {
            raft.trigger().snapshot().await.map_err(MarkerError::stopped)?;
            // While another one is being written nobody listens.
            let told = progress.wait_for(|progress| progress.snapshot >= Some(last));
            if let Ok(told) = timeout(ASKED_AGAIN_AFTER, told).await {
                break told.is_ok();
            }
        };
        if !told {
            return Err(gone());
        }
        let mut metrics = raft.metrics();
        while metrics.borrow_watched().snapshot.as_ref().map(types::id_of) < Some(last) {
            metrics.changed().await.map_err(|_| gone())?;
        }
        raft.trigger().purge_log(last.index).await.map_err(MarkerError::stopped)
    }

    /// Lines of the event log from a number on.
    pub(super) fn events(&self, from: u64) -> Vec<Arc<str>> {
        self.requests.wire.events.from(from)
    }

    pub(super) async fn stop(&self) {
        self.requests.wire.events.record(&Event::Stops);
        // It is stopped either way.
        let _ = self.requests.raft.shutdown().await;
    }
}

fn config_of(cluster: String, timing: Timing) -> Result<openraft::Config, StartError> {
    let millis = |span: Duration| u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    let config = openraft::Config {
        cluster_name: cluster,
        heartbeat_interval: millis(timing.heartbeat),
        // A follower promises the second of these, and after that waits for what it draws between them.
        election_timeout_min: millis(timing.drawn_least()),
        election_timeout_max: millis(timing.promise()),
        enable_pre_vote: Some(true),
        // Its state comes from its own log: it could lead with less than it knew to be committed.
        enable_leader_restore: Some(false),
        // A node that lost the end of its log says so by its doubt, and is sent it again.
        allow_log_reversion: Some(true),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(timing.snapshot_entries),
        // A follower that is so far behind is not sent a snapshot as long as the log has what it needs.
        replication_lag_threshold: u64::MAX,
        max_in_snapshot_log_to_keep: timing.snapshot_entries / 2,
        install_snapshot_timeout: millis(timing.patience),
        // Where there is no room the engine waits, and sends no heartbeat. Each place is for an entry at least.
        state_machine_channel_size: Some(2 * requests::UNAPPLIED_MAX),
        removed_leader_step_down: StepDownPolicy::After(millis(timing.election)),
        ..openraft::Config::default()
    };
    config.validate().map_err(|error| StartError::Timing { why: error.to_string() })
}

/// Logs who leads, from one to the next.
async fn tell_of_leaders<D: Disk>(requests: Arc<Requests<D>>) {
    let mut metrics = requests.raft.server_metrics();
    let mut before = None;
    loop {
        let (leader, term) = {
            let metrics = metrics.borrow_watched();
            let leader_id = metrics.vote.leader_id;
            if metrics.current_leader == Some(requests.wire.own) && metrics.current_leader != before {
                requests.wire.heard.of(leader_id, true);
            }
            (metrics.current_leader, leader_id.term)
        };
        if leader != before {
            before = leader;
            let place = leader.and_then(|leader| requests.place_of(leader));
            let node = place.map(|place| place.node);
            requests.wire.events.record(&Event::Leader { term, replica: leader, node });
            match leader {
                Some(leader) if leader == requests.wire.own => tracing::info!(term, "this replica leads"),
                Some(leader) => match requests.place_of(leader) {
                    Some(place) => tracing::info!(term, "{place} leads"),
                    None => tracing::info!(term, "replica {leader} leads"),
                },
                None => tracing::info!(term, "nobody leads"),
            }
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Between two words to the engine that a snapshot is there.
const ASKED_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Between two questions to those who found the cluster.
const FOUNDERS_ASKED_EVERY: Duration = Duration::from_millis(200);

/// Asks all founders who they are, until all said it. One that has a log already ends it: the cluster was founded, and this
/// node's directory is a new one.
async fn found<D: Disk>(requests: Arc<Requests<D>>, founders: Vec<Place>, place: Place) {
    let patience = requests.wire.patience;
    loop {
        let others = founders.iter().filter(|founder| founder.node != place.node);
        let asked = others.map(|founder| async {
            let answer = requests.wire.ask((None, founder), Lane::Control, Body::Who, patience).await;
            (founder.clone(), answer)
        });
        let mut members = BTreeMap::from([(requests.wire.own, place.clone())]);
        for (founder, answer) in futures_util::future::join_all(asked).await {
            match answer {
                Ok((replica, Body::IAm { founded: false, .. })) => drop(members.insert(replica, founder)),
                Ok((_, Body::IAm { founded: true, .. })) => {
                    tracing::warn!(
                        "{founder} is of a cluster that was founded already: this node's data directory is new, and it \
                         waits until it is added"
                    );
                    return;
                }
                Ok(_) => {}
                Err(why) => tracing::info!("the cluster is not founded yet: {why}"),
            }
        }
        if members.len() == founders.len() {
            match requests.raft.initialize(members).await {
                Ok(()) => tracing::info!("the cluster is founded, with {} voters", founders.len()),
                Err(error) => tracing::error!(%error, "the cluster cannot be founded"),
            }
            return;
        }
        // Two that say the same number, as a directory that was copied does, say it at once.
        sleep(FOUNDERS_ASKED_EVERY).await;
    }
}

impl StartError {
    fn engine(error: impl std::fmt::Display) -> Self {
        Self::Engine { why: error.to_string() }
    }
}
