//! What comes in from other replicas.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::storage::SnapshotMeta;
use tokio::sync::{Semaphore, mpsc};
use trunkline_mesh::{Delivery, Lane, NodeId};

use super::super::carrier::Incoming as FromMesh;
use super::super::event::Event;
use super::super::replica_id::{Place, ReplicaId};
use super::super::tasks;
use super::super::time::{Instant, timeout};
use super::Raft;
use super::lending::Lender;
use super::machine_store::SnapshotData;
use super::message::{Append, Appended, Body, Envelope, Got, Part};
use super::network::{STREAM_APPENDS_MAX, Wire};
use super::parts::INSTALLED_WITHIN;
use super::requests::Requests;
use super::strangers::Strangers;
use super::types::*;
use crate::storage::{Disk, Received, Snapshots};

/// Questions of all peers that are being answered. More are dropped: who asked asks again.
const QUESTIONS_MAX: usize = 4_096;

pub(super) struct Receiver<D: Disk> {
    raft: Raft<D>,
    wire: Arc<Wire>,
    snapshots: Arc<Snapshots<D>>,
    requests: Arc<Requests<D>>,
    lender: Arc<Lender<D>>,
    strangers: Strangers<D>,
    /// One of each node and lane: there are as many as the topology has, whatever replicas a peer makes up.
    streams: BTreeMap<(NodeId, Lane), Incoming>,
    /// One of each node.
    parts: BTreeMap<NodeId, mpsc::Sender<(u64, Part)>>,
    questions: Arc<Semaphore>,
}

/// A stream of appends.
struct Incoming {
    from: ReplicaId,
    call: u64,
    next: u64,
    requests: mpsc::Sender<AppendEntriesRequest<Types>>,
}

impl<D: Disk> Receiver<D> {
    pub(super) fn new(
        raft: Raft<D>,
        wire: Arc<Wire>,
        snapshots: Arc<Snapshots<D>>,
        requests: Arc<Requests<D>>,
        lender: Lender<D>,
    ) -> Self {
        let strangers = Strangers::new(Arc::clone(&requests), Arc::clone(&wire));
        Self {
            raft,
            wire,
            snapshots,
            requests,
            lender: Arc::new(lender),
            strangers,
            streams: BTreeMap::new(),
            parts: BTreeMap::new(),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
        }
    }

    /// Until the mesh is closed.
    pub(super) async fn run(mut self, mut incoming: FromMesh) {
        while let Some(delivery) = incoming.next().await {
            self.take(&delivery);
        }
    }

    fn take(&mut self, delivery: &Delivery) {
        let mut envelope = match Envelope::decode(&delivery.payload) {
            Ok(envelope) => envelope,
            Err(error) => return tracing::warn!(origin = %delivery.origin, %error, "dropped"),
        };
        // It was meant for an earlier life of this node, which promised other things.
        if envelope.to.is_some_and(|to| to != self.wire.own) {
            return tracing::debug!(origin = %delivery.origin, what = %envelope.body, "dropped: it is for another replica");
        }
        // Nobody speaks for a replica that is known to be on another node.
        let known = self.requests.place_of(envelope.from);
        if known.is_some_and(|known| known.node != delivery.origin) {
            return tracing::warn!(origin = %delivery.origin, replica = %envelope.from, "dropped: that replica is on another node");
        }
        let Some(place) = self.wire.outbox.carrier().place(&delivery.origin) else {
            return tracing::debug!(origin = %delivery.origin, "dropped: it is in the topology no longer");
        };
        if let Err(why) = self.strangers.hears(&mut envelope) {
            return self.strangers.tell(&delivery.origin, &envelope, why);
        }
        self.wire.calls.heard(&delivery.origin, envelope.from, delivery.origin_incarnation);
        match envelope.body {
            Body::Append(append) => {
                self.append(&place, delivery.lane, (envelope.from, envelope.call, envelope.seq), append)
            }
            Body::Snapshot(part) => self.part(&place, envelope.from, envelope.call, part),
            Body::Appended(_)
            | Body::Voted { .. }
            | Body::Transferred { .. }
            | Body::Got { .. }
            | Body::Proposed { .. }
            | Body::Passed { .. }
            | Body::IAm { .. }
            | Body::Now { .. }
            | Body::Lent(_)
            | Body::Noted => self.wire.calls.answer(envelope),
            Body::Vote { .. }
            | Body::Transfer { .. }
            | Body::Propose(_)
            | Body::Barrier { .. }
            | Body::Who
            | Body::Time
            | Body::Stops
            | Body::Lend(_) => {
                self.question(place, delivery.lane, envelope);
            }
        }
    }

