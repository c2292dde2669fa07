//! Why a subscription does not go on.

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
    /// No node gave anything within the subscription's patience. Asked again, it tries again.
    #[error("no node tells entry {index} within {patience:?}; the last one: {why}")]
    Unavailable {
        /// What was asked for.
        index: u64,
        /// How long it was tried.
        patience: std::time::Duration,
        /// What happened last.
        why: String,
    },
    /// No node said how far the log is.
    #[error("no node says how far the log is, asked for {patience:?}; the last one: {why}")]
    NewestUnknown {
        /// How long it was tried.
        patience: std::time::Duration,
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
