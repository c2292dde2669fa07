//! What goes wrong in a run, and how it ends: the faults of `faults.rs`, done to a world.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::time::{Instant, sleep, timeout};

use super::super::super::access::Access;
use super::super::super::error::MarkerError;
use super::super::super::machine::StateMachine;
use super::super::super::replica_id::{Place, ReplicaId};
use super::super::super::status::Role;
use super::super::super::tasks::scope::Scope;
use super::clients::Cluster;
use super::faults::Fault;
use super::node::{End, Running, Watched};
use super::planted::Planted;
use super::world::{LOST_MAX, Replaced, Replacement, SPARE, TICK, World};
use crate::storage::faulty::{Fault as DiskFault, FaultyDisk};

/// A disk that was told to fail.
#[derive(Clone, Copy)]
pub(super) struct Failing {
    pub(super) fault: Fault,
    /// How its node ends by it.
    pub(super) end: End,
    /// Since when it has failed.
    pub(super) struck: Option<Instant>,
}

/// So long after its disk failed a node stops, if it does: what waits for the disk has its turn by then.
const STOPS_WITHIN: Duration = Duration::from_secs(30);

/// Puts a replica in the place of those that its node was before, as an operator would: at whoever leads, as often as it takes.
async fn replace(
    cluster: &Cluster,
    mut luck: fastrand::Rng,
    (replaced, replacement): (&Replaced, Replacement),
    (index, place): (usize, Place),
) {
    let new = replacement.new;
    while replaced.is_due(index, &replacement) {
        sleep(Duration::from_millis(luck.u64(200..2_000))).await;
        let Some(leader) = cluster.any(&mut luck) else { continue };
        let engine = &leader.access.engine;
        let status = engine.status();
        if status.role != Role::Leader {
            continue;
        }
        let is_in = |list: &[(ReplicaId, Place)], which| list.iter().any(|(replica, _)| *replica == which);
        let (votes, known) = (is_in(&status.voters, new), is_in(&status.learners, new));
        let mut all = replacement.old.iter();
        let old = all.find(|old| is_in(&status.voters, **old) || is_in(&status.learners, **old));
        if votes && old.is_none() {
            // Until all of the change is committed it needs the majority of before, too, and may be lost with its leader:
            // nothing else is to be wiped.
            if is_committed(&leader, new) && replaced.is_due(index, &replacement) {
                return replaced.end(index);
            }
            continue;
        }
        let change = async {
            if let Some(old) = old {
                engine.remove(*old).await
            } else if known {
                engine.promote(new).await
            } else {
                engine.add(place.clone(), Duration::from_secs(5)).await.map(drop)
            }
        };
        drop(leader.scope.run(timeout(Duration::from_secs(10), change)).await);
    }
}

/// The replica votes by a membership that is committed and not on the way to another one, as whoever asked for it is told.
fn is_committed(at: &Running, replica: ReplicaId) -> bool {
    let metrics = at.access.engine.requests.raft.metrics();
    let metrics = metrics.borrow_watched();
    let sets = metrics.committed_membership_config.membership().get_joint_config();
    sets.len() == 1 && sets[0].contains(&replica)
}

/// As a program does that writes it itself, and takes its time.
async fn write_snapshot(access: &Access<Watched, FaultyDisk>, takes: Duration) -> Result<(), MarkerError> {
    let (mut marker, state) = access.begin_snapshot(|machine| machine.machine.clone()).await?;
    sleep(takes).await;
    let written = state.snapshot().and_then(|mut content| std::io::copy(&mut content, &mut marker));
    written.map_err(MarkerError::disk)?;
    access.end_snapshot(marker).await
}

impl World {
    /// Nothing is wrong any longer.
    pub(super) fn mend(&mut self) {
        self.heal();
        self.slow_clocks.clear();
        for index in 0..self.nodes.len() {
            if let Some(running) = &self.nodes[index].running {
                running.scope.resume();
                running.scope.run_clock(1_000);
            }
            // A disk that failed.
            if self.failing.contains_key(&index) {
                self.end(index, End::Kill);
            }
        }
        let soon = Instant::now() + TICK;
        self.starts.values_mut().for_each(|at| *at = soon);
    }

