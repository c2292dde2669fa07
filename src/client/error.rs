//! Why what was asked for does not come.

use std::fmt;
use std::time::Duration;

/// Nothing is lost by any of them: the subscription is where it was, and may be asked again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// On all nodes that answer the log begins later than what was asked for. What was before is in their state alone:
    /// [`Subscription::snapshot`](super::Subscription::snapshot) gives that, and an index to go on at.
    #[error("entry {index} is gone: the log begins at {first}; what was before is in the state alone")]
    Compacted {
        /// What was asked for.
        index: u64,
        /// The first index that can be had, at one node at least.
        first: u64,
    },
    /// No node tells the next entry.
    #[error(transparent)]
    Ask(#[from] AskError),
}

/// Why there is no snapshot, or no whole one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// It ended early. What came of it is no state: let go of it, and get another one.
    #[error("a snapshot was cut off after {keys} keys, and what came is no state: {why}")]
    CutOff {
        /// How many keys came.
        keys: u64,
        /// What happened.
        why: String,
    },
    /// No node gives one.
    #[error(transparent)]
    Ask(#[from] AskError),
}

/// Why none of the nodes that were asked says anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// No node gave it within the patience. Asked again, it is tried again.
    #[error("no node {wanted} within {patience:?}; the last one: {why}")]
    Unavailable {
        /// What was asked for.
        wanted: Wanted,
        /// How long it was tried.
        patience: Duration,
        /// What happened last.
        why: String,
    },
    /// The request is wrong, at this node and at any other.
    #[error("a node refuses the request: {message}")]
    Refused {
        /// What it says.
        message: String,
    },
    /// There is no address to ask at.
    #[error("there is no address to ask at")]
    NoAddress,
}

/// What nodes are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wanted {
    /// The entry of an index, and what comes after it.
    Entry(u64),
    /// The state.
    Snapshot,
    /// How far the log is.
    Newest,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(index) => write!(f, "tells entry {index}"),
            Self::Snapshot => f.write_str("gives a snapshot"),
            Self::Newest => f.write_str("says how far the log is"),
        }
    }
}
