//! Clients: they put, compare and read at any node, try again where an outcome is not known, and write down what they were told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::super::super::command::Request;
use super::super::super::error::ProposeError;
use super::super::super::key_value::{Answered, Operation};
use super::super::super::replica::Consistency;
use super::super::super::status::Role;
use super::checker::Checker;
use super::node::{Running, Surroundings};
use super::planted::Planted;
use crate::consensus::history::{Done, NEVER, What};

/// What a client reads, one after the other, that comes to a node right when it goes on.
const READS_AT_ONCE: usize = 8;

/// How often an operation of unknown outcome is tried again.
const TRIES_MAX: u32 = 6;

/// The processes that run now, as clients see them. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Cluster(Arc<Mutex<Vec<Option<Running>>>>);

impl Cluster {
    pub(super) fn set(&self, running: Vec<Option<Running>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = running;
    }

    pub(super) fn node(&self, index: usize) -> Option<Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(index).cloned().flatten()
    }

    pub(super) fn any(&self, luck: &mut fastrand::Rng) -> Option<Running> {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner).len();
        let drawn = luck.usize(0..nodes.max(1));
        // The last one is no member most of the time, and has everybody wait.
        self.node(if drawn + 1 == nodes && luck.u8(0..8) > 0 { luck.usize(0..nodes) } else { drawn })
    }
}

/// What a client was told of an operation.
#[derive(Clone, Debug)]
pub(super) struct Told {
    key: String,
    called: u64,
    answered: u64,
    what: Report,
}

#[derive(Clone, Debug)]
enum Report {
    /// It was put, and the entry where nothing else can have put it.
    Put {
        value: Bytes,
        if_index: Option<u64>,
        index: Option<u64>,
    },
    Conflict {
        value: Bytes,
        if_index: u64,
        mod_index: u64,
    },
    /// It was not done and never will be.
    NotPut {
        value: Bytes,
    },
    Unknown {
        value: Bytes,
        if_index: Option<u64>,
    },
    Read {
        value: Option<Bytes>,
        mod_index: u64,
    },
    /// A read that need not be up to date.
    Stale {
        value: Option<Bytes>,
        mod_index: u64,
    },
}

/// What all clients were told. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Notes(Arc<Mutex<Vec<Told>>>);

impl Notes {
    fn add(&self, told: Told) -> usize {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.push(told);
        notes.len() - 1
    }

    fn replace(&self, at: usize, told: Told) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[at] = told;
    }

    /// How many operations have an answer.
    pub(super) fn answered(&self) -> usize {
        let notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.iter().filter(|told| told.answered != NEVER).count()
    }

    /// What a change took that was answered, µs, of all of them the mean.
    pub(super) fn mean_put(&self) -> u64 {
        let notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let puts = notes.iter().filter(|told| matches!(told.what, Report::Put { .. }));
        let (sum, count) =
            puts.fold((0, 0), |(sum, count), told| (sum + told.answered - told.called, count + 1));
        sum / u64::max(count, 1)
    }

    /// What they were told, together with what was applied; what contradicts that goes to the checker.
    pub(super) fn history(&self, checker: &Checker) -> Vec<Done> {
        let notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut history = Vec::new();
        for told in &*notes {
            let what = match &told.what {
                Report::Put { value, if_index, index } => {
                    let applied = checker.applied_at(value);
                    if applied.is_none_or(|(at, done)| !done || index.is_some_and(|index| index != at)) {
                        checker.violated(format!("{told:?}, and was applied as {applied:?}"));
                    }
                    let Some((index, _)) = applied else { continue };
                    What::Put { value: value.clone(), if_index: *if_index, index }
                }
                Report::Conflict { value, if_index, mod_index } => {
                    if checker.applied_at(value).is_none_or(|(_, done)| done) {
                        checker.violated(format!("{told:?}, and was not refused"));
                    }
                    What::Conflict { if_index: *if_index, mod_index: *mod_index }
                }
                Report::NotPut { value } => {
                    if let Some(at) = checker.applied_at(value) {
                        checker.violated(format!("{told:?}, and was applied as {at:?}"));
                    }
                    continue;
                }
                Report::Unknown { value, if_index } => match checker.applied_at(value) {
                    Some((index, true)) => What::Put { value: value.clone(), if_index: *if_index, index },
                    _ => continue,
                },
                Report::Read { value, mod_index } => {
                    What::Read { value: value.clone(), mod_index: *mod_index }
                }
                Report::Stale { value, mod_index } => {
                    let put = value.as_ref().and_then(|value| checker.applied_at(value));
                    if *mod_index != put.map_or(0, |(index, _)| index) || value.is_some() != put.is_some() {
                        checker.violated(format!("{told:?} was never there: {put:?}"));
                    }
                    continue;
                }
            };
            history.push(Done { key: told.key.clone(), called: told.called, answered: told.answered, what });
        }
        history
    }
}

pub(super) struct Client {
    pub(super) number: u64,
    pub(super) luck: fastrand::Rng,
    pub(super) cluster: Cluster,
    pub(super) notes: Notes,
    pub(super) around: Surroundings,
    /// Between operations, at most.
    pub(super) pause: Duration,
    session: Option<u64>,
    /// The last index that it saw, by key.
    seen: u64,
    count: u64,
}

