//! Who is in the cluster changes under traffic: nodes and datacenters are taken out, everybody hears of it in its own
//! time, and they come back, some of them elsewhere.

use super::*;

/// Within this everybody has heard of a change.
const HEARD_WITHIN_MS: u64 = 300;

impl Host {
    /// Members that it knows of beside itself in its datacenter.
    pub(super) fn members_beside(&self) -> usize {
        let me = self.topology.node(&self.id);
        let members = me.map(|me| self.topology.members_of(&me.datacenter));
        members.into_iter().flatten().filter(|member| member.id != self.id).count()
    }
}

impl World {
    /// A node, or a whole datacenter but the leader's, leaves until then. Its process dies, or goes on without knowing.
    pub(super) fn leave(&mut self, host: NodeIx, until: Micros) {
        let datacenter = self.hosts[host].datacenter;
        let all = self.rng.u8(..) < 50
            && self.phase != Phase::Trials
            && datacenter != self.hosts[LEADER].datacenter;
        let leaves = |index: &NodeIx| {
            let one = &self.hosts[*index];
            let goes = if all { one.datacenter == datacenter } else { *index == host };
            goes && *index != LEADER && self.topology.node(&one.id).is_some()
        };
        let hosts: Vec<NodeIx> = (0..self.hosts.len()).filter(leaves).collect();
        if hosts.is_empty() {
            return;
        }
        let ids: Vec<NodeId> = hosts.iter().map(|host| self.hosts[*host].id.clone()).collect();
        self.note(&format!("leave {ids:?}"));
        self.effects.count(Effect::Fault(Fault::Leave));
        self.topology = Arc::new(self.topology.without(|spec| ids.contains(&spec.id)));
        ids.iter().for_each(|id| self.checker.set_away(id, true));
        for host in &hosts {
            if self.rng.bool() && self.hosts[*host].node.is_some() && !self.hosts[*host].stopped {
                self.kill(*host);
            }
        }
        self.spread();
        self.at(until, Event::Undo(Undo::Return(hosts)));
    }

    /// They are back. Who died may stand elsewhere now, or do something else.
    pub(super) fn come_back(&mut self, hosts: &[NodeIx]) {
        for index in hosts.iter().copied() {
            let id = self.hosts[index].id.clone();
            self.checker.set_away(&id, false);
            let before = self.hosts[index].topology.node(&id).cloned().expect("it knows itself");
            let died = self.hosts[index].node.is_none();
            let mut spec = before.clone();
            if died && !before.roles.origin && self.phase != Phase::Trials && self.rng.u8(..) < 80 {
                let datacenter = self.rng.usize(0..self.datacenters.len());
                spec.datacenter = self.datacenters[datacenter].clone();
                spec.roles.proxy |= self.rng.bool();
                self.hosts[index].datacenter = datacenter;
            }
            self.topology = Arc::new(self.topology.with(spec).expect("it was not there"));
        }
        for index in hosts.iter().copied() {
            if self.hosts[index].node.is_none() {
                self.hosts[index].topology = Arc::clone(&self.topology);
                self.start(index);
            }
        }
        self.spread();
    }

    /// Everybody hears of the present topology within a while, in any order.
    fn spread(&mut self) {
        for host in 0..self.hosts.len() {
            let at = self.now + Duration::from_millis(self.rng.u64(0..HEARD_WITHIN_MS));
            self.at(at, Event::Learn { host });
        }
    }

    /// A host hears of the topology as it is now. One that is not in it never does.
    pub(super) fn learn(&mut self, index: NodeIx) {
        let now = self.clock(index);
        let topology = Arc::clone(&self.topology);
        let host = &mut self.hosts[index];
        let own = (host.topology.node(&host.id), topology.node(&host.id));
        let (Some(before), Some(after)) = own else { return };
        if host.node.is_some() && before != after {
            // It needs a restart, which it gets where it was moved.
            return;
        }
        let known = std::mem::replace(&mut host.topology, Arc::clone(&topology));
        if self.origins.contains(&index) {
            for spec in known.nodes().filter(|spec| topology.node(&spec.id) != Some(*spec)) {
                self.checker.removed(&host.id, &spec.id);
            }
        }
        if let Some(node) = host.node.as_mut()
            && let Err(error) = node.set_topology(topology, now)
        {
            self.checker.broken(format!("{}: a topology that is legal was refused: {error}", host.id));
        }
        let host = &mut self.hosts[index];
        host.members = host.members.min(host.members_beside());
        self.note(&format!("learn {index}"));
        self.pump(index);
    }

    /// Other settings, at a node that runs.
    pub(super) fn reload(&mut self, index: NodeIx) {
        let settings = setup::draw_settings(&Swarm { wild: true, ..self.swarm.clone() }, &mut self.rng);
        let settings = self.planted.map_or(settings.clone(), |planted| planted.settings(settings));
        self.message_bytes_least = self.message_bytes_least.min(settings.message_bytes_max);
        self.run_bytes_most = self.run_bytes_most.max(settings.run_bytes_max);
        let clock = self.clock(index);
        let host = &mut self.hosts[index];
        let limits = &mut host.limits;
        for (most, now) in [
            (&mut limits.message_bytes_max, settings.message_bytes_max),
            (&mut limits.frame_bytes_max, settings.frame_bytes_max),
            (&mut limits.destination_budget_bytes, settings.destination_budget_bytes),
            (&mut limits.datacenter_budget_bytes, settings.datacenter_budget_bytes),
            (&mut limits.process_budget_bytes, settings.process_budget_bytes),
            (&mut limits.member_queue_bytes_max, settings.member_queue_bytes_max),
            (&mut limits.proxy_queue_bytes_max, settings.proxy_queue_bytes_max),
            (&mut limits.inbox_bytes_max, settings.inbox_bytes_max),
            (&mut limits.reorder_bytes_max, settings.reorder_bytes_max),
        ] {
            *most = now.max(*most);
        }
        if let Some(node) = host.node.as_mut() {
            self.effects.count(Effect::Fault(Fault::Reload));
            node.set_settings(&settings, clock);
        }
        host.settings = settings;
        self.pump(index);
    }
}
