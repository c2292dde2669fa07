//! Whether a node can do its work now. Never a judgement on a peer's health, with one exception: a proxy that reaches no
//! member has nothing to offer.

use std::sync::atomic::{AtomicBool, Ordering};

use trunkline_mesh::stats::{CertificateFault, Readiness};
use trunkline_mesh::{Mesh, NodeSpec, Roles};

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
    /// Its own certificate is no good.
    #[error("{0}")]
    Certificate(CertificateFault),
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
        let mut reasons = self.judge(mesh.readiness(), mesh.local_addr().is_some());
        reasons.extend(replica.and_then(|status| status.not_ready).map(NotReady::Replica));
        reasons
    }

    fn judge(&self, now: Readiness, listens: bool) -> Vec<NotReady> {
        let draining = self.stopping.load(Ordering::Acquire) || now.draining;
        // A proxy that is a member itself always reaches one.
        let alone = self.roles.proxy && !self.roles.member && !now.reaches_member;
        [
            (draining, NotReady::Draining),
            (self.roles.accepts() && !listens, NotReady::NotListening),
            (alone, NotReady::NoMember),
        ]
        .into_iter()
        .filter_map(|(holds, reason)| holds.then_some(reason))
        .chain(now.certificate_fault.map(NotReady::Certificate))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trunkline_mesh::{Datacenter, NodeId};

    fn of(roles: Roles) -> Ready {
        let address = Some(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
        let (id, datacenter) = (NodeId::new("n").unwrap(), Datacenter::new("eu").unwrap());
        Ready::new(&NodeSpec { id, datacenter, roles, address })
    }

    fn now(reaches_member: bool) -> Readiness {
        Readiness { draining: false, reaches_member, certificate_fault: None }
    }

    #[test]
    fn only_a_proxy_needs_a_peer() {
        let proxy = of(Roles::PROXY);
        assert_eq!(proxy.judge(now(true), true), []);
        assert_eq!(proxy.judge(now(false), true), [NotReady::NoMember]);
        assert_eq!(proxy.judge(Readiness { draining: true, ..now(true) }, true), [NotReady::Draining]);
        assert_eq!(of(Roles { member: true, ..Roles::PROXY }).judge(now(false), true), []);
        let member = of(Roles::MEMBER);
        assert_eq!(member.judge(now(false), true), []);
        assert_eq!(member.judge(now(false), false), [NotReady::NotListening]);
        let fault = CertificateFault::Revoked;
        let revoked = Readiness { certificate_fault: Some(fault), ..now(true) };
        assert_eq!(member.judge(revoked, true), [NotReady::Certificate(fault)]);
        member.stop();
        assert_eq!(member.judge(now(true), true), [NotReady::Draining]);
    }
}
