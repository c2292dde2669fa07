//! The application at both ends: batches into the leader, messages out of inboxes.

use super::*;

/// A message as this member's application gets it.
fn arrival(member: (NodeId, Incarnation), delivery: &Delivery) -> Arrival {
    let (id, intact) = read_body(&delivery.payload);
    let origin = (delivery.origin.clone(), delivery.origin_incarnation);
    Arrival { id, member, origin, lane: delivery.lane, kind: delivery.kind, intact }
}

impl World {
    /// The application reads its inbox.
    ///
    /// The checker counts a message as handed over when it enters the inbox, which is before anybody reads it; so a deaf
    /// application's inbox is looked at when it hears again, and before its process dies.
    pub(super) fn hear(&mut self, index: NodeIx, deaf: bool) {
        let (now, clock) = (self.now, self.clock(index));
        let answers = self.answering.contains(&index) && self.phase != Phase::Healing;
        let echoes = self.swarm.echoes && self.senders.contains(&index);
        let (mut heard, mut came) = (Vec::new(), Vec::new());
        let host = &mut self.hosts[index];
        let Some(node) = host.node.as_mut() else { return };
        if deaf {
            for delivery in node.peek_new_deliveries() {
                let fault = if host.deaf { Fault::Deaf } else { Fault::Slow };
                // Before a process dies it is looked at in the same way.
                if host.deaf || host.slow {
                    self.effects.count(Effect::Fault(fault));
                }
                self.checker.handed(arrival((host.id.clone(), node.incarnation()), &delivery), now);
            }
            return;
        }
        loop {
            for delivery in node.peek_new_deliveries() {
                self.checker.handed(arrival((host.id.clone(), node.incarnation()), &delivery), now);
                if echoes && let Some(from) = host.topology.node(&delivery.origin) {
                    came.push((from.datacenter.clone(), shared_len(&delivery.payload)));
                }
                if answers {
                    heard.push((delivery.origin, delivery.lane));
                }
            }
            if node.poll_delivery(clock).is_none() {
                break;
            }
        }
        for (datacenter, bytes) in came {
            self.came.insert((index, datacenter), bytes);
        }
        self.think(index, heard);
    }

    /// What the application got it answers soon, if whoever sent it asked.
    fn think(&mut self, host: NodeIx, heard: Vec<(NodeId, Lane)>) {
        let life = self.hosts[host].life;
        for (to, lane) in heard {
            if self.senders.iter().any(|sender| self.hosts[*sender].id == to) {
                let slow = self.rng.u8(..) < 30;
                let time = Duration::from_micros(self.rng.u64(0..if slow { 8_000 } else { 300 }));
                self.at(self.now + time, Event::Answer { host, life, to, lane });
            }
        }
    }

    /// One message to whom it heard. In a trial it must arrive, if there is time for it.
    pub(super) fn answer(&mut self, index: NodeIx, life: u64, to: &NodeId, lane: Lane) {
        const IN_TIME: Duration = Duration::from_secs(1);
        let late = self.now.since(self.trial_began()) > IN_TIME;
        if self.hosts[index].life != life
            || self.phase == Phase::Healing
            || self.phase == Phase::Trials && late
        {
            return;
        }
        let known = self.hosts[index].topology.node(to).is_some_and(|spec| spec.roles.member);
        let Some(asked) = self.hosts.iter().position(|host| host.id == *to && known) else { return };
        let datacenter = self.datacenters[self.hosts[asked].datacenter].clone();
        let patience = (self.phase == Phase::Trials).then_some(TRIAL_PATIENCE);
        let long = self.swarm.echoes && !self.must_be_small();
        let drawn = self.app.draw_answer(to, &datacenter, lane, patience, long);
        self.submit(index, &datacenter, drawn);
    }

    /// A slow application takes one message, and sleeps.
    pub(super) fn sip(&mut self, index: NodeIx, life: u64) {
        const NAP: Duration = Duration::from_millis(3);
        let clock = self.clock(index);
        let host = &mut self.hosts[index];
        if !host.slow || host.life != life {
            return;
        }
        if let Some(node) = host.node.as_mut().filter(|_| !host.deaf) {
            let _ = node.poll_delivery(clock);
        }
        self.pump(index);
        self.at(self.now + NAP, Event::Sip { host: index, life });
    }

