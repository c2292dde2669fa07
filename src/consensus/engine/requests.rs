//! What clients ask of a replica, here or forwarded by another one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::LinearizerOption;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::{AppendEntriesRequest, ReadPolicy};
use tokio::sync::{RwLock, Semaphore, oneshot};
use trunkline_mesh::{FailReason, Lane};

use super::super::applied::Answer;
use super::super::clock::ClusterClock;
use super::super::command::Command;
use super::super::error::{MemberError, ProposeError};
use super::super::event::Event;
use super::super::replica_id::{Place, ReplicaId};
use super::super::session::Refusal;
use super::super::tasks;
use super::super::time::{Instant, sleep, sleep_until, timeout};
use super::super::watch;
use super::Raft;
use super::machine_store::Progress;
use super::message::{Body, Proposed};
use super::network::{Unanswered, Wire};
use super::types::*;
use super::words;
use crate::storage::{Disk, EntryId, Log};

/// Proposals of this node's clients that are under way, KiB, and those of its peers. More is an answer.
pub(super) const PROPOSALS_KIB_MAX: usize = 64 << 10;
/// Of those, what is under way to another leader, KiB: the mesh has a budget of 4 MiB for one destination, and refuses what is
/// over it. More waits.
pub(super) const FORWARDED_KIB_MAX: usize = 2 << 10;
/// Entries of a leader's log that its state machine has not applied. With more it takes no proposal: whoever gave up waiting
/// for one left an entry that still has to be applied.
pub(super) const UNAPPLIED_MAX: u64 = 65_536;
/// The longest command that is taken from a peer: the longest operation, and its head.
const COMMAND_BYTES_MAX: usize = super::super::OPERATION_BYTES_MAX + 32;

/// Whoever lacks no more has nearly everything: a leader sends it in a moment.
pub(super) const NEAR_ENTRIES: u64 = 1_000;

pub(super) struct Requests<D: Disk> {
    pub(super) raft: Raft<D>,
    pub(super) wire: Arc<Wire>,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) clock: Arc<ClusterClock>,
    pub(super) in_doubt: AtomicBool,
    /// The clock guard found no fault lately.
    pub(super) clocks_sure: AtomicBool,
    /// And a majority of the voters told theirs lately, while this node led: a lease can be relied on.
    pub(super) leases: AtomicBool,
    /// Before that a vote could break what was promised before the start.
    pub(super) votes_from: Instant,
    /// How long the answer of a leader that was replaced may take to come: a round trip.
    pub(super) last_word: Duration,
    /// How long this node answers reads by a lease after a quorum heard of it: less than half of what followers promise, so that
    /// a clock of twice the speed breaks nothing, and no guard has to see it first.
    pub(super) lease: Duration,
    /// How long a reader waits for a majority to take what was sent after it began: any of it has a vote for another one by then.
    pub(super) backed_within: Duration,
    /// What this node's clocks may move apart before its leases end.
    pub(super) step: Duration,
    /// Held by every proposal that is under way here, and alone by whoever hands over.
    pub(super) writes: RwLock<()>,
    /// Held by whoever changes members.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// How long a leader that hands over waits for those at most.
    pub(super) drained_within: Duration,
    /// Room for proposals of this node's clients, of its peers, and for those that go to another leader.
    pub(super) own: Semaphore,
    pub(super) of_peers: Semaphore,
    pub(super) forwarded: Semaphore,
}

impl<D: Disk> Requests<D> {
    /// What was acknowledged may be lost here: no votes.
    pub(super) fn in_doubt(&self) -> bool {
        self.in_doubt.load(Ordering::Relaxed)
    }

    pub(super) fn is_running(&self) -> bool {
        self.raft.metrics().borrow_watched().running_state.is_ok()
    }

