//! What a machine learns from time: round trips, the timeout that follows from them, clock offsets, token buckets.

use std::time::Duration;

use super::time::{Micros, micros};
use super::wall::WALL_READ_WITHIN_US;

/// How long the least of something counts: that of now and of the time before, each of this length. A path that got longer for
/// good is known by then, and a queue that stood so long is as good as part of the path.
const LEAST_KEPT: Duration = Duration::from_secs(60);

/// The least of late, and what was seen with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Least {
    now: Option<(u64, i64)>,
    before: Option<(u64, i64)>,
    since: Micros,
}

impl Least {
    fn sample(&mut self, us: u64, with: i64, at: Micros) {
        let age = at.since(self.since);
        if age >= LEAST_KEPT {
            self.before = self.now.take().filter(|_| age < LEAST_KEPT * 2);
            self.since = at;
        }
        if self.now.is_none_or(|(least, _)| us <= least) {
            self.now = Some((us, with));
        }
    }

    fn get(&self) -> Option<(u64, i64)> {
        let older = self.before.filter(|(before, _)| self.now.is_none_or(|(least, _)| *before < least));
        older.or(self.now)
    }
}

/// Smoothed round trip and its deviation, as RFC 6298 keeps them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rtt {
    smoothed_us: u64,
    deviation_us: u64,
    least: Least,
    samples: u64,
}

impl Rtt {
    /// Takes in one sample.
    pub fn sample(&mut self, rtt: Duration, now: Micros) {
        let us = micros(rtt).max(1);
        if self.samples == 0 {
            (self.smoothed_us, self.deviation_us) = (us, us / 2);
        } else {
            self.deviation_us = (3 * self.deviation_us + self.smoothed_us.abs_diff(us)) / 4;
            self.smoothed_us = (7 * self.smoothed_us + us) / 8;
        }
        self.least.sample(us, 0, now);
        self.samples += 1;
    }

    /// Smoothed, µs; 0 before the first sample.
    #[must_use]
    pub fn smoothed_us(&self) -> u64 {
        self.smoothed_us
    }

    /// Smallest of the last minute or two, µs; 0 before the first sample.
    #[must_use]
    pub fn min_us(&self) -> u64 {
        self.least.get().map_or(0, |(us, _)| us)
    }

    /// True before the first sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// How long to wait for an answer: smoothed plus four deviations, but at least 30 ms and half of the round trip above
    /// smoothed, because a steady link drives the deviation to nothing while the peer's scheduler does not: with 10 ms
    /// and a quarter, a busy two-core machine convicted healthy proxies.
    #[must_use]
    pub fn timeout(&self, min: Duration, max: Duration) -> Duration {
        let margin = (4 * self.deviation_us).max(30_000).max(self.smoothed_us / 2);
        Duration::from_micros(self.smoothed_us + margin).clamp(min, max)
    }
}

/// The peer's clock minus ours, from the sample with the smallest round trip of the last minute or two: clocks drift. One that says
/// what cannot be beside it takes its place at once: they are also set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClockOffset {
    least: Least,
}

impl ClockOffset {
    /// Takes in the four stamps, µs: our sending, peer's receiving, peer's sending, our receiving. Returns the round
    /// trip without the peer's own time, or `None` when the stamps cannot be.
    pub fn sample(
        &mut self,
        sent: u64,
        peer_received: u64,
        peer_sent: u64,
        received: u64,
        now: Micros,
    ) -> Option<Duration> {
        let away = received.checked_sub(sent)?;
        let at_peer = peer_sent.checked_sub(peer_received)?;
        let rtt = away.checked_sub(at_peer)?;
        let signed = |value: u64| i128::from(value);
        let offset = ((signed(peer_received) - signed(sent)) + (signed(peer_sent) - signed(received))) / 2;
        let offset = i64::try_from(offset).ok()?;
        // Each is right within half of its round trip, and as well as both clocks were read. Where both cannot be, a clock was set
        // since, or drifted as far.
        let sure = |rtt: u64| (rtt / 2).saturating_add(2 * WALL_READ_WITHIN_US);
        let apart = |(least, kept): (u64, i64)| kept.abs_diff(offset) > sure(least).saturating_add(sure(rtt));
        if self.least.get().is_some_and(apart) {
            self.least = Least::default();
        }
        self.least.sample(rtt, offset, now);
        Some(Duration::from_micros(rtt))
    }

    /// The offset, µs; 0 before the first sample.
    #[must_use]
    pub fn us(&self) -> i64 {
        self.least.get().map_or(0, |(_, offset)| offset)
    }
}

/// A bucket of tokens that fills with time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenBucket {
    per_second: u64,
    /// In millionths of a token, so that short spans count.
    level: u64,
    filled_at: Micros,
}

