//! What must hold, and is looked at while a cluster runs: at each message that leaves or arrives, each entry that is applied and
//! each start of a node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use trunkline_mesh::{Lane, Payload};

use super::super::super::digest::Digest;
use super::super::super::key_value::{Answered, Operation};
use super::super::super::replica_id::ReplicaId;
use super::super::message::{Appended, Body, Envelope, Lend, Lent};
use super::super::types::*;
use super::trace::Trace;
use crate::storage::faulty::FaultyDisk;
use crate::storage::{EntryId, Identity, Log, Options, Recovered};

/// Violations that are told; after so many no further ones are of use.
const TOLD_MAX: usize = 8;
/// Of so many acknowledgements one is looked at on the disk, which takes time.
const LOOKED_AT: u64 = 16;

/// Clones are the same.
#[derive(Clone)]
pub(super) struct Checker {
    state: Arc<Mutex<State>>,
    trace: Trace,
}

#[derive(Default)]
struct State {
    violations: Vec<String>,
    /// Who led, by term.
    leaders: BTreeMap<u64, ReplicaId>,
    nodes: BTreeMap<usize, Promised>,
    /// Operations by index, as the first replica applied them.
    operations: BTreeMap<u64, Bytes>,
    /// What it answered.
    answers: BTreeMap<u64, Bytes>,
    /// Where a value was applied, and whether it was put there. Each is proposed once.
    values: BTreeMap<Bytes, (u64, bool)>,
    digests: BTreeMap<u64, (EntryId, Digest)>,
    first_led: Option<u64>,
    /// When a leader said last that it leads, µs.
    last_led: u64,
    acks: u64,
    /// Snapshots that leaders asked others to send: by whom and call, for whom, and the entry that they have at least.
    lends: BTreeMap<(ReplicaId, u64), (ReplicaId, EntryId)>,
    /// Bytes of snapshots that a node sent a replica.
    parts: BTreeMap<(usize, ReplicaId), u64>,
}

/// What a node said.
#[derive(Default)]
struct Promised {
    disk: FaultyDisk,
    snapshots: FaultyDisk,
    identity: Option<Identity>,
    replica: ReplicaId,
    /// The highest term it told anybody.
    vote: Option<EngineVote>,
    /// In each term whom it voted for, itself included.
    votes: BTreeMap<u64, ReplicaId>,
    /// What it said it has: terms by index. An entry is no longer in it once another one took its place.
    held: BTreeMap<u64, u64>,
    /// The highest term of a leader whose entries it was sent, and that of those that it acknowledged last.
    sent_by: u64,
    acked_to: u64,
    /// The highest term of a leader it heard of.
    heard_of: u64,
    /// Appends that it was asked to take: by whom, call and seq. The leader's term, and the entries, or the one before them.
    appends: BTreeMap<(ReplicaId, u64, u64), (u64, Vec<EntryId>)>,
    /// Votes that it was only asked whether it would give.
    only_asked: BTreeMap<(ReplicaId, u64), (EngineVote, bool)>,
    /// The last operation it applied in this life.
    applied: Option<u64>,
    committed: Option<u64>,
    term: u64,
    /// What its log said at the start that is committed.
    committed_on_disk: Option<u64>,
}

impl Promised {
    /// The last entry that it said it has.
    fn acked(&self) -> Option<EntryId> {
        self.held.last_key_value().map(|(index, term)| EntryId { term: *term, index: *index })
    }

    /// Entries of a leader come: what they contradict goes.
    fn gives_way(&mut self, entries: &[EntryId]) {
        let other = |id: &&EntryId| self.held.get(&id.index).is_some_and(|term| *term != id.term);
        if let Some(first) = entries.iter().find(other).map(|id| id.index) {
            self.held.split_off(&first);
        }
    }

    /// It has lost the end of its log and says so on its disk, where nobody took that back.
    fn is_in_doubt(&self) -> bool {
        self.disk.durable_content("doubt").is_some_and(|content| content.len() > 24)
    }
}

