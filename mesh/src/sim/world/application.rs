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
        if self.phase == Phase::Healing && now >= HEALED_AT {
            self.phase = Phase::Trials;
        }
        let mut next = now + self.app.pause();
        if self.phase == Phase::Trials {
            let into = micros(now.since(HEALED_AT)) % micros(TRIAL_EVERY);
            let begin = Micros(now.0 - into);
            if next > begin + TRIAL_SENDS {
                next = begin + TRIAL_EVERY;
                let trial = next + TRIAL_SENDS.mul_f64(self.rng.f64());
                self.at(trial, Event::Trial);
            }
        }
        self.at(next, Event::Send);
        if let Some(node) = self.hosts[LEADER].node.as_mut() {
            node.handle_timeout(now);
        }
        self.pump(LEADER);
        self.checker.check_due(now);
        if self.phase == Phase::Healing {
            return;
        }
        let mood = match self.phase {
            // Large messages may be turned away by small budgets, rightly: where all must arrive, all must fit.
            Phase::Trials if self.swarm.tight => Mood::Mixed(TRIAL_PATIENCE),
            _ if self.swarm.faults.is_empty() => Mood::Easy,
            Phase::Trials => Mood::Mixed(TRIAL_PATIENCE),
            _ => Mood::Rough,
        };
        while let Some((_, ticket, batch)) = self.unanswered.pop_front_if(|(at, _, _)| *at <= now) {
            let host = &mut self.hosts[LEADER];
            if host.tickets.contains_key(&ticket)
                && let Some(node) = host.node.as_mut()
            {
                self.again.extend(node.submit(batch, now));
            }
        }
        for datacenter in self.datacenters.clone() {
            let host = &mut self.hosts[LEADER];
            let Some(node) = host.node.as_mut() else { return };
            let Drawn { mut batch, shared_bytes, messages } =
                self.app.draw(&self.topology, &datacenter, &host.id, mood);
            if let Some(planted) = self.planted {
                planted.submitted(&mut batch);
            }
            let again = (self.planted == Some(Planted::RetryIsNewMessage)).then(|| batch.clone());
            let Ok(ticket) = node.submit(batch, now) else { continue };
            self.unanswered.extend(again.map(|batch| (now + Duration::from_millis(500), ticket, batch)));
            let ids: Vec<u64> = messages.iter().map(|message| message.id).collect();
            if !ids.is_empty() {
                host.tickets.insert(ticket, OpenBatch { ids, datacenter: datacenter.clone(), shared_bytes });
            }
            // The sender's own books may be wrong; what is open holds at least what its messages share.
            let open = host.tickets.values().filter(|open| open.datacenter == datacenter);
            let held: usize = open.map(|open| open.shared_bytes).sum();
            if held > self.settings.datacenter_budget_bytes {
                let text = format!("{held} bytes are kept for {datacenter}, whatever its budget's books say");
                self.checker.broken(text);
            }
            // A receipt is whole when its last message is decided.
            let due = messages.iter().map(|message| now + message.deadline).max().unwrap_or(now);
            for message in messages {
                if self.phase == Phase::Trials && message.must_arrive {
                    self.must_arrive.insert(message.id);
                }
                self.checker.submitted(message.id, message.destination, due);
            }
            let rows = node.status(now).datacenters;
            let all: u64 = rows.iter().map(|row| row.queued_bytes).sum();
            if all > u64::try_from(self.settings.process_budget_bytes).unwrap_or(0) {
                self.checker.broken(format!("{all} bytes queued, over the budget of the process"));
            }
            for row in rows {
                let snoozed = row.routes.iter().filter(|route| route.state == "snoozed").count();
                if 2 * snoozed > row.routes.len() {
                    let text = format!("{snoozed} proxies of {} are left alone, over half", row.name);
                    self.checker.broken(text);
                }
                if row.queued_bytes > u64::try_from(self.settings.datacenter_budget_bytes).unwrap_or(0) {
                    let text = format!("{} bytes queued for {}, over its budget", row.queued_bytes, row.name);
                    self.checker.broken(text);
                }
            }
            self.pump(LEADER);
        }
    }
}
