//! What a sender hands over: messages, one destination each, in one batch per datacenter.

use std::time::Duration;

use trunkline_codec::Payload;

use crate::id::{Datacenter, Incarnation, Lane, NodeId, Seq};

/// One message for one destination.
#[derive(Clone, Debug)]
pub struct Message {
    pub(crate) destination: NodeId,
    pub(crate) kind: u8,
    pub(crate) lane: Lane,
    pub(crate) deadline: Option<Duration>,
    pub(crate) slot: Option<u32>,
    pub(crate) payload: Payload,
}

impl Message {
    /// A message of kind 0 on the bulk lane, with the default deadline of the [`crate::Settings`].
    ///
    /// Give the segments that several messages share as clones of the same `Bytes`: the codec then recognises them by
    /// address and reads them once.
    pub fn new(destination: NodeId, payload: impl Into<Payload>) -> Self {
        Self { destination, kind: 0, lane: Lane::Bulk, deadline: None, slot: None, payload: payload.into() }
    }

    /// A small number of the sender's choice, handed to the receiver unchanged.
    #[must_use]
    pub fn kind(mut self, kind: u8) -> Self {
        self.kind = kind;
        self
    }

    /// The lane. Order is kept within a lane, not across lanes.
    #[must_use]
    pub fn lane(mut self, lane: Lane) -> Self {
        self.lane = lane;
        self
    }

    /// How long the mesh may try, from the moment the batch is accepted. Afterwards the outcome is
    /// [`FailReason::Expired`] (or [`FailReason::Refused`] when the receiver was full all along).
    #[must_use]
    pub fn deadline(mut self, after: Duration) -> Self {
        self.deadline = Some(after);
        self
    }

    /// Latest wins: while a message of the same destination, lane and slot is still queued, a newer one takes its
    /// place and the older one's outcome is [`FailReason::Superseded`]. For heartbeats.
    #[must_use]
    pub fn slot(mut self, slot: u32) -> Self {
        self.slot = Some(slot);
        self
    }

    /// Where it goes.
    #[must_use]
    pub fn destination(&self) -> &NodeId {
        &self.destination
    }

    /// Payload length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.payload.len()
    }

    /// True for a message without payload. It is delivered all the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Messages handed over together for one datacenter.
#[derive(Clone, Debug)]
pub struct Batch {
    pub(crate) datacenter: Datacenter,
    pub(crate) messages: Vec<Message>,
}

impl Batch {
    /// An empty batch for one datacenter.
    #[must_use]
    pub fn to(datacenter: Datacenter) -> Self {
        Self { datacenter, messages: Vec::new() }
    }

    /// Adds a message. Its index in the receipt is the number of messages added before it.
    pub fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// The datacenter.
    #[must_use]
    pub fn datacenter(&self) -> &Datacenter {
        &self.datacenter
    }

    /// The messages, in the order they were added.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// All of it is for the control lane: a share of every budget is kept for such batches.
    pub(crate) fn is_urgent(&self) -> bool {
        self.messages.iter().all(|message| message.lane == Lane::Control)
    }

    /// Number of messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// True when nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

impl Extend<Message> for Batch {
    fn extend<T: IntoIterator<Item = Message>>(&mut self, messages: T) {
        self.messages.extend(messages);
    }
}

/// The way an attempt took.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Route {
    /// Through this proxy of the destination's datacenter.
    Proxy(NodeId),
    /// The way back: through this proxy of the sender's own datacenter, which the destination had dialled.
    Back(NodeId),
    /// Straight to the destination.
    Direct,
}

/// What became of one message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The destination's mesh handed it to the application's inbox.
    Delivered {
        /// The route of the last attempt.
        route: Route,
        /// How often it was written to a connection, at least 1.
        attempts: u32,
        /// From the moment that its first frame was made to the ack.
        rtt: Duration,
    },
    /// It was given up.
    Failed {
        /// Why.
        reason: FailReason,
        /// False: the application at the destination has not got it and never will. True: it may have.
        maybe_delivered: bool,
    },
}

impl Outcome {
    /// True for [`Outcome::Delivered`].
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        matches!(self, Self::Delivered { .. })
    }
}

/// Why a message was given up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FailReason {
    /// Its deadline passed.
    #[error("its deadline passed")]
    Expired,
    /// The receiver was full until the deadline, or the destination's budget here is used up.
    #[error("the receiver is full")]
    Refused,
    /// A newer message of the same slot took its place before it was sent.
    #[error("a newer message of the same slot took its place")]
    Superseded,
    /// The destination (or this node's own identity) restarted in between.
    #[error("the destination or the sender restarted")]
    PeerRestarted,
    /// The destination is no member of the batch's datacenter.
    #[error("the destination is no member of that datacenter")]
    UnknownNode,
    /// The payload is over `message_bytes_max`, or over what its destination takes in a frame.
    #[error("the message is over the limit")]
    TooLarge,
    /// The destination was taken out of the topology while the message was under way.
    #[error("the destination was removed from the topology")]
    Removed,
    /// This node was shut down first.
    #[error("the mesh was shut down")]
    Closed,
}

impl FailReason {
    /// All reasons, for metrics that exist before they are first counted.
    pub const ALL: [Self; 8] = [
        Self::Expired,
        Self::Refused,
        Self::Superseded,
        Self::PeerRestarted,
        Self::UnknownNode,
        Self::TooLarge,
        Self::Removed,
        Self::Closed,
    ];

    /// A label value in snake case.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Refused => "refused",
            Self::Superseded => "superseded",
            Self::PeerRestarted => "peer_restarted",
            Self::UnknownNode => "unknown_node",
            Self::TooLarge => "too_large",
            Self::Removed => "removed",
            Self::Closed => "closed",
        }
    }
}

/// A message that reached its destination.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Who sent it.
    pub origin: NodeId,
    /// Which life of the sender. Order and uniqueness hold within one.
    pub origin_incarnation: Incarnation,
    /// Its lane.
    pub lane: Lane,
    /// Its place in (origin, destination, lane). Gaps are messages the sender gave up.
    pub seq: Seq,
    /// The sender's number.
    pub kind: u8,
    /// The bytes, as slices of the received buffer.
    pub payload: Payload,
}
