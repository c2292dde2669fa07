//! Cluster time: it is stamped into entries by leaders, never goes back, and is the same on every replica.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

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
        if stamp > last.0.saturating_add(micros(now.saturating_duration_since(last.1))) {
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
    fn cluster_time_never_goes_back_and_catches_up() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let clock = ClusterClock::new(start);
        assert_eq!(clock.read(at(1)), 1_000);
        clock.observe(500, at(2));
        assert_eq!(clock.read(at(2)), 2_000);
        clock.observe(9_000, at(3));
        assert_eq!(clock.read(at(3)), 9_000);
        assert_eq!(clock.read(at(4)), 10_000);
    }
}
