//! One entry of the log.

use bytes::Bytes;

/// The highest index that is ever asked for. Beyond it, sums of indexes and counts could overflow.
pub const INDEX_MAX: u64 = u64::MAX / 2;

/// Where an entry is, and who put it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    /// The term of the leader that appended it.
    pub term: u64,
    /// Its place in the log; the first is 0.
    pub index: u64,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub id: EntryId,
    /// What it says: opaque here. A slice of the buffer that it was read into, or of what was appended.
    pub payload: Bytes,
}
