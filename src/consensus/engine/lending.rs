//! Snapshots from the nearest replica: where the leader would send one to another datacenter, it has a replica there send its own.
//!
//! The engine takes whoever has installed a snapshot to have all of the leader's. So what is lent has at least as much: who has applied
//! less refuses. It goes under the leader's vote, and its receiver takes it as if it were the leader's, or refuses it as it would that.
//! What is applied is committed, and a leader of a term as late has all of that.
//!
//! The leader asks again and again whether it is there. Who lends and is not asked any longer ends it, as it does when it hears of
//! another leader; where no answer comes, or it is no, the leader sends its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use trunkline_mesh::Lane;

use super::super::event::Event;
use super::super::replica_id::{Place, ReplicaId};
use super::super::time::{Instant, sleep_until, timeout};
use super::super::{tasks, watch};
use super::machine_store::newest_of;
use super::message::{Body, Lend, Lent};
use super::network::Wire;
use super::parts::{EngineSnapshot, INSTALLED_WITHIN, Receives};
use super::requests::Requests;
use super::types::*;
use super::words;
use crate::storage::{Disk, EntryId, Snapshots};

/// Replicas that are asked to lend, one after the other, before the leader sends its own.
const NEIGHBOURS_MAX: usize = 3;
/// While so many answers are waited for, one that lends takes its snapshot, or waits until it is installed.
const STANDS_STILL: u32 = INSTALLED_WITHIN + 2;
/// From so many entries on no replica takes snapshots by itself: its program writes them.
const ENTRIES_BY_ITSELF_MAX: u64 = 1 << 40;

impl Wire {
    /// Has a replica beside another one send it a snapshot that has an entry. The vote of the receiver; `None`: nobody did.
    pub(super) async fn have_lent(
        &self,
        vote: EngineVote,
        (to, place): (ReplicaId, &Place),
        last: EntryId,
    ) -> Option<EngineVote> {
        for (neighbour, there) in self.neighbours_of(to, place, last) {
            let lend = Lend { number: self.calls.number(), vote, to, last };
            let (mut began, mut left) = (false, (0, Instant::now()));
            loop {
                let asked = self.ask(
                    (Some(neighbour), &there),
                    Lane::Control,
                    Body::Lend(lend.clone()),
                    self.patience,
                );
                match asked.await {
                    Ok((_, Body::Lent(Lent::Installed { vote, last: has }))) if has >= last => {
                        return Some(vote);
                    }
                    Ok((_, Body::Lent(Lent::UnderWay(bytes)))) => {
                        began = true;
                        if bytes > left.0 {
                            left = (bytes, Instant::now());
                        } else if left.1.elapsed() > STANDS_STILL * self.patience {
                            tracing::info!("{there} does not go on with its snapshot for {place}");
                            return None;
                        }
                    }
                    Ok((_, Body::Lent(Lent::No))) => {
                        let (index, asked) = (last.index, neighbour);
                        self.events.record(&Event::SnapshotNotLent { index, to, asked, began });
                        if began {
                            tracing::info!("{there} ended the snapshot that it was to send {place}");
                            return None;
                        }
                        tracing::debug!("{there} has no snapshot for {place}");
                        break;
                    }
                    Ok((_, answer)) => {
                        tracing::info!("{there} could not send {place} a snapshot: `{answer}`");
                        return None;
                    }
                    Err(none) => {
                        tracing::info!(error = %none, "{place} is sent a snapshot from here");
                        return None;
                    }
                }
            }
        }
        None
    }

    /// Who is in the datacenter of a replica, has an entry and answered lately, who has most first. Nobody where this node is there itself.
    fn neighbours_of(&self, to: ReplicaId, place: &Place, last: EntryId) -> Vec<(ReplicaId, Place)> {
        let Some(metrics) = self.heard.metrics() else { return Vec::new() };
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        if membership.get_node(&self.own).is_none_or(|own| own.datacenter == place.datacenter) {
            return Vec::new();
        }
        let has = |replica: ReplicaId| {
            let heard = *metrics.heartbeat.as_ref()?.get(&replica)?;
            heard.filter(|at| self.heard.is_recent(openraft::Instant::elapsed(&**at)))?;
            metrics.replication.as_ref()?.get(&replica)?.as_ref().map(id_of)
        };
        // Under another number the node itself may be a member still.
        let beside = membership.nodes().filter(|(replica, there)| {
            **replica != to && there.datacenter == place.datacenter && there.node != place.node
        });
        let able = beside.filter_map(|(replica, there)| {
            let has = has(*replica).filter(|has| *has >= last)?;
            Some((has, *replica, there.clone()))
        });
        let mut able: Vec<_> = able.collect();
        able.sort_by_key(|(has, ..)| std::cmp::Reverse(*has));
        able.truncate(NEIGHBOURS_MAX);
        able.into_iter().map(|(_, replica, there)| (replica, there)).collect()
    }
}

/// The end that lends: one snapshot at a time.
pub(super) struct Lender<D: Disk> {
    requests: Arc<Requests<D>>,
    wire: Arc<Wire>,
    snapshots: Arc<Snapshots<D>>,
    /// This replica takes snapshots by itself.
    takes: bool,
    /// The last one.
    loan: Mutex<Option<Loan>>,
}

/// A snapshot that is lent, or was.
#[derive(Clone)]
struct Loan {
    /// The leader, and what it asked for.
    of: (ReplicaId, Lend),
    /// When it asked last.
    asked: Arc<Mutex<Instant>>,
    /// Bytes.
    left: Arc<AtomicU64>,
    /// Once it is decided.
    outcome: watch::Receiver<Option<Lent>>,
}

