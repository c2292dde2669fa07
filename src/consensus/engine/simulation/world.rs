//! One run: five voters in three datacenters and a node to spare, clients, subscribers, and what the seed has go wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::super::super::key_value::Operation;
use super::super::super::replica_id::ReplicaId;
use super::super::super::status::Role;
use super::super::Timing;
use super::checker::{Checker, has, newest_snapshot};
use super::clients::{Client, Cluster, Notes};
use super::faults::{Counts, Fault, Swarm};
use super::net::Net;
use super::node::{End, Node, Running, Surroundings};
use super::planted::Planted;
use super::scene::{FOUNDERS, in_virtual_time, places};
use super::subscribers::{Seen, Subscriber};
use super::trace::Trace;
use super::troubles::Failing;
use crate::consensus::history;
use crate::storage::{EntryId, Log, Options};

/// Between looks at everything.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// The last node is no founder.
pub(super) const SPARE: usize = FOUNDERS;
/// Nodes that may be without a vote at once, because their logs are damaged or in doubt.
pub(super) const LOST_MAX: usize = 2;
/// Clients that come to a node when it goes on after a pause.
const COME_AT_ONCE: usize = 4;
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
    pub(super) luck: fastrand::Rng,
    pub(super) around: Surroundings,
    pub(super) nodes: Vec<Node>,
    pub(super) cluster: Cluster,
    pub(super) swarm: Swarm,
    /// When a node is started again, or goes on.
    pub(super) starts: BTreeMap<usize, Instant>,
    pub(super) resumes: BTreeMap<usize, Instant>,
    /// Disks that were told to fail.
    pub(super) failing: BTreeMap<usize, Failing>,
    /// Their logs lost something that they had acknowledged, and say so.
    pub(super) doubtful: BTreeMap<usize, bool>,
    pub(super) damages: BTreeMap<usize, bool>,
    committed: Option<EntryId>,
    /// Replicas whose disks were wiped, and who is to be put in their place.
    pub(super) replaced: Replaced,
    /// Who is started next with clocks of another speed.
    pub(super) slow_clocks: BTreeMap<usize, u32>,
    pub(super) counts: Counts,
    /// What clients were told.
    notes: Notes,
}

/// Nodes whose disks were wiped, until they vote again. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Replaced(Arc<Mutex<BTreeMap<usize, Replacement>>>);

/// What is to be done for a node, however often it was wiped before that was done.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Replacement {
    /// Who it was, and is to be out.
    pub(super) old: Vec<ReplicaId>,
    /// Who it is now, and is to vote.
    pub(super) new: ReplicaId,
}

impl Replaced {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Replacement>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, index: usize, old: ReplicaId, new: ReplicaId) -> Replacement {
        let mut all = self.lock();
        let replacement = all.entry(index).or_insert_with(|| Replacement { old: Vec::new(), new });
        replacement.old.push(old);
        replacement.new = new;
        replacement.clone()
    }

    /// It was not wiped again since.
    pub(super) fn is_due(&self, index: usize, replacement: &Replacement) -> bool {
        self.lock().get(&index) == Some(replacement)
    }

    pub(super) fn end(&self, index: usize) {
        self.lock().remove(&index);
    }

    fn contains(&self, index: usize) -> bool {
        self.lock().contains_key(&index)
    }
}

/// Runs a seed.
pub(super) fn run(seed: u64, planted: Option<Planted>, swarm: Option<Swarm>) -> Outcome {
    in_virtual_time(seed, async move {
        let mut luck = fastrand::Rng::with_seed(seed);
        let drawn = Swarm::draw(&mut luck);
        World::new(luck, planted, swarm.unwrap_or(drawn)).run().await
    })
}

