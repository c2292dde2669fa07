//! Keeps the streams of appends to one datacenter in step.
//!
//! What is sent to several replicas of a datacenter at one time crosses once. While they follow the head of the log they are in
//! step by themselves: the same entry wakes them all. One that has as much under way as it may goes on when its own replica
//! answers, apart from the others; every entry then crosses once for each of them, the line gets slower by that, and they never
//! reach the head again. So a stream that was full goes on together with those of its datacenter that were full too, and one
//! that is ahead of them waits until they are where it is.
//!
//! Nobody waits for a replica that is silent or far behind, nor for one that is slower than the line: what waits is a quorum, perhaps.

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
/// Nor is whoever was waited for so long in one go, or so long in all and for half of the time, until it is at the head of the log.
/// Only what could have been sent meanwhile counts: while most of what may be under way is, the line has enough.
const WAITS_MAX: Duration = Duration::from_secs(1);
/// Entries: whoever is further behind has a way of its own.
const FAR_BEHIND: u64 = 4096;

/// How much more a stream may have under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Nothing: it is full.
    None,
    /// Up to half of it.
    Some,
    /// More than that. What is under way may not fill the line.
    Most,
}

/// One stream, as the others of its datacenter see it.
#[derive(Clone, Copy, Debug)]
struct Stream {
    /// Which of its replica's.
    number: u64,
    /// The index of its next entry.
    next: u64,
    /// As much is under way as may be.
    full: bool,
    /// The last answer.
    heard_at: Instant,
    /// It was waited for long enough.
    left: bool,
}

/// The streams to one datacenter.
#[derive(Debug, Default)]
struct Pace {
    streams: BTreeMap<ReplicaId, Stream>,
    joined: u64,
}

