//! The engine's way to other replicas.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::sync::oneshot;
use trunkline_mesh::{FailReason, Lane};

use super::super::carrier::TurnedDown;
use super::super::event::Event;
use super::super::events::Events;
use super::super::replica_id::{Place, ReplicaId};
use super::super::time::{Instant, sleep_until};
use super::calls::{Call, Calls};
use super::clocks::OwnTime;
use super::heard::Heard;
use super::machine_store::SnapshotData;
use super::message::{Append, Appended, Body, Envelope};
use super::outbox::{Outbox, QueueFull};
use super::pace::{Paces, Room, Step};
use super::parts::{EngineSnapshot, Receives};
use super::quorum::{Quorum, Sent};
use super::silences::Silences;
use super::stopping::Stopping;
use super::types::*;
use crate::storage::{Disk, Entry};

/// Appends of a stream that are not answered yet: a thousand per second and a round trip of a second. More is aggregated by the
/// engine.
pub(super) const STREAM_APPENDS_MAX: usize = 1024;
/// And their bytes: beyond them the mesh's budget for the destination would refuse.
const STREAM_BYTES_MAX: usize = 2 << 20;

/// What all connections of a node share.
pub(super) struct Wire {
    pub(super) own: ReplicaId,
    pub(super) outbox: Outbox,
    pub(super) calls: Calls,
    /// How long an answer is waited for at most.
    pub(super) patience: Duration,
    pub(super) time: OwnTime,
    pub(super) events: Events,
    pub(super) heard: Heard,
    pub(super) quorum: Arc<Quorum>,
    pub(super) stopping: Stopping,
    pub(super) paces: Paces,
    /// The index that the next entry of the log will have.
    pub(super) log_end: Box<dyn Fn() -> u64 + Send + Sync>,
    pub(super) silences: Mutex<Silences>,
    /// The last term in which votes were asked for, and whether that was on trial: an event for all voters is enough.
    pub(super) asked: Mutex<Option<(u64, bool)>>,
}

impl Wire {
    pub(super) fn send(&self, to: &Place, lane: Lane, envelope: &Envelope) -> Result<(), QueueFull> {
        self.push(to, lane, envelope, None)
    }

    fn push(
        &self,
        to: &Place,
        lane: Lane,
        envelope: &Envelope,
        turned_down: Option<TurnedDown>,
    ) -> Result<(), QueueFull> {
        let entries = match &envelope.body {
            Body::Append(Append { entries, .. }) => match (entries.first(), entries.last()) {
                (Some(first), Some(last)) => first.id.index..last.id.index + 1,
                _ => 0..0,
            },
            _ => 0..0,
        };
        self.outbox.push(to, lane, self.patience, (envelope.encode(), entries), turned_down)
    }

    fn silences(&self) -> MutexGuard<'_, Silences> {
        self.silences.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A replica left a message unanswered.
    fn is_silent(&self, replica: ReplicaId, place: &Place) {
        if let Some(told) = self.silences().unanswered(replica, Instant::now()) {
            tracing::warn!(
                "{place} does not answer: {} messages in vain within {:.1?}",
                told.count,
                told.lasts
            );
        }
    }

    /// Or it did not.
    fn answers(&self, replica: ReplicaId, place: &Place) {
        if let Some(told) = self.silences().answered(replica, Instant::now()) {
            tracing::info!(
                "{place} answers again, after {} messages in vain within {:.1?}",
                told.count,
                told.lasts
            );
        }
    }

    fn asks_for_votes(&self, term: u64, trial: bool, transfer: bool) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.replace((term, trial)) != Some((term, trial)) {
            let reason = if transfer { "the leader hands over" } else { "no leader is heard of" };
            self.events.record(&Event::AsksForVotes { term, trial, reason });
        }
    }

    /// Asks, and waits for one answer.
    ///
    /// # Errors
    ///
    /// What to tell of it when none came. At once where the mesh says that the question did not arrive.
    pub(super) async fn ask(
        &self,
        to: (Option<ReplicaId>, &Place),
        lane: Lane,
        body: Body,
        patience: Duration,
    ) -> Result<(ReplicaId, Body), Unanswered> {
        let (replica, place) = to;
        let mut call = self.calls.open(replica, 1);
        let what = body.to_string();
        let envelope = Envelope { from: self.own, to: replica, call: call.number, seq: 0, body };
        let (tell, turned_down) = oneshot::channel();
        let pushed = self.push(place, lane, &envelope, Some(tell));
        pushed.map_err(|full| Unanswered { why: full.to_string(), lost: Some(FailReason::Refused) })?;
        let late = Instant::now() + patience;
        tokio::select! {
            biased;
            answer = call.answer() => match answer {
                Some((from, _, body)) => Ok((from, body)),
                None => Err(Unanswered::perhaps(format!("{place} was restarted before it answered `{what}`"))),
            },
            // Of what may have arrived nothing is told here.
            Ok(reason) = turned_down => {
                let why = format!("`{what}` did not reach {place}: {reason}");
                Err(Unanswered { why, lost: Some(reason) })
            }
            () = sleep_until(late) => {
                Err(Unanswered::perhaps(format!("no answer of {place} to `{what}` within {patience:?}")))
            }
        }
    }
}

