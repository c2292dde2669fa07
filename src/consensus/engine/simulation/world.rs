//! One run: five voters in three datacenters and a node to spare, clients, subscribers, and what the seed has go wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use trunkline_mesh::{Datacenter, NodeId};

use super::super::super::access::Access;
use super::super::super::error::MarkerError;
use super::super::super::key_value::Operation;
use super::super::super::machine::StateMachine;
use super::super::super::replica_id::{Place, ReplicaId};
use super::super::super::status::Role;
use super::super::Timing;
use super::checker::{Checker, has, newest_snapshot};
use super::clients::{Client, Cluster, Notes};
use super::faults::{Fault, Swarm};
use super::net::Net;
use super::node::{End, Node, Running, Surroundings, Watched};
use super::planted::Planted;
use super::subscribers::{Seen, Subscriber};
use super::trace::Trace;
use crate::consensus::history;
use crate::storage::faulty::{Fault as DiskFault, FaultyDisk};
use crate::storage::{EntryId, Log, Options};

/// Between looks at everything.
const TICK: Duration = Duration::from_millis(50);
/// The last node is no founder.
const NODES: [(&str, &str); 6] =
    [("us-1", "us"), ("us-2", "us"), ("eu-1", "eu"), ("eu-2", "eu"), ("ap-1", "ap"), ("ap-2", "ap")];
pub(super) const SPARE: usize = 5;
/// Nodes that may be without a vote at once, because their logs are damaged or in doubt.
const LOST_MAX: usize = 2;
/// How long a cluster may take until it is well again.
const RECOVERY: Duration = Duration::from_secs(90);

/// What a run gave.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) violations: Vec<String>,
    /// Equal where the same happened, and how much did.
    pub(super) trace: (u64, u64),
    /// Operations of clients that were answered.
    pub(super) answered: usize,
    /// Entries that subscribers got.
    pub(super) followed: usize,
    /// Terms that somebody led in.
    pub(super) terms: usize,
    /// Faults and events of the nodes, by kind.
    pub(super) seen: BTreeMap<String, u64>,
    /// When somebody led first, and what a change took in the mean, µs.
    pub(super) first_led: Option<u64>,
    pub(super) mean_put: u64,
    pub(super) swarm: Swarm,
}

pub(super) struct World {
    luck: fastrand::Rng,
    around: Surroundings,
    nodes: Vec<Node>,
    cluster: Cluster,
    swarm: Swarm,
    /// When a node is started again, or goes on.
    starts: BTreeMap<usize, Instant>,
    resumes: BTreeMap<usize, Instant>,
    /// Disks that were told to fail.
    failing: BTreeMap<usize, End>,
    /// Their logs lost something that they had acknowledged, and say so.
    doubtful: BTreeMap<usize, bool>,
    damages: BTreeMap<usize, bool>,
    committed: Option<EntryId>,
    /// Replicas whose disks were wiped, and who is to be put in their place.
    replaced: Replaced,
    seen: BTreeMap<String, u64>,
}

/// Nodes whose disks were wiped, until they vote again. Clones are the same.
#[derive(Clone, Default)]
struct Replaced(Arc<Mutex<BTreeSet<usize>>>);

impl Replaced {
    fn begin(&self, index: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(index);
    }

    fn end(&self, index: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&index);
    }

    fn contains(&self, index: usize) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&index)
    }
}

/// Puts a replica in the place of another one, as an operator would: at whoever leads, as often as it takes.
async fn replace(
    cluster: &Cluster,
    mut luck: fastrand::Rng,
    (old, new, place): (ReplicaId, ReplicaId, Place),
) {
    loop {
        sleep(Duration::from_millis(luck.u64(200..2_000))).await;
        let Some(leader) = cluster.any(&mut luck) else { continue };
        let engine = &leader.access.engine;
        let status = engine.status();
        if status.role != Role::Leader {
            continue;
        }
        let is_in = |list: &[(ReplicaId, Place)], which| list.iter().any(|(replica, _)| *replica == which);
        let (votes, known) = (is_in(&status.voters, new), is_in(&status.learners, new));
        let has_old = is_in(&status.voters, old) || is_in(&status.learners, old);
        if votes && !has_old {
            return;
        }
        let change = async {
            if has_old {
                engine.remove(old).await
            } else if known {
                engine.promote(new).await
            } else {
                engine.add(place.clone(), Duration::from_secs(5)).await.map(drop)
            }
        };
        drop(leader.scope.run(timeout(Duration::from_secs(10), change)).await);
    }
}