impl TokenBucket {
    /// A full bucket that holds one second's worth.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let per_second = u64::from(per_second);
        Self { per_second, level: per_second * 1_000_000, filled_at: Micros(0) }
    }

    /// Another rate from now on.
    pub fn set_rate(&mut self, per_second: u32) {
        self.per_second = u64::from(per_second);
        self.level = self.level.min(self.per_second * 1_000_000);
    }

    /// Takes one token, or says when there is one. Asking in vain changes nothing: who asks for several keeps them in line.
    ///
    /// # Errors
    /// The moment at which asking again is worth it.
    pub fn take(&mut self, now: Micros) -> Result<(), Micros> {
        let passed_us = micros(now.since(self.filled_at));
        self.filled_at = now;
        self.level = self
            .level
            .saturating_add(passed_us.saturating_mul(self.per_second))
            .min(self.per_second * 1_000_000);
        if let Some(left) = self.level.checked_sub(1_000_000) {
            self.level = left;
            return Ok(());
        }
        let missing = 1_000_000 - self.level;
        Err(now + Duration::from_micros(missing.div_ceil(self.per_second)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn timeout_follows_the_round_trip_within_its_bounds() {
        let mut rtt = Rtt::default();
        rtt.sample(MS(100), Micros(0));
        assert_eq!(rtt.timeout(MS(20), MS(2000)), MS(300), "one sample: srtt + 4 × srtt/2");
        for _ in 0..100 {
            rtt.sample(MS(100), Micros(1));
        }
        let steady = rtt.timeout(MS(20), MS(2000));
        assert!(steady >= MS(149) && steady <= MS(151), "steady: half above, {steady:?}");
        assert_eq!(rtt.timeout(MS(20), MS(50)), MS(50));
        assert_eq!(rtt.min_us(), 100_000);
    }

    /// A way that got longer is as long as it is now, and the clock at its end what it shows now.
    #[test]
    fn the_smallest_round_trip_is_that_of_the_last_minutes() {
        let (mut rtt, mut offset, second) =
            (Rtt::default(), ClockOffset::default(), |s: u64| Micros(s * 1_000_000));
        let sample = |offset: &mut ClockOffset, ahead: u64, way: u64, at: Micros| {
            offset.sample(at.0, at.0 + ahead + way, at.0 + ahead + way, at.0 + 2 * way, at).unwrap()
        };
        rtt.sample(MS(20), second(0));
        sample(&mut offset, 5_000, 10_000, second(0));
        for at in 1..200 {
            rtt.sample(MS(90), second(at));
            sample(&mut offset, 7_000, 45_000, second(at));
            let old = at < 120;
            assert_eq!(rtt.min_us(), if old { 20_000 } else { 90_000 }, "after {at} s");
            assert_eq!(offset.us(), if old { 5_000 } else { 7_000 }, "after {at} s");
        }
        rtt.sample(MS(30), second(200));
        assert_eq!(rtt.min_us(), 30_000, "at once where it got shorter");
        // After a long silence nothing of before counts.
        rtt.sample(MS(50), second(5_000));
        assert_eq!(rtt.min_us(), 50_000);
    }

    #[test]
    fn offset_comes_from_the_best_round_trip_unless_the_clock_was_set() {
        let mut offset = ClockOffset::default();
        assert_eq!(
            offset.sample(1_000, 501_500, 501_600, 2_100, Micros(0)),
            Some(Duration::from_micros(1_000))
        );
        assert_eq!(offset.us(), 500_000);
        assert!(offset.sample(1_000, 503_000, 503_000, 9_000, Micros(0)).is_some(), "worse, kept out");
        assert_eq!(offset.us(), 500_000);
        assert!(offset.sample(1_000, 900_000, 900_000, 9_000, Micros(0)).is_some(), "both cannot be");
        assert_eq!(offset.us(), 895_000);
        assert_eq!(offset.sample(10, 5, 4, 20, Micros(0)), None, "peer sent before it received");
        assert_eq!(offset.sample(10, 0, 100, 20, Micros(0)), None, "longer at the peer than away");
    }

    #[test]
    fn bucket_gives_its_rate_and_says_when_to_come_back() {
        let mut bucket = TokenBucket::new(2);
        let now = Micros(10_000_000);
        assert_eq!(bucket.take(now), Ok(()));
        assert_eq!(bucket.take(now), Ok(()));
        let again = bucket.take(now).unwrap_err();
        assert_eq!(again, now + MS(500));
        assert_eq!(bucket.take(now), Err(again), "whoever asks, and however often");
        assert_eq!(bucket.take(again), Ok(()));
    }
}
