//! What a user implements: a state machine that operations of the log are applied to.

use std::io::Read;

use bytes::Bytes;

/// A deterministic machine. Every replica applies the same operations in the same order and answers the same.
///
/// Nothing that differs between replicas may enter a state or an answer: no clock, no randomness, no order of a hash map.
pub trait StateMachine: Send + 'static {
    /// Applies one operation and gives its answer. `id` is its log index: it only grows, not by one. After a restart
    /// operations come again from the last snapshot on, under the same ids and in the same order; a machine that keeps its
    /// state itself skips ids that it knows.
    ///
    /// An operation that makes no sense gets an answer that says so. There is no error: it would have to be the same one on
    /// every replica.
    fn apply(&mut self, id: u64, operation: Bytes) -> Bytes;

    /// The state as it is now, as bytes that [`restore`](Self::restore) takes. This call holds up operations, reading does
    /// not: take a cheap copy (such as an [`Arc`](std::sync::Arc)) here, and write it out while it is read.
    ///
    /// # Errors
    ///
    /// Whatever keeps the state from being read. It is told in the log, the events and the metrics, and tried again after as many
    /// entries as are between snapshots; the replica goes on, with a longer log.
    fn snapshot(&self) -> std::io::Result<impl Read + Send + 'static>;

    /// Takes the state that another replica, or an earlier start, wrote. What was there before is gone.
    ///
    /// # Errors
    ///
    /// Whatever the reader says, and bytes that are no state. The node stops: it has no state to go on with.
    fn restore(&mut self, from: impl Read) -> std::io::Result<()>;
}