    fn append(
        &mut self,
        place: &Place,
        lane: Lane,
        (from, call, seq): (ReplicaId, u64, u64),
        append: Append,
    ) {
        let key = (place.node.clone(), lane);
        if seq == 0 {
            let (requests, waiting) = mpsc::channel(2 * STREAM_APPENDS_MAX);
            // An older one ends when all that came by it is answered.
            self.streams.insert(key.clone(), Incoming { from, call, next: 0, requests });
            let (raft, wire, place) = (self.raft.clone(), Arc::clone(&self.wire), place.clone());
            tasks::spawn(answer_stream(raft, wire, place, (from, lane, call), waiting));
        }
        let request = AppendEntriesRequest {
            vote: append.vote,
            prev_log_id: append.previous.map(log_id_of),
            entries: append.entries.iter().filter_map(|entry| entry_of(entry).ok()).collect(),
            leader_commit: append.committed.map(log_id_of),
        };
        let readable = request.entries.len() == append.entries.len();
        let stream = self
            .streams
            .get_mut(&key)
            .filter(|stream| (stream.from, stream.call, stream.next) == (from, call, seq));
        let taken = stream.is_some_and(|stream| {
            stream.next += 1;
            readable && stream.requests.try_send(request).is_ok()
        });
        if taken {
            self.wire.heard.of(append.vote.leader_id, append.backed);
        } else {
            if !readable {
                tracing::error!(%place, "an entry of the leader cannot be read: is it of a later version? upgrade this node");
            }
            // Whatever follows of it has no ground.
            self.streams.remove(&key);
            let body = Body::Appended(Appended::Broken);
            answer(&self.wire, place, lane, (from, call, seq), body);
        }
    }

    /// A part of a snapshot goes to the task that writes it.
    fn part(&mut self, place: &Place, from: ReplicaId, call: u64, part: Part) {
        if part.offset == 0 {
            let (parts, waiting) = mpsc::channel(16);
            self.parts.insert(place.node.clone(), parts);
            let (raft, wire, place) = (self.raft.clone(), Arc::clone(&self.wire), place.clone());
            tasks::spawn(take_snapshot(raft, wire, Arc::clone(&self.snapshots), (from, place), waiting));
        }
        let offset = part.offset;
        let taken = self.parts.get(&place.node).is_some_and(|parts| parts.try_send((call, part)).is_ok());
        if !taken {
            self.parts.remove(&place.node);
            let body = Body::Got { result: Got::Again, offset, vote: EngineVote::new(0, self.wire.own) };
            answer(&self.wire, place, Lane::Bulk, (from, call, offset), body);
        }
    }

    fn question(&self, place: Place, lane: Lane, envelope: Envelope) {
        let Ok(permit) = Arc::clone(&self.questions).try_acquire_owned() else {
            return tracing::warn!(%place, what = %envelope.body, "dropped: too many questions are open");
        };
        let (raft, wire, requests) = (self.raft.clone(), Arc::clone(&self.wire), Arc::clone(&self.requests));
        let lender = Arc::clone(&self.lender);
        tasks::spawn(async move {
            let to = (envelope.from, envelope.call, 0);
            let body = match envelope.body {
                Body::Lend(lend) => Some(Body::Lent(lender.lend(envelope.from, lend).await)),
                body => answer_of(&raft, &requests, &wire, envelope.from, body).await,
            };
            if let Some(body) = body {
                answer(&wire, &place, lane, to, body);
            }
            drop(permit);
        });
    }
}