/// As a program does that writes it itself, and takes its time.
async fn write_snapshot(access: &Access<Watched, FaultyDisk>, takes: Duration) -> Result<(), MarkerError> {
    let (mut marker, state) = access.begin_snapshot(|machine| machine.machine.clone()).await?;
    sleep(takes).await;
    let written = state.snapshot().and_then(|mut content| std::io::copy(&mut content, &mut marker));
    written.map_err(MarkerError::disk)?;
    access.end_snapshot(marker).await
}

/// Runs a seed.
pub(super) fn run(seed: u64, planted: Option<Planted>, swarm: Option<Swarm>) -> Outcome {
    // The engine draws from it.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime can be made").block_on(async move {
        let mut luck = fastrand::Rng::with_seed(seed);
        let drawn = Swarm::draw(&mut luck);
        World::new(luck, planted, swarm.unwrap_or(drawn)).run().await
    })
}

impl World {
    fn new(mut luck: fastrand::Rng, planted: Option<Planted>, swarm: Swarm) -> Self {
        let places: Vec<Place> = NODES
            .iter()
            .map(|(node, datacenter)| Place {
                node: NodeId::new(node).expect("it is a name"),
                datacenter: Datacenter::new(datacenter).expect("it is a name"),
            })
            .collect();
        let trace = Trace::new();
        let checker = Checker::new(trace.clone());
        let net = Net::new(places.clone(), luck.fork(), planted, (checker.clone(), trace.clone()));
        let timing = Timing { snapshot_entries: swarm.snapshot_entries, ..Timing::default() };
        let nodes = places.iter().enumerate();
        let nodes = nodes.map(|(index, place)| Node::new(index, place.clone(), ReplicaId(luck.u64(1..))));
        let nodes = nodes.collect();
        let founders = places[..SPARE].to_vec();
        let around = Surroundings { net, checker, trace, planted, timing, founders };
        Self {
            luck,
            around,
            nodes,
            cluster: Cluster::default(),
            swarm,
            starts: BTreeMap::new(),
            resumes: BTreeMap::new(),
            failing: BTreeMap::new(),
            doubtful: BTreeMap::new(),
            damages: BTreeMap::new(),
            committed: None,
            replaced: Replaced::default(),
            seen: BTreeMap::new(),
        }
    }

    async fn run(mut self) -> Outcome {
        for index in 0..self.nodes.len() {
            self.start(index).await;
        }
        let (notes, seen) = (Notes::default(), Seen::default());
        let clients: Vec<JoinHandle<()>> = (0..self.swarm.clients)
            .map(|number| {
                let told = (self.cluster.clone(), notes.clone());
                let pause = self.swarm.client_pause;
                tokio::spawn(Client::new(number, self.luck.fork(), told, self.around.clone(), pause).run())
            })
            .collect();
        let subscribers: Vec<JoinHandle<()>> = (0..2)
            .map(|_| {
                let (cluster, around, seen) = (self.cluster.clone(), self.around.clone(), seen.clone());
                tokio::spawn(Subscriber { luck: self.luck.fork(), cluster, around, seen }.run())
            })
            .collect();
        let end = Instant::now() + self.swarm.lasts;
        let mut next = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end && self.around.checker.violations().is_empty() {
            sleep(TICK).await;
            self.tick().await;
            if Instant::now() >= next {
                let pause = u64::try_from(self.swarm.pause.as_millis()).unwrap_or(u64::MAX);
                next = Instant::now() + Duration::from_millis(self.luck.u64(1..=pause));
                if let Some(fault) = self.luck.choice(self.swarm.faults.clone()) {
                    self.happens(fault);
                }
            }
        }
        self.around.trace.note(format_args!("all is well from here on"));
        self.mend();
        self.recover(&clients).await;
        subscribers.iter().for_each(JoinHandle::abort);
        self.judge(&notes);
        (0..self.nodes.len()).for_each(|index| self.count_events(index));
        Outcome {
            violations: self.around.checker.violations(),
            trace: self.around.trace.sum(),
            answered: notes.answered(),
            followed: seen.entries(),
            terms: self.around.checker.terms(),
            seen: self.seen,
            first_led: self.around.checker.first_led(),
            mean_put: notes.mean_put(),
            swarm: self.swarm,
        }
    }