    /// What a leader knows to be committed, and the vote by which it leads.
    fn committed(&self) -> Option<(EngineVote, EntryId)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leads = metrics.state == openraft::ServerState::Leader && metrics.vote.committed;
        let last = metrics.cluster_committed.as_ref().map(id_of);
        last.filter(|_| leads).map(|last| (metrics.vote, last))
    }

    /// A leader's word of what is committed, come with an answer: the operation that was proposed is applied here without one
    /// more way from there. It says what a heartbeat would, and no more.
    fn take_committed(&self, (vote, last): (EngineVote, EntryId)) {
        // A leader follows nobody in its own term: the engine takes that for granted.
        if vote.leader_id.voted_for == self.wire.own {
            return;
        }
        let heartbeat = AppendEntriesRequest {
            vote,
            prev_log_id: None,
            entries: Vec::new(),
            leader_commit: Some(log_id_of(last)),
        };
        let raft = self.raft.clone();
        // It is answered when all that was taken before is on the disk: nobody waits for that here. Of an older leader it
        // changes nothing, and the engine says so.
        tasks::spawn(async move { drop(raft.append_entries(heartbeat).await) });
    }

    /// The other voters, if this node leads.
    pub(super) fn voters_led(&self) -> Option<Vec<(ReplicaId, Place)>> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let others = membership.voter_ids().filter(|id| *id != self.wire.own);
        let place = |id: ReplicaId| Some((id, membership.get_node(&id)?.clone()));
        (metrics.state == openraft::ServerState::Leader).then(|| others.filter_map(place).collect())
    }

    /// Where a replica is, if it is known.
    pub(super) fn place_of(&self, replica: ReplicaId) -> Option<Place> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&replica).cloned()
    }

    /// This node leads, and its state machine is too far behind what it took already.
    fn is_full(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let next = |index: Option<u64>| index.map_or(0, |index| index + 1);
        let applied = self.progress.borrow().applied.map(|applied| applied.index);
        metrics.state == openraft::ServerState::Leader
            && next(metrics.last_log_index).saturating_sub(next(applied)) >= UNAPPLIED_MAX
    }

    /// Whether it has a log or a membership, and who is in that.
    pub(super) async fn who_it_is(&self) -> Body {
        let founded = self.raft.is_initialized().await.unwrap_or(true);
        Body::IAm { founded, members: self.membership().nodes().map(|(replica, _)| *replica).collect() }
    }

    /// Proposes a command here, or at the leader, once: it says whether the outcome is definite.
    pub(super) async fn propose(&self, command: Bytes, patience: Duration) -> Result<Answer, ProposeError> {
        let kib = kib_of(&command);
        let Ok(_room) = self.own.try_acquire_many(kib) else { return Err(ProposeError::Busy) };
        let leader = match self.propose_here(command.clone()).await {
            Err(Written::Forward(leader)) => leader,
            Err(Written::Failed(error)) => return Err(error),
            Ok(answer) => return Ok(answer),
        };
        // A leader that hands over takes nothing, and names whom it asked to lead: that is this node where it is asked itself.
        let leader = leader.filter(|(replica, _)| *replica != self.wire.own);
        let Some((replica, place)) = leader else { return Err(ProposeError::NoLeader) };
        // The semaphore is never closed.
        let _way = self.forwarded.acquire_many(kib).await;
        match self.ask_leader((replica, &place), Lane::Bulk, Body::Propose(command), patience).await {
            // It did not arrive: there is no room for it, or nobody.
            Err(Unanswered { lost: Some(FailReason::Refused), .. }) => Err(ProposeError::Busy),
            Err(Unanswered { lost: Some(_), .. }) => Err(ProposeError::NoLeader),
            // It may be on its way.
            Err(Unanswered { why, lost: None }) => Err(ProposeError::Unknown { why }),
            Ok((_, Body::Proposed { result, committed })) => {
                if let Some(committed) = committed {
                    self.take_committed(committed);
                }
                match result {
                    Proposed::Applied { id, answer } => Ok(Answer { id, result: Ok(answer) }),
                    Proposed::SessionExpired { id } => {
                        Ok(Answer { id, result: Err(Refusal::SessionExpired) })
                    }
                    Proposed::AnswerForgotten { id, seq } => {
                        Ok(Answer { id, result: Err(Refusal::AnswerForgotten { seq }) })
                    }
                    Proposed::NotLeader => Err(ProposeError::NoLeader),
                    Proposed::Busy => Err(ProposeError::Busy),
                    Proposed::Unknown => Err(ProposeError::Unknown {
                        why: format!("{place} lost its leadership while it was under way"),
                    }),
                }
            }
            Ok(_) => Err(ProposeError::Unknown { why: format!("{place} gave an answer that is none") }),
        }
    }

    async fn propose_here(&self, command: Bytes) -> Result<Answer, Written> {
        let _under_way = self.writes.read().await;
        if self.is_full() {
            return Err(Written::Failed(ProposeError::Busy));
        }
        match self.raft.client_write(Proposal(command)).await {
            Ok(response) => Ok(response.data),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                // Once it was appended here, the engine says otherwise.
                Err(Written::Forward(forward.leader_id.zip(forward.leader_node)))
            }
            Err(RaftError::APIError(error)) => {
                Err(Written::Failed(ProposeError::Unknown { why: words::unknown(&error) }))
            }
            Err(RaftError::Fatal(error)) => {
                Err(Written::Failed(ProposeError::Stopped { why: words::stopped(&error) }))
            }
        }
    }

    /// Has a voter lead. What is under way is committed first: no proposal is left without an answer by it. Those that come
    /// meanwhile wait, and are told then who leads. Without a quorum nothing is committed, and it hands over all the same.
    pub(super) async fn hand_over(&self, replica: ReplicaId) -> Result<(), MemberError> {
        let _alone = timeout(self.drained_within, self.writes.write()).await;
        let asked = self.raft.trigger().transfer_leader(replica).await;
        asked.map_err(|error| MemberError::Stopped { why: words::stopped(&error) })
    }

    /// Asks whoever leads. It ends early where somebody else leads by now: that one may be asked instead.
    async fn ask_leader(
        &self,
        (replica, place): (ReplicaId, &Place),
        lane: Lane,
        body: Body,
        patience: Duration,
    ) -> Result<(ReplicaId, Body), Unanswered> {
        tokio::select! {
            biased;
            answer = self.wire.ask((Some(replica), place), lane, body, patience) => answer,
            () = self.another_leads(replica) => {
                Err(Unanswered::perhaps(format!("{place} leads no longer, and gave no answer")))
            }
        }
    }

    /// Resolves when another one leads, and what this one said last had time to come.
    pub(super) async fn another_leads(&self, replica: ReplicaId) {
        let mut metrics = self.raft.server_metrics();
        // One that hands over is the leader, for itself, until another one is.
        let own = metrics.borrow_watched().current_leader.filter(|leader| *leader == self.wire.own);
        while metrics
            .borrow_watched()
            .current_leader
            .is_none_or(|leader| leader == replica || Some(leader) == own)
        {
            if metrics.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
        sleep(self.last_word).await;
    }

    /// A proposal that a peer forwards. It is not forwarded again.
    pub(super) async fn proposed_by_peer(&self, command: Bytes) -> Body {
        let result = match Command::decode(&command) {
            // Longer ones are taken from nobody: no message would carry them on.
            Ok(Command::Operation { .. } | Command::OpensSession { .. })
                if command.len() <= COMMAND_BYTES_MAX =>
            {
                self.forwarded_here(Command::stamped(&command, self.clock.read(Instant::now()))).await
            }
            // A membership or a blank entry is the engine's own.
            _ => Proposed::NotLeader,
        };
        // What was not appended says nothing new.
        let committed = match result {
            Proposed::NotLeader | Proposed::Busy | Proposed::Unknown => None,
            _ => self.committed(),
        };
        Body::Proposed { result, committed }
    }

    async fn forwarded_here(&self, command: Bytes) -> Proposed {
        let Ok(_room) = self.of_peers.try_acquire_many(kib_of(&command)) else { return Proposed::Busy };
        match self.propose_here(command).await {
            Ok(Answer { id, result: Ok(answer) }) => Proposed::Applied { id, answer },
            Ok(Answer { id, result: Err(Refusal::SessionExpired) }) => Proposed::SessionExpired { id },
            Ok(Answer { id, result: Err(Refusal::AnswerForgotten { seq }) }) => {
                Proposed::AnswerForgotten { id, seq }
            }
            Err(Written::Forward(_)) => Proposed::NotLeader,
            Err(Written::Failed(ProposeError::Busy)) => Proposed::Busy,
            Err(Written::Failed(_)) => Proposed::Unknown,
        }
    }

    /// Up to which entry a reader must wait, if this node leads; `None` if it does not, or cannot be sure.
    pub(super) async fn barrier_here(&self, lease: bool) -> Option<Option<EntryId>> {
        let began = self.wire.quorum.last();
        // The node may have stood still since the guard looked, and its monotonic clock with it.
        let lease = lease && self.leases.load(Ordering::Relaxed) && self.wire.time.is_steady(self.step);
        let option = if lease {
            LinearizerOption::new(Some(self.lease), false).with_wait_timeout(Duration::ZERO)
        } else {
            LinearizerOption::from(ReadPolicy::ReadIndex)
        };
        let linearizer = self.raft.get_read_linearizer(option).await.ok()?;
        // It is of the term in which the engine led when it said so. That a majority followed is not taken from it.
        let read = id_of(linearizer.read_log_id().log_id());
        let backed = if lease {
            let majority = self.wire.quorum.majority(read.term, &self.membership());
            majority.is_some_and(|sent| sent.at.elapsed() < self.lease)
        } else {
            self.is_backed_beyond(began, read.term).await
        };
        backed.then_some(Some(read))
    }

    pub(super) fn membership(&self) -> EngineMembership {
        self.raft.metrics().borrow_watched().membership_config.membership().clone()
    }

    /// A majority took something that this node sent as the leader of that term, after what has that number: nobody of a later term led
    /// before.
    async fn is_backed_beyond(&self, number: u64, term: u64) -> bool {
        tokio::select! {
            biased;
            () = self.wire.quorum.majority_beyond(number, term, || self.membership()) => true,
            () = self.leads_no_longer(term) => false,
            () = sleep(self.backed_within) => false,
        }
    }

    async fn leads_no_longer(&self, term: u64) {
        let mut metrics = self.raft.server_metrics();
        loop {
            {
                let metrics = metrics.borrow_watched();
                let leads = metrics.state == openraft::ServerState::Leader;
                if !leads || metrics.vote.leader_id.term != term {
                    return;
                }
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// The same of whoever leads.
    pub(super) async fn barrier(&self, lease: bool, patience: Duration) -> Option<Option<EntryId>> {
        if let Some(index) = self.barrier_here(lease).await {
            return Some(index);
        }
        // It said all that it can.
        let leader = self.raft.current_leader().await.filter(|leader| *leader != self.wire.own)?;
        let place = self.place_of(leader)?;
        match self.ask_leader((leader, &place), Lane::Control, Body::Barrier { lease }, patience).await {
            Ok((_, Body::Passed { index })) => index,
            _ => None,
        }
    }
}

/// What a command takes of the room, KiB.
fn kib_of(command: &Bytes) -> u32 {
    u32::try_from(command.len() / 1_024 + 1).unwrap_or(u32::MAX)
}

enum Written {
    /// Whom to ask instead, if it is known. Nothing was appended.
    Forward(Option<(ReplicaId, Place)>),
    Failed(ProposeError),
}

/// What this node acknowledged before may be lost. It has all of that again once it has the first entry of a leader that was
/// elected without it, in a term above the one that it had when it started: that leader has everything that is committed.
pub(super) async fn trust_when_caught_up<D: Disk>(requests: Arc<Requests<D>>, log: Arc<Log<D>>, before: u64) {
    let mut metrics = requests.raft.metrics();
    loop {
        let caught_up = {
            let metrics = metrics.borrow_watched();
            metrics.last_applied.as_ref().is_some_and(|last| last.leader_id.term > before)
        };
        if caught_up {
            break;
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
    let (tell, told) = oneshot::channel();
    // The log says so itself when it is broken.
    if log.trust(Box::new(move |result| drop(tell.send(result)))).is_ok() && matches!(told.await, Ok(Ok(())))
    {
        requests.in_doubt.store(false, Ordering::Relaxed);
        elect_again(Arc::clone(&requests)).await;
        requests.wire.events.record(&Event::CaughtUp);
        tracing::info!("this node has caught up: it votes again");
    }
}

/// Begins elections again once what was promised before the start is over.
pub(super) async fn elect_again<D: Disk>(requests: Arc<Requests<D>>) {
    sleep_until(requests.votes_from).await;
    requests.raft.runtime_config().elect(true);
}