fn answer(wire: &Wire, place: &Place, lane: Lane, (to, call, seq): (ReplicaId, u64, u64), body: Body) {
    let envelope = Envelope { from: wire.own, to: Some(to), call, seq, body };
    if let Err(full) = wire.send(place, lane, &envelope) {
        tracing::warn!(%place, error = %full, "an answer is dropped");
    }
}

async fn answer_stream<D: Disk>(
    raft: Raft<D>,
    wire: Arc<Wire>,
    place: Place,
    (from, lane, call): (ReplicaId, Lane, u64),
    mut waiting: mpsc::Receiver<AppendEntriesRequest<Types>>,
) {
    let requests = futures_util::stream::poll_fn(move |context| waiting.poll_recv(context));
    let mut answers = std::pin::pin!(raft.stream_append(requests));
    let mut seq = 0;
    while let Some(result) = answers.next().await {
        let appended = match result {
            Ok(Ok(_)) => Appended::Done,
            Ok(Err(StreamAppendError::Conflict(_))) => Appended::Conflict,
            Ok(Err(StreamAppendError::HigherVote(vote))) => Appended::HigherVote(vote),
            // The engine stopped; whoever runs it is told.
            Err(_) => return,
        };
        answer(&wire, &place, lane, (from, call, seq), Body::Appended(appended));
        seq += 1;
    }
}

async fn answer_of<D: Disk>(
    raft: &Raft<D>,
    requests: &Requests<D>,
    wire: &Wire,
    from: ReplicaId,
    body: Body,
) -> Option<Body> {
    match body {
        Body::Vote { vote, last, only_asked, transfer } => {
            let term = vote.leader_id.term;
            let tell = |granted, reason| {
                wire.events.record(&Event::Asked { term, trial: only_asked, by: from, granted, reason });
            };
            // What it acknowledged may be lost, or what it promised is not over: it makes no new promise.
            if requests.in_doubt() {
                tell(false, "what this node acknowledged before may be lost");
                return None;
            }
            if !transfer && Instant::now() < requests.votes_from {
                tell(false, "what this node promised a leader before its restart is not over");
                return None;
            }
            let candidate = last.map(log_id_of);
            let request = VoteRequest { vote, last_log_id: candidate, leadership_transfer: transfer };
            let response = if only_asked { raft.pre_vote(request).await } else { raft.vote(request).await };
            let response = response.ok()?;
            let last = response.last_log_id.as_ref().map(id_of);
            tell(response.vote_granted, reason_of(&response, &vote, candidate.as_ref()));
            Some(Body::Voted { vote: response.vote, last, granted: response.vote_granted })
        }
        // It would vote for itself, and it votes for nobody.
        Body::Transfer { .. } if requests.in_doubt() => Some(Body::Transferred { done: false }),
        Body::Transfer { vote, next, last } => {
            let request = TransferLeaderRequest::new(vote, next, last.map(log_id_of));
            let done = raft.handle_transfer_leader(request).await.ok()?.is_ok();
            Some(Body::Transferred { done })
        }
        Body::Propose(command) => Some(requests.proposed_by_peer(command).await),
        Body::Barrier { lease } => Some(Body::Passed { index: requests.barrier_here(lease).await }),
        Body::Who => Some(requests.who_it_is().await),
        Body::Time => Some(wire.time.now()),
        Body::Stops => {
            if requests.place_of(from).is_some() {
                wire.stopping.says(from);
            }
            Some(Body::Noted)
        }
        _ => None,
    }
}

/// Why a vote was given or not.
fn reason_of(response: &VoteResponse<Types>, asked: &EngineVote, candidate: Option<&LogId>) -> &'static str {
    if response.vote_granted {
        "nothing speaks against it"
    } else if response.last_log_id.as_ref() > candidate {
        "this node's log has more"
    } else if response.vote.leader_id.term > asked.leader_id.term {
        "this node is in a later term"
    } else if response.vote.leader_id.term == asked.leader_id.term {
        "this node voted for another one in this term"
    } else {
        "this node hears of a leader"
    }
}

