//! Who is in the cluster: every node, its datacenter, its roles and its address. The same on every node.

use std::collections::{BTreeMap, BTreeSet};
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

impl Roles {
    /// The names of those that it has.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        let names = [(self.origin, "origin"), (self.member, "member"), (self.proxy, "proxy")];
        names.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect()
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.names();
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
    /// Sorted by id.
    nodes: Vec<NodeSpec>,
    /// The places of those of each datacenter, in their order.
    by_datacenter: BTreeMap<Datacenter, Vec<usize>>,
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
        let topology = Self::of(cluster, checked.into_values().collect());
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

    /// Of nodes that are checked, and sorted by id.
    fn of(cluster: ClusterId, nodes: Vec<NodeSpec>) -> Self {
        let mut by_datacenter: BTreeMap<Datacenter, Vec<usize>> = BTreeMap::new();
        for (place, node) in nodes.iter().enumerate() {
            by_datacenter.entry(node.datacenter.clone()).or_default().push(place);
        }
        Self { cluster, nodes, by_datacenter }
    }

    /// The cluster all these nodes belong to.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// One node.
    #[must_use]
    pub fn node(&self, id: &NodeId) -> Option<&NodeSpec> {
        let place = self.nodes.binary_search_by(|node| node.id.cmp(id)).ok()?;
        Some(&self.nodes[place])
    }

    /// What the certificate of a node has to name.
    #[must_use]
    pub fn name(&self, node: &NodeSpec) -> SpiffeId {
        let (datacenter, node) = (node.datacenter.clone(), node.id.clone());
        SpiffeId { cluster: self.cluster.clone(), datacenter, node }
    }

    /// All nodes, sorted by id.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeSpec> {
        self.nodes.iter()
    }

    /// All datacenters, sorted, each once.
    #[must_use]
    pub fn datacenters(&self) -> Vec<Datacenter> {
        self.by_datacenter.keys().cloned().collect()
    }

    /// A node stands there.
    #[must_use]
    pub(crate) fn has_datacenter(&self, datacenter: &Datacenter) -> bool {
        self.by_datacenter.contains_key(datacenter)
    }

    /// The nodes of one datacenter, sorted by id.
    fn nodes_of<'a>(&'a self, datacenter: &Datacenter) -> impl Iterator<Item = &'a NodeSpec> + use<'a> {
        self.by_datacenter.get(datacenter).into_iter().flatten().map(|place| &self.nodes[*place])
    }

    /// The members of one datacenter, sorted by id.
    pub fn members_of<'a>(&'a self, datacenter: &'a Datacenter) -> impl Iterator<Item = &'a NodeSpec> {
        self.nodes_of(datacenter).filter(|node| node.roles.member)
    }

    /// The proxies of one datacenter, sorted by id.
    pub fn proxies_of<'a>(&'a self, datacenter: &'a Datacenter) -> impl Iterator<Item = &'a NodeSpec> {
        self.nodes_of(datacenter).filter(|node| node.roles.proxy)
    }
}

/// One node of a topology as it differs in another one.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TopologyChange {
    /// It is new.
    Added(NodeSpec),
    /// It is gone.
    Removed(NodeSpec),
    /// It has another datacenter, other roles or another address.
    Changed {
        /// As it was.
        before: NodeSpec,
        /// As it is.
        after: NodeSpec,
    },
}

impl fmt::Display for TopologyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at =
            |node: &NodeSpec| node.address.map_or("no address".to_owned(), |address| address.to_string());
        match self {
            Self::Added(node) => {
                write!(
                    f,
                    "node {} added: {} of datacenter {}, {}",
                    node.id,
                    node.roles,
                    node.datacenter,
                    at(node)
                )
            }
            Self::Removed(node) => {
                write!(f, "node {} removed, was {} of datacenter {}", node.id, node.roles, node.datacenter)
            }
            Self::Changed { before, after } => {
                write!(f, "node {} changed:", before.id)?;
                let mut between = " ";
                let mut differs = |what: &str, old: String, new: String| {
                    if old == new {
                        return Ok(());
                    }
                    write!(f, "{}{what} {old} -> {new}", std::mem::replace(&mut between, ", "))
                };
                differs("datacenter", before.datacenter.to_string(), after.datacenter.to_string())?;
                differs("roles", before.roles.to_string(), after.roles.to_string())?;
                differs("address", at(before), at(after))
            }
        }
    }
}

