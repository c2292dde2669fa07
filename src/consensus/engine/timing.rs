//! The times that replicas wait, and how they follow from each other.

use std::time::Duration;

/// How a replica behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between heartbeats of a leader, and how long one's answer is waited for: above the longest round
    /// trip and a sync of the disk. 300 ms.
    pub heartbeat: Duration,
    /// About how long nobody leads after a leader died: a follower that hears nothing of it for 0.6 times this, in which it has
    /// promised to vote for nobody else, and for another 0.25 to 0.6 times this, which is drawn, begins an election. At least five
    /// times the heartbeat. 2 s.
    pub election: Duration,
    /// How long an answer of another replica is waited for. 5 s.
    pub patience: Duration,
    /// A snapshot is taken after so many entries. 100,000.
    pub snapshot_entries: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(300),
            election: Duration::from_millis(2_000),
            patience: Duration::from_secs(5),
            snapshot_entries: 100_000,
        }
    }
}

impl Timing {
    /// From a leader's last word on a follower votes for nobody else so long, itself included. The engine calls that a lease, and
    /// has it equal to the most that is drawn before an election.
    pub(super) fn promise(&self) -> Duration {
        self.election * 6 / 10
    }

    /// The least that is drawn beyond the promise. How far the draws lie apart is how seldom two begin at once and have to begin
    /// again.
    pub(super) fn drawn_least(&self) -> Duration {
        self.election / 4
    }

    /// A standstill of this node's monotonic clock, as while its machine is suspended, that is no fault yet: lease and standstill
    /// together are shorter than the promise, whatever `election` is.
    pub(super) fn step(&self) -> Duration {
        (self.election / 8).min(Duration::from_millis(500))
    }

    /// How long a leader answers reads alone, after it sent what a majority answered.
    ///
    /// Whoever is elected has the vote of one of that majority, or is it. That one heard of the leader after the leader sent
    /// it, and keeps its promise by its own clock. So nobody else has led, and nothing was written elsewhere, before the leader's
    /// own clock shows this lease as over, as long as the voter's clock runs less than `promise / lease` = 2.2 times as fast as
    /// the leader's: one of twice the speed breaks nothing, and no guard has to see it first. A leader that hands over
    /// answers no reads alone any longer, before it frees others of their promise.
    pub(super) fn lease(&self) -> Duration {
        self.promise() * 9 / 20
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_over_before_any_promise_by_clocks_of_twice_the_speed() {
        for millis in [5, 500, 2_000, 60_000] {
            let timing = Timing { election: Duration::from_millis(millis), ..Timing::default() };
            assert!(timing.lease() * 2 < timing.promise(), "{timing:?}");
            assert!(timing.lease() + timing.step() < timing.promise(), "{timing:?}");
            // After a change of `election` by half or twice, node by node, the one's lease and the other's promise fit still.
            let other = Timing { election: timing.election / 2, ..timing };
            assert!(timing.lease() < other.promise(), "{timing:?}");
            assert!(timing.drawn_least() < timing.promise(), "{timing:?}");
        }
    }
}
