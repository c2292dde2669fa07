//! Cluster time: stamped into entries by leaders. What is applied never goes back, and is the same on every replica.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::time::Instant;

/// This node's reading of it: the last stamp that was applied, and what passed since then by the monotonic clock. It begins
/// with 0 when the cluster is founded, and stands still while nobody runs.
#[derive(Debug)]
pub(super) struct ClusterClock {
    last: Mutex<(u64, Instant)>,
}

impl ClusterClock {
    pub(super) fn new(now: Instant) -> Self {
        Self { last: Mutex::new((0, now)) }
    }

    /// µs.
    pub(super) fn read(&self, now: Instant) -> u64 {
        let (stamp, at) = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        stamp.saturating_add(micros(now.saturating_duration_since(at)))
    }

    /// An entry with this stamp was applied.
    pub(super) fn observe(&self, stamp: u64, now: Instant) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // Also where this node's own clock has run ahead: it goes on from what the leader says, which all have seen.
        if stamp > last.0 {
            *last = (stamp, now);
        }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_goes_on_from_the_last_stamp_whether_it_was_behind_or_ahead() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let clock = ClusterClock::new(start);
        assert_eq!(clock.read(at(1)), 1_000);
        clock.observe(500, at(7_200_000));
        assert_eq!(clock.read(at(7_200_001)), 1_500);
        clock.observe(400, at(7_200_001));
        let at = |millis: u64| at(7_200_000 + millis);
        assert_eq!(clock.read(at(2)), 2_500);
        clock.observe(9_000, at(3));
        assert_eq!(clock.read(at(3)), 9_000);
        assert_eq!(clock.read(at(4)), 10_000);
    }
}