impl Checker {
    pub(super) fn new(trace: Trace) -> Self {
        Self { state: Arc::default(), trace }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn violated(&self, what: String) {
        self.lock().violated(what);
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// A node starts, and found this in its log.
    pub(super) fn starts(
        &self,
        node: usize,
        (disk, snapshots): (&FaultyDisk, &FaultyDisk),
        identity: &Identity,
        (found, log): (&Recovered, &Log<FaultyDisk>),
    ) {
        let mut state = self.lock();
        let promised = state.nodes.entry(node).or_default();
        promised.disk = disk.clone();
        promised.snapshots = snapshots.clone();
        promised.identity = Some(identity.clone());
        (promised.applied, promised.committed, promised.term) = (None, None, 0);
        promised.appends.clear();
        promised.only_asked.clear();
        let vote = found.vote.as_deref().and_then(vote_of);
        let (promised_vote, acked) = (promised.vote, promised.acked());
        let committed = found.committed.checked_sub(1);
        let before = promised.committed_on_disk;
        promised.committed_on_disk = committed.max(before);
        if committed < before && found.in_doubt.is_none() {
            state.violated(format!("node {node} forgets that {before:?} is committed: {committed:?}"));
        }
        if !keeps(vote, promised_vote) {
            state.violated(format!("node {node} told {promised_vote:?} and came back with {vote:?}"));
        }
        if let Some(acked) =
            acked.filter(|acked| !has(found, log, *acked) && newest_snapshot(snapshots) < Some(acked.index))
        {
            state.violated(format!(
                "node {node} acknowledged {acked:?} and came back with {:?}, doubt {:?}",
                found.last, found.in_doubt
            ));
        }
    }

    /// A node may have lost what it acknowledged, and knows it.
    pub(super) fn doubts(&self, node: usize) {
        self.lock().nodes.entry(node).or_default().held.clear();
    }

    /// The vote that a node was asked for.
    pub(super) fn asked_for(&self, node: usize, call: (ReplicaId, u64)) -> Option<EngineVote> {
        let asked = self.lock().nodes.get(&node)?.only_asked.get(&call).copied();
        asked.filter(|(_, only_asked)| !only_asked).map(|(vote, _)| vote)
    }

    /// It heard of a leader after the one that it acknowledged entries to.
    pub(super) fn heard_of_another_leader(&self, node: usize) -> bool {
        let state = self.lock();
        state
            .nodes
            .get(&node)
            .is_some_and(|promised| promised.acked().is_some() && promised.heard_of > promised.acked_to)
    }

    /// A node is another replica from now on: it promised nothing.
    pub(super) fn forgets(&self, node: usize) {
        self.lock().nodes.remove(&node);
    }

    /// When somebody led first, µs.
    pub(super) fn first_led(&self) -> Option<u64> {
        self.lock().first_led
    }

    /// When a leader told a follower last that it leads, µs.
    pub(super) fn last_led(&self) -> u64 {
        self.lock().last_led
    }

    /// Bytes of snapshots that a node sent a replica.
    pub(super) fn parts_sent(&self, node: usize, to: ReplicaId) -> u64 {
        self.lock().parts.get(&(node, to)).copied().unwrap_or_default()
    }

    /// How many terms somebody led in.
    pub(super) fn terms(&self) -> usize {
        self.lock().leaders.len()
    }

    /// A message leaves a node: what it says must be durable.
    pub(super) fn leaves(&self, node: usize, lane: Lane, payload: &Payload) {
        let Ok(envelope) = Envelope::decode(payload) else {
            return self.violated(format!("node {node} sent what cannot be read"));
        };
        let mut state = self.lock();
        let (to, call, seq) = (envelope.to.unwrap_or_default(), envelope.call, envelope.seq);
        state.nodes.entry(node).or_default().replica = envelope.from;
        match envelope.body {
            Body::Snapshot(part) => *state.parts.entry((node, to)).or_default() += part.bytes.len() as u64,
            Body::Lend(Lend { to, last, .. }) => {
                state.lends.insert((envelope.from, call), (to, last));
            }
            Body::Lent(lent) => {
                let asked = state.lends.remove(&(to, call));
                if let (Lent::Installed { .. }, Some((to, last))) = (lent, asked) {
                    state.look_at_lent(node, to, last);
                }
            }
            Body::Append(append) => {
                let term = append.vote.leader_id.term;
                state.first_led.get_or_insert(self.trace.now());
                state.last_led = self.trace.now();
                let leads = *state.leaders.entry(term).or_insert(envelope.from);
                if leads != envelope.from || append.vote.leader_id.voted_for != envelope.from {
                    state.violated(format!("term {term} has two leaders: {leads} and {}", envelope.from));
                }
                state.told(node, append.vote);
            }
            Body::Vote { vote, only_asked: false, .. } => {
                state.votes(node, vote);
                state.told(node, vote);
            }
            Body::Voted { vote, granted, .. } => {
                let promised = state.nodes.entry(node).or_default();
                let only_asked = promised.only_asked.remove(&(to, call)).is_none_or(|(_, only)| only);
                if granted && !only_asked {
                    state.votes(node, vote);
                    state.told(node, vote);
                }
            }
            Body::Appended(Appended::Done) => {
                let promised = state.nodes.entry(node).or_default();
                let Some((term, entries)) = promised.appends.remove(&(to, call, seq)) else { return };
                // Heartbeats are answered at once, and say nothing of entries.
                let Some(last) = entries.last().copied().filter(|_| lane == Lane::Bulk) else { return };
                // What a later leader sent meanwhile may have cut them off.
                if term >= promised.sent_by {
                    promised.acked_to = term;
                    promised.held.extend(entries.iter().map(|id| (id.index, id.term)));
                }
                let doubts = promised.is_in_doubt();
                state.acks += 1;
                // In doubt it must have each of them.
                if doubts || state.acks.is_multiple_of(LOOKED_AT) {
                    state.look_at_disk(node, last);
                }
            }
            _ => {}
        }
    }

    /// A message is handed to a node.
    pub(super) fn arrived(&self, node: usize, payload: &Payload) {
        let Ok(envelope) = Envelope::decode(payload) else { return };
        let mut state = self.lock();
        let promised = state.nodes.entry(node).or_default();
        let (from, call) = (envelope.from, envelope.call);
        match envelope.body {
            Body::Append(append) => {
                let term = append.vote.leader_id.term;
                promised.heard_of = promised.heard_of.max(term);
                let mut entries: Vec<EntryId> = append.entries.iter().map(|entry| entry.id).collect();
                // A heartbeat cuts nothing off.
                if !entries.is_empty() && term >= promised.sent_by {
                    promised.sent_by = term;
                    promised.gives_way(&entries);
                }
                if entries.is_empty() {
                    entries.extend(append.previous);
                }
                promised.appends.insert((from, call, envelope.seq), (term, entries));
            }
            Body::Snapshot(part) => {
                // It is installed in the place of all that it contradicts.
                if let Some(last) = part.last
                    && promised.held.get(&last.index).is_none_or(|term| *term != last.term)
                {
                    promised.held.clear();
                }
            }
            Body::Vote { vote, only_asked, .. } => {
                promised.only_asked.insert((from, call), (vote, only_asked));
            }
            _ => {}
        }
    }

    /// A replica's machine applies an operation.
    pub(super) fn applies(&self, node: usize, index: u64, operation: &Bytes, answer: &[u8]) {
        let mut state = self.lock();
        let promised = state.nodes.entry(node).or_default();
        let before = promised.applied.replace(index);
        if before.is_some_and(|before| before >= index) {
            state.violated(format!("node {node} applies {index} after {before:?}"));
        }
        let first = state.operations.entry(index).or_insert_with(|| operation.clone());
        if first != operation {
            state.violated(format!("node {node} applies something else at {index} than others did"));
        }
        if let Ok(Operation::Put { value, .. }) = Operation::decode(operation) {
            let done = serde_json::from_slice(answer).is_ok_and(|answer: Answered| answer == Answered::Done);
            let at = *state.values.entry(value.clone()).or_insert((index, done));
            if at != (index, done) {
                state.violated(format!("{value:?} is applied twice, at {at:?} and {index}"));
            }
        }
        let answered = Bytes::copy_from_slice(answer);
        if *state.answers.entry(index).or_insert_with(|| answered.clone()) != answered {
            state.violated(format!("node {node} answers something else at {index} than others did"));
        }
    }

    /// A machine takes a snapshot's state.
    pub(super) fn restores(&self, node: usize) {
        self.lock().nodes.entry(node).or_default().applied = None;
    }

    /// A replica has applied everything up to an entry.
    pub(super) fn digests(&self, node: usize, last: EntryId, digest: Digest) {
        let mut state = self.lock();
        let first = *state.digests.entry(last.index).or_insert((last, digest));
        if first != (last, digest) {
            state.violated(format!("node {node} has digest {digest} at {last:?}, another one has {first:?}"));
        }
    }

    /// How a running node describes itself.
    pub(super) fn looks(&self, node: usize, term: u64, committed: Option<u64>) {
        let mut state = self.lock();
        let promised = state.nodes.entry(node).or_default();
        let before = (promised.term, promised.committed.max(promised.committed_on_disk));
        promised.term = promised.term.max(term);
        promised.committed = promised.committed.max(committed);
        if term < before.0 || committed < before.1 {
            state.violated(format!("node {node} goes back from {before:?} to {:?}", (term, committed)));
        }
    }

    /// Where a value was applied, and whether it was put there.
    pub(super) fn applied_at(&self, value: &Bytes) -> Option<(u64, bool)> {
        self.lock().values.get(value).copied()
    }

    /// Somebody has applied everything up to an entry.
    pub(super) fn is_applied(&self, index: u64) -> bool {
        self.lock().digests.last_key_value().is_some_and(|(last, _)| *last >= index)
    }

    /// What machines answered there; `None` where none got anything.
    pub(super) fn answer_at(&self, index: u64) -> Option<Bytes> {
        self.lock().answers.get(&index).cloned()
    }

    pub(super) fn operation_at(&self, index: u64) -> Option<Bytes> {
        self.lock().operations.get(&index).cloned()
    }
}

impl State {
    fn violated(&mut self, what: String) {
        if self.violations.len() < TOLD_MAX {
            self.violations.push(what);
        }
    }

    /// A node votes, for another one or itself: once in a term, in all its lives, and not while it is in doubt.
    fn votes(&mut self, node: usize, vote: EngineVote) {
        let promised = self.nodes.entry(node).or_default();
        let (term, candidate) = (vote.leader_id.term, vote.leader_id.voted_for);
        let first = *promised.votes.entry(term).or_insert(candidate);
        let doubts = promised.is_in_doubt();
        if first != candidate {
            self.violated(format!(
                "node {node} votes for {candidate} in term {term}, and for {first} before"
            ));
        }
        if doubts {
            self.violated(format!("node {node} votes in term {term}, and is in doubt"));
        }
    }

    /// A node tells others of a vote, which must be on its disk.
    fn told(&mut self, node: usize, vote: EngineVote) {
        let promised = self.nodes.entry(node).or_default();
        if !keeps(promised.vote, Some(vote)) {
            promised.vote = Some(vote);
        }
        let content = promised.disk.durable_content("vote");
        let durable = content.as_deref().and_then(|content| vote_of(content.get(24..)?));
        if !keeps(durable, Some(vote)) {
            self.violated(format!("node {node} tells {vote:?}, and has {durable:?} on its disk"));
        }
    }

    /// A node tells a leader that somebody has an entry by its snapshot: the leader will not send it again.
    fn look_at_lent(&mut self, node: usize, to: ReplicaId, last: EntryId) {
        let there = self.nodes.iter().find(|(_, promised)| promised.replica == to);
        let Some((there, promised)) = there else { return };
        let Some(identity) = promised.identity.clone() else { return };
        if promised.is_in_doubt() || newest_snapshot(&promised.snapshots.durable()) >= Some(last.index) {
            return;
        }
        // What was committed there before it came is in the log. One that was damaged since tells nothing.
        let opened = Log::open_idle(promised.disk.durable(), identity, Options::new(0));
        if let Ok((log, _writer, found)) = opened
            && !has(&found, &log, last)
        {
            let there = *there;
            self.violated(format!("node {node} lent node {there} a snapshot without {last:?}"));
        }
    }

    /// A node tells that it has an entry, which must be on its disk.
    fn look_at_disk(&mut self, node: usize, last: EntryId) {
        let promised = &self.nodes[&node];
        let Some(identity) = promised.identity.clone() else { return };
        if newest_snapshot(&promised.snapshots.durable()) >= Some(last.index) {
            return;
        }
        let opened = Log::open_idle(promised.disk.durable(), identity, Options::new(0));
        match opened {
            Ok((log, _writer, found)) if has(&found, &log, last) => {}
            Ok((_, _, found)) => self.violated(format!(
                "node {node} acknowledges {last:?}, its disk has entries up to {:?}",
                found.last
            )),
            Err(error) => self.violated(format!("node {node} acknowledges {last:?}, its disk: {error}")),
        }
    }
}

/// Whoever has the one keeps what was promised with the other.
fn keeps(has: Option<EngineVote>, promised: Option<EngineVote>) -> bool {
    let Some(promised) = promised else { return true };
    // Who voted in a term follows whoever was elected in it.
    has.is_some_and(|has| {
        let (term, before) = (has.leader_id.term, promised.leader_id.term);
        term > before || (term == before && (has.committed || has.leader_id == promised.leader_id))
    })
}

/// The last entry of the newest snapshot on a disk: what it has need not be in the log, as when it came while the log's disk was
/// slow.
pub(super) fn newest_snapshot(disk: &FaultyDisk) -> Option<u64> {
    let names = disk.names().into_iter();
    names.filter_map(|name| name.strip_prefix("snapshot-")?.parse().ok()).max()
}

/// Whether a log has an entry, or had it once.
pub(super) fn has(found: &Recovered, log: &Log<FaultyDisk>, id: EntryId) -> bool {
    found.purged.is_some_and(|purged| purged.index >= id.index)
        || log
            .read(id.index..id.index + 1, usize::MAX)
            .is_ok_and(|read| read.first().is_some_and(|entry| entry.id == id))
}
