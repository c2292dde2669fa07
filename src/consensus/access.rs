//! What a program asks of a replica, whatever that runs on: [`Replica`](super::Replica) says what each of it is.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::applied::{Answer, Applied};
use super::applier::Applier;
use super::clock::ClusterClock;
use super::command::{Command, Request};
use super::digest::Digest;
use super::engine::{Engine, Progress};
use super::error::{MarkerError, ProposeError, ReadError};
use super::machine::StateMachine;
use super::marker::{Marker, Markers};
use super::outcomes::Outcome;
use super::replica::{Committed, Consistency, FollowError, OPERATION_BYTES_MAX, Read};
use super::tasks::blocking;
use super::time::{Instant, timeout, timeout_at};
use crate::storage::{Disk, Entry, Log};

/// Between tries, where nothing says that it is worth trying: at first, as a leader takes nothing before a majority answered it, and
/// twice as long each time up to the most.
const RETRY_FIRST: Duration = Duration::from_millis(4);
const RETRY: Duration = Duration::from_millis(50);

/// An engine, and what is beside it.
pub(super) struct Access<M, D: Disk> {
    pub(super) engine: Engine<D>,
    pub(super) applier: Applier,
    pub(super) clock: Arc<ClusterClock>,
    pub(super) log: Arc<Log<D>>,
    pub(super) markers: Markers<D>,
    /// How long an answer is waited for.
    pub(super) patience: Duration,
    pub(super) machine: PhantomData<fn() -> M>,
}

impl<M: StateMachine, D: Disk> Access<M, D> {
    pub(super) async fn open_session(&self) -> Result<u64, ProposeError> {
        let command = Command::OpensSession { time: self.now() }.encode();
        // Nothing is harmed by a second one.
        let answer = self.persist(command, true).await?;
        Ok(answer.id.index)
    }

