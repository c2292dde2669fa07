//! What a receiver is willing to hold: every number a peer can drive up has a maximum.

/// Most destinations that one frame can address; the format's own limit.
pub(crate) const DESTINATIONS_MAX: usize = 1024;

/// The maxima that [`Frame::parse`](crate::Frame::parse) enforces from the frame's head, before it allocates.
///
/// The encoder holds the same maxima (in [`Options`](crate::Options)), so that it never builds a frame which its
/// receiver refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Destinations (messages) per frame. Default and largest useful value 1,024.
    pub destinations: usize,
    /// Bytes of one message. Default 64 MiB.
    pub message_bytes: usize,
    /// Bytes of all messages together, as the destinations will receive them. Default 256 MiB.
    pub output_bytes: usize,
    /// Pieces: (record, destination) pairs. One costs the receiver up to 32 bytes; FORMAT.md says what a record does.
    /// Default 1,048,576.
    pub pieces: usize,
    /// Records per frame; in one that is a concatenation each message that is not empty is one. An encoder counts those before
    /// it plans: it refuses more messages than this even where one record would do for all. Default 262,144.
    pub records: usize,
    /// Bytes of the data column, counted before the second stage. An encoder counts all messages here, for it may have to
    /// send their concatenation. Default 256 MiB.
    pub data_bytes: usize,
    /// Bytes of set definitions; each is charged one bit per destination, rounded up to whole bytes, and
    /// takes a few times that until the head is read: FORMAT.md says how much. Default 4 MiB.
    pub set_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            destinations: DESTINATIONS_MAX,
            message_bytes: 64 << 20,
            output_bytes: 256 << 20,
            pieces: 1 << 20,
            records: 1 << 18,
            data_bytes: 256 << 20,
            set_bytes: 4 << 20,
        }
    }
}
