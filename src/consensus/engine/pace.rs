//! Keeps the streams of appends to one datacenter in step.
//!
//! What is sent to several replicas of a datacenter at one time crosses once. While they follow the head of the log they are in
//! step by themselves: the same entry wakes them all. One that has as much under way as it may goes on when its own replica
//! answers, apart from the others; every entry then crosses once for each of them, the line gets slower by that, and they never
//! reach the head again. So a stream that was full goes on together with those of its datacenter that were full too, and one
//! that is ahead of them waits until they are where it is.
//!
//! Nobody waits for a replica that is silent or far behind, and for no other one longer than a while.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use trunkline_mesh::Datacenter;

use super::super::replica_id::ReplicaId;
use super::super::time::Instant;

/// Whoever answered nothing for so long is not waited for.
const SILENT_AFTER: Duration = Duration::from_millis(500);
/// And nobody is, in one go, for longer.
const WAITS_MAX: Duration = Duration::from_secs(1);
/// Entries: whoever is further behind has a way of its own.
const FAR_BEHIND: u64 = 4096;

/// One stream, as the others of its datacenter see it.
#[derive(Clone, Copy, Debug)]
struct Stream {
    /// The index of its next entry.
    next: u64,
    /// As much is under way as may be.
    full: bool,
    /// The last answer.
    heard_at: Instant,
}

/// The streams to one datacenter.
#[derive(Debug, Default)]
struct Pace {
    streams: BTreeMap<ReplicaId, Stream>,
}

impl Pace {
    /// Until when this one, which has room, waits for others.
    fn waits_until(&self, replica: ReplicaId, now: Instant) -> Option<Instant> {
        let own = self.streams.get(&replica)?;
        let awaited = |(other, stream): &(&ReplicaId, &Stream)| {
            let is_behind = stream.next < own.next && own.next - stream.next <= FAR_BEHIND;
            **other != replica && (is_behind || stream.next == own.next && stream.full)
        };
        let silent = |(_, stream): (&ReplicaId, &Stream)| stream.heard_at + SILENT_AFTER;
        self.streams.iter().filter(awaited).map(silent).filter(|silent| *silent > now).max()
    }
}

#[derive(Debug, Default)]
struct Shared {
    pace: Mutex<Pace>,
    changed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All datacenters.
#[derive(Debug, Default)]
pub(super) struct Paces {
    datacenters: Mutex<BTreeMap<Datacenter, Arc<Shared>>>,
}

impl Paces {
    /// Another stream, which has sent nothing yet.
    pub(super) fn join(&self, datacenter: &Datacenter, replica: ReplicaId) -> Step {
        let mut datacenters = self.datacenters.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = Arc::clone(datacenters.entry(datacenter.clone()).or_default());
        Step { shared, replica, was_full: false, waits_since: None }
    }
}

/// A stream's place among those of its datacenter; dropped with it.
#[derive(Debug)]
pub(super) struct Step {
    shared: Arc<Shared>,
    replica: ReplicaId,
    /// Since it was at the head of the log.
    was_full: bool,
    waits_since: Option<Instant>,
}

impl Step {
    /// Where it is.
    pub(super) fn is_at(&mut self, next: u64, full: bool, heard_at: Instant) {
        self.was_full |= full;
        self.shared.lock().streams.insert(self.replica, Stream { next, full, heard_at });
        self.shared.changed.notify_waiters();
    }

    /// It has everything there is.
    pub(super) fn is_at_head(&mut self) {
        (self.was_full, self.waits_since) = (false, None);
    }

    /// Until when it sends nothing more, at the latest; earlier where [`Step::changed`] says that others moved.
    pub(super) fn waits_until(&mut self, now: Instant) -> Option<Instant> {
        if !self.was_full {
            return None;
        }
        let Some(until) = self.shared.lock().waits_until(self.replica, now) else {
            self.waits_since = None;
            return None;
        };
        let longest = *self.waits_since.get_or_insert(now) + WAITS_MAX;
        if longest <= now {
            self.is_at_head();
            return None;
        }
        Some(until.min(longest))
    }

    /// Others moved, since this was called.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.shared.changed.notified()
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.shared.lock().streams.remove(&self.replica);
        self.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use trunkline_mesh::Datacenter;

    use super::*;

    const ONE: ReplicaId = ReplicaId(1);
    const OTHER: ReplicaId = ReplicaId(2);

    fn both() -> (Step, Step) {
        let (paces, datacenter) = (Paces::default(), Datacenter::new("eu").unwrap());
        (paces.join(&datacenter, ONE), paces.join(&datacenter, OTHER))
    }

    #[test]
    fn who_was_full_goes_on_with_the_others_that_are() {
        let now = Instant::now();
        let (mut one, mut other) = both();
        one.is_at(7, true, now);
        other.is_at(7, true, now);
        one.is_at(7, false, now);
        assert_eq!(one.waits_until(now), Some(now + SILENT_AFTER), "the other one is full yet");
        other.is_at(7, false, now);
        assert_eq!((one.waits_until(now), other.waits_until(now)), (None, None));
        // One is ahead, as far as it got before the other one had its turn.
        one.is_at(9, false, now);
        assert!(one.waits_until(now).is_some());
        assert_eq!(other.waits_until(now), None, "it is the last");
        other.is_at(9, false, now);
        assert_eq!(one.waits_until(now), None);
        one.is_at(11, false, now);
        assert!(one.waits_until(now).is_some());
        drop(other);
        assert_eq!(one.waits_until(now), None, "nobody is there");
    }

    #[test]
    fn nobody_waits_at_the_head_of_the_log() {
        let now = Instant::now();
        let (mut one, mut other) = both();
        other.is_at(3, true, now);
        one.is_at(7, false, now);
        assert_eq!(one.waits_until(now), None, "it was never full");
        one.is_at(7, true, now);
        one.is_at(7, false, now);
        assert!(one.waits_until(now).is_some());
        one.is_at_head();
        assert_eq!(one.waits_until(now), None);
    }

    #[test]
    fn nobody_waits_for_the_silent_nor_for_those_far_behind_nor_for_long() {
        let start = Instant::now();
        let (mut one, mut other) = both();
        let mut is = |ahead: u64, heard: Instant, now: Instant| {
            other.is_at(10, true, heard);
            one.is_at(10 + ahead, false, now);
            one.was_full = true;
            one.waits_until(now)
        };
        assert_eq!(is(0, start, start), Some(start + SILENT_AFTER));
        assert_eq!(is(0, start, start + SILENT_AFTER), None, "silent");
        assert!(is(FAR_BEHIND, start, start).is_some());
        assert_eq!(is(FAR_BEHIND + 1, start, start), None, "far behind");
        // It answers, and never has room.
        assert!(is(0, start, start).is_some());
        let late = start + WAITS_MAX;
        assert!(is(0, late, late - Duration::from_millis(1)).is_some_and(|until| until == late));
        assert_eq!(is(0, late, late), None, "long enough");
    }

    #[tokio::test]
    async fn whoever_waits_is_told_that_others_moved() {
        let now = Instant::now();
        let (one, mut other) = both();
        let moved = one.changed();
        other.is_at(1, false, now);
        moved.await;
        let left = one.changed();
        drop(other);
        left.await;
    }
}