/// A question that got no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{why}")]
pub(super) struct Unanswered {
    pub(super) why: String,
    /// Why it did not even arrive, where that is certain.
    pub(super) lost: Option<FailReason>,
}

impl Unanswered {
    /// It may have arrived.
    pub(super) fn perhaps(why: String) -> Self {
        Self { why, lost: None }
    }
}

/// Makes [`Peer`]s.
pub(super) struct Network<D> {
    pub(super) wire: Arc<Wire>,
    pub(super) disk: std::marker::PhantomData<fn() -> D>,
}

/// Another replica, on one lane.
pub(super) struct Peer<D> {
    wire: Arc<Wire>,
    replica: ReplicaId,
    place: Place,
    lane: Lane,
    disk: std::marker::PhantomData<fn() -> D>,
}

impl<D: Disk> Network<D> {
    fn peer(&self, replica: ReplicaId, place: &Place, lane: Lane) -> Peer<D> {
        let (wire, place) = (Arc::clone(&self.wire), place.clone());
        Peer { wire, replica, place, lane, disk: self.disk }
    }
}

impl<D: Disk> RaftNetworkFactory<Types> for Network<D> {
    type Network = Peer<D>;

    async fn new_client(&mut self, target: ReplicaId, node: &Place) -> Peer<D> {
        self.peer(target, node, Lane::Bulk)
    }

    /// Heartbeats do not wait behind entries.
    async fn new_heartbeat_client(&mut self, target: ReplicaId, node: &Place) -> Peer<D> {
        self.peer(target, node, Lane::Control)
    }
}

impl<D: Disk> Peer<D> {
    async fn ask(&self, lane: Lane, body: Body, option: &RPCOption) -> Result<Body, RPCError<Types>> {
        let answer = self.wire.ask((Some(self.replica), &self.place), lane, body, option.soft_ttl()).await;
        match &answer {
            Ok(_) => self.wire.answers(self.replica, &self.place),
            Err(_) => self.wire.is_silent(self.replica, &self.place),
        }
        answer.map(|(_, body)| body).map_err(|none| unreachable(none.why))
    }
}

fn unreachable(why: String) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::from_string(why))
}

fn broken(why: &str) -> RPCError<Types> {
    RPCError::Network(NetworkError::from_string(why))
}

impl<D: Disk> NetBackoff<Types> for Peer<D> {
    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

impl<D: Disk> NetVote<Types> for Peer<D> {
    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(rpc, false, option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(rpc, true, option).await
    }
}

impl<D: Disk> Peer<D> {
    async fn ask_for_vote(
        &self,
        rpc: VoteRequest<Types>,
        only_asked: bool,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let last = rpc.last_log_id.as_ref().map(id_of);
        let term = rpc.vote.leader_id.term;
        self.wire.asks_for_votes(term, only_asked, rpc.leadership_transfer);
        let body = Body::Vote { vote: rpc.vote, last, only_asked, transfer: rpc.leadership_transfer };
        match self.ask(Lane::Control, body, &option).await? {
            Body::Voted { vote, last, granted } => {
                self.wire.events.record(&Event::VoteReceived {
                    term,
                    trial: only_asked,
                    from: self.replica,
                    granted,
                });
                Ok(VoteResponse { vote, vote_granted: granted, last_log_id: last.map(log_id_of) })
            }
            _ => Err(broken("the answer to a vote is none")),
        }
    }
}

impl<D: Disk> NetTransferLeader<Types> for Peer<D> {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let (vote, next) = (*request.from_leader(), *request.to_node_id());
        let last = request.last_log_id().map(id_of);
        match self.ask(Lane::Control, Body::Transfer { vote, next, last }, &option).await? {
            Body::Transferred { done: true } => Ok(Ok(())),
            // The leader looks at the target's progress itself before it tries again.
            Body::Transferred { done: false } => {
                Ok(Err(TransferLeaderError::LogNotFlushed { expected: last.map(log_id_of), actual: None }))
            }
            _ => Err(broken("the answer to a transfer is none")),
        }
    }
}

