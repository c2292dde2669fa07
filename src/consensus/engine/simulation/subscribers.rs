//! Subscribers: they follow the log, now at one node and then at another, and compare what they get.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::super::super::command::Command;
use super::super::super::outcomes::Outcome;
use super::super::super::replica::{Committed, FollowError};
use super::clients::Cluster;
use super::node::{Running, Surroundings};
use super::planted::Planted;

/// The log as the first who got an entry got it. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Mutex<BTreeMap<u64, Committed>>>);

impl Seen {
    pub(super) fn entries(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

pub(super) struct Subscriber {
    pub(super) luck: fastrand::Rng,
    pub(super) cluster: Cluster,
    pub(super) around: Surroundings,
    pub(super) seen: Seen,
}

impl Subscriber {
    /// For ever.
    pub(super) async fn run(mut self) {
        let mut next = 0;
        loop {
            let Some(node) = self.cluster.any(&mut self.luck) else {
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            // As long as that node serves it.
            while let Some(went_on) = self.follow(&node, next).await {
                next = went_on;
                if self.luck.u8(0..16) == 0 {
                    break;
                }
            }
            sleep(Duration::from_millis(self.luck.u64(0..200))).await;
        }
    }

    /// What comes next at a node. The index behind it; `None` where nothing came.
    async fn follow(&mut self, node: &Running, from: u64) -> Option<u64> {
        let bytes_max = self.luck.usize(1..8_000);
        if self.around.planted == Some(Planted::FollowUncommitted) {
            return self.follow_uncommitted(node, from);
        }
        let asked = timeout(Duration::from_secs(2), node.access.follow(from, bytes_max));
        let followed = node.scope.run(asked).await?.ok()?;
        match followed {
            Ok(entries) => {
                if entries.is_empty() {
                    self.around.checker.violated(format!("a subscriber gets nothing from {from} on"));
                }
                for (at, entry) in (from..).zip(&entries) {
                    self.take(at, entry);
                }
                self.around.trace.note(format_args!("a subscriber has {} from {from} on", entries.len()));
                Some(from + entries.len() as u64)
            }
            Err(FollowError::Compacted { first }) => {
                // It goes on from a snapshot, which has what is missing.
                let newest = node.snapshots.newest().map(|snapshot| snapshot.last().index);
                if first <= from || newest.is_none_or(|newest| newest + 1 < first) {
                    self.around.checker.violated(format!(
                        "a subscriber from {from} on is told {first}, snapshot {newest:?}"
                    ));
                }
                Some(first)
            }
            Err(FollowError::Stopped) => None,
            Err(error) => {
                // A disk that failed.
                self.around.trace.note(format_args!("a subscriber is told: {error}"));
                None
            }
        }
    }

    /// What is in a node's log, committed or not.
    fn follow_uncommitted(&self, node: &Running, from: u64) -> Option<u64> {
        let entries =
            node.access.log.read(from..u64::MAX, 8_000).ok().filter(|entries| !entries.is_empty())?;
        for (at, entry) in (from..).zip(&entries) {
            let command = Command::decode(&entry.payload).ok()?;
            self.take(at, &Committed { id: entry.id, command, outcome: None });
        }
        Some(from + entries.len() as u64)
    }

    fn take(&self, at: u64, entry: &Committed) {
        let checker = &self.around.checker;
        if entry.id.index != at {
            checker.violated(format!("a subscriber gets {:?} where {at} comes next", entry.id));
        }
        let mut seen = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = seen.entry(at).or_insert_with(|| entry.clone());
        if (first.id, &first.command) != (entry.id, &entry.command) {
            checker.violated(format!("subscribers get different entries at {at}"));
        }
        if !checker.is_applied(at) {
            checker.violated(format!("a subscriber gets {:?}, and nobody has applied it", entry.id));
        }
        // Applied, it is committed. One that was proposed again is not applied again.
        if let (Command::Operation { body, .. }, Some(applied)) = (&entry.command, checker.operation_at(at))
            && *body != applied
        {
            checker.violated(format!("a subscriber gets at {at} what nobody applied"));
        }
        // Where the machine never got it, its session had it before, or was over.
        let told = match &entry.outcome {
            Some(Outcome::Applied(answer)) => Some(answer.clone()),
            Some(Outcome::Repeated | Outcome::Refused(_)) | None => None,
        };
        let known = entry.outcome.is_some() == matches!(entry.command, Command::Operation { .. });
        // That one is planted for what is applied twice, which comes later.
        let forgets = self.around.planted == Some(Planted::SessionsNotInSnapshot);
        if !forgets && (!known || told != checker.answer_at(at)) {
            checker.violated(format!("a subscriber is told that {at} became {:?}", entry.outcome));
        }
    }
}
