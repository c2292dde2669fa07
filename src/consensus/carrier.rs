//! What a replica needs of the mesh.
//!
//! A trait, so that simulated clusters have a network of their own, with the mesh's contract: messages of one sender, destination and
//! lane come in order and at most once, some time before their deadlines or never.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use tokio::sync::oneshot;
use trunkline_mesh::{
    Batch, Client, Datacenter, Delivery, FailReason, Inbox, Lane, Message, NodeId, Outcome, Payload,
    SendError,
};

use super::replica_id::Place;

/// A message for a node.
pub(super) struct Outgoing {
    pub(super) to: NodeId,
    pub(super) payload: Payload,
    /// It is given up after that.
    pub(super) patience: Duration,
    /// Told where it is certain that the message did not arrive and never will. Dropped where it arrived, or may have.
    pub(super) turned_down: Option<TurnedDown>,
}

/// Where somebody waits for the answer to a message, who need not wait for it any longer.
pub(super) type TurnedDown = oneshot::Sender<FailReason>;

/// Carries messages to other replicas.
pub(super) trait Carrier: Send + Sync + 'static {
    /// Takes messages for one datacenter, and waits as long as there is no room for them.
    fn send(
        &self,
        datacenter: &Datacenter,
        lane: Lane,
        messages: Vec<Outgoing>,
    ) -> BoxFuture<'_, Result<(), SendError>>;

    /// Where a node is, as long as it is in the topology.
    fn place(&self, node: &NodeId) -> Option<Place>;
}

/// What arrives, until the mesh is closed.
pub(super) type Incoming = BoxStream<'static, Delivery>;

impl Carrier for Client {
    fn send(
        &self,
        datacenter: &Datacenter,
        lane: Lane,
        messages: Vec<Outgoing>,
    ) -> BoxFuture<'_, Result<(), SendError>> {
        let mut batch = Batch::to(datacenter.clone());
        let mut tells = Vec::new();
        batch.extend(messages.into_iter().map(|Outgoing { to, payload, patience, turned_down }| {
            tells.push(turned_down);
            Message::new(to, payload).lane(lane).deadline(patience)
        }));
        Box::pin(async move {
            match Client::send(self, batch).await {
                Ok(mut receipt) if tells.iter().any(Option::is_some) => {
                    // Each as soon as it is known: nobody waits for what becomes of a message to somebody else.
                    tokio::spawn(async move {
                        while let Some((index, outcome)) = receipt.next().await {
                            tell(&outcome, tells.get_mut(index).and_then(Option::take));
                        }
                    });
                    Ok(())
                }
                Ok(_) => Ok(()),
                // Nothing of it was sent.
                Err(error) => {
                    let reason = match error {
                        SendError::Closed => FailReason::Closed,
                        SendError::OverBudget { .. } => FailReason::TooLarge,
                        _ => FailReason::UnknownNode,
                    };
                    let nowhere = Outcome::Failed { reason, maybe_delivered: false };
                    tells.into_iter().for_each(|turned_down| tell(&nowhere, turned_down));
                    Err(error)
                }
            }
        })
    }

    fn place(&self, node: &NodeId) -> Option<Place> {
        let topology = self.mesh().topology();
        topology.node(node).map(|spec| Place::known(spec.id.clone(), spec.datacenter.clone()))
    }
}

/// Tells of a message that is certain not to have arrived.
fn tell(outcome: &Outcome, turned_down: Option<TurnedDown>) {
    if let (Outcome::Failed { reason, maybe_delivered: false }, Some(turned_down)) = (outcome, turned_down) {
        // Whoever waited may be gone.
        let _ = turned_down.send(*reason);
    }
}

/// All that comes into an inbox.
pub(super) fn incoming(inbox: Inbox) -> Incoming {
    stream::unfold(inbox, |mut inbox| async { inbox.recv().await.map(|delivery| (delivery, inbox)) }).boxed()
}