    /// Holds what clients were told against what was applied.
    fn judge(&self, notes: &Notes) {
        let history = notes.history(&self.around.checker);
        if let Err(why) = history::check(&history) {
            self.around.checker.violated(format!("the history is not linearizable: {why}"));
        }
    }

    async fn start(&mut self, index: usize) {
        let (disk, seed) = (self.swarm.disk, self.luck.u64(..));
        let node = &mut self.nodes[index];
        if node.damaged || node.running.is_some() {
            return;
        }
        let damaged = self.damages.remove(&index).is_some();
        node.start(&self.around, damaged, (disk, seed)).await;
        if node.running.is_none() && !node.damaged {
            // Its disk failed once more.
            self.starts.insert(index, Instant::now() + Duration::from_secs(1));
        }
        self.publish();
    }

    fn publish(&self) {
        self.cluster.set(self.nodes.iter().map(|node| node.running.clone()).collect());
    }

    /// Ends a process, which is started again after a while.
    fn end(&mut self, index: usize, end: End) {
        let after = Duration::from_millis(self.luck.u64(50..5_000));
        self.failing.remove(&index);
        self.resumes.remove(&index);
        let lost = self.lost(index);
        self.count_events(index);
        let node = &mut self.nodes[index];
        if node.running.is_none() {
            return;
        }
        node.end(&self.around, end, &mut self.luck);
        let opened = Log::open_idle(node.log.copy(), node.identity(), Options::new(0));
        let mut doubtful = opened.is_ok_and(|(_, _, found)| found.in_doubt.is_some());
        if doubtful && lost >= LOST_MAX && !self.doubtful.contains_key(&index) {
            // As many nodes would be in doubt as it takes to elect nobody, which is known and told of.
            node.lose_what_is_not_synced();
            doubtful = false;
        }
        if doubtful {
            self.doubtful.insert(index, true);
        }
        self.starts.insert(index, Instant::now() + after);
        self.publish();
    }

    /// What a process tells of itself.
    fn count_events(&mut self, index: usize) {
        let Some(running) = &self.nodes[index].running else { return };
        for line in running.access.engine.events(0) {
            let event = serde_json::from_str::<serde_json::Value>(&line).unwrap_or_default();
            let kind = event["kind"].as_str().unwrap_or("none");
            *self.seen.entry(kind.to_owned()).or_default() += 1;
        }
    }

    /// How many other nodes are without a vote.
    fn lost(&self, but: usize) -> usize {
        let is_lost = |index: &usize| {
            self.nodes[*index].damaged
                || self.doubtful.contains_key(index)
                || self.damages.contains_key(index)
                || self.replaced.contains(*index)
        };
        (0..self.nodes.len()).filter(|index| *index != but && is_lost(index)).count()
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Running)> {
        self.nodes.iter().filter_map(|node| Some((node.index, node.running.as_ref()?)))
    }

    fn leader(&self) -> Option<(usize, &Running)> {
        self.running().find(|(_, running)| running.access.engine.status().role == Role::Leader)
    }

    /// Looks at everything, and does what is due.
    async fn tick(&mut self) {
        let mut stopped = Vec::new();
        for (index, running) in self.running() {
            let status = running.access.engine.status();
            self.around.checker.looks(index, status.term, status.committed.map(|id| id.index));
            let newest = running.snapshots.newest().map(|snapshot| snapshot.last());
            if status.purged > newest {
                self.around.checker.violated(format!(
                    "node {index} purged up to {:?}, its snapshot has {newest:?}",
                    status.purged
                ));
            }
            for panic in running.scope.take_panics() {
                self.around.checker.violated(format!("node {index} panicked: {panic}"));
            }
            if let Some(why) = status.stopped {
                stopped.push((index, why));
            }
        }
        self.doubtful.retain(|index, _| {
            self.nodes[*index].running.as_ref().is_none_or(|running| running.access.engine.status().in_doubt)
        });
        self.check_quorum();
        for (index, why) in stopped {
            self.around.trace.note(format_args!("node {index} stops: {why}"));
            match self.failing.get(&index).copied() {
                Some(end) => self.end(index, end),
                None => {
                    self.around.checker.violated(format!("node {index} stops without a reason: {why}"));
                    self.end(index, End::Kill);
                }
            }
        }
        let off = |index: &usize| self.nodes[*index].log.is_off() || self.nodes[*index].snapshots.is_off();
        let off: Vec<usize> = self.failing.keys().copied().filter(off).collect();
        for index in off {
            self.end(index, End::PowerLoss);
        }
        let now = Instant::now();
        let due = |times: &mut BTreeMap<usize, Instant>| {
            let due: Vec<usize> =
                times.iter().filter(|(_, at)| **at <= now).map(|(index, _)| *index).collect();
            times.retain(|_, at| *at > now);
            due
        };
        for index in due(&mut self.resumes) {
            self.nodes[index].running.iter().for_each(|running| running.scope.resume());
        }
        for index in due(&mut self.starts) {
            self.start(index).await;
        }
    }