/// Writes a snapshot as it comes, and has it installed. What of one that broke off is on the disk is taken out.
async fn take_snapshot<D: Disk>(
    raft: Raft<D>,
    wire: Arc<Wire>,
    snapshots: Arc<Snapshots<D>>,
    from: (ReplicaId, Place),
    parts: mpsc::Receiver<(u64, Part)>,
) {
    let mut received = None;
    take_parts(raft, wire, &snapshots, from, parts, &mut received).await;
    if let Some(left) = received {
        // Its file goes with it.
        let _ = tasks::blocking(move || drop(left)).await;
    }
}

async fn take_parts<D: Disk>(
    raft: Raft<D>,
    wire: Arc<Wire>,
    snapshots: &Arc<Snapshots<D>>,
    (from, place): (ReplicaId, Place),
    mut parts: mpsc::Receiver<(u64, Part)>,
    received: &mut Option<Received<D::File>>,
) {
    // Whoever sends it waits less long for a word, and has ended it by then.
    while let Ok(Some((call, part))) = timeout(INSTALLED_WITHIN * wire.patience, parts.recv()).await {
        let offset = part.offset;
        let tell = |result, offset, vote| {
            answer(&wire, &place, Lane::Bulk, (from, call, offset), Body::Got { result, offset, vote });
        };
        let none = EngineVote::new(0, wire.own);
        let so_far = received.as_ref().map_or(0, Received::bytes);
        if offset != so_far || part.bytes.is_empty() || offset + part.bytes.len() as u64 > part.total {
            return tell(Got::Again, so_far, none);
        }
        let (store, before, bytes) = (Arc::clone(snapshots), received.take(), part.bytes.clone());
        let write = move || {
            let mut received = before.map_or_else(|| store.begin_received(), Ok)?;
            received.write(&bytes)?;
            Ok::<_, crate::storage::StorageError>(received)
        };
        let file = match tasks::blocking(write).await {
            Ok(Ok(file)) => file,
            Ok(Err(error)) => {
                tracing::error!(%error, "a snapshot cannot be written");
                return tell(Got::Refused, so_far, none);
            }
            Err(_) => return,
        };
        let so_far = file.bytes();
        if so_far < part.total {
            *received = Some(file);
            tell(Got::Next, so_far, none);
            continue;
        }
        let membership = part
            .membership
            .as_ref()
            .map(|(since, json)| super::super::applied::Membership { since: *since, json: json.clone() });
        let Ok(last_membership) = stored_of(membership.as_ref()) else {
            *received = Some(file);
            return tell(Got::Refused, so_far, none);
        };
        // Nothing of the engine sees a snapshot that is damaged or another one than was said: that would end it.
        let store = Arc::clone(snapshots);
        let checked = tasks::blocking(move || (store.last_of_received(&file), file)).await;
        let Ok((last, file)) = checked else { return };
        let fits = last.as_ref().ok() == part.last.as_ref();
        if !fits || part.last.is_some_and(|last| last.term > part.vote.leader_id.term) {
            tracing::error!(%place, "a snapshot came damaged, or is another one than was said: it is not taken");
            *received = Some(file);
            return tell(Got::Refused, so_far, none);
        }
        let meta = SnapshotMeta { last_log_id: part.last.map(log_id_of), last_membership };
        let snapshot = openraft::Snapshot { meta, snapshot: SnapshotData::Received(Box::new(file)) };
        return match raft.install_full_snapshot(part.vote, snapshot).await {
            Ok(response) => tell(Got::Installed, so_far, response.vote),
            Err(error) => {
                tracing::error!(%error, "a snapshot cannot be installed");
                tell(Got::Refused, so_far, none);
            }
        };
    }
}
