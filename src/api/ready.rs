//! Whether a node can do its work now. Never a judgement on a peer's health, with one exception: a proxy that reaches no
//! member has nothing to offer.

use std::sync::atomic::{AtomicBool, Ordering};

use trunkline_mesh::{Mesh, NodeSpec, Roles, Status, Topology};

use crate::consensus;

/// Judges one node.
#[derive(Debug)]
pub struct Ready {
    roles: Roles,
    stopping: AtomicBool,
}

/// Why a node is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// It was told to stop.
    #[error("the node is draining")]
    Draining,
    /// A member or proxy that nobody can dial.
    #[error("the mesh listener is not up")]
    NotListening,
    /// A proxy without any link to a member.
    #[error("no member of this datacenter is linked")]
    NoMember,
    /// Its replica serves nobody well.
    #[error("the replica: {0}")]
    Replica(consensus::NotReady),
}

impl Ready {
    pub(super) fn new(node: &NodeSpec) -> Self {
        Self { roles: node.roles, stopping: AtomicBool::new(false) }
    }

    /// From now on the node is draining, whatever the mesh says.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Everything that stands against it; ready if there is nothing.
    pub(super) fn reasons(&self, mesh: &Mesh, replica: Option<&consensus::Status>) -> Vec<NotReady> {
        let mut reasons = self.judge(&mesh.status(), mesh.local_addr().is_some(), &mesh.topology());
        reasons.extend(replica.and_then(|status| status.not_ready).map(NotReady::Replica));
        reasons
    }

    fn judge(&self, status: &Status, listens: bool, topology: &Topology) -> Vec<NotReady> {
        let draining = self.stopping.load(Ordering::Acquire) || status.draining;
        // Members come and go while the node runs.
        let is_member = |peer| {
            let spec = topology.node(peer);
            spec.is_some_and(|spec| spec.roles.member && spec.datacenter == status.datacenter)
        };
        let linked = status.links.iter().any(|link| link.up && is_member(&link.peer));
        // A proxy that is a member itself always reaches one.
        let alone = self.roles.proxy && !self.roles.member && !linked;
        [
            (draining, NotReady::Draining),
            (self.roles.accepts() && !listens, NotReady::NotListening),
            (alone, NotReady::NoMember),
        ]
        .into_iter()
        .filter_map(|(holds, reason)| holds.then_some(reason))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trunkline_mesh::stats::LinkStatus;
    use trunkline_mesh::{ClusterId, Datacenter, Incarnation, NodeId};

    fn spec(id: &str, port: u16, roles: Roles) -> NodeSpec {
        let address = Some(std::net::SocketAddr::from(([127, 0, 0, 1], port)));
        NodeSpec { id: NodeId::new(id).unwrap(), datacenter: Datacenter::new("eu").unwrap(), roles, address }
    }

    fn status(peer: &str, up: bool) -> Status {
        let link = LinkStatus {
            peer: NodeId::new(peer).unwrap(),
            datacenter: Datacenter::new("eu").unwrap(),
            dialled: true,
            up,
            draining: false,
            incarnation: Incarnation(1),
            version: 1,
            rtt_us: None,
            rtt_min_us: None,
            clock_offset_us: None,
            connections: Vec::new(),
        };
        Status {
            node: NodeId::new("p").unwrap(),
            datacenter: Datacenter::new("eu").unwrap(),
            cluster: "c".to_owned(),
            roles: "proxy".to_owned(),
            incarnation: Incarnation(1),
            uptime_s: 0,
            draining: false,
            links: vec![link],
            datacenters: Vec::new(),
            proxy_queue_bytes: 0,
            inbox_bytes: 0,
            held_bytes: 0,
        }
    }

    #[test]
    fn only_a_proxy_needs_a_peer_and_only_a_member_will_do() {
        let nodes = [spec("p", 1, Roles::PROXY), spec("q", 2, Roles::PROXY), spec("m", 3, Roles::MEMBER)];
        let topology = Topology::new(ClusterId::new("c").unwrap(), nodes.clone()).unwrap();
        let proxy = Ready::new(&nodes[0]);
        assert_eq!(proxy.judge(&status("m", true), true, &topology), []);
        assert_eq!(proxy.judge(&status("m", false), true, &topology), [NotReady::NoMember]);
        assert_eq!(proxy.judge(&status("q", true), true, &topology), [NotReady::NoMember]);
        let member = Ready::new(&nodes[2]);
        assert_eq!(member.judge(&status("p", false), true, &topology), []);
        assert_eq!(member.judge(&status("p", false), false, &topology), [NotReady::NotListening]);
        member.stop();
        assert_eq!(member.judge(&status("p", true), true, &topology), [NotReady::Draining]);
    }
}