    /// What is committed is in the logs of a majority, or in their snapshots.
    fn check_quorum(&mut self) {
        let newest = self.running().filter_map(|(_, running)| {
            let metrics = running.access.engine.requests.raft.metrics();
            let metrics = metrics.borrow_watched();
            let membership = &metrics.membership_config;
            let committed = super::super::types::id_of(metrics.local_committed.as_ref()?);
            let since = membership.log_id().as_ref()?.index;
            let sets = membership.membership().get_joint_config();
            // Whoever is in a newer one need not have what the one before committed.
            (sets.len() == 1 && since < committed.index).then(|| (committed, sets[0].clone()))
        });
        let Some((committed, voters)) = newest.max_by_key(|(committed, _)| committed.index) else { return };
        if self.committed >= Some(committed) {
            return;
        }
        self.committed = Some(committed);
        let holds = |node: &&Node| {
            if !voters.contains(&node.own) {
                return false;
            }
            if let Some(running) = &node.running {
                let log = &running.access.log;
                return newest_snapshot(&node.snapshots) >= Some(committed.index)
                    || log.bounds().purged.is_some_and(|purged| purged.index >= committed.index)
                    || log
                        .read(committed.index..committed.index + 1, 1)
                        .is_ok_and(|read| read.first().is_some_and(|entry| entry.id == committed));
            }
            let opened = Log::open_idle(node.log.copy(), node.identity(), Options::new(0));
            newest_snapshot(&node.snapshots) >= Some(committed.index)
                || opened.is_ok_and(|(log, _, found)| has(&found, &log, committed))
        };
        let count = self.nodes.iter().filter(holds).count();
        // Of one that is damaged nobody knows.
        let damaged =
            self.nodes.iter().filter(|node| node.damaged || self.damages.contains_key(&node.index)).count();
        if 2 * (count + damaged) <= voters.len() {
            self.around
                .checker
                .violated(format!("{committed:?} is committed, and {count} of {} have it", voters.len()));
        }
    }

    /// Nothing is wrong any longer.
    fn mend(&mut self) {
        self.around.net.heal();
        for index in 0..self.nodes.len() {
            if let Some(running) = &self.nodes[index].running {
                running.scope.set_disk(self.swarm.disk);
                running.scope.resume();
            }
            // Disks that were told to fail and did not yet.
            if self.failing.contains_key(&index) {
                self.end(index, End::Kill);
            }
        }
        let soon = Instant::now() + TICK;
        self.starts.values_mut().for_each(|at| *at = soon);
    }

    /// The cluster serves again, at every node, and all have applied the same.
    async fn recover(&mut self, clients: &[JoinHandle<()>]) {
        let deadline = Instant::now() + RECOVERY;
        let mut count = 0;
        while self.around.checker.violations().is_empty() {
            sleep(TICK * 4).await;
            self.tick().await;
            if Instant::now() > deadline {
                let statuses = self.running().map(|(index, running)| {
                    let status = running.access.engine.status();
                    format!(
                        "{index}: {:?} of term {}, applied {:?}, {} in doubt",
                        status.role, status.term, status.applied, status.in_doubt
                    )
                });
                let statuses: Vec<_> = statuses.collect();
                self.around.checker.violated(format!("it does not recover: {statuses:#?}"));
                return;
            }
            if !self.starts.is_empty() {
                continue;
            }
            let Some((_, leader)) = self.leader() else { continue };
            let status = leader.access.engine.status();
            let members = status.voters.iter().chain(&status.learners).map(|(replica, _)| *replica);
            let members: Vec<ReplicaId> = members.collect();
            let mut digests = Vec::new();
            for node in self.nodes.iter().filter(|node| members.contains(&node.own)) {
                let Some(running) = node.running.clone() else { continue };
                count += 1;
                let value = Bytes::from(format!("well {count}"));
                let put = Operation::Put { key: "well".to_owned(), value, if_index: None }.encode();
                let asked = timeout(Duration::from_secs(10), async {
                    running.access.propose(None, put).await.map_err(|error| error.to_string())?;
                    let digest = running.access.digest().await;
                    digest.map_err(|error| error.to_string())
                });
                digests.push(running.scope.run(asked).await.and_then(Result::ok));
            }
            if digests.iter().all(|digest| matches!(digest, Some(Ok(_)))) {
                // Nobody has the same at one moment as long as something is put.
                clients.iter().for_each(JoinHandle::abort);
                if self.have_the_same(&members).await {
                    return;
                }
            }
        }
    }

