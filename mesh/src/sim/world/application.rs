//! The application at both ends: batches into the leader, messages out of inboxes.

use super::*;

impl World {
    /// The application reads its inbox.
    ///
    /// The checker counts a message as handed over when it enters the inbox, which is before anybody reads it; so a deaf
    /// application's inbox is looked at when it hears again, and before its process dies.
    pub(super) fn hear(&mut self, index: NodeIx, deaf: bool) {
        let now = self.now;
        let host = &mut self.hosts[index];
        let Some(node) = host.node.as_mut() else { return };
        if deaf {
            let seen = node.peek_new_deliveries();
            for delivery in seen {
                let (id, intact) = read_body(&delivery.payload);
                let member = (host.id.clone(), node.incarnation());
                let origin = (delivery.origin.clone(), delivery.origin_incarnation);
                self.checker.handed(id, member, origin, delivery.lane, intact, now);
            }
            return;
        }
        loop {
            for delivery in node.peek_new_deliveries() {
                let (id, intact) = read_body(&delivery.payload);
                let member = (host.id.clone(), node.incarnation());
                let origin = (delivery.origin.clone(), delivery.origin_incarnation);
                self.checker.handed(id, member, origin, delivery.lane, intact, now);
            }
            if node.poll_delivery(now).is_none() {
                return;
            }
        }
    }

    pub(super) fn send(&mut self) {
        let now = self.now;
        match self.phase {
            Phase::Healing if now >= HEALED_AT => self.phase = Phase::Last,
            Phase::Last if now >= LAST_UNTIL => self.phase = Phase::Over,
            _ => {}
        }
        let pause = self.app.pause();
        self.at(now + pause, Event::Send);
        if let Some(node) = self.hosts[LEADER].node.as_mut() {
            node.handle_timeout(now);
        }
        self.pump(LEADER);
        self.checker.check_due(now);
        if matches!(self.phase, Phase::Healing | Phase::Over) {
            return;
        }
        let easy = self.phase == Phase::Last || self.swarm.faults.is_empty();
        for datacenter in self.datacenters.clone() {
            let host = &mut self.hosts[LEADER];
            let Some(node) = host.node.as_mut() else { return };
            let Drawn { batch, messages } = self.app.draw(&self.topology, &datacenter, &host.id, easy);
            let Ok(ticket) = node.submit(batch, now) else { continue };
            host.tickets.insert(ticket, messages.iter().map(|(id, _, _)| *id).collect());
            // A receipt is whole when its last message is decided.
            let due = messages.iter().map(|(_, _, deadline)| now + *deadline).max().unwrap_or(now);
            for (id, destination, _) in messages {
                if self.phase == Phase::Last {
                    self.last.insert(id);
                }
                self.checker.submitted(id, destination, due);
            }
            for row in node.status(now).datacenters {
                if row.queued_bytes > u64::try_from(self.settings.datacenter_budget_bytes).unwrap_or(0) {
                    let text = format!("{} bytes queued for {}, over its budget", row.queued_bytes, row.name);
                    self.checker.broken(text);
                }
            }
            self.pump(LEADER);
        }
    }
}