type AppendResult = Result<StreamAppendResult<Types>, RPCError<Types>>;

impl<D: Disk> NetStreamAppend<Types> for Peer<D> {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendResult>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        // A heartbeat's answer is waited for as long as the engine says. Entries take as long as they take: a follower far
        // behind is slow and not dead, so it has until the patience ends, again after each answer.
        let patience = match self.lane {
            Lane::Control => option.hard_ttl(),
            Lane::Bulk => self.wire.patience,
        };
        let call = self.wire.calls.open(Some(self.replica), 2 * STREAM_APPENDS_MAX);
        let join = || self.wire.paces.join(&self.place.datacenter, self.replica);
        let step = (self.lane == Lane::Bulk).then(join).flatten();
        let stream = Appends {
            peer: self,
            input: Some(input),
            step,
            call,
            next: 0,
            next_index: 0,
            pending: VecDeque::new(),
            bytes: 0,
            patience,
            since: Instant::now(),
            heard_at: None,
        };
        let answers = futures_util::stream::unfold(Some(stream), |stream| async move {
            let mut stream = stream?;
            let result = stream.next().await?;
            // After an error the stream is over.
            let goes_on = matches!(&result, Ok(Ok(_)));
            Some((result, goes_on.then_some(stream)))
        });
        Box::pin(async move { Ok(Box::pin(answers) as BoxStream<'s, AppendResult>) })
    }
}

/// A stream of appends: several are under way, and answers come in their order.
struct Appends<'a, D: Disk, S> {
    peer: &'a Peer<D>,
    /// Until it has ended.
    input: Option<S>,
    /// Of a stream of entries.
    step: Option<Step>,
    call: Call,
    next: u64,
    /// Of the next entry.
    next_index: u64,
    pending: VecDeque<Pending>,
    bytes: usize,
    patience: Duration,
    /// The last answer, or the first append that waits for one.
    since: Instant,
    /// The last answer.
    heard_at: Option<Instant>,
}

struct Pending {
    seq: u64,
    term: u64,
    sent: Sent,
    previous: Option<LogId>,
    last: Option<LogId>,
    bytes: usize,
}

impl<D: Disk, S: Stream<Item = AppendEntriesRequest<Types>> + Unpin> Appends<'_, D, S> {
    /// The next answer; `None` when all were given.
    async fn next(&mut self) -> Option<AppendResult> {
        loop {
            let room = self.room();
            let waits = !self.pending.is_empty();
            if self.input.is_none() && !waits {
                return None;
            }
            let late = self.since + self.patience;
            let held_until = self.held_until(room);
            let open = room != Room::None && self.input.is_some();
            tokio::select! {
                biased;
                answer = self.call.answer(), if waits => return Some(match answer {
                    Some((_, seq, body)) => {
                        self.peer.wire.answers(self.peer.replica, &self.peer.place);
                        self.take(seq, body)
                    }
                    None => Err(broken("the follower was restarted")),
                }),
                next = next_of(&mut self.input, self.step.as_ref(), held_until), if open => match next {
                    Next::OthersMoved => {}
                    Next::End => self.input = None,
                    Next::Request(request) => {
                        if let Err(error) = self.send(request) {
                            return Some(Err(error));
                        }
                    }
                },
                () = sleep_until(late), if waits => {
                    self.peer.wire.is_silent(self.peer.replica, &self.peer.place);
                    let why = format!("{} answered no append within {:?}", self.peer.place, self.patience);
                    return Some(Err(unreachable(why)));
                }
            }
        }
    }

    /// Of what may be under way.
    fn room(&self) -> Room {
        let (appends, bytes) = (self.pending.len(), self.bytes);
        if appends >= STREAM_APPENDS_MAX || bytes >= STREAM_BYTES_MAX {
            Room::None
        } else if 2 * appends >= STREAM_APPENDS_MAX || 2 * bytes >= STREAM_BYTES_MAX {
            Room::Some
        } else {
            Room::Most
        }
    }