    pub(super) fn send(&mut self, origin: NodeIx) {
        let now = self.now;
        let clock = self.clock(origin);
        // As much load whoever sends.
        let mut pause = self.app.pause() * u32::try_from(self.senders.len()).unwrap_or(1);
        if self.phase == Phase::Faults {
            // As many messages in minutes as in seconds.
            pause = pause.mul_f64(self.swarm.faulty.as_secs_f64() / HEALING.as_secs_f64());
        }
        let mut next = now + pause;
        if self.phase == Phase::Trials {
            let begin = self.trial_began();
            if begin > self.trial {
                self.check_prompt();
                self.trial = begin;
            }
            if next > begin + TRIAL_SENDS {
                next = begin + TRIAL_EVERY;
                if origin == LEADER {
                    let trial = next + TRIAL_SENDS.mul_f64(self.rng.f64());
                    self.at(trial, Event::Trial);
                }
            }
        } else if self.phase == Phase::Healing {
            next = next.min(self.healed_at);
        }
        self.at(next, Event::Send { origin });
        if let Some(node) = self.hosts[origin].node.as_mut() {
            node.handle_timeout(clock);
        }
        self.pump(origin);
        let sender = self.hosts[origin].id.clone();
        self.checker.check_due(&sender, now);
        if self.phase == Phase::Healing {
            return;
        }
        let mood = match self.phase {
            // Large messages may be turned away by small budgets, rightly: where all must arrive, all must fit.
            _ if self.must_be_small() => Mood::Mixed(TRIAL_PATIENCE),
            _ if self.swarm.faults.is_empty() => Mood::Easy,
            Phase::Trials => Mood::Mixed(TRIAL_PATIENCE),
            _ => Mood::Rough,
        };
        if origin == LEADER {
            self.send_again();
        }
        for datacenter in self.datacenters.clone() {
            self.send_to(origin, &datacenter, mood);
        }
    }

    /// All must arrive, and not everything fits.
    fn must_be_small(&self) -> bool {
        self.phase == Phase::Trials && self.is_cramped()
    }

    /// Not everything that is sent fits everywhere.
    fn is_cramped(&self) -> bool {
        self.swarm.tight
            || self.swarm.wild
            || self.swarm.bandwidth.is_some()
            || self.swarm.faults.contains(&Fault::Reload)
    }

    /// For a planted bug: what was not answered soon.
    fn send_again(&mut self) {
        let now = self.now;
        while let Some((_, ticket, batch)) = self.unanswered.pop_front_if(|(at, _, _)| *at <= now) {
            let clock = self.clock(LEADER);
            let host = &mut self.hosts[LEADER];
            if host.tickets.contains_key(&ticket)
                && let Some(node) = host.node.as_mut()
            {
                self.again.extend(node.submit(batch, clock));
            }
        }
    }

    fn send_to(&mut self, origin: NodeIx, datacenter: &Datacenter, mood: Mood) {
        let me = self.hosts[origin].id.clone();
        if self.hosts[origin].node.is_some() {
            let again = self.came.remove(&(origin, datacenter.clone())).filter(|_| !self.must_be_small());
            let drawn = self.app.draw(&self.topology, datacenter, &me, mood, again);
            self.submit(origin, datacenter, drawn);
        }
    }

    /// When the present trial began, or the one that is next to.
    fn trial_began(&self) -> Micros {
        let into = micros(self.now.since(self.healed_at)) % micros(TRIAL_EVERY);
        Micros(self.now.0 - into)
    }