    pub(super) async fn propose(
        &self,
        request: Option<Request>,
        operation: Bytes,
    ) -> Result<Answer, ProposeError> {
        if operation.len() > OPERATION_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: operation.len(), bytes_max: OPERATION_BYTES_MAX });
        }
        let command = Command::Operation { request, time: self.now(), body: operation };
        self.persist(command.encode(), request.is_some()).await
    }

    /// Proposes until there is an answer, or patience ends.
    async fn persist(&self, command: Bytes, again: bool) -> Result<Answer, ProposeError> {
        let engine = &self.engine;
        let patience = self.patience;
        let deadline = Instant::now() + patience;
        let mut outcome = ProposeError::NoLeader;
        let mut pause = RETRY_FIRST;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(outcome);
            }
            let asked = timeout(left, engine.propose(command.clone(), left)).await;
            let error = match asked {
                // A refusal says nothing of the try before, whose outcome is not known.
                Ok(Ok(Answer { result: Err(refusal), .. })) if !outcome.is_definite() => {
                    return Err(ProposeError::Unknown {
                        why: format!("an earlier try was lost, and then: {refusal}"),
                    });
                }
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(_) => {
                    let why = format!("it was not committed and applied within {patience:?}");
                    return Err(ProposeError::Unknown { why });
                }
            };
            // What may have happened once stays possible, whatever a later try says.
            if outcome.is_definite() {
                outcome = error.clone();
            }
            match error {
                ProposeError::NoLeader => {}
                ProposeError::Unknown { .. } if again => {}
                _ => return Err(outcome),
            }
            // Until somebody else leads, or word of it comes late.
            let _ = timeout(pause.min(left), engine.leader_changes()).await;
            pause = (pause * 2).min(RETRY);
        }
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        consistency: Consistency,
        look: impl FnOnce(&M) -> T + Send + 'static,
    ) -> Result<Read<T>, ReadError> {
        self.barrier(consistency).await?;
        let look = |state: &Applied<M>| Read { value: look(&state.machine), applied: state.last };
        self.applier.look(look).await.map_err(|error| ReadError::Stopped { why: error.to_string() })
    }

    pub(super) async fn barrier(&self, consistency: Consistency) -> Result<(), ReadError> {
        let lease = match consistency {
            Consistency::Stale => return Ok(()),
            Consistency::Lease => true,
            Consistency::Linearizable => false,
        };
        let engine = &self.engine;
        let deadline = Instant::now() + self.patience;
        let index = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ReadError::NoLeader);
            }
            let asked = timeout(left, engine.barrier(lease, left)).await.ok().flatten();
            // A lease that is over is no end: then a quorum is asked.
            let asked = match asked {
                None if lease => timeout(left, engine.barrier(false, left)).await.ok().flatten(),
                asked => asked,
            };
            match asked {
                Some(index) => break index,
                None => drop(timeout(RETRY.min(left), engine.leader_changes()).await),
            }
        };
        let Some(index) = index else { return Ok(()) };
        let mut progress = engine.progress();
        let applied = progress
            .wait_for(|progress| progress.applied.is_some_and(|applied| applied.index >= index.index));
        match timeout_at(deadline, applied).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopped { why: "its tasks ended".to_owned() }),
            Err(_) => Err(ReadError::Behind { index: index.index }),
        }
    }

    pub(super) async fn digest(&self) -> Result<Read<Digest>, ReadError> {
        let look = |state: &Applied<M>| Read { value: state.digest, applied: state.last };
        self.applier.look(look).await.map_err(|error| ReadError::Stopped { why: error.to_string() })
    }

    pub(super) async fn follow(&self, from: u64, bytes_max: usize) -> Result<Vec<Committed>, FollowError> {
        let mut progress = self.engine.progress();
        let last = {
            let reached = |progress: &Progress| progress.applied.is_some_and(|applied| applied.index >= from);
            let progress = progress.wait_for(reached).await.map_err(|_| FollowError::Stopped)?;
            progress.applied.map_or(0, |applied| applied.index)
        };
        let log = Arc::clone(&self.log);
        let read = move || log.read(from..last + 1, bytes_max);
        let entries = if self.log.recent_from() <= from {
            read()
        } else {
            blocking(read).await.map_err(|_| FollowError::Stopped)?
        };
        let entries = entries.map_err(|error| FollowError::Storage { why: error.to_string() })?;
        let indexes: Vec<u64> = entries.iter().map(|entry| entry.id.index).collect();
        let look = move |state: &Applied<M>| -> Vec<_> {
            indexes.into_iter().map(|index| state.outcome(index)).collect()
        };
        let outcomes = self.applier.look(look).await.map_err(|_| FollowError::Stopped)?;
        // What lies below a snapshot of another node may never have been committed, until it is purged.
        let floor = self.engine.progress().borrow().floor;
        if from < floor {
            return Err(FollowError::Compacted { first: floor });
        }
        if entries.is_empty() {
            return Err(FollowError::Compacted { first: self.log.bounds().indexes().start });
        }
        let committed = |(entry, outcome): (Entry, Option<Outcome>)| {
            let command = Command::decode(&entry.payload)
                .map_err(|error| FollowError::Storage { why: error.to_string() })?;
            let outcome = outcome.filter(|_| matches!(command, Command::Operation { .. }));
            Ok(Committed { id: entry.id, command, outcome })
        };
        entries.into_iter().zip(outcomes).map(committed).collect()
    }

    pub(super) async fn begin_snapshot<T: Send + 'static>(
        &self,
        look: impl FnOnce(&M) -> T + Send + 'static,
    ) -> Result<(Marker, T), MarkerError> {
        let applied = self.engine.progress().borrow().applied;
        let turn = self.markers.turn(applied).await?;
        let look = |state: &Applied<M>| state.head().map(|head| (head, look(&state.machine)));
        let looked = self.applier.look(look).await.map_err(MarkerError::stopped)?;
        let (head, looked) = looked.ok_or(MarkerError::NotApplied)?;
        Ok((self.markers.begin(turn, head).await?, looked))
    }

    pub(super) async fn end_snapshot(&self, marker: Marker) -> Result<(), MarkerError> {
        self.markers.finish(&marker).await?;
        self.engine.adopt(marker.last()).await
    }

    /// Cluster time, µs.
    fn now(&self) -> u64 {
        self.clock.read(Instant::now())
    }
}