impl World {
    fn new(mut luck: fastrand::Rng, planted: Option<Planted>, swarm: Swarm) -> Self {
        let places = places();
        let trace = Trace::new();
        let checker = Checker::new(trace.clone());
        let counts = Counts::default();
        let told = (checker.clone(), trace.clone(), counts.clone());
        let net = Net::new(places.clone(), luck.fork(), planted, told);
        let timing = Timing { snapshot_entries: swarm.snapshot_entries, ..Timing::default() };
        let nodes = places.iter().enumerate();
        let nodes = nodes.map(|(index, place)| Node::new(index, place.clone(), ReplicaId(luck.u64(1..))));
        let nodes = nodes.collect();
        let founders = places[..SPARE].to_vec();
        let around = Surroundings { net, checker, trace, counts: counts.clone(), planted, timing, founders };
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
            slow_clocks: BTreeMap::new(),
            counts,
            notes: Notes::default(),
        }
    }

    async fn run(mut self) -> Outcome {
        for index in 0..self.nodes.len() {
            self.start(index).await;
        }
        let (notes, seen) = (self.notes.clone(), Seen::default());
        let clients: Vec<JoinHandle<()>> =
            (0..self.swarm.clients).map(|number| tokio::spawn(self.client(number).run())).collect();
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
            seen: self.counts.all(),
            first_led: self.around.checker.first_led(),
            mean_put: notes.mean_put(),
            swarm: self.swarm,
        }
    }

    fn client(&mut self, number: u64) -> Client {
        let told = (self.cluster.clone(), self.notes.clone());
        Client::new(number, self.luck.fork(), told, self.around.clone(), self.swarm.client_pause)
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
        if let (Some(rate), Some(running)) = (self.slow_clocks.remove(&index), &node.running) {
            running.scope.run_clock(rate);
            self.counts.struck(Fault::ClockSlow);
        }
        if node.running.is_none() && !node.damaged {
            // Its disk failed once more, or takes nothing any longer.
            node.boot_if_refused();
            self.starts.insert(index, Instant::now() + Duration::from_secs(1));
        }
        self.publish();
    }

    fn publish(&self) {
        self.cluster.set(self.nodes.iter().map(|node| node.running.clone()).collect());
    }

    /// Ends a process, which is started again after a while.
    pub(super) fn end(&mut self, index: usize, end: End) -> bool {
        let after = Duration::from_millis(self.luck.u64(50..5_000));
        self.failing.remove(&index);
        self.resumes.remove(&index);
        let lost = self.lost(index);
        self.count_events(index);
        let node = &mut self.nodes[index];
        if node.running.is_none() {
            return false;
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
        true
    }

    /// What a process tells of itself.
    fn count_events(&self, index: usize) {
        let Some(running) = &self.nodes[index].running else { return };
        for line in running.access.engine.events(0) {
            let event = serde_json::from_str::<serde_json::Value>(&line).unwrap_or_default();
            let kind = event["kind"].as_str().unwrap_or("none");
            self.counts.add(kind);
        }
    }

    /// How many other nodes are without a vote.
    pub(super) fn lost(&self, but: usize) -> usize {
        let is_lost = |index: &usize| {
            self.nodes[*index].damaged
                || self.doubtful.contains_key(index)
                || self.damages.contains_key(index)
                || self.replaced.contains(*index)
        };
        (0..self.nodes.len()).filter(|index| *index != but && is_lost(index)).count()
    }

    pub(super) fn running(&self) -> impl Iterator<Item = (usize, &Running)> {
        self.nodes.iter().filter_map(|node| Some((node.index, node.running.as_ref()?)))
    }

    pub(super) fn leader(&self) -> Option<(usize, &Running)> {
        self.running().find(|(_, running)| running.access.engine.status().role == Role::Leader)
    }

    /// Looks at everything, and does what is due.
    async fn tick(&mut self) {
        self.look_at_disks();
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
            let failing = self.failing.get(&index).filter(|failing| failing.struck.is_some());
            let end = failing.map(|failing| failing.end);
            if end.is_none() {
                self.around.checker.violated(format!("node {index} stops without a reason: {why}"));
            }
            self.end(index, end.unwrap_or(End::Kill));
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
            if let Some(running) = self.nodes[index].running.clone() {
                for _ in 0..COME_AT_ONCE {
                    let client = self.client(self.swarm.clients);
                    tokio::spawn(client.come_to(running.clone()));
                }
                running.scope.resume();
            }
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
        // Of one that is damaged nobody knows, nor of one that was wiped, which may have had it until now.
        let wiped = voters.iter().filter(|voter| self.nodes.iter().all(|node| node.own != **voter)).count();
        let damaged =
            self.nodes.iter().filter(|node| node.damaged || self.damages.contains_key(&node.index)).count();
        if 2 * (count + damaged + wiped) <= voters.len() {
            self.around
                .checker
                .violated(format!("{committed:?} is committed, and {count} of {} have it", voters.len()));
        }
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
                    let (metrics, own) = (running.access.engine.requests.raft.metrics(), status.replica);
                    let metrics = metrics.borrow_watched();
                    format!(
                        "{index}, {own}: {:?} of term {}, last {:?}, applied {:?}, in doubt: {}, members {}",
                        status.role,
                        status.term,
                        status.last,
                        status.applied,
                        status.in_doubt,
                        metrics.membership_config
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
}