    /// Hands a batch over to a node, and to the checker what may be expected of it.
    fn submit(&mut self, origin: NodeIx, datacenter: &Datacenter, drawn: Drawn) {
        let (now, clock) = (self.now, self.clock(origin));
        if self.planted == Some(Planted::SendersMute) && self.phase == Phase::Trials {
            return;
        }
        for message in &drawn.messages {
            self.trace_message(origin, message);
        }
        let host = &mut self.hosts[origin];
        let Some(node) = host.node.as_mut() else { return };
        let Drawn { mut batch, shared_bytes, messages } = drawn;
        if let Some(planted) = self.planted {
            planted.submitted(&mut batch);
        }
        let again =
            (origin == LEADER && self.planted == Some(Planted::RetryIsNewMessage)).then(|| batch.clone());
        let ticket = match node.submit(batch, clock) {
            Ok(ticket) => ticket,
            Err(Rejected { reason, .. }) => return self.turned_away(origin, datacenter, &reason),
        };
        self.unanswered.extend(again.map(|batch| (now + Duration::from_millis(500), ticket, batch)));
        let ids: Vec<u64> = messages.iter().map(|message| message.id).collect();
        if !ids.is_empty() {
            let undecided = ids.len();
            host.tickets
                .insert(ticket, OpenBatch { ids, undecided, datacenter: datacenter.clone(), shared_bytes });
        }
        let (sender, known) = (host.id.clone(), Arc::clone(&host.topology));
        let site = self.datacenters.binary_search(datacenter).expect("listed");
        for message in messages {
            if self.phase == Phase::Trials && message.must_arrive {
                self.must_arrive.insert(message.id);
                let leader = &self.hosts[LEADER];
                if origin == LEADER {
                    self.sent_in_trial.insert(message.id, (now, site));
                } else if message.destination == leader.id && self.proxies_of(leader.datacenter) > 0 {
                    // Without a proxy there an answer may have to wait for a dial.
                    let site = self.hosts[origin].datacenter;
                    self.sent_in_trial.insert(message.id, (now, site));
                }
            }
            let promise = Promise {
                sender: sender.clone(),
                at: now,
                expires: self.moment(origin, clock + message.deadline),
                lane: message.lane,
                kind: message.kind,
                slot: message.slot,
                oversized: message.bytes > self.message_bytes_least,
                unknown: known
                    .node(&message.destination)
                    .is_none_or(|spec| spec.datacenter != *datacenter || !spec.roles.member),
            };
            self.checker.submitted(message.id, message.destination, promise);
        }
        self.check_limits(origin);
        // What this batch superseded is told then.
        self.pump(origin);
        // The sender's own books may be wrong; what is open holds at least what its messages share.
        let host = &self.hosts[origin];
        let open = host.tickets.values().filter(|open| open.datacenter == *datacenter);
        let held: usize = open.map(|open| open.shared_bytes).sum();
        if held > host.limits.datacenter_budget_bytes {
            let text = format!("{held} bytes are kept for {datacenter}, whatever its budget's books say");
            self.checker.broken(text);
        }
    }

    /// A batch was not taken. While faults go on that is an answer like any other; once all is healed there is room for it.
    fn turned_away(&mut self, origin: NodeIx, datacenter: &Datacenter, reason: &RejectReason) {
        if self.phase != Phase::Trials {
            // Those that take nothing are given less from now on.
            for host in &self.hosts {
                self.checker.crowded(&host.id, self.now);
            }
            return;
        }
        let host = &self.hosts[origin];
        // Where all that stood there left, or moved, there is nobody to send to.
        let gone = !host.topology.has_datacenter(datacenter);
        if *reason == RejectReason::UnknownDatacenter && gone {
            return;
        }
        let open: usize = host
            .tickets
            .values()
            .filter(|open| open.datacenter == *datacenter)
            .map(|open| open.undecided)
            .sum();
        let text = format!(
            "{}: a batch for {datacenter} was turned away after healing, {reason:?}: {}; {open} messages for it are undecided",
            host.id,
            self.charged(origin).join(", ")
        );
        self.checker.broken(text);
    }

    /// What this sender's books say is kept, by name.
    fn charged(&self, origin: NodeIx) -> Vec<String> {
        let kept = self.hosts[origin].node.iter().flat_map(Node::kept);
        let of_sender = |limit| matches!(limit, Limit::Destination | Limit::Datacenter | Limit::Process);
        kept.filter(|kept| kept.bytes > 0 && of_sender(kept.limit))
            .map(|kept| format!("{} bytes {}", kept.bytes, inspection::place(kept.limit, kept.of)))
            .collect()
    }

    /// At the end everything is decided, and nothing is charged for any more; and something was sent for which that says something.
    pub(super) fn check_settled(&mut self) {
        // A run that is over before the first trial says nothing of that.
        if self.over_at < self.healed_at {
            return;
        }
        for origin in self.origins.clone() {
            let host = &self.hosts[origin];
            let open: usize = host.tickets.values().map(|open| open.undecided).sum();
            let charged = self.charged(origin);
            if open > 0 || !charged.is_empty() {
                let text = format!(
                    "{}: {open} messages are undecided at the end, and charged for are: {}",
                    host.id,
                    charged.join(", ")
                );
                self.checker.broken(text);
            }
        }
        if self.must_arrive.is_empty() {
            self.checker.broken("nothing was sent after healing".to_owned());
        }
    }

    fn proxies_of(&self, datacenter: usize) -> usize {
        self.topology.proxies_of(&self.datacenters[datacenter]).count()
    }
}
