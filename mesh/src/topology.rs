//! Who is in the cluster: every node, its datacenter, its roles and its address. The same on every node.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::id::{ClusterId, Datacenter, NodeId, SpiffeId};

/// What a node may do. Any mix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Roles {
    /// May send batches, also through proxies of other datacenters.
    pub origin: bool,
    /// Receives messages.
    pub member: bool,
    /// Is trusted to fan out in its datacenter.
    pub proxy: bool,
}

impl Roles {
    /// Only an origin.
    pub const ORIGIN: Self = Self { origin: true, member: false, proxy: false };
    /// Only a member.
    pub const MEMBER: Self = Self { origin: false, member: true, proxy: false };
    /// Only a proxy.
    pub const PROXY: Self = Self { origin: false, member: false, proxy: true };

    /// Others dial this node: it receives messages or fans them out.
    #[must_use]
    pub fn accepts(self) -> bool {
        self.member || self.proxy
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(self.origin, "origin"), (self.member, "member"), (self.proxy, "proxy")];
        let held: Vec<&str> = names.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
        f.pad(&if held.is_empty() { "none".to_owned() } else { held.join("+") })
    }
}

/// One node of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeSpec {
    /// Its id.
    pub id: NodeId,
    /// Where it stands.
    pub datacenter: Datacenter,
    /// What it may do.
    pub roles: Roles,
    /// Where others reach its mesh listener. Not needed by a node that is an origin and nothing else.
    pub address: Option<SocketAddr>,
}

/// All nodes of one cluster, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topology {
    cluster: ClusterId,
    nodes: BTreeMap<NodeId, NodeSpec>,
}

/// Why a list of nodes is no topology. Nothing is built; mend the list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// Two nodes carry one id.
    #[error("node `{0}` is listed twice: ids are unique in a cluster")]
    DuplicateNode(NodeId),
    /// A member or proxy that nobody can reach.
    #[error("node `{0}` is a member or proxy and has no address: give it one, such as \"127.0.0.1:7400\"")]
    NoAddress(NodeId),
    /// Two nodes claim one address.
    #[error("nodes `{first}` and `{second}` both have the address {address}: give each its own")]
    DuplicateAddress {
        /// The node listed first.
        first: NodeId,
        /// The node listed later.
        second: NodeId,
        /// The address of both.
        address: SocketAddr,
    },
    /// A node without any role.
    #[error("node `{0}` has no role: give it at least one of origin, member, proxy")]
    NoRole(NodeId),
    /// More nodes in one datacenter than one frame can address.
    #[error("datacenter `{datacenter}` has {members} members: at most {max} fit into one frame")]
    TooManyMembers {
        /// The datacenter.
        datacenter: Datacenter,
        /// Members listed there.
        members: usize,
        /// [`MEMBERS_PER_DATACENTER_MAX`].
        max: usize,
    },
}

/// Members one datacenter may have: the destinations of one codec frame.
pub const MEMBERS_PER_DATACENTER_MAX: usize = 1024;

impl Topology {
    /// Checks the list.
    ///
    /// # Errors
    /// [`TopologyError`] names the first node that breaks a rule.
    pub fn new(cluster: ClusterId, nodes: impl IntoIterator<Item = NodeSpec>) -> Result<Self, TopologyError> {
        let mut checked: BTreeMap<NodeId, NodeSpec> = BTreeMap::new();
        let mut addresses: BTreeMap<SocketAddr, NodeId> = BTreeMap::new();
        for node in nodes {
            let id = node.id.clone();
            if !(node.roles.origin || node.roles.accepts()) {
                return Err(TopologyError::NoRole(id));
            }
            match node.address {
                None if node.roles.accepts() => return Err(TopologyError::NoAddress(id)),
                None => {}
                Some(address) => {
                    if let Some(first) = addresses.insert(address, id.clone()) {
                        return Err(TopologyError::DuplicateAddress { first, second: id, address });
                    }
                }
            }
            if checked.insert(id.clone(), node).is_some() {
                return Err(TopologyError::DuplicateNode(id));
            }
        }
        let topology = Self { cluster, nodes: checked };
        for datacenter in topology.datacenters() {
            let members = topology.members_of(&datacenter).count();
            if members > MEMBERS_PER_DATACENTER_MAX {
                return Err(TopologyError::TooManyMembers {
                    datacenter,
                    members,
                    max: MEMBERS_PER_DATACENTER_MAX,
                });
            }
        }
        Ok(topology)
    }

    /// The cluster all these nodes belong to.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// One node.
    #[must_use]
    pub fn node(&self, id: &NodeId) -> Option<&NodeSpec> {
        self.nodes.get(id)
    }

    /// What the certificate of a node has to name.
    #[must_use]
    pub fn name(&self, node: &NodeSpec) -> SpiffeId {
        let (datacenter, node) = (node.datacenter.clone(), node.id.clone());
        SpiffeId { cluster: self.cluster.clone(), datacenter, node }
    }

    /// All nodes, sorted by id.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeSpec> {
        self.nodes.values()
    }

    /// All datacenters, sorted, each once.
    #[must_use]
    pub fn datacenters(&self) -> Vec<Datacenter> {
        let mut names: Vec<Datacenter> = self.nodes.values().map(|node| node.datacenter.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// The members of one datacenter, sorted by id.
    pub fn members_of<'a>(&'a self, datacenter: &'a Datacenter) -> impl Iterator<Item = &'a NodeSpec> {
        self.nodes.values().filter(move |node| node.roles.member && node.datacenter == *datacenter)
    }

    /// The proxies of one datacenter, sorted by id.
    pub fn proxies_of<'a>(&'a self, datacenter: &'a Datacenter) -> impl Iterator<Item = &'a NodeSpec> {
        self.nodes.values().filter(move |node| node.roles.proxy && node.datacenter == *datacenter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, port: Option<u16>, roles: Roles) -> NodeSpec {
        NodeSpec {
            id: NodeId::new(id).unwrap(),
            datacenter: Datacenter::new("eu").unwrap(),
            roles,
            address: port.map(|port| SocketAddr::from(([127, 0, 0, 1], port))),
        }
    }

    fn build(nodes: Vec<NodeSpec>) -> Result<Topology, TopologyError> {
        Topology::new(ClusterId::new("test").unwrap(), nodes)
    }

    #[test]
    fn each_rule_is_checked() {
        assert!(build(vec![node("o", None, Roles::ORIGIN), node("m", Some(1), Roles::MEMBER)]).is_ok());
        let duplicate = build(vec![node("m", Some(1), Roles::MEMBER), node("m", Some(2), Roles::MEMBER)]);
        assert!(matches!(duplicate, Err(TopologyError::DuplicateNode(_))));
        let unreachable = build(vec![node("m", None, Roles::MEMBER)]);
        assert!(matches!(unreachable, Err(TopologyError::NoAddress(_))));
        let shared = build(vec![node("m", Some(1), Roles::MEMBER), node("p", Some(1), Roles::PROXY)]);
        assert!(matches!(shared, Err(TopologyError::DuplicateAddress { .. })));
        assert!(matches!(build(vec![node("x", Some(1), Roles::default())]), Err(TopologyError::NoRole(_))));
    }
}
