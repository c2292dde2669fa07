//! Latencies and waits.

use std::time::Duration;

/// A distribution of latencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// How many messages.
    pub messages: usize,
    /// Half took at most this.
    pub p50: Duration,
    /// 99 of 100 took at most this.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Latency {
    /// Of samples in microseconds, in any order, by nearest rank; `None` if there are none.
    #[must_use]
    pub fn of(samples_us: Vec<u64>) -> Option<Self> {
        let mut sorted = samples_us;
        sorted.sort_unstable();
        let max = *sorted.last()?;
        let rank = |percent: usize| Duration::from_micros(sorted[(sorted.len() * percent).div_ceil(100) - 1]);
        Some(Self { messages: sorted.len(), p50: rank(50), p99: rank(99), max: Duration::from_micros(max) })
    }
}

/// How long messages waited beyond normal delivery.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wait {
    /// Median latency in the quiet time.
    pub normal: Duration,
    /// The longest wait beyond it; 0 if none was slower than normal.
    pub longest: Duration,
    /// Messages sent in the window.
    pub messages: usize,
    /// Of these, not arrived yet; counted as waiting.
    pub missing: usize,
    /// Of these, failed and never arrived; not in `longest`.
    pub failed: usize,
}
