//! One entry of the log.

use bytes::Bytes;

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
