//! How much work an encoding was, counted in operations and not in time.
//!
//! Encoding is linear in the bytes of all messages, whatever they contain. A clock on a busy machine cannot show that;
//! these counters can, and a test holds them against a bound for every family of messages that it knows.

/// Operations of one encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Work {
    /// Bytes compared with other bytes.
    pub compared_bytes: usize,
    /// Bytes copied so that a part of several segments could be compared.
    pub copied_bytes: usize,
    /// Positions and blocks that were hashed.
    pub hashed_positions: usize,
    /// Probes close to where two texts part; each compares a bounded number of bytes.
    pub probes: usize,
    /// Addresses looked up; each takes at most 64 steps.
    pub address_lookups: usize,
    /// Messages visited while cutting the reference into stretches, and while holding records against what streams
    /// remember.
    pub visits: usize,
}

impl Work {
    /// All operations, a probe taken as 1,000 of them and an address as 64.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.compared_bytes
            + self.copied_bytes
            + self.hashed_positions
            + self.probes * 1000
            + self.address_lookups * 64
            + self.visits
    }
}