    /// Until when it waits for others of its datacenter.
    fn held_until(&mut self, room: Room) -> Option<Instant> {
        let (step, heard_at, now) = (self.step.as_mut()?, self.heard_at?, Instant::now());
        step.is_at(self.next_index, room, heard_at, now);
        if self.next_index >= (self.peer.wire.log_end)() {
            step.is_at_head();
        }
        if room == Room::None { None } else { step.waits_until(now) }
    }

    fn send(&mut self, request: AppendEntriesRequest<Types>) -> Result<(), RPCError<Types>> {
        let entries: Vec<Entry> = request
            .entries
            .iter()
            .map(|entry| Entry { id: id_of(&entry.log_id), payload: bytes_of(&entry.payload) })
            .collect();
        let bytes = entries.iter().map(|entry| entry.payload.len()).sum();
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        let append = Append {
            vote: request.vote,
            previous: request.prev_log_id.as_ref().map(id_of),
            committed: request.leader_commit.as_ref().map(id_of),
            backed: self.peer.wire.heard.is_backed(),
            entries,
        };
        let peer = self.peer;
        // Before it leaves: nobody has it earlier.
        let (term, sent) = (request.vote.leader_id.term, peer.wire.quorum.sends());
        let envelope = Envelope {
            from: peer.wire.own,
            to: Some(peer.replica),
            call: self.call.number,
            seq: self.next,
            body: Body::Append(append),
        };
        peer.wire.send(&peer.place, peer.lane, &envelope).map_err(|full| unreachable(full.to_string()))?;
        if self.pending.is_empty() {
            self.since = Instant::now();
        }
        let (seq, previous) = (self.next, request.prev_log_id);
        self.pending.push_back(Pending { seq, term, sent, previous, last, bytes });
        self.bytes += bytes;
        self.next += 1;
        self.next_index = last.map_or(0, |id| id.index + 1);
        Ok(())
    }

    fn take(&mut self, seq: u64, body: Body) -> AppendResult {
        let Body::Appended(appended) = body else { return Err(broken("the answer to an append is none")) };
        let pending = self.pending.pop_front().filter(|pending| pending.seq == seq);
        let Some(pending) = pending else { return Err(broken("an answer to an append is missing")) };
        self.bytes -= pending.bytes;
        self.since = Instant::now();
        self.heard_at = Some(self.since);
        match appended {
            Appended::Done => {
                self.peer.wire.quorum.is_taken(self.peer.replica, pending.term, pending.sent);
                Ok(Ok(pending.last))
            }
            Appended::Conflict => match pending.previous {
                Some(previous) => Ok(Err(StreamAppendError::Conflict(previous))),
                None => Err(broken("nothing conflicts with the beginning of the log")),
            },
            Appended::HigherVote(vote) => Ok(Err(StreamAppendError::HigherVote(vote))),
            Appended::Broken => Err(broken("the follower missed a message of the stream")),
        }
    }
}

/// What a stream with room comes to.
enum Next {
    /// It waited for the others of its datacenter, which may be over.
    OthersMoved,
    Request(AppendEntriesRequest<Types>),
    End,
}

async fn next_of<S: Stream<Item = AppendEntriesRequest<Types>> + Unpin>(
    input: &mut Option<S>,
    step: Option<&Step>,
    held_until: Option<Instant>,
) -> Next {
    if let (Some(step), Some(until)) = (step, held_until) {
        tokio::select! {
            biased;
            () = step.changed() => {}
            () = sleep_until(until) => {}
        }
        return Next::OthersMoved;
    }
    let Some(input) = input else { return std::future::pending().await };
    input.next().await.map_or(Next::End, Next::Request)
}

impl<D: Disk> NetSnapshot<Types> for Peer<D> {
    type SnapshotData = SnapshotData<D>;

    async fn full_snapshot(
        &mut self,
        vote: EngineVote,
        snapshot: EngineSnapshot<D>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let (wire, to) = (&self.wire, (self.replica, &self.place));
        let last = snapshot.meta.last_log_id.as_ref().map(id_of);
        let sent = async {
            if let Some(last) = last
                && let Some(vote) = wire.have_lent(vote, to, last).await
            {
                return Ok(SnapshotResponse::new(vote));
            }
            let to = Receives { replica: self.replica, place: &self.place, vote, asked_by: None };
            let sent = wire.send_snapshot(to, snapshot).await;
            let failed = |why: String| StreamingError::Unreachable(Unreachable::from_string(why));
            sent.map(SnapshotResponse::new).map_err(failed)
        };
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sent => sent,
        }
    }
}