    async fn have_the_same(&self, members: &[ReplicaId]) -> bool {
        for _ in 0..20 {
            sleep(TICK * 2).await;
            let mut digests = Vec::new();
            for node in self.nodes.iter().filter(|node| members.contains(&node.own)) {
                let Some(running) = node.running.clone() else { continue };
                let Some(Ok(digest)) = running.scope.run(running.access.digest()).await else { return false };
                digests.push(digest);
            }
            if digests.windows(2).all(|two| two[0] == two[1]) {
                return true;
            }
        }
        false
    }

    /// A fault happens, if it can.
    fn happens(&mut self, fault: Fault) {
        self.around.trace.note(format_args!("{fault:?}"));
        *self.seen.entry(format!("{fault:?}")).or_default() += 1;
        // It is the leader whose troubles matter.
        let drawn = self.luck.usize(0..self.nodes.len());
        let leads = self.luck.u8(0..3) == 0;
        let index = self.leader().map(|(index, _)| index).filter(|_| leads).unwrap_or(drawn);
        let other = (index + self.luck.usize(1..self.nodes.len())) % self.nodes.len();
        let long = Duration::from_millis(self.luck.u64(300..8_000));
        match fault {
            Fault::Kill => self.end(index, End::Kill),
            Fault::PowerLoss => self.end(index, End::PowerLoss),
            Fault::KillAll => (0..self.nodes.len()).for_each(|index| self.end(index, End::Kill)),
            Fault::PowerLossAtCall => self.fail_disk(index, DiskFault::PowerLoss),
            Fault::SyncError => self.fail_disk(index, DiskFault::Error),
            Fault::DiskFull => self.fail_disk(index, DiskFault::Full),
            Fault::SlowDisk => {
                let disk = Duration::from_millis(1 << self.luck.u32(0..14));
                self.nodes[index].running.iter().for_each(|running| running.scope.set_disk(disk));
            }
            Fault::Pause => {
                if let Some(running) = &self.nodes[index].running {
                    running.scope.pause();
                    self.resumes.insert(index, Instant::now() + long);
                }
            }
            Fault::CutOneWay => self.around.net.cut(index, other),
            Fault::CutNode => (0..self.nodes.len()).for_each(|other| self.cut(index, other)),
            Fault::CutDatacenter => {
                let datacenter = self.nodes[index].place.datacenter.clone();
                for (one, other) in
                    (0..NODES.len()).flat_map(|one| (0..NODES.len()).map(move |other| (one, other)))
                {
                    let inside = |index: usize| self.nodes[index].place.datacenter == datacenter;
                    if inside(one) != inside(other) {
                        self.cut(one, other);
                    }
                }
            }
            Fault::SlowLink => {
                let (from, to) = (&self.nodes[index].place.datacenter, &self.nodes[other].place.datacenter);
                self.around.net.slow(from, to, 1 << self.luck.u32(1..6));
            }
            Fault::NoProxies => {
                let datacenter = self.nodes[index].place.datacenter.clone();
                self.around.net.stall(&datacenter);
                let net = self.around.net.clone();
                tokio::spawn(async move {
                    sleep(long / 4).await;
                    net.unstall(&datacenter);
                });
            }
            Fault::WallStep => {
                let by = Duration::from_millis(self.luck.u64(1..3_600_000));
                let back = self.luck.bool();
                self.nodes[index].running.iter().for_each(|running| running.scope.step_wall(by, back));
            }
            Fault::Heal => {
                self.around.net.heal();
                for (_, running) in self.running() {
                    running.scope.set_disk(self.swarm.disk);
                }
            }
            Fault::Transfer => {
                let target = self.nodes[other].own;
                if let Some((_, leader)) = self.leader() {
                    let leader = leader.clone();
                    tokio::spawn(async move {
                        let asked = leader.access.engine.transfer(target);
                        drop(leader.scope.run(timeout(long, asked)).await);
                    });
                }
            }
            Fault::Snapshot => {
                if let Some(running) = self.nodes[index].running.clone() {
                    tokio::spawn(async move {
                        // By the replica, or by the program around it.
                        let access = &running.access;
                        if long.as_millis().is_multiple_of(2) {
                            drop(running.scope.run(timeout(long, access.engine.snapshot())).await);
                        } else {
                            drop(
                                running.scope.run(timeout(2 * long, write_snapshot(access, long / 4))).await,
                            );
                        }
                    });
                }
            }
            Fault::Members => self.change_members(),
            Fault::Damage => self.damage(index),
            Fault::Wipe => self.wipe(index),
        }
    }

