//! What a replica needs of the mesh.
//!
//! A trait, so that simulated clusters have a network of their own, with the mesh's contract: messages of one sender, destination and
//! lane come in order and at most once, some time before their deadlines or never.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use trunkline_mesh::{Batch, Client, Datacenter, Delivery, Inbox, Lane, Message, NodeId, Payload, SendError};

use super::replica_id::Place;

/// A message for a node.
pub(super) struct Outgoing {
    pub(super) to: NodeId,
    pub(super) payload: Payload,
    /// It is given up after that.
    pub(super) patience: Duration,
}

/// Carries messages to other replicas.
pub(super) trait Carrier: Send + Sync + 'static {
    /// Takes messages for one datacenter, and waits as long as there is no room for them. What becomes of them is not told.
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
        batch.extend(messages.into_iter().map(|Outgoing { to, payload, patience }| {
            Message::new(to, payload).lane(lane).deadline(patience)
        }));
        // Receipts are not looked at: what the mesh turns down is noticed when its answer is late.
        Box::pin(async move { Client::send(self, batch).await.map(drop) })
    }

    fn place(&self, node: &NodeId) -> Option<Place> {
        let topology = self.mesh().topology();
        topology.node(node).map(|spec| Place { node: spec.id.clone(), datacenter: spec.datacenter.clone() })
    }
}

/// All that comes into an inbox.
pub(super) fn incoming(inbox: Inbox) -> Incoming {
    stream::unfold(inbox, |mut inbox| async { inbox.recv().await.map(|delivery| (delivery, inbox)) }).boxed()
}
