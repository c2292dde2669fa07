//! What goes wrong, and how it is undone.

use super::streams::encoder;
use super::*;

impl World {
    pub(super) fn fault(&mut self) {
        if self.phase != Phase::Faults {
            return;
        }
        let every = self.swarm.every;
        let pause = every.mul_f64(0.2 + 1.6 * self.rng.f64());
        self.at(self.now + pause, Event::Fault);
        let Some(fault) = self.rng.choice(self.swarm.faults.clone()) else { return };
        let first = usize::from(!self.swarm.origin_dies);
        if fault == Fault::Restart && self.swarm.origin_dies && self.rng.bool() {
            return self.succession();
        }
        let host = self.rng.usize(first..self.hosts.len());
        let until = self.now + self.swarm.lasts.mul_f64(self.rng.f64()) + Duration::from_millis(1);
        self.strike(fault, host, until);
    }

    /// The leader dies and comes back soon, and what its old life sent to one of the proxies goes on only after the new
    /// life was heard by way of another.
    fn succession(&mut self) {
        let back = self.now + Duration::from_millis(self.rng.u64(1..500));
        let late = back + Duration::from_millis(self.rng.u64(300..2000));
        let serves =
            |host: &NodeIx| self.topology.node(&self.hosts[*host].id).is_some_and(|spec| spec.roles.proxy);
        let proxies: Vec<NodeIx> = (0..self.hosts.len()).filter(serves).collect();
        if let Some(proxy) = self.rng.choice(proxies) {
            self.strike(Fault::Stop, proxy, late);
        }
        self.strike(Fault::Restart, LEADER, back);
    }

    /// One short fault that leaves the leader alive, and every member.
    pub(super) fn trial(&mut self) {
        let Some(fault) = self.rng.choice(self.swarm.faults.clone()) else { return };
        let hosts: Vec<NodeIx> = (1..self.hosts.len())
            .filter(|host| fault != Fault::Restart || self.has_only(*host, Roles::PROXY))
            .collect();
        let Some(host) = self.rng.choice(hosts) else { return };
        let until = self.now + Duration::from_millis(self.rng.u64(50..600));
        self.strike(fault, host, until);
    }

    pub(super) fn strike(&mut self, fault: Fault, host: NodeIx, until: Micros) {
        self.note(&format!("fault {fault:?} {host}"));
        match fault {
            Fault::Reset => {
                let ends = self.wire.ends();
                if let Some(end) = self.rng.choice(ends) {
                    self.reset(end);
                }
            }
            Fault::Restart => {
                if self.hosts[host].node.is_some() && !self.hosts[host].stopped {
                    self.kill(host);
                    self.at(until, Event::Undo(Undo::Start(host)));
                }
            }
            Fault::Stop => {
                if !self.hosts[host].stopped && self.hosts[host].node.is_some() {
                    self.hosts[host].stopped = true;
                    self.at(until, Event::Undo(Undo::Resume(host)));
                }
            }
            Fault::Freeze => {
                if let Some(node) = self.hosts[host].node.as_mut() {
                    node.set_frozen(true);
                    self.at(until, Event::Undo(Undo::Thaw(host)));
                }
            }
            Fault::Desync => {
                let ends = self.wire.ends();
                if let Some(end) = self.rng.choice(ends)
                    && let Some(conn) = self.hosts[end.node].conns.get_mut(&end.conn)
                {
                    conn.encoder = encoder(conn.epochs);
                }
            }
            Fault::Deaf => {
                self.hosts[host].deaf = true;
                self.at(until, Event::Undo(Undo::Hear(host)));
            }
            Fault::Cut => {
                let (from, to) =
                    (self.rng.usize(0..self.datacenters.len()), self.rng.usize(0..self.datacenters.len()));
                if from != to {
                    self.wire.cut((from, to));
                    self.at(until, Event::Undo(Undo::Heal((from, to))));
                    if self.rng.bool() {
                        self.wire.cut((to, from));
                        self.at(until, Event::Undo(Undo::Heal((to, from))));
                    }
                }
            }
        }
    }