/// A topology that a running node cannot go on with. Nothing was changed: it goes on with the one it has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyChangeError {
    /// The list of nodes is no topology. Mend it.
    #[error(transparent)]
    Invalid(#[from] TopologyError),
    /// It is that of another cluster. Give this one's, or start the node anew.
    #[error("the cluster id cannot change while a node runs: it is `{0}`: restart the node for another one")]
    OtherCluster(ClusterId),
    /// This node is not in it. Leave it in, or stop the node first.
    #[error("node `{0}` runs in this process and cannot be removed: stop it first")]
    OwnNode(NodeId),
    /// This node would get another datacenter, other roles or another address. Restart it for that.
    #[error("{what} of node `{node}` cannot change while it runs: restart it for that")]
    OwnSpec {
        /// This node.
        node: NodeId,
        /// What would change.
        what: &'static str,
    },
    /// No such node is there to be removed or replaced.
    #[error("node `{0}` is not in the topology")]
    UnknownNode(NodeId),
    /// No such datacenter is there to be removed.
    #[error("datacenter `{0}` is not in the topology")]
    UnknownDatacenter(Datacenter),
    /// More nodes have come and gone than one process keeps books of. Restart it: it then knows those that are there.
    #[error("{known} nodes have come and gone, and this process keeps books of {max}: restart it")]
    TooManyNodes {
        /// Nodes that it would know.
        known: usize,
        /// The most.
        max: usize,
    },
    /// More datacenters have come and gone than one process keeps books of. Restart it: it then knows those that are there.
    #[error("{known} datacenters have come and gone, and this process keeps books of {max}: restart it")]
    TooManyDatacenters {
        /// Datacenters that it would know.
        known: usize,
        /// The most.
        max: usize,
    },
    /// An address that is not loopback, and nothing that protects links to it. Use loopback addresses, or join anew with
    /// certificates or, where every machine is trusted, insecure.
    #[error(
        "{0} is not a loopback address, and links are neither encrypted nor authenticated: use loopback addresses, or \
         restart the node with certificates or, where every machine is trusted, insecure"
    )]
    Unprotected(SocketAddr),
    /// The node is closed. Join anew, with the new topology.
    #[error("the node is closed")]
    Closed,
}

impl Topology {
    /// What is different in another topology, sorted by id.
    #[must_use]
    pub fn changes_to(&self, other: &Self) -> Vec<TopologyChange> {
        let ids: BTreeSet<&NodeId> = self.nodes().chain(other.nodes()).map(|node| &node.id).collect();
        let change = |id| match (self.node(id), other.node(id)) {
            (None, Some(node)) => Some(TopologyChange::Added(node.clone())),
            (Some(node), None) => Some(TopologyChange::Removed(node.clone())),
            (Some(before), Some(after)) if before != after => {
                Some(TopologyChange::Changed { before: before.clone(), after: after.clone() })
            }
            _ => None,
        };
        ids.into_iter().filter_map(change).collect()
    }

    /// The same with one more node.
    ///
    /// # Errors
    /// [`TopologyError::DuplicateNode`] if it is there already, and the others.
    pub fn with(&self, node: NodeSpec) -> Result<Self, TopologyError> {
        Self::new(self.cluster.clone(), self.nodes().cloned().chain([node]))
    }

    /// The same without some of its nodes.
    #[must_use]
    pub fn without(&self, leaves: impl Fn(&NodeSpec) -> bool) -> Self {
        let nodes = self.nodes().filter(|node| !leaves(node)).cloned().collect();
        Self::of(self.cluster.clone(), nodes)
    }

    /// What keeps a running node from going on with another topology, if anything does.
    pub(crate) fn check_change(&self, own: &NodeId, other: &Self) -> Result<(), TopologyChangeError> {
        if other.cluster != self.cluster {
            return Err(TopologyChangeError::OtherCluster(self.cluster.clone()));
        }
        let (Some(before), Some(after)) = (self.node(own), other.node(own)) else {
            return Err(TopologyChangeError::OwnNode(own.clone()));
        };
        let differs = [
            ("the datacenter", before.datacenter != after.datacenter),
            ("the roles", before.roles != after.roles),
            ("the address", before.address != after.address),
        ];
        match differs.into_iter().find(|(_, differs)| *differs) {
            None => Ok(()),
            Some((what, _)) => Err(TopologyChangeError::OwnSpec { node: own.clone(), what }),
        }
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

    #[test]
    fn what_differs_is_told_line_by_line() {
        let before =
            build(vec![node("a", Some(1), Roles::MEMBER), node("b", Some(2), Roles::MEMBER)]).unwrap();
        let moved =
            NodeSpec { datacenter: Datacenter::new("us").unwrap(), ..node("b", Some(4), Roles::PROXY) };
        let after = build(vec![moved, node("c", Some(3), Roles::PROXY)]).unwrap();
        let told: Vec<String> = before.changes_to(&after).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "node a removed, was member of datacenter eu",
                "node b changed: datacenter eu -> us, roles member -> proxy, address 127.0.0.1:2 -> 127.0.0.1:4",
                "node c added: proxy of datacenter eu, 127.0.0.1:3",
            ]
        );
        assert_eq!(before.changes_to(&before), []);
    }

    #[test]
    fn a_running_node_keeps_what_it_is() {
        let id = |name: &str| NodeId::new(name).unwrap();
        let now = build(vec![node("a", Some(1), Roles::MEMBER), node("b", Some(2), Roles::MEMBER)]).unwrap();
        let without = |name: &str| now.without(|node| node.id.as_str() == name);
        assert_eq!(now.check_change(&id("a"), &without("b")), Ok(()));
        assert_eq!(now.check_change(&id("a"), &without("a")), Err(TopologyChangeError::OwnNode(id("a"))));
        let with = |spec| without("a").with(spec).unwrap();
        for (spec, named) in [
            (node("a", Some(9), Roles::MEMBER), "the address"),
            (node("a", Some(1), Roles::PROXY), "the roles"),
            (
                NodeSpec { datacenter: Datacenter::new("x").unwrap(), ..node("a", Some(1), Roles::MEMBER) },
                "the datacenter",
            ),
        ] {
            let error = now.check_change(&id("a"), &with(spec)).unwrap_err();
            assert!(error.to_string().starts_with(named), "{error}");
        }
        let elsewhere = Topology::new(ClusterId::new("other").unwrap(), now.nodes().cloned()).unwrap();
        assert!(matches!(now.check_change(&id("a"), &elsewhere), Err(TopologyChangeError::OtherCluster(_))));
    }
}