impl Loan {
    fn is_over(&self) -> bool {
        self.outcome.borrow().is_some()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Disk> Lender<D> {
    pub(super) fn new(
        requests: Arc<Requests<D>>,
        wire: Arc<Wire>,
        snapshots: Arc<Snapshots<D>>,
        entries: u64,
    ) -> Self {
        let takes = entries < ENTRIES_BY_ITSELF_MAX;
        Self { requests, wire, snapshots, takes, loan: Mutex::default() }
    }

    /// A leader asks for it, or asks again: what became of it, after a while at most.
    pub(super) async fn lend(self: &Arc<Self>, leader: ReplicaId, lend: Lend) -> Lent {
        let of = (leader, lend);
        let there = lock(&self.loan).clone();
        let loan = match there {
            Some(loan) if loan.of == of => {
                *lock(&loan.asked) = Instant::now();
                Some(loan)
            }
            Some(loan) if !loan.is_over() => None,
            _ => self.begin(of),
        };
        let Some(mut loan) = loan else { return Lent::No };
        // Before whoever asked takes this node for dead.
        let decided = loan.outcome.wait_for(Option::is_some);
        match timeout(self.wire.patience / 4, decided).await {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or(Lent::No),
            Ok(Err(_)) => Lent::No,
            Err(_) => Lent::UnderWay(loan.left.load(Ordering::Relaxed)),
        }
    }

    /// Begins it, where this node follows that leader and has what it asks for.
    fn begin(self: &Arc<Self>, of: (ReplicaId, Lend)) -> Option<Loan> {
        let lend = &of.1;
        let follows =
            self.vote() == lend.vote && lend.vote.committed && lend.vote.leader_id.voted_for == of.0;
        let applied = self.requests.progress.borrow().applied;
        if !follows || lend.to == self.wire.own || applied < Some(lend.last) {
            return None;
        }
        let place = self.requests.place_of(lend.to)?;
        let (tell, outcome) = watch::channel(None);
        let loan = Loan { of, asked: Arc::new(Mutex::new(Instant::now())), left: Arc::default(), outcome };
        *lock(&self.loan) = Some(loan.clone());
        let (lender, begun) = (Arc::clone(self), loan.clone());
        tasks::spawn(async move {
            let outcome = tokio::select! {
                biased;
                why = lender.ended(&loan) => Err(why.to_owned()),
                lent = lender.send(&loan, &place) => lent,
            };
            let outcome = outcome.unwrap_or_else(|why| {
                tracing::info!("{place} gets no snapshot from here: {why}");
                Lent::No
            });
            tell.send_modify(|told| *told = Some(outcome));
        });
        Some(begun)
    }

    /// The last vote that this node saved.
    fn vote(&self) -> EngineVote {
        self.requests.raft.metrics().borrow_watched().vote
    }

    /// Resolves when nobody is to have it from this node any longer.
    async fn ended(&self, loan: &Loan) -> &'static str {
        let mut metrics = self.requests.raft.server_metrics();
        let follows_another = async {
            while metrics.borrow_watched().vote == loan.of.1.vote {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        let forgotten = async {
            loop {
                let late = *lock(&loan.asked) + self.wire.patience;
                if late <= Instant::now() {
                    return;
                }
                sleep_until(late).await;
            }
        };
        tokio::select! {
            biased;
            () = follows_another => "another one leads",
            () = forgotten => "the leader asks for it no longer",
        }
    }

    async fn send(&self, loan: &Loan, place: &Place) -> Result<Lent, String> {
        let (leader, lend) = &loan.of;
        let snapshot = self.snapshot_of(lend.last).await?;
        let last = snapshot.meta.last_log_id.as_ref().map(id_of).ok_or("it is empty")?;
        // The receiver would refuse it.
        if last < lend.last || last.term > lend.vote.leader_id.term {
            return Err("this node's snapshot is another one by now".to_owned());
        }
        let to = Receives { replica: lend.to, place, vote: lend.vote, asked_by: Some((*leader, &loan.left)) };
        let vote = self.wire.send_snapshot(to, snapshot).await?;
        Ok(Lent::Installed { vote, last })
    }

    /// The newest snapshot, where it has an entry; else a new one.
    async fn snapshot_of(&self, last: EntryId) -> Result<EngineSnapshot<D>, String> {
        let mut progress = self.requests.progress.clone();
        let failed = progress.borrow().snapshots_failed;
        let late = Instant::now() + INSTALLED_WITHIN * self.wire.patience;
        loop {
            if self.snapshots.newest().is_some_and(|newest| newest.last() >= last) {
                let newest = newest_of(&self.snapshots).await.map_err(|error| error.to_string())?;
                return newest.ok_or_else(|| "it is gone".to_owned());
            }
            if !self.takes {
                return Err("its snapshot is older, and the program writes them".to_owned());
            }
            if progress.borrow().snapshots_failed != failed || late <= Instant::now() {
                return Err("none could be taken".to_owned());
            }
            self.requests.raft.trigger().snapshot().await.map_err(|error| words::stopped(&error))?;
            // While another one is being written nobody listens.
            let told =
                progress.wait_for(|told| told.snapshot >= Some(last) || told.snapshots_failed != failed);
            let _ = timeout(ASKED_AGAIN_AFTER, told).await;
        }
    }
}

/// Between two words to the engine that a snapshot is to be taken.
const ASKED_AGAIN_AFTER: Duration = Duration::from_millis(500);