    pub(super) fn undo(&mut self, undo: Undo) {
        self.note(&format!("undo {undo:?}"));
        match undo {
            Undo::Start(host) => self.start(host),
            Undo::Resume(host) => {
                self.hosts[host].stopped = false;
                for event in std::mem::take(&mut self.hosts[host].backlog) {
                    self.reach(event);
                }
            }
            Undo::Thaw(host) => {
                if let Some(node) = self.hosts[host].node.as_mut() {
                    node.set_frozen(false);
                }
            }
            Undo::Hear(host) => {
                self.hosts[host].deaf = false;
                self.pump(host);
            }
            Undo::Heal(pair) => {
                for (to, cargo) in self.wire.heal(pair) {
                    self.reach(Event::Arrive { to, cargo });
                }
            }
        }
    }

    /// Both ends see the stream end, each in its time; what is under way is lost.
    pub(super) fn reset(&mut self, end: End) {
        let Some(peer) = self.wire.peer(end) else { return };
        for (from, to) in [(end, peer), (peer, end)] {
            self.wire.close(from);
            self.blocked.remove(&from);
            let at = self.now + self.delay(from.node, to.node);
            self.at(at, Event::Arrive { to, cargo: Cargo::Fin });
        }
        self.queue.retain(|_, event| match event {
            Event::Arrive { to, cargo: Cargo::Bytes(_) } => *to != end && *to != peer,
            _ => true,
        });
        if self.planted == Some(Planted::WindowForgotten)
            && let Some(member) =
                [end.node, peer.node].into_iter().find(|node| self.has_only(*node, Roles::MEMBER))
            && self.hosts[member].node.is_some()
            && !self.hosts[member].stopped
        {
            self.kill(member);
            self.start(member);
        }
    }

    /// Nodes of one version, on a wire that keeps bytes whole, never break the protocol.
    pub(super) fn check_protocol(&mut self, index: NodeIx) {
        let host = &self.hosts[index];
        let Some(stats) = host.node.as_ref().map(Node::stats) else { return };
        let expected = |label: &str| label == "history" && self.swarm.faults.contains(&Fault::Desync);
        let errors = stats.protocol_errors.iter().filter(|(label, _)| !expected(label));
        if errors.map(|(_, count)| count).sum::<u64>() + stats.acks_ignored > 0 {
            let text = format!(
                "{}: protocol errors {:?}, {} acks without sense",
                host.id, stats.protocol_errors, stats.acks_ignored
            );
            self.checker.broken(text);
        }
        let (accused, liar) = (stats.false_acks, self.liar);
        if accused > 0 && !liar {
            self.checker.broken(format!("{accused} messages are said to be lost by a lie, and nobody lied"));
        }
        if !liar {
            self.check_proxy(index);
        }
    }

    /// A proxy passes a run on or refuses it, and forgets none.
    fn check_proxy(&mut self, index: NodeIx) {
        let host = &self.hosts[index];
        let Some(node) = host.node.as_ref() else { return };
        let (proxy, queued_bytes) = (node.stats().proxy, node.status(self.now).proxy_queue_bytes);
        let known = proxy.forwarded + proxy.refused.values().sum::<u64>();
        if queued_bytes == 0 && proxy.runs != known {
            let text = format!("{}: {} runs came in, {known} were passed on or refused", host.id, proxy.runs);
            self.checker.broken(text);
        }
    }

    pub(super) fn kill(&mut self, index: NodeIx) {
        self.hear(index, true);
        self.check_protocol(index);
        for end in self.wire.ends().into_iter().filter(|end| end.node == index) {
            self.close(end);
        }
        let host = &mut self.hosts[index];
        host.node = None;
        host.conns.clear();
        host.tickets.clear();
        if index == LEADER {
            self.checker.sender_died();
        }
    }
}
