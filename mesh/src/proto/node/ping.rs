//! Round trips that somebody asks for, and why one came to nothing.

use std::time::Duration;

use super::Node;
use crate::id::NodeId;
use crate::proto::time::Micros;
use crate::stats::{DownPeer, LastTried};

/// A round trip that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PingError {
    /// The topology has no such node. Correct the name, or add the node.
    #[error("node `{0}` is not in the topology: correct the name, or add the node")]
    UnknownNode(NodeId),
    /// It is to be linked and is not, so that nobody can be asked. Start it, or mend what keeps it away.
    #[error("`{node}` is down: no link to it for {}; {}", long(*down), why.as_deref().unwrap_or("no dial has ended yet"))]
    Down {
        /// The node.
        node: NodeId,
        /// For how long, at most as long as this node runs.
        down: Duration,
        /// What went wrong last.
        why: Option<String>,
    },
    /// It is this node: between it and itself there is nothing to measure.
    #[error("`{0}` is this node: ask for a round trip to another one")]
    Itself(NodeId),
    /// It is no destination of this node, and this node holds no link to it. Ask a node that sends to it.
    #[error("this node neither sends to `{0}` nor holds a link to it: ask one that does")]
    NotLinked(NodeId),
    /// It dialled the link between it and this node: who dials measures round trips. Ask that one.
    #[error(
        "`{0}` dialled the link between it and this node, and only who dials measures round trips: ask `{0}` for one to this node"
    )]
    NotDialled(NodeId),
    /// Nobody answered in time, on any way.
    #[error("no answer within {}{}", long(*patience), last.as_ref().map(|last| format!("; last tried {last}")).unwrap_or_default())]
    TimedOut {
        /// For how long somebody waited.
        patience: Duration,
        /// Of a destination that nothing reaches, what was tried last.
        last: Option<LastTried>,
    },
    /// Too many round trips are under way. Try again later.
    #[error("too many pings are under way: try again later")]
    TooMany,
    /// The node is closed.
    #[error("the node is closed")]
    Closed,
}

/// In whole seconds, or else in milliseconds.
fn long(time: Duration) -> String {
    if time.subsec_millis() == 0 {
        format!("{} s", time.as_secs())
    } else {
        format!("{} ms", time.as_millis())
    }
}

impl Node {
    /// Begins a round trip through the mesh; [`Node::poll_pinged`] tells its end. To a member it takes the way of messages,
    /// else the link that this node dialled.
    ///
    /// # Errors
    /// [`PingError`]: nothing was begun.
    pub fn ping(&mut self, node: &NodeId, now: Micros) -> Result<(), PingError> {
        if *node == self.links.me.node {
            return Err(PingError::Itself(node.clone()));
        }
        let peer = self.links.peer(node).ok_or_else(|| PingError::UnknownNode(node.clone()))?;
        let way = self.client.as_mut().is_some_and(|client| client.ping(node, &mut self.links, now));
        if way || self.links.ping(peer, now) {
            return Ok(());
        }
        let not_linked = || match self.links.is_accepted(peer) {
            true => PingError::NotDialled(node.clone()),
            false => PingError::NotLinked(node.clone()),
        };
        Err(self.down(node, now).unwrap_or_else(not_linked))
    }

    /// A peer that this node is to be linked with, and is not, as who asks for a round trip is told it.
    #[must_use]
    fn down(&self, node: &NodeId, now: Micros) -> Option<PingError> {
        let DownPeer { down_ms, why, .. } = self.links.down(self.links.peer(node)?, now)?;
        // Whole seconds are enough for people, once there are any.
        let down = Duration::from_millis(if down_ms < 1000 { down_ms } else { down_ms / 1000 * 1000 });
        Some(PingError::Down { node: node.clone(), down, why })
    }

    /// Why who asked for a round trip waited for so long in vain.
    #[must_use]
    pub fn unanswered(&self, node: &NodeId, patience: Duration, now: Micros) -> PingError {
        let is_destination = self.topology().node(node).is_some_and(|spec| spec.roles.member);
        let client = self.client.as_ref().filter(|_| is_destination);
        // Of a member that is reached by proxies, a link of its own that is missing is half of the reason at most.
        let is_elsewhere =
            self.topology().node(node).is_some_and(|spec| spec.datacenter != self.links.me.datacenter);
        let down = self.down(node, now).filter(|_| client.is_none() || !is_elsewhere);
        down.unwrap_or_else(|| {
            let last = client.and_then(|client| client.last_tried(node, &self.links, now));
            PingError::TimedOut { patience, last }
        })
    }

    /// Nobody waits for a round trip any more: it is not tried again.
    pub fn end_ping(&mut self, node: &NodeId, now: Micros) {
        if let Some(client) = self.client.as_mut() {
            client.end_ping(node, &mut self.links, now);
        }
    }
}
