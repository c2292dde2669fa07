//! Nodes that joined while the cluster runs: the membership says where others dial them, so that no file has to.
//!
//! What the file of a node says stays as it is. What is here comes and goes with the committed membership, which a replica has from its
//! log, and a proxy from the nodes that it asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use trunkline_mesh::{Mesh, NodeId, NodeSpec, Roles, Topology, TopologyChangeError};

use super::replica_id::{Membership, Place};

/// What the mesh is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Joins(NodeSpec),
    Moves(NodeSpec),
    Leaves(NodeId),
}

/// The nodes that the mesh knows by the membership alone.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    nodes: BTreeMap<NodeId, NodeSpec>,
    /// What it last followed.
    committed: Option<Membership>,
    /// Known here, as the membership is being changed to have them: by so many who ask for it.
    asked: BTreeMap<NodeId, usize>,
}

impl Joined {
    /// Makes a node known for as long as it is asked to join.
    pub(super) fn ask(&mut self, mesh: &Mesh, place: &Place) -> Result<(), TopologyChangeError> {
        let Some(spec) = spec_of(place) else { return Ok(()) };
        if mesh.topology().node(&spec.id).is_none() {
            mesh.add_node(spec.clone())?;
            self.nodes.insert(spec.id.clone(), spec.clone());
        }
        *self.asked.entry(spec.id).or_default() += 1;
        Ok(())
    }

    /// It joined, or it did not: from now on the membership says. `members` is what that is.
    pub(super) fn asked(&mut self, mesh: &Mesh, place: &Place, members: &[Place]) {
        if let Some(count) = self.asked.get_mut(&place.node) {
            *count -= 1;
        }
        self.asked.retain(|_, count| *count > 0);
        self.tell(mesh, members);
    }

    /// Tells the mesh who joined and who left by a committed membership; of one that is no newer than the last, nothing. Says whether it was.
    pub(crate) fn follow(&mut self, mesh: &Mesh, membership: Membership) -> bool {
        let newer = self.committed.as_ref().is_none_or(|last| last.id < membership.id);
        if newer {
            self.tell(mesh, &membership.places);
            self.committed = Some(membership);
        }
        newer
    }

    /// The membership that was followed last.
    pub(crate) fn committed(&self) -> Option<&Membership> {
        self.committed.as_ref()
    }

    /// The nodes that the mesh knows by it, and by no file.
    pub(crate) fn nodes(&self) -> impl ExactSizeIterator<Item = &NodeId> {
        self.nodes.keys()
    }

    fn tell(&mut self, mesh: &Mesh, members: &[Place]) {
        let topology = mesh.topology();
        let changes = self.changes(|node| topology.node(node).is_some(), members);
        // Together: between two memberships addresses may have changed hands. Where that cannot be, one after the other, for what is
        // wrong with one is to keep no other out.
        let together = after(&topology, &changes)
            .is_some_and(|topology| mesh.set_topology(topology).is_ok_and(|told| !told.is_empty()));
        for change in changes {
            let done = match &change {
                _ if together => Ok(Vec::new()),
                Change::Joins(spec) => mesh.add_node(spec.clone()),
                Change::Moves(spec) => mesh.replace_node(spec.clone()),
                Change::Leaves(node) => mesh.remove_node(node),
            };
            match (done, change) {
                (Ok(_), Change::Joins(spec) | Change::Moves(spec)) => {
                    drop(self.nodes.insert(spec.id.clone(), spec))
                }
                // What the mesh does not know any longer need not leave again.
                (_, Change::Leaves(node)) => drop(self.nodes.remove(&node)),
                (Err(error), Change::Joins(spec) | Change::Moves(spec)) => {
                    tracing::warn!(node = %spec.id, %error, "a member's node cannot be taken into the topology: name it in the file");
                }
            }
        }
    }

    /// Gives the mesh what a file says now, and beside it who joined. Where both cannot be, as with one address, the file's node stays.
    pub(crate) fn set_topology(
        &mut self,
        mesh: &Mesh,
        file: &Arc<Topology>,
        members: &[Place],
    ) -> Result<(), TopologyChangeError> {
        let (topology, nodes) = self.beside(file, members);
        mesh.set_topology(topology)?;
        self.nodes = nodes;
        Ok(())
    }

    /// A file's topology with those beside whom it does not name, and who they are.
    fn beside(&self, file: &Arc<Topology>, members: &[Place]) -> (Arc<Topology>, BTreeMap<NodeId, NodeSpec>) {
        let asked = self.nodes.values().filter(|spec| self.asked.contains_key(&spec.id)).cloned();
        let unnamed: BTreeMap<NodeId, NodeSpec> = asked
            .chain(members.iter().filter_map(spec_of))
            .filter(|spec| file.node(&spec.id).is_none())
            .map(|spec| (spec.id.clone(), spec))
            .collect();
        let (mut topology, mut nodes) = (Arc::clone(file), BTreeMap::new());
        for (node, spec) in unnamed {
            match topology.with(spec.clone()) {
                Ok(more) => {
                    topology = more.into();
                    nodes.insert(node, spec);
                }
                Err(error) => {
                    tracing::warn!(%node, %error, "a member's node is not in the topology any longer: name it in the file");
                }
            }
        }
        (topology, nodes)
    }

