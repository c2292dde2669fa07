//! Who takes part in the log.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use trunkline_mesh::{Datacenter, NodeId};

use crate::storage::EntryId;

/// One life of a node's data directory, drawn when it is made.
///
/// Votes and acknowledgements are given under it, and not under the node's name: a node whose directory was wiped returns
/// as somebody else, who promised nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReplicaId(pub u64);

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<ReplicaId> for String {
    fn from(id: ReplicaId) -> Self {
        id.to_string()
    }
}

/// A text that is no [`ReplicaId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a replica is called by 16 of the digits 0-9 and a-f")]
pub struct ReplicaIdError;

impl FromStr for ReplicaId {
    type Err = ReplicaIdError;

    fn from_str(text: &str) -> Result<Self, ReplicaIdError> {
        let legal = text.len() == 16 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        legal.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self).ok_or(ReplicaIdError)
    }
}

impl TryFrom<String> for ReplicaId {
    type Error = ReplicaIdError;

    fn try_from(text: String) -> Result<Self, ReplicaIdError> {
        text.parse()
    }
}

impl From<u64> for ReplicaId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

/// Where a replica is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Its node of the mesh.
    pub node: NodeId,
    /// That node's datacenter.
    pub datacenter: Datacenter,
    /// Where others dial the node, if it joined without being named in their files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
}

impl Place {
    /// A node that the topology knows.
    #[must_use]
    pub const fn known(node: NodeId, datacenter: Datacenter) -> Self {
        Self { node, datacenter, address: None }
    }
}

/// Who is in the cluster, as a committed entry of the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The entry. Of two memberships of one cluster the one with the later entry holds.
    pub id: EntryId,
    /// Where its replicas are, voters and learners.
    pub places: Vec<Place>,
}

/// The engine's suite for stores makes places up.
#[cfg(test)]
impl Default for Place {
    fn default() -> Self {
        let name = "anywhere";
        Self::known(NodeId::new(name).unwrap(), Datacenter::new(name).unwrap())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.node, self.datacenter)
    }
}
