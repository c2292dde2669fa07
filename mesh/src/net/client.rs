//! The sending handle.

use tokio::sync::oneshot;

use super::mesh::Mesh;
use super::receipt::Receipt;
use super::waiting::{Decision, Place, submit};
use crate::id::Datacenter;
use crate::message::Batch;
use crate::proto::node::{RejectReason, Rejected};

/// A batch that was not taken in. Nothing of it was sent, and nothing ever will be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The topology has no such datacenter. Correct the name, or add a node there.
    #[error("the topology has no such datacenter: correct the name, or add a node that stands there")]
    UnknownDatacenter,
    /// This node has not the role `origin`. Give it the role in the topology of every node.
    #[error("this node is no origin: give it the role `origin` in the topology of every node")]
    NotOrigin,
    /// The batch alone is over the datacenter's budget and will never fit. Cut it into several batches, or raise
    /// `datacenter_budget_bytes`.
    #[error(
        "a batch of {batch_bytes} bytes can never fit into the budget of {budget_bytes}: cut it into several batches, \
         or raise datacenter_budget_bytes"
    )]
    OverBudget {
        /// Bytes the batch would be charged.
        batch_bytes: u64,
        /// The datacenter's budget, bytes.
        budget_bytes: u64,
    },
    /// The node is draining or closed. Send through another node, or join anew.
    #[error("the node is draining or closed")]
    Closed,
}

/// A batch that was not taken in at once. Nothing of it was sent.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrySendError {
    /// A budget is used up, or others wait in [`Client::send`] already. Nothing is lost: the batch comes back. Try again
    /// later, wait with [`Client::send`], or shed load.
    #[error(
        "the budget for datacenter `{datacenter}` is used up: {queued_bytes} bytes are queued or unacknowledged"
    )]
    Busy {
        /// Where it was to go.
        datacenter: Datacenter,
        /// Bytes charged to that datacenter now.
        queued_bytes: u64,
        /// The batch, whole.
        batch: Batch,
    },
    /// As [`SendError::UnknownDatacenter`].
    #[error("{}", SendError::UnknownDatacenter)]
    UnknownDatacenter,
    /// As [`SendError::NotOrigin`].
    #[error("{}", SendError::NotOrigin)]
    NotOrigin,
    /// As [`SendError::OverBudget`].
    #[error("{}", SendError::OverBudget { batch_bytes: *batch_bytes, budget_bytes: *budget_bytes })]
    OverBudget {
        /// Bytes the batch would be charged.
        batch_bytes: u64,
        /// The datacenter's budget, bytes.
        budget_bytes: u64,
    },
    /// As [`SendError::Closed`].
    #[error("{}", SendError::Closed)]
    Closed,
}

impl From<SendError> for TrySendError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::UnknownDatacenter => Self::UnknownDatacenter,
            SendError::NotOrigin => Self::NotOrigin,
            SendError::OverBudget { batch_bytes, budget_bytes } => {
                Self::OverBudget { batch_bytes, budget_bytes }
            }
            SendError::Closed => Self::Closed,
        }
    }
}

/// Sends batches. Cheap to clone; all clones share the node's budgets.
#[derive(Clone, Debug)]
pub struct Client {
    mesh: Mesh,
}

impl Client {
    pub(super) fn new(mesh: Mesh) -> Self {
        Self { mesh }
    }

    /// Hands a batch over and waits while the budget is used up, first come, first served per datacenter. A batch whose
    /// messages are all of the control lane has a share of the budget, and a line, of its own. The receipt resolves when
    /// every message of the batch is delivered or given up.
    ///
    /// Dropping the future gives the batch up, unless it was taken in at that very moment: then it travels on, without
    /// a receipt.
    ///
    /// # Errors
    /// [`SendError`]: nothing was sent and the batch is dropped. Clone it first (segments are shared) to keep it. Behind
    /// others that wait, it is told when its turn comes.
    pub async fn send(&self, batch: Batch) -> Result<Receipt, SendError> {
        let shared = self.mesh.shared();
        let taken = shared.with(|core, now| {
            if let Some(queued_bytes) = core.waiting.queued_bytes(&batch).filter(|_| !core.closed) {
                core.node.count_busy();
                return Taken::Waits(core.waiting.push(batch, queued_bytes));
            }
            match submit(&mut core.node, &mut core.receipts, batch, now, false) {
                Ok(receipt) => Taken::Decided(Ok(receipt)),
                Err(Rejected { batch, reason: RejectReason::Busy { queued_bytes } }) => {
                    Taken::Waits(core.waiting.push(batch, queued_bytes))
                }
                Err(Rejected { reason, .. }) => Taken::Decided(Err(rejected(reason))),
            }
        });
        match taken {
            Err(_) => Err(SendError::Closed),
            Ok(Taken::Decided(decision)) => decision,
            Ok(Taken::Waits((place, decision))) => {
                Waits { client: self, place, decision: Some(decision) }.await_decision().await
            }
        }
    }

    /// Hands a batch over if the budget allows it now.
    ///
    /// # Errors
    /// [`TrySendError::Busy`] gives the batch back; the others are those of [`Client::send`].
    pub fn try_send(&self, batch: Batch) -> Result<Receipt, TrySendError> {
        let datacenter = batch.datacenter().clone();
        let taken = self.mesh.shared().with(|core, now| {
            // Who waits in `send` came first.
            let Some(queued_bytes) = core.waiting.queued_bytes(&batch).filter(|_| !core.closed) else {
                return submit(&mut core.node, &mut core.receipts, batch, now, false);
            };
            core.node.count_busy();
            Err(Rejected { batch, reason: RejectReason::Busy { queued_bytes } })
        });
        match taken {
            Err(_) => Err(TrySendError::Closed),
            Ok(Ok(receipt)) => Ok(receipt),
            Ok(Err(Rejected { batch, reason: RejectReason::Busy { queued_bytes } })) => {
                Err(TrySendError::Busy { datacenter, queued_bytes, batch })
            }
            Ok(Err(Rejected { reason, .. })) => Err(rejected(reason).into()),
        }
    }

    /// The node behind this handle.
    #[must_use]
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }
}

enum Taken {
    Decided(Decision),
    Waits((Place, oneshot::Receiver<Decision>)),
}

/// A `send` in line. Leaving the line early lets go of its batch, and lets those behind it try at once.
struct Waits<'a> {
    client: &'a Client,
    place: Place,
    decision: Option<oneshot::Receiver<Decision>>,
}

impl Waits<'_> {
    async fn await_decision(mut self) -> Decision {
        let Some(decision) = self.decision.as_mut() else { return Err(SendError::Closed) };
        let decided = decision.await.unwrap_or(Err(SendError::Closed));
        self.decision = None;
        decided
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if let Some(decision) = self.decision.take() {
            drop(decision);
            let _ = self.client.mesh.shared().with(|core, now| {
                core.waiting.leave(&self.place);
                core.retry_waiting(Some(self.place.datacenter()), now);
            });
        }
    }
}

/// A reason that is not `Busy` as the caller sees it.
pub(super) fn rejected(reason: RejectReason) -> SendError {
    match reason {
        RejectReason::OverBudget { batch_bytes, budget_bytes } => {
            SendError::OverBudget { batch_bytes, budget_bytes }
        }
        RejectReason::UnknownDatacenter => SendError::UnknownDatacenter,
        RejectReason::NotOrigin => SendError::NotOrigin,
        RejectReason::Closed => SendError::Closed,
        RejectReason::Busy { .. } => unreachable!("busy batches wait or are given back"),
    }
}