    fn cut(&self, one: usize, other: usize) {
        self.around.net.cut(one, other);
        self.around.net.cut(other, one);
    }

    fn fail_disk(&mut self, index: usize, fault: DiskFault) {
        if self.nodes[index].running.is_none() || self.failing.contains_key(&index) {
            return;
        }
        let disk =
            if self.luck.u8(0..3) == 0 { &self.nodes[index].snapshots } else { &self.nodes[index].log };
        disk.fail_at(self.luck.u64(0..30), fault);
        self.failing.insert(index, if fault == DiskFault::PowerLoss { End::PowerLoss } else { End::Kill });
    }

    /// The spare node joins, is given a vote, and is taken out again: whatever comes next.
    fn change_members(&mut self) {
        let Some((_, leader)) = self.leader() else { return };
        let leader = leader.clone();
        let status = leader.access.engine.status();
        let (spare, place) = (self.nodes[SPARE].own, self.nodes[SPARE].place.clone());
        let is_in = |list: &[(ReplicaId, Place)]| list.iter().any(|(replica, _)| *replica == spare);
        let (votes, learns) = (is_in(&status.voters), is_in(&status.learners));
        self.around.trace.note(format_args!("the spare node votes: {votes}, learns: {learns}"));
        tokio::spawn(async move {
            let engine = &leader.access.engine;
            let change = async {
                if votes {
                    engine.remove(spare).await
                } else if learns {
                    engine.promote(spare).await
                } else {
                    engine.add(place, Duration::from_secs(5)).await.map(drop)
                }
            };
            drop(leader.scope.run(timeout(Duration::from_secs(10), change)).await);
        });
    }

    /// A node is stopped and its disks are wiped: it comes back as another replica, which somebody puts in the place of the one
    /// that it was.
    fn wipe(&mut self, index: usize) {
        // What is damaged is to be wiped, if anything is.
        let index = self.nodes.iter().find(|node| node.damaged).map_or(index, |node| node.index);
        let there = self.nodes[index].damaged || self.nodes[index].running.is_some();
        if self.lost(index) >= LOST_MAX - 1 || !there || index == SPARE {
            return;
        }
        self.end(index, End::Kill);
        self.starts.insert(index, Instant::now() + TICK);
        let old = self.nodes[index].own;
        self.nodes[index].wipe(ReplicaId(self.luck.u64(1..)));
        self.around.checker.forgets(index);
        self.damages.remove(&index);
        self.doubtful.remove(&index);
        self.replaced.begin(index);
        let put = (old, self.nodes[index].own, self.nodes[index].place.clone());
        let (cluster, replaced, luck) = (self.cluster.clone(), self.replaced.clone(), self.luck.fork());
        tokio::spawn(async move {
            replace(&cluster, luck, put).await;
            replaced.end(index);
        });
    }

    /// A node is stopped, and something in its log changes that is not at its end.
    fn damage(&mut self, index: usize) {
        if self.lost(index) >= LOST_MAX - 1 || self.nodes[index].running.is_none() {
            return;
        }
        self.end(index, End::Kill);
        let node = &self.nodes[index];
        let segments = node.log.names().into_iter().filter(|name| name.ends_with(".log"));
        let Some(name) = self.luck.choice(segments.collect::<Vec<_>>()) else { return };
        let length = node.log.content(&name).len();
        if length < 600 {
            return;
        }
        let at = self.luck.usize(256..length / 2);
        let cuts = self.around.planted == Some(Planted::CutAtDamage);
        node.log.damage(&name, |bytes| if cuts { bytes.truncate(at) } else { bytes[at] ^= 0x40 });
        self.damages.insert(index, true);
    }
}
