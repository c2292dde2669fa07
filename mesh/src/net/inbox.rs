//! The receiving handle.

use super::mesh::Mesh;
use crate::message::Delivery;

/// Takes what arrived. One per node; messages of one (origin, lane) come in order, each once.
///
/// A message counts as delivered when it is put in here, and it stays until it is taken, after a close too. A full inbox
/// (`inbox_bytes_max`) refuses further messages, and their senders try again until their deadlines.
#[derive(Debug)]
pub struct Inbox {
    mesh: Mesh,
}

impl Inbox {
    pub(super) fn new(mesh: Mesh) -> Self {
        Self { mesh }
    }

    /// The next message. `None` once the node is closed and everything was taken; on a node that is no member it waits
    /// for the close. Cancel-safe: a message is taken only by a call that returns it. However many there are, other tasks of the runtime
    /// have their turn between.
    pub async fn recv(&mut self) -> Option<Delivery> {
        // A task that takes them in a loop, on a runtime of one thread, would else be all that runs while somebody sends fast.
        tokio::task::coop::consume_budget().await;
        let shared = self.mesh.shared();
        loop {
            let (delivery, closed) = shared
                .with(|core, now| {
                    let delivery = core.node.poll_delivery(now);
                    core.inbox_waits = delivery.is_none();
                    (delivery, core.closed)
                })
                .unwrap_or((None, true));
            if delivery.is_some() || closed {
                return delivery;
            }
            // One waiter, and a bell that rang too early is kept: nothing is missed.
            shared.inbox.notified().await;
        }
    }

    /// The next message, if one is there now.
    pub fn try_recv(&mut self) -> Option<Delivery> {
        self.mesh.shared().with(|core, now| core.node.poll_delivery(now)).ok().flatten()
    }

    /// The node behind this handle.
    #[must_use]
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }
}
