//! What another topology, or other limits, change for a node: each of its roles is told.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Action, Node};
use crate::proto::time::Micros;
use crate::settings::Settings;
use crate::topology::{Topology, TopologyChangeError};

impl Node {
    /// Another topology from now on: links, rosters and routes follow. Messages for a destination that left end as
    /// [`FailReason::Removed`](crate::message::FailReason::Removed).
    ///
    /// # Errors
    /// [`TopologyChangeError`]: nothing was changed.
    pub fn set_topology(&mut self, topology: Arc<Topology>, now: Micros) -> Result<(), TopologyChangeError> {
        let me = self.links.me.node.clone();
        self.links.topology().check_change(&me, &topology)?;
        self.links.check_known(&topology)?;
        self.links.set_topology(Arc::clone(&topology), now);
        // Links that ended give back what was under way on them, before their peers are forgotten.
        self.settle(now);
        let mut wanted = BTreeSet::new();
        if let Some(proxy) = self.proxy.as_mut() {
            let members = topology.members_of(&self.links.me.datacenter).filter(|member| member.id != me);
            let members = members.filter_map(|member| self.links.peer(&member.id)).collect();
            proxy.set_members(&members, &self.links);
            wanted.extend(members);
        }
        if let Some(client) = self.client.as_mut() {
            client.set_topology(&topology, &mut self.links, now);
            wanted.extend(client.wanted());
        }
        if let Some(member) = self.member.as_mut() {
            member.set_topology(&topology);
        }
        self.links.set_wanted(&wanted, now);
        self.settle(now);
        // Who waits for a datacenter that is gone is told so.
        self.links.push_action(Action::Room(None));
        Ok(())
    }

    /// Other limits and timers from now on; `settings` are checked. What runs already keeps its deadline, and what two ends
    /// agreed on holds as long as their link.
    pub fn set_settings(&mut self, settings: &Settings, now: Micros) {
        self.links.set_settings(settings.clone(), now);
        if let Some(client) = self.client.as_mut() {
            client.set_settings(settings.clone());
        }
        if let Some(proxy) = self.proxy.as_mut() {
            proxy.set_settings(settings.clone());
        }
        if let Some(member) = self.member.as_mut() {
            member.set_settings(settings.clone());
        }
        self.links.push_action(Action::Room(None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{COMPARED, ClusterId, Datacenter, Incarnation, NodeId};
    use crate::proto::node::NodeInit;
    use crate::topology::{NodeSpec, Roles};

    fn spec(site: u16, of: u16, roles: Roles) -> NodeSpec {
        let [high, low] = site.to_be_bytes();
        NodeSpec {
            id: NodeId::new(&format!("n{site}-{of}")).unwrap(),
            datacenter: Datacenter::new(&format!("d{site}")).unwrap(),
            roles,
            address: Some(([10, high, low, 1], 1 + of).into()),
        }
    }

    /// How often names are compared when a node comes to datacenters of a member and proxies each, and when one of them leaves.
    fn compared(sites: u16, proxies: u16) -> u64 {
        let all = Roles { origin: true, member: true, proxy: true };
        let specs = (0..sites).flat_map(|site| {
            let proxies = (1..=proxies).map(move |of| spec(site, of, Roles::PROXY));
            proxies.chain([spec(site, 0, all)])
        });
        let topology = Arc::new(Topology::new(ClusterId::new("c").unwrap(), specs).unwrap());
        let init = NodeInit {
            topology: Arc::clone(&topology),
            node: NodeId::new("n0-0").unwrap(),
            incarnation: Incarnation(1),
            settings: Settings::default(),
            seed: 1,
            wall_base_us: 0,
        };
        let mut node = Node::new(init, Micros(0)).unwrap();
        COMPARED.set(0);
        let with = topology.with(spec(sites, 0, all)).unwrap();
        node.set_topology(with.into(), Micros(1)).unwrap();
        let gone = Datacenter::new("d1").unwrap();
        node.set_topology(topology.without(|spec| spec.datacenter == gone).into(), Micros(2)).unwrap();
        COMPARED.get()
    }

    /// Four times the nodes, and a little for what is looked up among more.
    fn assert_grows_no_faster(few: u64, many: u64) {
        assert!(many < 6 * few, "names are compared {few} times, with four times the nodes {many} times");
    }

    #[test]
    fn a_change_of_the_topology_costs_no_more_per_node_among_many_datacenters() {
        assert_grows_no_faster(compared(250, 1), compared(1000, 1));
    }

    #[test]
    fn a_change_of_the_topology_costs_no_more_per_node_among_many_proxies() {
        assert_grows_no_faster(compared(2, 250), compared(2, 1000));
    }
}
