//! A rolling digest of what was applied: equal wherever the same operations were applied in the same order.

use std::fmt;

use crate::storage::EntryId;

/// Of every entry up to one. It finds replicas that went apart; it does not stop who wants to deceive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(pub u64);

impl Digest {
    /// With one more entry and its answer.
    pub(super) fn then(self, id: EntryId, command: &[u8], answer: &[u8]) -> Self {
        let mut next = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        for field in [self.0, id.term, id.index, command.len() as u64] {
            next.update(&field.to_le_bytes());
        }
        next.update(command);
        next.update(answer);
        Self(next.finalize())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