    /// A fault happens, if it can.
    pub(super) fn happens(&mut self, fault: Fault) {
        self.around.trace.note(format_args!("{fault:?}"));
        // It is the leader whose troubles matter.
        let drawn = self.luck.usize(0..self.nodes.len());
        let leads = self.luck.u8(0..3) == 0;
        let index = self.leader().map(|(index, _)| index).filter(|_| leads).unwrap_or(drawn);
        let other = (index + self.luck.usize(1..self.nodes.len())) % self.nodes.len();
        let long = Duration::from_millis(self.luck.u64(300..8_000));
        match fault {
            Fault::Kill => self.strikes_if(fault, |world| world.end(index, End::Kill)),
            Fault::PowerLoss => self.strikes_if(fault, |world| world.end(index, End::PowerLoss)),
            Fault::KillAll => {
                let ended = (0..self.nodes.len()).filter(|index| self.end(*index, End::Kill)).count();
                self.strikes_if(fault, |_| ended > 1);
            }
            Fault::PowerLossAtCall => self.fail_disk(index, (fault, DiskFault::PowerLoss)),
            Fault::SyncError => self.fail_disk(index, (fault, DiskFault::Error)),
            Fault::DiskFull => self.fail_disk(index, (fault, DiskFault::Full)),
            Fault::SlowDisk => {
                let disk = Duration::from_millis(1 << self.luck.u32(0..14));
                let slower = disk > self.swarm.disk;
                self.strikes_if(fault, |world| world.to_scope(index, |scope| scope.set_disk(disk)) && slower);
            }
            Fault::Pause => {
                if self.to_scope(index, Scope::pause) {
                    self.resumes.insert(index, Instant::now() + long);
                    self.counts.struck(fault);
                }
            }
            Fault::Suspend => {
                if self.to_scope(index, |scope| scope.suspend(long)) {
                    self.resumes.insert(index, Instant::now() + long);
                    self.counts.struck(fault);
                }
            }
            // Two of them differ by less than twice.
            Fault::ClockApart => {
                let rate = self.luck.choice([750, 900, 1_100, 1_333]).unwrap_or(750);
                self.strikes_if(fault, |world| world.to_scope(index, |scope| scope.run_clock(rate)));
            }
            Fault::ClockSlow => {
                if self.end(index, End::Kill) {
                    self.slow_clocks.insert(index, 250);
                }
            }
            Fault::Refuse => {
                self.around.net.fill(index, true);
                let net = self.around.net.clone();
                tokio::spawn(async move {
                    sleep(long / 4).await;
                    net.fill(index, false);
                });
            }
            Fault::NoSnapshot => {
                let mute = Arc::clone(&self.nodes[index].mute);
                mute.store(true, Ordering::Relaxed);
            }
            Fault::CutOneWay => self.around.net.cut(index, other, fault),
            Fault::CutNode => (0..self.nodes.len()).for_each(|other| self.cut((index, other), fault)),
            Fault::CutDatacenter => {
                let datacenter = self.nodes[index].place.datacenter.clone();
                for (one, other) in
                    (0..self.nodes.len()).flat_map(|one| (0..self.nodes.len()).map(move |other| (one, other)))
                {
                    let inside = |index: usize| self.nodes[index].place.datacenter == datacenter;
                    if inside(one) != inside(other) {
                        self.cut((one, other), fault);
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
                self.strikes_if(fault, |world| world.to_scope(index, |scope| scope.step_wall(by, back)));
            }
            Fault::Heal => {
                self.heal();
            }
            Fault::Transfer => {
                let target = self.nodes[other].own;
                if let Some((_, leader)) = self.leader() {
                    let (leader, next) = (leader.clone(), self.nodes[other].running.clone());
                    let counts = self.counts.clone();
                    tokio::spawn(async move {
                        let asked = leader.access.engine.transfer(target);
                        drop(leader.scope.run(timeout(long, asked)).await);
                        sleep(Duration::from_secs(1)).await;
                        if next.is_some_and(|next| next.access.engine.status().role == Role::Leader) {
                            counts.struck(fault);
                        }
                    });
                }
            }
            Fault::Snapshot => {
                if let Some(running) = self.nodes[index].running.clone() {
                    let counts = self.counts.clone();
                    tokio::spawn(async move {
                        let before = running.snapshots.newest().map(|newest| newest.last());
                        // By the replica, or by the program around it.
                        let access = &running.access;
                        if long.as_millis().is_multiple_of(2) {
                            drop(running.scope.run(timeout(long, access.engine.snapshot())).await);
                        } else {
                            let written = timeout(2 * long, write_snapshot(access, long / 4));
                            drop(running.scope.run(written).await);
                        }
                        sleep(Duration::from_secs(1)).await;
                        if running.snapshots.newest().map(|newest| newest.last()) > before {
                            counts.struck(fault);
                        }
                    });
                }
            }
            Fault::Members => self.change_members(),
            Fault::Damage => self.damage(index),
            Fault::Wipe => self.wipe(index),
        }
    }

    fn cut(&self, (one, other): (usize, usize), fault: Fault) {
        self.around.net.cut(one, other, fault);
        self.around.net.cut(other, one, fault);
    }

    /// Counts a fault, if it takes effect.
    fn strikes_if(&mut self, fault: Fault, strikes: impl FnOnce(&mut Self) -> bool) {
        if strikes(self) {
            self.counts.struck(fault);
        }
    }

    /// Something happens to a node's process, if it runs.
    fn to_scope(&self, index: usize, happens: impl FnOnce(&Scope)) -> bool {
        self.nodes[index].running.as_ref().map(|running| happens(&running.scope)).is_some()
    }

    /// Nothing is cut, slow or full any longer, and no disk fails that did not yet.
    fn heal(&mut self) {
        self.look_at_disks();
        self.around.net.heal();
        for (_, running) in self.running() {
            running.scope.set_disk(self.swarm.disk);
        }
        self.nodes.iter().for_each(|node| node.mute.store(false, Ordering::Relaxed));
        self.failing.retain(|_, failing| failing.struck.is_some());
        for node in self.nodes.iter().filter(|node| !self.failing.contains_key(&node.index)) {
            node.log.heal();
            node.snapshots.heal();
        }
    }

    fn fail_disk(&mut self, index: usize, (fault, how): (Fault, DiskFault)) {
        if self.nodes[index].running.is_none() || self.failing.contains_key(&index) {
            return;
        }
        let disk =
            if self.luck.u8(0..3) == 0 { &self.nodes[index].snapshots } else { &self.nodes[index].log };
        disk.fail_at(self.luck.u64(0..30), how);
        let end = if how == DiskFault::PowerLoss { End::PowerLoss } else { End::Kill };
        self.failing.insert(index, Failing { fault, end, struck: None });
    }

    /// Which disks failed by now. One of snapshots stops no node: after a while nothing is to be expected of it any longer.
    pub(super) fn look_at_disks(&mut self) {
        let now = Instant::now();
        for (index, failing) in &mut self.failing {
            let node = &self.nodes[*index];
            if failing.struck.is_none() && (node.log.has_struck() || node.snapshots.has_struck()) {
                failing.struck = Some(now);
                self.counts.struck(failing.fault);
            }
        }
        let (nodes, failing) = (&self.nodes, &mut self.failing);
        failing.retain(|index, failing| {
            let over = failing.struck.is_some_and(|at| now > at + STOPS_WITHIN);
            if over {
                nodes[*index].log.heal();
                nodes[*index].snapshots.heal();
            }
            !over
        });
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
        let counts = self.counts.clone();
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
            if let Some(Ok(Ok(()))) = leader.scope.run(timeout(Duration::from_secs(10), change)).await {
                counts.struck(Fault::Members);
            }
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
        let replacement = self.replaced.begin(index, old, self.nodes[index].own);
        self.counts.struck(Fault::Wipe);
        let put = (index, self.nodes[index].place.clone());
        let (cluster, replaced, luck) = (self.cluster.clone(), self.replaced.clone(), self.luck.fork());
        tokio::spawn(async move { replace(&cluster, luck, (&replaced, replacement), put).await });
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
        self.counts.struck(Fault::Damage);
    }
}
