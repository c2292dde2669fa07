//! Nodes that stop, die, come back, and move.

use super::*;

impl Lab {
    /// As SIGSTOP: it does nothing any more, and nobody is told.
    pub(crate) fn stop(&mut self, name: &str) {
        let index = self.index(name);
        self.stopped.insert(index);
    }

    /// All that are stopped go on.
    pub(crate) fn go_on(&mut self) {
        self.stopped.clear();
        self.mend();
    }

    /// As `kill -9`: its sockets are closed by its kernel.
    pub(crate) fn kill(&mut self, name: &str) {
        let index = self.index(name);
        self.hosts[index].node = None;
        for conn in self.hosts[index].conns.keys().copied().collect::<Vec<_>>() {
            self.close((index, conn));
        }
    }

    /// Starts a killed node again, in this life.
    pub(crate) fn restart(&mut self, name: &str, life: u64) {
        let index = self.index(name);
        let init = NodeInit {
            topology: Arc::clone(&self.topology),
            node: id(name),
            incarnation: Incarnation(life),
            settings: self.settings.clone(),
            seed: life,
            wall_base_us: 1_700_000_000_000_000,
        };
        self.hosts[index].node = Some(Node::new(init, self.now).unwrap());
        self.hosts[index].alarm = Micros::NEVER;
        self.pump(index);
    }

    /// A node stands in another datacenter from now on, in another life, and everybody knows.
    pub(crate) fn relocate(&mut self, name: &str, datacenter: &str, life: u64) {
        self.kill(name);
        let spec = NodeSpec { datacenter: dc(datacenter), ..self.topology.node(&id(name)).unwrap().clone() };
        let others = self.topology.without(|spec| spec.id == id(name));
        self.topology = Arc::new(others.with(spec).unwrap());
        let index = self.index(name);
        self.hosts[index].datacenter = dc(datacenter);
        for host in (0..self.hosts.len()).filter(|host| *host != index) {
            if let Some(node) = self.hosts[host].node.as_mut() {
                node.set_topology(Arc::clone(&self.topology), self.now).unwrap();
            }
            self.pump(host);
        }
        self.restart(name, life);
    }
}
