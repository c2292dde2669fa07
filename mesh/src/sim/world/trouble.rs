//! What goes wrong, and how it is undone.

use super::streams::encoder;
use super::*;
use crate::proto::wire::RefusedReason;
use crate::stats::Stats;

/// With so many refusals for want of room of what it sent, the leader hears of one.
const REFUSALS_MIN: u64 = 20;
pub(super) const ROOM_REASONS: [RefusedReason; 2] = [RefusedReason::InboxFull, RefusedReason::QueueFull];

/// Of the reasons of a refusal on the wire.
pub(super) fn is_of_room(reason: u8) -> bool {
    RefusedReason::from_wire(reason).is_some_and(|reason| ROOM_REASONS.contains(&reason))
}

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
        self.touched.clear();
        let until = self.now + self.swarm.lasts.mul_f64(self.rng.f64()) + Duration::from_millis(1);
        self.strike(fault, host, until);
    }

    /// The leader dies and comes back soon, and what its old life sent to one of the proxies goes on only after the new
    /// life was heard by way of another.
    fn succession(&mut self) {
        let back = self.now + Duration::from_millis(self.rng.u64(1..500));
        let late = back + Duration::from_millis(self.rng.u64(300..2000));
        let proxies: Vec<NodeIx> = (0..self.hosts.len()).filter(|host| self.roles(*host).proxy).collect();
        if let Some(proxy) = self.rng.choice(proxies) {
            self.strike(Fault::Stop, proxy, late);
        }
        self.strike(Fault::Restart, LEADER, back);
    }

    /// One short fault that leaves the leader alive, and every member.
    pub(super) fn trial(&mut self) {
        let faults = self.swarm.faults.iter().copied().filter(|fault| *fault != Fault::Corrupt);
        let Some(fault) = self.rng.choice(faults.collect::<Vec<_>>()) else { return };
        let kills = matches!(fault, Fault::Restart | Fault::Drain | Fault::Flap | Fault::Leave);
        let hosts: Vec<NodeIx> =
            (1..self.hosts.len()).filter(|host| !kills || self.has_only(*host, Roles::PROXY)).collect();
        let Some(host) = self.rng.choice(hosts) else { return };
        let until = self.now + Duration::from_millis(self.rng.u64(50..600));
        self.strike(fault, host, until);
    }

    pub(super) fn strike(&mut self, fault: Fault, host: NodeIx, until: Micros) {
        self.note(&format!("fault {fault:?} {host}"));
        self.disturbed();
        self.touched.insert(self.hosts[host].datacenter);
        let runs = self.hosts[host].node.is_some() && !self.hosts[host].stopped;
        match fault {
            Fault::Reset => {
                if let Some(end) = self.any_end() {
                    self.effects.count(Effect::Fault(fault));
                    self.reset(end);
                }
            }
            Fault::Restart => {
                if runs {
                    self.effects.count(Effect::Fault(fault));
                    self.hosts[host].dark = self.rng.bool();
                    self.kill(host);
                    self.at(until, Event::Undo(Undo::Start(host)));
                }
            }
            Fault::Drain => self.drain(host),
            Fault::Flap => self.flap(host, until),
            Fault::Exodus => {
                let silently = self.rng.bool();
                self.effects.count(Effect::Fault(fault));
                for proxy in (1..self.hosts.len()).filter(|host| self.roles(*host).proxy).collect::<Vec<_>>()
                {
                    if silently || self.phase == Phase::Trials && !self.has_only(proxy, Roles::PROXY) {
                        self.strike(Fault::Stop, proxy, until);
                    } else {
                        self.strike(Fault::Restart, proxy, until);
                    }
                }
            }
            Fault::Stop => {
                if runs {
                    self.effects.count(Effect::Fault(fault));
                    self.hosts[host].stopped = true;
                    self.at(until, Event::Undo(Undo::Resume(host)));
                }
            }
            Fault::Lag => {
                self.touched.extend(0..self.datacenters.len());
                let moment = self.now + Duration::from_millis(self.rng.u64(1..1500));
                if self.hosts[LEADER].node.is_some() && !self.hosts[LEADER].stopped {
                    self.effects.count(Effect::Fault(fault));
                    self.hosts[LEADER].stopped = true;
                    self.at(until.min(moment), Event::Undo(Undo::Resume(LEADER)));
                }
            }
            Fault::Freeze => {
                if let Some(node) = self.hosts[host].node.as_mut() {
                    node.set_frozen(true);
                    self.hosts[host].frozen = true;
                    self.at(until, Event::Undo(Undo::Thaw(host)));
                }
            }
            Fault::Desync => {
                if let Some(end) = self.any_end()
                    && let Some(conn) = self.hosts[end.node].conns.get_mut(&end.conn)
                {
                    conn.encoder = encoder(conn.opened.as_ref());
                    self.effects.count(Effect::Fault(fault));
                    let other = self.wire.other(end).map_or(end.node, |other| other.node);
                    let sites = [end.node, other].map(|host| self.hosts[host].datacenter);
                    self.desynced.insert(end, sites);
                }
            }
            Fault::Corrupt => self.corrupt(),
            Fault::Deaf => {
                self.hosts[host].deaf = true;
                self.at(until, Event::Undo(Undo::Hear(host)));
            }
            Fault::Slow => {
                self.hosts[host].slow = true;
                self.at(self.now, Event::Sip { host, life: self.hosts[host].life });
                self.at(until, Event::Undo(Undo::Hasten(host)));
            }
            Fault::Cut => {
                let (from, to) =
                    (self.rng.usize(0..self.datacenters.len()), self.rng.usize(0..self.datacenters.len()));
                if from != to {
                    self.effects.count(Effect::Fault(fault));
                    self.touched.extend([from, to]);
                    let both = self.rng.bool();
                    self.cut_between(from, to, until);
                    if both {
                        self.cut_between(to, from, until);
                    }
                }
            }
            Fault::Part => {
                let mut holes = Vec::new();
                for other in (0..self.hosts.len()).filter(|other| *other != host) {
                    if self.rng.bool() {
                        self.touched.insert(self.hosts[other].datacenter);
                        let (there, back) = (Hole::Between(host, other), Hole::Between(other, host));
                        holes.extend(match self.rng.u8(0..3) {
                            0 => vec![there],
                            1 => vec![back],
                            _ => vec![there, back],
                        });
                    }
                }
                if !holes.is_empty() {
                    self.effects.count(Effect::Fault(fault));
                }
                self.cut(holes, until);
            }
            Fault::Stall => {
                if let Some(end) = self.any_end() {
                    self.cut(vec![Hole::Stream(end)], until);
                }
            }
            Fault::Leave => self.leave(host, until),
            Fault::Reload => self.reload(host),
        }
    }

    /// Something is done to somebody, or undone. What only its silence tells of may go on for longer, and what was damaged shows
    /// later.
    pub(super) fn disturbed(&mut self) {
        let telling = |fault: &Fault| !fault.is_silent() && *fault != Fault::Corrupt;
        if self.swarm.is_prompt() && !self.scripted && self.swarm.faults.iter().all(telling) {
            self.checker.disturbed(self.now);
        }
    }

    /// An end of an open stream.
    fn any_end(&mut self) -> Option<End> {
        let end = self.rng.choice(self.wire.ends())?;
        let other = self.wire.other(end).map_or(end.node, |other| other.node);
        self.touched.extend([self.hosts[end.node].datacenter, self.hosts[other].datacenter]);
        Some(end)
    }

    pub(super) fn cut(&mut self, holes: Vec<Hole>, until: Micros) {
        for hole in &holes {
            self.wire.cut(*hole);
        }
        self.at(until, Event::Undo(Undo::Mend(holes)));
    }

    /// Nothing passes from one datacenter to another.
    pub(super) fn cut_between(&mut self, from: usize, to: usize, until: Micros) {
        let of = |site: usize| {
            (0..self.hosts.len()).filter(|host| self.hosts[*host].datacenter == site).collect::<Vec<_>>()
        };
        let (from, to) = (of(from), of(to));
        let between = |from: &NodeIx| to.iter().map(|to| Hole::Between(*from, *to)).collect::<Vec<_>>();
        self.cut(from.iter().flat_map(between).collect(), until);
    }

    /// As after SIGTERM: peers are told, what is there is finished, and it comes back a while later.
    fn drain(&mut self, index: NodeIx) {
        let now = self.clock(index);
        let host = &mut self.hosts[index];
        let Some(node) = host.node.as_mut().filter(|_| !host.stopped) else { return };
        node.drain(now);
        self.effects.count(Effect::Fault(Fault::Drain));
        let (life, timeout) = (host.life, now + host.settings.drain_timeout);
        self.pump(index);
        self.at(self.now, Event::Undo(Undo::Close(index, life, timeout)));
    }

    /// A node that drains is done, or has had its time.
    fn finish_drain(&mut self, index: NodeIx, life: u64, timeout: Micros) {
        const LOOK_EVERY: Duration = Duration::from_millis(10);
        let now = self.clock(index);
        let host = &mut self.hosts[index];
        let Some(node) = host.node.as_mut().filter(|_| host.life == life) else { return };
        if host.stopped || now < timeout && !node.is_drained() {
            return self.at(self.now + LOOK_EVERY, Event::Undo(Undo::Close(index, life, timeout)));
        }
        node.close(now);
        let id = host.id.clone();
        self.checker.closing(&id);
        self.pump(index);
        self.checker.sender_closed(&id);
        self.kill(index);
        let back = self.now + Duration::from_millis(self.rng.u64(1..1000));
        self.at(back, Event::Undo(Undo::Start(index)));
    }

    fn flap(&mut self, host: NodeIx, until: Micros) {
        if self.hosts[host].node.is_some() && !self.hosts[host].stopped {
            self.effects.count(Effect::Fault(Fault::Flap));
            self.kill(host);
        }
        let back = self.now + Duration::from_millis(self.rng.u64(1..150));
        self.at(back, Event::Undo(Undo::Start(host)));
        let next = back + Duration::from_millis(self.rng.u64(1..500));
        if next < until {
            self.at(next, Event::Undo(Undo::Flap(host, until)));
        }
    }

    /// One bit of what is under way.
    fn corrupt(&mut self) {
        let travels = |event: &Event| matches!(event, Event::Arrive { cargo: Cargo::Bytes(bytes), .. } if !bytes.is_empty());
        let places: Vec<_> =
            self.agenda.all().filter(|(_, event)| travels(event)).map(|(place, _)| place).collect();
        let Some(Event::Arrive { to, cargo: Cargo::Bytes(bytes) }) =
            self.rng.choice(places).and_then(|place| self.agenda.get_mut(place))
        else {
            return;
        };
        self.damaged = true;
        self.effects.count(Effect::Fault(Fault::Corrupt));
        let mut changed = bytes.to_vec();
        let at = self.rng.usize(0..changed.len());
        changed[at] ^= 1 << self.rng.u8(0..8);
        *bytes = Bytes::from(changed);
        let to = *to;
        let from = self.wire.other(to).map_or(to.node, |from| from.node);
        self.touched.extend([self.hosts[from].datacenter, self.hosts[to.node].datacenter]);
    }

    pub(super) fn undo(&mut self, undo: Undo) {
        self.note(&format!("undo {undo:?}"));
        self.disturbed();
        match undo {
            Undo::Start(host) => {
                if self.hosts[host].node.is_none() {
                    self.start(host);
                }
            }
            Undo::Resume(host) => {
                self.hosts[host].stopped = false;
                self.hosts[host].resumed_at = self.now;
                for event in std::mem::take(&mut self.hosts[host].backlog) {
                    self.reach(event);
                }
            }
            Undo::Thaw(host) => {
                let host = &mut self.hosts[host];
                if let Some(node) = host.node.as_mut() {
                    host.frozen = false;
                    node.set_frozen(false);
                }
            }
            Undo::Hear(host) => {
                self.hosts[host].deaf = false;
                self.pump(host);
            }
            Undo::Hasten(host) => {
                self.hosts[host].slow = false;
                self.pump(host);
            }
            Undo::Mend(holes) => {
                for (to, cargo) in self.wire.mend(&holes) {
                    self.reach(Event::Arrive { to, cargo });
                }
            }
            Undo::Close(host, life, timeout) => self.finish_drain(host, life, timeout),
            Undo::Flap(host, until) => self.flap(host, until),
            Undo::Return(hosts) => self.come_back(&hosts),
        }
    }

    /// Both ends see the stream end, each in its time; what is under way is lost.
    pub(super) fn reset(&mut self, end: End) {
        let Some(peer) = self.wire.peer(end) else { return };
        for (from, to) in [(end, peer), (peer, end)] {
            self.wire.close(from);
            self.wire.lose(from);
            self.blocked.remove(&from);
            let at = self.now + self.delay(from.node, to.node);
            self.at(at, Event::Arrive { to, cargo: Cargo::Fin });
        }
        self.agenda.retain(|event| match event {
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
        let node = host.node.as_ref();
        let Some((stats, refused_beyond)) = node.map(|node| (node.stats(), node.refused_beyond())) else {
            return;
        };
        self.effects.count_many(Effect::Duplicate, stats.member.duplicates);
        self.effects.count_many(Effect::Skipped, stats.member.skipped);
        self.effects.count_many(Effect::ProxyFull, refused_beyond);
        let expected = |label: &str| {
            self.swarm.faults.contains(&Fault::Corrupt)
                || label == "history" && self.swarm.faults.contains(&Fault::Desync)
        };
        let errors = stats.protocol_errors.iter().filter(|(label, _)| !expected(label));
        // Of destinations that were taken out, and of numbers that a lie led members to.
        let ignored =
            if self.swarm.faults.contains(&Fault::Leave) || self.liar { 0 } else { stats.acks_ignored };
        if errors.map(|(_, count)| count).sum::<u64>() + ignored > 0 {
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
        // Who was taken out for a while: what others held of it they let go.
        let leaves = self.swarm.faults.contains(&Fault::Leave);
        let false_holds = stats.verdicts.get("false_hold").copied().unwrap_or(0);
        if false_holds > 0 && !liar && !leaves {
            self.checker
                .broken(format!("{false_holds} times nobody held what a proxy said, and nobody lied"));
        }
        let false_floors = stats.member.false_floors;
        if false_floors > 0 && !liar {
            self.checker.broken(format!("{false_floors} floors are said to be a lie, and nobody lied"));
        }
        if !liar {
            self.check_proxy(index);
        }
    }

    /// A proxy passes a run on or refuses it, and forgets none.
    fn check_proxy(&mut self, index: NodeIx) {
        let host = &self.hosts[index];
        let Some(node) = host.node.as_ref() else { return };
        let (proxy, queued_bytes) = (node.stats().proxy, node.status(self.clock(index)).proxy_queue_bytes);
        let known = proxy.forwarded + proxy.refused.values().sum::<u64>();
        if queued_bytes == 0 && proxy.runs != known {
            let text = format!("{}: {} runs came in, {known} were passed on or refused", host.id, proxy.runs);
            self.checker.broken(text);
        }
    }

    /// Whoever has no room for what the leader sent says so. Some of many refusals get lost with a link, and never all of them, unless
    /// all proxies are gone at once. Where lines fall silent all may come after the attempts timed out, and end none; and what a line
    /// held up until its sender had left the connection is refused to nobody.
    pub(super) fn check_refusals(&mut self, leader: &Stats) {
        if self.swarm.faults.contains(&Fault::Exodus) {
            return;
        }
        let said: u64 = self.hosts.iter().map(|host| host.refused_to_leader).sum();
        let heard = if self.swarm.is_silent() { self.refusals_heard } else { leader.attempts.refused };
        if said >= REFUSALS_MIN && heard == 0 && self.hosts[LEADER].life == 1 {
            self.checker.broken(format!("{said} refusals were said, and the leader heard of none"));
        }
    }

    pub(super) fn kill(&mut self, index: NodeIx) {
        self.hear(index, true);
        self.check_protocol(index);
        let dark = self.hosts[index].dark;
        for end in self.wire.ends().into_iter().filter(|end| end.node == index) {
            if dark {
                self.wire.close(end);
                self.blocked.remove(&end);
            } else {
                self.close(end);
            }
        }
        let host = &mut self.hosts[index];
        host.node = None;
        host.refused_to_leader = 0;
        host.conns.clear();
        host.tickets.clear();
        if self.origins.contains(&index) {
            let id = host.id.clone();
            self.checker.sender_died(&id);
        }
    }
}