impl Pace {
    /// Those that this one, which has room, waits for.
    fn awaited(&mut self, replica: ReplicaId, now: Instant) -> impl Iterator<Item = &mut Stream> {
        let next = self.streams.get(&replica).map_or(0, |own| own.next);
        let awaited = move |stream: &Stream| {
            let is_behind = stream.next < next && next - stream.next <= FAR_BEHIND;
            (is_behind || stream.next == next && stream.full)
                && !stream.left
                && stream.heard_at + SILENT_AFTER > now
        };
        let others = self.streams.iter_mut().filter(move |(other, _)| **other != replica);
        others.map(|(_, stream)| stream).filter(move |stream| awaited(stream))
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

/// All datacenters but a node's own, within which nothing crosses.
#[derive(Debug)]
pub(super) struct Paces {
    own: Datacenter,
    datacenters: Mutex<BTreeMap<Datacenter, Arc<Shared>>>,
}

impl Paces {
    pub(super) fn new(own: Datacenter) -> Self {
        Self { own, datacenters: Mutex::default() }
    }

    /// Another stream, which has sent nothing yet.
    pub(super) fn join(&self, datacenter: &Datacenter, replica: ReplicaId) -> Option<Step> {
        if *datacenter == self.own {
            return None;
        }
        let mut datacenters = self.datacenters.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = Arc::clone(datacenters.entry(datacenter.clone()).or_default());
        let number = {
            let mut pace = shared.lock();
            pace.joined += 1;
            pace.joined
        };
        let (full_since, waits_since, waited) = (None, None, Duration::ZERO);
        Some(Step { shared, replica, number, room: Room::Most, full_since, waits_since, waited })
    }
}

/// A stream's place among those of its datacenter; dropped with it.
#[derive(Debug)]
pub(super) struct Step {
    shared: Arc<Shared>,
    replica: ReplicaId,
    number: u64,
    room: Room,
    /// The first time since it was at the head of the log.
    full_since: Option<Instant>,
    waits_since: Option<Instant>,
    /// Since `full_since`, in all that is over.
    waited: Duration,
}

impl Step {
    /// Where it is, once it was answered at all.
    pub(super) fn is_at(&mut self, next: u64, room: Room, heard_at: Instant, now: Instant) {
        let full = room == Room::None;
        self.room = room;
        if full {
            self.full_since.get_or_insert(now);
        }
        let mut pace = self.shared.lock();
        let before = pace.streams.get(&self.replica).filter(|stream| stream.number == self.number).copied();
        let left = before.is_some_and(|stream| stream.left);
        pace.streams.insert(self.replica, Stream { number: self.number, next, full, heard_at, left });
        drop(pace);
        // Whoever waits has to look again where somebody moved, and only there: else two that wait wake each other.
        if before.is_none_or(|stream| (stream.next, stream.full) != (next, full)) {
            self.shared.changed.notify_waiters();
        }
    }

    /// It was sent everything there is.
    pub(super) fn is_at_head(&mut self) {
        if self.full_since.take().is_some() {
            (self.waits_since, self.waited) = (None, Duration::ZERO);
        }
        let mut pace = self.shared.lock();
        if let Some(stream) = pace.streams.get_mut(&self.replica) {
            stream.left = false;
        }
    }

    /// Until when it sends nothing more although it has room, at the latest; earlier where [`Step::changed`] says that others moved.
    pub(super) fn waits_until(&mut self, now: Instant) -> Option<Instant> {
        let full_since = self.full_since?;
        let mut pace = self.shared.lock();
        let silent = pace.awaited(self.replica, now).map(|stream| stream.heard_at + SILENT_AFTER).max();
        let Some(silent) = silent.filter(|_| self.room == Room::Most) else {
            self.waited +=
                self.waits_since.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
            return silent;
        };
        let in_this_go = now.saturating_duration_since(*self.waits_since.get_or_insert(now));
        let in_all = self.waited + in_this_go;
        let behind = now.saturating_duration_since(full_since);
        // In step on a slow line it is full most of the time. Where it waits most of the time a follower is slow.
        let left_after = WAITS_MAX.saturating_sub(in_all).max(behind.saturating_sub(2 * in_all));
        let left_after = left_after.min(WAITS_MAX.saturating_sub(in_this_go));
        if left_after.is_zero() {
            pace.awaited(self.replica, now).for_each(|stream| stream.left = true);
            drop(pace);
            tracing::debug!(replica = %self.replica, "goes on without followers of its datacenter that are slower");
            (self.full_since, self.waits_since, self.waited) = (Some(now), None, Duration::ZERO);
            self.shared.changed.notify_waiters();
            return None;
        }
        Some(silent.min(now + left_after))
    }

    /// Others moved, since this was called.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.shared.changed.notified()
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        let mut pace = self.shared.lock();
        // A newer stream of the replica may have taken its place.
        if pace.streams.get(&self.replica).is_some_and(|stream| stream.number == self.number) {
            pace.streams.remove(&self.replica);
        }
        drop(pace);
        self.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ReplicaId = ReplicaId(1);
    const OTHER: ReplicaId = ReplicaId(2);

    fn dc(name: &str) -> Datacenter {
        Datacenter::new(name).unwrap()
    }

    fn both() -> (Step, Step) {
        let paces = Paces::new(dc("us"));
        (paces.join(&dc("eu"), ONE).unwrap(), paces.join(&dc("eu"), OTHER).unwrap())
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn who_was_full_goes_on_with_the_others_that_are() {
        let now = Instant::now();
        let (mut one, mut other) = both();
        one.is_at(7, Room::None, now, now);
        other.is_at(7, Room::None, now, now);
        one.is_at(7, Room::Most, now, now);
        assert_eq!(one.waits_until(now), Some(now + SILENT_AFTER), "the other one is full yet");
        other.is_at(7, Room::Most, now, now);
        assert_eq!((one.waits_until(now), other.waits_until(now)), (None, None));
        // One is ahead, as far as it got before the other one had its turn.
        one.is_at(9, Room::Most, now, now);
        assert!(one.waits_until(now).is_some());
        assert_eq!(other.waits_until(now), None, "it is the last");
        other.is_at(9, Room::Most, now, now);
        assert_eq!(one.waits_until(now), None);
        one.is_at(11, Room::Most, now, now);
        assert!(one.waits_until(now).is_some());
        drop(other);
        assert_eq!(one.waits_until(now), None, "nobody is there");
    }

    #[test]
    fn nobody_waits_at_the_head_of_the_log_nor_within_the_own_datacenter() {
        let now = Instant::now();
        let (mut one, mut other) = both();
        other.is_at(3, Room::None, now, now);
        one.is_at(7, Room::Most, now, now);
        assert_eq!(one.waits_until(now), None, "it was never full");
        one.is_at(7, Room::None, now, now);
        one.is_at(7, Room::Most, now, now);
        assert!(one.waits_until(now).is_some());
        one.is_at_head();
        assert_eq!(one.waits_until(now), None);
        assert!(Paces::new(dc("us")).join(&dc("us"), ONE).is_none());
    }

    #[test]
    fn nobody_waits_for_the_silent_nor_for_those_far_behind_nor_for_long() {
        let start = Instant::now();
        let wait = |ahead: u64, heard: Instant, now: Instant| {
            let (mut one, mut other) = both();
            other.is_at(10, Room::None, heard, now);
            one.is_at(10, Room::None, start, start);
            one.is_at(10 + ahead, Room::Most, now, now);
            one.waits_until(now)
        };
        assert_eq!(wait(0, start, start), Some(start + SILENT_AFTER));
        assert_eq!(wait(0, start, start + SILENT_AFTER), None, "silent");
        assert!(wait(FAR_BEHIND, start, start).is_some());
        assert_eq!(wait(FAR_BEHIND + 1, start, start), None, "far behind");
        // It answers, and never has room.
        let (mut one, mut other) = both();
        one.is_at(10, Room::None, start, start);
        other.is_at(10, Room::None, start + WAITS_MAX, start);
        one.is_at(10, Room::Most, start, start);
        assert_eq!(one.waits_until(start), Some(start + WAITS_MAX));
        assert_eq!(one.waits_until(start + WAITS_MAX), None, "long enough");
    }

    /// Full for 400 ms of every 480, while the other one has room: it is slow, and the line is not.
    #[test]
    fn a_slow_follower_is_left_until_it_is_at_the_head() {
        let start = Instant::now();
        let (mut one, mut other) = both();
        let (mut next, mut waited) = (0, Duration::ZERO);
        for cycle in 0..20_u32 {
            let began = start + cycle * ms(480);
            one.is_at(next, Room::None, began, began);
            other.is_at(next, Room::None, began, began);
            let (has_room, goes_on) = (began + ms(80), began + ms(480));
            one.is_at(next, Room::Most, has_room, has_room);
            if one.waits_until(has_room).is_some() {
                waited += ms(400);
            }
            other.is_at(next, Room::Most, goes_on, goes_on);
            assert_eq!(one.waits_until(goes_on), None);
            next += 10;
        }
        assert!(waited >= ms(800) && waited <= ms(1_600), "{waited:?}");
        other.is_at_head();
        one.is_at(next, Room::None, start, start);
        one.is_at(next, Room::Most, start, start);
        other.is_at(next, Room::None, start, start);
        assert!(one.waits_until(start).is_some(), "it is as good as any other one again");
    }

    /// It answers 25 ms later than the other one, every 40 ms, and as much as the line takes is under way all the time.
    #[test]
    fn a_follower_that_answers_a_little_later_is_not_slow() {
        let start = Instant::now();
        let (mut one, mut other) = both();
        for cycle in 0..200_u32 {
            let (began, next) = (start + cycle * ms(40), 10 * u64::from(cycle));
            one.is_at(next, Room::None, began, began);
            other.is_at(next, Room::None, began, began);
            let (has_room, goes_on) = (began + ms(10), began + ms(35));
            one.is_at(next, Room::Some, has_room, has_room);
            assert_eq!(one.waits_until(has_room), Some(began + SILENT_AFTER), "cycle {cycle}");
            other.is_at(next, Room::Some, goes_on, goes_on);
            assert_eq!((one.waits_until(goes_on), other.waits_until(goes_on)), (None, None));
        }
    }

    /// Those that wait do not keep each other awake.
    #[tokio::test]
    async fn whoever_waits_is_told_that_others_moved_and_of_nothing_else() {
        let now = Instant::now();
        let (mut one, mut other) = both();
        one.is_at(1, Room::Most, now, now);
        let shared = Arc::clone(&other.shared);
        let mut moved = std::pin::pin!(shared.changed.notified());
        moved.as_mut().enable();
        one.is_at(1, Room::Most, now + ms(1), now + ms(1));
        assert!(futures_util::poll!(moved.as_mut()).is_pending(), "it stands where it stood");
        one.is_at(2, Room::Most, now, now);
        moved.await;
        other.is_at(1, Room::Most, now, now);
        let left = one.changed();
        drop(other);
        left.await;
    }

    #[test]
    fn an_older_stream_of_a_replica_takes_nothing_of_the_newer_one_along() {
        let now = Instant::now();
        let paces = Paces::new(dc("us"));
        let join = |replica| paces.join(&dc("eu"), replica).unwrap();
        let (mut one, mut older, mut newer) = (join(ONE), join(OTHER), join(OTHER));
        older.is_at(5, Room::None, now, now);
        newer.is_at(5, Room::None, now, now);
        drop(older);
        one.is_at(5, Room::None, now, now);
        one.is_at(5, Room::Most, now, now);
        assert!(one.waits_until(now).is_some());
    }
}
