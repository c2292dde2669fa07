//! The wall clock of a machine that is told the time and does not read it. It may be set while the node runs, and round trips are
//! measured all the same.

use super::time::Micros;

/// How far from the monotonic one a wall clock is read at most, µs.
pub const WALL_READ_WITHIN_US: u64 = 20;

/// The wall clock, by the monotonic one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WallClock {
    /// At time zero, as it was first read, µs.
    first_us: u64,
    /// The same, as it was read last.
    base_us: u64,
}

impl WallClock {
    /// It showed this at time zero, µs.
    #[must_use]
    pub fn new(base_us: u64) -> Self {
        Self { first_us: base_us, base_us }
    }

    /// It was read again, and showed this at time zero, µs: another value than before, if it was set since.
    pub fn set(&mut self, base_us: u64) {
        self.base_us = base_us;
    }

    /// What it shows, µs.
    #[must_use]
    pub fn us(&self, now: Micros) -> u64 {
        self.base_us.saturating_add(now.0)
    }

    /// What it would show had nobody set it, µs: for stamps that come back to this node, between two of which it may be set.
    #[must_use]
    pub fn steady_us(&self, now: Micros) -> u64 {
        self.first_us.saturating_add(now.0)
    }

    /// An offset of a peer's clock to the steady one, as one to this clock, µs.
    #[must_use]
    pub fn offset_us(&self, to_steady_us: i64) -> i64 {
        let set_by = i128::from(self.base_us) - i128::from(self.first_us);
        let offset = i128::from(to_steady_us) - set_by;
        i64::try_from(offset).unwrap_or(if offset < 0 { i64::MIN } else { i64::MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_shows_it_and_measures_as_before() {
        let mut wall = WallClock::new(1_000);
        assert_eq!((wall.us(Micros(5)), wall.steady_us(Micros(5)), wall.offset_us(-7)), (1_005, 1_005, -7));
        wall.set(400);
        assert_eq!((wall.us(Micros(5)), wall.steady_us(Micros(5)), wall.offset_us(-7)), (405, 1_005, 593));
        wall.set(u64::MAX);
        assert_eq!((wall.us(Micros(5)), wall.offset_us(0)), (u64::MAX, i64::MIN));
    }
}