impl Client {
    pub(super) fn new(
        number: u64,
        luck: fastrand::Rng,
        (cluster, notes): (Cluster, Notes),
        around: Surroundings,
        pause: Duration,
    ) -> Self {
        Self { number, luck, cluster, notes, around, pause, session: None, seen: 0, count: 0 }
    }

    /// For ever.
    pub(super) async fn run(mut self) {
        loop {
            let pause = u64::try_from(self.pause.as_micros()).unwrap_or(u64::MAX);
            sleep(Duration::from_micros(self.luck.u64(0..pause))).await;
            if self.session.is_none() {
                let Some(node) = self.cluster.any(&mut self.luck) else { continue };
                self.session = node.scope.run(node.access.open_session()).await.and_then(Result::ok);
            }
            if self.luck.u8(0..5) < 2 {
                self.read().await;
            } else {
                self.put().await;
            }
        }
    }

    fn key(&mut self) -> String {
        format!("key {}", self.luck.u8(0..4))
    }

    async fn read(&mut self) {
        if let Some(node) = self.cluster.any(&mut self.luck) {
            self.read_at(&node).await;
        }
    }

    /// Comes to a node that goes on after a pause, and reads there.
    pub(super) async fn come_to(mut self, node: Running) {
        for _ in 0..READS_AT_ONCE {
            self.read_at(&node).await;
        }
    }

    async fn read_at(&mut self, node: &Running) {
        let (key, drawn) = (self.key(), self.luck.u8(0..10));
        let consistency = match drawn {
            0 => Consistency::Stale,
            1..=3 => Consistency::Lease,
            _ => Consistency::Linearizable,
        };
        let alone = self.around.planted == Some(Planted::ReadWithoutQuorum);
        let asked = match node.access.engine.status().role {
            Role::Leader if alone => Consistency::Stale,
            _ => consistency,
        };
        let called = self.around.trace.now();
        let of = key.clone();
        let look = move |machine: &super::node::Watched| machine.machine.get(&of);
        let Some(Ok(read)) = node.scope.run(node.access.read(asked, look)).await else { return };
        let mod_index = read.value.as_ref().map_or(0, |value| value.mod_index);
        let value = read.value.map(|value| value.bytes);
        self.seen = mod_index;
        let what = match consistency {
            Consistency::Stale => Report::Stale { value, mod_index },
            _ => Report::Read { value, mod_index },
        };
        let told = Told { key, called, answered: self.around.trace.now(), what };
        self.around.trace.note(format_args!("client {}: {told:?}", self.number));
        self.notes.add(told);
    }

    async fn put(&mut self) {
        self.count += 1;
        let key = self.key();
        // Now and then one that is longer than a segment of the log.
        let padding = if self.luck.u8(0..20) == 0 { self.luck.usize(0..60_000) } else { 0 };
        let value = format!("{} of client {} {:.<padding$}", self.count, self.number, "");
        let value = Bytes::from(value);
        let if_index = (self.luck.u8(0..4) == 0).then_some(self.seen);
        let operation = Operation::Put { key: key.clone(), value: value.clone(), if_index }.encode();
        let session = self.session.filter(|_| self.luck.u8(0..4) > 0);
        let request = session.map(|client| Request { client, seq: self.count });
        let called = self.around.trace.now();
        // The run may end before it does.
        let unknown = Report::Unknown { value: value.clone(), if_index };
        let at = self.notes.add(Told { key: key.clone(), called, answered: NEVER, what: unknown });
        let what = self.propose(request, (value, if_index), operation).await;
        let answered = match what {
            Report::Unknown { .. } => NEVER,
            _ => self.around.trace.now(),
        };
        let told = Told { key, called, answered, what };
        self.around.trace.note(format_args!("client {}: {told:?}", self.number));
        self.notes.replace(at, told);
    }

    async fn propose(
        &mut self,
        request: Option<Request>,
        (value, if_index): (Bytes, Option<u64>),
        operation: Bytes,
    ) -> Report {
        let mut doubted = false;
        for _ in 0..TRIES_MAX {
            let Some(node) = self.cluster.any(&mut self.luck) else {
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            let asked = node.scope.run(node.access.propose(request, operation.clone())).await;
            match asked {
                Some(Ok(answer)) => match answer.result.as_deref().map(serde_json::from_slice::<Answered>) {
                    Ok(Ok(Answered::Done)) => {
                        // Of an operation that was proposed again this is the last entry, and not the one that put it.
                        let index = request.is_none().then_some(answer.id.index);
                        return Report::Put { value, if_index, index };
                    }
                    Ok(Ok(Answered::Conflict { mod_index })) => {
                        let if_index = if_index.unwrap_or(mod_index);
                        return Report::Conflict { value, if_index, mod_index };
                    }
                    Ok(_) => {
                        self.around.checker.violated(format!("{operation:?} is answered with {answer:?}"));
                        return Report::Unknown { value, if_index };
                    }
                    Err(_) => {
                        self.session = None;
                        let unknown = Report::Unknown { value: value.clone(), if_index };
                        return if doubted { unknown } else { Report::NotPut { value } };
                    }
                },
                Some(Err(error)) if error.is_definite() && !doubted => return Report::NotPut { value },
                Some(Err(ProposeError::NoLeader | ProposeError::Busy)) => {}
                // It crashed, or does not know.
                _ => doubted = true,
            }
            if request.is_none() {
                break;
            }
        }
        if doubted { Report::Unknown { value, if_index } } else { Report::NotPut { value } }
    }
}