    fn changes(&self, is_known: impl Fn(&NodeId) -> bool, members: &[Place]) -> Vec<Change> {
        let mut changes: Vec<Change> = self
            .nodes
            .keys()
            .filter(|node| {
                !self.asked.contains_key(*node) && members.iter().all(|place| place.node != **node)
            })
            .map(|node| Change::Leaves(node.clone()))
            .collect();
        // A node whose directory was wiped may be there twice, as two replicas.
        let specs: BTreeMap<NodeId, NodeSpec> =
            members.iter().filter_map(spec_of).map(|spec| (spec.id.clone(), spec)).collect();
        for spec in specs.into_values() {
            match self.nodes.get(&spec.id) {
                Some(known) if *known == spec => {}
                Some(_) => changes.push(Change::Moves(spec)),
                // The file names it.
                None if is_known(&spec.id) => {}
                None => changes.push(Change::Joins(spec)),
            }
        }
        changes
    }
}

/// The topology after several changes, if there can be such a one.
fn after(topology: &Topology, changes: &[Change]) -> Option<Topology> {
    let mut nodes: BTreeMap<&NodeId, &NodeSpec> = topology.nodes().map(|spec| (&spec.id, spec)).collect();
    for change in changes {
        match change {
            Change::Joins(spec) | Change::Moves(spec) => _ = nodes.insert(&spec.id, spec),
            Change::Leaves(node) => _ = nodes.remove(node),
        }
    }
    Topology::new(topology.cluster().clone(), nodes.into_values().cloned()).ok().filter(|_| changes.len() > 1)
}

/// Of a place that says where it is dialled.
fn spec_of(place: &Place) -> Option<NodeSpec> {
    Some(NodeSpec {
        id: place.node.clone(),
        datacenter: place.datacenter.clone(),
        roles: Roles { origin: true, member: true, proxy: false },
        address: Some(place.address?),
    })
}

#[cfg(test)]
mod tests {
    use trunkline_mesh::{ClusterId, Datacenter};

    use super::*;

    fn place(node: &str, port: u16) -> Place {
        let address = (port > 0).then(|| ([127, 0, 0, 1], port).into());
        Place { node: NodeId::new(node).unwrap(), datacenter: Datacenter::new("eu").unwrap(), address }
    }

    fn joined(places: &[Place]) -> Joined {
        let nodes = places.iter().filter_map(spec_of).map(|spec| (spec.id.clone(), spec)).collect();
        Joined { nodes, ..Joined::default() }
    }

    #[test]
    fn whoever_joins_moves_or_leaves_is_told_and_nobody_of_the_file() {
        let in_file = |node: &NodeId| node.as_str() == "eu-1";
        let members = [place("eu-1", 0), place("eu-2", 7)];
        let spec = |place: &Place| spec_of(place).unwrap();
        assert_eq!(joined(&[]).changes(in_file, &members), [Change::Joins(spec(&members[1]))]);
        assert_eq!(joined(&members).changes(in_file, &members), []);
        let moved = [place("eu-2", 8)];
        assert_eq!(joined(&members).changes(in_file, &moved), [Change::Moves(spec(&moved[0]))]);
        assert_eq!(joined(&members).changes(in_file, &members[..1]), [Change::Leaves(moved[0].node.clone())]);
        // Two replicas of one node, of which one was wiped.
        let twice = [place("eu-2", 7), place("eu-2", 7)];
        assert_eq!(joined(&[]).changes(in_file, &twice), [Change::Joins(spec(&twice[0]))]);
        // A node that the file names stays as the file has it.
        assert_eq!(joined(&[]).changes(in_file, &[place("eu-1", 9)]), []);
    }

    #[test]
    fn a_file_that_is_read_again_keeps_who_joined_and_its_own_node_where_both_cannot_be() {
        let file = |nodes: &[Place]| {
            let cluster = ClusterId::new("x").unwrap();
            Arc::new(Topology::new(cluster, nodes.iter().filter_map(spec_of)).unwrap())
        };
        let members = [place("eu-1", 0), place("eu-2", 7), place("eu-3", 8)];
        let named = |nodes: &[Place], joined: &Joined| {
            let (topology, nodes) = joined.beside(&file(nodes), &members);
            assert!(nodes.values().all(|spec| topology.node(&spec.id) == Some(spec)));
            let all: Vec<String> = topology.nodes().map(|node| node.id.to_string()).collect();
            (all.join(" "), nodes.len())
        };
        let one = joined(&members[1..]);
        assert_eq!(named(&[place("eu-1", 1)], &one), ("eu-1 eu-2 eu-3".to_owned(), 2));
        // The file names it, at whatever address, or has its address for another.
        assert_eq!(named(&[place("eu-1", 1), place("eu-2", 9)], &one), ("eu-1 eu-2 eu-3".to_owned(), 1));
        assert_eq!(named(&[place("eu-1", 7)], &one), ("eu-1 eu-3".to_owned(), 1));
        // What the file named until now and the membership has goes on, and so does who is asked to join.
        assert_eq!(named(&[place("eu-1", 1)], &joined(&[])), ("eu-1 eu-2 eu-3".to_owned(), 2));
        let mut more = joined(&[place("eu-4", 9)]);
        assert_eq!(named(&[place("eu-1", 1)], &more).1, 2, "it left");
        more.asked.insert(NodeId::new("eu-4").unwrap(), 1);
        assert_eq!(named(&[place("eu-1", 1)], &more).1, 3);
    }

    #[test]
    fn who_is_asked_to_join_stays_while_the_membership_does_not_have_it_yet() {
        let mut one = joined(&[place("eu-2", 7)]);
        one.asked.insert(NodeId::new("eu-2").unwrap(), 1);
        assert_eq!(one.changes(|_| false, &[]), []);
        one.asked.clear();
        assert_eq!(one.changes(|_| false, &[]).len(), 1);
    }
}
