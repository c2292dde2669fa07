//! What tells the connections of two ends apart, and the directions of one.

use crate::checksum;

/// What tells a connection from every other one, as one end sees it: a number per direction. Both ends draw the two from
/// their handshake; they need not be secret, but no other connection should have them, and the directions should differ. What
/// counts is their CRC32C, with which the checksums of a direction begin: of 2^32 pairs of numbers that differ one begins
/// alike, as if the two were equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epochs {
    /// Of what comes in.
    pub incoming: u64,
    /// Of what goes out.
    pub outgoing: u64,
}

impl Epochs {
    /// As the other end sees them.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { incoming: self.outgoing, outgoing: self.incoming }
    }
}

/// What the checksums of a direction begin with.
pub(crate) fn beginning(epoch: u64) -> u32 {
    checksum::crc32c(&epoch.to_le_bytes())
}
